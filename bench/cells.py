"""The conditions of one measurement of bench.memory, and what the formulas predict for them.

A case is (batch, precision, checkpointing), with the values of the command line.
Left out: the measurements (cost.py), storing them (turns.py), tables (memory_tables.py).
"""
from argparse import Namespace

import torch

from bench import cost, measure
from bench.formulas import predicted
from bench.steps import METHODS


def conditions_of(case: tuple, options: Namespace) -> dict:
    """The arguments of `steps.Training` for one case."""
    batch, precision, checkpointing = case
    return {"batch": batch, "pool": options.pool, "bfloat16": precision == "bfloat16",
            "checkpointing": checkpointing == "on", "device": options.device}


def machine(device: str) -> str:
    """Name of the processor or GPU on which the measurement runs."""
    where = measure.processor()
    return where if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def prediction(name: str, case: tuple, options: Namespace,
               device: str | None = None) -> dict[str, float] | None:
    """Predicted bytes of each part, or None, see `formulas.predicted`."""
    c = conditions_of(case, options)
    return predicted(METHODS[name], options.shape, c["batch"], max(c["pool"], c["batch"]),
                     cost.prompt_length(), c["bfloat16"], c["checkpointing"],
                     torch.device(device or options.device).type)


def is_measured(name: str, case: tuple) -> bool:
    """False for a linear probe with checkpointing, which has no effect: no block is trained."""
    return case[2] == "off" or METHODS[name].kind != "probe"
