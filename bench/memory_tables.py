"""The tables and the chart of bench.memory, from what it measured.

An entry is what `memory.measured` returns for one row.
Left out: measuring; the largest batches (largest.py); memory over time (snapshot.py).
"""
import argparse
import statistics
from collections.abc import Sequence

import torch

from bench import measure
from bench.bars import Bar, bars
from bench.findings import Point
from minilora.charts.writers import write_drawing

TITLE = ("Below full fine-tuning, the blocks with a gradient decide memory; "
         "the number of trained parameters hardly does")
PARTS = ("pool", "gradients", "optimiser", "activations")       # in addition to the weights
MB = 1e6


def above(parts: dict[str, float]) -> float:
    """Predicted bytes above the weights."""
    return sum(parts[p] for p in PARTS)


def weights(memory: dict) -> int:
    """Bytes of the weights of both towers, with the layers of the method."""
    return 4 * memory["total"]


def spread(values: Sequence[float] | None) -> tuple:
    """(median, lowest, highest), or three times None."""
    return (statistics.median(values), min(values), max(values)) if values else (None,) * 3


# ---- one row ------------------------------------------------------------------------------------

def values_of(entry: dict) -> dict:
    """{column of the CSV file: value}, not rounded; None if there is none."""
    row, memory, parts = entry["row"], entry.get("memory", {}), entry["predicted"] or {}
    peft, rivals, peak = entry.get("peft_memory", {}), entry.get("rivals"), memory.get("allocated")
    middle, low, high = spread(entry.get("seconds"))
    ratio = measure.ratio(rivals[row.peft], rivals[row.method]) if rivals else (None,) * 3
    batch, precision, checkpointing = entry["case"]
    return {"row": row.name, "method": row.method, "batch": batch, "precision": precision,
            "checkpointing": checkpointing,
            **{key: memory.get(key)
               for key in ("blocks", "trainable", "file", "allocated", "reserved")},
            "weights": weights(memory) if memory else None,
            **{part: parts.get(part) for part in PARTS},
            "predicted": above(parts) if parts else None,
            "error": 100 * (above(parts) / peak - 1) if parts and peak else None,
            "median_s": middle, "lowest_s": low, "highest_s": high,
            "pictures_s": batch / middle if middle else None,
            "peft": row.peft, "peft_allocated": peft.get("allocated"),
            "peft_reserved": peft.get("reserved"),
            **dict(zip(("peft_ratio", "peft_lowest", "peft_highest"), ratio)),
            "reason": entry.get("reason")}


def megabytes(value: float) -> str:
    return f"{value / MB:,.0f}"


# heading: (columns of the CSV file, format of each)
COLUMNS = {
    "method": ("row", str), "batch": ("batch", str), "precision": ("precision", str),
    "checkpointing": ("checkpointing", str), "blocks with a gradient": ("blocks", str),
    "trained": ("trainable", "{:,}".format), "file MB": ("file", lambda v: f"{v / MB:,.2f}"),
    "peak MB": ("allocated", megabytes), "reserved MB": ("reserved", megabytes),
    **{f"{part} MB": (part, megabytes) for part in (*PARTS, "predicted")},
    "error %": ("error", "{:+.1f}".format), "weights MB": ("weights", megabytes),
    "s a step": ("median_s", "{:.3f}".format),
    "lowest to highest": ("lowest_s highest_s", "{:.3f}".format),
    "pictures/s": ("pictures_s", "{:.2f}".format),
    "peft: peak MB": ("peft_allocated", megabytes),
    "peft: x our time": ("peft_ratio", "{:.3f}".format),
    "peft: lowest to highest": ("peft_lowest peft_highest", "{:.3f}".format)}
MEASURED = ("peak MB", "s a step", "peft: peak MB", "peft: x our time")     # in this order


def texts_of(entry: dict) -> dict[str, str]:
    """{heading: text} of one row.  What could not be measured says why, once."""
    values, made = values_of(entry), {}
    for heading, (keys, form) in COLUMNS.items():
        found = [values[key] for key in keys.split()]
        made[heading] = "--" if None in found else " to ".join(map(form, found))
    if values["reason"]:
        made[next(heading for heading in MEASURED if made[heading] == "--")] = values["reason"]
    return made


def progress_line(entry: dict) -> str:
    """One line of text, for the screen."""
    texts = texts_of(entry)
    return (f"{texts['method']:40s} batch {texts['batch']:>3s}: peak {texts['peak MB']} MB, step "
            f"{texts['s a step']} s, peft: {texts['peft: peak MB']} MB, {texts['peft: x our time']}"
            " x the time")


# ---- all rows -----------------------------------------------------------------------------------

def table(entries: Sequence[dict], options: argparse.Namespace) -> tuple:
    """(title, header, rows), all text: one row for each method and condition."""
    gpu = torch.device(options.device).type == "cuda"
    header = [heading for heading in COLUMNS if gpu or heading != "reserved MB"]
    rows = [[texts[heading] for heading in header] for texts in map(texts_of, entries)]
    return "memory above the weights, and time, of one training step", header, rows


def numbers(entries: Sequence[dict]) -> tuple[list, list[list]]:
    """(header, rows) of the CSV file."""
    def shown(value):
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
    rows = [values_of(entry) for entry in entries]
    return list(rows[0]), [[shown(value) for value in row.values()] for row in rows]


def points(entries: Sequence[dict], batch: int) -> list[Point]:
    """The measured rows of one batch size, for findings.py."""
    return [Point(e["row"].name, m["trainable"], m["blocks"], m["allocated"],
                  e["case"][1:] == ("float32", "off"))
            for e in entries if (m := e.get("memory")) and e["case"][0] == batch]


def head_of(options: argparse.Namespace) -> list[str]:
    """Lines above the tables: machine, shape, what is measured."""
    c, gpu = options.shape, torch.device(options.device).type == "cuda"
    how = ("reset before; allocated, and reserved from the GPU" if gpu else
           "in a fresh process")
    return [measure.conditions(options.device, ("peft",) if options.peft else ()),
            f"image tower {c.vision_layers} blocks of width {c.vision_width}, patch {c.patch}, "
            f"{c.resolution} pixels, random weights; {options.pool} pictures held (as pixels in "
            "half precision, with reuse as tokens)",
            f"peak: of two steps above the weights, {how}, after training a tower of four blocks "
            "(memory that libraries keep does not count); parts: predicted for that moment by "
            f"bench/formulas.py; time: median of {options.rounds} steps after one; MB = 10^6 bytes",
            "peft: the same tower and loss with the layers of peft, times in turn with ours"
            if options.peft else "peft: not installed, so not measured"]


def draw(entries: Sequence[dict], options: argparse.Namespace) -> None:
    """NAME.svg and NAME.png: bars of the first batch size.  Nothing if no row is measured."""
    rows = [Bar(e["row"].name, f"{m['trainable']:,} trained; {m['blocks']} of "
                f"{options.shape.vision_layers} blocks with a gradient", e["predicted"],
                weights(m), m["allocated"] + weights(m))
            for e in entries if (m := e.get("memory")) and e["case"][0] == options.batch[0]]
    axis = (f"MB, with the weights; one step on {options.batch[0]} pictures of "
            f"{options.shape.resolution} pixels, on a {torch.device(options.device).type.upper()}")
    for ending in ("svg", "png") if rows else ():
        write_drawing(options.out / f"{options.name}.{ending}",
                      bars(rows, TITLE, axis.replace("CUDA", "GPU")))
