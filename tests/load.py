"""A load test: `predict` scores 2,000 pictures in one run; every fourth file is damaged.

    python tests/load.py --out load.txt
    python tests/load.py --watch --count 10000      the same with predict --watch

Memory is measured after every picture; after the first 200 it should not grow.
"""
import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from conftest import TINY

from bench.measure import resident
from minilora import fit, predict
from minilora.checkpoint.weights import save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.prediction.inputs import open_with_threshold
from minilora.prediction.watch import StopRequest, watch_folder
from minilora.runs import run_class
from minilora.scenes import scene

WARM_UP = 200           # pictures before memory must stay constant


def write_pictures(folder, count, good):
    """Write `count` copies of the files `good`; every fourth copy is cut off."""
    draw = random.Random(0)
    folder.mkdir()
    for k in range(count):
        content = draw.choice(good).read_bytes()
        length = len(content) // 3 if k % 4 == 3 else len(content)
        (folder / f"{k:05d}.png").write_bytes(content[:length])


def slope(values):
    """Growth of the values per 1,000 pictures: slope of the least-squares line."""
    n = len(values)
    x, mean = (n - 1) / 2, sum(values) / n
    return 1000 * sum((k - x) * (v - mean) for k, v in enumerate(values)) / sum(
        (k - x) ** 2 for k in range(n))


class UntilAll(StopRequest):
    """Ends the watch when `results` holds `count` of them."""

    def __init__(self, results, count):
        super().__init__()
        self.results, self.count = results, count

    def wait(self, seconds):
        time.sleep(seconds)
        self.asked = len(self.results) >= self.count


def run_load(count, model=None, watching=False):
    """([(file, error or None)] of the pictures, resident bytes after each, seconds after each)."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stderr(io.StringIO()):
        root, results, memory, clock = Path(root), [], [], []
        data = scene.write_class(root / "data", "gear", good=4, test_good=8, defective=4)
        if model is None:
            model = root / "tiny.safetensors"
            clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
            save_official(clip, model)
        options = fit.parse(["--class", "gear", "--shots", "4", "--data", str(root / "data"),
                             "--steps", "2", "--model", str(model), "--out", str(root / "run")])
        run_class.run_class(options, lambda line: None)
        write_pictures(root / "pictures", count, sorted((data / "test").rglob("*.png")))

        def measure(line):
            found = json.loads(line)
            results.append((found["file"], found["error"]))     # little, since memory is measured
            memory.append(resident())
            clock.append(time.perf_counter())
        if watching:
            watch_folder(open_with_threshold(root / "run"), root / "pictures", root / "out",
                         measure, 0.1, True, UntilAll(results, count))
            return results, memory, clock
        options = predict.parser().parse_args([str(root / "run"), str(root / "pictures"), "--json",
                                               "--out", str(root / "out")])
        predict.run_predict(options, measure)
        return results, memory, clock


def report_lines(results, memory, clock):
    """The measurements as lines of text."""
    failed = [error for _, error in results if error]
    half, growth = len(clock) // 2, slope(memory[WARM_UP:]) / 1e6
    rates = [(len(part) - 1) / (part[-1] - part[0]) for part in (clock[WARM_UP:half], clock[half:])]
    at = [n for n in (1000, len(memory)) if n <= len(memory)]
    resident_at = ", ".join(f"{memory[n - 1] / 1e6:,.1f} MB after {n:,}" for n in at)
    return [f"{len(results):,} pictures: {len(results) - len(failed):,} scores, {len(failed):,} "
            f"errors, {len({file for file, _ in results}):,} different files",
            f"memory after the first {WARM_UP}: {growth:+.1f} MB per 1,000 pictures; {resident_at}",
            f"pictures a second: {rates[0]:.1f} in the first half, {rates[1]:.1f} in the second"]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--count", type=int, default=2000)
    p.add_argument("--watch", action="store_true", help="predict --watch, which stays running")
    p.add_argument("--model", help="checkpoint (default: a tiny untrained model)")
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    lines = report_lines(*run_load(options.count, options.model, options.watch))
    text = "\n".join([time.strftime("%Y-%m-%d"), *lines])
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
