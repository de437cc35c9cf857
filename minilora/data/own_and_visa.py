"""Layouts other than MVTec AD's: the user's own pictures without masks, and VisA.

    own    --good DIR: good pictures; --test DIR: test pictures.  In the test folder, a folder
           "good" holds good pictures and every other folder one kind of defect; pictures directly
           in the test folder have no label
    VisA   Zou et al. 2022: <root>/split_csv/1cls.csv with the columns object, split, label, image,
           mask; its paths are relative to <root>

Symbols: N pictures, R resolution.
Left out: VisA's other splits (only the one-class split is read) and its kinds of defects.
"""
import csv
from pathlib import Path

from torch import Tensor

from minilora.data.images import load_squares
from minilora.data.mvtec import (IMAGE_SUFFIXES, Dataset, Sample, list_classes, load_class,
                                 unequal_masks)

VISA_SPLIT_FILE = Path("split_csv") / "1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
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
    """The rows of VisA's split file as dictionaries.  Raises ValueError if its form is wrong."""
    path = Path(root) / VISA_SPLIT_FILE
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [c for c in VISA_COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: column {', '.join(missing)} missing, found "
                             f"{', '.join(reader.fieldnames or ['nothing'])}; use the file that "
                             "comes with VisA")
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; use the file that comes "
                             "with VisA") from error
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in VISA_COLUMNS):
            raise ValueError(f"{path}, line {number}: expected {len(VISA_COLUMNS)} columns, found "
                             "fewer; use the file that comes with VisA")
        if not row["object"] or set(row["object"]) & set("/\\:\0") or row["object"] == "..":
            raise ValueError(f"{path}, line {number}: object {row['object']!r}; expected a name "
                             "without path separators, since results are written to a folder of "
                             "that name; use the file that comes with VisA")
    return rows


def visa_class(root: str | Path, name: str) -> Dataset:
    """The Dataset of one VisA object.

    Raises FileNotFoundError for an unknown object or a missing file, ValueError if a mask and its
    picture differ in size.
    """
    root, rows = Path(root), visa_rows(root)
    selected = [row for row in rows if row["object"] == name]
    if not selected:
        raise FileNotFoundError(f"class {name!r} not found in {root / VISA_SPLIT_FILE}; it holds "
                                f"{', '.join(sorted({r['object'] for r in rows}))}; choose one")
    train, test = [], []
    for row in selected:
        label = int(row["label"] != "normal")
        mask = root / row["mask"] if label and row["mask"] else None
        sample = Sample(root / row["image"], "anomaly" if label else "good", label, mask)
        for path in filter(None, (sample.path, mask)):
            if not path.is_file():
                raise FileNotFoundError(f"{path} not found, but {root / VISA_SPLIT_FILE} lists it; "
                                        "unpack the archive again")
        (train if row["split"] == "train" else test).append(sample)
    for sample, mask, picture in unequal_masks(test):
        raise ValueError(f"mask {sample.mask_path} is {mask[0]}x{mask[1]}, its picture "
                         f"{picture[0]}x{picture[1]}; expected the same size; unpack the archive "
                         "again")
    order = lambda sample: (sample.label, sample.path)
    return Dataset(root, name, [s for s in sorted(train, key=order) if not s.label],
                   sorted(test, key=order))


def list_pictures(folder: str | Path) -> list[Path]:
    """Every picture in a folder, searched recursively, sorted; hidden files are left out."""
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES
                  and p.is_file() and not p.name.startswith("."))


def own_pictures(good: str | Path, test: str | Path | None = None,
                 name: str | None = None) -> Dataset:
    """A Dataset of the user's own pictures.

    good: folder of good pictures;  test: folder of test pictures.  In `test`, a folder "good" holds
    good pictures and every other folder defective ones; pictures directly in `test` have label
    None.  Both folders are searched recursively.
    Raises FileNotFoundError for a folder without pictures, ValueError if `good` is a whole class.
    """
    for option, folder in (("--good", good), ("--test", test)):
        if folder and not Path(folder).is_dir():
            what = "is a file" if Path(folder).exists() else "does not exist"
            raise FileNotFoundError(f"{option} {folder} {what}; give a folder of pictures")
        if folder and not list_pictures(folder):
            raise FileNotFoundError(f"{option} {folder} holds no picture; expected a folder with "
                                    f"files ending in {', '.join(IMAGE_SUFFIXES)}")
    inside = {p.name for p in Path(good).iterdir() if p.is_dir()} & {"test", "ground_truth"}
    if inside:
        raise ValueError(f"--good {good} holds {' and '.join(sorted(inside))}; expected only good "
                         "pictures, since every picture in it counts as good; give the folder of "
                         f"the good ones ({good}/train/good?), or use --data")
    train = [Sample(p, "good", 0) for p in list_pictures(good)]
    tested = []
    for path in list_pictures(test) if test else ():
        kind = path.relative_to(test).parts[0] if path.parent != Path(test) else UNKNOWN_KIND
        tested.append(Sample(path, kind, {UNKNOWN_KIND: None, "good": 0}.get(kind, 1)))
    return Dataset(Path(good), name or product_name(good), train, tested)


def load_pictures(folder: str | Path, resolution: int = 224) -> Tensor:
    """Every picture in a folder, searched recursively, sorted: squares (N, 3, R, R) in [0, 1].

    `Detector.prepare` keeps the aspect ratio.  So a detector that is fitted to these squares and
    then scores files that are not square needs `DetectorConfig(square=True)`.
    Raises FileNotFoundError if there is no picture.
    """
    paths = list_pictures(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no picture; expected files ending in "
                                f"{', '.join(IMAGE_SUFFIXES)}")
    return load_squares(paths, resolution)


def product_name(folder: str | Path) -> str:
    """A name for the product in a folder of good pictures: the folder's own name.

    A folder named "good" or "train" gives the name of the folder above it.
    """
    path = Path(folder).resolve()
    while path.name in ("good", "train") and path.parent != path:
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
