"""Cells of bench.memory: one measurement of one method under one condition, made once and stored.

A case is (batch, precision, checkpointing), with the values of the command line.
Left out: the measurements themselves (cost.py), tables (memory.py).
"""
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

import torch

from bench import cost, measure
from bench.accuracy import cell
from bench.formulas import predicted
from bench.steps import METHODS
from minilora.io.files import digest_of


def conditions_of(case: tuple, options: Namespace) -> dict:
    """The arguments of `steps.Training` for one case."""
    batch, precision, checkpointing = case
    return {"batch": batch, "pool": options.pool, "bfloat16": precision == "bfloat16",
            "checkpointing": checkpointing == "on", "device": options.device}


def machine(device: str) -> str:
    """Name of the processor or GPU on which the measurement runs."""
    where = measure.processor()
    return where if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def measured_once(options: Namespace, quantity: str, name: str | list[str], case: tuple,
                  compute: Callable, *more):
    """Result of compute(name, shape, conditions, *more) in a fresh process, or from its file.

    name: one method, or several;  quantity: what is measured; for "memory" the process returns
    freed memory to the system at once (`measure.fresh`).
    """
    conditions, shape = conditions_of(case, options), asdict(options.shape)
    words = "".join(c if c.isalnum() else " " for c in f"{options.device} {quantity} {name} {case}")
    mark = digest_of(quantity, name, conditions, shape, more, cost.code_version(),
                     torch.__version__, machine(options.device))
    return cell(options.out / "cells" / f"{'-'.join(words.split())}.json", mark,
                lambda: measure.fresh(compute, name, shape, conditions, *more,
                                      returning=quantity == "memory"))


def prediction(name: str, case: tuple, options: Namespace,
               device: str | None = None) -> dict[str, float]:
    """Predicted bytes of each part, see `formulas.predicted`."""
    c = conditions_of(case, options)
    return predicted(METHODS[name], options.shape, c["batch"], max(c["pool"], c["batch"]),
                     cost.prompt_length(), c["bfloat16"], c["checkpointing"],
                     torch.device(device or options.device).type)


def is_measured(name: str, case: tuple) -> bool:
    """False for a linear probe with checkpointing, which has no effect: no block is trained."""
    return case[2] == "off" or METHODS[name].kind != "probe"
