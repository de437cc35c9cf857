"""What a defect is made of: material that does not belong where it is put.

Zavrtanik et al. 2021 (DRAEM) paste textures of a downloaded set (DTD). Nothing is downloaded here:
the material is either good material in the wrong place (moved from elsewhere in the picture or
from another good picture, shuffled, recoloured) or drawn (noise, stripes, facets).

Every function takes a Source, the picture and what else may be drawn from, and returns content
(3, R, R), which may leave [0, 1].  Leaves out: where it goes (synthetic/shapes.py, synthetic/defects.py).
"""
import math
from dataclasses import dataclass

import torch

from minilora.synthetic.sampling import chance, choose, log_uniform, uniform
from minilora.synthetic.shapes import perlin_noise


@dataclass(frozen=True)
class Source:
    """A good picture, maybe others of its class, and the generator all chances come from."""
    pixels: torch.Tensor                        # (3, R, R) in [0, 1]
    generator: torch.Generator
    others: "torch.Tensor | None" = None        # (K, 3, R, R)

    @property
    def resolution(self):
        return self.pixels.shape[-1]


def jitter(content, generator, strength):
    """Other contrast, and other brightness and tint by at most strength."""
    mean = content.mean((1, 2), keepdim=True)
    tint = (2 * torch.rand(3, 1, 1, generator=generator) - 1) * strength / 2
    shift = mean + tint + uniform(generator, -strength, strength)
    return (content - mean) * log_uniform(generator, 0.6, 1.6) + shift


def colour(source):
    """A colour (3, 1, 1): one of the picture's, dark, bright, or any."""
    g = source.generator
    kind = choose(g, ("own", "dark", "bright", "any"))
    if kind == "own":
        row, column = torch.randint(source.resolution, (2,), generator=g).tolist()
        return source.pixels[:, row, column].view(3, 1, 1)
    low, high = {"dark": (0, 0.3), "bright": (0.7, 1), "any": (0, 1)}[kind]
    grey, hue = uniform(g, low, high), torch.rand(3, 1, 1, generator=g)
    return grey + (hue - grey) * uniform(g, 0, 0.7 if kind == "any" else 0.2)


def flat(source):
    """One colour."""
    return colour(source).expand_as(source.pixels)


def moved(source):
    """Good material in the wrong place: of this picture or another one, turned and moved."""
    g, picture = source.generator, source.pixels
    if source.others is not None and len(source.others) and chance(g, 0.5):
        picture = choose(g, source.others)
    picture = torch.rot90(picture, choose(g, (0, 1, 2, 3)), (1, 2))
    offset = torch.randint(source.resolution, (2,), generator=g).tolist()
    return jitter(torch.roll(picture, offset, (1, 2)), g, 0.2)


def recoloured(source):
    """Channels exchanged, half of the time turned to the negative."""
    g = source.generator
    content = moved(source)[torch.randperm(3, generator=g)]
    return 1 - content if chance(g, 0.5) else content


def shuffled(source):
    """Fine material in the wrong order: rows and columns of squares change places."""
    g, size = source.generator, source.resolution
    line = torch.arange(size)
    square = -(-size // choose(g, (6, 12, 24)))             # pixels a side, rounded up
    rows, columns = (torch.randperm(size // square + 1, generator=g)[line // square] * square
                     + line % square for _ in range(2))
    return moved(source)[:, rows % size][:, :, columns % size]


def two_colour_noise(source):
    """Two colours mixed by Perlin noise of two scales."""
    g = source.generator
    mix = sum(perlin_noise(source.resolution, choose(g, (4, 8, 16, 32, 64)), g) for _ in range(2))
    return torch.lerp(colour(source), colour(source), (0.5 + mix).clamp(0, 1))


def stripes(source):
    """A grating between two colours, its lines bent by noise."""
    g, size = source.generator, source.resolution
    line = torch.arange(size) / size
    angle, count = uniform(g, 0, math.pi), log_uniform(g, 5, 50)
    phase = line[:, None] * math.sin(angle) + line * math.cos(angle)            # (R, R)
    wave = (2 * math.pi * count * phase + 3 * perlin_noise(size, 6, g)).sin()
    return torch.lerp(colour(source), colour(source), (0.5 + wave).clamp(0, 1))


def facets(source, place, reach):
    """A broken surface: straight cuts near place, between them cells, each lit its own way.

    reach in pixels: the cuts pass place within that distance. A cell is known by the sides of the
    cuts it lies on, one bit a cut.
    """
    g, size, cuts = source.generator, source.resolution, choose(source.generator, (4, 6, 8))
    row, column = ((torch.arange(size) - p) / reach for p in place)             # 1 = reach
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
    glint = uniform(g, -0.4, 0.9) * edge                                        # dark or gleaming
    return moved(source).clamp(0.1, 1) * shade + glint


TEXTURES = (two_colour_noise, stripes, shuffled, recoloured)       # what DRAEM has a texture set for


def demo():
    """How far each material is from the picture it is pasted into, on a smooth grey ramp."""
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.3, 0.6, 64).expand(3, 64, 64)
    source = Source(ramp, g)
    print("mean difference from a grey ramp, and standard deviation between neighbours:")
    for make in (flat, moved) + TEXTURES:
        content = make(source)
        away, rough = (content - ramp).abs().mean(), content.diff(dim=-1).std()
        print(f"  {make.__name__:10} {away:.2f}   {rough:.3f}")
    content = facets(source, (32, 32), 30)
    print(f"  {'facets':10} {(content - ramp).abs().mean():.2f}   {content.diff(dim=-1).std():.3f}")


if __name__ == "__main__":
    demo()
