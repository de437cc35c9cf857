"""Masks in the form that annotation formats need: regions with boxes, polygons, run lengths.

    regions     marked pixels that touch, 8 neighbours (metrics/aupro.py)
    polygons    along the edges between pixels, so nothing is rounded; holes are separate
    RLE         COCO's run-length encoding: pixels column by column, alternating lengths of runs of
                0s and of 1s, beginning with 0s (pycocotools, maskApi.h)

Symbols: H x W pixels, M marked pixels.
Left out: simplified outlines, the compressed string form of the RLE.
"""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilora.metrics.aupro import connected_regions

# A step along an edge -> the step after a turn.  Outlines try the left turn first, so pixels that
# touch only at a corner stay in one outline.
TURN_LEFT = {(0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0), (1, 0): (0, 1)}
TURN_RIGHT = {after: before for before, after in TURN_LEFT.items()}

Point = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """One connected region.  box: (left, top, width, height) in pixels;  area: pixels."""
    mask: Tensor                                # bool (H, W)
    box: tuple[int, int, int, int]
    area: int


def regions(mask: Tensor, least: int = 1) -> list[Region]:
    """Regions of a mask, bool (H, W), the largest first, without those of under `least` pixels."""
    places = mask.nonzero()                                                 # (M, 2)
    if not len(places):
        return []
    number = connected_regions(mask[None])
    kept = []
    for k in range(int(number.max()) + 1):
        rows, columns = places[number == k].T
        own = torch.zeros_like(mask)
        own[rows, columns] = True
        box = (columns.min(), rows.min(), columns.max() - columns.min() + 1,
               rows.max() - rows.min() + 1)
        if len(rows) >= least:
            kept.append(Region(own, tuple(int(v) for v in box), len(rows)))
    return sorted(kept, key=lambda region: -region.area)


def boundary_steps(mask: Tensor) -> dict[Point, list[Point]]:
    """{corner: [steps]}: all pixel edges between inside and outside, with the inside on the right.

    Corners are (row, column), from 0 to H and W; a step is a unit vector (rows, columns).
    """
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
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
    while remaining:
        start = min(remaining)
        place, step, corners, doubled_area = start, remaining[start][0], [], 0
        while True:
            remaining[place].remove(step)
            if not remaining[place]:
                del remaining[place]
            place = place[0] + step[0], place[1] + step[1]
            options = remaining.get(place, ())
            following = next((s for s in (TURN_LEFT[step], step, TURN_RIGHT[step]) if s in options),
                             None)
            if following != step:                       # a corner, or the end of the outline
                corners.append((place[1], place[0]))
            if following is None:
                break
            step = following
        for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1]):
            doubled_area += x * v - u * y               # shoelace formula, y downwards
        (outer if doubled_area > 0 else holes).append(corners)
    return outer, holes


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """COCO's {"size": [H, W], "counts": [run lengths]} of a mask, bool (H, W)."""
    flat = mask.T.flatten().int()                                           # column by column
    change = torch.nn.functional.pad(flat, (1, 0)).diff().nonzero()[:, 0].tolist()
    places = [0, *change, len(flat)]
    return {"size": list(mask.shape), "counts": [b - a for a, b in zip(places, places[1:])]}


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
