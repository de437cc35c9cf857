"""What decides memory: rank correlations, and the two pairs of rows that show it best.

A rank correlation sees the order and not the size: one percent more memory counts as much as three
times more.  So two comparisons of sizes stand beside it: rows with the same number of blocks with
a gradient, and rows with a similar number of trained parameters.
Left out: a model of the memory (formulas.py).
"""
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

SIMILAR = 2                     # numbers of trained parameters within this factor are "similar"


class Point(NamedTuple):
    """One row.  peak: bytes above the weights;  plain: float32 without checkpointing."""
    name: str
    trained: int
    blocks: int
    peak: int
    plain: bool


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's correlation of the ranks.  NaN if a or b is constant.
    """
    middle = (len(a) + 1) / 2
    x, y = ([rank - middle for rank in ranks(values)] for values in (a, b))
    norm = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(u * v for u, v in zip(x, y)) / norm if norm else math.nan


def same_blocks(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """Among rows with the same number of blocks, the two whose trained parameters differ most."""
    pairs = [(a, b) for a, b in itertools.permutations(points, 2)
             if a.blocks == b.blocks and a.trained < b.trained]
    return max(pairs, key=lambda pair: pair[1].trained / pair[0].trained, default=None)


def similar_trained(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """Among rows with similar trained parameters, the two whose peaks differ most."""
    pairs = [(a, b) for a, b in itertools.permutations(points, 2)
             if 1 / SIMILAR <= a.trained / b.trained <= SIMILAR and a.peak < b.peak]
    return max(pairs, key=lambda pair: pair[1].peak / pair[0].peak, default=None)


def against(words: str, pair: tuple[Point, Point] | None) -> list[str]:
    """A line that compares two rows, [] without them."""
    if pair is None:
        return []
    a, b = pair
    factor, share = b.trained / a.trained, b.peak / a.peak
    return [f"{words}: \"{b.name}\" ({b.blocks} blocks) trains "
            f"{factor:,.{2 * (factor < 10)}f} times the parameters of \"{a.name}\" ({a.blocks} "
            f"blocks) and needs {share:.2f} times its memory above the weights"]


def lines(points: Sequence[Point]) -> list[str]:
    """Lines for the head of the table.  The pairs are taken from the plain rows only."""
    plain = [p for p in points if p.plain]
    chosen = {"in float32 without checkpointing": plain}
    if len(points) > len(plain):
        chosen["of all conditions"] = points
    made = [f"rank correlation (Spearman) of the peak above the weights, {len(some)} rows {words}: "
            f"with trained parameters {spearman([p.trained for p in some], peaks):.2f}, with "
            f"blocks with a gradient {spearman([p.blocks for p in some], peaks):.2f}"
            for words, some in chosen.items() if len(peaks := [p.peak for p in some]) > 2]
    return (made + against("same number of blocks", same_blocks(plain))
            + against("similar number of trained parameters", similar_trained(plain)))
