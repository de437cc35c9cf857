"""One measurement of bench.memory: read from its file, or made now while the budget lasts.

    on a CPU    each measurement has a fresh process
    on a GPU    all of them share this process, because torch and CUDA take seconds to start; before
                each one, unused memory goes back to the GPU

A measurement is stored and is not made again while code, conditions and machine are the same, so
the next call goes on where the budget of this one ended.  "Does not fit" is not stored: how much
memory is free depends on other programs.
Left out: what is measured (cost.py), and the tables (memory.py).
"""
import gc
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

import torch

from bench import cost, measure
from bench.accuracy import cell
from bench.cells import conditions_of, machine
from minilora.io.files import digest_of

GIB = 2**30


class NotMeasured(Exception):
    """The budget is spent."""


class DoesNotFit(Exception):
    """The device ran out of memory."""


class Turns:
    """Makes the measurements of one call.

    options: device, shape, out, pool; budget: seconds, or None for as long as it takes;  clock:
    seconds from any start;  here: in this process, by default on a GPU only.
    """

    def __init__(self, options: Namespace, clock: Callable[[], float] = time.monotonic,
                 here: bool | None = None):
        self.options, self.clock, self.begun, self.longest = options, clock, clock(), 0.0
        self.on_gpu = torch.device(options.device).type == "cuda"
        self.here = self.on_gpu if here is None else here

    def result(self, quantity: str, name: str | list[str], case: tuple, compute: Callable, *more):
        """compute(name, shape, conditions, *more), or what is stored of it.

        quantity: what is measured; for "memory" a fresh process returns freed memory to the system
        at once (`measure.fresh`);  name: one method, or several.  Raises NotMeasured, DoesNotFit.
        """
        o, conditions = self.options, conditions_of(case, self.options)
        arguments = name, asdict(o.shape), conditions, *more
        words = "".join(c if c.isalnum() else " " for c in f"{o.device} {quantity} {name} {case}")
        mark = digest_of(quantity, *arguments, cost.code_version(), torch.__version__,
                         machine(o.device))
        return cell(o.out / "cells" / f"{'-'.join(words.split())}.json", mark,
                    lambda: self.made(compute, arguments, quantity == "memory"))

    def made(self, compute: Callable, arguments: tuple, returning: bool):
        """The result, measured now."""
        begun = self.clock()
        if self.options.budget is not None:
            if begun - self.begun + self.longest > self.options.budget:
                raise NotMeasured("not measured")
        try:
            if not self.here:
                return measure.fresh(compute, *arguments, returning=returning)
            gc.collect()
            torch.cuda.empty_cache()                    # does nothing without a GPU
            return compute(*arguments)
        except RuntimeError as error:                   # torch.OutOfMemoryError is one
            if not measure.is_out_of_memory(error):
                raise
        finally:
            self.longest = max(self.longest, self.clock() - begun)
        # Not raised above: there the error would keep the frames alive, and with them the tensors.
        raise DoesNotFit(f"does not fit in {self.capacity() / GIB:.0f} GB")

    def capacity(self) -> int:
        """Bytes of memory of the device."""
        return measure.device_bytes(self.options.device)
