"""A folder of pictures: MVTec AD's layout and the few-shot draw.

Bergmann et al. 2019 (MVTec AD) store a class as

    <root>/<class>/train/good/*.png                     good pictures, nothing else
    <root>/<class>/test/<kind>/*.png                    kind: "good" or the name of a defect
    <root>/<class>/ground_truth/<kind>/<stem>_mask.png  255 where the defect is

Other names and values of masks are read, too (data/masks.py).

Claim: the few-shot draw is part of a result. A seeded generator takes K pictures from the sorted
list, so "8 shots, seed 1" means the same pictures for everybody.

Symbols: K shots.
Left out: downloading (the addresses change), validation splits, caching, pixels (data/images.py), a
summary of a folder (data/summary.py).
"""
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minilora.data.listing import IMAGE_SUFFIXES, folders_in, listing, pictures_directly_in
from minilora.data.masks import find_masks, mask_files, mask_turn
from minilora.io.text import shown, shown_path

GOOD_KIND = "good"              # kind and folder of the pictures without a defect


@dataclass(frozen=True)
class Sample:
    """One picture: its path, the kind of its defect, and the path of its mask (None: no mask).

    The mask is a file, or a folder with several masks (data/masks.py).
    """
    path: Path
    kind: str                   # "good" or the name of the defect's folder
    label: int | None           # 0 good, 1 defective, None unknown
    mask_path: Path | None = None


@dataclass
class Dataset:
    """One class: good pictures for training, and test pictures, both in sorted order.

    skipped: (path, reason) of what may be or hold pictures and could not be looked at.
    other: files in the user's own folders that are no pictures by their name, and results of
    minilora.
    """
    root: Path
    name: str
    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    other: list[Path] = field(default_factory=list)


def find_data(option: str | Path | None = None) -> Path | None:
    """The data folder: `option`, else $MINILORA_DATA, else ./data/mvtec, else None (no data).

    Raises FileNotFoundError if the option or the variable names a folder that does not exist: the
    next possibility is never used silently.
    """
    for source, named in (("--data", option), ("$MINILORA_DATA", os.environ.get("MINILORA_DATA"))):
        if named:
            if not Path(named).is_dir():
                raise FileNotFoundError(f"data folder {shown_path(named)} (from {source}) not "
                                        "found; expected a folder with <class>/train/good in it; "
                                        "correct the path")
            return Path(named)
    return Path("data/mvtec") if Path("data/mvtec").is_dir() else None


def list_classes(root: str | Path) -> list[str]:
    """Sorted names of the folders in root that contain train/good.

    Raises ValueError for one that contains train/Good or the like instead.
    """
    for name in folders_in(Path(root)):
        check_good_folder(Path(root) / name / "train")
    return [name for name in folders_in(Path(root))
            if (Path(root) / name / "train" / GOOD_KIND).is_dir()]


def check_good_folder(folder: Path) -> None:
    """Raises ValueError if a folder holds one named "Good", "GOOD" or the like.

    Only the name "good" says that pictures have no defect, so a near miss must not be guessed.
    """
    for name in folders_in(folder):
        if name != GOOD_KIND and name.strip().casefold() == GOOD_KIND:
            raise ValueError(f"{shown_path(folder / name)}: are its pictures good ones? "
                             f"Then rename the folder to '{GOOD_KIND}'; if '{shown(name)}' is a "
                             "kind of defect, give it another name")


def split_samples(base: Path, split: str) -> list[Sample]:
    """Every picture of <base>/<split>/<kind>, sorted by kind, then by name."""
    samples = []
    check_good_folder(base / split)
    for kind in folders_in(base / split):
        pictures = pictures_directly_in(base / split / kind)
        masks = {} if kind == GOOD_KIND else find_masks(base / "ground_truth" / kind, pictures)
        samples += [Sample(p, kind, int(kind != GOOD_KIND), masks.get(p)) for p in pictures]
    return samples


def not_looked_at(base: Path) -> list[tuple[Path, str]]:
    """(path, reason) of what may be or hold pictures of a class and is not read."""
    skipped = []
    for split in ("train", "test"):
        for folder in (base / split / kind for kind in folders_in(base / split)):
            found = listing(folder, recursive=False)
            skipped += found.skipped
            skipped += [(folder / name, "a folder inside the folder of a kind")
                        for name in folders_in(folder) if listing(folder / name).pictures]
    return skipped


def mask_faults(samples: Iterable[Sample]) -> Iterator[tuple[Sample, str]]:
    """(sample, message) for each mask that does not lie on its picture: other size, or turned."""
    for sample in samples:
        for mask in mask_files(sample.mask_path):
            try:
                mask_turn(mask, sample.path)
            except ValueError as error:
                yield sample, str(error)


def load_class(root: str | Path, class_name: str) -> Dataset:
    """The pictures of one class.

    Raises FileNotFoundError if there is no such class or it has no good pictures, ValueError if a
    mask has another size than its picture or cannot be read, or if a folder is named "Good".
    """
    root = Path(root)
    base = root / class_name
    if not base.is_dir():
        classes = list_classes(root) if root.is_dir() else []
        is_class = (root / "train" / GOOD_KIND).is_dir()  # root itself is the folder of a class
        raise FileNotFoundError(
            f"class '{shown(class_name)}' not found in {shown_path(root)}; it holds "
            f"{shown(', '.join(classes)) or 'no class'}; "
            + ("give the folder above it" if is_class else "choose one of these"))
    check_good_folder(base / "train")
    train = [Sample(p, GOOD_KIND, 0) for p in pictures_directly_in(base / "train" / GOOD_KIND)]
    if not train:
        raise FileNotFoundError(f"{shown_path(base / 'train' / GOOD_KIND)} holds no picture; "
                                f"expected good pictures ending in {', '.join(IMAGE_SUFFIXES)}; "
                                "put some there")
    test = split_samples(base, "test")
    for _, message in mask_faults(test):
        raise ValueError(message)
    return Dataset(root, class_name, train, test, not_looked_at(base))


def parse_shots(text: str) -> int | str:
    """The value of --shots: a whole number from 0, or "all".  Raises ValueError for other text."""
    if text == "all":
        return text
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"--shots {shown(text, 60)}: expected a whole number from 0 upwards, or "
                         "'all'; correct the option")
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
    check_shots(shots, len(samples))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return [samples[i] for i in order[:shots].tolist()]


def check_shots(shots: int | str, available: int) -> None:
    """Raise ValueError for more shots than there are good pictures.  shots: a number, or "all"."""
    if shots != "all" and shots > available:
        raise ValueError(f"{shots} shots asked for, but there are only {available} good pictures; "
                         f"take at most {available}, or 'all'")


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


if __name__ == "__main__":
    demo()
