"""Several products: one after another, or spread over processes; then one summary.

    python -m minilora.fit --class all --shots 8
    torchrun --standalone --nproc-per-node 2 -m minilora.fit --class all --shots 8

Products are independent.  Process r of n runs the products number r, r + n, r + 2 n, ...; only the
results are exchanged, and process 0 writes the summary.  The numbers are the same as from one
process with as many threads.
Left out: one product in several processes.
"""
import argparse
import datetime
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from minilora.data import own_and_visa
from minilora.data.mvtec import find_data
from minilora.io.cli import USER_ERRORS
from minilora.runs import run_class
from minilora.runs.summary import summary_text, write_summary
from minilora.scenes import scene

MAX_WAIT = datetime.timedelta(hours=24)                  # for which a process waits for the others


def requested_classes(options: argparse.Namespace) -> list[str]:
    """Names of the classes; "all" means those of the data folder, or the embedded ones."""
    if options.names != ["all"]:
        return options.names
    root = find_data(options.data)
    names = list(scene.CLASSES) if root is None else own_and_visa.class_names(root)
    if not names:
        raise FileNotFoundError(f"{root} holds no class; expected <class>/train/good below it")
    return names


def join_processes(options: argparse.Namespace) -> tuple[int, int]:
    """(rank, number of processes) from torchrun; (0, 1) without it.  Sets options.device."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        if options.device == "cuda":
            options.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            torch.cuda.set_device(options.device)
        gpu = options.device.startswith("cuda")
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=MAX_WAIT)
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def gather_results(results: dict[str, Any], world: int) -> dict[str, Any]:
    """The results of all processes together: {name: metrics}."""
    if world == 1:
        return results
    parts = [None] * world
    dist.all_gather_object(parts, results)
    return {name: metrics for part in parts for name, metrics in part.items()}


def run_all(options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Runs every class.  If one fails, the summary names its error and the others are still run.

    Writes <out>/<class>/, summary.txt, .csv, .md and index.html.  Returns the number of classes
    that failed.
    """
    rank, world = join_processes(options)
    names, results = requested_classes(options), {}
    for number, name in enumerate(names):
        if number % world == rank:
            say(f"\n{name}  ({number + 1} of {len(names)})")
            one = argparse.Namespace(**{**vars(options), "name": name, "out": options.out / name})
            try:
                results[name] = run_class.run_class(one, say, again=options.force)
            except USER_ERRORS as error:
                results[name] = {"class": name, "error": str(error)}
                say(f"failed: {error}")
    results = gather_results(results, world)
    if rank == 0:
        ordered = [results[name] for name in names]
        options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out, ordered, options)
        say("\n" + summary_text(ordered))
        say(f"written  {options.out}/index.html, summary.txt, summary.csv, summary.md")
    failed = sum("error" in metrics for metrics in results.values())
    if world > 1:
        exit_together(1 if failed else 0)
    return failed


def exit_together(status: int) -> None:
    """Ends this process when all processes are done, without Python's usual shutdown.

    During the usual shutdown, threads of gloo may still hold tensors and abort the process
    (pytorch/pytorch, pull request 179291).  All files are written before.
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(status)


def demo() -> None:
    """Which process runs which class."""
    for rank in range(2):
        print(f"process {rank} of 2 runs", ", ".join(list(scene.CLASSES)[rank::2]))


if __name__ == "__main__":
    demo()
