"""The main job for one product: adapt a detector, evaluate it, write a run folder.

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
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minilora import __version__
from minilora.checkpoint.weights import Weights, load_clip
from minilora.config import DetectorConfig
from minilora.data import own_and_visa
from minilora.data.mvtec import Dataset, Sample, few_shot, find_data
from minilora.data.samples import prepare_pictures
from minilora.detector import Detector
from minilora.io.cli import ProgressLine
from minilora.io.files import digest_of, sha256_of, write_json
from minilora.io.resume import ResumePoint
from minilora.io.transaction import RESUME_FILE, atomic_folder, recover
from minilora.report import run_page
from minilora.runs.evaluation import evaluate
from minilora.runs.run_report import (EMBEDDED_DATA, ROW_DESCRIPTIONS, peak_memory,
                                      print_introduction, print_results, print_summary,
                                      run_metadata)
from minilora.scenes import scene

RUN_FILES = ("adapter.pt", "memory.pt", "metrics.json", "scores.csv", "maps", "report.html")


def open_data(options: argparse.Namespace) -> tuple[Dataset, str]:
    """(Dataset, name of the data).  Without a data folder, the embedded scenes are drawn."""
    if options.good:
        return own_and_visa.own_pictures(options.good, options.test, options.name), "own pictures"
    root = find_data(options.data)
    if root is not None:
        return own_and_visa.open_class(root, options.name), own_and_visa.layout_of(root)
    folder = scene.write_class(options.scenes, options.name)
    return own_and_visa.open_class(folder.parent, options.name), EMBEDDED_DATA


def run_fingerprint(config: DetectorConfig, weights: Weights, data: Dataset,
                    options: argparse.Namespace) -> str:
    """Hash of all that a run depends on, 16 hexadecimal digits; of files: path, size and time."""
    files = [(str(path), s.label, path.stat().st_size, path.stat().st_mtime_ns)
             for s in data.train + data.test for path in (s.path, s.mask_path) if path]
    return digest_of(__version__, asdict(config), weights.sha256, data.name, options.class_name,
                     options.shots, options.device, files)


def training_fingerprint(config: DetectorConfig, weights: Weights, shots: list[Sample],
                         class_name: str, device: str) -> str:
    """Hash of everything that the training depends on, bit for bit: content of the shots, version
    of torch, number of threads."""
    return digest_of(__version__, asdict(config), weights.sha256, class_name, device,
                     [sha256_of(s.path) for s in shots], torch.__version__,
                     torch.get_num_threads())


def finished_metrics(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Content of metrics.json if the run in the folder has this fingerprint, else None."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):       # missing, or not JSON
        return None
    valid = isinstance(metrics, dict) and metrics.get("fingerprint") == fingerprint and type(
        metrics.get("class")) is str and isinstance(metrics.get("rows", {}), dict)
    return metrics if valid else None


def run_class(options: argparse.Namespace, say: Callable[[str], None] = print,
              again: bool = True) -> dict[str, Any]:
    """The whole job.  Returns the content of metrics.json.

    options: as `fit.parse` returns them;  say: prints a line;  again: repeat the run even if the
    folder holds a finished run with the same fingerprint.
    """
    begun = time.time()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: no such device here; use --device cpu")
    clip, weights = load_clip(options.model, options.device)
    data, data_name = open_data(options)
    fingerprint = run_fingerprint(options.config, weights, data, options)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder")
    recover(options.out)                        # completes a run that was killed while committing
    finished = None if again else finished_metrics(options.out, fingerprint)
    if finished:
        say(f"finished {options.out}, nothing has changed since; --force repeats it")
        return finished
    detector = Detector(clip, options.class_name or data.name, options.config)
    # Files go to a hidden folder, `staging`, and move to options.out together at the end.
    with atomic_folder(options.out, "fit", earlier=RUN_FILES) as staging:
        if (options.out / "metrics.json").exists():
            say(f"replaces the earlier run in {options.out}")
        print_introduction(detector, weights, data, data_name, options, say)
        shots = few_shot(data.train, options.shots, options.config.seed)
        if shots:
            fit_shots(detector, shots, weights, staging, options, say)
        detector.save(staging, weights)
        metrics = run_metadata(detector, weights, data, data_name, options) | {
            "fingerprint": fingerprint,
            "drawn": [os.path.relpath(s.path, data.root) for s in shots]}
        metrics = write_results(staging, detector, data.test, metrics, begun, options, say)
    if not data.test and shots:
        say(f"threshold {detector.threshold:.3f}, from {len(shots)} good pictures; next: "
            f"python -m minilora.predict {options.out} PICTURES")
    print_summary(metrics, options.out, say)
    return metrics


def fit_shots(detector: Detector, shots: list[Sample], weights: Weights, staging: Path,
              options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Fits the detector to the shots; an interrupted training in the staging folder continues."""
    fingerprint = training_fingerprint(detector.config, weights, shots, detector.class_name,
                                       options.device)
    resume = ResumePoint(staging / RESUME_FILE, fingerprint, options.save_every)
    saved = resume.load()
    done = len(saved["losses"]) if saved else 0
    if done:
        say(f"continues at step {done}, where the same training was stopped")
    detector.fit(prepare_pictures(shots, detector.prepare),
                 ProgressLine(detector.config.steps, done), resume)


def write_results(folder: Path, detector: Detector, samples: list[Sample],
                  metrics: dict[str, Any], begun: float, options: argparse.Namespace,
                  say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluates the test pictures, if any; writes metrics.json, scores.csv, maps/ and report.html.

    metrics: from `run_metadata`;  begun: time.time() at the start.  Returns them with the results.
    """
    if samples:
        scores, found, panels = evaluate(detector, samples, folder)
        metrics = metrics | found
        print_results(metrics, say)
    metrics |= {"seconds": time.time() - begun, "peak_memory_bytes": peak_memory(options.device)}
    write_json(folder / "metrics.json", metrics)
    if samples:
        run_page.write_page(folder / "report.html", metrics, ROW_DESCRIPTIONS, scores, samples,
                            panels, options.command)
    return metrics


def demo() -> None:
    """The whole job on six small pictures with an untrained tower."""
    import tempfile

    from minilora.checkpoint.weights import save_official
    from minilora.clip import CLIP, CLIPConfig
    with tempfile.TemporaryDirectory() as folder:
        root, weights = Path(folder), Path(folder) / "toy.pt"
        clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                               text_width=64, text_layers=1))
        save_official(clip.initialise(torch.Generator().manual_seed(0)), weights)
        scene.write_class(root, "gear", good=3, test_good=2, defective=1, resolution=64)
        options = argparse.Namespace(          # as fit.py makes them from the command line
            name="gear", shots=2, data=folder, good=None, test=None, class_name=None,
            model=str(weights), device="cpu", out=root / "run", save_every=10.0, command="demo",
            config=DetectorConfig(steps=2))
        run_class(options, say=lambda line: None)
        print("a run folder:", ", ".join(sorted(p.name for p in options.out.iterdir())))
        same = run_class(options, say=lambda line: print(line.replace(folder, "…")), again=False)
        print(f"threshold {same['threshold']:.3f}, fingerprint {same['fingerprint']}")


if __name__ == "__main__":
    demo()
