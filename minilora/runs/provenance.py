"""How a result was made: command, commit, versions, hardware, date, files.  Key "made" of metrics.

Claim: a number is worth little if nobody can say how it came about.  So each folder of results says
it, and `minilora reproduce` (reproduce.py) runs the same again.

    made = {"command": "minilora fit --class bottle", "arguments": ["--class", "bottle"],
            "commit": "5bd5…", "minilora": "0.2.0", "python": …, "torch": …, "numpy": …,
            "pillow": …, "platform": …, "processor": …, "device": "cpu", "threads": 2,
            "date": "2026-01-31T14:05:00+01:00", "seed": 1,
            "shots": [{"file": "bottle/train/good/007.png", "sha256": "9f86…"}]}

"commit" is None for an installed copy; "-dirty" at its end: files of the checkout were changed.
Left out: names of the user and of the computer.
"""
import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch

from minilora import __version__
from minilora.io.files import sha256_of
from minilora.io.paths import checkout_folder
from minilora.io.schema import ListOf, Nothing, OneOf, Record, Text, Whole
from minilora.io.text import shown, utf8_text

GIT_SECONDS = 5                         # for git; a checkout on a slow disk has no commit then
GIT = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
VERSIONS = ("minilora", "python", "torch", "numpy", "pillow")
MADE_SCHEMA = Record(
    {"command": Text(100_000), "commit": OneOf(Nothing(), Text(60)), "device": Text(20),
     "threads": Whole(1, 10**6), "date": Text(40), "platform": Text(), "processor": Text(),
     **dict.fromkeys(VERSIONS, Text(100))},
    optional={"arguments": ListOf(Text(10_000), most=10_000), "seed": Whole(0, 2**63 - 1),
              "gpu": Text(),
              "shots": ListOf(Record({"file": Text(10_000), "sha256": Text(64)}), most=10**5)},
    others=True)


def provenance(command: str, device: str) -> dict[str, Any]:
    """What is said about every result: command, commit, versions, hardware, date."""
    made = {"command": command, "commit": commit(), "minilora": __version__,
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "pillow": PIL.__version__,
            "platform": platform.platform(), "processor": processor_name(), "device": device,
            "threads": torch.get_num_threads(),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds")}
    if device.startswith("cuda"):
        made["gpu"] = torch.cuda.get_device_name(device)
    return made


def shot_files(paths: Iterable[Path], root: Path) -> list[dict[str, str]]:
    """[{"file": its `file_name`, "sha256": of its bytes}], in the order of the paths."""
    return [{"file": utf8_text(file_name(path, root)), "sha256": sha256_of(path)}
            for path in paths]


def file_name(path: Path, root: Path) -> str:
    """The path of a file relative to a folder; the path itself if it is not inside."""
    relative = Path(os.path.relpath(path, root))
    return (path if relative.parts[:1] == ("..",) else relative).as_posix()


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout from which this package runs; None without one, or without git."""
    top = checkout_folder()
    if top is None or not (top / ".git").exists():
        return None
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"             # git must not write its index here
    try:
        done = subprocess.run(GIT, cwd=top, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):       # no git, or it takes too long
        return None
    return shown(done.stdout.decode("ascii", "replace").strip(), 60) or None


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The name of the processor, as exactly as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:                                     # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return shown((names or [platform.processor() or platform.machine()])[0])


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each part of "made" that can change a result and differs between two of them."""
    names = (*VERSIONS, "commit", "processor", "device", "gpu", "threads")
    return [f"{name}: {shown(earlier.get(name))}, here {shown(now.get(name))}" for name in names
            if earlier.get(name) != now.get(name)]


def demo() -> None:
    """What is said about a result that is made here, except the platform."""
    made = provenance("python -m minilora.runs.provenance", "cpu")
    for name in (*VERSIONS, "device", "threads"):
        print(f"{name:9s} {made[name]}")
    print(f"commit    {'known' if made['commit'] else 'none: an installed copy, or no git'}")
    print("other threads:", *differences(made | {"threads": 64}, made | {"threads": 2}))


if __name__ == "__main__":
    demo()
