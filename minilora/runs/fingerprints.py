"""Fingerprints of a run, and the content of metrics.json that other modules read.

Claim: a hash of everything that a run depends on tells whether a folder holds this very run.  A
finished run with the same fingerprint need not be repeated, and an interrupted training with the
same fingerprint continues.

    run_fingerprint        weights, settings, data; of its files the path, size and time
    training_fingerprint   what the trained weights depend on, down to the last bit
    digest_of_test         content of the test pictures and masks

Left out: what a run writes (runs/run_class.py), versions and hardware (runs/provenance.py).
"""
import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minilora import __version__
from minilora.checkpoint.peft_layout import ADAPTER_CONFIG, ADAPTER_MODEL
from minilora.checkpoint.weights import Weights
from minilora.config import DetectorConfig
from minilora.data.masks import mask_files
from minilora.data.mvtec import Dataset, Sample
from minilora.io.files import digest_of, read_json, sha256_of
from minilora.io.schema import MapOf, Nothing, Number, OneOf, Record, Text, Whole, check
from minilora.io.transaction import result_path

# What other modules read in metrics.json; the rest is for people
SHARE, COUNT = OneOf(Nothing(), Number(0, 1)), Whole(0, 10**9)
METRICS_SCHEMA = Record(
    {"fingerprint": Text(64), "class": Text()},
    optional={"threshold": OneOf(Nothing(), Number()), "seconds": Number(), "skipped": COUNT,
              "rows": MapOf(MapOf(SHARE)), "kinds": MapOf(SHARE),
              "data": Record({"name": Text()}, {"test": Text(64)}, others=True),
              "decisions": OneOf(Nothing(), Record(dict.fromkeys(
                  ("good", "false_alarms", "defective", "found", "unlabelled", "called"), COUNT)))},
    others=True)


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


def digest_of_test(data: Dataset) -> str:
    """A hash of labels and bytes of all test pictures and masks, without their places: two runs
    that have the same one were measured on the same pictures."""
    return digest_of(sorted([str(s.label), *map(sha256_of, (s.path, *mask_files(s.mask_path)))]
                            for s in data.test))


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
    """Content of metrics.json if the run in the folder has this fingerprint, else None."""
    metrics = stored_metrics(folder)
    return metrics if metrics and metrics["fingerprint"] == fingerprint else None


def stored_metrics(folder: Path) -> dict[str, Any] | None:
    """Content of metrics.json of a run folder; None for a file that is missing, or not as minilora
    writes it."""
    try:
        return check(read_json(result_path(folder, "metrics.json")), METRICS_SCHEMA,
                     "metrics.json")
    except (OSError, ValueError):
        return None


def demo() -> None:
    """A fingerprint changes with any setting."""
    for rate in (1e-3, 2e-3):
        digest = digest_of(__version__, asdict(DetectorConfig(rate=rate)))
        print(f"learning rate {rate:g}: fingerprint {digest}")


if __name__ == "__main__":
    demo()
