"""Patches, masks and positions: what a masked autoencoder does before and after the transformer.

    K. He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.

    patchify            picture to patches, the target of the reconstruction; unpatchify inverts it
    random_masking      every picture gets a mask of its own, uniform, without replacement
    sincos_positions    fixed two-dimensional sine-cosine position embedding

Symbols: B images, R resolution, p patch, G = R / p, P = G² patches, V visible patches, W width.
Left out: learned position embeddings; masks that hide blocks of neighbouring patches.
"""
import math

import torch
from torch import Tensor


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """(B, 3, R, R) -> (B, P, p * p * 3): patches row by row, inside a patch pixel by pixel, RGB."""
    grid = pixels.shape[-1] // patch
    x = pixels.unflatten(3, (grid, patch)).unflatten(2, (grid, patch))     # (B, 3, G, p, G, p)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)            # (B, P, p * p * 3)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`: (B, P, p * p * 3) -> (B, 3, R, R)."""
    grid = math.isqrt(patches.shape[1])
    x = patches.unflatten(1, (grid, grid)).unflatten(3, (patch, patch, 3))  # (B, G, G, p, p, 3)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)             # (B, 3, R, R)


def random_masking(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Choose the visible patches: those with the lowest noise.

    noise: (B, P) uniform random numbers;  ratio: share of hidden patches.
    Returns (indices of the visible patches (B, V), hidden (B, P) bool); V = P (1 - ratio), rounded
    down, at least 1.
    """
    keep = max(1, int(noise.shape[1] * (1 - ratio)))
    visible = noise.argsort(dim=1)[:, :keep]                                # (B, V)
    hidden = torch.ones(noise.shape, dtype=torch.bool, device=noise.device)
    return visible, hidden.scatter(1, visible, False)


def sincos_positions(width: int, grid: int) -> Tensor:
    """Position embedding, (1 + G * G, W): sine and cosine of the column in the first half of the
    channels, of the row in the second half; zeros for CLS."""
    omega = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * omega       # (G, W / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)                  # (G, W / 2)
    columns, rows = waves.repeat(grid, 1), waves.repeat_interleave(grid, 0)
    table = torch.cat([columns, rows], dim=1)                               # (G * G, W)
    return torch.cat([torch.zeros(1, width), table.float()])


def demo() -> None:
    """Patches and a mask of a small picture."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 32, 32, generator=generator)
    patches = patchify(pixels, 8)
    print(f"picture {tuple(pixels.shape)} -> patches {tuple(patches.shape)}, and back without "
          f"loss: {torch.equal(unpatchify(patches, 8), pixels)}")
    visible, hidden = random_masking(torch.rand(1, 16, generator=generator), 0.75)
    print(f"visible patches {visible[0].tolist()}; the mask, # is hidden:")
    for row in hidden[0].view(4, 4).tolist():
        print("   ", "".join("#" if h else "." for h in row))
    table = sincos_positions(16, 4)[1:]
    similarity = table @ table[5]
    print("most similar positions to patch 5:", similarity.topk(5).indices.sort().values.tolist())


if __name__ == "__main__":
    demo()
