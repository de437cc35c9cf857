"""The log of a pretraining: a row a step, below lines that say how it was made.

Claim: weights can be trusted as far as their making can be repeated; the first line of a log is the
command, the second what it began with, and `python -m minilora.pretrain --check` trains its first
steps again.

Leaves out: drawing it (bench/training.py).
"""
import csv
import platform
import shlex
from pathlib import Path

import torch

from minilora.io.files import sha256_of, whole_file

SOURCES = ("photos", "teacher", "start")        # files and folders that a training begins with
UNSAID = ("out", "check", "debug", "views", "products", "minutes")     # change nothing, or only look


def write_log(path, log, head):
    """The training log as CSV below comment lines that say how it was made."""
    columns = list(dict.fromkeys(name for row in log for name in row))
    with whole_file(path, "w") as file:
        file.write("".join(f"# {line}\n" for line in head))
        file.write(",".join(columns) + "\n")
        for row in log:
            file.write(",".join(f"{row[k]:.6g}" if k in row else "" for k in columns) + "\n")


def read_log(path):
    """(lines of the head without "# ", rows as {column: text})."""
    lines = Path(path).read_text("utf-8").splitlines()
    head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    return head, list(csv.DictReader(line for line in lines if not line.startswith("#")))


def head_of(options, seconds, drawn):
    """The command, what it began with, the machine.

    options: of the command;  seconds: that it took;  drawn: number of scenes.  Of files and folders
    the last name is kept.
    """
    own = {k: Path(v).name if k in SOURCES and v else v for k, v in vars(options).items()}
    config = " ".join(f"--{k.replace('_', '-')}"
                        + ("" if v is True else f" {shlex.quote(str(v))}") for k, v in own.items()
                        if v is not None and v is not False and k not in UNSAID)
    begun = "random numbers"
    if options.start:
        begun = f"{own['start']}, sha256 {sha256_of(options.start)}"
    return [f"python -m minilora.pretrain {config}", f"started from {begun}",
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{machine_of(options.device)}; {seconds / 3600:.2f} hours; scenes drawn: {drawn}"]


def machine_of(device):
    """The device and what it is."""
    named = torch.cuda.get_device_name() + ", " if device == "cuda" else ""
    return f"{device}, {named}{processor()}"


def processor():
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                platform.machine())


def demo():
    import tempfile
    from types import SimpleNamespace
    options = SimpleNamespace(start=None, photos="data/photos", rate=0.001, device="cpu")
    head = head_of(options, seconds=90, drawn=512)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        write_log(path, [{"step": 0, "loss": 5.5}, {"step": 1, "loss": 5.25, "names": 0.125}], head)
        print(path.read_text("utf-8"), end="")
        print("read back:", read_log(path)[1][1])


if __name__ == "__main__":
    demo()
