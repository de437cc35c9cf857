"""Layouts other than MVTec AD's: the user's own pictures without masks, and VisA.

    own    --good DIR: good pictures; --test DIR: test pictures.  In the test folder, a folder
           "good" holds good pictures and every other folder one kind of defect; pictures directly
           in the test folder have no label; masks are read if a folder ground_truth of MVTec AD's
           layout is beside the test folder
    VisA   Zou et al. 2022: <root>/split_csv/1cls.csv with the columns object, split, label, image,
           mask; its paths are relative to <root>

Symbols: N pictures, R resolution.
Left out: VisA's other splits (only the one-class split is read) and its kinds of defects.
"""
import csv
from pathlib import Path

from torch import Tensor

from minilora.data.given_paths import Found, find_pictures, not_taken
from minilora.data.images import load_squares
from minilora.data.listing import IMAGE_SUFFIXES, list_pictures
from minilora.data.masks import find_masks
from minilora.data.mvtec import (GOOD_KIND, Dataset, Sample, check_good_folder, list_classes,
                                 load_class, mask_faults)
from minilora.io.regular_file import read_regular
from minilora.io.text import shown, shown_path

VISA_SPLIT_FILE = Path("split_csv") / "1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
VISA_SPLITS, VISA_LABELS = ("train", "test"), ("normal", "anomaly")
MAX_CSV_BYTES, MAX_CELL = 64 * 2**20, 1000
UNKNOWN_KIND = "unknown"        # kind of a picture without a label; its label is None


def layout_of(root: str | Path) -> str:
    """"VisA" if root holds VisA's split file, else "MVTec AD's layout"."""
    return "VisA" if (Path(root) / VISA_SPLIT_FILE).is_file() else "MVTec AD's layout"


def open_class(root: str | Path, name: str) -> Dataset:
    """The Dataset of one class in either layout.  Raises FileNotFoundError or ValueError."""
    return visa_class(root, name) if layout_of(root) == "VisA" else load_class(root, name)


def class_names(root: str | Path) -> list[str]:
    """Sorted names of the classes in root, in either layout."""
    if layout_of(root) == "VisA":
        return sorted({row["object"] for row in visa_rows(root)})
    return list_classes(root)


def visa_rows(root: str | Path) -> list[dict[str, str]]:
    """The rows of VisA's split file as dictionaries.

    Raises ValueError with the line if its form or a value is wrong, OSError if it cannot be read.
    """
    path = Path(root) / VISA_SPLIT_FILE
    remedy = "use the file that comes with VisA"
    try:
        lines = read_regular(path, MAX_CSV_BYTES).decode("utf-8-sig").splitlines(keepends=True)
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or ["nothing"]
        missing = [c for c in VISA_COLUMNS if c not in columns]
        if missing:
            raise ValueError(f"column {', '.join(missing)} missing, found "
                             f"{shown(', '.join(columns))}")
        rows = []
        for row in reader:
            try:
                rows.append(checked_row(row))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown_path(path)}: no UTF-8 at byte {error.start:,}; {remedy}") from error
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{shown_path(path)}, {shown(error, 500)}; {remedy}") from error
    return rows


def checked_row(row: dict) -> dict[str, str]:
    """The row if each of its values is what VisA has there.  Raises ValueError."""
    if None in row or None in row.values():
        count = "more" if None in row else "fewer"
        raise ValueError(f"expected the columns of the first line, found {count}")
    name = row["object"]
    if not name or set(name) & set("/\\:\0") or name in (".", "..") or len(name) > MAX_CELL:
        raise ValueError(f"object '{shown(name)}'; expected a name without path separators, since "
                         "results are written to a folder of that name")
    for column, choices in (("split", VISA_SPLITS), ("label", VISA_LABELS)):
        if row[column] not in choices:
            raise ValueError(f"{column} '{shown(row[column])}'; expected {' or '.join(choices)}")
    for column in ("image", "mask"):
        path = Path(row[column])
        if path.is_absolute() or ".." in path.parts or len(row[column]) > MAX_CELL \
                or "\0" in row[column] or column == "image" and not row[column]:
            raise ValueError(f"{column} '{shown(row[column])}'; expected a path inside the data "
                             "folder")
    return row


def visa_class(root: str | Path, name: str) -> Dataset:
    """The Dataset of one VisA object.

    Raises FileNotFoundError for an unknown object or a missing file, ValueError if a mask and its
    picture differ in size.
    """
    root, rows = Path(root), visa_rows(root)
    selected = [row for row in rows if row["object"] == name]
    if not selected:
        names = ", ".join(sorted({row["object"] for row in rows}))
        raise FileNotFoundError(f"class '{shown(name)}' not found in "
                                f"{shown_path(root / VISA_SPLIT_FILE)}; it holds {shown(names)}; "
                                "choose one")
    train, test = [], []
    for row in selected:
        label = int(row["label"] != "normal")
        mask = root / row["mask"] if label and row["mask"] else None
        sample = Sample(root / row["image"], "anomaly" if label else "good", label, mask)
        for path in filter(None, (sample.path, mask)):
            if not path.is_file():
                raise FileNotFoundError(f"{shown_path(path)} not found (or no regular file), but "
                                        f"{shown_path(root / VISA_SPLIT_FILE)} lists it; unpack "
                                        "the archive again")
        (train if row["split"] == "train" else test).append(sample)
    for _, message in mask_faults(test):
        raise ValueError(message)
    order = lambda sample: (sample.label, sample.path)
    return Dataset(root, name, [s for s in sorted(train, key=order) if not s.label],
                   sorted(test, key=order))


def own_pictures(good: str | Path, test: str | Path | None = None,
                 name: str | None = None) -> Dataset:
    """A Dataset of the user's own pictures.

    good: folder of good pictures;  test: folder of test pictures.  In `test`, a folder "good" holds
    good pictures and every other folder defective ones; pictures directly in `test` have label
    None.  Both folders are searched recursively; what minilora wrote itself is left out.
    Raises FileNotFoundError for a folder without pictures, ValueError if `good` is a whole class or
    a folder in `test` is named "Good".
    """
    found = {}
    for option, folder in (("--good", good), ("--test", test)):
        if not folder:
            continue
        if not Path(folder).is_dir():
            what = "is a file" if Path(folder).exists() else "does not exist"
            raise FileNotFoundError(f"{option} {shown_path(folder)} {what}; give a folder of "
                                    "pictures")
        found[option] = pictures_in(option, folder)
    inside = {p.name for p in Path(good).iterdir() if p.is_dir()} & {"test", "ground_truth"}
    if inside:
        raise ValueError(f"--good {shown_path(good)} holds {' and '.join(sorted(inside))}; "
                         "expected only good pictures, since every picture in it counts as good; "
                         f"give the folder of the good ones ({shown_path(good)}/train/good?), or "
                         "use --data")
    if test:
        check_good_folder(Path(test))
    train = [Sample(p, GOOD_KIND, 0) for p in found["--good"].pictures]
    tested = own_test_samples(Path(test), found["--test"].pictures) if test else []
    skipped = [entry for part in found.values() for entry in part.skipped]
    other = [path for part in found.values() for path in part.other + part.own]
    return Dataset(Path(good), name or product_name(good), train, tested, skipped, other)


def pictures_in(option: str, folder: str | Path) -> Found:
    """The pictures of the folder that an option names.  Raises FileNotFoundError without any."""
    found = find_pictures([folder], required=False)
    if not found.pictures:
        there = "".join(f"; skipped {line}" for line in not_taken(found.other))
        raise FileNotFoundError(f"{option} {shown_path(folder)} holds no picture; expected a "
                                f"folder with files ending in {', '.join(IMAGE_SUFFIXES)}{there}")
    return found


def own_test_samples(folder: Path, paths: list[Path]) -> list[Sample]:
    """The test pictures with their kinds, and the masks of MVTec AD's layout where there are some.

    Raises ValueError for a mask that does not lie on its picture.
    """
    kinds = {path: path.relative_to(folder).parts[0] if path.parent != folder else UNKNOWN_KIND
             for path in paths}
    masks = {}
    for kind in set(kinds.values()) - {GOOD_KIND, UNKNOWN_KIND}:
        masks |= find_masks(folder.parent / "ground_truth" / kind,
                            [path for path in paths if path.parent == folder / kind])
    samples = [Sample(path, kind, {UNKNOWN_KIND: None, GOOD_KIND: 0}.get(kind, 1), masks.get(path))
               for path, kind in kinds.items()]
    for _, message in mask_faults(samples):
        raise ValueError(message)
    return samples


def load_pictures(folder: str | Path, resolution: int = 224) -> Tensor:
    """Every picture in a folder, searched recursively, sorted: squares (N, 3, R, R) in [0, 1].

    `Detector.prepare` keeps the aspect ratio.  So a detector that is fitted to these squares and
    then scores files that are not square needs `DetectorConfig(square=True)`.
    Raises FileNotFoundError if there is no picture.
    """
    paths = list_pictures(folder)
    if not paths:
        raise FileNotFoundError(f"{shown_path(folder)} holds no picture; expected files ending "
                                f"in {', '.join(IMAGE_SUFFIXES)}")
    return load_squares(paths, resolution)


def product_name(folder: str | Path) -> str:
    """A name for the product in a folder of good pictures: the folder's own name.

    A folder named "good" or "train" gives the name of the folder above it.
    """
    path = Path(folder).resolve()
    while path.name in (GOOD_KIND, "train") and path.parent != path:
        path = path.parent
    return path.name or "product"


def demo() -> None:
    """Labels of own pictures by their folders, and a class by VisA's split file."""
    import tempfile

    from PIL import Image
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in ("spoon/good/1.jpg", "spoon/good/2.jpg", "new/3.jpg", "new/good/4.jpg",
                     "new/bent/5.jpg"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(root / path)
        data = own_pictures(root / "spoon" / "good", root / "new")
        print(f"own pictures, named {data.name!r}: {len(data.train)} good ones for training")
        for sample in data.test:
            print(f"  {sample.path.relative_to(root)}  kind {sample.kind}, label {sample.label}")
        (root / VISA_SPLIT_FILE).parent.mkdir()
        (root / VISA_SPLIT_FILE).write_text(
            ",".join(VISA_COLUMNS) + "\nspoon,train,normal,spoon/good/1.jpg,\n"
            "spoon,test,normal,new/good/4.jpg,\n")
        data = open_class(root, "spoon")
        print(f"{layout_of(root)}: {', '.join(class_names(root))}, {len(data.train)} for training")


if __name__ == "__main__":
    demo()
