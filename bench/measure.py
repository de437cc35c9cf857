"""How time and memory are measured here: in fresh processes, side by side, conditions stated.

    memory   a fresh process a figure.  On a CPU the highest resident set while the work runs, less
             the resident set before it; memory that is given back leaves the process at once
             (glibc's threshold for that is fixed at 64 KiB), so the peak is of the work and not of
             what an allocator kept.  On a GPU torch's own count of allocated and reserved bytes.
    time     rivals take turns in one process, the median of at least five rounds, and its spread;
             a ratio is the median over rounds of the ratio within a round, so that a machine that
             slows down slows both.

Leaves out: profiles, energy, several GPUs.
"""
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from minilora import __version__

REPO = Path(__file__).resolve().parent.parent
ROUNDS = 5
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}


def processor():
    """Name of the CPU as the system gives it, and how many cores this process may use."""
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores"


def conditions(device="cpu", packages=()):
    """One line: date, hardware, versions.  packages: names of peers whose version belongs there."""
    hardware = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else (
        processor() + f", {torch.get_num_threads()} threads")
    peers = "".join(f", {name} {importlib.import_module(name).__version__}" for name in packages)
    return (f"{time.strftime('%Y-%m-%d')}; {hardware}; Python {platform.python_version()}, torch "
            f"{torch.__version__}{peers}; minilora {__version__}")


def fresh(function, *arguments, returning=False):
    """function(*arguments) in a fresh process.  It is one of a module in bench/, what goes in and
    comes out must fit into JSON.  returning: freed memory goes back at once (slower, but exact).

    Raises RuntimeError with the end of what the process said, if it fails.
    """
    module = sys.modules[function.__module__].__spec__          # "bench.x" where run as __main__
    home = module.name if module else function.__module__
    code = (f"import json, sys; from {home} import {function.__name__} as f; "
            "print(json.dumps(f(*json.loads(sys.argv[1]))))")
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], cwd=REPO, text=True,
                          capture_output=True, env=os.environ | (RETURNING if returning else {}))
    if done.returncode:
        raise RuntimeError(f"{function.__name__}{arguments}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(field="VmRSS"):
    """Bytes of this process in memory; field "VmHWM": the highest since the last reset (Linux)."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError(f"{status} not found; memory of a CPU is measured on Linux alone")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines()
                if line.startswith(field))


def peak(work, device="cpu"):
    """Bytes by which work() goes above what was held before: {"allocated": int}.

    On a GPU "reserved", too: what torch took from the device, which includes its own waste.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        work()
        torch.cuda.synchronize(device)
        return {"allocated": torch.cuda.max_memory_allocated(device) - before[0],
                "reserved": torch.cuda.max_memory_reserved(device) - before[1]}
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")               # VmHWM := VmRSS
    work()
    return {"allocated": resident("VmHWM") - before}


def seconds(work, device="cpu"):
    """Of one call, with all of its kernels done."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def import_seconds(statement, device="cpu"):
    """What an import statement takes in a fresh process, without the start of Python itself."""
    code = f"from time import perf_counter as t; begun = t(); {statement}; print(t() - begun)"
    return float(subprocess.run([sys.executable, "-c", code], cwd=REPO, text=True, check=True,
                                capture_output=True).stdout)


def side_by_side(works, rounds=ROUNDS, device="cpu", clock=seconds):
    """{name: [seconds of each round]}: all in turn in every round, after one round unmeasured.

    works: {name: function without arguments, or what else clock(work, device) takes}.
    """
    rows = [[clock(work, device) for work in works.values()] for _ in range(rounds + 1)]
    return dict(zip(works, map(list, zip(*rows[1:]))))


def ratio(ours, theirs):
    """(median, lowest, highest) of the ratio within a round.  Lists of seconds."""
    each = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(each), min(each), max(each)
