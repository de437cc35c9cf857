"""The image tower: a vision transformer that gives one vector per picture, or one per patch.

Claim: a picture is cut into patches, each patch becomes a token, a learned CLS token collects what
the whole picture says; the patch tokens left behind still know what is where.

    V. Dosovitskiy et al. 2021, "An image is worth 16x16 words", eqs. 1-4.
    C. Radford et al. 2021, "Learning transferable visual models ..." (CLIP), section 2.4.
    S. Li et al. 2023, "CLIP Surgery" (value-value attention, dual paths); Zhou et al. 2024,
       "AnomalyCLIP", calls the same path DPAM and uses it for defects.

Symbols: B images, R resolution, G = R / patch, P patches (G^2 of a square), W width, E embedding;
blocks count from 0, as in the
state dict; hidden state n enters block n, and the last one leaves the last block.
Left out: the ResNet towers of C (clip_resnet.py); S's second half, which removes from the patch scores
what all texts have in common.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.attention import Block


def value_value_blocks(layers):
    """How many of so many blocks the value-value path takes by default: the last third."""
    return max(1, layers // 3)


class VisionTransformer(nn.Module):
    """CLIP's ViT.  Features are returned as they are, not normalised to length one."""

    def __init__(self, resolution, patch, width, layers, embed):
        super().__init__()
        self.patch, self.grid = patch, resolution // patch
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads=width // 64) for _ in range(layers))
        self.last = value_value_blocks(layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator=None):
        """Draw all weights afresh, from `generator` if given.

        Differs from OpenAI's code: it leaves kernel and image blocks to torch's defaults; here the
        kernel keeps the variance of its input and the blocks start like those of the text tower.
        """
        width = self.proj.shape[0]
        self.conv1.weight.normal_(0, self.conv1.weight[0].numel() ** -0.5, generator=generator)
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            parameter.normal_(0, width ** -0.5, generator=generator)
        for block in self.blocks:
            block.initialise(len(self.blocks), generator)
        self.ln_pre.reset_parameters()
        self.ln_post.reset_parameters()

    def embed(self, pixels):
        """Patches, CLS and positions: what enters the first block.

        pixels: (B, 3, H, W) floating, normalised with CLIP's mean and std; both sides any multiple
        of the patch.  Returns (B, 1+P, W), CLS first.  Raises ValueError for another shape or dtype.
        """
        check_pixels(pixels, self.patch)
        x = self.conv1(pixels)                                   # (B, W, rows, columns)
        positions = self.positions(*x.shape[-2:])                # (1+P, W)
        x = x.flatten(2).transpose(1, 2)                         # (B, P, W), row by row
        cls = self.class_embedding.expand(len(x), 1, -1)         # (B, 1, W)
        x = torch.cat([cls, x], dim=1) + positions               # (B, 1+P, W)   V eq. 1
        return self.ln_pre(x)                                    # C section 2.4: not in V

    def positions(self, rows, columns):
        """The position table for so many patches, (1+P, W).

        At the native grid this is the trained table, bit for bit; at any other its patch rows are
        resized bicubically, as if they were a picture of W channels.  CLS always keeps its own row.
        """
        table = self.positional_embedding
        if rows == columns == self.grid:
            return table
        picture = table[1:].T.unflatten(1, (self.grid, self.grid))[None]      # (1, W, G, G)
        resized = F.interpolate(picture, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], resized[0].flatten(1).T])   # (1+P, W)

    def hidden_states(self, x, count=None):
        """All blocks.  x: (B, L, W) from `embed`, or any subset of its tokens with CLS first.

        Returns a list of tensors (B, L, W): state 0 is x, state n + 1 leaves block n.
        count: stop after so many blocks.
        """
        states = [x]
        for block in self.blocks[:count]:
            states.append(block(states[-1]))                     # V eqs. 2, 3
        return states

    def pool(self, x):
        """The picture's vector from the last block's output.  x: (B, L, W) -> (B, E)."""
        return self.ln_post(x[:, 0]) @ self.proj                 # V eq. 4, then C's projection

    def value_value(self, hidden, last=None):
        """Second path (S): patch features that can be compared with text features.

        hidden: the list of `hidden_states`, of which it needs what enters each of the `last` blocks;
        last: how many of the last blocks take part, by default the last third.  Returns
        (B, L-1, E).  Raises ValueError for a number out of range.
        The path leaves the ordinary one before those blocks; in each of them it adds value-value
        attention of the *ordinary* path's state and skips the feed-forward, which by S's
        measurements drags patches away from what they show.
        """
        layers = len(self.blocks)
        last = self.last if last is None else last
        if not 1 <= last <= layers:
            raise ValueError(f"value-value path: expected last from 1 to {layers} blocks, found "
                             f"{last}; it says how many of the last blocks take part")
        y = hidden[layers - last]                                # (B, L, W)
        for block, state in zip(self.blocks[layers - last:], hidden[layers - last:]):
            y = y + block.attn.value_value(block.ln_1(state))    # state n enters block n
        return self.ln_post(y[:, 1:]) @ self.proj                # (B, L-1, E): CLS is left behind

    def encode_image(self, pixels):
        """One vector per picture.  pixels: (B, 3, R, R) -> (B, E)."""
        x = self.embed(pixels)
        for block in self.blocks[:-1]:
            x = block(x)                                         # V eqs. 2, 3; no state is kept
        return self.pool(self.blocks[-1].cls_only(x))         # CLS is all that is looked at

    def patch_tokens(self, pixels, blocks):
        """Patch tokens that leave chosen blocks, ordinary path, in the order asked for.

        pixels: (B, 3, R, R); blocks: numbers counted from 0.  Returns a list of (B, P, W).
        Raises ValueError for a number out of range.
        """
        wrong = [n for n in blocks if not 0 <= n < len(self.blocks)]
        if wrong:
            raise ValueError(f"patch_tokens: expected blocks from 0 to {len(self.blocks) - 1}, "
                             f"found {wrong}; blocks are counted from 0")
        hidden = self.hidden_states(self.embed(pixels))
        return [hidden[n + 1][:, 1:] for n in blocks]            # (B, P, W) each

    def text_patches(self, pixels):
        """Patches in the texts' space, by the value-value path.  (B, 3, R, R) -> (B, P, E)."""
        entering = self.hidden_states(self.embed(pixels), len(self.blocks) - 1)
        return self.value_value(entering)


def check_pixels(pixels, patch):
    """Raise ValueError unless pixels are floating, (B, 3, H, W), both multiples of the patch."""
    found = f"found {tuple(pixels.shape)} {pixels.dtype}"
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels: expected (B, 3, R, R), {found}; add a batch axis with "
                         "pixels[None] and turn grey pictures into RGB")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels: expected floating point, {found}; divide by 255 and normalise "
                         "first")
    height, width = pixels.shape[-2:]
    if height % patch or width % patch or not height * width:
        near = " x ".join(str(max(patch, round(side / patch) * patch)) for side in (height, width))
        raise ValueError(f"pixels: expected sides that are multiples of the patch ({patch}), "
                         f"{found}; resize the picture, for example to {near}")


def demo():
    generator = torch.Generator().manual_seed(0)
    vit = VisionTransformer(resolution=64, patch=16, width=128, layers=6, embed=32)
    vit.initialise(generator)
    count = sum(p.numel() for p in vit.parameters())
    print(f"a fresh ViT, patch 16, width 128, 6 layers: {count:,} parameters")
    for resolution in (64, 96):
        pixels = torch.randn(2, 3, resolution, resolution, generator=generator)
        with torch.no_grad():
            x = vit.embed(pixels)
            hidden = vit.hidden_states(x)
        print(f"{resolution} px: pixels {tuple(pixels.shape)} -> tokens {tuple(x.shape)} "
              f"-> CLS {tuple(vit.pool(hidden[-1]).shape)}, "
              f"text-aligned patches {tuple(vit.value_value(hidden).shape)}")
    kept = torch.cat([x[:, :1], x[:, 1::2]], dim=1)              # CLS and every second patch
    print(f"half the patches dropped, as in pretraining: {tuple(kept.shape)} -> "
          f"CLS {tuple(vit.pool(vit.hidden_states(kept)[-1]).shape)}")
    same = vit.positions(4, 4) is vit.positional_embedding
    print(f"positions at the native 4 x 4 grid are the trained table itself: {same}")


if __name__ == "__main__":
    demo()
