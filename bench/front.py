"""The picture at the top of the README: one panel each of four fitted products, and their numbers.

    python -m bench.front

Fits the four products of PANELS with eight good pictures at the default configuration.  Each panel
is the first test picture of one kind of defect, not a chosen one.  front.txt states the defaults,
so a picture of earlier defaults is noticed.
Left out: photographs.
"""
import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench import measure
from bench.tables import write
from minilora.io.files import atomic_write

PANELS = {"bottle": "broken", "gear": "broken", "leather": "crack", "cable": "thread"}
HEADER = ("class", "picture", "score", "threshold", "image AUROC of the class, %")


def stack_panels(paths: Sequence[Path]) -> Image.Image:
    """One picture with all panels below one another."""
    panels = [Image.open(path).convert("RGB") for path in paths]
    width = max(p.width for p in panels)
    sheet = Image.new("RGB", (width, sum(p.height for p in panels)), "white")
    top = 0
    for p in panels:
        sheet.paste(p, (0, top))
        top += p.height
    return sheet


def row_of(run: Path, kind: str) -> tuple[str, ...]:
    """The numbers of one panel, as text: those of HEADER."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    with open(run / "scores.csv", encoding="utf-8", newline="") as file:
        score = next(float(row["score"]) for row in csv.DictReader(file)
                     if Path(row["file"]).parts[-2:] == (kind, "000.png"))
    return (metrics["class"], f"{kind}/000.png", f"{score:.3f}", f"{metrics['threshold']:.3f}",
            f"{100 * metrics['rows']['adapted']['image_auroc']:.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--shots", type=int, default=8)
    p.add_argument("--out", type=Path, default=Path("runs/front"), help="folder of the runs")
    p.add_argument("--name", default="front", help="NAME.png, and NAME.txt, .md, .csv")
    options = p.parse_args(arguments)
    runs = options.out.resolve() / "runs"               # finished runs are not repeated
    subprocess.run([sys.executable, "-m", "minilora.fit", "--class", *PANELS, "--shots",
                    str(options.shots), "--out", str(runs)], cwd=measure.REPO, check=True)
    panels = [runs / name / "maps" / f"{kind}-000.jpg" for name, kind in PANELS.items()]
    with atomic_write(options.out / f"{options.name}.png") as file:
        stack_panels(panels).quantize(256).save(file, "PNG", optimize=True)
    rows = [row_of(runs / name, kind) for name, kind in PANELS.items()]
    head = [f"{measure.conditions()}; embedded scenes, {options.shots} shots; the first test "
            "picture of each kind"]
    write(options.out, options.name, [("the panels from top to bottom", HEADER, rows)], head,
          (HEADER, rows))


if __name__ == "__main__":
    main()
