"""Charts of the measures taken while the embedded model was trained, drawn from its log.

    python -m bench.training            writes weights/mini-clip.svg from mini-clip.log.csv

Left out: training losses; they are in the log.
"""
import argparse
import csv
from pathlib import Path

from minilora.io.files import atomic_write
from minilora.report.svg import CHART_HEIGHT, CHART_WIDTH, line_chart

TOP = Path(__file__).resolve().parent.parent
COLOURS = ("#0b62c4", "#b3450b", "#2e7d32", "#7a4fb5", "#555555")
STYLE = ("<style>text { font: 11px sans-serif; fill: #222 } .grid { stroke: #d5dbe1 } polyline { "
         "fill: none; stroke-width: 2 } " + " ".join(f".line-{k} {{ stroke: {colour} }}"
                                                     for k, colour in enumerate(COLOURS))
         + "</style>")
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


def drawing(rows: list[dict[str, float]]) -> str:
    """One SVG with all charts next to one another, for the columns that the log contains."""
    parts = []
    for title, names in CHARTS:
        series = {label: [((row["step"] + 1) / 1000, row[key]) for row in rows if key in row]
                  for key, label in names.items()}
        series = {label: points for label, points in series.items() if points}
        if series:
            low = min(y for points in series.values() for _, y in points)
            bottom = 0.5 if low > 0.5 else 0
            chart = line_chart(title, "thousand steps", title, series, y_range=(bottom, 1))
            x = len(parts) * CHART_WIDTH
            place = f'<svg x="{x}" width="{CHART_WIDTH}" height="{CHART_HEIGHT}" '
            parts.append(chart.replace("<svg ", place, 1))
    width = len(parts) * CHART_WIDTH
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {CHART_HEIGHT}" '
            f'width="{width}"><rect width="100%" height="100%" fill="white"/>{STYLE}'
            + "".join(parts) + "</svg>\n")


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__.split("\n")[0])
    p.add_argument("--log", type=Path, default=TOP / "weights/mini-clip.log.csv")
    p.add_argument("--out", type=Path, default=TOP / "weights/mini-clip.svg")
    options = p.parse_args()
    with atomic_write(options.out, "w") as file:
        file.write(drawing(measured(options.log)))


if __name__ == "__main__":
    main()
