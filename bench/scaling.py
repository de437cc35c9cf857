"""How time and memory grow with shots, resolution, steps and adapted blocks.

    python -m bench.scaling
    python -m bench.scaling --grows shots --rounds 5

Expected exponents, with P = (R / patch)^2 patches and K shots:

    adapt      training.  Steps and pool are fixed: K^0.  Every token passes every block: P^1 = R^2;
               attention: P^2.  Affine in steps and in adapted blocks: between 0 and 1
    remember   building the memory.  The tower encodes each copy once: K^1 R^2; each patch is
               compared with the patches of all other shots: K^2 P^2
    score      one picture.  The tower: R^2; the search in the memory: K^1 P^2
    stored     patches of the memory: K^1 P^1
    peak       the stored patches and the peak of a training step

Each number is the median over fresh processes; in each round all sizes run in turn.  The slope is
fitted by least squares in logarithms.  Steps and training pictures are fewer than by default, which
only changes `adapt`.  Left out: reading and writing pictures; more products (growth.py).
"""
import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench import cost, measure
from bench.accuracy import cell
from bench.tables import write
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.io.files import digest_of
from minilora.train import adapt

BASE = {"shots": 4, "resolution": 0, "steps": 10, "blocks": 0}
PARTS = {"adapt": "s", "remember": "s", "score": "s", "stored": "MB", "peak": "MB"}
# varied quantity -> (sizes, expected exponent of each part, in the order of PARTS)
GROWTH = {
    "shots": ((2, 4, 8, 16), ("0", "1 to 2", "0 to 1", "1", "0 to 1")),
    "resolution": ((224, 336, 448), ("2 to 4", "2 to 4", "2 to 4", "2", "2")),
    "steps": ((10, 20, 40), ("0 to 1", "0", "0", "0", "0")),
    "blocks": ((1, 2, 4), ("0 to 1", "0", "0", "0", "0 to 1"))}
POOL = 16               # training pictures


def prepared(size: dict, model: str | None) -> tuple[Detector, Tensor]:
    """(Detector, random pictures).  The time does not depend on their content."""
    config = replace(DetectorConfig(), n_train_images=POOL,
                       **{key: size[key] for key in ("resolution", "steps", "blocks")})
    clip, _ = load_clip(model)
    detector = Detector(clip, "bottle", config)
    side = detector.resolution
    return detector, torch.rand(size["shots"], 3, side, side,
                                generator=torch.Generator().manual_seed(0))


def adapt_only(detector: Detector, pictures: Tensor) -> None:
    """`Detector.fit` without the memory."""
    adapt(detector.clip, detector.prompts, pictures, detector.n_adapted_blocks, detector.config,
          detector.generator, lambda step, loss: None)
    with torch.no_grad():
        detector.text_features = detector.prompts()


def times(size: dict, model: str | None, threads: int) -> dict[str, float]:
    """{part: seconds}, and "stored": bytes of the patches in the memory."""
    torch.set_num_threads(threads)
    detector, pictures = prepared(size, model)
    found = {"adapt": measure.seconds(lambda: adapt_only(detector, pictures)),
             "remember": measure.seconds(lambda: detector.build_memory(pictures))}
    each = [measure.seconds(lambda: detector.score(pictures[:1])) for _ in range(4)]
    return found | {"score": statistics.median(each[1:]),
                    "stored": detector.banks["adapted"].tokens.nbytes // 2}


def peak(size: dict, model: str | None, threads: int) -> dict[str, int]:
    """{"peak": of the whole fit above the weights, in bytes}."""
    torch.set_num_threads(threads)
    detector, pictures = prepared(size, model)
    return {"peak": measure.peak(lambda: detector.fit(pictures))["allocated"]}


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of the power law that fits the values, by least squares in logarithms.

    NaN if a value is 0, too small to be measured.
    """
    if min(values) <= 0:
        return math.nan
    x, y = ([math.log(v) for v in column] for column in (sizes, values))
    return statistics.linear_regression(x, y).slope


def grown(what: str, options: argparse.Namespace,
          say: Callable[[str], None] = print) -> dict[int, dict[str, list]]:
    """{size: {part: [value of each round]}} for one entry of GROWTH."""
    sizes = [BASE | {what: value} for value in GROWTH[what][0]]
    found = {size[what]: {part: [] for part in PARTS} for size in sizes}
    for k in range(options.rounds):
        for size in sizes:
            result = measured_once(times, size, k, options)
            if not k:                                   # bytes are the same in every round
                result |= measured_once(peak, size, k, options)
            for part, value in result.items():
                found[size[what]][part].append(value)
            say(f"round {k + 1}  {what} {size[what]}: adapt {result['adapt']:.1f} s, remember "
                f"{result['remember']:.1f} s, score {result['score']:.3f} s")
    return found


def measured_once(function: Callable, size: dict, round_: int,
                  options: argparse.Namespace) -> dict[str, float]:
    """Result of `times` or `peak` in a fresh process, or from its file: a run that was stopped
    goes on where it was."""
    mark = digest_of(size, options.threads, load_clip(options.model)[1].sha256,
                     cost.code_version(), torch.__version__, measure.processor())
    words = "-".join(map(str, (function.__name__, *size.values(), "round", round_ + 1)))
    return cell(options.out / "cells" / f"{words}.json", mark,
                lambda: measure.fresh(function, size, options.model, options.threads,
                                      returning=function is peak))


def table(what: str, found: dict[int, dict[str, list]]) -> tuple:
    """(title, header, rows), all text."""
    sizes, laws = GROWTH[what]
    rows = []
    for (part, unit), law in zip(PARTS.items(), laws, strict=True):
        middle = [statistics.median(found[size][part]) / (1e6 if unit == "MB" else 1)
                  for size in sizes]
        rows.append([f"{part}, {unit}", *(f"{value:.3g}" for value in middle),
                     f"{slope(sizes, middle):.2f}", law])
    return f"growing {what}", ("part", *map(str, sizes), "slope", "expected"), rows


def numbers(found: dict) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file, one row for each round."""
    return ("grows", "size", "part", "unit", "value"), [
        (what, size, part, "bytes" if PARTS[part] == "MB" else "s", value)
        for what, sizes in found.items() for size, parts in sizes.items()
        for part, values in parts.items() for value in values]


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--grows", nargs="+", default=list(GROWTH), choices=GROWTH)
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/scaling"))
    p.add_argument("--name", default="scaling", help="of the tables: NAME.txt, .md, .csv")
    options = p.parse_args()
    _, weights = load_clip(options.model)
    found = {what: grown(what, options, lambda line: print(line, flush=True))
             for what in options.grows}
    made = [table(what, sizes) for what, sizes in found.items()]
    head = [f"{measure.conditions()}; {options.threads} threads; weights {weights.name} (sha256 "
            f"{weights.sha256[:12]}…); {options.rounds} rounds",
            f"unless varied: {BASE['shots']} shots, {DetectorConfig().batch} a step, "
            f"{BASE['steps']} steps, {POOL} training pictures, the model's own resolution, the "
            "last third of the blocks"]
    write(options.out, options.name, made, head, numbers(found))


if __name__ == "__main__":
    main()
