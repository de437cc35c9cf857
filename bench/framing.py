"""Remarks about framing: how often good pictures get one, and re-framed ones the right one.

    python -m bench.framing --data FOLDER --class bottle cookie commutator magnetic_tile

Good pictures are compared with K shots as they are, and once more after each change of CHANGES.  A
change counts as named if a remark says what it was.  No weights are needed.
The limits in data/framing.py were chosen on the good test pictures, about twenty settings compared.
`--pictures train` takes the training pictures that are no shots, which had no part in that choice
(what to measure was decided with both in view).
Left out: whether a change makes a good picture NG.
"""
import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from bench.measure import conditions
from bench.tables import write
from minilora.data.decoding import read_image
from minilora.data.framing import framing_remarks, measure_all, measure_framing
from minilora.data.images import to_patches
from minilora.data.mvtec import few_shot, load_class
from minilora.io.cli import option_parser, positive_int, seed_value

RESOLUTION, PATCH = 224, 16             # of ViT-B/16 and of the embedded model
PRODUCTS = ("bottle", "cookie", "commutator", "magnetic_tile")

Picture = Image.Image


# ---- changes ------------------------------------------------------------------------------------

def shrunk(picture: Picture, factor: float = 0.87) -> Picture:
    """The whole scene smaller, on a canvas of the old size; its outermost pixels are repeated."""
    sides = [round(side * factor) for side in picture.size]
    small = picture.resize(sides, Image.Resampling.LANCZOS)
    x, y = (old - new for old, new in zip(picture.size, small.size))
    pad = ((y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0))
    return Image.fromarray(np.pad(np.asarray(small), pad, mode="edge"))


def bordered(picture: Picture) -> Picture:
    """A grey border of 8 % of the shorter side."""
    return ImageOps.expand(picture, round(0.08 * min(picture.size)), (128, 128, 128))


def darker(picture: Picture) -> Picture:
    """All values times 0.8."""
    return picture.point(lambda value: 0.8 * value)


def blurred(picture: Picture) -> Picture:
    """A Gaussian blur with a standard deviation of two pixels of the detector's picture."""
    return picture.filter(ImageFilter.GaussianBlur(2 * min(picture.size) / RESOLUTION))


def cropped(picture: Picture) -> Picture:
    """The middle three quarters of the height."""
    width, height = picture.size
    return picture.crop((0, round(height / 8), width, height - round(height / 8)))


# {name: (function, words of which one must be in the remarks; none: any remark)}
CHANGES: dict[str, tuple[Callable[[Picture], Picture], tuple[str, ...]]] = {
    "object 13 % smaller": (shrunk, ("smaller",)), "grey border of 8 %": (bordered, ()),
    "20 % darker": (darker, ("darker",)), "blurred, 2 pixels": (blurred, ("blurred",)),
    "height cropped to 3/4": (cropped, ("aspect",))}


# ---- rates --------------------------------------------------------------------------------------

def measures_of(pictures: list[Picture]) -> list[dict[str, float]]:
    """`measure_framing` of each picture as a detector sees it."""
    return [measure_framing(to_patches(picture, RESOLUTION, PATCH)) for picture in pictures]


def named_rates(root: Path, product: str, shots: int, seeds: list[int],
                part: str = "test") -> dict[str, float]:
    """{"good pictures": share with any remark; change: share that is named}, over all seeds.

    part: "test", or "train" for the good training pictures that are no shots.
    """
    data = load_class(root, product)
    samples = [s for s in getattr(data, part) if s.label == 0]
    good = [read_image(s.path) for s in samples]
    measured = {"good pictures": measures_of(good)}
    measured |= {name: measures_of([change(p) for p in good])
                 for name, (change, _) in CHANGES.items()}
    hits = {name: [] for name in measured}
    for seed in seeds:
        drawn = few_shot(data.train, shots, seed)
        compared = measure_all(to_patches(read_image(s.path), RESOLUTION, PATCH) for s in drawn)
        paths = {s.path for s in drawn}
        for name, pictures in measured.items():
            words = CHANGES[name][1] if name in CHANGES else ()
            for sample, one in zip(samples, pictures):
                if sample.path in paths:
                    continue
                text = "; ".join(framing_remarks(one, compared))
                hits[name].append(any(word in text for word in words or ([text] if text else [])))
    return {name: statistics.fmean(found) for name, found in hits.items()}


def main() -> None:
    p = option_parser("bench.framing", __doc__)
    p.add_argument("--class", dest="names", nargs="+", default=list(PRODUCTS))
    p.add_argument("--data", type=Path, required=True, help="a folder in MVTec AD's layout")
    p.add_argument("--shots", type=positive_int, default=[8], nargs="+")
    p.add_argument("--seeds", type=seed_value, default=[1, 2, 3], nargs="+")
    p.add_argument("--pictures", choices=("test", "train"), default="test")
    p.add_argument("--out", type=Path, default=Path("bench/results"))
    p.add_argument("--name", default="framing")
    options: argparse.Namespace = p.parse_args()
    made, numbers = [], []
    for shots in options.shots:
        rates = {name: named_rates(options.data, name, shots, options.seeds, options.pictures)
                 for name in options.names}
        rows = [[name, *(f"{100 * rates[product][name]:.1f}" for product in options.names)]
                for name in ("good pictures", *CHANGES)]
        made.append((f"{shots} shots: pictures with a remark, per cent (good pictures: any remark; "
                     "others: one that names the change)", ["pictures", *options.names], rows))
        numbers += [(shots, product, name, rate) for product, found in rates.items()
                    for name, rate in found.items()]
    role = ("good test pictures, on which the limits were chosen" if options.pictures == "test" else
            "good training pictures that are no shots; they had no part in choosing the limits")
    write(options.out, options.name, made, [
        f"{role}; seeds {' '.join(map(str, options.seeds))}; {conditions()}"],
        (("shots", "class", "pictures", "rate"), numbers))


if __name__ == "__main__":
    main()
