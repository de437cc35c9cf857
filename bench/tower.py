"""Choice of the image tower: several sizes, each pretrained for the same time.

    python -m bench.tower --photos FOLDER --teacher FILE --products FOLDER --start WEIGHTS

`minilora.pretrain` trains each size for as many steps as fit into --minutes on this machine, with
the whole schedule: warm-up, constant rate, decay to zero.  A size with the width of --start and at
least as many blocks grows from it (minilora/pretrain/grow.py); other sizes start from random
numbers.  The table shows measures on held-out pictures, the size of the file, and the time of one
picture relative to the current tower.

Left out: what more training would change.
"""
import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench.tables import write
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.io.files import write_json
from minilora.pretrain import train as pretrain
from minilora.pretrain.log import processor


def sizes_of(text: str) -> tuple[int, ...]:
    """"5x256" -> (5, 256)."""
    return tuple(int(part) for part in text.split("x"))


def options_of(args: argparse.Namespace, size: tuple[int, int]) -> argparse.Namespace:
    """Options of `minilora.pretrain` for one size."""
    layers, width = size
    words = ["--photos", args.photos, "--teacher", args.teacher, "--views", args.views,
             "--layers", str(layers), "--width", str(width), "--dtype", args.dtype,
             "--batch", str(args.batch), "--fresh", "4", "--buffer", "4096", "--full", "0.1",
             "--rate", "0.0008", "--dense", "5", "--measure-every", "100000"]
    started = load_clip(args.start)[0].config if args.start else None
    if started and width == started.vision_width and layers >= started.vision_layers:
        words += ["--start", args.start]
    if args.products:
        words += ["--products", args.products]
    return pretrain.parser().parse_args(words)


def pace(options: argparse.Namespace, steps: int = 6) -> float:
    """Seconds of a step, measured over the second half of a few steps."""
    short = {**vars(options), "steps": 10 ** 6, "stop": steps, "measure_every": 0}
    _, log = pretrain.pretrain(argparse.Namespace(**short), lambda line: None)
    return (log[-1]["seconds"] - log[steps // 2 - 1]["seconds"]) / (steps - steps // 2)


def trained(options: argparse.Namespace, minutes: float) -> dict[str, str]:
    """Trains one size for `minutes`.  Returns {column: text}."""
    options.steps = max(10, int(minutes * 60 / pace(options)))
    _, log = pretrain.pretrain(options, lambda line: print(line, flush=True))
    return {"from": "--start" if options.start else "random numbers", "steps": str(options.steps),
            **{name: f"{100 * value:.1f}" for name, value in log[-1].items()
               if name.startswith(("explained", "names", "photo_", "auroc", "memory_"))}}


@torch.no_grad()
def picture_times(towers: list[torch.nn.Module], rounds: int = 7) -> list[float]:
    """Median seconds of one 224-px picture through all blocks of each tower, measured in turn."""
    pixels, times = torch.randn(1, 3, 224, 224), [[] for _ in towers]
    for _ in range(rounds):
        for visual, own in zip(towers, times):
            begun = time.perf_counter()
            for _ in range(10):
                visual.hidden_states(visual.embed(pixels))
            own.append((time.perf_counter() - begun) / 10)
    return [statistics.median(own) for own in times]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.tower", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--photos", required=True)
    p.add_argument("--teacher", required=True)
    p.add_argument("--products", help="folder of products for the plain memory")
    p.add_argument("--views", default="data/photo-views")
    p.add_argument("--start", help="weights from which sizes of the same width grow")
    p.add_argument("--sizes", nargs="+", type=sizes_of, default=[(5, 256), (8, 256), (6, 320)])
    p.add_argument("--minutes", type=float, default=4)
    p.add_argument("--batch", type=int, default=192)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--cells", type=Path, default=Path("runs/tower"),
                   help="folder of the finished sizes")
    p.add_argument("--name", default="tower")
    p.add_argument("--out", type=Path, default=Path("bench/results"))
    return p


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(2)
    rows, towers = [], []
    for size in args.sizes:
        options = options_of(args, size)
        path = args.cells / f"{size[0]}x{size[1]}-{args.minutes:g}min.json"
        if not path.is_file():
            write_json(path, trained(options, args.minutes))
        clip = CLIP(replace(pretrain.MINI, vision_layers=size[0], vision_width=size[1]))
        megabytes = 2 * sum(p.numel() for p in clip.parameters()) / 1e6
        rows.append({"tower": f"{size[0]} x {size[1]}", "file MB": f"{megabytes:.1f}",
                     **json.loads(path.read_text("utf-8"))})
        towers.append(clip.visual)
    current = CLIP(replace(pretrain.MINI, vision_layers=5, vision_width=256)).visual
    first, *others = picture_times([current, *towers])
    for row, seconds in zip(rows, others):
        row["time of a picture"] = f"{seconds / first:.2f}"
    header, cells = list(rows[0]), [[str(value) for value in row.values()] for row in rows]
    head = [f"torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}; "
            f"{time.strftime('%Y-%m-%d')}; per cent; memory_: plain memory, even-numbered "
            "pictures, seed 1; time of a picture: that of 5 x 256 is 1"]
    title = f"after {args.minutes:g} minutes of training each"
    write(args.out, args.name, [(title, header, cells)], head, (header, cells))


if __name__ == "__main__":
    main()
