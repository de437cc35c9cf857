"""The inputs of each training step: batches of scenes and photographs, in one or several processes.

Claim: if each step draws from a generator of its own, seeded by the step's number, several
processes can read steps ahead, and the training does not depend on their number.

Left out: what a step does with its inputs (pretrain/objective.py).
"""
import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minilora.bpe import Tokenizer, default_tokenizer
from minilora.pretrain.batches import Buffer, low_priority
from minilora.pretrain.captions import CLASS_NAMES
from minilora.pretrain.objective import prepare_step
from minilora.pretrain.schedule import shows_whole_pictures
from minilora.pretrain.target_cache import Photographs, store
from minilora.synthetic.sampling import choose

# rows and columns of patches with --grids: the tower's own, rectangles up to 1 : 3, larger ones
GRIDS = ((14, 14), (14, 14), (12, 16), (16, 12), (14, 19), (19, 14), (10, 20), (20, 10), (14, 28),
         (28, 14), (10, 30), (30, 10), (18, 18), (21, 21), (14, 36), (36, 14), (28, 28))


def open_photographs(options: argparse.Namespace,
                     report: Callable[[str], None] = print) -> Photographs | None:
    """The photographs of --photos, stored in --views unless it is empty; None without --photos."""
    if not options.photos:
        return None
    photographs = Photographs(options.photos, options.teacher, options.crops, options.live,
                              options.device)
    if not options.views:
        return photographs
    return store(photographs, options.views, options.workers, report)


def initial_scenes(options: argparse.Namespace) -> int:
    """How many scenes are drawn before the first step: all of them, if no step draws new ones."""
    return 4 * options.batch if options.fresh else options.buffer


def draw_batches(buffer: Buffer, photographs: Photographs | None, full: bool,
                 generator: torch.Generator, options: argparse.Namespace,
                 grid: tuple[int, int] | None = None) -> tuple[list[Tensor] | None, tuple | None]:
    """A batch of scenes and a batch of photographs, each None if its share of the batch is zero.

    Whole pictures (full) have four times the patches of views; so a batch with photographs then has
    a quarter of the pictures.  grid: see `prepare_step`.
    """
    divisor = 4 if full and photographs else 1
    n_photographs = round(options.batch * options.photo_share) if photographs else 0
    n_scenes = (options.batch - n_photographs) // divisor
    return (buffer.batch(n_scenes, generator) if n_scenes else None,
            photographs.batch(n_photographs // divisor, generator, *[grid] * bool(grid))
            if n_photographs else None)


class StepInputs(Dataset):
    """The inputs of step number i, from `prepare_step`, with a generator seeded by --seed and i."""

    def __init__(self, buffer: Buffer, photographs: Photographs | None, tokenizer: Tokenizer,
                 class_names: list[str], options: argparse.Namespace) -> None:
        self.buffer, self.photographs, self.options = buffer, photographs, options
        self.tokenizer, self.class_names = tokenizer, class_names

    def __getitem__(self, step: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed((self.options.seed << 32) + step)
        return self.read(step, generator)

    def read(self, step: int, generator: torch.Generator) -> dict[str, Any]:
        """The inputs of a step, drawn with this generator."""
        full = shows_whole_pictures(step, self.options.steps, self.options.full)
        grid = choose(generator, GRIDS) if self.options.grids else None
        batches = draw_batches(self.buffer, self.photographs, full, generator, self.options, grid)
        return prepare_step(*batches, self.tokenizer, self.class_names, full, generator, grid)

    def ahead(self, first: int) -> Iterator[dict[str, Any]]:
        """The inputs from step `first` on, read by --ahead processes.

        They never end, because --minutes may increase the number of steps.
        """
        loader = DataLoader(self, batch_size=None, sampler=range(first, 10**9),
                            num_workers=self.options.ahead, prefetch_factor=4,
                            worker_init_fn=low_priority, pin_memory=self.options.device != "cpu")
        return iter(loader)


def demo() -> None:
    """The inputs of a step on views of scenes and of one on whole pictures."""
    options = argparse.Namespace(batch=4, steps=100, full=0.5, grids=False, seed=1)
    buffer = Buffer(4, fresh=0, first_batch=4, start_step=0, steps=100, workers=0)
    inputs = StepInputs(buffer, None, default_tokenizer(), CLASS_NAMES, options)
    for step in (0, 99):
        shapes = {name: tuple(x.shape) for name, x in inputs[step].items() if torch.is_tensor(x)}
        print(f"step {step}: pictures {shapes['pictures']}, patch ids {shapes['patch_ids']}, "
              f"texts {shapes['texts']}")


if __name__ == "__main__":
    demo()
