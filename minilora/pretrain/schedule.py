"""The optimiser of pretraining, its learning-rate schedule, and the number of steps.

Claim: until the learning rate falls, no step depends on how many steps there will be.  So a
training can be made longer or shorter while it runs (Hu et al. 2024, "MiniCPM", section 4: warm-up,
stable, decay).

Left out: the training loop (pretrain/train.py).
"""
import argparse
from collections.abc import Iterable

import torch
from torch import nn

COOLING = 0.3                   # the rate falls in this share of the steps, at the end


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100,
                  cooling: float = COOLING) -> float:
    """Linear warm-up, constant, linear decay to zero; cooling: share of the steps that decay."""
    left = (steps - step) / max(1, cooling * steps)
    return peak * min(1.0, (step + 1) / warmup, left)


def shows_whole_pictures(step: int, steps: int, share: float) -> bool:
    """Whether a step trains on whole pictures at full resolution, as used at test time.

    The last `share` of the steps do; earlier steps use windows and half-size pictures.
    """
    return step >= (1 - share) * steps


def fitting_steps(options: argparse.Namespace, done: int, seconds: float) -> int:
    """The total number of steps: with --minutes, as many as fit; else --steps.

    done: steps so far;  seconds: their training time.  The number changes only every hundred steps,
    and not any more when the learning rate falls.
    """
    if not options.minutes or done % 100 or done >= (1 - COOLING) * options.steps:
        return options.steps
    return max(done + 1, round(done * 60 * options.minutes / max(seconds, 1e-3)))


def optimiser_for(modules: Iterable[nn.Module], rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, without it on biases, norms and the temperature."""
    parameters = [p for module in modules for p in module.parameters()]
    groups = [[p for p in parameters if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": p, "weight_decay": decay} for p, decay in zip(groups, (0.1, 0.0))]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def demo() -> None:
    """The learning rate of two trainings with different lengths; they agree before the decay."""
    for steps in (1000, 2000):
        rates = (f"{learning_rate(k, steps, 1.0):.2f}" for k in range(0, steps, 100))
        print(f"{steps} steps, every 100th: {' '.join(rates)}")
    options = argparse.Namespace(minutes=2.0, steps=100_000)
    print(f"200 steps took 20 s; in {options.minutes:.0f} minutes fit "
          f"{fitting_steps(options, 200, 20)} steps")


if __name__ == "__main__":
    demo()
