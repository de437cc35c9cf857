"""The picture at the top of the README: panels of finished runs, one below the other.

    python -m minilora.fit --class all --shots 8 --out runs/scenes
    python -m bench.front runs/scenes/bottle/maps/broken-000.jpg runs/scenes/gear/maps/…

Leaves out: choosing; whoever calls it names the panels.
"""
import argparse
from pathlib import Path

from PIL import Image

from minilora.io.files import whole_file


def stacked(paths):
    """Pictures of one width below one another, PIL."""
    panels = [Image.open(path).convert("RGB") for path in paths]
    width = max(p.width for p in panels)
    sheet = Image.new("RGB", (width, sum(p.height for p in panels)), "white")
    top = 0
    for p in panels:
        sheet.paste(p, (0, top))
        top += p.height
    return sheet


def main():
    p = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__.split("\n")[0])
    p.add_argument("panels", nargs="+", type=Path, help="pictures below maps/ of run folders")
    p.add_argument("--out", type=Path, default=Path("bench/results/front.png"))
    options = p.parse_args()
    with whole_file(options.out) as file:
        stacked(options.panels).quantize(256).save(file, "PNG", optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
