"""Cells of bench.memory: one figure of one method under one condition, measured once and kept.

A case is (batch, precision, checkpointing), as they are called on the command line.
Leaves out: what a figure is (cost.py), tables (memory.py).
"""
from dataclasses import asdict

import torch

from bench import cost, measure
from bench.accuracy import cell
from bench.formulas import predicted
from bench.steps import METHODS
from minilora.io.files import digest_of


def conditions_of(case, options):
    """Arguments of `steps.Training`."""
    batch, precision, checkpointing = case
    return {"batch": batch, "pool": options.pool, "bfloat16": precision == "bfloat16",
            "checkpointing": checkpointing == "on", "device": options.device}


def machine(device):
    """What a figure was measured on."""
    where = measure.processor()
    return where if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def kept(options, what, name, case, compute, *more):
    """compute(name, shape, conditions, *more) in a fresh process, or from its file.

    name: of a method, or several;  what: of the figure, "memory" if freed memory must go back.
    """
    conditions, shape = conditions_of(case, options), asdict(options.shape)
    words = "".join(c if c.isalnum() else " " for c in f"{options.device} {what} {name} {case}")
    mark = digest_of(what, name, conditions, shape, more, cost.code_version(), torch.__version__,
                     machine(options.device))
    return cell(options.out / "cells" / f"{'-'.join(words.split())}.json", mark,
                lambda: measure.fresh(compute, name, shape, conditions, *more,
                                      returning=what == "memory"))


def prediction(name, case, options, device=None):
    """Predicted bytes, part by part."""
    c = conditions_of(case, options)
    return predicted(METHODS[name], options.shape, c["batch"], max(c["pool"], c["batch"]),
                     cost.prompt_length(), c["bfloat16"], c["checkpointing"],
                     torch.device(device or options.device).type)


def is_measured(name, case):
    """Checkpointing says nothing about a probe: no block is trained."""
    return case[2] == "off" or METHODS[name].kind != "probe"
