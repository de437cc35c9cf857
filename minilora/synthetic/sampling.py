"""Random draws from a generator, one number at a time.

Claim: if every draw takes its generator as an argument, the same seed gives the same picture on
any machine and in any order of calls.

Left out: many numbers at once; `torch.rand` draws those.
"""
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Option = TypeVar("Option")


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from [low, high) whose logarithm is uniform: 1 to 2 is as likely as 4 to 8."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def chance(generator: torch.Generator, probability: float) -> bool:
    """True with this probability."""
    return uniform(generator) < probability


def choose(generator: torch.Generator, options: Sequence[Option] | Tensor) -> Option:
    """One element of a sequence or row of a tensor, all equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def demo() -> None:
    """Draws repeat with the seed; a log-uniform draw favours no order of magnitude."""
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        print(f"seed {seed}: {uniform(generator, 1, 100):5.1f} uniform, "
              f"{log_uniform(generator, 1, 100):5.1f} log-uniform from 1 to 100, "
              f"{choose(generator, ('scratch', 'hole', 'stain'))}")
    generator = torch.Generator().manual_seed(0)
    low = sum(log_uniform(generator, 1, 100) < 10 for _ in range(1000))
    print(f"of 1,000 log-uniform draws from 1 to 100, {low} are below 10")


if __name__ == "__main__":
    demo()
