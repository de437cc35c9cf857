"""Memory and time of a training step: one table of methods, with a chart of what takes the memory.

    python -m bench.memory                      batch 8: the rows of rows.py
    python -m bench.memory --device cuda --all  on a GPU within eight minutes: also the largest
                                                batches, by trying, and the memory over time
    python -m bench.memory --batch 1 32 --precision float32 bfloat16 --methods CoOp BitFit

Shape: ViT-B/16 at 224 pixels, random weights (steps.py).  Memory: the peak of two steps above the
weights; next to it the parts that formulas.py predicts for the moment of the peak.  Time: single
steps.  A counterpart in peft is measured in the same way, its time in turn with ours.  What does
not fit into memory is a row that says so; what the budget left out (turns.py) is "not measured",
and the next call goes on there.
Left out: drawing the training pictures; the tables (memory_tables.py); accuracy (accuracy.py).
"""
import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench import cost, findings, largest, measure, memory_tables
from bench.cells import is_measured, prediction
from bench.rows import ROWS, Row
from bench.steps import FULL, METHODS, PLAIN, REUSE
from bench.tables import write
from bench.turns import DoesNotFit, NotMeasured, Turns
from minilora.charts.plots import line_plot
from minilora.charts.writers import write_drawing
from minilora.clip import VIT_B_16
from minilora.config import DetectorConfig
from minilora.io.cli import device_name
from minilora.io.parser import OneLineParser

BATCH = 8
GPU_BUDGET = 440            # seconds; the rest of eight minutes is for imports and charts
DRAWN_OVER_TIME = (FULL, "LoRA, all blocks", REUSE)


# ---- measuring ----------------------------------------------------------------------------------

def cases(options: argparse.Namespace) -> list[tuple[Row, tuple]]:
    """[(row, (batch, precision, checkpointing))] of the table."""
    named = {row.name: row for row in ROWS}
    rows = [named.get(name) or Row(name, name) for name in options.methods or named]
    if options.precision or options.checkpointing:      # each method in each of these conditions
        methods = {row.method: row for row in reversed(rows)}
        rows = [replace(row, name=f"{method}, {precision}, checkpointing {checkpointing}",
                        precision=precision, checkpointing=checkpointing)
                for precision in options.precision or ["float32"]
                for checkpointing in options.checkpointing or ["off"]
                for method, row in reversed(methods.items())]
    found = [(row, (batch, row.precision, row.checkpointing))
             for batch in options.batch for row in rows]
    return [(row, case) for row, case in found if is_measured(row.method, case)]


def measured(row: Row, case: tuple, turns: Turns) -> dict:
    """{"row", "case", "predicted", "memory", "seconds", "peft_memory", "rivals"}; the last four as
    far as they could be measured, and "reason" tells why not all."""
    o = turns.options
    entry = {"row": row, "case": case, "predicted": prediction(row.method, case, o)}
    try:
        entry["memory"] = turns.result("memory", row.method, case, cost.memory, o.threads)
        entry["seconds"] = turns.result("time", row.method, case, cost.duration, o.threads,
                                        o.rounds)
        if row.peft and o.peft:
            entry["peft_memory"] = turns.result("memory", row.peft, case, cost.memory, o.threads)
            entry["rivals"] = turns.result("rivals", [row.method, row.peft], case, cost.rivals,
                                           o.threads, o.rounds)
    except (NotMeasured, DoesNotFit) as reason:
        entry["reason"] = str(reason)
    return entry


def against_full(entries: Sequence[dict], turns: Turns) -> list[str]:
    """Lines of text: minilora's two kinds of step against full fine-tuning of the image tower."""
    found = {(e["row"].method, e["case"]): e["memory"] for e in entries if "memory" in e}
    lines, o = [], turns.options
    for case in dict.fromkeys(case for _, case in found):
        if not all((name, case) in found for name in (FULL, PLAIN, REUSE)):
            continue
        try:
            times = turns.result("rivals", [FULL, PLAIN, REUSE], case, cost.rivals, o.threads,
                                 o.rounds)
        except (NotMeasured, DoesNotFit):
            continue
        for name in (PLAIN, REUSE):
            share = found[name, case]["allocated"] / found[FULL, case]["allocated"]
            middle, low, high = measure.ratio(times[name], times[FULL])
            lines.append(f"batch {case[0]}, {case[1]}, checkpointing {case[2]}: {name} against "
                         f"{FULL}: {share:.1%} of the memory above the weights, {middle:.3f} x the "
                         f"time ({low:.3f} to {high:.3f}, in turn)")
    return lines


def drawn_over_time(turns: Turns, say: Callable[[str], None]) -> None:
    """NAME-over-time.svg and .png: allocated memory during two steps, of a few methods."""
    o, curves = turns.options, {}
    for name in DRAWN_OVER_TIME:
        try:
            curve = turns.result("over time", name, (o.batch[0], "float32", "off"), cost.over_time,
                                 o.threads)
            curves[name] = [(time, value / 1e6) for time, value in curve]
        except (NotMeasured, DoesNotFit) as reason:
            say(f"memory over time: {name}: {reason}")
    for ending in ("svg", "png") if curves else ():
        write_drawing(o.out / f"{o.name}-over-time.{ending}", line_plot(
            "allocated memory during two steps", "ms of the program", "MB above the weights",
            curves))


# ---- the command --------------------------------------------------------------------------------

def gpu_or_other(text: str) -> str:
    """--device, a GPU with its number; says what is needed if there is no GPU."""
    if text.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(
            f"expected a GPU that torch can use, found none (torch {torch.__version__}); install "
            "torch for CUDA on a machine with a GPU, or leave out --device")
    name = device_name(text)        # torch's limit of the memory needs the number (cost.fits)
    return "cuda:0" if name == "cuda" else name


def method_name(text: str) -> str:
    """--methods: the name of a row, or any method of steps.py."""
    names = dict.fromkeys([*(row.name for row in ROWS), *METHODS])
    if text not in names:
        raise argparse.ArgumentTypeError(f"expected some of: {'; '.join(names)}; found '{text}'")
    return text


def parser() -> argparse.ArgumentParser:
    p = OneLineParser("python -m bench.memory", __doc__.split("\n")[0], "--device cuda --all")
    add = p.add_argument
    add("--all", action="store_true", help="on a GPU: largest batches, memory over time")
    add("--batch", type=int, nargs="+", default=[BATCH], metavar="B", help="pictures in a step")
    add("--methods", type=method_name, nargs="+", metavar="NAME", help="instead of all rows")
    add("--precision", nargs="+", choices=("float32", "bfloat16"), help="of all methods")
    add("--checkpointing", nargs="+", choices=("off", "on"), help="of all methods")
    add("--pool", type=int, default=DetectorConfig().n_train_images, help="pictures held")
    add("--device", default="auto", type=gpu_or_other, help="where to measure")
    add("--budget", type=float, help=f"seconds; on a GPU {GPU_BUDGET}, else no limit")
    add("--rounds", type=int, default=measure.ROUNDS, help="steps that are timed")
    add("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    add("--out", type=Path, default=Path("runs/bench"), help="folder of cells and tables")
    add("--name", help="of the tables: NAME.txt, .md, .csv, .svg, .png; memory or memory-cuda")
    p.set_defaults(shape=VIT_B_16, peft=importlib.util.find_spec("peft") is not None)
    return p


def run(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Measures what is missing and writes the tables and charts."""
    torch.set_num_threads(options.threads)              # the head line states it
    turns = Turns(options)
    if turns.on_gpu and options.budget is None:
        options.budget = GPU_BUDGET
    options.name = options.name or ("memory-cuda" if turns.on_gpu else "memory")
    chosen, entries = cases(options), []
    for row, case in chosen:
        entries.append(measured(row, case, turns))
        say(memory_tables.progress_line(entries[-1]))
    lines = against_full(entries, turns)
    made = [memory_tables.table(entries, options)]
    if options.all and turns.on_gpu:
        drawn_over_time(turns, say)
    if options.all or not turns.on_gpu:
        made += largest.tables(list(dict.fromkeys(row for row, _ in chosen)), turns, say)
    write(options.out, options.name, made, [
        *memory_tables.head_of(options), *lines,
        *findings.lines(memory_tables.points(entries, options.batch[0]))],
        memory_tables.numbers(entries))
    memory_tables.draw(entries, options)


def main() -> None:
    run(parser().parse_args(), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
