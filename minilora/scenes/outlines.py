"""Outlines of drawn products: each family is a short list of shapes, painted from back to front.

A shape is a signed distance (R, R), see scenes/signed_distance.py.  A `Style` is drawn once per
product: geometry and materials, which all its pictures share.  A `Pose` is drawn once per picture:
where the part lies.

Left out: perspective; a part is seen exactly from above or from the side.
Symbols: R resolution;  y down, x right, in (-1, 1);
    n   numbers in [0, 1) drawn per product, so that all its pictures share their geometry
    m   numbers in [0, 1) drawn per picture, for products whose shape varies
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import torch
from torch import Tensor

from minilora.scenes.materials import COLOURS, GREY, Material, pixel_grid, random_material
from minilora.scenes.signed_distance import (around, blob, box, disc, lattice, polar, polygon,
                                             ring, union)
from minilora.synthetic.sampling import choose, uniform

Numbers = Sequence[float]


@dataclass(frozen=True)
class Pose:
    """Shift in units of half the picture, angle in radians, scale close to one."""

    dy: float = 0.0
    dx: float = 0.0
    angle: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Style:
    """What all pictures of one product share."""

    family: str
    numbers: tuple[float, ...]      # geometry in [0, 1), used by the family in this order
    layers: tuple[Material, ...]    # one material per shape
    turns: float                    # largest rotation in a picture, in either direction, radians
    background: Material


# One function per family: (y, x, n, m) -> shapes from back to front.


def bottle(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A bottle seen from above: nested discs and a highlight."""
    outer = 0.82 + 0.1 * n[0]
    radii = [outer, outer - 0.06, outer - 0.13 - 0.05 * n[1], outer - 0.24 - 0.08 * n[2],
             0.40 + 0.12 * n[3]]
    glint = ring(y, x, radii[3] + 0.035, radii[3] + 0.01)
    return ([disc(y, x, r) for r in radii[:4]]
            + [torch.minimum(glint, y * 0.5 + x - 0.1), disc(y, x, radii[4])])


def washer(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A ring, perhaps with a groove."""
    return ([ring(y, x, 0.6 + 0.3 * n[0], 0.2 + 0.25 * n[1])]
            + ([ring(y, x, 0.55, 0.5)] if n[2] > 0.5 else []))


def nut(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A hexagon with a threaded hole."""
    hole = 0.25 + 0.15 * n[0]
    hexagon = torch.minimum(polygon(y, x, 6, 0.75 + 0.15 * n[1]), -disc(y, x, hole))
    return [hexagon, ring(y, x, hole + 0.12, hole), ring(y, x, hole + 0.04, hole)]


def gear(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A toothed wheel with a hole."""
    teeth, size = 9 + int(10 * n[0]), 0.72 + 0.1 * n[1]
    wheel = polar(y, x, lambda a: size + 0.09 * (3 * torch.sin(teeth * a)).clamp(-1, 1))
    hole = 0.14 + 0.12 * n[2]
    return [torch.minimum(wheel, -disc(y, x, hole)), ring(y, x, size - 0.16, hole + 0.12)]


def plate(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A rectangular plate, perhaps with four holes."""
    height, width = 0.45 + 0.45 * n[0], 0.6 + 0.3 * n[1]
    body = box(y, x, height, width, 0.02 + 0.2 * n[2])
    bore = lambda v, u: disc(v, u, 0.07 + 0.05 * n[3])
    holes = union(*(bore(y - s * (height - 0.18), x - t * (width - 0.18))
                    for s in (-1, 1) for t in (-1, 1)))
    return [torch.minimum(body, -holes) if n[4] > 0.4 else body,
            box(y, x, height * 0.45, width * 0.5, 0.05)]


def capsule(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A pill of two halves with a highlight."""
    half = 0.22 + 0.15 * n[0]
    pill = box(y, x, half, 0.78 + 0.1 * n[1], half)
    return [pill, torch.minimum(pill, x - 0.25 + 0.5 * n[2]),
            box(y + half * 0.45, x, 0.03, 0.5, 0.03)]


def screw(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A screw from the side: head, slot and thread."""
    head, shaft = 0.24 + 0.12 * n[0], 0.09 + 0.08 * n[1]
    body = box(y, x - 0.15, shaft, 0.72, 0.03)
    pitch = torch.sin((50 + 30 * n[2]) * (x + 0.3 * y))
    thread = box(y, x - 0.35, shaft + 0.04 * pitch, 0.52, 0.02)
    return [union(body, box(y, x + 0.68, head, 0.14, 0.06)), thread,
            box(y, x + 0.74, head * 0.7, 0.05, 0.02)]


def button(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A disc with two to six holes and a rim."""
    rim = 0.65 + 0.25 * n[0]
    holes = around(y, x, 2 + 2 * int(2 * n[1] + 0.5), 0.2 + 0.1 * n[2],
                   lambda v, u: disc(v, u, 0.08 + 0.04 * n[3]), pi / 4)
    return [torch.minimum(disc(y, x, rim), -holes), torch.minimum(disc(y, x, rim - 0.14), -holes)]


def bracket(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """Two arms with two holes: an L or a T."""
    thick = 0.15 + 0.12 * n[0]
    arms = union(box(y - 0.7 + thick, x, thick, 0.75, 0.04),
                 box(y, x + 0.75 - thick - 0.7 * (n[1] > 0.6), 0.7, thick, 0.04))
    holes = union(disc(y - 0.7 + thick, x - 0.55, 0.07),
                  disc(y + 0.5, x + 0.75 - thick - 0.7 * (n[1] > 0.6), 0.07))
    return [torch.minimum(arms, -holes)]


def cookie(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """An irregular disc, different in every picture."""
    return [blob(y, x * (0.85 + 0.3 * m[0]), 0.62 + 0.15 * n[0], m),
            blob(y, x * (0.85 + 0.3 * m[0]), 0.5 + 0.1 * n[0], m[2:])]


def nutshell(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A kernel with a spot, different in every picture."""
    kernel = blob(y, x * (0.8 + 0.3 * n[0]), 0.68 + 0.1 * n[1], m, 3)
    return [kernel, torch.minimum(kernel, blob(y - 0.55, x, 0.4 + 0.1 * n[2], m, 3)),
            disc(y + 0.1, x, 0.1 * n[3])]


def cable(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """The cross-section of a cable: sheath, two to five wires, strands."""
    count = 2 + int(4 * n[0])
    wire = {2: 0.36, 3: 0.32, 4: 0.27, 5: 0.23}[count]
    away = 0.78 - wire
    wires = [disc(y - away * sin(a), x - away * cos(a), wire)
             for a in (2 * pi * k / count for k in range(count))]
    strand = lambda p, q: disc(p, q, wire * 0.085)
    cores = around(y, x, count, away, lambda v, u: lattice(v, u, 7, 7, wire * 0.62, strand))
    return [disc(y, x, 0.88)] + wires + [cores]


def board(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A circuit board: tracks, pads and four chips."""
    chips = [box(y - 1.1 * n[k] + 0.55, x - 1.1 * n[k + 1] + 0.55,
                 0.06 + 0.2 * n[k + 2], 0.06 + 0.2 * n[k + 1]) for k in range(0, 8, 2)]
    legs = lattice(y, x, 9, 12, 0.75, lambda v, u: disc(v, u, 0.02))
    tracks = union(*(box(y - 1.4 * n[k] + 0.7, x - 0.3 * n[k + 1], 0.012, 0.6) for k in range(6)))
    return [box(y, x, 0.86, 0.86, 0.03), tracks, legs] + chips


def chip(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A chip with legs on two sides, a pin-one mark and a label."""
    count, half = 3 + int(4 * n[0]), 0.3 + 0.15 * n[1]
    legs = union(*(box(y, x - 1.2 * (k + 0.5) / count + 0.6, 0.85, 0.035) for k in range(count)))
    return [legs, box(y, x, half, 0.7, 0.04), disc(y + half * 0.5, x + 0.52, 0.06),
            box(y, x, 0.05, 0.25)]


def brush(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A handle with a grid of tufts."""
    rows, cols = 6 + int(4 * n[0]), 8 + int(6 * n[1])
    tuft = lambda v, u: disc(v, u, 0.4 / max(rows, cols) + 0.015)
    return [box(y, x, 0.75, 0.85, 0.3), lattice(y, x, rows, cols, 0.62, tuft)]


def knob(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A lobed knob with a cap and a pointer."""
    lobes = 3 + int(5 * n[0])
    star = polar(y, x, lambda a: 0.68 + 0.14 * torch.cos(lobes * a))
    return [star, disc(y, x, 0.4), box(y + 0.2, x, 0.16, 0.03)]


def zipper(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """Fabric, teeth and the line between the two sides."""
    teeth = 14 + int(10 * n[0])
    tooth = lambda v, u: box(v, u, 0.55 / teeth, 0.16 + 0.08 * n[1], 0.01)
    side = lattice(y, x, teeth, 1, 1.0, tooth)
    return [box(y, x, 1.5, 0.75), side, box(y, x, 1.5, 0.02)]


def sheet(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """No shape: the material fills the picture."""
    return []


def mesh(y: Tensor, x: Tensor, n: Numbers, m: Numbers) -> list[Tensor]:
    """A wire mesh, upright or diagonal."""
    bars, wide = 7 + int(6 * n[0]), 0.035 + 0.03 * n[1]
    turn = 0.785 * (n[2] > 0.5)
    v, u = y * cos(turn) - x * sin(turn), y * sin(turn) + x * cos(turn)
    fold = lambda t: (torch.remainder(t, 2 / bars) - 1 / bars).abs()
    return [wide - torch.minimum(fold(v), fold(u))]


FAMILIES = {f.__name__: f for f in (
    bottle, washer, nut, gear, plate, capsule, screw, button, bracket, cookie, nutshell, cable,
    board, chip, brush, knob, zipper, sheet, mesh)}
ROUND = ("bottle", "washer", "button", "cookie", "nutshell")  # any rotation is allowed


def random_style(generator: torch.Generator, family: str | None = None) -> Style:
    """A random product of a family, or of a random one."""
    family = family or choose(generator, list(FAMILIES))
    numbers = tuple(torch.rand(12, generator=generator).tolist())
    layers = tuple(random_material(generator, "baked" if family == "cookie" and k == 0 else None)
                   for k in range(9))
    turns = pi if family in ROUND else choose(generator, (0.05, 0.3, pi))
    if family in ("sheet", "mesh", "zipper"):
        turns = 0.04
    plain = random_material(generator, choose(generator, ("plastic", "paper", "iron", "metal")),
                            choose(generator, GREY if uniform(generator) < 0.8 else list(COLOURS)),
                            contrast=max(0.004, uniform(generator, -0.04, 0.10)))
    return Style(family, numbers, layers, turns, plain)


def random_pose(style: Style, generator: torch.Generator) -> Pose:
    """A small shift, a rotation that the product allows, a scale."""
    spread = 0.0 if style.family in ("sheet", "mesh") else 0.06
    return Pose(uniform(generator, -spread, spread), uniform(generator, -spread, spread),
                uniform(generator, -style.turns, style.turns), uniform(generator, 0.9, 1.02))


def shapes(style: Style, pose: Pose, generator: torch.Generator,
           resolution: int) -> list[Tensor]:
    """The signed distances of a product's shapes in pixels, back to front: list of (R, R)."""
    y, x = pixel_grid(resolution)
    y, x = (y - pose.dy) / pose.scale, (x - pose.dx) / pose.scale
    v, u = y * cos(pose.angle) - x * sin(pose.angle), y * sin(pose.angle) + x * cos(pose.angle)
    own = tuple(torch.rand(8, generator=generator).tolist())
    return [d * (resolution / 2 * pose.scale)
            for d in FAMILIES[style.family](v, u, style.numbers, own)]


def demo() -> None:
    """How many shapes ten families have, and how much of the picture the first one covers."""
    generator = torch.Generator().manual_seed(0)
    for family in list(FAMILIES)[:10]:
        style = random_style(generator, family)
        layers = shapes(style, random_pose(style, generator), generator, 64)
        covered = sum((d > 0).float().mean() for d in layers[:1])
        print(f"{family:9s} {len(layers)} shapes, the first covers {covered:.0%}")


if __name__ == "__main__":
    demo()
