"""Surfaces of drawn parts: a random texture between a dark and a light colour.

A material has a scalar field (R, R), mostly within [-1, 1], that mixes its dark and its light
colour.  Fields are sums of value noise (a coarse random grid, smoothly enlarged), gratings and
ridges, after Perlin, "An image synthesizer", SIGGRAPH 1985.  `Material` holds what is drawn once
per product (colours, scale, contrast, grain); the random field differs from picture to picture.

Left out: lighting (scenes/scene.py), physically based reflection.
Symbols: R resolution;  g generator, s scale (cells across the picture), y, x pixel coordinates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.synthetic.sampling import choose, uniform

COLOURS = {
    "red":        (0.75, 0.12, 0.12), "green":     (0.15, 0.55, 0.22),
    "blue":       (0.14, 0.27, 0.70), "yellow":    (0.88, 0.76, 0.18),
    "orange":     (0.90, 0.48, 0.12), "brown":     (0.45, 0.28, 0.15),
    "black":      (0.09, 0.09, 0.10), "white":     (0.92, 0.92, 0.90),
    "grey":       (0.50, 0.50, 0.50), "dark grey": (0.26, 0.26, 0.27),
    "light grey": (0.74, 0.74, 0.73), "beige":     (0.80, 0.70, 0.54),
    "purple":     (0.45, 0.20, 0.55), "pink":      (0.88, 0.52, 0.62),
    "teal":       (0.12, 0.50, 0.52), "golden":    (0.78, 0.60, 0.30),
}


@lru_cache(maxsize=8)
def pixel_grid(resolution: int) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixel centres, y down and x right, each (R, R) in (-1, 1)."""
    line = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    return torch.meshgrid(line, line, indexing="ij")


def white_noise(generator: torch.Generator, resolution: int) -> Tensor:
    """Independent normal noise in every pixel, (R, R), standard deviation 1/2."""
    return 0.5 * torch.randn(resolution, resolution, generator=generator)


def value_noise(generator: torch.Generator, resolution: int, rows: int,
                cols: int | None = None) -> Tensor:
    """Smooth value noise with `rows` x `cols` cells, (R, R), mostly within [-1, 1]."""
    cols = cols or rows
    coarse = torch.rand(1, 1, rows + 2, cols + 2, generator=generator) * 2 - 1
    fine = F.interpolate(coarse, (resolution, resolution), mode="bicubic", align_corners=True)
    return 1.3 * fine[0, 0]


def fractal_noise(generator: torch.Generator, resolution: int, cells: int, octaves: int = 4,
                  gain: float = 0.55) -> Tensor:
    """A sum of value noise, (R, R); each octave: twice the frequency, `gain` times the strength."""
    total, strength = torch.zeros(resolution, resolution), 1.0
    for octave in range(octaves):
        size = min(cells * 2**octave, resolution // 2)
        total += strength * value_noise(generator, resolution, size)
        strength *= gain
    return total / 1.6


@dataclass(frozen=True)
class Material:
    """What is drawn once per product."""

    name: str                           # a key of MATERIALS
    colour: str                         # a key of COLOURS
    dark: tuple[float, ...]             # RGB in [0, 1]
    light: tuple[float, ...]
    scale: float                        # cells across the picture
    contrast: float                     # half the distance between dark and light
    grain: float                        # strength of white noise on top of the field
    upright: bool                       # False: the field is transposed


def grating(generator: torch.Generator, coordinate: Tensor, cycles: float) -> Tensor:
    """A sine wave along a coordinate with random phase, values in [-1, 1]."""
    return torch.sin(pi * cycles * coordinate + uniform(generator, 0, 2 * pi))


def brushed(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Brushed metal: fine horizontal lines."""
    lines = value_noise(g, R, 2 + int(s / 8), R // 2) + 0.7 * value_noise(g, R, 3, int(4 * s))
    return 0.5 * lines + 0.5 * value_noise(g, R, 2)


def cast(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Cast iron: fractal noise and fine grain."""
    return 0.6 * fractal_noise(g, R, int(2 * s)) + 0.4 * value_noise(g, R, R // 3)


def wood(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Wood: wavy growth rings and fine fibres."""
    bent = x + 0.25 * value_noise(g, R, 2, 3) + 0.03 * value_noise(g, R, 3, int(4 * s))
    return (0.5 * grating(g, bent, 0.7 * s) + 0.4 * value_noise(g, R, 4, R // 2)
            + 0.2 * value_noise(g, R, 2))


def leather(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Leather: cells between thin creases."""
    fine, coarse = value_noise(g, R, int(3 * s)), value_noise(g, R, int(2 * s))
    return 1 - 2.4 * (fine.abs() * coarse.abs()).sqrt()


def granite(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Granite: sharp dark and light speckles."""
    return torch.tanh(2 * value_noise(g, R, int(R / 2.5)) + 2 * value_noise(g, R, int(3 * s)))


def woven(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Fabric: two crossed gratings."""
    cycles = 2.5 * s
    y, x = y + 0.01 * value_noise(g, R, 6), x + 0.01 * value_noise(g, R, 6)
    return 0.7 * grating(g, y, cycles) * grating(g, x, cycles) + 0.4 * value_noise(g, R, R // 3)


def carpet(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Carpet: fine noise in two sizes."""
    return (0.6 * value_noise(g, R, R // 2) + 0.5 * value_noise(g, R, R // 4)
            + 0.2 * value_noise(g, R, int(s)))


def plastic(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Plastic: almost even."""
    return 0.5 * value_noise(g, R, 2) + 0.2 * value_noise(g, R, int(s))


def marble(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Marble: a sine wave distorted by fractal noise."""
    return torch.sin(3 * fractal_noise(g, R, max(2, int(s / 4))) + grating(g, x + y, s / 6))


def foam(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Foam: light, with dark pores."""
    return torch.tanh(4 * value_noise(g, R, int(4 * s)) + 1.5) - 0.3 * value_noise(g, R, 3).abs()


def paper(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Paper: fine fibres in both directions."""
    return 0.4 * value_noise(g, R, R // 2, R // 6) + 0.4 * value_noise(g, R, R // 6, R // 2)


def baked(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """A baked surface: crumbs and dark holes."""
    crumb = 0.5 * fractal_noise(g, R, int(s)) + 0.3 * value_noise(g, R, R // 3)
    return crumb - 2.0 * (value_noise(g, R, int(1.5 * s)) > 0.85).float()


def ribbed(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Ribs: one grating."""
    return 0.8 * grating(g, x, 1.5 * s) + 0.2 * value_noise(g, R, 3)


def dotted(g: torch.Generator, R: int, s: float, y: Tensor, x: Tensor) -> Tensor:
    """Dots on a regular grid."""
    dots = torch.tanh(6 * (grating(g, y, s) * grating(g, x, s) - 0.5))
    return dots + 0.1 * value_noise(g, R, R // 3)


MATERIALS: dict[str, Callable[..., Tensor]] = {
    "metal": brushed, "iron": cast, "wooden": wood, "leather": leather, "stone": granite,
    "fabric": woven, "carpet": carpet, "plastic": plastic, "marble": marble, "foam": foam,
    "paper": paper, "baked": baked, "ribbed": ribbed, "dotted": dotted,
}
GREY = ("grey", "dark grey", "light grey", "black", "white")


def random_material(generator: torch.Generator, name: str | None = None, colour: str | None = None,
                    contrast: float | None = None) -> Material:
    """A random `Material`; what is None is drawn.  Metal, iron and stone are mostly grey."""
    name = name or choose(generator, list(MATERIALS))
    if colour is None:
        grey = name in ("metal", "iron", "stone") and uniform(generator) < 0.75
        colour = choose(generator, GREY if grey else list(COLOURS))
    base = torch.tensor(COLOURS[colour])
    base = torch.lerp(base.mean().expand(3), base, uniform(generator, 0.4, 1.0))
    contrast = uniform(generator, 0.03, 0.22) if contrast is None else contrast
    tint = 0.03 * torch.randn(3, generator=generator) * (colour not in GREY)
    dark, light = (base - contrast + tint).clamp(0, 1), (base + contrast).clamp(0, 1)
    return Material(name, colour, tuple(dark.tolist()), tuple(light.tolist()),
                    uniform(generator, 5, 16), contrast, uniform(generator, 0, 0.02),
                    uniform(generator) < 0.5)


def paint(material: Material, generator: torch.Generator, resolution: int) -> Tensor:
    """One random picture of a material, (3, R, R), mostly within [0, 1]."""
    y, x = pixel_grid(resolution)
    field = MATERIALS[material.name](generator, resolution, material.scale, y, x)
    field = field if material.upright else field.T
    if material.grain > 0.004 and material.contrast > 0.01:
        field = field + material.grain / material.contrast * white_noise(generator, resolution)
    mix = (0.5 + 0.5 * field).clamp(-0.2, 1.2)
    dark, light = (torch.tensor(c)[:, None, None] for c in (material.dark, material.light))
    return dark + (light - dark) * mix


def demo() -> None:
    """Mean and standard deviation of eight painted materials."""
    generator = torch.Generator().manual_seed(0)
    for name in list(MATERIALS)[:8]:
        picture = paint(random_material(generator, name), generator, 64)
        print(f"{name:8s} mean {picture.mean():.2f}  std {picture.std():.3f}")


if __name__ == "__main__":
    demo()
