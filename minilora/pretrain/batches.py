"""Drawn scenes as training batches: a stream, a buffer of the latest, and views of each.

    Buffer      each drawn scene serves in several batches, since drawing is as dear as training
                (Hoffer et al. 2020, "Augment your batch")
    view        a window of each picture, or all of it in half detail: a quarter of the patches, but
                neighbours stay neighbours (differs from Li et al. 2023, "FLIP", which drops patches
                at random; a small defect is seen by comparing a patch with those around it)

Symbols: B scenes of a batch, R resolution, G = R / patch patches a side, P patches, W width.
Leaves out: files; a scene is drawn from its number whenever it is needed.
"""

import os

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from minilora.clip import CLIPConfig
from minilora.pretrain.captions import CAPTION_KINDS, CLASS_NAMES, NORMAL, UNMENTIONED
from minilora.scenes.materials import COLOURS, FIELDS
from minilora.scenes.scene import random_scene

MINI = CLIPConfig(embed=128, resolution=224, vision_layers=5, vision_width=256, patch=16,
                  text_width=64, text_layers=3)  # the embedded model


def low_priority(worker):
    """Workers draw when training leaves a core idle, which it does when it runs out of scenes."""
    os.nice(19)


class SceneStream(Dataset):
    """Scene number i as uint8 picture, mask coverage per patch, and attributes as numbers."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        scene = random_scene(self.first + index)
        colour, material = (scene.words + (None,))[:2]
        facts = [CLASS_NAMES.index(scene.class_name), list(COLOURS).index(colour),
                 list(FIELDS).index(material) if material else UNMENTIONED,
                 CAPTION_KINDS.index(scene.flaw) if scene.flaw else NORMAL]
        coverage = F.avg_pool2d(scene.mask[None].float(), MINI.patch)[0]  # (14, 14)
        return (scene.picture * 255).round().byte(), coverage, torch.tensor(facts)


class Buffer:
    """The latest `size` scenes; at every step `fresh` new ones enter, drawn by workers.

    With no fresh ones and no workers, a scene is drawn whenever it is asked for.
    """

    def __init__(self, size, fresh, first_batch, start_step, steps, workers):
        known = first_batch + fresh * start_step  # scenes drawn before this step
        begin = max(0, known - size)
        stream = DataLoader(SceneStream(begin, first_batch + fresh * steps), batch_size=None,
                            num_workers=workers, prefetch_factor=max(2, 2 * fresh) if workers else None,
                            worker_init_fn=low_priority)
        self.stream, self.fresh, self.size, self.count = iter(stream), fresh, size, begin
        self.columns, self.scenes = None, None
        if fresh or workers:
            self.take(known - begin)
        else:
            self.scenes, self.count = SceneStream(begin, known), known

    def take(self, number):
        for _ in range(number):
            columns = next(self.stream)
            if self.columns is None:
                self.columns = [torch.empty((self.size, *c.shape), dtype=c.dtype) for c in columns]
            for store, value in zip(self.columns, columns):
                store[self.count % self.size] = value
            self.count += 1

    def batch(self, size, generator):
        """Pictures uint8 (B, 3, R, R), coverage (B, G, G), facts (B, 4); fresh scenes follow."""
        rows = torch.randperm(min(self.count, self.size), generator=generator)[:size]
        if self.scenes:
            return default_collate([self.scenes[int(k)] for k in rows])
        batch = [store[rows] for store in self.columns]
        self.take(self.fresh)
        return batch


def crop_views(pictures, coverage, generator, window, whole=0.5, turning=True):
    """What of each picture is encoded: a window of it in full detail, or the whole in half detail.

    pictures: uint8 (B, 3, R, R);  coverage: (B, G, G);  window: patches a side.  Returns pictures
    uint8 (B, 3, window * patch, ...), coverage (B, window, window), and for each the numbers of the
    patches whose positions it takes (B, window, window), -1 where the whole picture is shown.
    Two windows of three are placed so that they show a defect, if there is one.  Each view is
    turned, if wanted: flipped and transposed at random, and its window lies where it then belongs.
    whole: the share that is shown whole.
    """
    side, patch = coverage.shape[1], pictures.shape[-1] // coverage.shape[1]
    halves = F.avg_pool2d(coverage[:, None], 2)[:, 0]
    grid = torch.arange(side * side).view(side, side)
    out = []
    for k in range(len(pictures)):
        turn = ((torch.rand(3, generator=generator) < 0.5) & turning).tolist()
        if torch.rand((), generator=generator) < whole:
            half = F.avg_pool2d(pictures[k].float(), 2).round().byte()
            out.append((turned(half, turn), turned(halves[k], turn),
                        torch.full((window, window), -1)))
            continue
        row, col = torch.randint(side - window + 1, (2,), generator=generator).tolist()
        marked = (coverage[k] > 0.15).nonzero()
        if len(marked) and torch.rand((), generator=generator) < 0.67:
            target = marked[torch.randint(len(marked), (), generator=generator)]
            shift = torch.randint(window, (2,), generator=generator)
            row, col = (target - shift).clamp(0, side - window).tolist()
        pixels = pictures[k, :, row * patch : (row + window) * patch,
                          col * patch : (col + window) * patch]
        covered = coverage[k, row : row + window, col : col + window]
        row, col = turned_corner(row, col, side - window, turn)
        out.append((turned(pixels, turn), turned(covered, turn),
                    grid[row : row + window, col : col + window]))
    return [torch.stack(column) for column in zip(*out)]


def turned(image, turn):
    """(..., N, N) mirrored left to right, upside down, transposed, as the three booleans say."""
    image = image.flip([axis for axis, chosen in zip((-1, -2), turn) if chosen])
    return image.transpose(-1, -2) if turn[2] else image


def turned_corner(row, col, last, turn):
    """Upper left corner, after `turned`, of a window that could start at 0 to `last`."""
    row, col = (last - row if turn[1] else row), (last - col if turn[0] else col)
    return (col, row) if turn[2] else (row, col)


def visible_facts(facts, coverage):
    """The attributes as far as a view shows them: a window without the defect is flawless."""
    facts = facts.clone()
    facts[coverage.flatten(1).amax(1) < 0.02, 3] = NORMAL
    return facts


def embed_view(visual, pixels, places):
    """`visual.embed` with the positions that each view has in its picture: (B, 1 + P, W)."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)                     # (B, P, W)
    half = pixels.shape[-1] // visual.patch
    whole = visual.positions(half, half)[1:]                                # (P, W)
    own = visual.positional_embedding[1:][places.clamp(min=0).flatten(1)]   # (B, P, W)
    x = x + torch.where((places < 0).flatten(1)[..., None], whole, own)
    cls = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([cls, x], dim=1))


def demo():
    generator = torch.Generator().manual_seed(0)
    buffer = Buffer(8, fresh=2, first_batch=6, start_step=0, steps=4, workers=0)
    for step in range(3):
        pictures, coverage, facts = buffer.batch(4, generator)
        flawed = (facts[:, 3] != NORMAL).sum()
        print(f"step {step}: {buffer.count} scenes drawn, "
              f"batch {tuple(pictures.shape)}, {flawed} flawed")
    cut, covered, places = crop_views(pictures, coverage, generator, 7)
    whole = (places[:, 0, 0] < 0).sum()
    print(f"views {tuple(cut.shape)}: {whole} in half detail, {4 - whole} windows")


if __name__ == "__main__":
    demo()
