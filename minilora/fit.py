"""The main job: adapt to a few good pictures of a product, judge its test pictures, write a folder.

    python -m minilora.fit --class bottle --shots 8
    python -m minilora.fit --class bottle --shots 8 --data FOLDER      pictures in MVTec AD's layout

Test pictures are used for the table alone: nothing in a run is chosen by them.
Leaves out: other people's folders without the layout, several classes in one command.
"""

import argparse
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from minilora import __version__, anomaly, page, report, scenes
from minilora.checkpoint import CheckpointError, load_clip
from minilora.data import few_shot, find_data, load_class
from minilora.detector import ROWS, Detector, Settings
from minilora.images import read_image, read_mask, to_square

SCORED = 8  # pictures that go through the tower together


def parser():
    d = Settings()
    p = argparse.ArgumentParser(prog="python -m minilora.fit", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = p.add_argument_group("data").add_argument
    data("--class", dest="name", default="bottle", help="product, a folder of the data")
    data("--shots", default="8", help="good pictures to learn from; 0: zero-shot; all: every one")
    data("--data", help="folder in MVTec AD's layout; else $MINILORA_DATA, data/mvtec, or the "
                        "embedded scenes")
    data("--seed", type=int, default=d.seed, help="draw of the shots, and all that is random")
    data("--out", help="run folder; else runs/<class>-<shots>shot-seed<k>")
    model = p.add_argument_group("model").add_argument
    model("--model", help="official name or checkpoint file; else ViT-B/16 if its file is there, "
                          "else the embedded mini-clip")
    model("--noun", help="what the prompts call the product; else the class name")
    model("--resolution", type=int, default=d.resolution, help="side, pixels; 0: the model's own")
    model("--device", default="cpu", help="cpu, cuda, …")
    model("--no-turns", dest="turns", action="store_false",
          help="products lie as in the shots, and one that is turned is a defect")
    fit = p.add_argument_group("adaptation").add_argument
    fit("--steps", type=int, default=d.steps, help="training steps; 0: no adaptation")
    fit("--batch", type=int, default=d.batch, help="pictures a step")
    fit("--rate", type=float, default=d.rate, help="peak learning rate")
    fit("--rank", type=int, default=d.rank, help="rank r of LoRA")
    fit("--alpha", type=float, default=d.alpha, help="LoRA's alpha; the scale is alpha / r")
    fit("--targets", nargs="+", default=list(d.targets), choices=("q", "k", "v", "out"),
        help="attention projections that get LoRA")
    fit("--blocks", type=int, default=d.blocks,
        help="LoRA in the last n blocks; 0: the last third")
    return p


def parse(arguments):
    options = parser().parse_args(arguments)
    options.command = " ".join(["python -m minilora.fit", *arguments])
    if options.shots != "all":
        if not options.shots.isdigit():
            raise ValueError(f"--shots {options.shots}: expected a number or 'all'")
        options.shots = int(options.shots)
    options.out = Path(options.out or f"runs/{options.name}-{options.shots}shot-seed{options.seed}")
    return options


def open_data(options):
    """(Dataset, name of the data).  Without a data folder the embedded scenes are drawn."""
    root = find_data(options.data)
    if root is not None:
        return load_class(root, options.name), "mvtec-layout"
    folder = scenes.write_class(options.out.parent / "scenes", options.name)
    return load_class(folder.parent, options.name), "embedded scenes (drawn)"


class ProgressLine:
    """Loss, rate and time left; one growing line on a terminal, now and then a line elsewhere."""

    def __init__(self, steps):
        self.steps, self.begun, self.terminal = steps, time.time(), sys.stdout.isatty()

    def __call__(self, step, loss):
        if self.terminal or (step + 1) % 50 == 0 or step + 1 == self.steps:
            rate = (step + 1) / (time.time() - self.begun)
            start = "\r" if self.terminal else ""
            print(f"{start}step {step + 1:4d}/{self.steps}  loss {loss:.4f}  {rate:.1f} steps/s  "
                  f"{(self.steps - step - 1) / rate:4.0f} s left",
                  end="" if self.terminal else "\n", flush=True)
            if self.terminal and step + 1 == self.steps:
                print()


def load_pictures(samples, resolution):
    """(N, 3, R, R) in [0, 1]."""
    return torch.stack([to_square(read_image(s.path), resolution) for s in samples])


def load_masks(samples, resolution):
    """(N, R, R) bool, empty masks for good pictures; None if a defective one has no mask."""
    if any(s.label and s.mask_path is None for s in samples):
        return None
    empty = torch.zeros(resolution, resolution, dtype=torch.bool)
    return torch.stack([read_mask(s.mask_path, resolution) if s.label else empty for s in samples])


def judge(detector, pictures):
    """Maps and image scores of every row.  Returns {row: (maps (N, R, R), scores (N,))}."""
    parts = [detector.maps(part) for part in pictures.split(SCORED)]
    rows = {row: torch.cat([p[row] for p in parts]) for row in parts[0]}
    return {row: (maps, anomaly.image_score(maps)) for row, maps in rows.items()}


def peak_memory(device):
    """Bytes: of the device if it is a GPU, else of this process (None on Windows)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if platform.system() == "Windows":
        return None
    import resource                     # Unix alone has it
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def introduce(detector, weights, data, data_name, options, say):
    """The first lines: which weights, which data, which device, how much is trained."""
    trained, total = detector.parameters()
    settings, blocks = detector.settings, len(detector.clip.visual.blocks)
    small = ", a small model trained on drawings alone" if weights.name == "mini-clip" else ""
    say(f"weights  {weights.name}{small}  (sha256 {weights.sha256[:12]}…)")
    say(f"data     {data_name}: {data.root}, class {data.name}, {len(data.train)} good pictures, "
        f"{len(data.test)} to judge")
    say(f"device   {options.device}, {torch.get_num_threads()} threads, resolution "
        f"{detector.resolution}")
    say(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}): LoRA "
        f"r={settings.rank} on {','.join(settings.targets)} of blocks {detector.first}-{blocks}, "
        f"{detector.prompts.context.shape[1]} context vectors a prompt")


def run(options, say=print):
    """The whole job.  Returns the content of metrics.json."""
    begun = time.time()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: no such device here; use --device cpu")
    clip, weights = load_clip(options.model, options.device)
    data, data_name = open_data(options)
    settings = Settings(**{key: tuple(value) if isinstance(value, list) else value
                           for key, value in vars(options).items()
                           if key in Settings.__dataclass_fields__})
    detector = Detector(clip, options.noun or data.name, settings)
    introduce(detector, weights, data, data_name, options, say)
    shots = few_shot(data.train, options.shots, options.seed)
    if shots:
        detector.fit(load_pictures(shots, detector.resolution), ProgressLine(settings.steps))
    detector.save(options.out, weights)
    metrics = describe(detector, weights, data, data_name, options)
    if data.test:
        scores, results, panels = evaluate(detector, data.test, options.out)
        metrics |= results
        say(report.table(metrics["rows"], ROWS))
        best = list(metrics["rows"])[-1]
        say(f"image AUROC of each kind of defect against the good pictures, row {best}:")
        for kind, value in metrics["kinds"].items():
            say(f"  {kind:20s} {report.percent(value)}")
        if metrics["decisions"]:
            say("threshold {threshold:.3f}: {found} of {defective} defective pictures NG, "
                "{false_alarms} of {good} good ones too".format(**metrics, **metrics["decisions"]))
    metrics |= {"seconds": time.time() - begun, "peak_memory_bytes": peak_memory(options.device)}
    report.write_json(options.out / "metrics.json", metrics)
    if data.test:
        page.write_page(options.out / "report.html", metrics, ROWS, scores, data.test, panels,
                        options.command)
    norms = list(metrics["delta_norms"].values())
    say(f"LoRA     |ΔW| {min(norms):.3f} to {max(norms):.3f} over {len(norms)} projections")
    say(f"written  {options.out}  ({metrics['seconds']:.0f} s, peak memory "
        f"{(metrics['peak_memory_bytes'] or 0) / 2**20:,.0f} MB)")
    return metrics


def describe(detector, weights, data, data_name, options):
    """What metrics.json says of a run beside its results."""
    trained, total = detector.parameters()
    return {"version": __version__, "class": data.name, "shots": options.shots,
            "seed": options.seed, "model": {"name": weights.name, "sha256": weights.sha256},
            "data": {"name": data_name, "root": str(data.root)}, "device": options.device,
            "resolution": detector.resolution, "trainable_parameters": trained,
            "total_parameters": total, "threshold": detector.threshold,
            "losses": detector.losses, "delta_norms": detector.delta_norms()}


def evaluate(detector, samples, out):
    """Judges test pictures, writes scores and maps.  Returns ({row: scores}, metrics, panels)."""
    pictures = load_pictures(samples, detector.resolution)
    masks = load_masks(samples, detector.resolution)
    labels = torch.tensor([s.label for s in samples])
    rows = judge(detector, pictures)
    maps, scores = rows.get("adapted", rows["zero-shot"])
    report.write_scores(out / "scores.csv", samples, scores, detector.threshold)
    panels = report.write_maps(out / "maps", samples, pictures, masks, maps, scores,
                               detector.threshold)
    with ThreadPoolExecutor() as threads:                   # sorting runs on one core each
        measured = threads.map(lambda m, s: report.row_metrics(s, m, labels, masks),
                               *zip(*rows.values()))
        metrics = {"rows": dict(zip(rows, measured))}
    metrics["kinds"] = report.kind_metrics(scores, [s.kind for s in samples])
    metrics["decisions"] = report.decision_metrics(scores, labels, detector.threshold)
    return {row: s.tolist() for row, (_, s) in rows.items()}, metrics, panels


def main():
    try:
        run(parse(sys.argv[1:]))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"minilora.fit: {error}")


if __name__ == "__main__":
    main()
