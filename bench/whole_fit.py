"""The whole fit of a class in ViT-B/16's shape: time, memory, and the time of a picture afterwards.

    python -m bench.whole_fit --class bottle --data FOLDER
    python -m bench.whole_fit --data FOLDER --fitted runs/speed         a fit of bench.speed

The weights are random: time and memory do not depend on their values.  The fit runs as the command
`minilora.fit` in a fresh process.  The time of a picture is measured ROUNDS times with the stored
detector.
Left out: accuracy; several rounds of the fit (speed.py); comparisons (speed.py, against_peft.py).
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from bench import measure
from bench.tables import write
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP, VIT_B_16
from minilora.data.images import read_image
from minilora.data.mvtec import load_class
from minilora.detector import Detector

SHOTS = 8


def random_weights(folder: Path) -> Path:
    """A file with random weights of ViT-B/16's shape; it is written if it is not there."""
    path = folder / "random-vit-b-16.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_official(CLIP(VIT_B_16).initialise(torch.Generator().manual_seed(0)), path)
    return path


def fit_seconds(run: Path, *options: str) -> float:
    """Seconds of the command `minilora.fit --force --out RUN OPTIONS` in a fresh process: start of
    Python, fit, scores of all test pictures, pages.  Its output is shown if it fails."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "minilora.fit", *options, "--force", "--out",
                           str(run)], cwd=measure.REPO, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"minilora.fit {' '.join(options)}: {done.stderr.strip()[-2000:]}")
    return time.perf_counter() - begun


def seconds_a_picture(detector: Detector, pictures: list[Tensor]) -> list[float]:
    """Seconds of `Detector.score` for each picture, after one call that does not count."""
    detector.score(pictures[0][None])
    found = []
    for picture in pictures:
        begun = time.perf_counter()
        detector.score(picture[None])
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.whole_fit",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--class", dest="product", default="bottle")
    p.add_argument("--shots", type=int, default=SHOTS)
    p.add_argument("--data", required=True, help="folder in MVTec AD's layout")
    p.add_argument("--fitted", type=Path, help="folder of bench.speed: its last fit is measured "
                   "instead of another one")
    p.add_argument("--out", type=Path, default=Path("runs/whole-fit"))
    p.add_argument("--name", default="whole-fit", help="of the tables: NAME.txt, .md, .csv")
    options = p.parse_args()
    out, data = options.out.resolve(), Path(options.data).resolve()
    if options.fitted:
        weights = random_weights(options.fitted.resolve())
        run = options.fitted.resolve() / "runs" / "ViT-B-16"
    else:
        weights, run = random_weights(out), out / options.product
        fit_seconds(run, "--class", options.product, "--shots", str(options.shots), "--data",
                    str(data), "--model", str(weights))
    metrics = json.loads((run / "metrics.json").read_text())
    detector = Detector.load(run, *load_clip(weights))
    test = load_class(data, options.product).test[:measure.ROUNDS]
    times = seconds_a_picture(detector, [detector.prepare(read_image(s.path)) for s in test])
    size = {file: file.stat().st_size / 1e6 for file in run.rglob("*") if file.is_file()}
    rows = [("fit and scoring of all test pictures, s", f"{metrics['seconds']:.0f}"),
            ("highest resident memory, MB", f"{metrics['peak_memory_bytes'] / 2**20:,.0f}"),
            ("scoring a picture, s (median)", f"{statistics.median(times):.2f}"),
            ("scoring a picture, s (lowest to highest)", f"{min(times):.2f} to {max(times):.2f}"),
            ("run folder, with pages and maps, MB", f"{sum(size.values()):.1f}"),
            ("whole run, which predict reads, MB", f"{metrics['run_bytes'] / 1e6:.1f}"),
            *((f"{name}, MB", f"{size[run / name]:.1f}")
              for name in ("adapter_model.safetensors", "memory.safetensors"))]
    head = [f"{measure.conditions()}; ViT-B/16's shape, random weights; class {options.product}, "
            f"{options.shots} shots"]
    write(out, options.name, [("the whole fit", ["what", "measured"], rows)], head,
          (("what", "measured"), rows))


if __name__ == "__main__":
    main()
