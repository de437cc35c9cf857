"""Defects drawn into a scene: scratches, stains, missing pieces and ten other kinds.

Each kind is a function (picture (3, R, R), site, size, generator) -> picture of the same shape.
The exact mask is then the set of pixels that changed visibly.  These functions know where the part
is; the pseudo-defects of synthetic/defects.py are pasted into photographs without that knowledge.

Left out: changes of shape that are larger than half the part.
Symbols: R resolution;  p picture;  g generator;  site: (y, x) in (-1, 1) on the part;  size: radius
as a share of half the picture, drawn log-uniformly.
"""

from collections.abc import Callable, Sequence
from math import cos, pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from minilora.scenes.materials import (COLOURS, fractal_noise, paint, pixel_grid, random_material,
                                       value_noise, white_noise)
from minilora.synthetic.sampling import choose, log_uniform, uniform

MIN_CHANGE = 0.04       # a pixel is defective if one of its channels changes by more, on [0, 1]
CLEAR_CHANGE = 0.12     # at least 0.15 % of the picture must change by more than this

Site = tuple[float, float]      # (y, x) in (-1, 1)


def stroke(points: Sequence[Site], width: float, resolution: int) -> Tensor:
    """A soft line through points, (R, R) in [0, 1]; width in pixels."""
    canvas = Image.new("L", (2 * resolution, 2 * resolution))
    pixels = [((x + 1) * resolution, (y + 1) * resolution) for y, x in points]
    ImageDraw.Draw(canvas).line(pixels, fill=255, width=max(1, round(2 * width)), joint="curve")
    small = canvas.resize((resolution, resolution), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)


def random_walk(site: Site, length: float, steps: int, bend: float, generator: torch.Generator,
                angle: float | None = None) -> list[Site]:
    """A random path that starts half its length before the site.

    bend: standard deviation of the turn at each step, radians;  angle: first direction.
    """
    angle = uniform(generator, 0, 2 * pi) if angle is None else angle
    y, x = site[0] - length / 2 * sin(angle), site[1] - length / 2 * cos(angle)
    path = [(y, x)]
    for turn in (bend * torch.randn(steps, generator=generator)).tolist():
        angle += turn
        y, x = y + length / steps * sin(angle), x + length / steps * cos(angle)
        path.append((y, x))
    return path


def spot(site: Site, size: float, resolution: int, generator: torch.Generator, edge: float = 0.15,
         ragged: float = 0.35) -> Tensor:
    """A soft irregular blob, (R, R) in [0, 1].

    edge: width of the soft edge as a share of `size`;  ragged: how irregular the outline is.
    """
    y, x = pixel_grid(resolution)
    a, stretch = uniform(generator, 0, pi), uniform(generator, 0.6, 1.6)
    v, u = y - site[0], x - site[1]
    v, u = (v * cos(a) - u * sin(a)) * stretch, (v * sin(a) + u * cos(a)) / stretch
    r = (v * v + u * u).sqrt() / size
    bumps = ragged * value_noise(generator, resolution, max(3, int(2.5 / size)))
    return ((1 + bumps - r) / edge).clamp(0, 1)


def alpha_blend(picture: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """`colour` over `picture`, with opacity alpha in [0, 1]."""
    return picture + (colour - picture) * alpha


def contrasting_colour(picture: Tensor, site: Site, generator: torch.Generator,
                       least: float = 0.3) -> Tensor:
    """A colour (3, 1, 1) that differs from the picture at the site by `least` in some channel.

    `least` is lowered by a tenth after every draw that fails.
    """
    R = picture.shape[-1]
    row, col = (min(R - 1, max(0, int((c + 1) / 2 * R))) for c in site)
    here = picture[:, row, col]
    while True:
        kind = uniform(generator)
        if kind < 0.4:
            other = here * uniform(generator, 0.05, 0.5)
        elif kind < 0.7:
            other = here + (1 - here) * uniform(generator, 0.4, 0.95)
        else:
            other = torch.tensor(COLOURS[choose(generator, list(COLOURS))])
        if (other - here).abs().max() >= least:
            return other[:, None, None]
        least *= 0.9


def scratch(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A straight thin line of another colour."""
    line = stroke(random_walk(site, 3 * size + 0.1, 6, 0.12, g), uniform(g, 1.2, 3.5), p.shape[-1])
    return alpha_blend(p, contrasting_colour(p, site, g), line * uniform(g, 0.75, 1.0))


def crack(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A dark jagged line, perhaps with branches."""
    R = p.shape[-1]
    path = random_walk(site, 2.5 * size + 0.15, 12, 0.6, g)
    lines = stroke(path, uniform(g, 1.5, 4.5), R)
    for _ in range(int(3 * uniform(g))):
        lines = torch.maximum(lines, stroke(random_walk(choose(g, path), size, 6, 0.6, g), 1.2, R))
    return alpha_blend(p, p * uniform(g, 0.05, 0.35), lines * 0.95)


def stain(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A soft blob of another colour."""
    return alpha_blend(p, contrasting_colour(p, site, g),
               spot(site, size, p.shape[-1], g, uniform(g, 0.15, 0.6)) * uniform(g, 0.6, 1.0))


def hole(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A dark hole with a bright rim."""
    inside = spot(site, size, p.shape[-1], g, 0.12, uniform(g, 0, 0.3))
    rim = spot(site, size * 1.25, p.shape[-1], g, 0.3, 0.1)
    with_rim = alpha_blend(p, p * 1.25 + 0.05, 0.5 * rim)
    return alpha_blend(with_rim, torch.tensor(uniform(g, 0.02, 0.25)), inside)


def contamination(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A piece of another material on the part."""
    other = paint(random_material(g), g, p.shape[-1])
    return alpha_blend(p, other, spot(site, size, p.shape[-1], g, 0.1, 0.6) * uniform(g, 0.8, 1.0))


def thread(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A long curved fibre."""
    line = stroke(random_walk(site, 4 * size + 0.2, 24, 0.35, g), uniform(g, 1.2, 3.0), p.shape[-1])
    return alpha_blend(p, contrasting_colour(p, site, g, 0.25), line)


def spots(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """One to six small dots."""
    for _ in range(1 + int(6 * uniform(g))):
        near = tuple(c + size * uniform(g, -1, 1) for c in site)
        colour = contrasting_colour(p, near, g)
        p = alpha_blend(p, colour, spot(near, uniform(g, 0.03, 0.08), p.shape[-1], g, 0.5, 0.1))
    return p


def warped(p: Tensor, site: Site, size: float, displacement: Tensor) -> Tensor:
    """The picture resampled near the site.

    displacement: (R, R, 2) or (2,), x and y, in units of half the picture: where each pixel near
    the site takes its colour from, relative to itself.
    """
    y, x = pixel_grid(p.shape[-1])
    near = torch.exp(-((y - site[0]) ** 2 + (x - site[1]) ** 2) / size**2)[..., None]
    where = torch.stack((x, y), -1) + near * displacement
    return F.grid_sample(p[None], where[None], align_corners=False, padding_mode="reflection")[0]


def bent(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """The picture is shifted around the site."""
    a = uniform(g, 0, 2 * pi)
    return warped(p, site, size + 0.08, (0.6 * size + 0.08) * torch.tensor([cos(a), sin(a)]))


def uneven(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """An area that is smoother, brighter or darker."""
    area = spot(site, size + 0.1, p.shape[-1], g, uniform(g, 0.05, 0.3), 0.3)
    flat = F.avg_pool2d(p[None], 9, 1, 4, count_include_pad=False)[0]
    changed = (flat * choose(g, (0.6, 0.75, 1.3, 1.5)) if uniform(g) < 0.6
               else p * choose(g, (0.5, 0.65, 1.35, 1.55)))
    return alpha_blend(p, changed, area)


def rough(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """An area with coarse grain."""
    grit = value_noise(g, p.shape[-1], 70) + white_noise(g, p.shape[-1])
    return p + uniform(g, 0.25, 0.5) * grit * spot(site, size, p.shape[-1], g, 0.3)


def misplaced(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A rectangle is replaced by another part of the picture."""
    shift = [int(c * p.shape[-1]) for c in (uniform(g, 0.1, 0.5), uniform(g, 0.1, 0.5))]
    moved = torch.roll(p if uniform(g) < 0.5 else p.transpose(1, 2), shift, (1, 2))
    y, x = pixel_grid(p.shape[-1])
    h, w = size * uniform(g, 0.5, 1.5), size * uniform(g, 0.5, 1.5)
    area = ((y - site[0]).abs() < h) & ((x - site[1]).abs() < w)
    return torch.where(area, moved, p)


def dent(p: Tensor, site: Site, size: float, g: torch.Generator) -> Tensor:
    """A dented surface: one side bright, the other dark, the texture distorted."""
    y, x = pixel_grid(p.shape[-1])
    v, u, a, size = (y - site[0]), (x - site[1]), uniform(g, 0, 2 * pi), size + 0.06
    bump = torch.exp(-(v * v + u * u) / size**2)
    slope = (v * sin(a) + u * cos(a)) / size * bump
    pinched = warped(p, site, size, -0.3 * torch.stack((u, v), -1))
    return pinched * (1 + uniform(g, 0.6, 1.2) * slope)


def broken(p: Tensor, site: Site, size: float, g: torch.Generator, behind: Tensor) -> Tensor:
    """A piece is missing: the background `behind`, or a darker inside, is visible."""
    area = spot(site, size + 0.06, p.shape[-1], g, 0.05, 0.5)
    inside = behind if uniform(g) < 0.7 else p * 0.4 + 0.1 * fractal_noise(g, p.shape[-1], 12, 2)
    return alpha_blend(p, inside, area)


FLAW_KINDS: dict[str, Callable[..., Tensor]] = {
    "scratch": scratch, "crack": crack, "stain": stain, "hole": hole,
    "contamination": contamination, "thread": thread, "spots": spots, "bent": bent,
    "uneven": uneven, "rough": rough, "misplaced": misplaced, "broken": broken, "dent": dent,
}


def add_flaw(kind: str, picture: Tensor, part: Tensor, behind: Tensor,
             generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one defect of a kind on the part.

    picture, behind: (3, R, R), the scene and its background only;  part: (R, R) bool, where the
    part is.  Returns (picture, mask (R, R) bool).  A defect that is hardly visible is drawn again,
    larger, up to eight times.
    """
    R = picture.shape[-1]
    places = part.flatten().nonzero()[:, 0]
    extra = (behind,) if kind == "broken" else ()
    for attempt in range(8):
        place = int(places[torch.randint(len(places), (), generator=generator)])
        site = tuple((c + 0.5) / R * 2 - 1 for c in divmod(place, R))
        size = log_uniform(generator, 0.08, 0.5) * (1 + 0.15 * attempt)
        flawed = FLAW_KINDS[kind](picture, site, size, generator, *extra).clamp(0, 1)
        change = (flawed - picture).abs().amax(0)
        mask = change > MIN_CHANGE
        if (change > CLEAR_CHANGE).sum() >= 1.5e-3 * R * R:
            return flawed, mask
    return flawed, mask


def demo() -> None:
    """How much of a metal surface ten kinds of defects change."""
    generator = torch.Generator().manual_seed(0)
    picture = paint(random_material(generator, "metal"), generator, 64)
    part, behind = torch.ones(64, 64, dtype=torch.bool), torch.zeros(3, 64, 64)
    for kind in list(FLAW_KINDS)[-10:]:
        _, mask = add_flaw(kind, picture, part, behind, generator)
        print(f"{kind:13s} changes {mask.float().mean():6.2%} of the picture")


if __name__ == "__main__":
    demo()
