"""Basic shapes as signed distances: discs, boxes, polygons, and copies of them.

A signed distance d (R, R) is positive inside the shape, zero on its edge and negative outside.  The
soft mask of a shape is clamp(d + 1/2, 0, 1), with d in pixels.  The formulas of boxes and unions
are well known; Inigo Quilez collected them ("2D distance functions",
https://iquilezles.org/articles/distfunctions2d/).

Claim: with signed distances, union is a maximum, intersection a minimum and complement a minus
sign, so a few lines draw a complicated part.

Symbols: R resolution;  y down, x right, each (R, R) in (-1, 1);  r radius, a angle.
Left out: which shapes a product consists of (scenes/outlines.py); exact distances of polygons.
"""

from collections.abc import Callable, Sequence
from math import cos, pi, sin

import torch
from torch import Tensor

from minilora.scenes.materials import pixel_grid

Shape = Callable[[Tensor, Tensor], Tensor]      # (y, x) -> signed distance


def disc(y: Tensor, x: Tensor, r: float) -> Tensor:
    """A disc around the origin."""
    return r - (y * y + x * x).sqrt()


def box(y: Tensor, x: Tensor, half_height: float | Tensor,
        half_width: float | Tensor, corner: float = 0.0) -> Tensor:
    """A rectangle around the origin; corner: radius of its rounded corners."""
    qy, qx = y.abs() - half_height + corner, x.abs() - half_width + corner
    outside = (qy.clamp(min=0) ** 2 + qx.clamp(min=0) ** 2).sqrt()
    return corner - outside - torch.maximum(qy, qx).clamp(max=0)


def polar(y: Tensor, x: Tensor, outline: Callable[[Tensor], Tensor]) -> Tensor:
    """A shape whose edge has the radius outline(a) at angle a; exact only along the radius."""
    return outline(torch.atan2(y, x)) - (y * y + x * x).sqrt()


def polygon(y: Tensor, x: Tensor, corners: int, r: float) -> Tensor:
    """A regular polygon with circumradius r."""
    step = 2 * pi / corners
    return polar(y, x, lambda a: r * cos(step / 2) / torch.cos(torch.remainder(a, step) - step / 2))


def ring(y: Tensor, x: Tensor, outer: float, inner: float) -> Tensor:
    """A disc of radius `outer` with a hole of radius `inner`."""
    return torch.minimum(disc(y, x, outer), -disc(y, x, inner))


def blob(y: Tensor, x: Tensor, r: float, n: Sequence[float], lumps: int = 4) -> Tensor:
    """An irregular round shape; n: numbers in [0, 1) that decide its outline."""

    def outline(a):
        bumps = sum((n[k % len(n)] - 0.3) * torch.cos((k + 2) * a + 6 * n[(k + 1) % len(n)])
                    / (k + 1.5) for k in range(lumps))
        return r * (1 + 0.12 * bumps)

    return polar(y, x, outline)


def union(*shapes: Tensor) -> Tensor:
    """All points that lie in at least one of the shapes."""
    return torch.stack(shapes).amax(0)


def around(y: Tensor, x: Tensor, count: int, radius: float, make: Shape,
           phase: float = 0.0) -> Tensor:
    """`count` copies of a shape on a circle, the first at angle `phase`."""
    angles = [phase + 2 * pi * k / count for k in range(count)]
    return union(*(make(y - radius * sin(a), x - radius * cos(a)) for a in angles))


def lattice(y: Tensor, x: Tensor, rows: int, cols: int, half: float, make: Shape) -> Tensor:
    """Copies of a shape on a grid within (-half, half): coordinates are folded into one cell."""
    fold = lambda t, n: torch.remainder(t + half, 2 * half / n) - half / n
    return torch.minimum(make(fold(y, rows), fold(x, cols)), box(y, x, half, half))


def demo() -> None:
    """The share of the picture that each shape covers: pixels counted, and by its area formula."""
    y, x = pixel_grid(256)
    for name, distance, area in (
            ("disc, r 0.5", disc(y, x, 0.5), pi / 4),
            ("box, 0.6 x 1.0", box(y, x, 0.3, 0.5), 0.6),
            ("hexagon, r 0.5", polygon(y, x, 6, 0.5), 1.5 * 3 ** 0.5 / 4),
            ("ring, 0.5 to 0.3", ring(y, x, 0.5, 0.3), pi * 0.16),
            ("4 x 4 discs, r 0.1", lattice(y, x, 4, 4, 1, lambda v, u: disc(v, u, 0.1)),
             16 * pi / 100)):
        print(f"{name:18s} covers {(distance > 0).float().mean():6.2%}, formula {area / 4:6.2%}")


if __name__ == "__main__":
    demo()
