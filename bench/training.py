"""Charts of the measures taken while the embedded model was trained, drawn from its log.

    python -m bench.training            writes weights/mini-clip.svg from mini-clip.log.csv

Left out: training losses; they are in the log.
"""
import argparse
import csv
from pathlib import Path

from minilora.charts.drawing import Drawing, side_by_side
from minilora.charts.plots import line_plot
from minilora.charts.writers import write_drawing

TOP = Path(__file__).resolve().parent.parent
CHARTS = (("teacher's variance explained", {f"explained{n}": f"layer {n}" for n in (9, 18, 30, 39)}
           | {"explained51": "whole picture"}),
          ("zero-shot accuracy", {"names": "photographs", "accuracy": "drawn scenes"}),
          ("damaged or flawless, AUROC", {"photo_auroc": "photographs", "auroc": "drawn scenes"}),
          ("plain memory, image AUROC", {"memory_bottle": "bottle", "memory_cookie": "cookie",
                                         "memory_magnetic_tile": "magnetic_tile",
                                         "memory_commutator": "commutator"}))


def measured(path: Path) -> list[dict[str, float]]:
    """[{column: number}] of the steps of a log at which measures were taken."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{key: float(value) for key, value in row.items() if value} for row in rows
                if row["accuracy"]]


def drawing(rows: list[dict[str, float]]) -> Drawing:
    """All charts next to one another, for the columns that the log contains."""
    charts = []
    for title, names in CHARTS:
        series = {label: [((row["step"] + 1) / 1000, row[key]) for row in rows if key in row]
                  for key, label in names.items()}
        series = {label: points for label, points in series.items() if points}
        if series:
            low = min(y for points in series.values() for _, y in points)
            bottom = 0.5 if low > 0.5 else 0
            charts.append(line_plot(title, "thousand steps", title, series, y_range=(bottom, 1)))
    return side_by_side("measures while the embedded model was trained", charts)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__.split("\n")[0])
    p.add_argument("--log", type=Path, default=TOP / "weights/mini-clip.log.csv")
    p.add_argument("--out", type=Path, default=TOP / "weights/mini-clip.svg")
    options = p.parse_args()
    write_drawing(options.out, drawing(measured(options.log)))


if __name__ == "__main__":
    main()
