"""A summary of a data folder: counts, sizes, modes, how masks are read, and what is wrong.

    python -m minilora.data DIR

Claim: most faults of a data set can be found before anything is trained: a mask of another size or
one that marks more than half, a picture that cannot be read, a folder that is not looked at.

Left out: what only a person can see (a wrong label).
"""
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from minilora.data import mvtec
from minilora.data.decoding import megapixel_option, read_header
from minilora.data.listing import folders_in, pictures_directly_in
from minilora.data.mvtec import Sample, list_classes, not_looked_at, split_samples
from minilora.data.samples import mask_line, mask_summary
from minilora.io.cli import option_parser
from minilora.io.parser import OneLineParser
from minilora.io.text import shown, shown_path

MAX_FAULTS_SHOWN = 20           # faults of one class that the summary lists


def _sizes(counts):
    """A Counter of (width, height) in a few words."""
    if len(counts) <= 3:
        return ", ".join(f"{w}x{h}" for (w, h), _ in counts.most_common())
    sides = [f"{min(s)}-{max(s)}" for s in zip(*counts)]
    return f"{len(counts)} sizes, {sides[0]} wide, {sides[1]} high"


def _faults(base, train, test):
    """The faults of a class, one line each; missing masks, which can be many, come last."""
    if not train:
        yield "no picture in train/good"
    for path, reason in not_looked_at(base):
        yield f"not looked at: {shown(path.relative_to(base))} ({reason})"
    used = {s.mask_path for s in test}
    for kind in folders_in(base / "ground_truth"):
        for path in pictures_directly_in(base / "ground_truth" / kind):
            if path not in used:
                yield f"mask without picture: {shown(path.relative_to(base))}"
    for path, same in same_stem(test):
        yield f"two pictures of one name: {shown(path.relative_to(base))} and {shown(same.name)}"
    for sample in test:
        if sample.label and sample.mask_path is None:
            yield f"mask missing: {shown(sample.path.relative_to(base))}"


def same_stem(samples: Iterable[Sample]) -> Iterator[tuple[Path, Path]]:
    """Pairs of pictures of one folder that differ in their suffix only, such as a.png and a.jpg."""
    first = {}
    for sample in samples:
        other = first.setdefault(sample.path.with_suffix(""), sample.path)
        if other != sample.path:
            yield other, sample.path


def _class_summary(base):
    """Lines about one class: pictures of each kind, sizes and modes, masks, faults."""
    train, test = split_samples(base, "train"), split_samples(base, "test")
    headers, faults, readable = [], [], []
    for sample in train + test:
        try:
            headers.append(read_header(sample.path))
            readable.append(sample)
        except (OSError, ValueError) as error:      # the summary lists the file and continues
            faults.append(str(error))
    for split, samples in (("train", train), ("test", test)):
        kinds = Counter(s.kind for s in samples).items()
        yield f"  {split:6}{len(samples):5}   " + ", ".join(f"{shown(k)} {n}" for k, n in kinds)
    modes = Counter(mode for mode, _ in headers)
    yield f"  {_sizes(Counter(size for _, size in headers))}; " + ", ".join(
        f"{mode} {n}" for mode, n in modes.items())
    masks = mask_summary([s for s in readable if s.label], faults)
    yield f"  masks {mask_line(masks) if masks else 'none, no defective picture'}"
    faults.extend(_faults(base, train, test))
    yield from (f"  ! {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
    if len(faults) > MAX_FAULTS_SHOWN:
        yield f"  ! and {len(faults) - MAX_FAULTS_SHOWN} more"


def data_summary(root: str | Path) -> Iterator[str]:
    """Lines about each class of a data folder: number of pictures, sizes, modes, masks, faults."""
    root = Path(root)
    classes = list_classes(root) if root.is_dir() else []
    if not classes:
        raise FileNotFoundError(f"no class found in {shown_path(root)}; expected "
                                "<class>/train/good in it; give the folder that holds the classes")
    for name in classes:
        yield shown(name)
        yield from _class_summary(root / name)


def demo() -> None:
    """The summary of a class with a mask too few and one that is black."""
    import tempfile

    from PIL import Image
    with tempfile.TemporaryDirectory() as root:
        for name in ("train/good/0.png", "test/good/0.png", "test/dent/0.png", "test/dent/1.png",
                     "ground_truth/dent/0_mask.png"):
            path = Path(root) / "nut" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L" if "mask" in name else "RGB", (40, 30)).save(path)
        print(*data_summary(root), sep="\n")


def parser() -> OneLineParser:
    """The options of the command."""
    p = option_parser("minilora.data", main.__doc__, "data/mvtec")
    p.add_argument("dir", nargs="?", metavar="FOLDER",
                   help="with <class>/train/good; without it, a demonstration")
    megapixel_option(p.rare.add_argument)
    return p


def main() -> None:
    """Prints a summary of a data folder: pictures of each class, sizes, modes, missing masks."""
    folder = parser().parse_args().dir
    if folder is None:
        return mvtec.demo()
    for line in data_summary(folder):
        print(line)


if __name__ == "__main__":
    demo()
