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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minilora import __version__
from minilora.bpe import CONTEXT, default_tokenizer
from minilora.checkpoint.detector_files import DETECTOR_FILE, EARLIER_FILE, MEMORY_FILE
from minilora.checkpoint.peft_layout import ADAPTER_CONFIG, ADAPTER_MODEL, read_peft
from minilora.checkpoint.weights import Weights, load_clip
from minilora.config import DetectorConfig
from minilora.data import own_and_visa
from minilora.data.masks import mask_files
from minilora.data.mvtec import Dataset, Sample, few_shot, find_data
from minilora.data.samples import mask_summary, prepare_pictures
from minilora.detector import Detector
from minilora.io.files import digest_of, read_json, sha256_of, write_json
from minilora.io.progress import ProgressLine
from minilora.io.record import read_record
from minilora.io.resume import ResumePoint
from minilora.io.schema import MapOf, Nothing, Number, OneOf, Record, Text, Whole, check
from minilora.io.text import shown
from minilora.io.transaction import RESUME_FILE, atomic_folder, recover, result_path
from minilora.prompts import prompt_ensemble
from minilora.report import run_page
from minilora.runs.evaluation import evaluate
from minilora.runs.run_report import (EMBEDDED_DATA, ROW_DESCRIPTIONS, peak_memory,
                                      print_inputs, print_introduction, print_results,
                                      print_summary, run_metadata)
from minilora.scenes import scene

RUN_FILES = (ADAPTER_MODEL, ADAPTER_CONFIG, DETECTOR_FILE, MEMORY_FILE, "metrics.json",
             "scores.csv", "maps/*.jpg", "report.html")

# What other modules read in metrics.json; the rest is for people
SHARE, COUNT = OneOf(Nothing(), Number(0, 1)), Whole(0, 10**9)
METRICS_SCHEMA = Record(
    {"fingerprint": Text(64), "class": Text()},
    optional={"threshold": OneOf(Nothing(), Number()), "seconds": Number(), "skipped": COUNT,
              "rows": MapOf(MapOf(SHARE)), "kinds": MapOf(SHARE),
              "data": Record({"name": Text()}, others=True),
              "decisions": OneOf(Nothing(), Record(dict.fromkeys(
                  ("good", "false_alarms", "defective", "found", "unlabelled", "called"), COUNT)))},
    others=True)


def open_data(options: argparse.Namespace) -> tuple[Dataset, str]:
    """(Dataset, name of the data).  Without a data folder, the embedded scenes are drawn."""
    if options.good:
        return own_and_visa.own_pictures(options.good, options.test, options.name), "own pictures"
    root = find_data(options.data)
    if root is not None:
        return own_and_visa.open_class(root, options.name), own_and_visa.layout_of(root)
    folder = scene.write_class(options.scenes, options.name)
    return own_and_visa.open_class(folder.parent, options.name), EMBEDDED_DATA


def class_folder(text: str) -> str:
    """A `type=` for argparse: the name of a class, which is also the name of a folder."""
    if not text.strip() or text in (".", "..") or set(text) & {"/", "\\", "\0"}:
        raise argparse.ArgumentTypeError(f"'{shown(text)}': expected the name of one folder, "
                                         "without a path; a class is named after its folder")
    return text


def prompt_name(text: str) -> str:
    """A `type=` for argparse: the name of a product, for the prompts."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"'{shown(text)}': expected words that can be printed")
    return text


def check_class_name(name: str) -> None:
    """Raise ValueError, before any work, if the longest prompt with this name does not fit."""
    sentences = [sentence for state in prompt_ensemble(name) for sentence in state]
    longest = 2 + max(len(default_tokenizer().encode(text)) for text in sentences)  # START, END
    if longest > CONTEXT:
        raise ValueError(f"class {shown(name, 60)} makes prompts of {longest} tokens, expected at "
                         f"most {CONTEXT}; give a shorter name with --class-name")


def run_fingerprint(config: DetectorConfig, weights: Weights, data: Dataset,
                    options: argparse.Namespace) -> str:
    """Hash of all that a run depends on, 16 hexadecimal digits; of files: path, size and time."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(data)]
    adapter = [sha256_of(path) for path in adapter_files(options)]
    return digest_of(__version__, asdict(config), weights.sha256, weights.about, data.name,
                     options.class_name, options.shots, options.device, files,
                     [s.label for s in data.test], adapter)


def files_of(data: Dataset) -> list[Path]:
    """The pictures and masks of a dataset."""
    return [path for s in data.train + data.test
            for path in (s.path, *mask_files(s.mask_path))]


def adapter_files(options: argparse.Namespace) -> list[Path]:
    """The two files of --adapter, if it is given."""
    return [options.adapter / name for name in (ADAPTER_MODEL, ADAPTER_CONFIG) if options.adapter]


def training_fingerprint(config: DetectorConfig, weights: Weights, shots: list[Sample],
                         class_name: str, device: str) -> str:
    """Hash of everything that the trained weights depend on, down to the last bit: content of the
    shots, version of torch, number of threads."""
    return digest_of(__version__, asdict(config), weights.sha256, weights.about, class_name, device,
                     [sha256_of(s.path) for s in shots], torch.__version__,
                     torch.get_num_threads())


def finished_metrics(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Content of metrics.json if the run in the folder has this fingerprint, else None; None also
    for a file that is missing, or not as minilora writes it."""
    try:
        metrics = read_json(result_path(folder, "metrics.json"))
        check(metrics, METRICS_SCHEMA, "metrics.json")
    except (OSError, ValueError):
        return None
    return metrics if metrics["fingerprint"] == fingerprint else None


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
    if not clip.config.is_resnet and options.config.blocks > clip.config.vision_layers:
        raise ValueError(f"--blocks {options.config.blocks}: the image tower of "
                         f"{shown(weights.name)} has {clip.config.vision_layers}; give fewer")
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
            say(f"replaces the earlier run in {shown(options.out)}")
        print_introduction(detector, weights, data, data_name, options, say)
        print_inputs(data, masks, say)
        if shots:
            fit_shots(detector, shots, weights, staging, options, say)
        detector.save(staging, weights)
        metrics = run_metadata(detector, weights, data, data_name, options) | {
            "fingerprint": fingerprint, "masks": masks, "skipped": len(data.skipped),
            "drawn": [os.path.relpath(s.path, data.root) for s in shots]}
        metrics = write_results(staging, detector, data.test, metrics, begun, options, say)
    if not data.test and shots:
        say(f"threshold {detector.threshold:.3f}, from {len(shots)} good pictures; next: "
            f"python -m minilora.predict {shown(options.out)} PICTURES")
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
    detector.fit(prepare_pictures(shots, detector.prepare, detector.read),
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
    """A whole run on six small pictures with an untrained tower."""
    import tempfile

    from minilora.checkpoint.weights import save_official
    from minilora.clip import CLIP, CLIPConfig
    with tempfile.TemporaryDirectory() as folder:
        root, weights = Path(folder), Path(folder) / "toy.safetensors"
        clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                               text_width=64, text_layers=1))
        save_official(clip.initialise(torch.Generator().manual_seed(0)), weights)
        scene.write_class(root, "gear", good=3, test_good=2, defective=1, resolution=64)
        options = argparse.Namespace(          # as fit.py makes them from the command line
            name="gear", shots=2, data=folder, good=None, test=None, class_name=None,
            activation=None, model=str(weights), device="cpu", adapter=None, out=root / "run",
            save_every=10.0, command="demo", config=DetectorConfig(steps=2))
        run_class(options, say=lambda line: None)
        print("a run folder:", ", ".join(sorted(p.name for p in options.out.iterdir())))
        same = run_class(options, say=lambda line: print(line.replace(folder, "…")), again=False)
        print(f"threshold {same['threshold']:.3f}, fingerprint {same['fingerprint']}")


if __name__ == "__main__":
    demo()
