"""Repeat the fit of a run folder, and compare the numbers.

    python -m minilora.reproduce RUN

metrics.json of a run says how it was made (runs/provenance.py).  The same fit runs again, into a
temporary folder or --out, and scores, rows and threshold are compared.  Before that, every
difference of the shots, the weights (both by SHA-256), the versions and the hardware is named.

Claim: on the same machine and versions a fit repeats to the last digit.  Another processor, number
of threads or version of torch rounds some sums differently; over 200 training steps this grows to
a difference of about 0.001.

The run may come from a stranger: its arguments are parsed by fit's own parser, no shell reads them,
nothing is downloaded, and the results never go where its arguments say.
Exit status: 0 the same, 1 different, 2 an error.
Left out: runs that --update has changed, and several classes at once (give one class's folder).
"""
import argparse
import contextlib
import csv
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minilora import fit
from minilora.checkpoint.base_model import BaseModel, find_base
from minilora.checkpoint.detector_files import read_detector
from minilora.checkpoint.published import find_path
from minilora.data.mvtec import few_shot
from minilora.io.cli import device_name, finite_number, option_parser, run_command
from minilora.io.files import read_json, sha256_of
from minilora.io.parser import OneLineParser
from minilora.io.regular_file import read_regular
from minilora.io.schema import ListOf, Number, check
from minilora.io.text import shown, shown_path
from minilora.io.transaction import result_path
from minilora.runs.fingerprints import METRICS_SCHEMA, digest_of_test
from minilora.runs.provenance import MADE_SCHEMA, differences, provenance, shot_files
from minilora.runs.run_class import open_data, run_class
from minilora.runs.run_report import EMBEDDED_DATA
from minilora.scenes import scene

SAME_WITHIN = 0.002               # of scores around 1, losses, and metrics from 0 to 1
NOT_FOR_FIT = ("-h", "--h", "--v", "--deb", "--u")      # beginnings of --help, --version, …
MAX_SCORES_BYTES = 64 << 20     # of scores.csv
COMPARED = ("threshold", "shot_scores", "losses", "rows")


def reproduce(options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Repeats the run and compares.  Returns the exit status."""
    run = Path(options.run)
    metrics = read_metrics(run)
    earlier, base = numbers(run, metrics), BaseModel(**read_detector(run)["base"])
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        repeated = fit_options(metrics, options, base, Path(out))
        if metrics["made"]["threads"] <= (os.cpu_count() or 1):
            torch.set_num_threads(metrics["made"]["threads"])
        named = data_differences(metrics, repeated) + weight_differences(base, repeated.model)
        named += differences(metrics["made"], provenance(repeated.command, repeated.device))
        for line in named or ["nothing: pictures, weights, versions and hardware are the same"]:
            say(f"differs  {line}")
        again = run_class(repeated, say if options.out else lambda line: None)
        return compare_numbers(earlier, numbers(Path(out), again),
                               options.tolerance, say)


# ---- what the run says --------------------------------------------------------------------------

def read_metrics(run: Path) -> dict[str, Any]:
    """metrics.json of a run as fit wrote it.  Raises ValueError or OSError for anything else."""
    path = result_path(run, "metrics.json")
    if not path.is_file():
        inside = [p.parent.name for p in sorted(run.glob("*/metrics.json"))]
        raise ValueError(f"{shown_path(run)}: expected a run folder of minilora.fit, found no "
                         "metrics.json in it" + (f"; give one of its runs: "
                                                 f"{shown(', '.join(inside))}" if inside else ""))
    metrics = check(read_json(path), METRICS_SCHEMA, "metrics.json")
    if "made" not in metrics:
        raise ValueError(f"{shown(run)} does not say how it was made, since an earlier version of "
                         "minilora did it; fit again")
    check(metrics["made"], MADE_SCHEMA, "metrics.json: made")
    for name in ("losses", "shot_scores"):
        check(metrics.get(name, []), ListOf(Number()), f"metrics.json: {name}")
    if "added" in metrics:
        raise ValueError(f"{shown(run)} got more pictures by --update, and only what fit itself "
                         "made can be repeated; fit again with all pictures")
    return metrics


def fit_options(metrics: dict[str, Any], options: argparse.Namespace, base: BaseModel,
                out: Path) -> argparse.Namespace:
    """The options of the repeated fit: those of the run, except model, data and output.

    Raises ValueError for arguments that are not those of a fit.
    """
    given = metrics["made"].get("arguments", [])
    own, data = "--good" in given, metrics.get("data", {})
    root = options.data or data.get("root", "")
    if data.get("name") == EMBEDDED_DATA and not options.data:
        root = scene.write_class(out.parent / "scenes", str(metrics["class"])).parent
    added = ["--good" if own else "--data", str(root), "--out", str(out), "--device",
             options.device or device_here(metrics["made"]["device"]),
             "--model", str(options.model or find_base(base))]
    added += ["--test", options.test] if options.test else []
    wrong = [text for text in given if text.startswith(NOT_FOR_FIT)]
    if wrong:
        raise ValueError(f"metrics.json: arguments hold {shown(wrong[0])}; expected those of a fit")
    try:
        with contextlib.redirect_stderr(io.StringIO()) as message:
            parsed = fit.parse([*given, *added])
    except SystemExit:
        raise ValueError("metrics.json: arguments are not those of a fit: "
                         f"{shown(message.getvalue().strip(), 500)}") from None
    for option, folder in (("--data", str(root)), ("--test", parsed.test)):
        if folder and not Path(folder).is_dir():
            raise ValueError(f"{shown_path(folder)}: the data of the run are not there; give "
                             f"{option} FOLDER")
    if parsed.name is None or parsed.out != out:
        raise ValueError("metrics.json: arguments are not those of one class; give its folder")
    return parsed


def device_here(name: str) -> str:
    """The device of the run if this machine has it, else the fastest one."""
    try:
        return device_name(name)
    except argparse.ArgumentTypeError:
        return device_name("auto")


def data_differences(metrics: dict[str, Any], repeated: argparse.Namespace) -> list[str]:
    """One line for each shot that is another one here, or has other bytes; one for all the test
    pictures."""
    data, _ = open_data(repeated)
    shots = few_shot(data.train, repeated.shots, repeated.config.seed)
    here = {s["file"]: s["sha256"] for s in shot_files([s.path for s in shots], data.root)}
    there = {s["file"]: s["sha256"] for s in metrics["made"].get("shots", [])}
    found = []
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            what = ("not drawn here" if name not in here else
                    "not drawn in the run" if name not in there else "other bytes")
            found.append(f"shot {shown(name)}: {what}")
    tested = digest_of_test(data)
    same = metrics.get("data", {}).get("test", tested) == tested
    return found + ["test pictures: others, other bytes or other masks"] * (not same)


def weight_differences(base: BaseModel, model: str) -> list[str]:
    """A line if the weights are not those of the run."""
    digest = sha256_of(find_path(model))
    return [] if digest == base.sha256 else [f"weights: sha256 {shown(base.sha256[:12])}…, here "
                                             f"{digest[:12]}…"]


# ---- comparison ---------------------------------------------------------------------------------

def numbers(run: Path, metrics: dict[str, Any]) -> dict[str, float | None]:
    """Every number that is compared: {name: value}, from metrics.json and scores.csv."""
    found = {}

    def collect(name, value):
        if isinstance(value, dict):
            for key, part in value.items():
                collect(f"{name} {key}", part)
        elif isinstance(value, list):
            for k, part in enumerate(value):
                collect(f"{name}[{k}]", part)
        else:
            found[name] = float(value) if isinstance(value, (int, float)) else None

    for key in COMPARED:
        collect(key, metrics.get(key))
    path = result_path(run, "scores.csv")
    if path.is_file():
        text = read_regular(path, MAX_SCORES_BYTES).decode("utf-8", "replace")
        try:
            for row in csv.DictReader(io.StringIO(text)):
                name = "/".join(Path(row.get("file") or "").parts[-2:])
                found[f"score {name}"] = float(row["score"])
        except (csv.Error, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{shown(path)}: expected the columns file and score, as fit writes "
                             f"them, found {shown(error)}; fit again") from error
    return found


def compare_numbers(earlier: dict[str, float | None], now: dict[str, float | None],
                    tolerance: float, say: Callable[[str], None]) -> int:
    """Says whether the numbers are the same.  Returns the exit status."""
    missing = sorted(earlier.keys() ^ now.keys())
    gaps = {name: abs(earlier[name] - now[name]) for name in earlier.keys() & now.keys()
            if None not in (earlier[name], now[name])}
    missing += [name for name in earlier.keys() & now.keys()
                if (earlier[name] is None) != (now[name] is None)]
    far = sorted((name for name, gap in gaps.items() if not gap <= tolerance),
                 key=lambda name: -gaps[name])
    for name in far[:10]:
        say(f"  {shown(name)}: {earlier[name]:.6g} in the run, {now[name]:.6g} here")
    for name in missing[:10]:
        say(f"  {shown(name)}: only {'in the run' if name in earlier else 'here'}, or no number")
    if far or missing:
        say(f"different: {len(far) + len(missing)} of {len(earlier.keys() | now.keys())} numbers, "
            f"by more than {tolerance:g}")
        return 1
    largest = max(gaps.values(), default=0.0)
    say(f"identical: {len(gaps)} numbers" if not largest else
        f"equal within {largest:.1g}: {len(gaps)} numbers")
    return 0


def demo() -> None:
    """Verdicts about the same numbers, nearly the same, and others."""
    run = {"threshold": 1.5, "score good/1.png": 0.75}
    for change in (0.0, 1e-5, 0.1):
        status = compare_numbers(run, run | {"threshold": 1.5 + change}, SAME_WITHIN, print)
        print(f"exit status {status}")


def parser() -> OneLineParser:
    p = option_parser("minilora.reproduce", __doc__, "runs/bottle-8shot-seed1",
                      "exit status: 0 the same, 1 different, 2 an error")
    p.add_argument("run", metavar="RUN", help="a run folder of fit, of one class")
    p.add_argument("--out", metavar="FOLDER", type=Path, help="keep the repeated run there")
    p.add_argument("--data", metavar="FOLDER", help="where its data are (default: as in the run)")
    p.add_argument("--test", metavar="FOLDER", help="where its test pictures are, for own ones")
    p.add_argument("--model", metavar="WEIGHTS", help="base weights (default: as in the run)")
    p.add_argument("--device", metavar="NAME", type=device_name, help="default: as in the run")
    p.add_argument("--tolerance", metavar="X", type=finite_number(0, 1e9), default=SAME_WITHIN,
                   help="largest difference that counts as the same")
    return p


def main() -> int:
    return reproduce(parser().parse_args(sys.argv[1:]))


if __name__ == "__main__":
    run_command("minilora.reproduce", main)
