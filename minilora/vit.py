"""The image tower: a vision transformer that gives one vector per picture, or one per patch.

Claim: the picture is cut into patches, and each patch becomes a token. A learned CLS token collects
what the whole picture shows; the patch tokens keep what each place shows.

    V. Dosovitskiy et al. 2021, "An image is worth 16x16 words", eqs. 1-4.
    C. Radford et al. 2021, "Learning transferable visual models ..." (CLIP), section 2.4.
    S. Li et al. 2023, "CLIP Surgery" (value-value attention, dual paths); Zhou et al. 2024,
       "AnomalyCLIP", calls the same path DPAM and uses it for defects.
    Authors' code: C https://github.com/openai/CLIP (clip/model.py), S
       https://github.com/xmed-lab/CLIP_Surgery and https://github.com/zqhang/AnomalyCLIP

Symbols: B images, R resolution, G = R / patch, P patches (G^2 for a square), W width, E embedding;
(B, 3, H, W) is a batch of pictures of height H and width W. Blocks count from 0, as in the state
dict. Hidden state n enters block n; the last hidden state leaves the last block.
Left out: CLIP's ResNet towers (clip_resnet.py); feature surgery, the second part of S, which
removes from the patch scores what all texts have in common.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.attention import ACTIVATIONS, Block
from minilora.io.demos import run_demo


def default_value_value_blocks(layers: int) -> int:
    """How many of a tower's `layers` blocks the value-value path uses by default: a third."""
    return max(1, layers // 3)


class VisionTransformer(nn.Module):
    """CLIP's ViT.  Features are returned as they are, not normalised to length one."""

    def __init__(self, resolution: int, patch: int, width: int, layers: int, embed: int,
                 activation: str = "quick_gelu", head_width: int = 64) -> None:
        super().__init__()
        self.patch, self.grid = patch, resolution // patch
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, width // head_width, ACTIVATIONS[activation])
                                    for _ in range(layers))
        self.n_value_value_blocks = default_value_value_blocks(layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights, from `generator` if given.

        Differs: OpenAI's code leaves conv1 and the image blocks to torch's defaults.  Here conv1
        keeps the variance of its input, and the blocks start as in the text tower.
        """
        width = self.proj.shape[0]
        self.conv1.weight.normal_(0, self.conv1.weight[0].numel() ** -0.5, generator=generator)
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            parameter.normal_(0, width ** -0.5, generator=generator)
        for block in self.blocks:
            block.initialise(len(self.blocks), generator)
        self.ln_pre.reset_parameters()
        self.ln_post.reset_parameters()

    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens that enter the first block: patches, CLS, and their positions.

        pixels: (B, 3, H, W) floating, normalised with CLIP's mean and std; each side a multiple of
        the patch.  Returns (B, 1+P, W), CLS first.  Raises ValueError for another shape or dtype.
        """
        check_pixels(pixels, self.patch)
        x = self.conv1(pixels)                                   # (B, W, rows, columns)
        positions = self.positions(*x.shape[-2:])                # (1+P, W)
        x = x.flatten(2).transpose(1, 2)                         # (B, P, W), row by row
        cls = self.class_embedding.expand(x.shape[0], 1, -1)     # (B, 1, W)
        x = torch.cat([cls, x], dim=1) + positions               # (B, 1+P, W)   V eq. 1
        return self.ln_pre(x)                                    # C section 2.4: not in V

    def positions(self, rows: int, columns: int) -> Tensor:
        """Positional embeddings for a grid of rows x columns patches, (1+P, W).

        For the grid used in training this is the trained table itself.  For any other grid the
        table's patch rows are resized bicubically, like a picture with W channels; CLS keeps its
        row.
        """
        table = self.positional_embedding
        if rows == columns == self.grid:
            return table
        picture = table[1:].T.unflatten(1, (self.grid, self.grid))[None]      # (1, W, G, G)
        resized = F.interpolate(picture, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], resized[0].flatten(1).T])   # (1+P, W)

    def hidden_states(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        """All hidden states, each (B, L, W): state 0 is x, state n + 1 leaves block n.

        x: (B, L, W) from `embed`, or a subset of its tokens with CLS first.
        count: run only the first `count` blocks.
        """
        states = [x]
        for block in self.blocks[:count]:
            states.append(block(states[-1]))                     # V eqs. 2, 3
        return states

    def pool(self, x: Tensor) -> Tensor:
        """The picture's vector from the output of the last block: (B, L, W) -> (B, E)."""
        return self.ln_post(x[:, 0]) @ self.proj                 # V eq. 4, then C's projection

    def value_value(self, hidden: Sequence[Tensor | None], n_blocks: int | None = None) -> Tensor:
        """Patch features that can be compared with text features, by a second path (S).

        The path branches off before the last `n_blocks` blocks (default: a third of all).  Each of
        them adds value-value attention of the *ordinary* path's state.  The feed-forward layer is
        skipped: S measured that it moves patch features away from what the patches show.
        hidden: from `hidden_states`; only the states that enter these blocks are needed.
        Returns (B, L-1, E), without CLS.  Raises ValueError if `n_blocks` is out of range.
        """
        layers = len(self.blocks)
        n_blocks = self.n_value_value_blocks if n_blocks is None else n_blocks
        if not 1 <= n_blocks <= layers:
            raise ValueError(f"value-value path: expected 1 to {layers} blocks, found {n_blocks}; "
                             "n_blocks is how many of the last blocks take part")
        start = layers - n_blocks
        y = hidden[start]                                        # (B, L, W)
        for block, state in zip(self.blocks[start:], hidden[start:]):
            y = y + block.attn.value_value(block.ln_1(state))    # state n enters block n
        return self.ln_post(y[:, 1:]) @ self.proj                # (B, L-1, E)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """One vector per picture: (B, 3, H, W) -> (B, E)."""
        x = self.embed(pixels)
        for block in self.blocks[:-1]:
            x = block(x)                                         # V eqs. 2, 3; no state is kept
        return self.pool(self.blocks[-1].cls_only(x))            # the vector needs only CLS

    def patch_tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch tokens that leave the given blocks (ordinary path), (B, P, W) each, in that order.

        pixels: (B, 3, H, W).  Raises ValueError for a block number out of range.
        """
        wrong = [n for n in blocks if not 0 <= n < len(self.blocks)]
        if wrong:
            raise ValueError(f"patch_tokens: expected blocks from 0 to {len(self.blocks) - 1}, "
                             f"found {wrong}; blocks are counted from 0")
        hidden = self.hidden_states(self.embed(pixels))
        return [hidden[n + 1][:, 1:] for n in blocks]            # (B, P, W) each

    def text_patches(self, pixels: Tensor) -> Tensor:
        """Patch features in the space of the texts, by `value_value`: (B, 3, H, W) -> (B, P, E)."""
        entering = self.hidden_states(self.embed(pixels), len(self.blocks) - 1)
        return self.value_value(entering)


def check_pixels(pixels: Tensor, patch: int) -> None:
    """Raise ValueError unless pixels are floating, (B, 3, H, W), both sides multiples of patch."""
    found = f"found {tuple(pixels.shape)} {pixels.dtype}"
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels: expected (B, 3, H, W), {found}; add a batch axis with "
                         "pixels[None] and convert grey pictures to RGB")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels: expected floating point, {found}; divide by 255 and normalise "
                         "first")
    height, width = pixels.shape[-2:]
    if height % patch or width % patch or not height * width:
        near = " x ".join(str(max(patch, round(side / patch) * patch)) for side in (height, width))
        raise ValueError(f"pixels: expected sides that are multiples of the patch ({patch}), "
                         f"{found}; resize the picture, for example to {near}")


def demo() -> None:
    generator = torch.Generator().manual_seed(0)
    vit = VisionTransformer(resolution=64, patch=16, width=128, layers=6, embed=32)
    vit.initialise(generator)
    count = sum(p.numel() for p in vit.parameters())
    print(f"a new ViT, patch 16, width 128, 6 layers: {count:,} parameters")
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
    print(f"positions for the 4 x 4 grid of the training are the trained table itself: {same}")


# Exercise 1: How many tokens does demo()'s tower make of a picture of 80 x 48 pixels?
# Exercise 2: Exchange two patches of a picture. Does the result of encode_image change?
#             Does it change if vit.positional_embedding is zero?
if __name__ == "__main__":
    run_demo("vit", demo)
