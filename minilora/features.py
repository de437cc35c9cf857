"""CLIP features of pictures for the detector, with and without LoRA.

    frozen_tokens  patch tokens of middle, frozen blocks: for the memory bank (PatchCore)
    text_patches   patch features of the value-value path: for the text map (CLIP Surgery)
    image          feature of the whole image, from CLS

Pictures much longer than wide are outside what CLIP was trained on.  They are cut into overlapping
strips, and the patches of the strips are joined.
Symbols: B pictures of H x W pixels, P patches, W width, E embedding.
Left out: what the features are compared with (anomaly_map.py, memory_bank.py).
"""
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from minilora.attention import MultiHeadAttention, fused_attention
from minilora.data.images import MAX_ASPECT, cut_strips, normalise, strip_bounds
from minilora.lora import disable_lora, lora_layers
from minilora.memory_bank import patch_descriptors
from minilora.vit import VisionTransformer


class Features(NamedTuple):
    """CLIP features of B pictures of one size."""
    frozen_tokens: Tensor               # (B, P, states * W), length one
    text_patches: Tensor                # (B, P, E), comparable with text features
    image: Tensor                       # (B, E)
    size: tuple[int, int]               # (H, W) in pixels


def default_memory_states(layers: int, first: int) -> tuple[int, ...]:
    """Hidden states for the memory bank: at half and three quarters of the depth, at most `first`.

    Hidden state n is the input of block n; `first` is the first block with LoRA, counted from 0.
    """
    return tuple(sorted({min(max(1, layers // 2), first), min(-(-3 * layers // 4), first)}))


def extract_features(visual: VisionTransformer, pixels: Tensor, memory_states: tuple[int, ...],
                     n_adapted_blocks: int, lora: bool = True,
                     precision: str = "float32") -> Features:
    """Features of pictures (B, 3, H, W) in [0, 1], in float32.

    memory_states: hidden states for frozen_tokens;  n_adapted_blocks: how many of the last blocks
    the value-value path uses;  lora: with LoRA;  precision: the tower's dtype, by torch's name.
    """
    if max(pixels.shape[-2:]) > MAX_ASPECT * min(pixels.shape[-2:]):
        strips = [extract_features(visual, strip, memory_states, n_adapted_blocks, lora, precision)
                  for strip in cut_strips(pixels, visual.patch)]
        return join_strips(strips, pixels.shape[-2:], visual.patch)
    device, reduced = visual.proj.device, precision != "float32"
    dtype = getattr(torch, precision) if reduced else None
    with (nullcontext() if lora else disable_lora(visual),
          torch.autocast(device.type, dtype, enabled=reduced)):
        x = visual.embed(normalise(pixels.to(device)))
        hidden, patches, image = both_paths(visual, x, n_adapted_blocks)
        frozen = hidden
        # An adapter from PEFT may have LoRA in the blocks before the memory states, too
        if lora and lora_layers(visual.blocks[:max(memory_states, default=0)]):
            with disable_lora(visual):
                frozen = visual.hidden_states(x, max(memory_states))
    return Features(patch_descriptors(frozen, memory_states), patches.float(), image.float(),
                    pixels.shape[-2:])


def both_paths(visual: VisionTransformer, x: Tensor,
               n_blocks: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """The ordinary and the value-value path in one pass, so that v is computed once for both.

    x: (B, L, W) from `embed`;  n_blocks: how many of the last blocks the value-value path uses.
    Returns hidden states 0 to the input of the last block, `value_value` of them (B, P, E), and the
    feature of the whole image (B, E).  Both are exactly those of the separate methods of vit.py.
    """
    first = len(visual.blocks) - n_blocks
    hidden = visual.hidden_states(x, first)
    y = state = hidden[-1]                                      # where the second path branches off
    for block in visual.blocks[first:]:
        last = block is visual.blocks[-1]                       # of its output, only CLS is used
        tokens = block.ln_1(state)
        ordinary, between_values = both_attentions(
            block.attn, tokens[:, :1].contiguous() if last else tokens, tokens)
        state = (state[:, :1] if last else state) + ordinary    # as in Block.forward
        state = state + block.mlp(block.ln_2(state))
        y = y + between_values                                  # as in value_value
        hidden.append(state)
    return hidden[:-1], visual.ln_post(y[:, 1:]) @ visual.proj, visual.pool(state)


def both_attentions(attn: MultiHeadAttention, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Ordinary attention of queries (B, n, W), and value-value attention of tokens x (B, L, W)."""
    q, k, v = attn.split(attn.q(query)), attn.split(attn.k(x)), attn.split(attn.v(x))
    ordinary, between_values = fused_attention(q, k, v), fused_attention(v, v, v)
    return attn.out(attn.join(ordinary)), attn.out(attn.join(between_values))


def join_strips(strips: list[Features], size: tuple[int, int], patch: int) -> Features:
    """Features of a long picture of `size` (H, W) from those of its strips (`cut_strips`).

    Patches are joined; the feature of the whole image is the mean over the strips.
    """
    axis = 1 if size[0] > size[1] else 2                    # of a grid (B, rows, columns, ..)

    def join(parts):                                        # (B, P, ..) of each strip
        grids = [part.unflatten(1, (strip.size[0] // patch, -1))
                 for part, strip in zip(parts, strips)]
        kept = [grid.narrow(axis, low, high - low)
                for grid, (*_, low, high) in zip(grids, strip_bounds(size, patch))]     # no overlap
        return torch.cat(kept, axis).flatten(1, 2)          # (B, P, ..) of the whole picture
    tokens, patches, images, _ = zip(*strips)
    return Features(join(tokens), join(patches), torch.stack(images).mean(0), size)


def demo() -> None:
    """Shapes for a usual and for a very long picture, in an untrained toy tower."""
    from minilora.clip import CLIP, CLIPConfig
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=4, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(
                               torch.Generator().manual_seed(0))
    states = default_memory_states(layers=4, first=3)
    print(f"memory states {states} of 4 blocks, the last with LoRA")
    for size in ((64, 96), (64, 640)):
        with torch.no_grad():
            features = extract_features(clip.visual, torch.rand(1, 3, *size), states, 1)
        strips = len(strip_bounds(size, 16))
        print(f"{size[0]} x {size[1]} pixels in {strips} strip{'s' * (strips > 1)}: " + ", ".join(
            f"{name} {tuple(value.shape)}" for name, value in features._asdict().items()
            if name != "size"))


if __name__ == "__main__":
    demo()
