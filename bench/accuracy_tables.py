"""The tables of accuracy: mean ± standard deviation over the seeds, per cent, and the CSV file.

Left out: the cells that they are made of (accuracy.py), the files (tables.py).
"""
import statistics
from collections.abc import Sequence

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
DECISIONS = {"false_alarms": "good test pictures that the threshold calls NG",
             "detected": "defective test pictures that the threshold calls NG"}


def spread(values: list[float | None]) -> str:
    """Mean ± sample standard deviation, per cent."""
    values = [100 * v for v in values if v is not None]
    if not values:
        return "--"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def tables(found: dict, names: Sequence[str], apart: Sequence[str] = ()) -> list[tuple]:
    """One table for each metric: [(title, header, rows)], all text.

    apart: names of classes whose mean has a column of its own.
    """
    out = []
    groups = {"mean": names, " and ".join(apart): apart} if len(names) > 1 else {}
    groups = {title: group for title, group in groups.items() if group and set(group) <= set(names)}
    for key, title in (METRICS | DECISIONS).items():
        lines = []
        for row in dict.fromkeys(row for (row, _), seeds in found.items() if key in seeds[0]):
            values = {name: [m[key] for m in found.get((row, name), [])] for name in names}
            means = {name: statistics.mean(v) for name, v in values.items() if v and None not in v}
            whole = [spread([statistics.mean(means[n] for n in group if n in means)])
                     if means.keys() & set(group) else "--" for group in groups.values()]
            lines.append([row, *map(spread, values.values()), *whole])
        if lines:
            out.append((f"{title}, per cent", ["row", *names, *groups], lines))
    return out


def numbers(found: dict) -> tuple[Sequence[str], list[list]]:
    """(header, rows) of the CSV file: one row per seed, metrics as shares from 0 to 1."""
    keys = list(dict.fromkeys(k for seeds in found.values() for metrics in seeds for k in metrics))

    def cells(metrics):
        values = [metrics.get(key) for key in keys]
        return [f"{v:.6f}" if isinstance(v, float) else "" if v is None else v for v in values]
    return ("row", "class", *keys), [[row, name, *cells(metrics)]
                                     for (row, name), seeds in found.items() for metrics in seeds]
