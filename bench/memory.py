"""Memory and time of a training step: minilora, full fine-tuning, a probe, CoOp, kinds of LoRA.

    python -m bench.memory --quick              batch 8, float32: main methods, in a few minutes
    python -m bench.memory --batch 1 8 32 --precision float32 bfloat16 --checkpointing off on

Shape: ViT-B/16 at 224 pixels, random weights (steps.py).  Memory: the peak of two steps above the
weights, in a fresh process for each cell; next to it the parts that formulas.py predicts for the
moment of the peak.  Time: single steps in another fresh process.  A measured cell is stored in a
small file and is not measured again while code, conditions and machine are the same.
Left out: drawing the pictures; accuracy (accuracy.py).
"""
import argparse
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from PIL.Image import Image

from bench import bars, cost, largest, measure
from bench.cells import is_measured, measured_once, prediction
from bench.formulas import trainable
from bench.steps import FULL, MAIN, METHODS, PLAIN, REUSE
from bench.tables import write
from minilora.clip import VIT_B_16
from minilora.config import DetectorConfig
from minilora.io.cli import device_name
from minilora.io.files import atomic_write

STORED = ("what is trained and stored (r rank, W and w widths of image and text tower, n adapted "
          "blocks, M context vectors)")
PARTS = ("pool", "gradients", "optimiser", "activations")       # in addition to the weights
HEADER = ("method", "measured MB", *(f"{p} MB" for p in PARTS), "predicted MB", "error %",
          "s a step", "lowest to highest", "pictures/s")


def key_of(batch: int, precision: str, checkpointing: str) -> str:
    """The conditions as a title."""
    return f"batch {batch}, {precision}, checkpointing {checkpointing}"


def cases(options: argparse.Namespace) -> list[tuple]:
    """(batch, precision, checkpointing) of each table."""
    return list(itertools.product(options.batch, options.precision, options.checkpointing))


def measured(options: argparse.Namespace, say: Callable[[str], None] = print) -> dict:
    """{(method, case): {"memory", "seconds", "predicted"}}.

    A method that does not fit into memory has no entry, nor has a probe with checkpointing.
    """
    found = {}
    for case, name in itertools.product(cases(options), options.methods):
        if not is_measured(name, case):
            continue
        try:
            memory = measured_once(options, "memory", name, case, cost.memory, options.threads)
            seconds = measured_once(options, "time", name, case, cost.duration, options.threads,
                                    options.rounds)
        except RuntimeError as error:
            if "OutOfMemoryError" not in str(error):
                raise
            say(f"{key_of(*case)}: {name:32s} does not fit")
            continue
        found[name, case] = {"memory": memory, "seconds": seconds,
                             "predicted": prediction(name, case, options)}
        say(f"{key_of(*case)}: {name:32s} {memory['allocated'] / 1e6:8,.0f} MB, "
            f"{statistics.median(seconds):.3f} s")
    return found


def above(parts: dict[str, float]) -> float:
    """Predicted bytes above the weights."""
    return sum(parts[p] for p in PARTS)


# ---- tables -------------------------------------------------------------------------------------

def stored_table(found: dict, options: argparse.Namespace) -> tuple:
    """Trained parameters, counted and by formula, and the size of the file on disk."""
    rows = []
    for name in options.methods:
        one = next((v for (n, _), v in found.items() if n == name), None)
        if one:
            m, (text, value) = one["memory"], trainable(METHODS[name], options.shape)
            rows.append([name, f"{m['trainable']:,}", text, f"{value:,}",
                         f"{100 * m['trainable'] / m['total']:.3f}", f"{m['file'] / 1e6:,.2f}"])
    header = ("method", "trainable", "formula", "its value", "% of the model", "file MB")
    return STORED, header, rows


def row_of(name: str, case: tuple, one: dict) -> list[str]:
    """One row of a table of memory and time."""
    parts, allocated = one["predicted"], one["memory"]["allocated"]
    middle = statistics.median(one["seconds"])
    return [name, f"{allocated / 1e6:,.0f}", *(f"{parts[p] / 1e6:,.0f}" for p in PARTS),
            f"{above(parts) / 1e6:,.0f}", f"{100 * (above(parts) / allocated - 1):+.1f}",
            f"{middle:.3f}", f"{min(one['seconds']):.3f} to {max(one['seconds']):.3f}",
            f"{case[0] / middle:.2f}"]


def tables(found: dict, options: argparse.Namespace) -> list[tuple]:
    """[(title, header, rows)]: what is trained, then one table for each case."""
    made = [stored_table(found, options)]
    for case in cases(options):
        rows = [row_of(name, case, found[name, case]) if (name, case) in found
                else [name, *["--"] * (len(HEADER) - 1)] for name in options.methods]
        reserved = {name: found[name, case]["memory"].get("reserved") for name in options.methods
                    if (name, case) in found}
        header = list(HEADER)
        if any(reserved.values()):                      # a GPU
            header.insert(2, "reserved MB")
            for row in rows:
                row.insert(2, f"{reserved[row[0]] / 1e6:,.0f}" if row[0] in reserved else "--")
        made.append((f"{key_of(*case)}: memory above the weights, and time", header, rows))
    return made


def numbers(found: dict) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file."""
    header = ("method", "batch", "precision", "checkpointing", "trainable", "file", "allocated",
              "reserved", "weights", *PARTS, "predicted", "median_s", "lowest_s", "highest_s")
    rows = []
    for (name, case), one in found.items():
        m, parts, s = one["memory"], one["predicted"], one["seconds"]
        rows.append((name, *case, m["trainable"], m["file"], m["allocated"], m.get("reserved", ""),
                     parts["weights"], *(round(parts[p]) for p in PARTS), round(above(parts)),
                     *(f"{v:.4f}" for v in (statistics.median(s), min(s), max(s)))))
    return header, rows


def ratios(found: dict, options: argparse.Namespace) -> list[str]:
    """Lines of text: minilora's two kinds of step against full fine-tuning of the image tower."""
    lines = []
    for case in cases(options):
        if not all((name, case) in found for name in (FULL, PLAIN, REUSE)):
            continue
        times = measured_once(options, "rivals", [FULL, PLAIN, REUSE], case, cost.rivals,
                              options.threads, options.rounds)
        for name in (PLAIN, REUSE):
            share = (found[name, case]["memory"]["allocated"]
                     / found[FULL, case]["memory"]["allocated"])
            middle, low, high = measure.ratio(times[name], times[FULL])
            lines.append(f"{key_of(*case)}: {name} against {FULL}: {share:.1%} of the memory above "
                         f"the weights, {middle:.3f} x the time ({low:.3f} to {high:.3f}, in turn)")
    return lines


def chart(found: dict, options: argparse.Namespace) -> Image:
    """The chart of one case: batch 8 if it was measured, else the first case."""
    case = next((c for c in cases(options) if c[0] == 8), cases(options)[0])
    rows = [(name, one["predicted"], one["memory"]["allocated"] + one["predicted"]["weights"])
            for (name, c), one in found.items() if c == case]
    return bars.bars(rows, f"memory of a training step, {options.shape.resolution} px, "
                           f"{key_of(*case)}; {options.device}")


def head_of(options: argparse.Namespace) -> list[str]:
    """Lines above the tables: machine, shape, what is measured."""
    config = options.shape
    return [measure.conditions(options.device),
            f"image tower {config.vision_layers} blocks of width {config.vision_width}, patch "
            f"{config.patch}, {config.resolution} pixels, random weights; {options.pool} pictures "
            f"held (as pixels in half precision, with reuse as tokens)",
            "measured: peak of two steps above the weights, in a fresh process that has trained "
            "a tower of four blocks before (memory that libraries keep does not count); parts: "
            "predicted for that moment by bench/formulas.py; time: median of "
            f"{options.rounds} steps after one, in another process; MB = 10^6 bytes"]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.memory",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--quick", action="store_true", help="batch 8, float32, the main methods")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME",
                   help=f"some of: {'; '.join(METHODS)}")
    p.add_argument("--precision", nargs="+", default=["float32", "bfloat16"],
                   choices=("float32", "bfloat16"))
    p.add_argument("--checkpointing", nargs="+", default=["off", "on"], choices=("off", "on"))
    p.add_argument("--pool", type=int, default=DetectorConfig().n_train_images, 
                   help="pictures held")
    p.add_argument("--device", default="auto", type=device_name)
    p.add_argument("--rounds", type=int, default=measure.ROUNDS, help="steps that are timed")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"),
                   help="folder of cells and tables")
    p.add_argument("--name", default="memory", help="of the tables: NAME.txt, .md, .csv, .png")
    return p


def run(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Measures the missing cells and writes all tables and the chart."""
    torch.set_num_threads(options.threads)              # the head line states it
    found = measured(options, say)
    lines = ratios(found, options)
    made = [*tables(found, options), largest.table(options, say)]
    write(options.out, options.name, made, head_of(options) + lines, numbers(found))
    with atomic_write(options.out / f"{options.name}.png") as file:
        chart(found, options).save(file, "PNG")


def main() -> None:
    options = parser().parse_args()
    options.shape = VIT_B_16
    if options.quick:
        options.batch, options.precision, options.checkpointing = [8], ["float32"], ["off"]
        options.methods = list(MAIN)
    run(options, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
