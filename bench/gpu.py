"""What a GPU does: a whole fit, pictures per second, and a step of the embedded model's training.

    python -m bench.gpu                         about five minutes, most of them for the fit
    python -m bench.gpu --part encode train

    fit      the command `minilora.fit` with ViT-B/16's shape (random weights) and 8 shots, against
             the 30 minutes that the README promises
    encode   encode_image in bfloat16 (autocast) at several batch sizes: pictures per second, and
             the share of the card's peak.  The peak is that of a large matrix product on the same
             card; the data sheet's value stands beside it, if the card is known
    train    seconds of a step of `minilora.pretrain` on drawn scenes, at its default batch; the
             first steps do not count

FLOPs of the tower, two for a multiplication and an addition, for L tokens of width W:

    8 L W^2      q, k, v, out of a block            16 L W^2     its feed-forward layer
    4 L^2 W      its attention                      6 P p^2 W    patches of p x p pixels

In the last block only CLS has a query, an output and a feed-forward layer.
Left out: memory (bench.memory --device cuda), several GPUs, accuracy.
"""
import argparse
import gc
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import measure
from bench.speed_pairs import random_pixels, seeded_clip
from bench.tables import write
from bench.whole_fit import SHOTS, fit_seconds, random_weights
from minilora.clip import VIT_B_16, CLIPConfig
from minilora.pretrain import options as pretrain_options
from minilora.pretrain.train import pretrain

PROMISED = 30 * 60                          # seconds of a fit
DATASHEET = {"A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "L40S": 362,
             "L4": 121, "RTX 4090": 165, "B200": 2250}      # bfloat16, dense, TFLOP/s
WARM_UP = 5                                 # steps, or calls
UNKNOWN = "not known"


def tower_flops(shape: CLIPConfig) -> int:
    """FLOPs of encode_image for one picture; without norms, softmax and activations."""
    width, patches = shape.vision_width, (shape.resolution // shape.patch) ** 2
    tokens = patches + 1
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    last = 4 * tokens * width**2 + 20 * width**2 + 4 * tokens * width       # only CLS leaves it
    return (6 * patches * shape.patch**2 * width + (shape.vision_layers - 1) * block + last
            + 2 * width * shape.embed)


def datasheet_peak(name: str) -> int | None:
    """TFLOP/s of a card in bfloat16 without sparsity; None if it is not known."""
    words = re.split(r"\W", name)               # "L4" is not in "NVIDIA L40"
    return next((peak for known, peak in DATASHEET.items()
                 if all(word in words for word in known.split())), None)


def product_peak(side: int, device: str, rounds: int = measure.ROUNDS) -> float:
    """FLOP/s of the fastest of several products of two bfloat16 matrices (side, side)."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    times = [measure.seconds(lambda: a @ b, device) for _ in range(WARM_UP + rounds)]
    return 2 * side**3 / min(times[WARM_UP:])


def pictures_per_second(shape: CLIPConfig, batches: Sequence[int], device: str,
                        rounds: int = measure.ROUNDS) -> dict[int, list[float]]:
    """{batch: pictures per second in each round}; batches that do not fit are left out."""
    visual, found = seeded_clip(device, shape).visual, {}
    for batch in batches:
        try:
            pixels = random_pixels(batch, device, shape.resolution)
            with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
                times = [measure.seconds(lambda: visual.encode_image(pixels), device)
                         for _ in range(WARM_UP + rounds)]
        except RuntimeError as error:
            if not measure.is_out_of_memory(error):
                raise
            break
        found[batch] = [batch / seconds for seconds in times[WARM_UP:]]
    return found


def training_seconds(steps: int, device: str, *more: str) -> list[float]:
    """Seconds of each step of the embedded model's training after the first WARM_UP ones.

    more: options of `minilora.pretrain`.
    """
    options = pretrain_options.parser().parse_args(
        ["--device", device, "--steps", str(WARM_UP + steps), "--measure-every", "0", "--fresh",
         "0", *more])
    _, log = pretrain(options, lambda line: None)
    ends = [row["seconds"] for row in log[WARM_UP - 1:]]
    return [later - earlier for earlier, later in zip(ends, ends[1:])]


def fit_part(o: argparse.Namespace) -> list[tuple]:
    given = ["--data", str(o.data.resolve())] if o.data else []
    seconds = fit_seconds(o.out / "fit", "--class", o.product, "--shots", str(SHOTS), "--model",
                          str(random_weights(o.out)), "--device", o.device, *given)
    return [(f"fit of {o.product}, {SHOTS} shots, ViT-B/16's shape, s", f"{seconds:.0f}"),
            (f"within the promised {PROMISED // 60} minutes",
             "yes" if seconds <= PROMISED else "no")]


def encode_part(o: argparse.Namespace, shape: CLIPConfig = VIT_B_16) -> list[tuple]:
    found = pictures_per_second(shape, o.batch, o.device)
    if not found:
        return [(f"encode_image, batch {o.batch[0]}", "does not fit")]
    best = max(found, key=lambda batch: statistics.median(found[batch]))
    rate, flops, peak = (statistics.median(found[best]), tower_flops(shape),
                         product_peak(o.side, o.device))
    card = torch.cuda.get_device_name(o.device) if o.device.startswith("cuda") else ""
    sheet = datasheet_peak(card)
    return [*((f"encode_image, batch {batch}, pictures/s", f"{statistics.median(rates):,.0f} "
               f"({min(rates):,.0f} to {max(rates):,.0f})") for batch, rates in found.items()),
            ("FLOPs of a picture, G", f"{flops / 1e9:.2f}"),
            (f"at batch {best}, TFLOP/s", f"{rate * flops / 1e12:.3g}"),
            (f"product of two {o.side} x {o.side} matrices, TFLOP/s", f"{peak / 1e12:.3g}"),
            ("share of the product's", f"{rate * flops / peak:.1%}"),
            ("data sheet, TFLOP/s", str(sheet or UNKNOWN)),
            ("share of the data sheet's", f"{rate * flops / (1e12 * sheet):.1%}" if sheet
             else UNKNOWN)]


def train_part(o: argparse.Namespace) -> list[tuple]:
    times = training_seconds(o.steps, o.device, "--buffer", "512", "--workers", "8", "--ahead", "8")
    batch = pretrain_options.parser().get_default("batch")
    return [(f"training of the embedded model, batch {batch}, ms a step (median of {len(times)})",
             f"{1e3 * statistics.median(times):.1f} ({1e3 * min(times):.1f} to "
             f"{1e3 * max(times):.1f})"),
            ("pictures/s", f"{batch / statistics.median(times):,.0f}")]


PARTS = {"encode": encode_part, "train": train_part, "fit": fit_part}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    p.add_argument("--device", default="cuda")
    p.add_argument("--class", dest="product", default="bottle", help="of fit")
    p.add_argument("--data", type=Path, help="for fit: folder in MVTec AD's layout; else the "
                                             "embedded scenes")
    p.add_argument("--batch", type=int, nargs="+", default=[32, 128, 256, 512, 1024],
                   help="of encode")
    p.add_argument("--side", type=int, default=8192, help="of the matrices of the product")
    p.add_argument("--steps", type=int, default=40, help="of train")
    p.add_argument("--out", type=Path, default=Path("runs/gpu"))
    p.add_argument("--name", default="gpu", help="of the tables: NAME.txt, .md, .csv")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    o = parser().parse_args(arguments)
    o.out = o.out.resolve()
    if not (o.device.startswith("cuda") and torch.cuda.is_available()):
        print(f"bench.gpu needs a GPU with CUDA, found --device {o.device} and "
              f"{torch.cuda.device_count()} GPUs; bench.speed measures on the CPU", file=sys.stderr)
        return 2
    rows = []
    for part in o.part:
        for row in PARTS[part](o):
            rows.append((part, *row))
            print("  ".join(rows[-1]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()                # `fit` runs in a process of its own
    write(o.out, o.name, [("on a GPU", ["part", "what", "measured"], rows)],
          [measure.conditions(o.device)], (("part", "what", "measured"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
