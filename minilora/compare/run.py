"""Compare finished runs: one table over classes, rows, shots and seeds.

    minilora compare runs/*

RUNS are run folders of minilora.fit, or folders that hold some.  Writes compare.html, compare.csv,
compare.md, compare.tex and, if there are two numbers of shots, the curves curve-<class>.svg and
.png into --out.  Runs with other weights, data or options get columns of their own.
Left out: baselines that have no run folder (bench/accuracy.py).
"""
import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from minilora.charts.writers import write_drawing
from minilora.compare.page import comparison_page, curves
from minilora.compare.run_results import (RunResult, check_comparable, differing_facts, find_runs,
                                          read_result_of, setting_text)
from minilora.compare.seed_statistics import Comparison, compared
from minilora.compare.tables import csv_text, latex_text, markdown_text
from minilora.config import DetectorConfig
from minilora.io.cli import called_as, option_parser, run_command
from minilora.io.files import atomic_write
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder
from minilora.report.panels import unique_stems
from minilora.rows import ROWS
from minilora.runs.provenance import provenance

COMPARE_FILES = ("compare.html", "compare.csv", "compare.md", "compare.tex", "curve-*.svg",
                 "curve-*.png")
SAID_ONCE = ("weights", "data", "resolution")   # named if equal in all runs; so is each setting
#                                                 that is not the default


def parser() -> argparse.ArgumentParser:
    p = option_parser("minilora.compare", __doc__, "runs --rows memory adapted",
                      "exit status: 0 done, 2 an error")
    p.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders of runs")
    p.add_argument("--rows", nargs="+", metavar="ROW", choices=tuple(ROWS), default=None,
                   help="only these rows")
    p.add_argument("--out", metavar="FOLDER", default="compare", help="folder to write")
    return p


def read_all(paths: list[str], say: Callable[[str], None]) -> list[RunResult]:
    """The results of all runs; what is none is named.  Raises ValueError if none is left."""
    folders, others = find_runs(paths)
    results = []
    for folder in folders:
        try:
            results.append(read_result_of(folder))
        except (OSError, ValueError) as error:
            others.append((folder, str(error)))
    for path, reason in others:
        say(f"skipped  {shown(path)}: {shown(reason, 500)}")
    if not results:
        raise ValueError(f"no run with metrics in {', '.join(map(shown, paths))}; expected folders "
                         "that minilora.fit wrote")
    return results


def equal_facts(results: list[RunResult], differing: list[str]) -> str:
    """What is the same in all runs, as a sentence."""
    usual = {name: setting_text(value) for name, value in asdict(DetectorConfig()).items()}
    facts = [f"{name} {value}" for name, value in results[0].facts.items() if name not in differing
             and (name in SAID_ONCE or value != usual.get(name))]
    return f"The same in all runs: {', '.join(facts)}." if facts else ""


def write_comparison(staging: Path, comparison: Comparison, results: list[RunResult], equal: str,
                     command: str) -> None:
    """Writes all files into the staging folder."""
    texts = {"compare.html": comparison_page(comparison, results, equal,
                                             provenance(command, "cpu")),
             "compare.csv": csv_text(comparison), "compare.md": markdown_text(comparison, equal),
             "compare.tex": latex_text(comparison, equal)}
    for name, text in texts.items():
        with atomic_write(staging / name, "w") as file:
            file.write(text)
    drawn = curves(comparison)
    for stem, drawing in zip(unique_stems(drawn), drawn.values()):
        for ending in ("svg", "png"):
            write_drawing(staging / f"curve-{stem}.{ending}", drawing)


def main() -> None:
    options = parser().parse_args()
    results = read_all(options.runs, lambda line: print(line, file=sys.stderr))
    differing = differing_facts(results)
    check_comparable(results, differing)
    comparison = compared(results, differing, options.rows or ())
    if not comparison.cells:
        raise ValueError(f"--rows {' '.join(options.rows)}: no run has such a row with metrics; "
                         f"expected some of {', '.join(ROWS)}")
    if differing:
        print(f"columns of their own, because the runs differ in: {', '.join(differing)}")
    equal = equal_facts(results, differing)
    with atomic_folder(options.out, "compare", COMPARE_FILES) as staging:
        write_comparison(staging, comparison, results, equal,
                         f"{called_as('minilora.compare')} {shlex.join(sys.argv[1:])}")
    print(markdown_text(comparison, equal))
    print(f"written  {shown(options.out)}: compare.html, .csv, .md, .tex"
          + (" and curves" if curves(comparison) else ""))


def demo() -> None:
    """What is said about two runs that differ in the number of steps."""
    facts = {"weights": "mini-clip 002abb9f019a", "data": "drawn", "resolution": "224"}
    runs = [RunResult(Path(f"runs/{k}"), "bottle", 8, 1, facts | {"steps": steps, "rank": "2"}, "",
                      "", {}) for k, steps in enumerate(("200", "0"))]
    print("differ in:", *differing_facts(runs))
    print(equal_facts(runs, differing_facts(runs)))


if __name__ == "__main__":
    run_command("minilora.compare", main)
