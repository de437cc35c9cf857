"""Everything about time in one table: minilora and what it replaces, in turn, in one run.

    python -m bench.speed --data FOLDER
    python -m bench.speed --pairs image memory --batch 1 --rounds 9 --threads 1

    fit      the command `minilora.fit` in a fresh process, with 8 shots: start of Python, fit,
             scores of all test pictures, pages; embedded model, and ViT-B/16's shape
    score    scoring one picture against the tower's forward pass alone, PatchCore, AnomalyDINO
             (speed_scores.py)
    auroc    AUROC against scikit-learn and torchmetrics (auroc.py has the detailed table)
    image, text, lora, load, memory, import
             two ways to the same result (speed_pairs.py)

Times are medians over the rounds.  A ratio is taken within each round, then its median.  Where the
results of both ways can be compared, a difference above the stated tolerance raises an error.  Each
part is stored in a file, each fit in one of its own, so that a run that was stopped goes on there;
a stored part is measured again if code, options or machine differ.
Left out: autocast, torch.compile; GPUs (gpu.py).
"""
import argparse
import hashlib
import statistics
from pathlib import Path

import torch

from bench import anomalib_peer, auroc, measure
from bench.accuracy import cell
from bench.cells import machine
from bench.speed_pairs import PAIRS, Pair
from bench.speed_scores import TOWERS, score_rows
from bench.tables import write
from bench.whole_fit import SHOTS, fit_seconds, random_weights
from minilora.io.cli import device_name
from minilora.io.files import digest_of

FIT_SECONDS = {"embedded": 25, "ViT-B/16": 8 * 60}      # goals, on two cores
AUROC_GOAL = (0.45, "times")                            # of scikit-learn's time
AUROC_SHARE = 0.02                                      # of positives
GROUPS = ("fit", "score", "auroc", *PAIRS)
HEADER = ["what: against", "minilora", "lowest to highest", "other", "ratio", "lowest to highest",
          "results differ by", "goal", "reached"]


@torch.no_grad()
def timed(pair: Pair, rounds: int, device: str) -> dict:
    """A row of the table: {"label", "apart": difference of the results or None, "ours", "theirs":
    seconds of each round (theirs: or None), "goal": (limit, "times" or "s") or None}.

    Raises ValueError if the results differ.
    """
    difference = pair.same(pair.ours(), pair.theirs()) if pair.same else None
    if pair.same and not difference <= pair.tolerance:
        raise ValueError(f"{pair.label}: expected one result to {pair.tolerance}, found a "
                         f"difference of {difference}")
    taken = measure.side_by_side({"ours": pair.ours, "theirs": pair.theirs}, rounds, device,
                                 pair.clock)
    return {"label": pair.label, "apart": difference, "goal": pair.goal, **taken}


def auroc_rows(o: argparse.Namespace) -> list[dict]:
    """Rows for each number of scores, all different, and each of the two libraries."""
    rows = []
    for count in o.counts:
        found = measure.fresh(auroc.times, count, AUROC_SHARE, 0, o.rounds)
        rows += [{"label": f"AUROC of {count:,} scores: {name}", "ours": seconds["minilora"],
                  "theirs": seconds[name], "apart": abs(values["minilora"] - values[name]),
                  "goal": AUROC_GOAL if name == "scikit-learn" else None}
                 for seconds, values in [(found["seconds"], found["values"])]
                 for name in auroc.RIVALS if name != "minilora"]
    return rows


def fit_rows(o: argparse.Namespace) -> list[dict]:
    """A row for each model; each round is stored in a file of its own."""
    rows = []
    for name in o.towers:
        model = "mini-clip" if name == "embedded" else str(random_weights(o.out))
        options = ["--class", o.product, "--shots", str(SHOTS), "--model", model, "--device",
                   o.device, *(["--data", str(o.data)] if o.data else [])]
        seconds = [cell(o.out / "cells" / f"fit-{name.replace('/', '-')}-{k}.json",
                        fingerprint(o, "fit", name, k, options),
                        fit_seconds, o.out / "runs" / name.replace("/", "-"), *options)
                   for k in range(1, o.fit_rounds + 1)]
        rows.append({"label": f"fit of {o.product}, {SHOTS} shots, {name}", "apart": None,
                     "ours": seconds, "theirs": None, "goal": (FIT_SECONDS[name], "s")})
    return rows


def group_rows(name: str, o: argparse.Namespace) -> list[dict]:
    """The rows of one group, from its file if they are stored."""
    def compute() -> list[dict]:
        if name in PAIRS:
            return [timed(pair, o.rounds, o.device) for pair in PAIRS[name](o)]
        return {"auroc": auroc_rows, "score": lambda o: list(score_rows(o))}[name](o)
    if name == "fit":
        return fit_rows(o)
    return cell(o.out / "cells" / f"{name}.json", fingerprint(o, name), compute)


def fingerprint(o: argparse.Namespace, *what) -> str:
    """Changes with what is measured, how, on which machine, and with the code."""
    code = hashlib.sha256()
    for folder in ("minilora", "bench"):
        for path in sorted((measure.REPO / folder).rglob("*.py")):
            if folder == "minilora" or path.stem in ("auroc", "measure", "peers", "anomalib_peer") \
                    or path.stem.startswith("speed"):
                code.update(path.read_bytes())
    return digest_of(what, o.rounds, o.threads, o.batch, o.counts, o.resolutions, o.towers,
                     anomalib_peer.is_installed(), torch.__version__, torch.get_num_threads(),
                     machine(o.device), code.hexdigest())


def shown_time(seconds: float) -> str:
    """Three digits, in ms below a second."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def reached(row: dict) -> tuple[str, str]:
    """(goal, "yes" or "no") of a row, ("", "") without a goal.  The median counts."""
    if row["goal"] is None:
        return "", ""
    limit, unit = row["goal"]
    found = (measure.ratio(row["ours"], row["theirs"])[0] if unit == "times"
             else statistics.median(row["ours"]))
    return f"at most {limit:g} {unit}", "yes" if found <= limit else "no"


def table(rows: list[dict]) -> tuple:
    """(title, header, rows), all text."""
    lines = []
    for row in rows:
        other, middle, spread = "--", "--", "--"
        if row["theirs"]:
            ratio, low, high = measure.ratio(row["ours"], row["theirs"])
            other, middle = shown_time(statistics.median(row["theirs"])), f"{ratio:.3f}"
            spread = f"{low:.3f} to {high:.3f}"
        lines.append([row["label"], shown_time(statistics.median(row["ours"])),
                      f"{shown_time(min(row['ours']))} to {shown_time(max(row['ours']))}", other,
                      middle, spread, "--" if row["apart"] is None else f"{row['apart']:.0e}",
                      *reached(row)])
    return "time", HEADER, lines


def numbers(rows: list[dict]) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file, one row for each round."""
    return ("what", "round", "ours_seconds", "theirs_seconds"), [
        (row["label"], round_, f"{ours:.6f}", f"{row['theirs'][round_ - 1]:.6f}"
         if row["theirs"] else "")
        for row in rows for round_, ours in enumerate(row["ours"], 1)]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--pairs", nargs="+", default=list(GROUPS), choices=GROUPS)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32],
                   help="batch sizes of image and text")
    p.add_argument("--towers", nargs="+", default=list(TOWERS), choices=TOWERS,
                   help="of fit and score")
    p.add_argument("--resolutions", type=int, nargs="+", default=[224, 448], help="of score")
    p.add_argument("--counts", type=int, nargs="+", default=[10**4, 10**6], help="of auroc")
    p.add_argument("--class", dest="product", default="bottle", help="of fit")
    p.add_argument("--data", type=Path, help="for fit: folder in MVTec AD's layout; else $MINILORA_"
                                             "DATA, data/mvtec, or the embedded scenes")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--fit-rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, help="of torch in this process; else its own choice")
    p.add_argument("--device", default="auto", type=device_name)
    p.add_argument("--archive", type=Path, help="official archive for load; written if not there")
    p.add_argument("--anomalib", type=Path, help="folder with anomalib, see anomalib_peer.py")
    p.add_argument("--out", type=Path, default=Path("runs/speed"))
    p.add_argument("--name", default="speed", help="of the tables: NAME.txt, .md, .csv")
    return p


def main(arguments: list[str] | None = None) -> None:
    o = parser().parse_args(arguments)
    o.out, o.data = o.out.resolve(), o.data and o.data.resolve()
    if o.threads:
        torch.set_num_threads(o.threads)
    if o.anomalib:
        anomalib_peer.add_folder(o.anomalib.resolve())
    rows = []
    for name in o.pairs:
        found = group_rows(name, o)
        for line in table(found)[2]:
            print("  ".join(line), flush=True)
        rows += found
    head = [measure.conditions(o.device, ("transformers", "peft", "sklearn", "torchmetrics"))
            + f"; ViT-B/16's shape unless the row says otherwise, float32; {o.rounds} rounds, "
            f"{o.fit_rounds} of fit"]
    if not anomalib_peer.is_installed():
        head.append("anomalib is not installed; see bench/anomalib_peer.py")
    write(o.out, o.name, [table(rows)], head, numbers(rows))


if __name__ == "__main__":
    main()
