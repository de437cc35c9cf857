"""A folder of pictures: MVTec AD's layout, the few-shot draw, a summary of the content.

Bergmann et al. 2019 (MVTec AD) store a class as

    <root>/<class>/train/good/*.png                     good pictures, nothing else
    <root>/<class>/test/<kind>/*.png                    kind: "good" or the name of a defect
    <root>/<class>/ground_truth/<kind>/<stem>_mask.png  255 where the defect is

and a detector needs nothing else.

Claim: the few-shot draw is part of a result. A seeded generator takes K pictures from the sorted
list, so "8 shots, seed 1" means the same pictures for everybody.

Symbols: K shots.
Left out: downloading (the addresses change), validation splits, caching, pixels (data/images.py).
"""
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minilora.data.images import read_header
from minilora.io.cli import option_parser

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_FAULTS_SHOWN = 20           # faults of one class that the summary lists


@dataclass(frozen=True)
class Sample:
    """One picture: its path, the kind of its defect, and the path of its mask (None: no mask)."""
    path: Path
    kind: str                   # "good" or the name of the defect's folder
    label: int | None           # 0 good, 1 defective, None unknown
    mask_path: Path | None = None


@dataclass
class Dataset:
    """One class: good pictures for training, and test pictures, both in sorted order."""
    root: Path
    name: str
    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)


def find_data(option: str | Path | None = None) -> Path | None:
    """The data folder: `option`, else $MINILORA_DATA, else ./data/mvtec, else None (no data).

    Raises FileNotFoundError if the option or the variable names a folder that does not exist: the
    next possibility is never used silently.
    """
    for source, named in (("--data", option), ("$MINILORA_DATA", os.environ.get("MINILORA_DATA"))):
        if named:
            if not Path(named).is_dir():
                raise FileNotFoundError(f"data folder {named} (from {source}) not found; expected "
                                        "a folder with <class>/train/good in it; correct the path")
            return Path(named)
    return Path("data/mvtec") if Path("data/mvtec").is_dir() else None


def list_classes(root: str | Path) -> list[str]:
    """Sorted names of the folders in root that contain train/good."""
    return sorted(p.name for p in Path(root).iterdir() if (p / "train" / "good").is_dir())


def _pictures(folder):
    """Picture files of a folder, sorted by name, without hidden files (.DS_Store, ._000.png)."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
                  and not p.name.startswith("."))


def _kinds(folder):
    """Sorted names of the folders in a folder."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in entries if p.is_dir() and not p.name.startswith("."))


def _samples(base, split):
    """Every picture of <base>/<split>/<kind>, sorted by kind, then by name."""
    samples = []
    for kind in _kinds(base / split):
        for path in _pictures(base / split / kind):
            mask = base / "ground_truth" / kind / f"{path.stem}_mask.png"
            has_mask = kind != "good" and mask.is_file()
            samples.append(Sample(path, kind, int(kind != "good"), mask if has_mask else None))
    return samples


def unequal_masks(
        samples: Iterable[Sample]) -> Iterator[tuple[Sample, tuple[int, int], tuple[int, int]]]:
    """(sample, size of its mask, size of its picture) wherever the sizes (width, height) differ."""
    for sample in samples:
        if sample.mask_path is not None:
            mask, picture = read_header(sample.mask_path)[1], read_header(sample.path)[1]
            if mask != picture:
                yield sample, mask, picture


def load_class(root: str | Path, class_name: str) -> Dataset:
    """The pictures of one class.

    Raises FileNotFoundError if there is no such class or it has no good pictures, ValueError if a
    mask has another size than its picture.
    """
    root = Path(root)
    base = root / class_name
    if not base.is_dir():
        classes = list_classes(root) if root.is_dir() else []
        is_class = (root / "train" / "good").is_dir()       # root itself is the folder of a class
        raise FileNotFoundError(
            f"class {class_name!r} not found in {root}; it holds "
            f"{', '.join(classes) or 'no class'}; "
            + ("give the folder above it" if is_class else "choose one of these"))
    train = [Sample(p, "good", 0) for p in _pictures(base / "train" / "good")]
    if not train:
        raise FileNotFoundError(f"{base / 'train' / 'good'} holds no picture; expected good "
                                f"pictures ending in {', '.join(IMAGE_SUFFIXES)}; put some there")
    test = _samples(base, "test")
    for sample, mask, picture in unequal_masks(test):
        raise ValueError(
            f"mask {sample.mask_path} is {mask[0]}x{mask[1]}, its picture {sample.path} "
            f"{picture[0]}x{picture[1]}; expected the same size; export the mask again")
    return Dataset(root, class_name, train, test)


def parse_shots(text: str) -> int | str:
    """The value of --shots: a whole number from 0, or "all".  Raises ValueError for other text."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise ValueError(f"--shots {text}: expected a whole number from 0 upwards, or 'all'; "
                         "correct the option")
    return int(text)


def few_shot(samples: Iterable[Sample], shots: int | str, seed: int) -> list[Sample]:
    """Draws K = shots samples (a number, or "all") with this seed.

    The draw does not depend on the order of `samples`.  With the same seed, a smaller draw is the
    beginning of a larger one.  "all" returns the sorted list.
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
    """The faults of a class, one line each; missing masks, which can be many, come last."""
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
    """Lines about one class: pictures of each kind, sizes and modes, masks, faults."""
    train, test = _samples(base, "train"), _samples(base, "test")
    headers, faults, readable = [], [], []
    for sample in train + test:
        try:
            headers.append(read_header(sample.path))
            if sample.mask_path is not None:
                read_header(sample.mask_path)
            readable.append(sample)
        except ValueError as error:             # the summary lists the file and continues
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
    yield from (f"  ! {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
    if len(faults) > MAX_FAULTS_SHOWN:
        yield f"  ! and {len(faults) - MAX_FAULTS_SHOWN} more"


def data_summary(root: str | Path) -> Iterator[str]:
    """Lines about each class of a data folder: number of pictures, sizes, modes, masks, faults."""
    root = Path(root)
    classes = list_classes(root) if root.is_dir() else []
    if not classes:
        raise FileNotFoundError(f"no class found in {root}; expected <class>/train/good in it; "
                                "give the folder that holds the classes")
    for name in classes:
        yield name
        yield from _class_summary(root / name)


def demo() -> None:
    """Which pictures a draw takes."""
    files = [Sample(Path(f"bottle/train/good/{i:03}.png"), "good", 0) for i in range(20)]
    for seed in (1, 2, 3):
        for shots in (4, 8):
            draw = few_shot(files, shots, seed)
            print(f"seed {seed}, {shots} shots:", *(s.path.stem for s in draw))
    same = few_shot(files[::-1], 8, 1) == few_shot(files, 8, 1)
    print("the same draw from the reversed list:", same)
    try:
        few_shot(files, 21, 1)
    except ValueError as error:
        print("error:", error)


def main() -> None:
    """Prints a summary of a data folder: pictures of each class, sizes, modes, missing masks."""
    parser = option_parser("minilora.data", main.__doc__)
    parser.add_argument("dir", nargs="?", metavar="DIR",
                        help="folder with <class>/train/good; without it a demonstration runs")
    folder = parser.parse_args().dir
    if folder is None:
        return demo()
    for line in data_summary(folder):
        print(line)


if __name__ == "__main__":
    demo()
