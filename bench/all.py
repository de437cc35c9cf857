"""Every table of bench/results/, measured again at today's defaults by one command.

    python -m bench.all --data FOLDER --photos PHOTOS            says how long each takes, then runs
    python -m bench.all --data FOLDER --only accuracy-real shots
    python -m bench.all --list

Each job is a command of bench in a process of its own.  Its tables are copied to bench/results/ as
soon as it ends.  A job whose table already states today's defaults is left out, so a run that was
stopped goes on where it was; most jobs also keep their own cells (runs/all/).  The hours are those
of two cores.

FOLDER holds bottle, cookie, magnetic_tile and commutator in MVTec AD's layout; PHOTOS Caltech-101.
Left out: tables of earlier defaults that explain a choice (bench/results/earlier/).
"""
import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.defaults import default_digests, stated_defaults

RESULTS = measure.REPO / "bench" / "results"
ENDINGS = ("txt", "md", "csv", "svg", "png")
REAL = "--class bottle cookie magnetic_tile commutator --data FOLDER"
DETECTOR = ("detector", "weights")


@dataclass(frozen=True)
class Job:
    """One command.  depends: the groups of defaults (defaults.py) that its numbers depend on."""
    name: str
    command: str                    # arguments of `python -m`, with FOLDER and PHOTOS
    minutes: int                    # on two cores
    depends: tuple[str, ...] = DETECTOR
    out: str = "accuracy"           # folder in runs/all/: jobs of one folder share their cells


JOBS = (
    Job("accuracy-real", f"bench.accuracy {REAL} --methods minilora", 35),
    Job("accuracy-scenes", "bench.accuracy --methods minilora", 25),
    Job("peers-real", f"bench.accuracy {REAL} --methods winclip anomalyclip --seeds 1", 20),
    Job("shots", "bench.shots --class bottle --data FOLDER --shots 0 1 2 4 8 16", 10),
    Job("thresholds", "bench.thresholds --data FOLDER", 30),
    Job("thresholds-all", "bench.thresholds --data FOLDER --pictures all", 30),
    Job("framing", "bench.framing --data FOLDER --shots 8 20", 5, ()),
    Job("framing-unseen", "bench.framing --data FOLDER --shots 8 --pictures train "
        "--seeds 101 102 103 104 105", 5, ()),
    Job("forgetting", "bench.forgetting --class bottle --data FOLDER --seeds 1 2 3", 15),
    Job("autocast", "bench.autocast --data FOLDER", 5),
    Job("eye", "bench.eye --data FOLDER --photos PHOTOS --states 2 3", 10, ("weights",)),
    Job("eye-blocks", "bench.eye --data FOLDER --compare 1 2 12 13 23 14 24 34", 15, ("weights",)),
)


def is_current(job: Job, results: Path = RESULTS) -> bool:
    """True if the job's table states today's defaults of all groups that it depends on."""
    table = results / f"{job.name}.txt"
    if not table.exists():
        return False
    stated, today = stated_defaults(table.read_text("utf-8")), default_digests()
    return bool(stated) and all(stated.get(group) == today[group] for group in job.depends)


def arguments_of(job: Job, options: argparse.Namespace) -> list[str]:
    """The command of a job as a list.  Raises ValueError if a folder that it needs is not given."""
    words = shlex.split(job.command)
    for place, given in (("FOLDER", options.data), ("PHOTOS", options.photos)):
        if place in words and given is None:
            option = {"FOLDER": "--data", "PHOTOS": "--photos"}[place]
            raise ValueError(f"{job.name} needs pictures; give {option}, or leave it out: --only")
        words = [str(given) if word == place else word for word in words]
    return [sys.executable, "-m", *words, "--out", str(options.out / job.out), "--name", job.name]


def run_job(job: Job, options: argparse.Namespace) -> bool:
    """Runs a job and copies its tables to bench/results/.  False if its command failed."""
    done = subprocess.run(arguments_of(job, options), cwd=measure.REPO)
    if done.returncode:
        return False
    for ending in ENDINGS:
        made = options.out / job.out / f"{job.name}.{ending}"
        if made.exists():
            shutil.copy(made, RESULTS / made.name)
    return True


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=Path, help="four products in MVTec AD's layout")
    p.add_argument("--photos", type=Path, help="Caltech-101")
    p.add_argument("--only", nargs="+", choices=[job.name for job in JOBS], metavar="NAME",
                   help="these tables, also if they are current")
    p.add_argument("--list", action="store_true", help="say what would run, and how long")
    p.add_argument("--out", type=Path, default=Path("runs/all"), help="folder of the cells")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.out = options.out.resolve()
    chosen = [job for job in JOBS
              if job.name in (options.only or ()) or not options.only and not is_current(job)]
    for job in chosen:
        print(f"{job.name:20s} about {job.minutes:4d} min   {job.command}")
    print(f"{len(chosen)} of {len(JOBS)} tables, about {sum(j.minutes for j in chosen) / 60:.1f} "
          "hours on two cores", flush=True)
    if options.list:
        return 0
    commands = [arguments_of(job, options) for job in chosen]       # before any work
    failed = []
    for job, _ in zip(chosen, commands):
        begun = time.time()
        if not run_job(job, options):
            failed.append(job.name)
        print(f"-- {job.name}: {'failed' if job.name in failed else 'written'} after "
              f"{(time.time() - begun) / 60:.1f} min", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}; the others are written", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
