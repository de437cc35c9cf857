"""How time and memory grow with shots, resolution, steps, adapted blocks and processes.

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
only changes `adapt`.  Left out: reading and writing pictures.
"""
import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench import measure
from bench.tables import write
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.scenes import scene
from minilora.train import adapt

BASE = {"shots": 4, "resolution": 0, "steps": 10, "blocks": 0}
PARTS = {"adapt": "s", "remember": "s", "score": "s", "stored": "MB", "peak": "MB"}
# varied quantity -> (sizes, expected exponent of each part, in the order of PARTS)
GROWTH = {
    "shots": ((2, 4, 8, 16), ("0", "1 to 2", "0 to 1", "1", "0 to 1")),
    "resolution": ((224, 336, 448), ("2 to 4", "2 to 4", "2 to 4", "2", "2")),
    "steps": ((10, 20, 40), ("0 to 1", "0", "0", "0", "0")),
    "blocks": ((1, 2, 4), ("0 to 1", "0", "0", "0", "0 to 1"))}
CLASSES = ("bottle", "nut", "gear", "metal")
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
            cost = measure.fresh(times, size, options.model, options.threads)
            if not k:                                   # bytes are the same in every round
                cost |= measure.fresh(peak, size, options.model, options.threads, returning=True)
            for part, value in cost.items():
                found[size[what]][part].append(value)
            say(f"round {k + 1}  {what} {size[what]}: adapt {cost['adapt']:.1f} s, remember "
                f"{cost['remember']:.1f} s, score {cost['score']:.3f} s")
    return found


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


def processes(count: int, folder: Path, rounds: int) -> list[float]:
    """Seconds of fitting CLASSES with `count` processes of one thread, start included."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(count), "-m", "minilora.fit", "--class", "all", "--shots", "4", "--steps", "10",
               "--data", str(folder), "--out", str(folder / f"runs{count}"), "--force"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return [measure.seconds(lambda: subprocess.run(command, cwd=measure.REPO, env=one_thread,
                                                   check=True, capture_output=True))
            for _ in range(rounds)]


def over_processes(rounds: int) -> tuple:
    """(title, header, rows): the same classes with one process and with two."""
    with tempfile.TemporaryDirectory() as folder:
        for name in CLASSES:
            scene.write_class(folder, name, good=4, test_good=4, defective=1)
        taken = [[processes(count, Path(folder), 1)[0] for count in (1, 2)] for _ in range(rounds)]
    one, two = map(list, zip(*taken))
    middle, low, high = measure.ratio(two, one)
    return ("processes", ("classes", "1 process, s", "2 processes, s", "ratio",
                          "lowest to highest", "expected"),
            [[str(len(CLASSES)), f"{statistics.median(one):.1f}", f"{statistics.median(two):.1f}",
              f"{middle:.2f}", f"{low:.2f} to {high:.2f}", "0.5, and what starting up takes"]])


def numbers(found: dict) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file, one row for each round."""
    return ("grows", "size", "part", "unit", "value"), [
        (what, size, part, "bytes" if PARTS[part] == "MB" else "s", value)
        for what, sizes in found.items() for size, parts in sizes.items()
        for part, values in parts.items() for value in values]


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--grows", nargs="+", default=[*GROWTH, "processes"],
                   choices=[*GROWTH, "processes"])
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/scaling"))
    p.add_argument("--name", default="scaling", help="of the tables: NAME.txt, .md, .csv")
    options = p.parse_args()
    _, weights = load_clip(options.model)
    found = {what: grown(what, options, lambda line: print(line, flush=True))
             for what in options.grows if what in GROWTH}
    made = [table(what, sizes) for what, sizes in found.items()]
    if "processes" in options.grows:
        made.append(over_processes(options.rounds))
    head = [f"{measure.conditions()}; {options.threads} threads; weights {weights.name} (sha256 "
            f"{weights.sha256[:12]}…); {options.rounds} rounds",
            f"unless varied: {BASE['shots']} shots, {DetectorConfig().batch} a step, "
            f"{BASE['steps']} steps, {POOL} training pictures, the model's own resolution, the "
            "last third of the blocks"]
    write(options.out, options.name, made, head, numbers(found))


if __name__ == "__main__":
    main()
