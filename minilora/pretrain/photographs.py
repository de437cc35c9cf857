"""Photographs as training pictures, with what a teacher sees in them, computed once and kept.

Claim: a teacher that is asked once about each picture costs minutes; asked at every step it costs
a CPU more than the training.  So a few crops of every photograph are drawn, half of them get a
pasted defect, the teacher looks at each, and pictures, masks and targets go into a folder that can
be deleted at any time: the same options draw the same again, whatever the seed of the training.
A GPU has time for both: `live` photographs are cut anew from the kept pictures whenever they are
used, and the teacher looks at what was cut, so that no view is seen twice.

Folders are kinds of things, their names the nouns of captions; a folder BACKGROUND... has no noun.
Every tenth photograph of a folder is held out: no step sees it.

Symbols: N pictures, B of a batch, G patches a side, R resolution.
Leaves out: what the targets are (pretrain/teacher_targets.py).
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

from minilora.data.images import read_image, to_square
from minilora.io.files import digest_of
from minilora.io.transaction import whole_folder
from minilora.pretrain.batches import low_priority
from minilora.pretrain.captions import NORMAL, PASTED, UNMENTIONED
from minilora.pretrain.teacher import load_teacher
from minilora.pretrain.teacher_targets import (GRID, LAYERS, PATCH, WHOLE, WHOLE_KEPT,
                                               components_of, teach)
from minilora.synthetic.defects import paste_defect
from minilora.synthetic.sampling import chance, log_uniform, uniform

PHOTO_SIDE = 224
SAMPLE = 512                    # pictures from which mean and components are computed
DONE = "views.json"             # written last: what the folder holds
EXTENSIONS = (".jpg", ".jpeg", ".png")


def find_photographs(root):
    """[(path, noun number or UNMENTIONED)] and the nouns, from folders named by what they show.

    Raises ValueError if there are none.
    """
    folders = sorted(p for p in Path(root).glob("*") if p.is_dir())
    named = [p for p in folders if not p.name.startswith("BACKGROUND")]
    class_names = [p.name.replace("_", " ").lower() for p in named]
    found = [(path, named.index(folder) if folder in named else UNMENTIONED)
             for folder in folders for path in sorted(folder.iterdir())
             if path.suffix.lower() in EXTENSIONS]
    if not found:
        raise ValueError(f"{root}: expected folders of photographs named by what they show, like "
                         f"sunflower/1.jpg, found none; correct --photos or leave it away")
    return found, class_names


def is_held_out(index):
    """Is the photograph of this number, in sorted order, kept for measuring?"""
    return index % 10 == 9


class Crops(Dataset):
    """Picture number i, cut out, turned and perhaps damaged; always the same.

    Returns (picture uint8 (3, R, R), mask bool (R, R), facts (4,), the photograph's number).  Of a
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
        path, class_name = self.photographs[number]
        generator = torch.Generator().manual_seed((number << 8) + copy)
        image, fixed = read_image(path), is_held_out(number)
        side = min(image.size) * (1 if fixed else log_uniform(generator, 0.5, 1))
        left, top = ((length - side) * (0.5 if fixed else uniform(generator))
                     for length in image.size)
        picture = to_square(image.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC,
                                         (left, top, left + side, top + side)), PHOTO_SIDE)
        if not fixed and chance(generator, 0.5):
            picture = picture.flip(2)
        if not fixed and chance(generator, 0.25):
            picture = torch.rot90(picture, int(torch.randint(1, 4, (), generator=generator)),
                                  (1, 2))
        damaged = copy == 1 if fixed else chance(generator, 0.5)
        mask = torch.zeros(PHOTO_SIDE, PHOTO_SIDE, dtype=torch.bool)
        if damaged:
            picture, mask = paste_defect(picture, generator)
        facts = torch.tensor([class_name, UNMENTIONED, UNMENTIONED, PASTED if damaged else NORMAL])
        return (picture * 255).round().byte(), mask, facts, number


def recut(picture, mask, generator, size=(PHOTO_SIDE, PHOTO_SIDE), least=0.6):
    """A part of a kept picture in another size, perhaps mirrored, and its mask.

    picture: uint8 (3, R, R);  mask: bool (R, R);  size: (H, W), whose aspect the part has;  least:
    its share of the largest such part.
    """
    share = log_uniform(generator, least, 1) * PHOTO_SIDE / max(size)
    part = []
    for length in size:
        side = round(share * length)
        at = int(torch.randint(PHOTO_SIDE - side + 1, (), generator=generator))
        part.append(slice(at, at + side))
    picture = F.interpolate(picture[:, part[0], part[1]][None], size, mode="bilinear")[0]
    mask = F.interpolate(mask[part[0], part[1]][None, None].byte(), size, mode="nearest")[0, 0] > 0
    return (picture.flip(2), mask.flip(1)) if chance(generator, 0.5) else (picture, mask)


def coverage_of(masks):
    """Share of every patch that a mask covers.  masks: bool (B, H, W) -> (B, rows, columns)."""
    return F.avg_pool2d(masks[:, None].float(), PATCH)[:, 0]


def columns_of(count, live=False):
    """{name: (shape, dtype)} of everything that is kept of `count` pictures."""
    columns = {"pictures": ((count, 3, PHOTO_SIDE, PHOTO_SIDE), np.uint8),
               "masks": ((count, PHOTO_SIDE, PHOTO_SIDE // 8), np.uint8), "facts": ((count, 4), np.int16),
               "photograph": ((count,), np.int32)}
    if live:
        return columns
    columns[f"target{WHOLE}"] = ((count, WHOLE_KEPT), np.float16)
    return columns | {f"target{n}": ((count, GRID, GRID, places ** 2, kept), np.float16)
                      for n, (kept, places) in LAYERS.items()}


def gigabytes(count, live=False):
    """What the folder of so many pictures takes."""
    return sum(np.prod(shape, dtype=float) * np.dtype(kind).itemsize
               for shape, kind in columns_of(count, live).values()) / 1e9


class Photographs:
    """Crops of photographs with the teacher's targets, drawn when asked for, or kept by `store`.

    nouns: names of the kinds;  train, test: numbers of the pictures to learn from and held out.
    live: see above;  device: where the teacher computes.
    """

    def __init__(self, photos, teacher, crops, live=False, device="cpu"):
        photographs, self.class_names = find_photographs(photos)
        self.crops, self.live, self.device = Crops(photographs, crops), live, torch.device(device)
        self.network = load_teacher(teacher).to(device)
        self.columns = None
        held = is_held_out(torch.tensor([number for number, _ in self.crops.items]))
        self.train, self.test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
        self.mark = digest_of([[f"{p.parent.name}/{p.name}", p.stat().st_size]
                               for p, _ in photographs], crops, live, list(LAYERS.items()))

    def read(self, name, numbers):
        """Rows of a column that is kept."""
        return torch.from_numpy(np.array(self.columns[name][np.asarray(numbers)]))

    def pictures(self, numbers):
        """(pictures uint8 (B, 3, R, R), masks bool (B, R, R), facts (B, 4))."""
        if self.columns is None:
            return default_collate([self.crops[int(k)] for k in numbers])[:3]
        masks = np.unpackbits(self.read("masks", numbers).numpy(), axis=-1)
        return (self.read("pictures", numbers), torch.from_numpy(masks) > 0,
                self.read("facts", numbers).long())

    @cached_property
    def parts(self):
        """{layer: Components}, from a sample of the pictures."""
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(len(self.crops), generator=generator)[:SAMPLE]
        return components_of([self.taught(part)
                              for part in self.pictures(order.sort()[0])[0].split(64)])

    def taught(self, pictures):
        """What the teacher sees in pictures uint8 (B, 3, R, R); half precision on a GPU."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            return teach(self.network, pictures.to(self.device))

    def targets(self, pictures):
        """{layer: target in half precision} of pictures uint8 (B, 3, R, R)."""
        return {n: self.parts[n].project(x.float()).half()
                for n, x in self.taught(pictures).items()}

    def rows(self, numbers):
        """(pictures uint8 (B, 3, R, R), coverage (B, G, G), facts (B, 4), {layer: target})."""
        pictures, masks, facts = self.pictures(numbers)
        if self.columns is None or self.live:
            targets = self.targets(pictures)
        else:
            targets = {int(name[6:]): self.read(name, numbers) for name in self.columns
                       if name.startswith("target")}
        return pictures, coverage_of(masks), facts, {n: x.float() for n, x in targets.items()}

    def batch(self, size, generator, grid=(GRID, GRID)):
        """`size` pictures to learn from, as `rows` gives them; live ones without targets.

        grid: rows and columns of patches that live ones have.
        """
        numbers = self.train[torch.randint(len(self.train), (size,), generator=generator)]
        if not self.live:
            return self.rows(numbers)
        pictures, masks, facts = self.pictures(numbers)
        size = [PATCH * side for side in grid]
        cut = [recut(*pair, generator, size) for pair in zip(pictures, masks)]
        pictures, masks = (torch.stack(column) for column in zip(*cut))
        return pictures, coverage_of(masks), facts, {}


def store(photographs, folder, workers, report=print):
    """Writes all pictures of `photographs`, and their targets unless live, into a folder.

    They are read from there afterwards.  A folder that holds the same already is left as it is.
    """
    done, count, live = Path(folder) / DONE, len(photographs.crops), photographs.live
    if not done.is_file() or json.loads(done.read_text("utf-8"))["mark"] != photographs.mark:
        report(f"{count:,} pictures of {len(photographs.class_names)} kinds"
               + ("" if live else ": the teacher looks at each once")
               + f"; {gigabytes(count, live):.1f} GB in {folder}, which can be deleted")
        with whole_folder(folder, "views") as staging:
            write(photographs, staging, workers, report)
    photographs.columns = {path.stem: np.load(path, mmap_mode="r")
                           for path in sorted(Path(folder).glob("*.npy"))}
    return photographs


def write(photographs, folder, workers, report):
    """Draws everything and writes it; `DONE` last."""
    count, live = len(photographs.crops), photographs.live
    if not live:
        for n, part in photographs.parts.items():
            report(f"teacher's layer {n}: {part.axes.shape[1]} components keep {part.kept:.1%} of "
                   "the variance")
    columns = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
               for name, (shape, kind) in columns_of(count, live).items()}
    at = 0
    for batch in DataLoader(photographs.crops, batch_size=64, num_workers=workers,
                            worker_init_fn=low_priority):
        rows = slice(at, at := at + len(batch[0]))
        values = dict(zip(("pictures", "masks", "facts", "photograph"), batch))
        values["masks"] = torch.from_numpy(np.packbits(values["masks"].numpy(), axis=-1))
        if not live:
            values |= {f"target{n}": x for n, x in photographs.targets(batch[0]).items()}
        for name, value in values.items():
            columns[name][rows] = value.cpu().numpy()
        if at % 6400 == 0:
            report(f"{at:,} of {count:,} pictures")
    for column in columns.values():
        column.flush()
    (folder / DONE).write_text(json.dumps({"mark": photographs.mark}), "utf-8")


def demo():
    """Two noise photographs in folders, cut out; the teacher is not asked."""
    with tempfile.TemporaryDirectory() as folder:
        for class_name in ("sea_horse", "BACKGROUND_noise"):
            (Path(folder) / class_name).mkdir()
            noise = np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)
            Image.fromarray(noise).save(Path(folder) / class_name / "1.png")
        found, class_names = find_photographs(folder)
        print(f"nouns {class_names}, of {[(path.parent.name, class_name) for path, class_name in found]}")
        crops = Crops(found, 3)
        for k in range(3):
            picture, mask, facts, number = crops[k]
            print(f"crop {k} of photograph {number}: {tuple(picture.shape)}, defect on "
                  f"{mask.float().mean():5.1%}, facts {facts.tolist()}")
            _, part = recut(picture, mask, torch.Generator().manual_seed(k))
            print(f"    cut anew: defect on {part.float().mean():5.1%}, of "
                  f"{(coverage_of(part[None]) > 0).sum()} patches")
    print(f"20,000 pictures with their targets take {gigabytes(20000):.1f} GB")


if __name__ == "__main__":
    demo()
