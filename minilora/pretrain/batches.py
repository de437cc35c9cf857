"""Drawn scenes as training batches: a stream of scenes, a replay buffer, and views of each picture.

    Buffer      each scene is used in several batches, because drawing a scene takes as long as
                training on it (Hoffer et al. 2020, "Augment your batch")
    view        the part of a picture that is encoded: a window at full resolution, or the whole
                picture at half resolution.  Both have a quarter of the patches, and neighbouring
                patches stay neighbours: a small defect is recognised by comparing a patch with
                those around it (differs from Li et al. 2023, "FLIP", which drops random patches)
    facts       the attributes of a picture as four numbers (pretrain/captions.py)
    patch ids   which patch of the whole picture each patch of a view is

Symbols: B scenes in a batch, R resolution, G = R / patch patches per side, P patches, W width.
Left out: files; a scene is drawn from its number whenever it is needed.
"""

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from minilora.clip import CLIPConfig
from minilora.pretrain.captions import CAPTION_KINDS, CLASS_NAMES, NORMAL, UNMENTIONED
from minilora.scenes.materials import COLOURS, MATERIALS
from minilora.scenes.scene import random_scene
from minilora.vit import VisionTransformer

MINI = CLIPConfig(embed=128, resolution=224, vision_layers=5, vision_width=256, patch=16,
                  text_width=64, text_layers=3)  # the embedded model


def low_priority(worker: int) -> None:
    """Lower the priority of this worker process, so that drawing does not slow down training."""
    os.nice(19)


class SceneStream(Dataset):
    """Scenes number `first` to `last` - 1.

    An item is (picture uint8 (3, R, R), mask coverage per patch (G, G), facts (4,)).
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        scene = random_scene(self.first + index)
        colour, material = (scene.words + (None,))[:2]
        facts = [CLASS_NAMES.index(scene.class_name), list(COLOURS).index(colour),
                 list(MATERIALS).index(material) if material else UNMENTIONED,
                 CAPTION_KINDS.index(scene.flaw) if scene.flaw else NORMAL]
        coverage = F.avg_pool2d(scene.mask[None].float(), MINI.patch)[0]  # (14, 14)
        return (scene.picture * 255).round().byte(), coverage, torch.tensor(facts)


class Buffer:
    """The latest `size` scenes; `fresh` new ones, drawn by `workers` processes, enter at each step.

    first_batch: scenes that are drawn before step 0;  start_step: first step of this process;
    steps: number of steps of the whole training.
    Without fresh scenes and workers, a scene is drawn whenever a batch needs it.
    """

    def __init__(self, size: int, fresh: int, first_batch: int, start_step: int, steps: int,
                 workers: int) -> None:
        known = first_batch + fresh * start_step            # scenes drawn before start_step
        begin = max(0, known - size)
        stream = DataLoader(SceneStream(begin, first_batch + fresh * steps), batch_size=None,
                            num_workers=workers, worker_init_fn=low_priority,
                            prefetch_factor=max(2, 2 * fresh) if workers else None)
        self.stream, self.fresh, self.size, self.count = iter(stream), fresh, size, begin
        self.columns, self.scenes = None, None
        if fresh or workers:
            self.take(known - begin)
        else:
            self.scenes, self.count = SceneStream(begin, known), known

    def take(self, number: int) -> None:
        """Move `number` scenes from the stream into the buffer; they replace the oldest."""
        for _ in range(number):
            columns = next(self.stream)
            if self.columns is None:
                self.columns = [torch.empty((self.size, *c.shape), dtype=c.dtype) for c in columns]
            for store, value in zip(self.columns, columns):
                store[self.count % self.size] = value
            self.count += 1

    def batch(self, size: int, generator: torch.Generator) -> list[Tensor]:
        """Random scenes: [pictures uint8 (B, 3, R, R), coverage (B, G, G), facts (B, 4)].

        The fresh scenes enter the buffer afterwards.
        """
        rows = torch.randperm(min(self.count, self.size), generator=generator)[:size]
        if self.scenes:
            return default_collate([self.scenes[int(k)] for k in rows])
        batch = [store[rows] for store in self.columns]
        self.take(self.fresh)
        return batch


def crop_views(pictures: Tensor, coverage: Tensor, generator: torch.Generator, window: int,
               whole: float = 0.5, flips: bool = True) -> list[Tensor]:
    """One view of each picture: a window at full resolution, or the whole at half resolution.

    pictures: uint8 (B, 3, R, R);  coverage: (B, G, G);  window: patches per side of a view;  whole:
    share of the views that show the whole picture;  flips: flip and transpose each view at random.
    Returns [pictures uint8 (B, 3, window * patch, window * patch), coverage (B, window, window),
    patch ids (B, window, window)]; the ids are -1 in a view of the whole picture.
    Two out of three windows are placed so that they show a defect, if there is one.  A window of a
    flipped picture gets the patch ids that it has after the flip.
    """
    side, patch = coverage.shape[1], pictures.shape[-1] // coverage.shape[1]
    half_coverage = F.avg_pool2d(coverage[:, None], 2)[:, 0]
    grid = torch.arange(side * side).view(side, side)
    out = []
    for k in range(len(pictures)):
        flip = ((torch.rand(3, generator=generator) < 0.5) & flips).tolist()
        if torch.rand((), generator=generator) < whole:
            half = F.avg_pool2d(pictures[k].float(), 2).round().byte()
            out.append((flip_and_transpose(half, flip), flip_and_transpose(half_coverage[k], flip),
                        torch.full((window, window), -1)))
            continue
        row, col = torch.randint(side - window + 1, (2,), generator=generator).tolist()
        defective = (coverage[k] > 0.15).nonzero()
        if len(defective) and torch.rand((), generator=generator) < 0.67:
            target = defective[torch.randint(len(defective), (), generator=generator)]
            shift = torch.randint(window, (2,), generator=generator)
            row, col = (target - shift).clamp(0, side - window).tolist()
        pixels = pictures[k, :, row * patch : (row + window) * patch,
                          col * patch : (col + window) * patch]
        covered = coverage[k, row : row + window, col : col + window]
        row, col = corner_after_flips(row, col, side - window, flip)
        out.append((flip_and_transpose(pixels, flip), flip_and_transpose(covered, flip),
                    grid[row : row + window, col : col + window]))
    return [torch.stack(column) for column in zip(*out)]


def flip_and_transpose(image: Tensor, flip: Sequence[bool]) -> Tensor:
    """(..., N, N) -> the same shape; flip: (left to right, upside down, transpose)."""
    image = image.flip([axis for axis, chosen in zip((-1, -2), flip) if chosen])
    return image.transpose(-1, -2) if flip[2] else image


def corner_after_flips(row: int, col: int, last: int, flip: Sequence[bool]) -> tuple[int, int]:
    """Where `flip_and_transpose` moves the upper left corner of a window.

    last: the largest row or column at which a window can start.
    """
    row, col = (last - row if flip[1] else row), (last - col if flip[0] else col)
    return (col, row) if flip[2] else (row, col)


def visible_facts(facts: Tensor, coverage: Tensor) -> Tensor:
    """The facts (B, 4) of views: a window that does not show the defect is normal."""
    facts = facts.clone()
    facts[coverage.flatten(1).amax(1) < 0.02, 3] = NORMAL
    return facts


def embed_view(visual: VisionTransformer, pixels: Tensor, patch_ids: Tensor) -> Tensor:
    """`visual.embed` with the position embeddings of the patch ids, (B, 1 + P, W).

    pixels: (B, 3, r, r), normalised;  patch_ids: (B, g, g) from `crop_views`.
    """
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)                     # (B, P, W)
    half = pixels.shape[-1] // visual.patch
    whole = visual.positions(half, half)[1:]                                # (P, W)
    own = visual.positional_embedding[1:][patch_ids.clamp(min=0).flatten(1)]   # (B, P, W)
    x = x + torch.where((patch_ids < 0).flatten(1)[..., None], whole, own)
    cls = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([cls, x], dim=1))


def demo() -> None:
    """Three batches from a small buffer, and views of the last one."""
    generator = torch.Generator().manual_seed(0)
    buffer = Buffer(8, fresh=2, first_batch=6, start_step=0, steps=4, workers=0)
    for step in range(3):
        pictures, coverage, facts = buffer.batch(4, generator)
        flawed = (facts[:, 3] != NORMAL).sum()
        print(f"step {step}: {buffer.count} scenes drawn, "
              f"batch {tuple(pictures.shape)}, {flawed} with a defect")
    views, _, patch_ids = crop_views(pictures, coverage, generator, 7)
    whole = (patch_ids[:, 0, 0] < 0).sum()
    print(f"views {tuple(views.shape)}: {whole} whole pictures at half resolution, "
          f"{4 - whole} windows")


if __name__ == "__main__":
    demo()
