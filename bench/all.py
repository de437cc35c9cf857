"""Every table of bench/results/, measured again at today's defaults by one command.

    python -m bench.all --list                                    what would run, why, how long
    python -m bench.all --data FOLDER --photos PHOTOS --resnet FILE
    python -m bench.all --data FOLDER --only accuracy-real shots

Each job is a command of bench in a process of its own.  Its tables are copied to bench/results/ as
soon as it ends.  A job whose table already states today's defaults is left out, so a run that was
stopped goes on where it was; most jobs also keep their own cells (runs/all/).  A job that depends
on no default runs only if it has no table, or by --only.  A job that fails is named at the end, and
the others are run.  The hours are those of two cores.

FOLDER holds bottle, cookie, magnetic_tile and commutator in MVTec AD's layout; PHOTOS Caltech-101;
RESNET is a file that `python -m minilora.baselines.scene_pretraining --out FILE` writes.
tests/bench/test_defaults.py fails if a table states other defaults than today's.
Left out: tables of earlier defaults that explain a choice (bench/results/earlier/).
"""
import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import measure
from bench.defaults import changed_groups
from minilora.io.files import atomic_write

RESULTS = measure.REPO / "bench" / "results"
ENDINGS = ("-over-time.svg", "-over-time.png", ".csv", ".svg", ".png", ".md",
           ".txt")                              # the text, by which a job is known, comes last
PLACES = {"FOLDER": "--data", "PHOTOS": "--photos", "RESNET": "--resnet"}
EXPECTED = {"--data": "a folder with bottle, cookie, magnetic_tile and commutator",
            "--photos": "the folder of Caltech-101", "--resnet": "the weights that `python -m "
            "minilora.baselines.scene_pretraining --out FILE` writes"}
PRODUCTS = ("bottle", "cookie", "magnetic_tile", "commutator")
REAL = f"--class {' '.join(PRODUCTS)} --data FOLDER"
DETECTOR, SHAPE, SEARCH = ("detector", "weights"), ("detector",), ("search", "weights")


@dataclass(frozen=True)
class Job:
    """One command.  depends: the groups of defaults (defaults.py) that its numbers depend on."""
    name: str
    command: str                    # arguments of `python -m`, with the words of PLACES
    minutes: int                    # on two cores, or on the GPU
    depends: tuple[str, ...] = DETECTOR
    out: str = "accuracy"           # folder in runs/all/: jobs of one folder share their cells
    device: str = "cpu"             # "cuda": left out where there is no GPU


JOBS = (
    Job("accuracy-real", f"bench.accuracy {REAL} --methods minilora patchcore anomalydino", 25),
    Job("accuracy-scenes", "bench.accuracy --methods minilora patchcore anomalydino", 30),
    Job("methods-real", f"bench.accuracy {REAL} --methods coop 'linear probe' 'full fine-tuning' "
        "'full fine-tuning bf16' bitfit lora 'lora last third' lora-fa dora ladder --seeds 1", 55),
    Job("peers-real", f"bench.accuracy {REAL} --methods winclip anomalyclip --seeds 1", 20),
    Job("peers-scenes", "bench.accuracy --methods winclip anomalyclip", 100),
    Job("ablation-parts", "bench.ablation --variants parts --seeds 1 --data FOLDER --only default "
        "'memory of frozen tokens only' 'no whole-picture score' 'copies with other brightness' "
        "'mean with the frozen map'", 40),
    Job("shots", "bench.shots --class bottle --data FOLDER --shots 0 1 2 4 8 16", 10),
    Job("thresholds", "bench.thresholds --data FOLDER", 30),
    Job("thresholds-all", "bench.thresholds --data FOLDER --pictures all", 30),
    Job("front", "bench.front", 5, out="front"),
    Job("framing", "bench.framing --data FOLDER --shots 8 20", 5, ()),
    Job("framing-unseen", "bench.framing --data FOLDER --shots 8 --pictures train "
        "--seeds 101 102 103 104 105", 5, ()),
    Job("forgetting", "bench.forgetting --class bottle --data FOLDER --seeds 1 2 3", 15),
    Job("eye", "bench.eye --data FOLDER --photos PHOTOS --states 2 3", 10, ("weights",)),
    Job("eye-blocks", "bench.eye --data FOLDER --compare 1 2 12 13 23 14 24 34", 15, ("weights",)),
    # memory and time
    Job("memory", "bench.memory --device cpu", 40, SHAPE, "memory"),
    Job("memory-cuda", "bench.memory --device cuda --all", 8, SHAPE, "memory", "cuda"),
    Job("gpu", "bench.gpu", 6, DETECTOR, "gpu", "cuda"),
    Job("speed", "bench.speed --data FOLDER", 45, DETECTOR, "speed"),
    Job("against-peft", "bench.against_peft --steps 20 --pool 32", 25, SHAPE, "against-peft"),
    Job("whole-fit", "bench.whole_fit --data FOLDER", 8, SHAPE, "whole-fit"),
    Job("growth", "bench.growth", 12, SHAPE, "growth"),         # after whole-fit, which it cites
    Job("scaling", "bench.scaling", 40, SHAPE, "scaling"),
    Job("autocast", "bench.autocast --data FOLDER", 5),
    Job("auroc", "bench.auroc", 10, (), "auroc"),
    # other ways
    Job("classroom", "bench.classroom --data FOLDER --start RESNET --threads 1", 110,
        out="classroom"),
    Job("long-tail", "bench.long_tail --class bottle --data FOLDER --start RESNET --threads 1", 20,
        (), "long-tail"),
    Job("long-tail-cnn", "bench.long_tail --data FOLDER --threads 1", 20, (), "long-tail"),
    Job("mae-step", "bench.mae --part step", 10, (), "mae"),
    Job("mae-scenes", "bench.mae --part ratio width --threads 1", 240, (), "mae"),
    Job("mae-transfer", "bench.mae --part transfer --class bottle --data FOLDER --threads 1", 60,
        (), "mae"),
    # search
    Job("search-find", "bench.search --part find", 20, SEARCH, "search"),
    Job("search-nothing", "bench.search --part nothing", 3, SEARCH, "search"),
    Job("search-words", "bench.search --part words --photos PHOTOS", 10, SEARCH, "search"),
    Job("search-order", "bench.search --part order --seeds 1 2 3", 90, SEARCH, "search"),
    Job("search-speed", "bench.search --part speed", 5, SEARCH, "search"),
    Job("search-frames", "bench.search --part query --frames 100000 2000000", 8, ("search",),
        "search"),
)


def outdated(job: Job) -> str:
    """Why a job has to run: "no table yet", or "other defaults of ..."; "" if it need not."""
    table = RESULTS / f"{job.name}.txt"
    if not table.is_file():
        return "no table yet"
    changed = changed_groups(table.read_text("utf-8"), job.depends)
    return f"other defaults of {', '.join(changed)}" if changed else ""


def chosen_jobs(only: Sequence[str] | None) -> list[Job]:
    """The jobs named in `only`, else all that are outdated and can run here."""
    if only:
        return [job for job in JOBS if job.name in only]
    return [job for job in JOBS
            if outdated(job) and (job.device == "cpu" or torch.cuda.is_available())]


def check_places(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Raises ValueError, before any work, if a folder or file that jobs need is missing."""
    for word, option in PLACES.items():
        names = [job.name for job in jobs if word in shlex.split(job.command)]
        given = getattr(options, option[2:])
        if names and given is None:
            raise ValueError(f"{option} is missing, which {', '.join(names)} need: "
                             f"{EXPECTED[option]}; or choose other tables with --only")
        if names and not given.exists():
            raise ValueError(f"{option} {given}: not found; expected {EXPECTED[option]}")
        absent = [name for name in PRODUCTS if not (given / name).is_dir()] \
            if names and word == "FOLDER" else []
        if absent:
            raise ValueError(f"{option} {given}: holds no {', '.join(absent)}; expected "
                             f"{EXPECTED[option]}")


def arguments_of(job: Job, options: argparse.Namespace) -> list[str]:
    """The command of a job as a list, with the folders of this machine."""
    words = [str(getattr(options, PLACES[word][2:]).resolve()) if word in PLACES else word
             for word in shlex.split(job.command)]
    return [sys.executable, "-m", *words, "--out", str(options.out / job.out), "--name", job.name]


def run_job(job: Job, options: argparse.Namespace) -> bool:
    """Runs a job and copies its tables to bench/results/.  False if its command failed, or wrote no
    table with today's defaults."""
    if subprocess.run(arguments_of(job, options), cwd=measure.REPO).returncode:
        return False
    for ending in ENDINGS:
        made = options.out / job.out / f"{job.name}{ending}"
        if made.is_file():
            with atomic_write(RESULTS / made.name) as file:
                file.write(made.read_bytes())
    return not outdated(job)


def run_jobs(jobs: Sequence[Job], options: argparse.Namespace) -> list[str]:
    """Runs jobs one after another.  Returns the names of those that failed."""
    failed = []
    for job in jobs:
        begun = time.time()
        if not run_job(job, options):
            failed.append(job.name)
        print(f"-- {job.name}: {'failed' if job.name in failed else 'written'} after "
              f"{(time.time() - begun) / 60:.1f} min", flush=True)
    return failed


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for option, expected in EXPECTED.items():
        p.add_argument(option, type=Path, help=expected)
    p.add_argument("--only", nargs="+", choices=[job.name for job in JOBS], metavar="NAME",
                   help="these tables, also if they are current")
    p.add_argument("--list", action="store_true", help="say what would run, and how long")
    p.add_argument("--out", type=Path, default=Path("runs/all"), help="folder of the cells")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    p = parser()
    options = p.parse_args(arguments)
    options.out = options.out.resolve()
    jobs = chosen_jobs(options.only)
    for job in jobs:
        print(f"{job.name:18s} about {job.minutes:4d} min   {outdated(job) or 'named by --only'}\n"
              f"    python -m {job.command}")
    for job in JOBS:
        if job.device != "cpu" and not torch.cuda.is_available() and outdated(job):
            print(f"{job.name:18s} left out: needs a GPU ({outdated(job)})")
    print(f"{len(jobs)} of {len(JOBS)} tables, about {sum(j.minutes for j in jobs) / 60:.1f} "
          "hours on two cores", flush=True)
    if options.list:
        return 0
    try:
        check_places(jobs, options)
    except ValueError as error:
        p.error(str(error))
    failed = run_jobs(jobs, options)
    if failed:
        print(f"failed: {', '.join(failed)}; the others are written", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
