"""Other layouts than MVTec AD's: one's own pictures without masks, and VisA.

    own    --good DIR, and to be judged --test DIR: folders "good" and one for each kind of defect,
           or pictures alone, of which nothing is known; all folders in DIR count
    VisA   Zou et al. 2022: <root>/split_csv/1cls.csv with the columns object, split, label, image,
           mask, all paths below <root>

Leaves out: splits other than VisA's one-class one; kinds of defects there.
"""
import csv
from pathlib import Path

from minilora.data.images import load_squares
from minilora.data.mvtec import SUFFIXES, Dataset, Sample, list_classes, load_class, unequal_masks

SPLIT = Path("split_csv") / "1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
UNKNOWN = "unknown"             # kind of a picture of which nothing is known; its label is None


def layout_of(root):
    """"VisA" if root holds its split file, else "MVTec AD's layout"."""
    return "VisA" if (Path(root) / SPLIT).is_file() else "MVTec AD's layout"


def open_class(root, name):
    """The Dataset of one class in either layout.  Raises FileNotFoundError or ValueError."""
    return visa_class(root, name) if layout_of(root) == "VisA" else load_class(root, name)


def class_names(root):
    """Sorted names of the classes below root, in either layout."""
    if layout_of(root) == "VisA":
        return sorted({row["object"] for row in visa_rows(root)})
    return list_classes(root)


def visa_rows(root):
    """The lines of VisA's split file as dictionaries.  Raises ValueError for any other file."""
    path = Path(root) / SPLIT
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [c for c in VISA_COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: column {', '.join(missing)} missing, found "
                             f"{', '.join(reader.fieldnames or ['nothing'])}; take the file that "
                             "comes with VisA")
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; take the file that comes "
                             "with VisA") from error
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in VISA_COLUMNS):
            raise ValueError(f"{path}, line {number}: expected {len(VISA_COLUMNS)} columns, found "
                             "fewer; take the file that comes with VisA")
        if not row["object"] or set(row["object"]) & set("/\\:\0") or row["object"] == "..":
            raise ValueError(f"{path}, line {number}: object {row['object']!r}; expected a name, "
                             "for results are written to a folder of that name")
    return rows


def visa_class(root, name):
    """The Dataset of one of VisA's objects."""
    root, rows = Path(root), visa_rows(root)
    mine = [row for row in rows if row["object"] == name]
    if not mine:
        raise FileNotFoundError(f"class {name!r} not found in {root / SPLIT}; it holds "
                                f"{', '.join(sorted({r['object'] for r in rows}))}; choose one")
    train, test = [], []
    for row in mine:
        label = int(row["label"] != "normal")
        mask = root / row["mask"] if label and row["mask"] else None
        sample = Sample(root / row["image"], "anomaly" if label else "good", label, mask)
        for path in filter(None, (sample.path, mask)):
            if not path.is_file():
                raise FileNotFoundError(f"{path} not found, though {root / SPLIT} names it; "
                                        "unpack the archive again")
        (train if row["split"] == "train" else test).append(sample)
    for sample, mask, picture in unequal_masks(test):
        raise ValueError(f"mask {sample.mask_path} is {mask[0]}x{mask[1]}, its picture "
                         f"{picture[0]}x{picture[1]}; expected the same size")
    order = lambda sample: (sample.label, sample.path)
    return Dataset(root, name, [s for s in sorted(train, key=order) if not s.label],
                   sorted(test, key=order))


def pictures_below(folder):
    """Every picture in a folder and the folders in it, sorted."""
    return sorted(p for p in Path(folder).rglob("*")
                  if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))


def own_pictures(good, test=None, name=None):
    """A Dataset of one's own pictures.

    good: folder of good pictures;  test: folder of what is to be judged.  In `test` a folder "good"
    holds good pictures and every other folder defective ones; pictures that lie in `test` itself
    are of unknown label (None).  Raises FileNotFoundError for a folder without pictures.
    """
    for option, folder in (("--good", good), ("--test", test)):
        if folder and not Path(folder).is_dir():
            what = "is a file" if Path(folder).exists() else "does not exist"
            raise FileNotFoundError(f"{option} {folder} {what}; give a folder of pictures")
        if folder and not pictures_below(folder):
            raise FileNotFoundError(f"{option} {folder} holds no picture; expected a folder with "
                                    f"files ending in {', '.join(SUFFIXES)}")
    inside = {p.name for p in Path(good).iterdir() if p.is_dir()} & {"test", "ground_truth"}
    if inside:
        raise ValueError(f"--good {good} holds {' and '.join(sorted(inside))}; expected good "
                         "pictures alone, and every one below it would count as good; give the "
                         f"folder of those ({good}/train/good?), or use --data")
    train = [Sample(p, "good", 0) for p in pictures_below(good)]
    judged = []
    for path in pictures_below(test) if test else ():
        kind = path.relative_to(test).parts[0] if path.parent != Path(test) else UNKNOWN
        judged.append(Sample(path, kind, {UNKNOWN: None, "good": 0}.get(kind, 1)))
    return Dataset(Path(good), name or product_name(good), train, judged)


def load_pictures(folder, resolution=224):
    """Every picture in a folder and the folders in it, sorted: squares (N, 3, R, R) in [0, 1].

    A detector fitted to them needs `DetectorConfig(square=True)` if it is to judge files of another
    aspect by `predict`; `Detector.prepare` keeps the aspect.
    Raises FileNotFoundError if there is none.
    """
    paths = pictures_below(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no picture; expected files ending in "
                                f"{', '.join(SUFFIXES)}")
    return load_squares(paths, resolution)


def product_name(folder):
    """What a folder of good pictures is called: its name, or that of the one above if it is "good"
    or "train"."""
    path = Path(folder).resolve()
    while path.name in ("good", "train") and path.parent != path:
        path = path.parent
    return path.name or "product"


def demo():
    import tempfile

    from PIL import Image
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in ("spoon/good/1.jpg", "spoon/good/2.jpg", "new/3.jpg", "new/good/4.jpg",
                     "new/bent/5.jpg"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(root / path)
        data = own_pictures(root / "spoon" / "good", root / "new")
        print(f"own pictures, called {data.name!r}: {len(data.train)} good ones to learn from")
        for sample in data.test:
            print(f"  {sample.path.relative_to(root)}  kind {sample.kind}, label {sample.label}")
        (root / SPLIT).parent.mkdir()
        (root / SPLIT).write_text(",".join(VISA_COLUMNS) + "\nspoon,train,normal,spoon/good/1.jpg,\n"
                                  "spoon,test,normal,new/good/4.jpg,\n")
        data = open_class(root, "spoon")
        print(f"{layout_of(root)}: {', '.join(class_names(root))}, {len(data.train)} to learn from")


if __name__ == "__main__":
    demo()
