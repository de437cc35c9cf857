"""Use one CPU thread for small work, and restore the number of threads afterwards.

Claim: for small tensors, and for copying, which memory bandwidth limits, more threads gain little.
On a busy machine they even cost time, because threads wait for each other after every operation.

Left out: processes, and a decoding thread that runs ahead (io/prefetch.py).
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the `with` block torch uses one thread; afterwards as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def demo() -> None:
    """Thread counts before, inside and after the block."""
    before = torch.get_num_threads()
    with one_thread():
        inside = torch.get_num_threads()
    print(f"inside: {inside} thread; restored afterwards: {torch.get_num_threads() == before}")
    try:
        with one_thread():
            raise ValueError("an error inside the block")
    except ValueError as error:
        print(f"after {error}, restored: {torch.get_num_threads() == before}")


if __name__ == "__main__":
    demo()
