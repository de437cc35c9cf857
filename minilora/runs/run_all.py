"""Several products: each in turn, or spread over processes; one summary, one index page.

    python -m minilora.fit --class all --shots 8
    torchrun --standalone --nproc-per-node 2 -m minilora.fit --class all --shots 8

Products do not depend on one another, so process r of n takes every n-th one from the r-th on and
nothing is exchanged but the results; process 0 writes the summary.  The same numbers come out as
from one process with as many threads.
Leaves out: splitting one product over processes.
"""
import argparse
import csv
import datetime
import io
import os
import statistics
import sys
from html import escape
from itertools import zip_longest

import torch
import torch.distributed as dist

from minilora.data import own_and_visa
from minilora.data.mvtec import find_data
from minilora.io.cli import EXPECTED
from minilora.io.files import whole_file
from minilora.report import html
from minilora.report.results import markdown_table, percent
from minilora.runs import run_class
from minilora.scenes import scene

SUMMARY_COLUMNS = {"zero-shot": ("zero-shot", "image_auroc"), "memory": ("memory", "image_auroc"),
           "adapted": ("adapted", "image_auroc"), "pixel": ("adapted", "pixel_auroc"),
           "AUPRO": ("adapted", "aupro")}                # heading: (row, metric)
DAY = datetime.timedelta(hours=24)                       # a process may wait that long for another


def names_of(options):
    """The classes asked for; "all" are those of the data folder, or the embedded ones."""
    if options.names != ["all"]:
        return options.names
    root = find_data(options.data)
    names = list(scene.CLASSES) if root is None else own_and_visa.class_names(root)
    if not names:
        raise FileNotFoundError(f"{root} holds no class; expected <class>/train/good below it")
    return names


def join(options):
    """(rank, number of processes), as torchrun says; (0, 1) without it.  Sets options.device."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        if options.device == "cuda":
            options.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            torch.cuda.set_device(options.device)
        gpu = options.device.startswith("cuda")
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=DAY)
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def gathered(results, world):
    """The results of all processes together: {name: metrics}."""
    if world == 1:
        return results
    parts = [None] * world
    dist.all_gather_object(parts, results)
    return {name: metrics for part in parts for name, metrics in part.items()}


def run_all(options, say=print):
    """Every class; one that fails is named in the summary and the others go on.

    Writes <out>/<class>/ each, summary.txt, .csv, .md and index.html.  Returns the number of
    classes that failed.
    """
    rank, world = join(options)
    names, results = names_of(options), {}
    for number, name in enumerate(names):
        if number % world == rank:
            say(f"\n{name}  ({number + 1} of {len(names)})")
            one = argparse.Namespace(**{**vars(options), "name": name, "out": options.out / name})
            try:
                results[name] = run_class.run_class(one, say, again=options.force)
            except EXPECTED as error:
                results[name] = {"class": name, "error": str(error)}
                say(f"failed: {error}")
    results = gathered(results, world)
    if rank == 0:
        ordered = [results[name] for name in names]
        options.out.mkdir(parents=True, exist_ok=True)
        write_summary(options.out, ordered, options)
        say("\n" + as_text(ordered))
        say(f"written  {options.out}/index.html, summary.txt, summary.csv, summary.md")
    failed = sum("error" in metrics for metrics in results.values())
    if world > 1:
        leave(1 if failed else 0)
    return failed


def leave(status):
    """Ends one of several processes, all at the same time and without Python's own end.

    gloo's threads may still hold tensors while the interpreter is taken down, and abort the process
    (pytorch/pytorch, pull request 179291); everything is on the disk by now.
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(status)


def values_of(metrics):
    """The numbers of one class under SUMMARY_COLUMNS, None where there is none."""
    rows = metrics.get("rows", {})
    return [rows.get(row, {}).get(metric) for row, metric in SUMMARY_COLUMNS.values()]


def decisions_of(metrics):
    """What the threshold achieved, in words."""
    counts = metrics.get("decisions")
    if "error" in metrics:
        return metrics["error"]
    if not counts:
        return "no threshold"
    if counts["unlabelled"]:
        return f"{counts['called']} of {counts['unlabelled']} NG"
    return (f"{counts['found']} of {counts['defective']} found, {counts['false_alarms']} of "
            f"{counts['good']} false alarms")


def lines_of(results):
    """(heading, lines) of the summary as text cells: the classes, their mean, what was unseen."""
    lines = [[m["class"], *(percent(v).strip() for v in values_of(m)), decisions_of(m)]
             for m in results]
    lines.append(["mean", *means_of(results), f"of {len(results)} classes"])
    return ["%", *SUMMARY_COLUMNS, "threshold"], lines + unseen_lines(results)


def means_of(results):
    """Means over classes as text cells."""
    columns = zip(*(values_of(m) for m in results))
    means = [[v for v in column if v is not None] for column in columns]
    return [percent(statistics.mean(v) if v else None).strip() for v in means]


def unseen_lines(results):
    """Of embedded classes: what pretraining never saw, two classes and one kind of defect."""
    drawn = [m for m in results if m.get("data", {}).get("name") == run_class.EMBEDDED_DATA]
    unseen = [m for m in drawn if m["class"] in scene.UNSEEN_CLASSES]
    dents = [m["kinds"][scene.UNSEEN_FLAW] for m in drawn if scene.UNSEEN_FLAW in m["kinds"]]
    lines = []
    if unseen:
        lines.append([" and ".join(m["class"] for m in unseen), *means_of(unseen),
                      "never in pretraining"])
    if dents:
        cells = ["" if name != "adapted" else percent(statistics.mean(dents)).strip()
                 for name in SUMMARY_COLUMNS]
        lines.append([scene.UNSEEN_FLAW, *cells, "a kind of defect never in pretraining"])
    return lines


def as_text(results):
    head, lines = lines_of(results)
    widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head) - 1)]
    return "\n".join("  ".join([line[0].ljust(widths[0])]
                               + [cell.rjust(w) for cell, w in zip(line[1:-1], widths[1:])]
                               + [line[-1]]) for line in [head, *lines])


def as_markdown(results):
    head, lines = lines_of(results)
    return markdown_table(head, lines) + "\n"


def as_csv(results):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["class", *SUMMARY_COLUMNS, "threshold", "seconds"])
    for m in results:
        writer.writerow([m["class"], *("" if v is None else f"{v:.6f}" for v in values_of(m)),
                         m.get("threshold"), m.get("seconds")])
    return out.getvalue()


def as_page(results, options):
    """index.html: the table, each class linked to its report."""
    head, lines = lines_of(results)
    rows = []
    for (name, *others), metrics in zip_longest(lines, results):
        linked = metrics and "error" not in metrics and metrics.get("rows")
        first = (f'<a href="{escape(name, quote=True)}/report.html">{escape(name)}</a>'
                 if linked else escape(name))
        rows.append((first, others, not metrics))
    words = (f"{options.shots} shots, seed {options.config.seed}. Image AUROC of three rows, pixel AUROC "
             "and AUPRO of the row adapted, per cent; what the threshold, set by good pictures "
             "alone, achieves on the test pictures.")
    return html.document("All classes", f"<h1>All classes</h1><p>{escape(words)}</p>"
                         + html.numbers_and_words(head, rows) +
                         f'<p class="soft">{escape(options.command)}</p>')


def write_summary(folder, results, options):
    for name, text in (("summary.txt", as_text(results) + "\n"), ("summary.csv", as_csv(results)),
                       ("summary.md", as_markdown(results)),
                       ("index.html", as_page(results, options))):
        with whole_file(folder / name, "w") as file:
            file.write(text)


def demo():
    row = {"image_auroc": 0.95, "pixel_auroc": 0.9, "aupro": 0.8}
    counts = {"good": 20, "false_alarms": 1, "defective": 30, "found": 27, "unlabelled": 0}
    results = [{"class": "bottle", "rows": {"memory": row, "adapted": row}, "decisions": counts},
               {"class": "spoon", "error": "class 'spoon' not found"}]
    print(as_text(results))
    for rank in range(2):
        print(f"process {rank} of 2 takes", ", ".join(list(scene.CLASSES)[rank::2]))


if __name__ == "__main__":
    demo()
