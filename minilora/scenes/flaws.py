"""Defects drawn into a scene with knowledge of the part: scratches, stains, missing pieces, …

Every kind is a function (picture (3, R, R), site, size, generator) -> picture of the same shape;
the exact mask is then the set of pixels that visibly changed.  Unlike the pseudo-defects of
synthetic/defects.py, which are pasted into photographs of unknown things, these know where the part is.

Leaves out: defects of shape larger than half the part.  Symbols: R resolution;  size: radius in
half-pictures, log-uniform;  site: (y, x) in (-1, 1) on the part.
"""

from math import cos, pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from minilora.scenes.materials import (COLOURS, fractal, paint, pixel_grid, random_material,
                                       value_noise, white)
from minilora.synthetic.sampling import choose, log_uniform, uniform

MIN_CHANGE = 0.04   # change of a colour channel, on [0, 1], from which a pixel counts as defective
STRIKING = 0.12  # a defect has at least 0.15 % of the picture that changed by so much


def stroke(points, width, resolution):
    """Soft line through points (y, x) in (-1, 1), `width` in pixels: (R, R) in [0, 1]."""
    canvas = Image.new("L", (2 * resolution, 2 * resolution))
    pixels = [((x + 1) * resolution, (y + 1) * resolution) for y, x in points]
    ImageDraw.Draw(canvas).line(pixels, fill=255, width=max(1, round(2 * width)), joint="curve")
    small = canvas.resize((resolution, resolution), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)


def walk(site, length, steps, bend, generator, angle=None):
    """A random path that starts half its length before the site."""
    angle = uniform(generator, 0, 2 * pi) if angle is None else angle
    y, x = site[0] - length / 2 * sin(angle), site[1] - length / 2 * cos(angle)
    path = [(y, x)]
    for turn in (bend * torch.randn(steps, generator=generator)).tolist():
        angle += turn
        y, x = y + length / steps * sin(angle), x + length / steps * cos(angle)
        path.append((y, x))
    return path


def spot(site, size, resolution, generator, edge=0.15, ragged=0.35):
    """Soft irregular blob (R, R) in [0, 1]."""
    y, x = pixel_grid(resolution)
    a, stretch = uniform(generator, 0, pi), uniform(generator, 0.6, 1.6)
    v, u = y - site[0], x - site[1]
    v, u = (v * cos(a) - u * sin(a)) * stretch, (v * sin(a) + u * cos(a)) / stretch
    r = (v * v + u * u).sqrt() / size
    bumps = ragged * value_noise(generator, resolution, max(3, int(2.5 / size)))
    return ((1 + bumps - r) / edge).clamp(0, 1)


def mix(picture, colour, alpha):
    return picture + (colour - picture) * alpha


def tone(picture, site, generator, least=0.3):
    """A colour (3, 1, 1) that differs from the picture at the site by at least `least`."""
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


def scratch(p, site, size, g):
    line = stroke(walk(site, 3 * size + 0.1, 6, 0.12, g), uniform(g, 1.2, 3.5), p.shape[-1])
    return mix(p, tone(p, site, g), line * uniform(g, 0.75, 1.0))


def crack(p, site, size, g):
    R = p.shape[-1]
    path = walk(site, 2.5 * size + 0.15, 12, 0.6, g)
    lines = stroke(path, uniform(g, 1.5, 4.5), R)
    for _ in range(int(3 * uniform(g))):
        lines = torch.maximum(lines, stroke(walk(choose(g, path), size, 6, 0.6, g), 1.2, R))
    return mix(p, p * uniform(g, 0.05, 0.35), lines * 0.95)


def stain(p, site, size, g):
    return mix(p, tone(p, site, g),
               spot(site, size, p.shape[-1], g, uniform(g, 0.15, 0.6)) * uniform(g, 0.6, 1.0))


def hole(p, site, size, g):
    inside = spot(site, size, p.shape[-1], g, 0.12, uniform(g, 0, 0.3))
    rim = spot(site, size * 1.25, p.shape[-1], g, 0.3, 0.1)
    return mix(mix(p, p * 1.25 + 0.05, 0.5 * rim), torch.tensor(uniform(g, 0.02, 0.25)), inside)


def contamination(p, site, size, g):
    other = paint(random_material(g), g, p.shape[-1])
    return mix(p, other, spot(site, size, p.shape[-1], g, 0.1, 0.6) * uniform(g, 0.8, 1.0))


def thread(p, site, size, g):
    line = stroke(walk(site, 4 * size + 0.2, 24, 0.35, g), uniform(g, 1.2, 3.0), p.shape[-1])
    return mix(p, tone(p, site, g, 0.25), line)


def spots(p, site, size, g):
    for _ in range(1 + int(6 * uniform(g))):
        near = tuple(c + size * uniform(g, -1, 1) for c in site)
        p = mix(p, tone(p, near, g), spot(near, uniform(g, 0.03, 0.08), p.shape[-1], g, 0.5, 0.1))
    return p


def warped(p, site, size, g, push):
    """Resamples around the site; push (R, R, 2) is where each pixel looks, in half-pictures."""
    y, x = pixel_grid(p.shape[-1])
    near = torch.exp(-((y - site[0]) ** 2 + (x - site[1]) ** 2) / size**2)[..., None]
    where = torch.stack((x, y), -1) + near * push
    return F.grid_sample(p[None], where[None], align_corners=False, padding_mode="reflection")[0]


def bent(p, site, size, g):
    a = uniform(g, 0, 2 * pi)
    return warped(p, site, size + 0.08, g, (0.6 * size + 0.08) * torch.tensor([cos(a), sin(a)]))


def uneven(p, site, size, g):
    area = spot(site, size + 0.1, p.shape[-1], g, uniform(g, 0.05, 0.3), 0.3)
    flat = F.avg_pool2d(p[None], 9, 1, 4, count_include_pad=False)[0]
    changed = (flat * choose(g, (0.6, 0.75, 1.3, 1.5)) if uniform(g) < 0.6
               else p * choose(g, (0.5, 0.65, 1.35, 1.55)))
    return mix(p, changed, area)


def rough(p, site, size, g):
    grit = value_noise(g, p.shape[-1], 70) + white(g, p.shape[-1])
    return p + uniform(g, 0.25, 0.5) * grit * spot(site, size, p.shape[-1], g, 0.3)


def misplaced(p, site, size, g):
    shift = [int(c * p.shape[-1]) for c in (uniform(g, 0.1, 0.5), uniform(g, 0.1, 0.5))]
    moved = torch.roll(p if uniform(g) < 0.5 else p.transpose(1, 2), shift, (1, 2))
    y, x = pixel_grid(p.shape[-1])
    h, w = size * uniform(g, 0.5, 1.5), size * uniform(g, 0.5, 1.5)
    area = ((y - site[0]).abs() < h) & ((x - site[1]).abs() < w)
    return torch.where(area, moved, p)


def dent(p, site, size, g):
    """Pushed-in surface: bright on one flank, dark on the other, the texture pinched together."""
    y, x = pixel_grid(p.shape[-1])
    v, u, a, size = (y - site[0]), (x - site[1]), uniform(g, 0, 2 * pi), size + 0.06
    bump = torch.exp(-(v * v + u * u) / size**2)
    slope = (v * sin(a) + u * cos(a)) / size * bump
    pinched = warped(p, site, size, g, -0.3 * torch.stack((u, v), -1))
    return pinched * (1 + uniform(g, 0.6, 1.2) * slope)


def broken(p, site, size, g, behind):
    """A piece is missing: the background, or a darker inside, shows through."""
    area = spot(site, size + 0.06, p.shape[-1], g, 0.05, 0.5)
    inside = behind if uniform(g) < 0.7 else p * 0.4 + 0.1 * fractal(g, p.shape[-1], 12, 2)
    return mix(p, inside, area)


FLAW_KINDS = {
    "scratch": scratch, "crack": crack, "stain": stain, "hole": hole,
    "contamination": contamination, "thread": thread, "spots": spots, "bent": bent,
    "uneven": uneven, "rough": rough, "misplaced": misplaced, "broken": broken, "dent": dent,
}


def add_flaw(kind, picture, part, behind, generator):
    """Draws one defect on the part.

    picture, behind: (3, R, R), the part and the background alone;  part: (R, R) bool, where it is.
    Returns (picture, mask (R, R) bool).  A defect that came out invisible is drawn again, stronger.
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
        if (change > STRIKING).sum() >= 1.5e-3 * R * R:
            return flawed, mask
    return flawed, mask


def demo():
    generator = torch.Generator().manual_seed(0)
    picture = paint(random_material(generator, "metal"), generator, 64)
    part, behind = torch.ones(64, 64, dtype=torch.bool), torch.zeros(3, 64, 64)
    for kind in list(FLAW_KINDS)[-10:]:
        _, mask = add_flaw(kind, picture, part, behind, generator)
        print(f"{kind:13s} changes {mask.float().mean():6.2%} of the picture")


if __name__ == "__main__":
    demo()
