"""Nine kinds of synthetic defects: for each a region and the content to blend into it.

    cutpaste   a piece of good material in the wrong place   CutPaste, Li et al. 2021
    scar       the same, long, thin and rotated              CutPaste-Scar, ibid.
    perlin     a foreign texture where noise is high         DRAEM, Zavrtanik et al. 2021
    stain      a spot with a soft edge; a shadow or a bright spot
    crack      an irregular line, dark or bright, sometimes with a bright edge
    missing    a missing piece that shows the background, or a hole
    shatter    facets, each with its own brightness
    warp       the surface shifted or twisted inside a disc
    texture    fine structure lost, or roughness added

A kind is a function that takes a `DefectContext` and returns (alpha (R, R), content (3, R, R)):
alpha is a region (synthetic/shapes.py) times an opacity, in [0, 1]; content may lie outside [0, 1].

Claim: pasted defects need not look like the real defects that will occur. They only have to teach
what does not belong to the product. For this they must vary widely, so sizes and strengths are
drawn log-uniformly.

Differs from CutPaste: three of five patches are not rectangles. Differs from DRAEM: textures are
generated (synthetic/textures.py), not downloaded.
Symbols: R resolution, g generator.
Left out: blending and masks (synthetic/pasting.py), Poisson blending (Schlueter et al. 2022),
lighting models.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.synthetic.sampling import chance, choose, log_uniform, uniform
from minilora.synthetic.shapes import (crack_shape, dilate, object_rim, perlin_noise, random_point,
                                       region)
from minilora.synthetic.textures import (TEXTURES, Source, flat_colour, jitter, lit_facets,
                                         moved_material)

AREA_RANGE = (0.002, 0.15)      # share of the picture that a region covers, log-uniform


@dataclass(frozen=True)
class DefectContext(Source):
    """A good picture and the place of the object in it (see `find_object`)."""
    cells: Tensor | None = None                 # bool (28, 28), true on the object
    background: Tensor | None = None            # (3, R, R); None: the object fills the frame

    def centre(self, cells: Tensor | None = None) -> list[float]:
        """A random point of these cells; by default on the object with probability 0.9."""
        if cells is None:
            cells = self.cells if chance(self.generator, 0.9) else torch.ones_like(self.cells)
        return random_point(cells, self.resolution, self.generator)

    def area(self, low: float = AREA_RANGE[0], high: float = AREA_RANGE[1]) -> float:
        """An area in pixels, log-uniform between two shares of the picture."""
        return log_uniform(self.generator, low, high) * self.resolution ** 2

    def region(self, *shapes: str, centre: Sequence[float] | None = None,
               area: float | None = None, stretch: tuple[float, float] = (1, 3),
               soft: float = 1.0) -> Tensor:
        """alpha (R, R) of one of these shapes; centre and area are random by default."""
        g = self.generator
        return region(choose(g, shapes), self.resolution, centre or self.centre(),
                      area or self.area(), g, log_uniform(g, *stretch), soft=soft)


def cutpaste_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A patch of material from elsewhere."""
    return context.region("bar", "bar", "blob", "shard", "cloud"), moved_material(context)


def scar_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A long thin strip of material from elsewhere, or of one colour."""
    alpha = context.region("bar", area=context.area(0.002, 0.02), stretch=(5, 25))
    content = choose(context.generator, (moved_material, moved_material, flat_colour))(context)
    return alpha, jitter(content, context.generator, 0.2)


def perlin_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """DRAEM's texture with an opacity; ours is log-uniform, so faint defects are more frequent."""
    g = context.generator
    return context.region("cloud") * log_uniform(g, 0.2, 1), choose(g, TEXTURES)(context)


def stain_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A coloured spot, sometimes with a stronger rim; or a larger change of brightness only."""
    g = context.generator
    brightness_only = chance(g, 0.4)
    area = context.area(high=0.3 if brightness_only else AREA_RANGE[1])
    soft = max(1, math.sqrt(area) * log_uniform(g, 0.03, 0.6))
    alpha = context.region("disc", "blob", "blob", "cloud", area=area, soft=soft)
    if brightness_only:
        return alpha, context.pixels * log_uniform(g, 0.4, 2.2)
    if chance(g, 0.3):
        alpha = alpha * (1.3 - alpha)                       # strongest on the rim
    return alpha * log_uniform(g, 0.25, 1), flat_colour(context)


def crack_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A crack or a scratch: the background, a shadow or a bright line along a random walk."""
    g, size = context.generator, context.resolution
    centre, wander = context.centre(), 0.02 if chance(g, 0.3) else uniform(g, 0.1, 0.4)
    length, width = log_uniform(g, 0.1, 0.9) * size, log_uniform(g, 0.006, 0.035) * size
    alpha = crack_shape(size, centre, length, width, g, wander)
    if wander > 0.1 and chance(g, 0.4):                     # a branch
        alpha = torch.maximum(alpha, crack_shape(size, centre, length / 2, width / 2, g, wander))
    if context.background is not None and chance(g, 0.3):   # a gap
        content = context.background
    elif chance(g, 0.6):
        content = context.pixels * uniform(g, 0, 0.6)
    else:
        content = context.pixels + (1 - context.pixels) * uniform(g, 0.3, 1)
    if chance(g, 0.4):                                      # one edge of the crack is bright
        lit = torch.roll(alpha, choose(g, ((1, 1), (1, -1), (-1, 0), (0, 1))), (0, 1))
        content = torch.where(lit > alpha, context.pixels + uniform(g, 0.1, 0.3), content)
        alpha = torch.maximum(alpha, lit)
    return alpha * log_uniform(g, 0.4, 1), content


def missing_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A piece broken off, often at the object's rim, so that the background shows; else a hole."""
    g = context.generator
    grain = 0.02 * torch.randn(context.resolution, context.resolution, generator=g)
    if context.background is not None and chance(g, 0.7):
        centre = context.centre(object_rim(context.cells) if chance(g, 0.6) else context.cells)
        on_object = (context.pixels - context.background).abs().amax(0) > 0.1
        alpha = context.region("shard", "blob", "cloud", centre=centre) * dilate(on_object, 1)
        return alpha, context.background + grain
    hole = uniform(g, 0, 0.25) if chance(g, 0.7) else uniform(g, 0.75, 1)       # dark or bright
    kept = uniform(g, 0, 0.3)                               # share of the old structure
    return (context.region("shard", "blob", "cloud"),
            kept * context.pixels + (1 - kept) * hole + grain)


def shatter_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """Facets about as large as the region that they fill."""
    area, centre = context.area(), context.centre()
    alpha = context.region("shard", "cloud", "blob", centre=centre, area=area)
    return alpha, lit_facets(context, centre, math.sqrt(area))


def warp_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """The pixels of a disc are shifted and rotated, most of all in the middle."""
    g, size, area = context.generator, context.resolution, context.area()
    centre, radius = context.centre(), math.sqrt(area / math.pi)
    alpha = context.region("disc", centre=centre, area=area, stretch=(1, 2), soft=radius)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 2, indexing="ij")
    angle, shift = uniform(g, -1.5, 1.5) * alpha, radius * torch.randn(2, generator=g) * 0.5
    cos, sin, v, u = angle.cos(), angle.sin(), y - centre[0], x - centre[1]
    grid = torch.stack([centre[1] + cos * u - sin * v + shift[1] * alpha,
                        centre[0] + sin * u + cos * v + shift[0] * alpha], -1)  # (R, R, 2), x first
    content = F.grid_sample(context.pixels[None], ((2 * grid + 1) / size - 1)[None],
                            padding_mode="reflection", align_corners=False)[0]
    return (alpha > 0).float(), content


def texture_defect(context: DefectContext) -> tuple[Tensor, Tensor]:
    """A region that is blurred, or roughened by noise."""
    g, size = context.generator, context.resolution
    alpha = context.region("blob", "cloud", "bar", area=context.area(0.01))
    if chance(g, 0.5):
        coarse = max(2, round(size / log_uniform(g, 3, 12)))
        small = F.interpolate(context.pixels[None], (coarse, coarse), mode="area")
        return alpha, F.interpolate(small, (size, size), mode="bilinear")[0]
    cells = choose(g, (None, 64, 100, (4, 96), (96, 4), (16, 96), (96, 16)))    # pairs: streaks
    grain = perlin_noise(size, cells, g) * 2 if cells else torch.randn(size, size, generator=g)
    return alpha, context.pixels + log_uniform(g, 0.05, 0.25) * grain


DEFECT_FUNCTIONS = {"cutpaste": cutpaste_defect, "scar": scar_defect, "perlin": perlin_defect,
                    "stain": stain_defect, "crack": crack_defect, "missing": missing_defect,
                    "shatter": shatter_defect, "warp": warp_defect, "texture": texture_defect}
DEFECT_KINDS = tuple(DEFECT_FUNCTIONS)


def demo() -> None:
    """Size of the region and strength of the content: ten defects of each kind on grey noise."""
    g = torch.Generator().manual_seed(0)
    picture = (0.5 + 0.1 * perlin_noise(112, 28, g)).expand(3, -1, -1)
    context = DefectContext(picture, g, cells=torch.ones(28, 28, dtype=torch.bool))
    print("kind       region, % of the picture      mean difference of content and picture in it")
    for kind, draw in DEFECT_FUNCTIONS.items():
        drawn = [draw(context) for _ in range(10)]
        area = sorted(100 * (alpha > 0).float().mean().item() for alpha, _ in drawn)
        change = sum((content - picture).abs().amax(0)[alpha > 0].mean().item()
                     for alpha, content in drawn) / 10
        print(f"{kind:10} {area[0]:5.2f} to {area[-1]:5.2f}, median {area[5]:5.2f} {change:10.2f}")


if __name__ == "__main__":
    demo()
