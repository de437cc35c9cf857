"""Random draws from a generator, one number at a time, and the one thread that suits small work.

Claim: if every draw takes its generator as an argument, the same seed gives the same picture on
any machine and in any order of calls.

Leaves out: anything in bulk; `torch.rand` does that.
"""
import math
from contextlib import contextmanager

import torch


def uniform(generator, low=0.0, high=1.0):
    """One float from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def log_uniform(generator, low, high):
    """One float from [low, high), every factor equally likely: as often 1 to 2 as 4 to 8."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def chance(generator, probability):
    """True with that probability."""
    return uniform(generator) < probability


def choose(generator, options):
    """One of a sequence, all equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


@contextmanager
def one_thread():
    """Inside, torch works on one thread.

    Small steps, and copying, which memory limits, gain little from more; and on a busy machine,
    where threads wait for each other after every step, one is several times as quick as two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def demo():
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
