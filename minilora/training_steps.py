"""Training steps: a fixed number of AdamW steps on random batches, with a one-cycle learning rate.

Used by everything that is trained on a few pictures; pretraining has a loop of its own
(pretrain/train.py).

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization" (AdamW)
    Smith & Topin 2019, "Super-convergence" (one cycle of the learning rate)

Left out: early stopping, because there are no defective pictures for validation.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilora.io.resume import ResumePoint


@dataclass(frozen=True)
class TrainConfig:
    """The fields that `training_steps` reads, where there is no DetectorConfig."""
    steps: int
    batch: int
    rate: float


def training_steps(loss_of: Callable[[Tensor], Tensor], trained: list[Tensor], count: int,
                   config: Any, generator: torch.Generator,
                   resume: ResumePoint | None = None) -> Iterator[tuple[int, float]]:
    """A fixed number of AdamW steps on random batches; the learning rate rises and falls once.

    loss_of(rows): scalar loss of a batch, given the indices (B,) of its training examples;
    trained: parameters;  count: number of training examples;  config: a `TrainConfig` or
    `DetectorConfig`;  resume: a `ResumePoint`, whose finished steps are not repeated.
    Yields (step, loss), for finished steps too.  Raises ValueError if a loss is not finite.
    """
    optimiser = torch.optim.AdamW(trained, lr=config.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate,
                                                   total_steps=config.steps)
    losses = resume.restore(trained, optimiser, generator, schedule) if resume else []
    yield from enumerate(losses)
    for step in range(len(losses), config.steps):
        optimiser.zero_grad()           # before the forward pass: frees the old gradients
        loss = loss_of(torch.randperm(count, generator=generator)[:config.batch])
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise ValueError(f"loss is {losses[-1]} at step {step}; expected a finite number; "
                             f"lower the rate ({config.rate})")
        if resume:
            resume.save(trained, optimiser, generator, losses)
        yield step, losses[-1]


def run_training(loss_of: Callable[[Tensor], Tensor], trained: list[Tensor], count: int,
                 config: Any, generator: torch.Generator,
                 report: Callable[[int, float], None] = lambda step, loss: None,
                 resume: ResumePoint | None = None) -> list[float]:
    """Runs all `training_steps`; report(step, loss) is called after each.  Returns the losses."""
    losses = []
    for step, loss in training_steps(loss_of, trained, count, config, generator, resume):
        losses.append(loss)
        report(step, loss)
    return losses


def demo() -> None:
    """Fits a line to noisy points."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, generator=generator)
    y = 3 * x + 1 + 0.1 * torch.randn(64, generator=generator)
    slope, offset = (torch.zeros((), requires_grad=True) for _ in range(2))
    losses = run_training(lambda rows: (slope * x[rows] + offset - y[rows]).square().mean(),
                          [slope, offset], 64, TrainConfig(steps=200, batch=8, rate=0.1), generator)
    for step in (0, 50, 199):
        print(f"step {step:3d}  loss {losses[step]:.4f}")
    print(f"y = {slope.item():.2f} x + {offset.item():.2f}; the points were drawn around 3 x + 1")


if __name__ == "__main__":
    demo()
