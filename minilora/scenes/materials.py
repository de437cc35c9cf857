"""What a drawn part is made of: scalar textures between two colours.

A material is a field t (R, R) in about [-1, 1], painted as a mixture of a dark and a light colour.
Fields are sums of value noise (a coarse random grid, enlarged smoothly), gratings and ridges, after
Perlin, "An image synthesizer", SIGGRAPH 1985.  Class-level choices (colours, scale, contrast,
grain) sit in `Material`; the realisation differs from picture to picture through the generator.

Leaves out: light (see scenes/scene.py), physically based reflection.
Symbols: R resolution; C = 3 channels.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import pi

import torch
import torch.nn.functional as F

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
def pixel_grid(resolution):
    """Coordinates of the pixel centres, y down and x right, each (R, R) in (-1, 1)."""
    line = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    return torch.meshgrid(line, line, indexing="ij")


def white(generator, resolution):
    """Independent normal noise per pixel, (R, R), standard deviation one half."""
    return 0.5 * torch.randn(resolution, resolution, generator=generator)


def value_noise(generator, resolution, rows, cols=None):
    """Smooth value noise with `rows` x `cols` cells, (R, R), mostly within [-1, 1]."""
    cols = cols or rows
    coarse = torch.rand(1, 1, rows + 2, cols + 2, generator=generator) * 2 - 1
    fine = F.interpolate(coarse, (resolution, resolution), mode="bicubic", align_corners=True)
    return 1.3 * fine[0, 0]


def fractal(generator, resolution, cells, octaves=4, gain=0.55):
    """Noise at doubling frequencies and falling strength, (R, R)."""
    total, strength = torch.zeros(resolution, resolution), 1.0
    for octave in range(octaves):
        size = min(cells * 2**octave, resolution // 2)
        total += strength * value_noise(generator, resolution, size)
        strength *= gain
    return total / 1.6


@dataclass(frozen=True)
class Material:
    """Class-level choices.  dark, light: RGB in [0, 1];  scale: cells across the picture."""

    name: str
    colour: str
    dark: tuple
    light: tuple
    scale: float
    contrast: float
    grain: float
    upright: bool


def wave(generator, coordinate, cycles):
    """A grating with random phase, values in [-1, 1]."""
    return torch.sin(pi * cycles * coordinate + uniform(generator, 0, 2 * pi))


def brushed(g, R, s, y, x):
    lines = value_noise(g, R, 2 + int(s / 8), R // 2) + 0.7 * value_noise(g, R, 3, int(4 * s))
    return 0.5 * lines + 0.5 * value_noise(g, R, 2)


def cast(g, R, s, y, x):
    return 0.6 * fractal(g, R, int(2 * s)) + 0.4 * value_noise(g, R, R // 3)


def wood(g, R, s, y, x):
    bent = x + 0.25 * value_noise(g, R, 2, 3) + 0.03 * value_noise(g, R, 3, int(4 * s))
    return 0.5 * wave(g, bent, 0.7 * s) + 0.4 * value_noise(g, R, 4, R // 2) + 0.2 * value_noise(g, R, 2)


def leather(g, R, s, y, x):
    return 1 - 2.4 * (value_noise(g, R, int(3 * s)).abs() * value_noise(g, R, int(2 * s)).abs()).sqrt()


def granite(g, R, s, y, x):
    return torch.tanh(2 * value_noise(g, R, int(R / 2.5)) + 2 * value_noise(g, R, int(3 * s)))


def woven(g, R, s, y, x):
    cycles = 2.5 * s
    y, x = y + 0.01 * value_noise(g, R, 6), x + 0.01 * value_noise(g, R, 6)
    return 0.7 * wave(g, y, cycles) * wave(g, x, cycles) + 0.4 * value_noise(g, R, R // 3)


def carpet(g, R, s, y, x):
    return 0.6 * value_noise(g, R, R // 2) + 0.5 * value_noise(g, R, R // 4) + 0.2 * value_noise(g, R, int(s))


def plastic(g, R, s, y, x):
    return 0.5 * value_noise(g, R, 2) + 0.2 * value_noise(g, R, int(s))


def marble(g, R, s, y, x):
    return torch.sin(3 * fractal(g, R, max(2, int(s / 4))) + wave(g, x + y, s / 6))


def foam(g, R, s, y, x):
    return torch.tanh(4 * value_noise(g, R, int(4 * s)) + 1.5) - 0.3 * value_noise(g, R, 3).abs()


def paper(g, R, s, y, x):
    return 0.4 * value_noise(g, R, R // 2, R // 6) + 0.4 * value_noise(g, R, R // 6, R // 2)


def baked(g, R, s, y, x):
    crumb = 0.5 * fractal(g, R, int(s)) + 0.3 * value_noise(g, R, R // 3)
    return crumb - 2.0 * (value_noise(g, R, int(1.5 * s)) > 0.85).float()


def ribbed(g, R, s, y, x):
    return 0.8 * wave(g, x, 1.5 * s) + 0.2 * value_noise(g, R, 3)


def dotted(g, R, s, y, x):
    return torch.tanh(6 * (wave(g, y, s) * wave(g, x, s) - 0.5)) + 0.1 * value_noise(g, R, R // 3)


FIELDS = {
    "metal": brushed, "iron": cast, "wooden": wood, "leather": leather, "stone": granite,
    "fabric": woven, "carpet": carpet, "plastic": plastic, "marble": marble, "foam": foam,
    "paper": paper, "baked": baked, "ribbed": ribbed, "dotted": dotted,
}
GREY = ("grey", "dark grey", "light grey", "black", "white")


def random_material(generator, name=None, colour=None, contrast=None):
    """Class-level draw of a `Material`; metals, iron and stone are mostly grey."""
    name = name or choose(generator, list(FIELDS))
    if colour is None:
        grey = name in ("metal", "iron", "stone") and uniform(generator) < 0.75
        colour = choose(generator, GREY if grey else list(COLOURS))
    base = torch.tensor(COLOURS[colour])
    base = torch.lerp(base.mean().expand(3), base, uniform(generator, 0.4, 1.0))  # some are faded
    contrast = uniform(generator, 0.03, 0.22) if contrast is None else contrast
    tint = 0.03 * torch.randn(3, generator=generator) * (colour not in GREY)
    dark, light = (base - contrast + tint).clamp(0, 1), (base + contrast).clamp(0, 1)
    return Material(name, colour, tuple(dark.tolist()), tuple(light.tolist()),
                    uniform(generator, 5, 16), contrast, uniform(generator, 0, 0.02),
                    uniform(generator) < 0.5)


def paint(material, generator, resolution):
    """One realisation of a material, (3, R, R), about [0, 1]."""
    y, x = pixel_grid(resolution)
    field = FIELDS[material.name](generator, resolution, material.scale, y, x)
    field = field if material.upright else field.T
    if material.grain > 0.004 and material.contrast > 0.01:
        field = field + material.grain / material.contrast * white(generator, resolution)
    mix = (0.5 + 0.5 * field).clamp(-0.2, 1.2)
    dark, light = (torch.tensor(c)[:, None, None] for c in (material.dark, material.light))
    return dark + (light - dark) * mix


def demo():
    generator = torch.Generator().manual_seed(0)
    for name in list(FIELDS)[:8]:
        picture = paint(random_material(generator, name), generator, 64)
        print(f"{name:8s} mean {picture.mean():.2f}  std {picture.std():.3f}")


if __name__ == "__main__":
    demo()
