"""What a mask is to other programs: regions with boxes, polygons along their edges, run lengths.

    regions     8-neighbours that touch belong together (metrics/aupro.py)
    polygons    along the edges between pixels, so that nothing is rounded; holes apart
    runs        COCO's run-length code: columns one after another, lengths of 0s and 1s in turn,
                0s first (pycocotools, maskApi.h)

Symbols: H x W pixels.  Leaves out: simplified outlines, the compressed string form of the runs.
"""
from dataclasses import dataclass

import torch

from minilora.metrics.aupro import connected_regions

# a step along an edge, and the ways to go on from there: a left turn first, so that pixels which
# touch at a corner stay in one outline
TURN_LEFT = {(0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0), (1, 0): (0, 1)}
TURN_RIGHT = {there: here for here, there in TURN_LEFT.items()}


@dataclass(frozen=True)
class Region:
    """One connected region.  box: (left, top, width, height) in pixels;  area: pixels."""
    mask: torch.Tensor
    box: tuple
    area: int


def regions(mask, least=1):
    """Regions of a mask, bool (H, W), the largest first; those under `least` pixels left out."""
    places = mask.nonzero()                                                 # (M, 2)
    if not len(places):
        return []
    number = connected_regions(mask[None])
    found = []
    for k in range(int(number.max()) + 1):
        rows, columns = places[number == k].T
        own = torch.zeros_like(mask)
        own[rows, columns] = True
        box = (columns.min(), rows.min(), columns.max() - columns.min() + 1,
               rows.max() - rows.min() + 1)
        if len(rows) >= least:
            found.append(Region(own, tuple(int(v) for v in box), len(rows)))
    return sorted(found, key=lambda region: -region.area)


def edges(mask):
    """{corner: [steps]}: all edges between inside and outside, the inside to their right.

    Corners are (row, column) from 0 to H and W; a step is a unit vector (rows, columns).
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


def outlines(mask):
    """Closed outlines of a mask, bool (H, W): (outer ones, holes), lists of [(x, y), ...] corners.

    Outer ones run clockwise on the screen, holes the other way.
    """
    left, outer, holes = edges(mask), [], []
    while left:
        start = min(left)
        place, step, corners, doubled = start, left[start][0], [], 0
        while True:
            left[place].remove(step)
            if not left[place]:
                del left[place]
            place = place[0] + step[0], place[1] + step[1]
            ways = left.get(place, ())
            turn = next((way for way in (TURN_LEFT[step], step, TURN_RIGHT[step]) if way in ways), None)
            if turn != step:                            # a corner, or the end
                corners.append((place[1], place[0]))
            if turn is None:
                break
            step = turn
        for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1]):
            doubled += x * v - u * y                    # shoelace formula, y downwards
        (outer if doubled > 0 else holes).append(corners)
    return outer, holes


def to_runs(mask):
    """COCO's {"size": [H, W], "counts": [...]} of a mask, bool (H, W)."""
    flat = mask.T.flatten().int()                                           # column by column
    change = torch.nn.functional.pad(flat, (1, 0)).diff().nonzero()[:, 0].tolist()
    places = [0, *change, len(flat)]
    return {"size": list(mask.shape), "counts": [b - a for a, b in zip(places, places[1:])]}


def from_runs(runs):
    """The inverse of `to_runs`.  Raises ValueError if the counts do not fill the picture."""
    (height, width), counts = runs["size"], runs["counts"]
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"run lengths: expected {height * width} pixels in all, found "
                         f"{sum(counts)}; the file is damaged")
    values = torch.arange(len(counts)) % 2 == 1
    return values.repeat_interleave(torch.tensor(counts)).view(width, height).T


def demo():
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
    runs = to_runs(mask)
    print("runs", runs["counts"], "and back:", torch.equal(from_runs(runs), mask))


if __name__ == "__main__":
    demo()
