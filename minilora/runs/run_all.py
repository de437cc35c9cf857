"""Several products: one after another, or spread over processes; then one summary.

    python -m minilora.fit --class all --shots 8
    torchrun --standalone --nproc-per-node 2 -m minilora.fit --class all --shots 8

Products are independent.  Process r of n runs the products number r, r + n, r + 2 n, ...; only the
results are exchanged, and process 0 writes the summary.  The numbers are the same as from one
process with as many threads.
Left out: one product in several processes.
"""
import argparse
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from minilora.data import own_and_visa
from minilora.data.mvtec import find_data
from minilora.io.cli import ERROR_STATUS
from minilora.io.error_text import MAX_MESSAGE, USER_ERRORS
from minilora.io.notes import take_notes
from minilora.io.progress import time_left
from minilora.io.record import check_places, is_folder
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder, recover
from minilora.runs import run_class
from minilora.runs.summary import SUMMARY_FILES, summary_text, write_summary
from minilora.scenes import scene

START_WAIT = datetime.timedelta(seconds=120)            # for the other processes to start
MAX_WAIT = datetime.timedelta(hours=24)                 # for them to finish their classes


def requested_classes(options: argparse.Namespace) -> list[str]:
    """Names of the classes; "all" means those of the data folder, or the embedded ones."""
    if options.names != ["all"]:
        return list(dict.fromkeys(options.names))       # twice would be two writers of one folder
    root = find_data(options.data)
    names = list(scene.CLASSES) if root is None else own_and_visa.class_names(root)
    if not names:
        raise FileNotFoundError(f"{shown(root)} holds no class; expected <class>/train/good below "
                                "it")
    return names


class Processes(NamedTuple):
    """This process's number, how many there are, and the group in which they exchange results."""
    rank: int = 0
    world: int = 1
    group: Any = None


def join_processes(options: argparse.Namespace) -> Processes:
    """Meet the other processes of torchrun; without it, there is one.  Sets options.device.

    If they do not all come within START_WAIT, because one of them, or torchrun itself, was killed,
    this one says so and ends.  Raises ValueError for a wrong WORLD_SIZE.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"WORLD_SIZE is '{shown(text)}', expected a number of processes; start "
                         "them with torchrun")
    world = int(text)
    if world == 1:
        return Processes()
    if options.device == "cuda":
        options.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(options.device)
    try:                                                # only results are exchanged: no NCCL
        with silent_stderr():
            dist.init_process_group("gloo", timeout=START_WAIT)
            group = dist.new_group(timeout=MAX_WAIT)
    except RuntimeError as error:                       # all errors of torch.distributed
        reason = shown(str(error).split("\n")[0])
        print(f"minilora.fit: the other processes did not come within {START_WAIT.seconds} s or "
              f"ended ({reason}); start all of them again with torchrun", file=sys.stderr)
        exit_now(ERROR_STATUS)
    return Processes(dist.get_rank(), world, group)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Inside the block stderr is discarded: PyTorch's C++ code would write its call stack there."""
    try:
        earlier = os.dup(2)
    except OSError:                                     # it is closed
        yield
        return
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(earlier, 2)
        os.close(earlier)


def gather_results(results: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """The results of all processes together: {name: metrics}.

    If another process has ended without its results, this one says so and ends, too.
    """
    if processes.world == 1:
        return results
    parts = [None] * processes.world
    try:
        dist.all_gather_object(parts, results, group=processes.group)
    except RuntimeError:                                # gloo's threads still run: `exit_now`
        print("minilora.fit: another process has ended before its classes were done; run the same "
              "command again: finished classes are skipped", file=sys.stderr)
        exit_now(ERROR_STATUS)
    return {name: metrics for part in parts for name, metrics in part.items()}


def run_all(options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Runs every class.  If one fails, the summary names its error and the others are still run.

    Writes <out>/<class>/, summary.txt, .csv, .md and index.html.  Returns the exit status: 1 if a
    class failed, 2 if some of the data could not be looked at.
    """
    if os.environ.get("RANK", "0") == "0":                  # before any work
        recover(options.out, "summary", SUMMARY_FILES)
        check_places(options.out, "summary", SUMMARY_FILES)
    processes = join_processes(options)
    rank, world = processes.rank, processes.world
    names, results, begun = requested_classes(options), {}, time.time()
    for number, name in enumerate(names):
        if number % world == rank:
            left = (time.time() - begun) / max(number, 1) * (len(names) - number)
            say(f"\n{shown(name)}  ({number + 1} of {len(names)}"
                f"{f', {time_left(left).strip()}' if results else ''})")
            one = argparse.Namespace(**{**vars(options), "name": name, "out": options.out / name})
            try:
                is_folder(one.out)                      # a link would lead elsewhere
                results[name] = run_class.run_class(one, say, again=options.force)
            except USER_ERRORS as error:
                results[name] = {"class": name, "error": str(error)}
                say(f"failed: {shown(error, MAX_MESSAGE)}")
    results = gather_results(results, processes)
    if rank == 0:
        ordered = [results[name] for name in names]
        with atomic_folder(options.out, "summary", SUMMARY_FILES) as staging:
            write_summary(staging, ordered, options)
        say("\n" + summary_text(ordered))
        say(f"written  {shown(options.out)}/index.html, summary.txt, summary.csv, summary.md")
    skipped = any(metrics.get("skipped") for metrics in results.values())
    failed = any("error" in metrics for metrics in results.values())
    status = ERROR_STATUS if skipped else 1 if failed else 0
    if world > 1:
        for line in take_notes():
            say(line)
        exit_together(status, processes)
    return status


def exit_together(status: int, processes: Processes) -> None:
    """Ends this process when all processes are done."""
    with contextlib.suppress(RuntimeError):             # another one has ended: nothing is lost
        dist.barrier(group=processes.group)
        dist.destroy_process_group()
    exit_now(status)


def exit_now(status: int) -> NoReturn:
    """Ends this process without Python's usual shutdown.

    During the usual shutdown, threads of gloo may still hold tensors and abort the process
    (pytorch/pytorch, pull request 179291).  All files are written before.
    """
    sys.stdout.flush()
    os._exit(status)


def demo() -> None:
    """Which process runs which class."""
    for rank in range(2):
        print(f"process {rank} of 2 runs", ", ".join(list(scene.CLASSES)[rank::2]))


if __name__ == "__main__":
    demo()
