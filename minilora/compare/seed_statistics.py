"""Mean and standard deviation over seeds, for every class, row and column.

    mean  m = sum x_i / n                standard deviation  s = sqrt(sum (x_i - m)^2 / (n - 1))

The standard deviation is that of a sample; one seed has none.  The mean over the classes is formed
for each seed first, over classes that all have this seed, and then over the seeds.

Claim: two means whose intervals m ± s overlap widely do not show that one method is better.
Left out: tests of significance; three seeds are too few for them.
"""
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from minilora.compare.run_results import SHOWN_METRICS, RunResult, column_name
from minilora.rows import ROWS

ALL_CLASSES = "mean"                            # name of the group of lines over all classes


class Values(NamedTuple):
    """The numbers of one cell, {seed: fraction in [0, 1]}."""
    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a sample; None for a single seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


Cells = dict[tuple[str, str, str], Values]      # {(class, row, column): values} of one metric


class Comparison(NamedTuple):
    """All numbers, and the order in which they are shown."""
    classes: list[str]                          # the last one is ALL_CLASSES, if there are several
    rows: list[str]
    columns: list[str]                          # headings
    shots: dict[str, int]                       # of each column
    cells: dict[str, Cells]                     # {metric: cells}, only metrics that were measured


def compared(results: list[RunResult], differing: list[str],
             chosen: Iterable[str] = ()) -> Comparison:
    """The comparison of runs.  differing: of `differing_facts`;  chosen: rows, () for all."""
    results = sorted(results, key=lambda r: (r.shots, column_name(r, differing), r.seed))
    classes = sorted({result.class_name for result in results})
    rows = [row for row in ROWS if any(row in result.rows for result in results)
            and row in (tuple(chosen) or ROWS)]
    shots = {column_name(result, differing): result.shots for result in results}
    cells = {metric: {} for metric in SHOWN_METRICS}
    for result in results:
        for row in rows:
            for metric, value in result.rows.get(row, {}).items():
                if value is not None:
                    place = result.class_name, row, column_name(result, differing)
                    cells[metric].setdefault(place, Values({})).by_seed[result.seed] = value
    if len(classes) > 1:
        for found in cells.values():
            found |= means_over_classes(found, classes, rows, shots)
        classes.append(ALL_CLASSES)
    return Comparison(classes, rows, list(shots), shots, {m: c for m, c in cells.items() if c})


def means_over_classes(cells: Cells, classes: list[str], rows: list[str],
                       columns: Iterable[str]) -> Cells:
    """The mean over the classes in each row and column, for the seeds that all classes have.

    A row or column that lacks a class has no mean: it would be over other classes than the rest.
    """
    means = {}
    for row in rows:
        for column in columns:
            values = [cells.get((name, row, column)) for name in classes]
            if None in values:
                continue
            seeds = sorted(set.intersection(*(set(v.by_seed) for v in values)))
            if seeds:
                means[ALL_CLASSES, row, column] = Values(
                    {seed: statistics.mean(v.by_seed[seed] for v in values) for seed in seeds})
    return means


def seeds_text(comparison: Comparison) -> str:
    """The seeds of the numbers: "seeds 1, 2, 3", and that some have fewer."""
    found = [tuple(values.by_seed) for cells in comparison.cells.values()
             for values in cells.values()]
    seeds = sorted({seed for own in found for seed in own})
    fewer = "; some numbers are over fewer seeds" if len({len(own) for own in found}) > 1 else ""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{fewer}"


def demo() -> None:
    """Two classes and three seeds; one class lacks the third seed."""
    cells = {("bottle", "memory", "8 shots"): Values({1: 0.99, 2: 0.98, 3: 0.97}),
             ("tile", "memory", "8 shots"): Values({1: 0.81, 2: 0.76})}
    cells |= means_over_classes(cells, ["bottle", "tile"], ["memory"], ["8 shots"])
    for (name, row, column), values in cells.items():
        print(f"{name:7s} {row} {column}: {values.mean:.3f} ± {values.deviation:.3f} over seeds",
              *values.by_seed)


if __name__ == "__main__":
    demo()
