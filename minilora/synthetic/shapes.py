"""Where a defect is: soft-edged regions of random place, size and shape, and Perlin noise.

A region is a matrix alpha (R, R) in [0, 1]: 1 inside, 0 outside, a ramp of a few pixels between.
All shapes but the crack are made in the same way. Local coordinates u, v are rotated, stretched and
scaled so that the unit disc has the wanted area. A shape is a "radius" rho(u, v) that equals 1 on
its outline. Then (1 - rho), scaled back to pixels, approximates the distance to the outline, from
which the ramp is made.

    disc, blob   rho = |(u, v)| / outline(angle)          smooth, with low harmonics
    bar          rho = max(|u|, |v|) * 2 / sqrt(pi)       CutPaste's patch, or its scar if stretched
    shard        rho = max of some linear functions       a convex polygon
    cloud        rho = |(u, v)| + noise, cut off at a rank, so that the area is exact
    crack        discs along a random walk

Perlin noise: K. Perlin, "An image synthesizer" (1985), with the fade of "Improving noise" (2002).

Symbols: R resolution.
Left out: anything about colour; see synthetic/textures.py.
"""
import math
from collections.abc import Sequence
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.synthetic.sampling import choose, uniform

OBJECT_CELLS = 28              # cells per side of the grid on which the object is searched for


def perlin_noise(resolution: int, cells: int | tuple[int, int],
                 generator: torch.Generator) -> Tensor:
    """Gradient noise (R, R) in about [-1, 1], zero on the corners of its cells.

    cells: number of cells along each side, or (rows, columns) for noise with a direction.
    """
    rows, cols = cells if isinstance(cells, tuple) else (cells, cells)
    angle = 2 * math.pi * torch.rand(rows + 1, cols + 1, generator=generator)
    slopes = angle.sin(), angle.cos()                       # one gradient per corner
    i, y, fy = _cell(resolution, rows)                      # cell, place in it, its fade curve
    j, x, fx = _cell(resolution, cols)

    def ramp(di, dj):                                       # (R, R), zero at corner (di, dj)
        gy, gx = (s[i + di][:, j + dj] for s in slopes)
        return gy * (y - di)[:, None] + gx * (x - dj)

    top = torch.lerp(ramp(0, 0), ramp(0, 1), fx)            # (R,) broadcasts over rows
    bottom = torch.lerp(ramp(1, 0), ramp(1, 1), fx)
    return math.sqrt(2) * torch.lerp(top, bottom, fy[:, None])


@lru_cache(maxsize=64)
def _cell(resolution, cells):
    """For each of R pixels along a side: its cell, its place in it in [0, 1), the fade of that."""
    t = (torch.arange(resolution) + 0.5) * cells / resolution
    f = t - t.floor()
    return t.long(), f, f * f * f * (f * (6 * f - 15) + 10)     # 6t^5 - 15t^4 + 10t^3


@lru_cache(maxsize=32)
def _rows_and_columns(resolution):
    """Row and column of each pixel, (R, R) each."""
    line = torch.arange(resolution, dtype=torch.float32)
    return torch.meshgrid(line, line, indexing="ij")


def find_object(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """A simple segmentation of the object: cells whose colour differs from the picture's border.

    pixels: (3, R, R) in [0, 1].  Returns the cells, bool (28, 28), true on the object, and the
    background, (3, R, R), continued smoothly behind the object.
    Returns all cells and None if no object is found: if the border has no uniform colour (as with
    a texture that fills the frame), or if nearly all or nearly no cells differ from it.
    """
    small = F.adaptive_avg_pool2d(pixels, OBJECT_CELLS)                         # (3, 28, 28)
    border = torch.cat([small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]], 1)
    usual = border.median(1).values                                             # (3,)
    difference = (small - usual[:, None, None]).abs().amax(0)                   # (28, 28)
    spread = (border - usual[:, None]).abs().amax(0)                            # (108,)
    inner = F.pad(torch.ones(OBJECT_CELLS - 4, OBJECT_CELLS - 4, dtype=torch.bool), (2, 2, 2, 2))
    cells = (difference > 0.12) & inner
    if ((spread < 0.12).float().mean() < 0.7 or not 0.04 < cells.float().mean() < 0.9
            or difference[cells].mean() < 4 * spread.mean()):       # the border varies as much
        return torch.ones_like(cells), None
    return cells, _background(small, cells, pixels.shape[-1])


def _background(small, cells, resolution):
    """The background of a picture (3, 28, 28), continued behind the object, (3, R, R).

    Each cell becomes the mean over a large square in which object cells have almost no weight.
    """
    near = F.max_pool2d(cells.float()[None], 3, stride=1, padding=1)            # mixed cells too
    weight = 1 - near + 1e-4
    sums = torch.cat([small * weight, weight])[None]                            # (1, 4, 28, 28)
    sums = F.avg_pool2d(F.avg_pool2d(sums, 11, 1, 5), 11, 1, 5)
    return F.interpolate(sums[:, :3] / sums[:, 3:], (resolution, resolution), mode="bilinear")[0]


def object_rim(cells: Tensor) -> Tensor:
    """The object cells that touch the background.  cells: bool (28, 28); returns the same shape."""
    outside = F.max_pool2d((~cells).float()[None], 3, stride=1, padding=1)[0] > 0
    return cells & outside


def random_point(cells: Tensor, resolution: int, generator: torch.Generator) -> list[float]:
    """A random point [row, column] in pixels inside a true cell; anywhere if no cell is true."""
    inside = cells.nonzero()
    if not len(inside):
        inside = torch.ones_like(cells).nonzero()
    point = choose(generator, inside) + torch.rand(2, generator=generator)      # in cells
    return (point * resolution / OBJECT_CELLS - 0.5).tolist()


def dilate(mask: Tensor, reach: int) -> Tensor:
    """Every true pixel of a mask, bool (R, R), becomes a square of side 2 * reach + 1.

    A maximum filter, made of shifted copies: ten times as fast as max_pool2d.
    """
    for dim, pad in enumerate(((0, 0, reach, reach), (reach, reach))):
        padded = F.pad(mask, pad)
        mask = reduce(torch.logical_or, (padded.narrow(dim, k, mask.shape[dim])
                                         for k in range(2 * reach + 1)))
    return mask


def region(shape: str, resolution: int, centre: Sequence[float], area: float,
           generator: torch.Generator, stretch: float = 1.0, angle: float | None = None,
           soft: float = 1.0) -> Tensor:
    """alpha (R, R) of one of SHAPES.

    centre: (row, column) in pixels;  area: in pixels, approximate;
    stretch: length / width, from 1;  angle: between the length and the rows, in radians, random by
    default;  soft: width of the ramp in pixels across the length (it is wider at the two ends).
    """
    if angle is None:
        angle = uniform(generator, 0, math.pi)
    y, x = _rows_and_columns(resolution)
    y, x = y - centre[0], x - centre[1]
    radius, root = math.sqrt(area / math.pi), math.sqrt(stretch)
    u = (x * math.cos(angle) + y * math.sin(angle)) / (radius * root)
    v = (y * math.cos(angle) - x * math.sin(angle)) * root / radius
    rho = SHAPES[shape](u, v, area, generator)                                  # (R, R)
    return ((1 - rho) * (radius / root / soft) + 0.5).clamp_(0, 1)


def _disc(u, v, area, generator):
    return torch.hypot(u, v)


def _bar(u, v, area, generator):
    return torch.maximum(u.abs(), v.abs()) * (2 / math.sqrt(math.pi))           # side sqrt(pi)


def _blob(u, v, area, generator):
    """A disc whose outline has bumps: harmonics 2 to 6; finer ones are weaker."""
    theta, outline = torch.atan2(v, u), torch.ones_like(u)
    for k in range(2, 7):
        outline = outline + (uniform(generator, 0, 0.7 / k)
                             * (k * theta + uniform(generator, 0, 2 * math.pi)).cos())
    return torch.hypot(u, v) / outline.clamp(min=0.2)


def _shard(u, v, area, generator):
    """Three to seven straight edges at random distances from the centre."""
    edges = choose(generator, (3, 4, 5, 6, 7))
    rotation = uniform(generator, 0, 2 * math.pi)
    rho = torch.full_like(u, -9.0)
    for k in range(edges):
        theta = rotation + (k + uniform(generator, -0.25, 0.25)) * 2 * math.pi / edges
        side = (u * math.cos(theta) + v * math.sin(theta)) / uniform(generator, 0.6, 1.0)
        rho = torch.maximum(rho, side)
    return rho


def _cloud(u, v, area, generator):
    """DRAEM's mask, Perlin noise above a threshold; here the threshold that gives the area."""
    resolution = len(u)
    scale = max(2, round(0.7 * resolution / math.sqrt(area)))                   # cells fit the size
    noise = perlin_noise(resolution, min(scale, 32), generator)
    noise = noise + 0.5 * perlin_noise(resolution, min(3 * scale, 64), generator)
    rho = torch.hypot(u, v) / 2 + noise
    rank = min(max(round(area), 1), rho.numel() - 1)
    return 1 + rho - rho.flatten().kthvalue(rank).values


SHAPES = {"disc": _disc, "bar": _bar, "blob": _blob, "shard": _shard, "cloud": _cloud}


def crack_shape(resolution: int, centre: Sequence[float], length: float, width: float,
                generator: torch.Generator, wander: float = 0.25) -> Tensor:
    """alpha (R, R) of an irregular line: discs along a random walk, smaller towards both ends.

    centre: (row, column) of the middle of the line;  length, width: in pixels;  wander: standard
    deviation of the change of direction per step of two pixels, in radians (0: a straight scratch).
    """
    steps = max(4, round(length / 2))
    turns = torch.randn(steps, generator=generator) * wander
    heading = uniform(generator, 0, 2 * math.pi) + turns.cumsum(0)
    path = 2 * torch.stack([heading.sin(), heading.cos()], 1).cumsum(0)         # (steps, 2)
    path = path - path[steps // 2] + torch.tensor(centre)
    s = torch.linspace(-1, 1, steps)
    uneven = (1 + 0.3 * torch.randn(steps, generator=generator)).clamp(0.4, 1.6)
    radius = width / 2 * (1 - s * s).clamp(min=0.05).sqrt() * uneven            # thin at both ends
    reach = int(width) + 2
    y, x = _rows_and_columns(2 * reach + 1)
    window = torch.stack([y, x], -1).view(-1, 2) - reach                        # offsets, pixels
    points = path.round()[:, None] + window                                     # (steps, n, 2)
    distance = (points - path[:, None]).norm(dim=-1)                            # (steps, n)
    value = (radius[:, None] - distance + 0.5).clamp(0, 1)
    keep = ((points >= 0) & (points < resolution)).all(-1) & (value > 0)
    where = (points[..., 0] * resolution + points[..., 1])[keep].long()
    alpha = torch.zeros(resolution * resolution)
    alpha.scatter_reduce_(0, where, value[keep], "amax")                        # overlapping discs
    return alpha.view(resolution, resolution)


def demo() -> None:
    """Areas of the regions against the wanted area, and a crack drawn with characters."""
    g = torch.Generator().manual_seed(0)
    noise = perlin_noise(64, 4, g)
    print(f"Perlin noise: mean {noise.mean():+.2f}, from {noise.min():+.2f} to {noise.max():+.2f}")
    print("wanted area 2 % of 224 x 224 pixels, mean area of 20 regions:")
    for shape in SHAPES:
        area = [region(shape, 224, (112, 112), 0.02 * 224 ** 2, g).mean() for _ in range(20)]
        print(f"  {shape:6} {sum(area) / 20:.2%}")
    alpha = crack_shape(32, (16, 16), 40, 2, g)[8:24:4]
    print("a crack, every 4th row:")
    for row in alpha.tolist():
        print("  " + "".join(" .+#"[round(3 * value)] for value in row))


if __name__ == "__main__":
    demo()
