"""Augmentation of good pictures: random changes after which a good picture is still a good one.

    rotations, flips       the symmetries of the frame; exact, since pixels only change places
    angle, shift           a small rotation and translation, bilinear
    brightness, contrast,
    gamma                  a small change of the light

Claim: all randomness comes from the generator, so the same generator state gives the same pictures.

Symbols: B pictures of H x W pixels.
Left out: crops, blur, noise, changes of hue.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

GRID_SAMPLE_PADDING = {"reflect": "reflection", "replicate": "border"}  # our name: torch's


def _uniform(generator, shape, limit):
    """Random numbers of this shape from [-limit, limit]."""
    return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * limit


def augment(pixels: Tensor, generator: torch.Generator, rotations: bool = True, flips: bool = True,
            angle: float = 5.0, shift: float = 0.02, padding: str = "reflect",
            brightness: float = 0.1, contrast: float = 0.1, gamma: float = 0.1) -> Tensor:
    """Rotate, shift and change the light of each picture of a batch at random.

    pixels: (B, 3, H, W) in [0, 1].
    rotations: by 0, 90, 180 or 270 degrees (by 0 or 180 if H ≠ W);  flips: left-right.
    angle: additional rotation of at most so many degrees;  shift: at most this share of the sides.
    padding: what fills pixels from outside the frame, "reflect" or "replicate".
    brightness is added, contrast multiplies the distance from the picture's mean, gamma is an
    exponent e^u; each u is uniform in [-limit, limit].  0 or False switches a step off.
    Returns (B, 3, H, W) in [0, 1].  Raises ValueError for another shape or padding.
    """
    if pixels.ndim != 4:
        raise ValueError(f"augment takes a batch (B, 3, H, W), found shape {tuple(pixels.shape)}; "
                         "add the batch dimension with pixels[None]")
    if padding not in GRID_SAMPLE_PADDING:
        raise ValueError(f"unknown padding {padding!r}; expected one of "
                         f"{', '.join(GRID_SAMPLE_PADDING)}")
    count, step = len(pixels), 1 if pixels.shape[-1] == pixels.shape[-2] else 2
    if not count:
        return pixels.clone()
    symmetry = torch.randint(8, (count,), generator=generator, device=generator.device).tolist()
    pixels = torch.stack([_rotate_and_flip(x, step * (s % 4) if rotations else 0, flips and s >= 4)
                          for x, s in zip(pixels, symmetry)])
    if angle or shift:
        pixels = _rotate_and_shift(pixels, _uniform(generator, count, math.radians(angle)),
                                   _uniform(generator, (count, 2), shift),
                                   GRID_SAMPLE_PADDING[padding])
    added, factor, power = (_uniform(generator, (count, 1, 1, 1), limit).to(pixels.device)
                            for limit in (brightness, contrast, gamma))
    mean = pixels.mean((1, 2, 3), keepdim=True)                             # (B, 1, 1, 1)
    pixels = (pixels * (1 + factor) + (added - mean * factor)).clamp(0, 1)
    return pixels ** power.exp()


def _rotate_and_flip(picture, quarters, flip):
    """A rotation by `quarters` times 90 degrees, then a left-right flip; both are exact."""
    picture = torch.rot90(picture, quarters, (1, 2))
    return picture.flip(2) if flip else picture


def _rotate_and_shift(pixels, angle, shift, padding):
    """Rotation by angle (B,) in radians and shift (B, 2) as a share of the sides, bilinear."""
    cos, sin, aspect = angle.cos(), angle.sin(), pixels.shape[-2] / pixels.shape[-1]
    theta = torch.stack([cos, -sin * aspect, 2 * shift[:, 0],
                         sin / aspect, cos, 2 * shift[:, 1]], 1)                        # (B, 6)
    theta = theta.view(-1, 2, 3).to(pixels)     # output place -> input place, both in [-1, 1]
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)              # (B, H, W, 2)
    return F.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)


def demo() -> None:
    """What each step does to one picture, and that a seed determines the result."""
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    off = {"rotations": False, "flips": False, "angle": 0, "shift": 0, "brightness": 0,
           "contrast": 0, "gamma": 0}
    steps = {"nothing": {}, "rotations": {"rotations": True}, "angle": {"angle": 5.0},
             "brightness": {"brightness": 0.1}, "contrast": {"contrast": 0.1},
             "gamma": {"gamma": 0.1}}
    for name, options in steps.items():
        new = augment(picture, torch.Generator().manual_seed(1), **off | options)
        kept = torch.equal(new.flatten().sort().values, picture.flatten().sort().values)
        print(f"{name:10s} mean {new.mean():.3f}, standard deviation {new.std():.3f}, "
              f"the same pixel values: {kept}")
    again = [augment(picture, torch.Generator().manual_seed(1)) for _ in range(2)]
    print("augmented twice with one seed, equal:", torch.equal(*again))


if __name__ == "__main__":
    demo()
