"""What a run prints, and what metrics.json says about it apart from the results.

    print_introduction   weights, data, device, number of trained parameters
    print_results        the table of rows, defect kinds, decisions
    print_good_results   without test pictures: the scores of the good pictures
    print_summary        where the run is, and how to go on

Left out: pages and pictures (report/).
"""
import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minilora import __version__
from minilora.checkpoint.detector_files import RUN_FILE_BYTES
from minilora.checkpoint.peft_layout import ADAPTER_MODEL
from minilora.checkpoint.weights import Weights
from minilora.data.given_paths import not_taken
from minilora.data.mvtec import Dataset
from minilora.data.samples import mask_line, skipped_line
from minilora.detector import Detector
from minilora.io.cli import device_text
from minilora.io.text import shown
from minilora.lora import TARGETS, lora_layers
from minilora.report import results
from minilora.report.run_page import disk_text
from minilora.rows import ROWS
from minilora.runs.fingerprints import digest_of_test
from minilora.scenes import scene

EMBEDDED_DATA = "embedded scenes (drawn)"               # name of the data without a data folder
OWN_DATA = "own pictures"                               # name of the data of --good
ROW_DESCRIPTIONS = {name: row.description for name, row in ROWS.items()}


def print_introduction(detector: Detector, weights: Weights, data: Dataset, data_name: str,
                       options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """The first lines: weights, data, device, trained parameters.  Blocks are counted from 0."""
    trained, total = detector.count_parameters()
    small = ", a small model, for trying things out" if weights.name == "mini-clip" else ""
    say(f"weights  {shown(weights.name)}{small}  (sha256 {weights.sha256[:12]}…)")
    say(f"read as  {weights.about}")
    if options.good:
        say(f"prompts  with the name “{shown(detector.class_name)}” ({options.name_source}); "
            "--class-name WORDS changes it")
    unseen = data_name == EMBEDDED_DATA and data.name in scene.UNSEEN_CLASSES
    of_class = "" if options.good else f", class {shown(data.name)}"   # else a folder's name
    say(f"data     {data_name}: {shown(data.root)}{of_class}, "
        f"{len(data.train)} good pictures, {len(data.test)} test pictures"
        f"{'; a class never in pretraining' if unseen else ''}")
    say(f"device   {device_text(options.device)}, resolution {detector.resolution}")
    if options.adapter:
        say(f"adapter  {shown(options.adapter)}: {lora_text(detector)}, not trained here")
    elif not (options.shots != 0 and detector.config.steps):
        say("training none: the weights are those of CLIP")
    else:
        n_ctx = detector.prompts.context.shape[1]
        say(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}): "
            f"{lora_text(detector)}, {n_ctx} context vectors per prompt")


def print_inputs(data: Dataset, masks: dict[str, Any] | None, say: Callable[[str], None]) -> None:
    """How masks were read, if there are defective pictures, and what was not looked at, if any.

    masks: of `mask_summary`.
    """
    if data.skipped:
        say(f"skipped  {skipped_line(data.skipped)}")
    for line in not_taken(data.other):
        say(f"skipped  {line}")
    if masks:
        say(f"masks    {mask_line(masks)}")


def lora_text(detector: Detector) -> str:
    """Rank, projections and blocks of the LoRA layers: "LoRA r=4 on q,v of blocks 8-11"."""
    layers = lora_layers(detector.clip.visual)
    places = [name.split(".") for name in layers]           # blocks.8.attn.q
    blocks = sorted({int(place[1]) for place in places})
    targets = [t for t in TARGETS if any(place[3] == t for place in places)]
    consecutive = blocks == list(range(blocks[0], blocks[-1] + 1))
    where = (f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"
             if consecutive else f"blocks {','.join(map(str, blocks))}")
    return f"LoRA r={next(iter(layers.values())).rank} on {','.join(targets)} of {where}"


def run_metadata(detector: Detector, weights: Weights, data: Dataset, data_name: str,
                 options: argparse.Namespace) -> dict[str, Any]:
    """The part of metrics.json that is known before the test pictures are scored."""
    trained, total = detector.count_parameters()
    return {"version": __version__, "class": data.name, "shots": options.shots,
            "seed": options.config.seed, "model": {"name": weights.name, "sha256": weights.sha256},
            "data": {"name": data_name, "root": str(data.root), "test": digest_of_test(data)},
            "device": options.device,
            "resolution": detector.resolution, "trainable_parameters": trained,
            "total_parameters": total, "threshold": detector.threshold,
            "adapter": str(options.adapter) if options.adapter else None,
            "losses": detector.losses, "delta_norms": detector.delta_norms()}


def peak_memory(device: str) -> int | None:
    """Peak memory in bytes: of the GPU, or of this process (None on Windows)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if platform.system() == "Windows":
        return None
    import resource  # exists on Unix only
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bytes_on_disk(folder: Path) -> dict[str, int]:
    """{"adapter_bytes": size of LoRA's file, "run_bytes": of all files that predict reads}."""
    sizes = {name: (folder / name).stat().st_size for name in RUN_FILE_BYTES
             if (folder / name).exists()}               # without shots there is no memory
    return {"adapter_bytes": sizes[ADAPTER_MODEL], "run_bytes": sum(sizes.values())}


def print_results(metrics: dict[str, Any], say: Callable[[str], None]) -> None:
    """The table of rows, image AUROC of each defect kind, and the decisions by the threshold."""
    if any(value is not None for row in metrics["rows"].values() for value in row.values()):
        own = metrics["data"]["name"] == OWN_DATA
        say(results.text_table(metrics["rows"], ROW_DESCRIPTIONS, odd=not own))
        best = list(metrics["rows"])[-1]
        say(f"image AUROC of each kind of defect against the good pictures, row {best}:")
        drawn = metrics["data"]["name"] == EMBEDDED_DATA
        for kind, value in metrics["kinds"].items():
            unseen = "   never in pretraining" if drawn and kind == scene.UNSEEN_FLAW else ""
            say(f"  {shown(kind):20s} {results.percent(value)}{unseen}")
    counts = metrics["decisions"]
    if counts and counts["unlabelled"]:
        say(f"threshold {metrics['threshold']:.3f}: {counts['called']} of {counts['unlabelled']} "
            "pictures NG")
    elif counts:
        say("threshold {threshold:.3f}: {found} of {defective} defective pictures NG, "
            "{false_alarms} of {good} good pictures NG".format(**metrics, **counts))


def print_good_results(metrics: dict[str, Any], following: str,
                       say: Callable[[str], None]) -> None:
    """Scores of the good pictures, each with a memory bank that does not contain it.

    following: the command to go on with.
    """
    scores, threshold = metrics["shot_scores"], metrics["threshold"]
    highest = max(range(len(scores)), key=scores.__getitem__)
    ng = sum(score > threshold for score in scores)
    say(f"scores of the good pictures by leave-one-out: lowest "
        f"{min(scores):.3f}, median {statistics.median(scores):.3f}, highest {max(scores):.3f} "
        f"({shown(metrics['drawn'][highest])})")
    say(f"threshold {threshold:.3f}: {ng} of {len(scores)} good pictures would be NG; next: "
        f"{following}")


def print_summary(metrics: dict[str, Any], out: Any, say: Callable[[str], None]) -> None:
    """The last lines: size of LoRA's weight changes, of the files, run folder, seconds, memory."""
    norms = list(metrics["delta_norms"].values())
    if any(norms):
        say(f"LoRA     |ΔW| {min(norms):.3f} to {max(norms):.3f} over {len(norms)} projections")
    say(f"on disk  {disk_text(metrics)}")
    say(f"written  {shown(out)}  ({metrics['seconds']:.0f} s, peak memory "
        f"{(metrics['peak_memory_bytes'] or 0) / 2**20:,.0f} MB)")


def demo() -> None:
    """The lines after a run with known results."""
    row = {"image_auroc": 0.95, "pixel_auroc": 0.9, "aupro": 0.8}
    metrics = {"rows": {"memory": row, "adapted": row}, "kinds": {"dent": 0.95}, "threshold": 1.2,
               "data": {"name": EMBEDDED_DATA}, "delta_norms": {"q": 0.5, "v": 0.8}, "seconds": 14,
               "peak_memory_bytes": 2**29, "adapter_bytes": 34_000, "run_bytes": 1_420_000,
               "decisions": {
                   "unlabelled": 0, "found": 9, "defective": 10, "false_alarms": 1, "good": 20}}
    print_results(metrics, print)
    print_summary(metrics, "runs/bottle", print)


if __name__ == "__main__":
    demo()
