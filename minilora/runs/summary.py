"""Summary of several products: one table as text, CSV, Markdown and HTML, each class linked.

A row per class, then the mean over classes, then what pretraining has not seen.
Left out: how the results are made (runs/run_class.py), and by which process (runs/run_all.py).
"""
import argparse
import csv
import io
import statistics
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minilora.io.files import atomic_write
from minilora.io.text import csv_cell, shown
from minilora.report import html
from minilora.report.results import markdown_table, percent
from minilora.runs.run_report import EMBEDDED_DATA
from minilora.scenes import scene

SUMMARY_COLUMNS = {"zero-shot": ("zero-shot", "image_auroc"), "memory": ("memory", "image_auroc"),
                   "adapted": ("adapted", "image_auroc"), "pixel": ("adapted", "pixel_auroc"),
                   "AUPRO": ("adapted", "aupro")}       # heading: (row, metric)
N_COMPARED = 3                                          # columns with the same metric of a row each
SUMMARY_FILES = ("summary.txt", "summary.csv", "summary.md", "index.html")
MAX_ERROR_CELL = 500                                    # characters of an error in the table
Metrics = dict[str, Any]                                # metrics.json, or "class" and "error"


def class_values(metrics: Metrics) -> list[float | None]:
    """The numbers of one class, one for each of SUMMARY_COLUMNS; None if there is none."""
    rows = metrics.get("rows", {})
    return [rows.get(row, {}).get(metric) for row, metric in SUMMARY_COLUMNS.values()]


def mean_values(results: list[Metrics]) -> list[str]:
    """Means over the classes that have the number, as text cells."""
    columns = zip(*(class_values(m) for m in results))
    means = [[v for v in column if v is not None] for column in columns]
    return [percent(statistics.mean(v) if v else None).strip() for v in means]


def decision_counts(metrics: Metrics) -> str:
    """How many pictures of a class the threshold called NG, or why there is no such number."""
    counts = metrics.get("decisions")
    if "error" in metrics:
        return shown(metrics["error"], MAX_ERROR_CELL)
    if not counts:
        return "no threshold"
    if counts["unlabelled"]:
        return f"{counts['called']} of {counts['unlabelled']} NG"
    return (f"{counts['found']} of {counts['defective']} defective NG, {counts['false_alarms']} of "
            f"{counts['good']} good NG")


def summary_table(results: list[Metrics]) -> tuple[list[str], list[list[str]]]:
    """(heading, lines) as text cells: the classes, their mean, what pretraining has not seen."""
    lines = [[shown(m["class"]), *(percent(v).strip() for v in class_values(m)), decision_counts(m)]
             for m in results]
    lines.append(["mean", *mean_values(results), f"of {len(results)} classes"])
    return ["%", *SUMMARY_COLUMNS, "threshold"], lines + unseen_lines(results)


def unseen_lines(results: list[Metrics]) -> list[list[str]]:
    """Means over the embedded classes, and over the defect kind, that pretraining has not seen."""
    drawn = [m for m in results if m.get("data", {}).get("name") == EMBEDDED_DATA]
    unseen = [m for m in drawn if m["class"] in scene.UNSEEN_CLASSES]
    aurocs = [m["kinds"][scene.UNSEEN_FLAW] for m in drawn if scene.UNSEEN_FLAW in m["kinds"]]
    lines = []
    if unseen:
        lines.append([" and ".join(m["class"] for m in unseen), *mean_values(unseen),
                      "never in pretraining"])
    if aurocs:
        cells = ["" if name != "adapted" else percent(statistics.mean(aurocs)).strip()
                 for name in SUMMARY_COLUMNS]
        lines.append([scene.UNSEEN_FLAW, *cells, "a kind of defect never in pretraining"])
    return lines


def summary_text(results: list[Metrics]) -> str:
    """The table with aligned columns."""
    head, lines = summary_table(results)
    widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head) - 1)]
    return "\n".join("  ".join([line[0].ljust(widths[0])]
                               + [cell.rjust(w) for cell, w in zip(line[1:-1], widths[1:])]
                               + [line[-1]]) for line in [head, *lines])


def summary_csv(results: list[Metrics]) -> str:
    """The numbers of the classes as fractions, without means."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["class", *SUMMARY_COLUMNS, "threshold", "seconds"])
    for m in results:
        numbers = ("" if v is None else f"{v:.6f}" for v in class_values(m))
        writer.writerow([csv_cell(m["class"]), *numbers,
                         m.get("threshold"), m.get("seconds")])
    return out.getvalue()


def summary_page(results: list[Metrics], options: argparse.Namespace) -> str:
    """index.html: the table, in which each class is a link to its report in options.out."""
    head, lines = summary_table(results)
    rows = []
    for (name, *others), metrics in zip_longest(lines, results):
        linked = metrics and "error" not in metrics and metrics.get("rows")
        first = (html.local_link(options.out, metrics["class"], "report.html", name) if linked
                 else html.html_text(name))
        compared = html.bold_best(others[:N_COMPARED])          # image AUROC of three rows
        rows.append((html.Markup(first), [*compared, *others[N_COMPARED:]]))
    words = (f"{options.shots} shots, seed {options.config.seed}. Numbers in per cent: image AUROC "
             "of three rows, the best of them in bold; pixel AUROC and AUPRO of the row adapted. "
             "Last column: test pictures above the threshold (NG), which was set from the good "
             "pictures only. A click on a heading sorts the classes.")
    date = f'<p class="soft">{time.strftime("%Y-%m-%d %H:%M")}</p>'
    return html.document("All classes", f"<h1>All classes</h1>{date}<p>{html.html_text(words)}</p>"
                         + html.explained_table(head, rows, fixed=len(lines) - len(results))
                         + f'<p class="soft">{html.html_text(options.command)}</p>')


def write_summary(folder: Path, results: list[Metrics], options: argparse.Namespace) -> None:
    """Writes summary.txt, summary.csv, summary.md and index.html."""
    head, lines = summary_table(results)
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    texts = (summary_text(results) + "\n", summary_csv(results),
             markdown_table(head, cells) + "\n", summary_page(results, options))
    for name, text in zip(SUMMARY_FILES, texts):
        with atomic_write(folder / name, "w") as file:
            file.write(text)


def demo() -> None:
    """A class with results and one that failed."""
    row = {"image_auroc": 0.95, "pixel_auroc": 0.9, "aupro": 0.8}
    counts = {"good": 20, "false_alarms": 1, "defective": 30, "found": 27, "unlabelled": 0}
    print(summary_text([
        {"class": "bottle", "rows": {"memory": row, "adapted": row}, "decisions": counts},
        {"class": "spoon", "error": "class 'spoon' not found"}]))


if __name__ == "__main__":
    demo()
