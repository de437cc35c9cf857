"""Photographs as training pictures, with what a teacher sees in them, computed once and kept.

Claim: a teacher that is asked once about each picture costs minutes; asked at every step it would
cost more than the training.  So a few crops of every photograph are drawn, half of them get a
pasted defect, the teacher looks at each, and pictures, masks and targets go into a folder that can
be deleted at any time: the same options draw the same again, whatever the seed of the training.

Folders are kinds of things, their names the nouns of captions; a folder BACKGROUND... has no noun.
Every tenth photograph of a folder is held out: no step sees it.

Symbols: N pictures, B of a batch, G patches a side, R resolution.
Leaves out: what the targets are (targets.py).
"""
import json
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from minilora.captions import NORMAL, PASTED, UNMENTIONED
from minilora.defects import paste_defect
from minilora.draws import chance, log_uniform, uniform
from minilora.files import digest_of
from minilora.images import read_image, to_square
from minilora.journal import whole_folder
from minilora.stream import low_priority
from minilora.targets import GRID, LAYERS, WHOLE, WHOLE_KEPT, components_of, teach
from minilora.teacher import load_teacher

SIDE = 224
SAMPLE = 512                    # pictures from which mean and components are computed
DONE = "views.json"             # written last: what the folder holds
EXTENSIONS = (".jpg", ".jpeg", ".png")


def find_photographs(root):
    """[(path, noun number or UNMENTIONED)] and the nouns, from folders named by what they show.

    Raises ValueError if there are none.
    """
    folders = sorted(p for p in Path(root).glob("*") if p.is_dir())
    named = [p for p in folders if not p.name.startswith("BACKGROUND")]
    nouns = [p.name.replace("_", " ").lower() for p in named]
    found = [(path, named.index(folder) if folder in named else UNMENTIONED)
             for folder in folders for path in sorted(folder.iterdir())
             if path.suffix.lower() in EXTENSIONS]
    if not found:
        raise ValueError(f"{root}: expected folders of photographs named by what they show, like "
                         f"sunflower/1.jpg, found none; correct --photos or leave it away")
    return found, nouns


def is_held_out(index):
    """Is the photograph of this number, in sorted order, kept for measuring?"""
    return index % 10 == 9


class Crops(Dataset):
    """Picture number i, cut out, turned and perhaps damaged; always the same.

    Returns (picture uint8 (3, R, R), coverage (G, G), facts (4,), the photograph's number).  Of a
    photograph held out: the middle, as it is and with a defect, in turn.
    """

    def __init__(self, photographs, crops):
        self.photographs = photographs
        self.items = [(k, n) for k in range(len(photographs))
                      for n in range(2 if is_held_out(k) else crops)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        number, copy = self.items[index]
        path, noun = self.photographs[number]
        generator = torch.Generator().manual_seed((number << 8) + copy)
        image, fixed = read_image(path), is_held_out(number)
        side = min(image.size) * (1 if fixed else log_uniform(generator, 0.5, 1))
        left, top = ((length - side) * (0.5 if fixed else uniform(generator))
                     for length in image.size)
        picture = to_square(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC,
                                         (left, top, left + side, top + side)), SIDE)
        if not fixed and chance(generator, 0.5):
            picture = picture.flip(2)
        if not fixed and chance(generator, 0.25):
            picture = torch.rot90(picture, int(torch.randint(1, 4, (), generator=generator)),
                                  (1, 2))
        damaged = copy == 1 if fixed else chance(generator, 0.5)
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        if damaged:
            picture, mask = paste_defect(picture, generator)
        coverage = F.avg_pool2d(mask[None].float(), SIDE // GRID)[0]            # (G, G)
        facts = torch.tensor([noun, UNMENTIONED, UNMENTIONED, PASTED if damaged else NORMAL])
        return (picture * 255).round().byte(), coverage, facts, number


def columns_of(count):
    """{name: (shape, dtype)} of everything that is kept of `count` pictures."""
    columns = {"pictures": ((count, 3, SIDE, SIDE), np.uint8),
               "coverage": ((count, GRID, GRID), np.float16), "facts": ((count, 4), np.int16),
               "photograph": ((count,), np.int32),
               f"target{WHOLE}": ((count, WHOLE_KEPT), np.float16)}
    return columns | {f"target{n}": ((count, GRID, GRID, places ** 2, kept), np.float16)
                      for n, (kept, places) in LAYERS.items()}


def gigabytes(count):
    """What the folder of so many pictures takes."""
    return sum(np.prod(shape, dtype=float) * np.dtype(kind).itemsize
               for shape, kind in columns_of(count).values()) / 1e9


class Photographs:
    """Crops of photographs with the teacher's targets.

    nouns: names of the kinds;  train, test: numbers of the pictures to learn from and held out.
    `StoredPhotographs` are the same, read from disk.
    """

    def __init__(self, photos, teacher, crops):
        photographs, self.nouns = find_photographs(photos)
        self.crops, self.network = Crops(photographs, crops), load_teacher(teacher)
        self.divide(torch.tensor([number for number, _ in self.crops.items]))
        self.mark = digest_of([[f"{p.parent.name}/{p.name}", p.stat().st_size]
                               for p, _ in photographs], crops, list(LAYERS.items()))

    def divide(self, photograph):
        """photograph: (N,), the number of each picture's photograph."""
        held = is_held_out(photograph)
        self.train, self.test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]

    @cached_property
    def parts(self):
        """{layer: Components}, from a sample of the pictures."""
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(len(self.crops), generator=generator)[:SAMPLE].tolist()
        sample = torch.stack([self.crops[k][0] for k in order])
        return components_of([teach(self.network, part) for part in sample.split(64)])

    def targets(self, pictures):
        """{layer: target in half precision} of pictures uint8 (B, 3, R, R)."""
        return {n: self.parts[n].project(x).half()
                for n, x in teach(self.network, pictures).items()}

    def rows(self, numbers):
        """(pictures uint8 (B, 3, R, R), coverage (B, G, G), facts (B, 4), {layer: target})."""
        pictures, coverage, facts, _ = default_collate([self.crops[int(k)] for k in numbers])
        targets = {n: x.float() for n, x in self.targets(pictures).items()}
        return pictures, coverage.half().float(), facts, targets

    def batch(self, size, generator):
        """`size` pictures to learn from, as `rows` gives them."""
        return self.rows(self.train[torch.randint(len(self.train), (size,), generator=generator)])


class StoredPhotographs(Photographs):
    """The same from the folder that `store` wrote."""

    def __init__(self, folder):
        facts = json.loads((Path(folder) / DONE).read_text("utf-8"))
        self.nouns, self.mark = facts["nouns"], facts["mark"]
        self.columns = {path.stem: np.load(path, mmap_mode="r")
                        for path in sorted(Path(folder).glob("*.npy"))}
        self.divide(torch.from_numpy(np.array(self.columns["photograph"])))

    def rows(self, numbers):
        read = {name: torch.from_numpy(np.array(column[np.asarray(numbers)]))
                for name, column in self.columns.items()}
        return (read["pictures"], read["coverage"].float(), read["facts"].long(),
                {int(name[6:]): x.float() for name, x in read.items() if name[:6] == "target"})


def store(photographs, folder, workers, report=print):
    """Writes all pictures of `photographs` and their targets into a folder.

    Returns it as `StoredPhotographs`.  A folder that holds the same already is left as it is.
    """
    done = Path(folder) / DONE
    if done.is_file() and json.loads(done.read_text("utf-8"))["mark"] == photographs.mark:
        return StoredPhotographs(folder)
    count = len(photographs.crops)
    report(f"{count:,} pictures of {len(photographs.nouns)} kinds: the teacher looks at each once; "
           f"{gigabytes(count):.1f} GB in {folder}, which can be deleted")
    for n, part in photographs.parts.items():
        report(f"teacher's layer {n}: {part.axes.shape[1]} components keep {part.kept:.1%} of the "
               "variance")
    with whole_folder(folder, "views") as staging:
        columns = {name: np.lib.format.open_memmap(staging / f"{name}.npy", "w+", kind, shape)
                   for name, (shape, kind) in columns_of(count).items()}
        at = 0
        for batch in DataLoader(photographs.crops, batch_size=64, num_workers=workers,
                                worker_init_fn=low_priority):
            rows = slice(at, at := at + len(batch[0]))
            for name, value in zip(("pictures", "coverage", "facts", "photograph"), batch):
                columns[name][rows] = value.numpy()
            for n, value in photographs.targets(batch[0]).items():
                columns[f"target{n}"][rows] = value.numpy()
            if at % 6400 == 0:
                report(f"{at:,} of {count:,} pictures")
        for column in columns.values():
            column.flush()
        kept = {n: part.kept for n, part in photographs.parts.items()}
        (staging / DONE).write_text(json.dumps(
            {"mark": photographs.mark, "nouns": photographs.nouns, "kept": kept}), "utf-8")
    return StoredPhotographs(folder)


def demo():
    """Two noise photographs in folders, cut out; the teacher is not asked."""
    with tempfile.TemporaryDirectory() as folder:
        for noun in ("sea_horse", "BACKGROUND_noise"):
            (Path(folder) / noun).mkdir()
            noise = np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)
            Image.fromarray(noise).save(Path(folder) / noun / "1.png")
        found, nouns = find_photographs(folder)
        print(f"nouns {nouns}, of {[(path.parent.name, noun) for path, noun in found]}")
        crops = Crops(found, 3)
        for k in range(3):
            picture, coverage, facts, number = crops[k]
            print(f"crop {k} of photograph {number}: {tuple(picture.shape)}, defect on "
                  f"{(coverage > 0).sum():3d} of 196 patches, facts {facts.tolist()}")
    print(f"20,000 pictures with their targets take {gigabytes(20000):.1f} GB")


if __name__ == "__main__":
    demo()
