"""A whole run for one product: adapt a detector, evaluate it, write a run folder.

    fit.py                options of the command line
    runs/run_class.py     this file: weights, data, detector, run folder
    runs/evaluation.py    scores and metrics of the test pictures
    runs/run_report.py    what is printed
    runs/run_all.py       several products

A run has a fingerprint, a hash of everything that it depends on.  A finished run with the same
fingerprint need not be repeated, and an interrupted training with the same fingerprint continues.
Left out: scoring single pictures with a finished run (predict.py).
"""
import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.checkpoint.detector_files import DETECTOR_FILE, EARLIER_FILE, MEMORY_FILE
from minilora.checkpoint.peft_layout import ADAPTER_CONFIG, ADAPTER_MODEL, read_peft
from minilora.checkpoint.weights import Weights, load_clip, save_official
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.data import own_and_visa
from minilora.data.mvtec import Dataset, Sample, check_shots, few_shot, find_data
from minilora.data.samples import mask_summary, prepare_pictures
from minilora.data.shot_checks import shot_warnings
from minilora.detector import Detector
from minilora.io.cli import shell_command
from minilora.io.files import write_json
from minilora.io.progress import ProgressLine
from minilora.io.record import read_record
from minilora.io.resume import ResumePoint
from minilora.io.text import shown
from minilora.io.transaction import RESUME_FILE, atomic_folder, recover
from minilora.prediction.good_page import write_good_page
from minilora.report import run_page
from minilora.runs.evaluation import evaluate
from minilora.runs.fingerprints import (adapter_files, files_of, finished_metrics, run_fingerprint,
                                        stored_metrics, training_fingerprint)
from minilora.runs.product_name import check_class_name
from minilora.runs.provenance import provenance, shot_files
from minilora.runs.run_report import (EMBEDDED_DATA, OWN_DATA, ROW_DESCRIPTIONS, bytes_on_disk,
                                      peak_memory, print_good_results, print_inputs,
                                      print_introduction, print_results, print_summary,
                                      run_metadata)
from minilora.scenes import scene
from minilora.toy_detector import toy_clip

RUN_FILES = (ADAPTER_MODEL, ADAPTER_CONFIG, DETECTOR_FILE, MEMORY_FILE, "metrics.json",
             "scores.csv", "maps/*.jpg", "report.html")


def open_data(options: argparse.Namespace) -> tuple[Dataset, str]:
    """(Dataset, name of the data).  Without a data folder, the embedded scenes are drawn."""
    if options.good:
        return own_and_visa.own_pictures(options.good, options.test, options.name), OWN_DATA
    root = find_data(options.data)
    if root is not None:
        return own_and_visa.open_class(root, options.name), own_and_visa.layout_of(root)
    check_shots(options.shots, scene.GOOD_PICTURES)     # before they are drawn
    folder = scene.write_class(options.scenes, options.name)
    return own_and_visa.open_class(folder.parent, options.name), EMBEDDED_DATA


def refuse_earlier_run(folder: Path) -> None:
    """Raise ValueError for a run folder of a version that kept no record of what it wrote."""
    if all((folder / name).is_file() for name in (EARLIER_FILE, "metrics.json")) \
            and "fit" not in read_record(folder):
        raise ValueError(f"{shown(folder)} holds a run of an earlier version of minilora "
                         f"({EARLIER_FILE}); give another --out, or delete that run yourself")


def run_class(options: argparse.Namespace, say: Callable[[str], None] = print,
              again: bool = True) -> dict[str, Any]:
    """The whole run.  Returns the content of metrics.json.

    options: as `fit.parse` returns them;  say: prints a line;  again: repeat the run even if the
    folder holds a finished run with the same fingerprint.
    """
    begun = time.time()
    refuse_earlier_run(options.out)
    check_class_name(options.class_name or shown(options.name))
    clip, weights = load_clip(options.model, options.device, options.activation, download=True)
    check_tower(options.config, clip, weights)
    data, data_name = open_data(options)
    shots = few_shot(data.train, options.shots, options.config.seed)
    adapter = read_peft(options.adapter) if options.adapter else None
    fingerprint = run_fingerprint(options.config, weights, data, options)
    recover(options.out, "fit", RUN_FILES)      # completes a run that was killed while committing
    finished = None if again else finished_metrics(options.out, fingerprint)
    if finished:
        say(f"finished {shown(options.out)}, nothing has changed since; --force repeats it")
        return finished
    detector = Detector(clip, options.class_name or shown(data.name), options.config, adapter)
    masks = mask_summary(data.test)             # a mask that cannot be read ends the run here
    # Files go to a hidden folder, `staging`, and move to options.out together at the end.
    inputs = files_of(data) + adapter_files(options)
    with atomic_folder(options.out, "fit", RUN_FILES, inputs) as staging:
        if (options.out / "metrics.json").exists():
            say(f"replaces the earlier run in {shown(options.out)}{earlier_data(options.out)}")
        print_introduction(detector, weights, data, data_name, options, say)
        print_inputs(data, masks, say)
        warnings = fit_shots(detector, shots, weights, staging, options, say) if shots else []
        detector.save(staging, weights)
        metrics = run_metadata(detector, weights, data, data_name, options) | {
            "fingerprint": fingerprint, "masks": masks, "skipped": len(data.skipped),
            "drawn": [os.path.relpath(s.path, data.root) for s in shots],
            "shot_scores": detector.shot_scores, "shot_warnings": warnings,
            "made": made_by_fit(options, shots, data.root)}
        metrics = write_results(staging, detector, data.test, metrics, begun, options, say)
    print_summary(metrics, options.out, say)
    return metrics


def check_tower(config: DetectorConfig, clip: CLIP, weights: Weights) -> None:
    """Raise ValueError, before any work, for options that the image tower does not allow."""
    if clip.config.is_resnet:                           # `Detector` says what is missing
        return
    layers, patch = clip.config.vision_layers, clip.config.patch
    if config.blocks > layers:
        raise ValueError(f"--blocks {config.blocks}: the image tower of {shown(weights.name)} has "
                         f"{layers}; give fewer")
    if config.resolution % patch:
        below = config.resolution // patch * patch
        raise ValueError(f"--resolution {config.resolution}: expected a multiple of {patch}, the "
                         f"side of a patch of {shown(weights.name)}; give "
                         f"{f'{below} or ' if below else ''}{below + patch}")


def earlier_data(folder: Path) -> str:
    """" (made from …)": the data of the run in a folder, if its metrics.json says so."""
    metrics = stored_metrics(folder) or {}
    return f" (made from {shown(metrics['data']['name'])})" if "data" in metrics else ""


def made_by_fit(options: argparse.Namespace, shots: list[Sample], root: Path) -> dict[str, Any]:
    """"made" of metrics.json: with it, reproduce.py can run the same again."""
    one = [] if options.good or len(options.names) == 1 and options.names != ["all"] \
        else ["--class", options.name]                  # of several classes
    return provenance(options.command, options.device) | {
        "arguments": [*options.arguments, *one], "seed": options.config.seed,
        "shots": shot_files([s.path for s in shots], root)}


def fit_shots(detector: Detector, shots: list[Sample], weights: Weights, staging: Path,
              options: argparse.Namespace, say: Callable[[str], None]) -> list[str]:
    """Checks the shots and fits the detector to them; returns the warnings about them.

    An interrupted training in the staging folder continues.
    """
    fingerprint = training_fingerprint(detector.config, weights, shots, detector.class_name,
                                       options.device)
    resume = ResumePoint(staging / RESUME_FILE, fingerprint, options.save_every)
    saved = resume.load()
    done = len(saved["losses"]) if saved else 0
    if done:
        say(f"continues at step {done}, where the same training was stopped")
    pictures = prepare_pictures(shots, detector.prepare, detector.read)
    lines = tell_warnings(detector, [s.path.name for s in shots], pictures, say)
    detector.fit(pictures, ProgressLine(detector.config.steps, done), resume)
    return lines


def tell_warnings(detector: Detector, names: list[str], pictures: list[Tensor],
                  say: Callable[[str], None]) -> list[str]:
    """Prints the warnings about the good pictures (3, H, W), and returns them."""
    lines = shot_warnings(names, pictures, frozen_tokens(detector, pictures))
    for line in lines:
        say(f"warning  {line}")
    return lines


@torch.no_grad()
def frozen_tokens(detector: Detector, pictures: list[Tensor]) -> list[Tensor]:
    """Patch features (P, W) of each picture, without LoRA, as the memory compares them."""
    return [detector.bank_features(detector.encode(picture[None], lora=False), "memory")[0]
            for picture in pictures]


def write_results(folder: Path, detector: Detector, samples: list[Sample],
                  metrics: dict[str, Any], begun: float, options: argparse.Namespace,
                  say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluates the test pictures, if any; writes metrics.json, scores.csv, maps/ and report.html.

    Without test pictures the page shows the good pictures.
    folder: holds the files of `Detector.save`;  metrics: from `run_metadata`;  begun: time.time()
    at the start.  Returns the metrics with the results.
    """
    following = shell_command("predict", options.out, "PICTURES")
    if samples:
        scores, found, panels = evaluate(detector, samples, folder)
        metrics = metrics | found
        print_results(metrics, say)
    elif detector.shot_scores:
        print_good_results(metrics, following, say)
    metrics |= {"seconds": time.time() - begun, "peak_memory_bytes": peak_memory(options.device),
                **bytes_on_disk(folder)}
    write_json(folder / "metrics.json", metrics)
    if samples:
        run_page.write_page(folder / "report.html", metrics, ROW_DESCRIPTIONS, scores, samples,
                            panels, options.command, detector)
    elif detector.shot_scores:
        write_good_page(folder / "report.html", detector, metrics, options.command, following)
    return metrics


def toy_options(root: Path, shots: int | str, steps: int) -> argparse.Namespace:
    """Options as of fit.py, for a toy CLIP and a drawn gear, which are written to `root`."""
    weights = root / "toy.safetensors"
    save_official(toy_clip(torch.Generator().manual_seed(0)), weights)
    scene.write_class(root, "gear", good=3, test_good=2, defective=1, resolution=64)
    return argparse.Namespace(
        name="gear", names=["gear"], shots=shots, data=str(root), good=None, test=None,
        class_name=None, arguments=[], activation=None, model=str(weights), device="cpu",
        adapter=None, out=root / "run", save_every=10.0, command="demo",
        config=DetectorConfig(steps=steps))


def demo() -> None:
    """A whole run on six small pictures with an untrained tower."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        options = toy_options(Path(folder), shots=2, steps=2)
        run_class(options, say=lambda line: None)
        print("a run folder:", ", ".join(sorted(p.name for p in options.out.iterdir())))
        same = run_class(options, say=lambda line: print(line.replace(folder, "…")), again=False)
        print(f"threshold {same['threshold']:.3f}, fingerprint {same['fingerprint']}")


if __name__ == "__main__":
    demo()
