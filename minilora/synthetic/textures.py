"""What a defect is made of: material that does not belong where it is pasted.

Zavrtanik et al. 2021 (DRAEM) paste textures of a downloaded data set (DTD). Nothing is downloaded
here. The material is either good material in the wrong place (moved from elsewhere in the picture
or from another good picture, shuffled, recoloured) or drawn (noise, stripes, facets).

Every texture function takes a `Source` and returns content (3, R, R), whose values may lie outside
[0, 1].

Symbols: R resolution, K other pictures.
Left out: where the material is pasted (synthetic/shapes.py, synthetic/pasting.py).
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minilora.synthetic.sampling import chance, choose, log_uniform, uniform
from minilora.synthetic.shapes import perlin_noise


@dataclass(frozen=True)
class Source:
    """A good picture, optionally other ones of its class, and the generator of all random draws."""
    pixels: Tensor                              # (3, R, R) in [0, 1]
    generator: torch.Generator
    others: Tensor | None = None                # (K, 3, R, R)

    @property
    def resolution(self) -> int:
        """R, the side of the square picture in pixels."""
        return self.pixels.shape[-1]


def jitter(content: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Content (3, R, R) with a random contrast, and brightness and tint changed by `strength`."""
    mean = content.mean((1, 2), keepdim=True)
    tint = (2 * torch.rand(3, 1, 1, generator=generator) - 1) * strength / 2
    shift = mean + tint + uniform(generator, -strength, strength)
    return (content - mean) * log_uniform(generator, 0.6, 1.6) + shift


def random_colour(source: Source) -> Tensor:
    """A colour (3, 1, 1): one that occurs in the picture, a dark one, a bright one, or any."""
    g = source.generator
    kind = choose(g, ("own", "dark", "bright", "any"))
    if kind == "own":
        row, column = torch.randint(source.resolution, (2,), generator=g).tolist()
        return source.pixels[:, row, column].view(3, 1, 1)
    low, high = {"dark": (0, 0.3), "bright": (0.7, 1), "any": (0, 1)}[kind]
    grey, hue = uniform(g, low, high), torch.rand(3, 1, 1, generator=g)
    return grey + (hue - grey) * uniform(g, 0, 0.7 if kind == "any" else 0.2)


def flat_colour(source: Source) -> Tensor:
    """One random colour everywhere."""
    return random_colour(source).expand_as(source.pixels)


def moved_material(source: Source) -> Tensor:
    """Good material in the wrong place: this picture or another one, rotated and shifted."""
    g, picture = source.generator, source.pixels
    if source.others is not None and len(source.others) and chance(g, 0.5):
        picture = choose(g, source.others)
    picture = torch.rot90(picture, choose(g, (0, 1, 2, 3)), (1, 2))
    offset = torch.randint(source.resolution, (2,), generator=g).tolist()
    return jitter(torch.roll(picture, offset, (1, 2)), g, 0.2)


def recoloured_material(source: Source) -> Tensor:
    """Moved material with its channels permuted, and inverted with probability one half."""
    g = source.generator
    content = moved_material(source)[torch.randperm(3, generator=g)]
    return 1 - content if chance(g, 0.5) else content


def shuffled_material(source: Source) -> Tensor:
    """Moved material cut into small squares whose rows and columns are permuted."""
    g, size = source.generator, source.resolution
    line = torch.arange(size)
    square = -(-size // choose(g, (6, 12, 24)))             # side in pixels, rounded up
    rows, columns = (torch.randperm(size // square + 1, generator=g)[line // square] * square
                     + line % square for _ in range(2))
    return moved_material(source)[:, rows % size][:, :, columns % size]


def two_colour_noise(source: Source) -> Tensor:
    """Two colours mixed by Perlin noise of two scales."""
    g = source.generator
    mix = sum(perlin_noise(source.resolution, choose(g, (4, 8, 16, 32, 64)), g) for _ in range(2))
    return torch.lerp(random_colour(source), random_colour(source), (0.5 + mix).clamp(0, 1))


def stripes(source: Source) -> Tensor:
    """A grating of two colours whose lines are bent by Perlin noise."""
    g, size = source.generator, source.resolution
    line = torch.arange(size) / size
    angle, count = uniform(g, 0, math.pi), log_uniform(g, 5, 50)
    phase = line[:, None] * math.sin(angle) + line * math.cos(angle)            # (R, R)
    wave = (2 * math.pi * count * phase + 3 * perlin_noise(size, 6, g)).sin()
    return torch.lerp(random_colour(source), random_colour(source), (0.5 + wave).clamp(0, 1))


def lit_facets(source: Source, centre: Sequence[float], reach: float) -> Tensor:
    """A broken surface: cells between straight cuts, each with a brightness and slope of its own.

    centre: (row, column) in pixels;  reach: largest distance of the cuts from it, in pixels.  The
    number of a cell has one bit per cut: the side of the cut on which the cell lies.
    """
    g, size, cuts = source.generator, source.resolution, choose(source.generator, (4, 6, 8))
    row, column = ((torch.arange(size) - p) / reach for p in centre)            # 1 = reach
    cell = torch.zeros(size, size, dtype=torch.long)
    for k in range(cuts):
        angle = uniform(g, 0, 2 * math.pi)
        side = row[:, None] * math.sin(angle) + column * math.cos(angle) > uniform(g, -0.7, 0.7)
        cell += side.long() << k
    light = torch.rand(1, 2 ** cuts, generator=g) ** 2 * 1.5 + 0.2              # mostly dark
    slope = torch.randn(2, 2 ** cuts, generator=g) * 0.3                        # light per reach
    table = torch.cat([light, slope])                                           # (3, 2^cuts)
    light, down, right = table.index_select(1, cell.flatten()).view(3, size, size)
    shade = light + down * row[:, None] + right * column
    edge = cell != torch.roll(cell, 1, choose(g, (0, 1)))
    edge_light = uniform(g, -0.4, 0.9) * edge                                   # dark or bright
    return moved_material(source).clamp(0.1, 1) * shade + edge_light


TEXTURES = (two_colour_noise, stripes, shuffled_material, recoloured_material)  # instead of DTD


def demo() -> None:
    """How much each material differs from a smooth grey ramp, and how rough it is."""
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.3, 0.6, 64).expand(3, 64, 64)
    source = Source(ramp, g)
    print("mean difference from a grey ramp, standard deviation of differences of neighbours:")
    materials = {make.__name__: make(source) for make in (flat_colour, moved_material) + TEXTURES}
    materials["lit_facets"] = lit_facets(source, (32, 32), 30)
    for name, content in materials.items():
        difference, roughness = (content - ramp).abs().mean(), content.diff(dim=-1).std()
        print(f"  {name:19} {difference:.2f}   {roughness:.3f}")


if __name__ == "__main__":
    demo()
