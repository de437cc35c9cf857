"""A long night's work: 2,000 pictures judged in one go, every fourth of them damaged.

    python tests/load.py --out load.txt

Memory is looked at after every picture; after the first 200 it should not grow.
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
from minilora.runs import run_class
from minilora.scenes import scene

WARM = 200              # pictures


def pictures(folder, count, good):
    """`count` files made of a few drawn ones, every fourth cut off."""
    draw = random.Random(0)
    folder.mkdir()
    for k in range(count):
        content = draw.choice(good).read_bytes()
        length = len(content) // 3 if k % 4 == 3 else len(content)
        (folder / f"{k:05d}.png").write_bytes(content[:length])


def slope(values):
    """Growth per 1,000 pictures, least squares."""
    n = len(values)
    x, mean = (n - 1) / 2, sum(values) / n
    return 1000 * sum((k - x) * (v - mean) for k, v in enumerate(values)) / sum(
        (k - x) ** 2 for k in range(n))


def judged(count, model=None):
    """What predict said of each picture, resident bytes and seconds after each."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stderr(io.StringIO()):
        root, said, held, clock = Path(root), [], [], []
        data = scene.write_class(root / "data", "gear", good=4, test_good=8, defective=4)
        if model is None:
            model = root / "tiny.pt"
            clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
            save_official(clip, model)
        run_class.run_class(fit.parse(["--class", "gear", "--shots", "4", "--data", str(root / "data"),
                           "--steps", "2", "--model", str(model), "--out", str(root / "run")]),
                lambda line: None)
        pictures(root / "night", count, sorted((data / "test").rglob("*.png")))

        def look(line):
            said.append(json.loads(line))
            held.append(resident())
            clock.append(time.perf_counter())
        predict.run_predict(predict.parser().parse_args([str(root / "run"), str(root / "night"), "--json",
                                                 "--out", str(root / "out")]), look)
        return said, held, clock


def record(said, held, clock):
    """Lines of the record."""
    failed = [one for one in said if one["error"]]
    half = len(clock) // 2
    rates = [(len(part) - 1) / (part[-1] - part[0]) for part in (clock[WARM:half], clock[half:])]
    return [f"{len(said):,} pictures: {len(said) - len(failed):,} answers, {len(failed):,} named "
            f"errors, {len({one['file'] for one in said}):,} different files",
            f"memory after the first {WARM}: {slope(held[WARM:]) / 1e6:+.1f} MB per 1,000 pictures",
            f"pictures a second: {rates[0]:.1f} in the first half, {rates[1]:.1f} in the second"]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--count", type=int, default=2000)
    p.add_argument("--model", help="checkpoint; else a tiny untrained one")
    p.add_argument("--out", type=Path, help="file for the record")
    options = p.parse_args()
    text = "\n".join([time.strftime("%Y-%m-%d"), *record(*judged(options.count, options.model))])
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
