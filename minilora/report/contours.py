"""Masks in the form that annotation formats need: regions with boxes, polygons, run lengths.

    regions     marked pixels that touch, 8 neighbours
    polygons    along the edges between pixels, so nothing is rounded; holes are separate
    RLE         COCO's run-length encoding: pixels column by column, alternating lengths of runs of
                0s and of 1s, beginning with 0s (pycocotools, maskApi.h)

Claim: time and memory grow with the outlines of the regions, not with their pixels.  A region is
kept as the runs of marked pixels in its rows; two runs of neighbouring rows belong together if they
overlap or touch at a corner.

Symbols: H x W pixels, N runs.
Left out: simplified outlines, the compressed string form of the RLE.
"""
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.metrics.aupro import joined

# A step along an edge -> the step after a turn.  Outlines try the left turn first, so pixels that
# touch only at a corner stay in one outline.
TURN_LEFT = {(0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0), (1, 0): (0, 1)}
TURN_RIGHT = {after: before for before, after in TURN_LEFT.items()}

Point = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """One connected region.  box: (left, top, width, height) in pixels;  area: pixels.

    runs: int64 (N, 3): row, first column, column after the last one; sorted.
    """
    runs: Tensor
    box: tuple[int, int, int, int]
    area: int

    @property
    def mask(self) -> Tensor:
        """The region inside its box, bool (height, width)."""
        left, top, width, height = self.box
        change = torch.zeros(height, width + 1, dtype=torch.int8)
        row, first, end = (self.runs - torch.tensor([top, left, left])).T
        change[row, first], change[row, end] = 1, -1
        return change.cumsum(1, dtype=torch.int8)[:, :width].bool()


def runs_of(mask: Tensor) -> Tensor:
    """Runs of marked pixels in the rows of a mask, bool (H, W): int64 (N, 3) as in `Region`."""
    change = F.pad(mask.to(torch.int8), (1, 1)).diff(dim=1)                 # (H, W + 1)
    starts, ends = (change == 1).nonzero(), (change == -1).nonzero()        # (N, 2)
    return torch.cat([starts, ends[:, 1:]], 1)


def touching_runs(runs: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of runs, (pairs,) and (pairs,), that touch from one row to the next.  runs: (N, 3)."""
    row, first, end = runs.T
    stride = int(end.max()) + 2             # a place (row, column) as one number, in sorted order
    above = (row - 1) * stride
    low = torch.searchsorted(row * stride + end, above + first)             # ends at `first` or on
    high = torch.searchsorted(row * stride + first, above + end, right=True)
    counts = (high - low).clamp(min=0)
    second = torch.arange(len(runs)).repeat_interleave(counts)
    place = torch.arange(len(second)) - (counts.cumsum(0) - counts)[second]
    return low[second] + place, second


def regions(mask: Tensor, min_area: int = 1) -> list[Region]:
    """Regions of a mask, bool (H, W), with at least `min_area` pixels, the largest first."""
    runs = runs_of(mask)                                                    # (N, 3)
    if not len(runs):
        return []
    number = joined(len(runs), *touching_runs(runs))                        # (N,) of its region
    lengths = runs[:, 2] - runs[:, 1]
    area = torch.zeros(int(number.max()) + 1, dtype=torch.int64).index_add(0, number, lengths)
    large = (area >= min_area).nonzero()[:, 0]
    kept = torch.isin(number, large)
    runs, number = runs[kept], number[kept]
    order = number.argsort(stable=True)
    parts = runs[order].split(number.unique(return_counts=True)[1].tolist()) if len(runs) else ()
    return sorted((Region(part, box_of(part), n) for part, n in zip(parts, area[large].tolist())),
                  key=lambda region: -region.area)


def box_of(runs: Tensor) -> tuple[int, int, int, int]:
    """(left, top, width, height) around sorted runs, (N, 3)."""
    left, top = int(runs[:, 1].min()), int(runs[0, 0])
    return left, top, int(runs[:, 2].max()) - left, int(runs[-1, 0]) - top + 1


def count_edges(mask: Tensor) -> int:
    """Number of pixel edges between inside and outside of a mask, bool (H, W)."""
    padded = F.pad(mask.to(torch.int8), (1, 1, 1, 1))
    return sum(int(padded.diff(dim=dim).count_nonzero()) for dim in (0, 1))


def boundary_steps(mask: Tensor) -> dict[Point, list[Point]]:
    """{corner: [steps]}: all pixel edges between inside and outside, with the inside on the right.

    Corners are (row, column), from 0 to H and W; a step is a unit vector (rows, columns).
    """
    padded = F.pad(mask, (1, 1, 1, 1))
    inside, out = padded[1:-1, 1:-1], {}
    for step, neighbour, corner in (((0, 1), padded[:-2, 1:-1], (0, 0)),    # along the top
                                    ((1, 0), padded[1:-1, 2:], (0, 1)),     # down the right side
                                    ((0, -1), padded[2:, 1:-1], (1, 1)),    # back along the bottom
                                    ((-1, 0), padded[1:-1, :-2], (1, 0))):  # up the left side
        for row, column in (inside & ~neighbour).nonzero().tolist():
            out.setdefault((row + corner[0], column + corner[1]), []).append(step)
    return out


def outlines(mask: Tensor) -> tuple[list[list[Point]], list[list[Point]]]:
    """Closed outlines of a mask, bool (H, W): (outer outlines, holes), each [(x, y), ...] corners.

    On the screen outer outlines run clockwise, holes counterclockwise.
    """
    remaining, outer, holes = boundary_steps(mask), [], []
    for start in sorted(remaining):
        while start in remaining:
            corners = follow_outline(remaining, start)
            doubled_area = sum(x * v - u * y                # shoelace formula, y downwards
                               for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1]))
            (outer if doubled_area > 0 else holes).append(corners)
    return outer, holes


def follow_outline(remaining: dict[Point, list[Point]], start: Point) -> list[Point]:
    """The corners (x, y) of the outline through `start`; its steps are taken out of `remaining`."""
    place, step, corners = start, remaining[start][0], []
    while True:
        remaining[place].remove(step)
        if not remaining[place]:
            del remaining[place]
        place = place[0] + step[0], place[1] + step[1]
        options = remaining.get(place, ())
        following = next((s for s in (TURN_LEFT[step], step, TURN_RIGHT[step]) if s in options),
                         None)
        if following != step:                               # a corner, or the end of the outline
            corners.append((place[1], place[0]))
        if following is None:
            return corners
        step = following


def encode_rle(mask: Tensor, left: int = 0, top: int = 0,
               size: tuple[int, int] | None = None) -> dict[str, Any]:
    """COCO's {"size": [H, W], "counts": [run lengths]} of a mask, bool (H, W).

    left, top, size: where the mask lies in a picture of size (H, W); outside nothing is marked.
    """
    height, width = size or mask.shape
    columns = runs_of(mask.T)                               # a run for each column: (N, 3)
    first, end = (((columns[:, 0] + left) * height + top)[:, None] + columns[:, 1:]).T
    apart = end[:-1] != first[1:]                           # else one run goes over two columns
    first = first[F.pad(apart, (1, 0), value=True)[:len(first)]]
    end = end[F.pad(apart, (0, 1), value=True)[:len(end)]]
    places = torch.stack([first, end], 1).flatten()
    places = F.pad(places, (1, 0)).tolist() + [height * width] * (
        not len(end) or int(end[-1]) < height * width)
    return {"size": [height, width], "counts": [b - a for a, b in zip(places, places[1:])]}


def decode_rle(rle: dict[str, Any]) -> Tensor:
    """The mask, bool (H, W), of `encode_rle`.  Raises ValueError if the counts do not fill it."""
    (height, width), counts = rle["size"], rle["counts"]
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"run lengths: expected {height * width} pixels in all, found "
                         f"{sum(counts)}; the file is damaged, export it again")
    values = torch.arange(len(counts)) % 2 == 1
    return values.repeat_interleave(torch.tensor(counts)).view(width, height).T


def demo() -> None:
    """Regions of a small mask with a hole, and its run lengths."""
    mask = torch.zeros(7, 10, dtype=torch.bool)
    mask[1:5, 1:6] = True
    mask[2:4, 3] = False                                                    # a hole
    mask[5, 6] = True                                                       # touches at a corner
    mask[0, 9] = True
    for row in mask:
        print("   ", "".join("#" if x else "." for x in row))
    for region in regions(mask):
        outer, holes = outlines(region.mask)
        print(f"box {region.box}, {region.area} pixels, outline of {len(outer[0])} corners, "
              f"{len(holes)} holes")
    rle = encode_rle(mask)
    print("run lengths", rle["counts"], "decoded again:", torch.equal(decode_rle(rle), mask))


if __name__ == "__main__":
    demo()
