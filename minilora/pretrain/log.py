"""The log of a pretraining run: one row per step, below comment lines that say how it was made.

Claim: weights can be trusted if their training can be repeated.  The first line of a log is the
command, the second what the training started from, the third the machine.
`python -m minilora.pretrain --check LOG` repeats the first steps.

Left out: drawing the log (bench/training.py).
"""
import argparse
import csv
import platform
import shlex
from pathlib import Path

import torch

from minilora.io.files import atomic_write, sha256_of

SOURCES = ("photos", "teacher", "start")        # options: files and folders that training reads
# options that do not change the weights; the log records --minutes as --steps
NOT_RECORDED = ("out", "check", "debug", "views", "products", "minutes")


def write_log(path: str | Path, log: list[dict], head: list[str]) -> None:
    """Write the log as CSV below the comment lines `head`.

    log: {column: number} of each step; a column may be missing in some steps.
    """
    columns = list(dict.fromkeys(name for row in log for name in row))
    with atomic_write(path, "w") as file:
        file.write("".join(f"# {line}\n" for line in head))
        file.write(",".join(columns) + "\n")
        for row in log:
            file.write(",".join(f"{row[k]:.6g}" if k in row else "" for k in columns) + "\n")


def read_log(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """(comment lines without "# ", rows as {column: text})."""
    lines = Path(path).read_text("utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    return head, list(csv.DictReader(line for line in lines if not line.startswith("#")))


def log_header(options: argparse.Namespace, seconds: float, drawn: int) -> list[str]:
    """Three lines: the command, what the training started from, the machine.

    options: of the command;  seconds: training time;  drawn: number of scenes drawn.  Paths are
    shortened to their last part.
    """
    own = {k: Path(v).name if k in SOURCES and v else v for k, v in vars(options).items()}
    config = " ".join(f"--{k.replace('_', '-')}"
                        + ("" if v is True else f" {shlex.quote(str(v))}") for k, v in own.items()
                        if v is not None and v is not False and k not in NOT_RECORDED)
    source = "random numbers"
    if options.start:
        source = f"{own['start']}, sha256 {sha256_of(options.start)}"
    return [f"python -m minilora.pretrain {config}", f"started from {source}",
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{machine_name(options.device)}; {seconds / 3600:.2f} hours; scenes drawn: {drawn}"]


def machine_name(device: str) -> str:
    """The device, the GPU's name if one is used, and the processor's name."""
    gpu = torch.cuda.get_device_name() + ", " if device == "cuda" else ""
    return f"{device}, {gpu}{processor()}"


def processor() -> str:
    """The processor's name, or the architecture if the system does not give the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                platform.machine())


def demo() -> None:
    """Write a log of two steps and read it back."""
    import tempfile
    options = argparse.Namespace(start=None, photos="data/photos", rate=0.001, device="cpu")
    head = log_header(options, seconds=90, drawn=512)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        write_log(path, [{"step": 0, "loss": 5.5}, {"step": 1, "loss": 5.25, "names": 0.125}], head)
        print(path.read_text("utf-8"), end="")
        print("read back:", read_log(path)[1][1])


if __name__ == "__main__":
    demo()
