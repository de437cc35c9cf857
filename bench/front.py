"""The picture at the top of the README: panels of finished runs, stacked vertically.

    python -m minilora.fit --class all --shots 8 --out runs/scenes
    python -m bench.front runs/scenes/bottle/maps/broken-000.jpg runs/scenes/gear/maps/…

Left out: choosing the panels; the command line names them.
"""
import argparse
from pathlib import Path

from PIL import Image

from minilora.io.files import atomic_write


def stack_panels(paths: list[Path]) -> Image.Image:
    """One picture with all panels below one another."""
    panels = [Image.open(path).convert("RGB") for path in paths]
    width = max(p.width for p in panels)
    sheet = Image.new("RGB", (width, sum(p.height for p in panels)), "white")
    top = 0
    for p in panels:
        sheet.paste(p, (0, top))
        top += p.height
    return sheet


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__.split("\n")[0])
    p.add_argument("panels", nargs="+", type=Path, help="pictures below maps/ of run folders")
    p.add_argument("--out", type=Path, default=Path("bench/results/front.png"))
    options = p.parse_args()
    with atomic_write(options.out) as file:
        stack_panels(options.panels).quantize(256).save(file, "PNG", optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
