"""Photographs with the teacher's targets, computed once and stored on disk, or live.

Claim: on a CPU, running the teacher at every step costs more than the training itself; running it
once on every crop takes minutes.  So pictures, masks and targets are written into a folder.  It can
be deleted at any time: the same options give the same files, whatever the seed of the training.

A GPU is fast enough to run the teacher at every step.  `live` photographs are cropped at random
whenever they are used, and the teacher sees the same crop as the tower, so that no view repeats.

    folder      one .npy array per column (`columns_of`), and views.json, written last

Symbols: B pictures in a batch, G patches per side, R resolution.
Left out: what the targets are (pretrain/teacher_targets.py), the crops (pretrain/photographs.py).
"""
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from minilora.io.files import digest_of, read_json
from minilora.io.transaction import atomic_folder, result_path
from minilora.pretrain.batches import low_priority
from minilora.pretrain.photographs import (PHOTO_SIDE, Crops, coverage_of, find_photographs,
                                           is_held_out, random_crop)
from minilora.pretrain.teacher import load_teacher
from minilora.pretrain.teacher_targets import (GRID, LAYERS, PATCH, WHOLE, WHOLE_KEPT, Components,
                                               fit_components, teacher_features)

SAMPLE = 512                    # pictures from which mean and components are computed
DONE = "views.json"             # written last, so its presence shows that the folder is complete


def columns_of(count: int, live: bool = False) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, dtype)} of the arrays that are stored for `count` pictures."""
    columns = {"pictures": ((count, 3, PHOTO_SIDE, PHOTO_SIDE), np.uint8),
               "masks": ((count, PHOTO_SIDE, PHOTO_SIDE // 8), np.uint8),      # one bit per pixel
               "facts": ((count, 4), np.int16), "photograph": ((count,), np.int32)}
    if live:
        return columns
    columns[f"target{WHOLE}"] = ((count, WHOLE_KEPT), np.float16)
    return columns | {f"target{n}": ((count, GRID, GRID, per_side ** 2, kept), np.float16)
                      for n, (kept, per_side) in LAYERS.items()}


def gigabytes(count: int, live: bool = False) -> float:
    """The size of the folder for `count` pictures."""
    return sum(np.prod(shape, dtype=float) * np.dtype(kind).itemsize
               for shape, kind in columns_of(count, live).values()) / 1e9


CACHE_FILES = (DONE, *(f"{name}.npy" for name in columns_of(0)))


class Photographs:
    """Crops of photographs with the teacher's targets, computed when needed or read from a cache.

    photos: folder;  teacher: .npz file;  crops: crops of each photograph;  live: see above;
    device: where the teacher runs.
    Attributes: class_names;  train, test: numbers of the pictures for training and held out;
    columns: {name: array} of the cache, None before `store`.
    """

    def __init__(self, photos: str | Path, teacher: str | Path, crops: int, live: bool = False,
                 device: str = "cpu") -> None:
        photographs, self.class_names = find_photographs(photos)
        self.crops, self.live, self.device = Crops(photographs, crops), live, torch.device(device)
        self.network = load_teacher(teacher).to(device)
        self.columns = None
        held = is_held_out(torch.tensor([number for number, _ in self.crops.items]))
        self.train, self.test = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
        self.fingerprint = digest_of(
            [[f"{p.parent.name}/{p.name}", p.stat().st_size] for p, _ in photographs], crops, live,
            list(LAYERS.items()))

    def read(self, name: str, numbers: Tensor | list[int]) -> Tensor:
        """Rows of an array of the cache."""
        return torch.from_numpy(np.array(self.columns[name][np.asarray(numbers)]))

    def pictures(self, numbers: Tensor | list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(pictures uint8 (B, 3, R, R), masks bool (B, R, R), facts (B, 4))."""
        if self.columns is None:
            return tuple(default_collate([self.crops[int(k)] for k in numbers])[:3])
        masks = np.unpackbits(self.read("masks", numbers).numpy(), axis=-1)
        return (self.read("pictures", numbers), torch.from_numpy(masks) > 0,
                self.read("facts", numbers).long())

    @cached_property
    def components(self) -> dict[int, Components]:
        """{layer: Components}, computed from a sample of the pictures."""
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(len(self.crops), generator=generator)[:SAMPLE]
        return fit_components([self.features(part)
                               for part in self.pictures(order.sort()[0])[0].split(64)])

    def features(self, pictures: Tensor) -> dict[int, Tensor]:
        """The teacher's features of pictures uint8 (B, 3, R, R); half precision on a GPU."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            return teacher_features(self.network, pictures.to(self.device))

    def targets(self, pictures: Tensor) -> dict[int, Tensor]:
        """{layer: target in half precision} of pictures uint8 (B, 3, R, R)."""
        return {n: self.components[n].project(x.float()).half()
                for n, x in self.features(pictures).items()}

    def rows(self, numbers: Tensor | list[int]
             ) -> tuple[Tensor, Tensor, Tensor, dict[int, Tensor]]:
        """(pictures uint8 (B, 3, R, R), coverage (B, G, G), facts (B, 4), {layer: target})."""
        pictures, masks, facts = self.pictures(numbers)
        if self.columns is None or self.live:
            targets = self.targets(pictures)
        else:
            targets = {int(name[6:]): self.read(name, numbers) for name in self.columns
                       if name.startswith("target")}
        return pictures, coverage_of(masks), facts, {n: x.float() for n, x in targets.items()}

    def batch(self, size: int, generator: torch.Generator, grid: tuple[int, int] = (GRID, GRID)
              ) -> tuple[Tensor, Tensor, Tensor, dict[int, Tensor]]:
        """`size` random training pictures, as from `rows`; live ones have no targets yet.

        grid: rows and columns of patches of live pictures.
        """
        numbers = self.train[torch.randint(len(self.train), (size,), generator=generator)]
        if not self.live:
            return self.rows(numbers)
        pictures, masks, facts = self.pictures(numbers)
        pixels = [PATCH * side for side in grid]
        cropped = [random_crop(*pair, generator, pixels) for pair in zip(pictures, masks)]
        pictures, masks = (torch.stack(column) for column in zip(*cropped))
        return pictures, coverage_of(masks), facts, {}


def store(photographs: Photographs, folder: str | Path, workers: int,
          report: Callable[[str], None] = print) -> Photographs:
    """Write all pictures, and their targets unless live, into `folder`; then read them from there.

    A folder with the same content is kept.  workers: processes that draw crops.  Returns
    `photographs`.
    """
    count, live = len(photographs.crops), photographs.live
    if stored_fingerprint(folder) != photographs.fingerprint:
        report(f"{count:,} pictures of {len(photographs.class_names)} classes"
               + ("" if live else "; the teacher runs once on each")
               + f"; {gigabytes(count, live):.1f} GB in {folder}, which can be deleted")
        with atomic_folder(folder, "views", CACHE_FILES) as staging:
            write_columns(photographs, staging, workers, report)
    photographs.columns = {
        name: np.load(result_path(folder, f"{name}.npy", "views"), mmap_mode="r")
        for name in sorted(columns_of(count, live))}
    return photographs


def stored_fingerprint(folder: str | Path) -> str | None:
    """The fingerprint of the photographs that a folder holds; None if it holds none."""
    try:
        content = read_json(result_path(folder, DONE, "views"))
    except (OSError, ValueError):                   # missing, or of other origin
        return None
    return content.get("mark") if isinstance(content, dict) else None


def write_columns(photographs: Photographs, folder: Path, workers: int,
                  report: Callable[[str], None]) -> None:
    """Write the arrays of `columns_of` for all pictures, and DONE at the end."""
    count, live = len(photographs.crops), photographs.live
    if not live:
        for n, part in photographs.components.items():
            report(f"teacher's layer {n}: {part.axes.shape[1]} components keep {part.kept:.1%} of "
                   "the variance")
    columns = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
               for name, (shape, kind) in columns_of(count, live).items()}
    written = 0
    for batch in DataLoader(photographs.crops, batch_size=64, num_workers=workers,
                            worker_init_fn=low_priority):
        rows = slice(written, written := written + len(batch[0]))
        values = dict(zip(("pictures", "masks", "facts", "photograph"), batch))
        values["masks"] = torch.from_numpy(np.packbits(values["masks"].numpy(), axis=-1))
        if not live:
            values |= {f"target{n}": x for n, x in photographs.targets(batch[0]).items()}
        for name, value in values.items():
            columns[name][rows] = value.cpu().numpy()
        if written % 6400 == 0:
            report(f"{written:,} of {count:,} pictures")
    for column in columns.values():
        column.flush()
    (folder / DONE).write_text(json.dumps({"mark": photographs.fingerprint}), "utf-8")


def demo() -> None:
    """The arrays that are stored for 20,000 pictures, and their size."""
    for name, (shape, kind) in columns_of(20000).items():
        print(f"{name:10s} {np.dtype(kind).name:7s} {shape}")
    print(f"all {gigabytes(20000):.1f} GB; without the targets {gigabytes(20000, True):.1f} GB")


if __name__ == "__main__":
    demo()
