"""A folder of pictures: MVTec AD's layout, the few-shot draw, a summary of what is there.

Bergmann et al. 2019 (MVTec AD) lay a class out as

    <root>/<class>/train/good/*.png                     good pictures, nothing else
    <root>/<class>/test/<kind>/*.png                    kind "good" or the name of a defect
    <root>/<class>/ground_truth/<kind>/<stem>_mask.png  255 where the defect is

and that is all a detector here reads. The few-shot draw is part of a result: K pictures are taken
from the sorted list by a seeded generator, so that "8 shots, seed 1" means the same pictures to
everybody. Turning files into pixels is `data/images.py`; its functions can be had from here as well.

Left out: downloading (the addresses move), validation splits, caching.
"""
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minilora.data.images import read_header
from minilora.io.cli import option_parser

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MOST = 20                       # lines of complaint about one class


@dataclass(frozen=True)
class Sample:
    """One picture: where it is, what is wrong with it, and where the mask of that is (or None)."""
    path: Path
    kind: str                   # "good" or the defect's folder
    label: int                  # 0 good, 1 defective
    mask_path: "Path | None" = None


@dataclass
class Dataset:
    """One class: good pictures to learn from, and pictures to be judged, both in sorted order."""
    root: Path
    name: str
    train: "list[Sample]" = field(default_factory=list)
    test: "list[Sample]" = field(default_factory=list)


def find_data(option=None):
    """The data folder: option, else $MINILORA_DATA, else data/mvtec here, else None (no data).

    What was named but is not there raises FileNotFoundError: never fall back in silence.
    """
    for source, named in (("--data", option), ("$MINILORA_DATA", os.environ.get("MINILORA_DATA"))):
        if named:
            if not Path(named).is_dir():
                raise FileNotFoundError(f"data folder {named} (from {source}) not found; expected "
                                        "<class>/train/good below it; correct the path")
            return Path(named)
    return Path("data/mvtec") if Path("data/mvtec").is_dir() else None


def list_classes(root):
    """Sorted names of the folders below root that hold train/good."""
    return sorted(p.name for p in Path(root).iterdir() if (p / "train" / "good").is_dir())


def _pictures(folder):
    """Picture files of a folder, sorted by name; hidden files (.DS_Store, ._000.png) are none."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found
                  if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))


def _kinds(folder):
    """Sorted names of the folders below folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in found if p.is_dir() and not p.name.startswith("."))


def _samples(base, split):
    """Every picture of <base>/<split>/<kind>, by kind, then by name."""
    samples = []
    for kind in _kinds(base / split):
        for path in _pictures(base / split / kind):
            mask = base / "ground_truth" / kind / f"{path.stem}_mask.png"
            known = kind != "good" and mask.is_file()
            samples.append(Sample(path, kind, int(kind != "good"), mask if known else None))
    return samples


def unequal_masks(samples):
    """The samples whose mask has another size than the picture, with both sizes."""
    for sample in samples:
        if sample.mask_path is not None:
            mask, picture = read_header(sample.mask_path)[1], read_header(sample.path)[1]
            if mask != picture:
                yield sample, mask, picture


def load_class(root, class_name):
    """The pictures of one class.  Raises FileNotFoundError (no such class, no good pictures) or
    ValueError (a mask of another size than its picture); each says what was found."""
    root = Path(root)
    base = root / class_name
    if not base.is_dir():
        found = list_classes(root) if root.is_dir() else []
        alone = (root / "train" / "good").is_dir()          # root is itself a class
        raise FileNotFoundError(
            f"class {class_name!r} not found in {root}; it holds {', '.join(found) or 'no class'}; "
            + ("give the folder above it" if alone else "choose one of these"))
    train = [Sample(p, "good", 0) for p in _pictures(base / "train" / "good")]
    if not train:
        raise FileNotFoundError(f"{base / 'train' / 'good'} holds no picture; expected good ones, "
                                f"ending in {', '.join(SUFFIXES)}; put some there")
    test = _samples(base, "test")
    for sample, mask, picture in unequal_masks(test):
        raise ValueError(
            f"mask {sample.mask_path} is {mask[0]}x{mask[1]}, its picture {sample.path} "
            f"{picture[0]}x{picture[1]}; expected the same size; export the mask again")
    return Dataset(root, class_name, train, test)


def parse_shots(text):
    """What --shots says: a number from 0, or "all".  Raises ValueError for anything else."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise ValueError(f"--shots {text}: expected a whole number from 0, or 'all'")
    return int(text)


def few_shot(samples, shots, seed):
    """Draws K = shots samples (an int, or "all") by seed, whatever order they come in.

    A smaller draw is the beginning of a larger one from the same seed.  "all" is the sorted list.
    """
    samples = sorted(samples, key=lambda s: Path(s.path).as_posix())
    if shots == "all":
        return samples
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 0:
        raise ValueError(f"shots is {shots!r}; expected a whole number from 0 upwards, or 'all'")
    if shots > len(samples):
        raise ValueError(f"{shots} shots asked for, but there are only {len(samples)} good "
                         f"pictures; take at most {len(samples)}, or 'all'")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return [samples[i] for i in order[:shots].tolist()]


def _sizes(counts):
    """A Counter of (width, height) in a few words."""
    if len(counts) <= 3:
        return ", ".join(f"{w}x{h}" for (w, h), _ in counts.most_common())
    sides = [f"{min(s)}-{max(s)}" for s in zip(*counts)]
    return f"{len(counts)} sizes, {sides[0]} wide, {sides[1]} high"


def _faults(base, train, test, readable):
    """What is out of order in a class, a line each; what can be many comes last."""
    if not train:
        yield "no picture in train/good"
    for sample, mask, picture in unequal_masks(readable):
        yield (f"mask {mask[0]}x{mask[1]}, picture {picture[0]}x{picture[1]}: "
               f"{sample.path.relative_to(base)}")
    used = {s.mask_path for s in test}
    for kind in _kinds(base / "ground_truth"):
        for path in _pictures(base / "ground_truth" / kind):
            if path not in used:
                yield f"mask without picture: {path.relative_to(base)}"
    for sample in test:
        if sample.label and sample.mask_path is None:
            yield f"mask missing: {sample.path.relative_to(base)}"


def _class_summary(base):
    """Lines about one class: counts per kind, sizes and modes, masks, and what is out of order."""
    train, test = _samples(base, "train"), _samples(base, "test")
    headers, faults, readable = [], [], []
    for sample in train + test:
        try:
            headers.append(read_header(sample.path))
            if sample.mask_path is not None:
                read_header(sample.mask_path)
            readable.append(sample)
        except ValueError as error:             # a summary names the file and goes on
            faults.append(str(error))
    for split, samples in (("train", train), ("test", test)):
        kinds = Counter(s.kind for s in samples).items()
        yield f"  {split:6}{len(samples):5}   " + ", ".join(f"{k} {n}" for k, n in kinds)
    modes = Counter(mode for mode, _ in headers)
    yield f"  {_sizes(Counter(size for _, size in headers))}; " + ", ".join(
        f"{mode} {n}" for mode, n in modes.items())
    masks = [s.mask_path is not None for s in test if s.label]
    yield f"  masks {sum(masks)} of {len(masks)}"
    faults.extend(_faults(base, train, test, readable))
    yield from (f"  ! {fault}" for fault in faults[:MOST])
    if len(faults) > MOST:
        yield f"  ! and {len(faults) - MOST} more"


def data_summary(root):
    """Lines that say what a data folder holds: classes, counts, sizes, modes, what is missing."""
    root = Path(root)
    classes = list_classes(root) if root.is_dir() else []
    if not classes:
        raise FileNotFoundError(f"no class found in {root}; expected <class>/train/good below it; "
                                "give the folder that holds the classes")
    for name in classes:
        yield name
        yield from _class_summary(root / name)


def demo():
    """Which pictures a draw takes."""
    files = [Sample(Path(f"bottle/train/good/{i:03}.png"), "good", 0) for i in range(20)]
    for seed in (1, 2, 3):
        for shots in (4, 8):
            draw = few_shot(files, shots, seed)
            print(f"seed {seed}, {shots} shots:", *(s.path.stem for s in draw))
    same = few_shot(files[::-1], 8, 1) == few_shot(files, 8, 1)
    print("the same from the list backwards:", same)
    try:
        few_shot(files, 21, 1)
    except ValueError as error:
        print("an error:", error)


def main():
    """Prints a summary of a data folder: classes, counts, sizes, modes, missing masks."""
    parser = option_parser("minilora.data", main.__doc__)
    parser.add_argument("dir", nargs="?", metavar="DIR",
                        help="folder with <class>/train/good; without it a demonstration")
    folder = parser.parse_args().dir
    if folder is None:
        return demo()
    for line in data_summary(folder):
        print(line)


if __name__ == "__main__":
    demo()
