"""Measuring time and memory: in fresh processes, rivals in turn, with the conditions stated.

    memory   one fresh process for each measurement.  On a CPU: the peak of the resident set while
             the work runs, minus the resident set before.  Freed memory leaves the process at once
             (glibc's threshold is set to 64 KiB), so memory that the allocator keeps is not
             counted.  On a GPU: torch's count of allocated and reserved bytes.
    time     rivals run in turn in one process; median of at least five rounds, and its spread.
             A ratio is taken within each round, then the median over the rounds: if the machine
             slows down, it slows both.

Left out: profiles, energy, several GPUs.
"""
import importlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from minilora import __version__

REPO = Path(__file__).resolve().parent.parent
ROUNDS = 5
# In the messages of torch and its libraries.  "Unable to find an engine": cuDNN found no memory.
OUT_OF_MEMORY = ("OutOfMemoryError", "out of memory", "can't allocate memory", "_ALLOC_FAILED",
                 "CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine")
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}


def processor() -> str:
    """Name of the CPU, and the number of cores that this process may use."""
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores"


def conditions(device: str = "cpu", packages: Sequence[str] = ()) -> str:
    """One line: date, hardware, versions.  packages: other packages whose version is included.

    TF32: a GPU rounds the inputs of float32 products to 10 bits, which makes them faster.
    """
    hardware = f"{processor()}, threads {torch.get_num_threads()}"
    if torch.device(device).type == "cuda":
        products = "off" if torch.get_float32_matmul_precision() == "highest" else "on"
        hardware = (f"{torch.cuda.get_device_name(device)}, TF32 {products} in matrix products, "
                    f"{'on' if torch.backends.cudnn.allow_tf32 else 'off'} in convolutions")
    peers = "".join(f", {name} {importlib.import_module(name).__version__}" for name in packages)
    return (f"{time.strftime('%Y-%m-%d')}; {hardware}; Python {platform.python_version()}, torch "
            f"{torch.__version__}{peers}; minilora {__version__}")


def fresh(function: Callable, *arguments, returning: bool = False):
    """Result of function(*arguments) in a fresh process.

    function: top-level function of a module in bench/; arguments and result must fit into JSON.
    returning: freed memory returns to the system at once (slower, but the peak is exact).
    Raises RuntimeError with the end of the process's error output if it fails.
    """
    module = sys.modules[function.__module__].__spec__          # "bench.x" where run as __main__
    home = module.name if module else function.__module__
    code = (f"import json, sys; from {home} import {function.__name__} as f; "
            "print(json.dumps(f(*json.loads(sys.argv[1]))))")
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], cwd=REPO, text=True,
                          capture_output=True, env=os.environ | (RETURNING if returning else {}))
    if done.returncode:
        why = "killed: out of memory" if done.returncode == -signal.SIGKILL else done.stderr.strip()
        raise RuntimeError(f"{function.__name__}{arguments}: {why[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def is_out_of_memory(error: RuntimeError) -> bool:
    """True if torch, one of its libraries or a fresh process ran out of memory."""
    return any(words in f"{type(error).__name__}: {error}" for words in OUT_OF_MEMORY)


def device_bytes(device: str = "cpu") -> int:
    """Memory of the GPU, or of the machine, in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident(field: str = "VmRSS") -> int:
    """Resident memory of this process in bytes; field "VmHWM": its peak since the last reset.

    Linux only: raises OSError elsewhere.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError(f"{status} not found; memory on a CPU can only be measured on Linux")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines()
                if line.startswith(field))


def peak(work: Callable[[], object], device: str = "cpu") -> dict[str, int]:
    """Peak of memory during work() above the memory before it, in bytes: {"allocated": int}.

    On a GPU also "reserved": bytes that torch took from the device, including unused ones.
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


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, until all of its GPU kernels are done."""
    on_gpu = torch.device(device).type == "cuda"
    wait = (lambda: torch.cuda.synchronize(device)) if on_gpu else (lambda: None)
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def import_seconds(statement: str, device: str = "cpu") -> float:
    """Seconds of an import statement in a fresh process, without the start of Python."""
    code = f"from time import perf_counter as t; begun = t(); {statement}; print(t() - begun)"
    return float(subprocess.run([sys.executable, "-c", code], cwd=REPO, text=True, check=True,
                                capture_output=True).stdout)


def side_by_side(works: dict, rounds: int = ROUNDS, device: str = "cpu",
                 clock: Callable = seconds) -> dict[str, list[float]]:
    """{name: [seconds of each round]}; in each round all run in turn.  The first is not counted.

    works: {name: function without arguments, or another argument of clock(work, device)}.
    """
    rows = [[clock(work, device) for work in works.values()] for _ in range(rounds + 1)]
    return dict(zip(works, map(list, zip(*rows[1:]))))


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(median, lowest, highest) over the rounds of the ratio within a round."""
    each = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(each), min(each), max(each)
