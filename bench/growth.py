"""Growth with the number of products: 15 by one process and by two, and on paper a hundred on GPUs.

    python -m bench.growth
    python -m bench.growth --rounds 3

Measured: `minilora.fit --class all` over drawn products (fifteen, as in MVTec AD), eight good
pictures each, at the default configuration, started by torchrun with one process and with two, one
thread each.  The numbers of both must be the same, to the last digit.

On paper, because process r of n fits the products r, r + n, r + 2 n, ...:

    seconds(products, processes) = start + ceil(products / processes) * seconds of a product

start: of torchrun, Python and torch, and the summary at the end.  Both quantities are taken from
the measurement with one process.  Two processes then check the formula before it is used for more.
For ViT-B/16's shape the seconds of a product come from other tables, the start from here.

Claim: products are independent, so n processes with a core or a GPU each need a share ceil(p / n) /
p of the time.  Two processes on two cores also share caches and memory, which the formula leaves
out; the check shows how much that is.
Left out: several machines; reading pictures from a slow disk; products of different sizes.
"""
import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import cost, measure
from bench.accuracy import cell
from bench.tables import write
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.io.files import digest_of, read_json
from minilora.io.temporary import temporary_folder
from minilora.reproduce import numbers
from minilora.scenes import scene
from minilora.scenes.outlines import FAMILIES, random_style

PRODUCTS = tuple(FAMILIES)[:15]
FLAWS = ("scratch", "hole")
PER_KIND = 8                            # test pictures: good ones, and ones with each flaw
COUNTS = (1, 2)                         # processes that are measured
MANY, DEVICES = 100, 8                  # products and processes on paper
OTHERS = {                              # what -> (table, row) that states the seconds of a product
    "ViT-B/16's shape, two cores a process, instead of GPUs":
        ("whole-fit", "fit and scoring of all test pictures"),
    "ViT-B/16's shape, one GPU a process": ("gpu", "fit of one class, ViT-B/16 shape")}


def draw_product(root: Path, family: str, shots: int) -> Path:
    """Writes <root>/<family> in MVTec AD's layout; a folder that is there is kept."""
    if (root / family).is_dir():
        return root / family
    root.mkdir(parents=True, exist_ok=True)
    style = random_style(scene.seed_for("growth", family), family)
    kinds = {"train": shots, "good": PER_KIND} | dict.fromkeys(FLAWS, PER_KIND)
    with temporary_folder(root) as staging:
        for kind, count in kinds.items():
            for number in range(count):
                generator = scene.seed_for("growth", family, kind, number)
                picture = scene.draw(style, generator, kind if kind in FLAWS else None, 256)
                scene.save_scene(picture, staging / family, kind, number)
        (staging / family).rename(root / family)
    return root / family


def seconds_of(run: Path, metrics: dict) -> float:
    """Seconds of one product in a run of several, its page included."""
    page = (run / "report.html").stat().st_mtime - (run / "metrics.json").stat().st_mtime
    return metrics["seconds"] + max(0.0, page)


def run_all(processes: int, options: argparse.Namespace) -> dict:
    """All products once.  {"seconds": whole command, "products": {name: seconds}, "numbers": {name:
    {number: value}}}.

    Raises RuntimeError with the end of the error output if the command fails.
    """
    out = options.out / f"runs-{processes}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(processes), "-m", "minilora.fit", "--class", "all", "--shots",
               str(options.shots), "--steps", str(options.steps), "--device", "cpu", "--data",
               str(options.pictures), "--out", str(out), "--force"]
    command += ["--model", str(options.model)] if options.model else []
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = []
    seconds = measure.seconds(lambda: done.append(subprocess.run(
        command, cwd=measure.REPO, env=one_thread, capture_output=True, text=True)))
    if done[0].returncode:
        raise RuntimeError(f"{processes} processes: {done[0].stderr.strip()[-2000:]}")
    runs = {name: read_json(out / name / "metrics.json") for name in options.products}
    return {"seconds": seconds,
            "products": {name: seconds_of(out / name, m) for name, m in runs.items()},
            "numbers": {name: numbers(out / name, m) for name, m in runs.items()}}


def measured(options: argparse.Namespace) -> dict[int, list[dict]]:
    """{processes: [result of each round]}; in each round both run in turn.  Finished runs are read
    from their files."""
    _, weights = load_clip(options.model)
    found = {count: [] for count in COUNTS}
    options.pictures = (options.out        # "all" means every class of this folder, and no others
                        / f"products-{digest_of(options.products, options.shots)[:8]}")
    for name in options.products:
        draw_product(options.pictures, name, options.shots)
    for round_ in range(options.rounds):
        for count in COUNTS:
            mark = digest_of(count, options.products, options.shots, options.steps, weights.sha256,
                             cost.code_version(), torch.__version__, measure.processor())
            path = options.out / "cells" / f"{count}-processes-round-{round_ + 1}.json"
            found[count].append(cell(path, mark, run_all, count, options))
            print(f"round {round_ + 1}, {count} process{'es' * (count > 1)}: "
                  f"{found[count][-1]['seconds']:.0f} s", flush=True)
    return found


def differing(one: dict, two: dict) -> list[str]:
    """The numbers of two runs that are not the same: ["product number", ...]."""
    return [f"{name} {key}" for name in sorted(one.keys() | two.keys())
            for key in sorted(one.get(name, {}).keys() | two.get(name, {}).keys())
            if one.get(name, {}).get(key, math.nan) != two.get(name, {}).get(key, math.nan)]


def start_of(run: dict, processes: int) -> float:
    """Seconds of a run that belong to no product: those until the process with the most work
    starts, and those after it."""
    each = list(run["products"].values())           # in the order in which they are dealt out
    return run["seconds"] - max(sum(each[rank::processes]) for rank in range(processes))


def predicted(products: int, processes: int, seconds: float, start: float) -> float:
    """Seconds of `products` products by `processes` processes.

    seconds: of one product;  start: what comes before the first and after the last.
    """
    return start + math.ceil(products / processes) * seconds


def stated_seconds(name: str, row: str, results: Path) -> float | None:
    """The number after the first cell of NAME.csv that begins with `row`; None if there is none."""
    path = results / f"{name}.csv"
    lines = csv.reader(path.read_text("utf-8").splitlines()) if path.is_file() else ()
    after = [value.replace(",", "") for line in lines for cell_, value in zip(line, line[1:])
             if cell_.startswith(row)]
    try:
        return float(after[0])
    except (IndexError, ValueError):                # no such row, or "not measured"
        return None


def as_time(seconds: float) -> str:
    """125.0 -> "2 min 5 s"; hours and minutes from an hour on."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.1f} s"


def measured_table(found: dict[int, list[dict]]) -> tuple:
    """(title, header, rows), all text: what one and two processes took."""
    one, two = ([run["seconds"] for run in found[count]] for count in COUNTS)
    middle, low, high = measure.ratio(two, one)
    gaps = [gap for a in found[1] for b in found[2] for gap in differing(a["numbers"],
                                                                         b["numbers"])]
    total = sum(map(len, found[1][0]["numbers"].values()))
    identical = f"yes, {total} numbers" if not gaps else (
        f"no: {len(set(gaps))} of {total}, first {gaps[0]}")
    rows = []
    for count in COUNTS:
        runs = found[count]
        each = [seconds for run in runs for seconds in run["products"].values()]
        n = len(runs[0]["products"])
        rows.append([str(count), " + ".join(str(len(range(rank, n, count)))
                                            for rank in range(count)),
                     f"{statistics.median(run['seconds'] for run in runs):.1f}",
                     f"{statistics.median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}",
                     f"{statistics.median(start_of(run, count) for run in runs):.1f}",
                     "1" if count == 1 else f"{middle:.3f}",
                     "--" if count == 1 or len(runs) == 1 else f"{low:.3f} to {high:.3f}",
                     "--" if count == 1 else identical])
    return ("measured", ("processes", "products of each", "seconds", "a product, s",
                         "lowest to highest", "start, s", "of one process", "over the rounds",
                         "numbers the same"), rows)


def paper_table(found: dict[int, list[dict]], results: Path) -> tuple:
    """(title, header, rows), all text: the check of the formula, and what it says for more."""
    each = statistics.mean(s for run in found[1] for s in run["products"].values())
    start = statistics.median(start_of(run, 1) for run in found[1])
    n = len(found[1][0]["products"])
    two = statistics.median(run["seconds"] for run in found[2])
    expected = predicted(n, 2, each, start)
    rows = [["check: these products, one thread a process", str(n), "2", f"{each:.1f}",
             as_time(expected), f"{as_time(two)}, {two / expected - 1:+.0%}"],
            ["embedded model, one core a process", str(MANY), str(DEVICES), f"{each:.1f}",
             as_time(predicted(MANY, DEVICES, each, start)), "--"]]
    for what, (table, row) in OTHERS.items():
        seconds = stated_seconds(table, row, results)
        rows.append([what, str(MANY), str(DEVICES),
                     "not measured" if seconds is None else f"{seconds:.1f} ({table})",
                     "--" if seconds is None else as_time(predicted(MANY, DEVICES, seconds, start)),
                     "--"])
    return ("on paper: start + ceil(products / processes) * seconds of a product",
            ("what", "products", "processes", "a product, s", "predicted", "measured"), rows)


def numbers_of(found: dict[int, list[dict]]) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file: one row for each product, and the whole, of each round."""
    return ("processes", "round", "what", "seconds"), [
        (count, round_, what, f"{seconds:.3f}") for count, runs in found.items()
        for round_, run in enumerate(runs, 1)
        for what, seconds in [("whole command", run["seconds"]), *run["products"].items()]]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--products", nargs="+", default=sorted(PRODUCTS), choices=sorted(FAMILIES),
                   metavar="NAME", help="families of drawn products")
    p.add_argument("--shots", type=int, default=8)
    p.add_argument("--steps", type=int, default=DetectorConfig().steps)
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--results", type=Path, default=measure.REPO / "bench" / "results",
                   help="folder with whole-fit.csv and gpu.csv")
    p.add_argument("--out", type=Path, default=Path("runs/growth"), help="folder of the cells")
    p.add_argument("--name", default="growth", help="of the tables: NAME.txt, .md, .csv")
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.out = options.out.resolve()
    options.products = sorted(options.products)     # as `--class all` orders them
    _, weights = load_clip(options.model)
    found = measured(options)
    head = [f"{measure.conditions()}; one thread a process; weights {weights.name} (sha256 "
            f"{weights.sha256[:12]}…); {len(options.products)} drawn products, {options.shots} "
            f"shots, {options.steps} steps, {PER_KIND * (1 + len(FLAWS))} test pictures; rounds: "
            f"{options.rounds}"]
    write(options.out, options.name, [measured_table(found), paper_table(found, options.results)],
          head, numbers_of(found))


if __name__ == "__main__":
    main()
