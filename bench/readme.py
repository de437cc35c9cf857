"""The tables of README.md, made from the files in bench/results/: nothing there is typed by hand.

    python -m bench.readme            writes them between <!-- table: NAME --> and <!-- end -->

Leaves out: measuring (the commands in bench/results/README.md do that).
"""
import csv
import re
import statistics
from pathlib import Path

from minilora.io.files import whole_file
from minilora.report.results import markdown_table
from minilora.scenes.scene import UNSEEN_CLASSES

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
ROWS = ("zero-shot", "memory", "text", "lora-off", "adapted")
SHOWN = ("image_auroc", "pixel_auroc")
METHODS = ("full, image tower", "LoRA r=4 q,k,v,out all blocks", "minilora, plain step",
           "minilora, with reuse", "CoOp", "linear probe")


def records(name):
    with open(HERE / "results" / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def means(name):
    """{(row, class, metric): mean over the seeds} of a table of accuracy."""
    values = {}
    for r in records(name):
        for key in SHOWN:
            if r[key]:
                values.setdefault((r["row"], r["class"], key), []).append(float(r[key]))
    return {key: statistics.mean(seeds) for key, seeds in values.items()}


def over(found, row, names):
    """Image and pixel AUROC of a row, the mean over classes, per cent; -- where one is missing."""
    values = [[found.get((row, name, key)) for name in names] for key in SHOWN]
    if any(v is None for column in values for v in column):
        return "--"
    return " / ".join(f"{100 * statistics.mean(column):.1f}" for column in values)


def accuracy():
    """Rows over real classes and scenes."""
    real, drawn = (means(f"accuracy-{which}") for which in ("real", "scenes"))
    classes, scenes = (list(dict.fromkeys(name for _, name, _ in found)) for found in (real, drawn))
    lines = []
    for row in ROWS:
        cells = [*(over(real, row, [name]) for name in classes), over(real, row, classes),
                 over(drawn, row, scenes), over(drawn, row, UNSEEN_CLASSES)]
        if set(cells) != {"--"}:
            lines.append([f"**{row}**" if row == "adapted" else row, *cells])
    return markdown_table(["row", *classes, "real, mean", f"scenes, mean of {len(scenes)}",
                           "unseen in pretraining"], lines)


def memory():
    """Parameters, memory and time of a training step, batch 8, float32, no checkpointing."""
    found = {r["method"]: r for r in records("memory") if (r["batch"], r["precision"],
             r["checkpointing"]) == ("8", "float32", "off")}
    whole = found["full, image tower"]
    lines = []
    for name in (n for n in METHODS if n in found):
        r = found[name]
        lines.append([name, f"{int(r['trainable']):,}", f"{int(r['file']) / 1e6:,.2f} MB",
                      f"{int(r['allocated']) / 1e6:,.0f} MB",
                      f"{int(r['allocated']) / int(whole['allocated']):.0%}",
                      f"{int(r['predicted']) / int(r['allocated']) - 1:+.1%}",
                      f"{float(r['median_s']):.2f} s"])
    return markdown_table(("method", "trained", "file", "peak above the weights", "of full",
                           "prediction off by", "a step"), lines)


TABLES = {"accuracy": accuracy, "memory": memory}


def filled(text):
    """text with every marked table made anew.  Raises KeyError for a name that is none of ours."""
    return re.sub(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
                  lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text, flags=re.DOTALL)


def main():
    text = filled(README.read_text("utf-8"))
    with whole_file(README, "w") as file:
        file.write(text)
    print(f"{README.name}: {len(re.findall('<!-- table: ', text))} tables written")


if __name__ == "__main__":
    main()
