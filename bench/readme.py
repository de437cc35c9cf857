"""The tables of the READMEs, made from the files in bench/results/; none is typed by hand.

    python -m bench.readme      writes each table between <!-- table: NAME --> and <!-- end -->

Left out: measuring (the commands in bench/results/README.md do that).
"""
import csv
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.accuracy import UNTRAINED
from minilora.io.files import atomic_write
from minilora.report.results import markdown_table
from minilora.scenes.scene import UNSEEN_CLASSES

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "minilora"
READMES = (HERE.parent / "README.md", PACKAGE / "README.md")
LAST_MECHANISM = "auroc.py"     # of the reading order; after it come the parts of the product
READING = r"^    (\w+\.py) +(\d+) +(\d+)  (.+)$"          # a line of the reading order
LINES_A_MINUTE = 10             # an estimate for a student who reads with care
ROWS = ("zero-shot", "lora-only", "memory", "text", "lora-off", "adapted",
        *UNTRAINED.values())            # those that are in the results
SHOWN = ("image_auroc", "pixel_auroc")
PRODUCTS = ("bottle", "cookie", "magnetic_tile", "commutator")
# row of rows.py: (file, row) of its accuracy.  Checkpointing and reuse change no result.
FULL = ("methods-real", "full fine-tuning")
OURS = ("methods-real", "lora last third")
MEMORY_ROWS = {                 # the others are in bench/results/memory.md
    "full": FULL, "BitFit": ("methods-real", "bitfit"),
    "LoRA, all blocks": ("methods-real", "lora"), "DoRA, all blocks": ("methods-real", "dora"),
    "LoRA, last 4 (minilora, plain step)": OURS, "LoRA, last 4, reuse (minilora)": OURS,
    "ladder side network": ("methods-real", "ladder"), "CoOp": ("methods-real", "coop"),
    "linear probe": ("methods-real", "linear probe")}


def records(name: str) -> list[dict[str, str]]:
    """Rows of one CSV file of the results."""
    with open(HERE / "results" / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def means(name: str) -> dict[tuple, float]:
    """{(row, class, metric): mean over the seeds} of an accuracy table."""
    values = {}
    for r in records(name):
        for key in SHOWN:
            if r[key]:
                values.setdefault((r["row"], r["class"], key), []).append(float(r[key]))
    return {key: statistics.mean(seeds) for key, seeds in values.items()}


def class_mean(found: dict[tuple, float], row: str, names: Sequence[str]) -> str:
    """Image and pixel AUROC of a row, mean over classes, per cent; "--" if one is missing."""
    values = [[found.get((row, name, key)) for name in names] for key in SHOWN]
    if any(v is None for column in values for v in column):
        return "--"
    return " / ".join(f"{100 * statistics.mean(column):.1f}" for column in values)


def bold_best(lines: list[list[str]]) -> list[list[str]]:
    """The lines with the best image AUROC and the best pixel AUROC of each column in bold."""
    columns = [[cell.split(" / ") for cell in column] for column in list(zip(*lines))[1:]]
    for column in columns:
        for part in range(2):
            best = max((cell[part] for cell in column if cell != ["--"]), key=float)
            for cell in column:
                if cell[part:part + 1] == [best]:
                    cell[part] = f"**{best}**"
    return [[line[0], *(" / ".join(cell) for cell in cells)]
            for line, cells in zip(lines, zip(*columns))]


def accuracy() -> str:
    """Accuracy of each row on real classes and on scenes."""
    real, drawn = (means(f"accuracy-{which}") for which in ("real", "scenes"))
    classes, scenes = (list(dict.fromkeys(name for _, name, _ in found)) for found in (real, drawn))
    lines = []
    for row in ROWS:
        cells = [*(class_mean(real, row, [name]) for name in classes),
                 class_mean(real, row, classes), class_mean(drawn, row, scenes),
                 class_mean(drawn, row, UNSEEN_CLASSES)]
        if set(cells) != {"--"}:
            lines.append([row, *cells])
    lines = bold_best(lines)
    return markdown_table(["row", *classes, "real, mean", f"scenes, mean of {len(scenes)}",
                           "unseen in pretraining"], lines)


def memory() -> str:
    """Parameters, memory, time and accuracy of each method; a step on 8 pictures."""
    found = {r["row"]: r for r in records("memory") if r.get("row") and r["batch"] == "8"}
    lines = []
    for name, source in MEMORY_ROWS.items():
        r = found.get(name, {})
        share = r | {"share": float(r["allocated"]) / float(found["full"]["allocated"])
                     if r.get("allocated") and "full" in found else ""}
        line = [name, shown(r, "blocks", "{:.0f}"), shown(r, "trainable", "{:,.0f}"),
                shown(r, "file", "{:,.2f} MB"), shown(r, "allocated", "{:,.0f} MB"),
                shown(share, "share", "{:.0%}"), shown(r, "median_s", "{:.2f} s"),
                shown(r, "peft_allocated", "{:,.0f} MB"), image_auroc(*source)]
        if "minilora" in name:
            line[3] += run_size()
        lines.append(line)
    return markdown_table(("method", "blocks with a gradient", "trained", "file",
                           "peak above the weights", "of full", "a step", "peak with peft",
                           "image AUROC"), lines)


def shown(r: dict, key: str, form: str) -> str:
    """One number of a row, bytes as MB = 10^6 bytes; "--" if the file lacks it."""
    unit = 1e6 if form.endswith("MB") else 1
    return form.format(float(r[key]) / unit) if r.get(key) else "--"


def image_auroc(name: str, row: str) -> str:
    """Image AUROC of a row, mean of the four products, per cent; "--" if one is missing."""
    if not (HERE / "results" / f"{name}.csv").exists():
        return "--"
    return class_mean(means(name), row, PRODUCTS).split(" / ")[0]


def run_size() -> str:
    """The size of a whole run of minilora on disk: adapter, memory bank, good pictures."""
    if not (HERE / "results" / "whole-fit.csv").exists():
        return ""
    sizes = {r["what"].split(",")[0]: r["measured"] for r in records("whole-fit")}
    return f"; whole run {sizes['whole run']} MB" if "whole run" in sizes else ""


def reading() -> str:
    """The reading order, as the docstring of the package has it."""
    found = re.findall(READING, (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)
    return markdown_table(("file", "lines", "minutes", "what it shows"),
                          [(f"`{name}`", *others) for name, *others in found])


def counted(text: str) -> str:
    """The docstring of the package with lines, rounded to tens, and minutes of every file."""
    def line(match):
        lines = len((PACKAGE / match[1]).read_text("utf-8").splitlines())
        minutes = max(1, round(lines / LINES_A_MINUTE))
        return f"    {match[1]:18s} {minutes * LINES_A_MINUTE:6d} {minutes:8d}  {match[4]}"
    return re.sub(READING, line, text, flags=re.MULTILINE)


def path() -> str:
    """The reading path of students: the mechanisms."""
    found = re.findall(READING, (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)
    last = [name for name, *_ in found].index(LAST_MECHANISM)
    return markdown_table(("file", "minutes", "what it shows"),
                          [(f"[`{name}`](minilora/{name})", minutes, words)
                           for name, _, minutes, words in found[:last + 1]])


TABLES = {"accuracy": accuracy, "memory": memory, "reading": reading, "path": path}


def filled(text: str) -> str:
    """The text with every marked table made anew.  Raises KeyError for an unknown table name."""
    return re.sub(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
                  lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text, flags=re.DOTALL)


def main() -> None:
    for file_name, change in ((PACKAGE / "__init__.py", counted),
                              *((readme, filled) for readme in READMES)):
        text = change(file_name.read_text("utf-8"))
        with atomic_write(file_name, "w") as file:
            file.write(text)
    print(f"{len(TABLES)} tables written")


if __name__ == "__main__":
    main()
