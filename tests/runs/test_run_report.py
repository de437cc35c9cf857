"""What a run says about its training: the truth, also where nothing is trained."""
import argparse
import json

import pytest
import torch

from minilora.checkpoint.weights import Weights
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.data.mvtec import Dataset
from minilora.detector import Detector
from minilora.runs.run_report import bytes_on_disk, print_introduction, print_summary


@pytest.mark.parametrize("steps, shots, trained", [(0, 4, False), (5, 0, False), (5, 4, True),
                                                   (5, "all", True)])
def test_without_steps_or_shots_no_parameter_is_said_to_be_trained(steps, shots, trained, tmp_path):
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(torch.Generator())
    detector = Detector(clip, "plate", DetectorConfig(steps=steps))
    options = argparse.Namespace(good=None, device="cpu", adapter=None, shots=shots)
    lines = []
    print_introduction(detector, Weights("toy", tmp_path, "0" * 64), Dataset(tmp_path, "plate"),
                       "a data set", options, lines.append)
    assert any(line.startswith("device   cpu (") for line in lines)
    assert ("training none: the weights are those of CLIP" in lines) != trained
    assert any(" parameters (" in line for line in lines) == trained


def test_a_weight_change_of_zero_is_not_reported():
    metrics = {"delta_norms": {"q": 0.0}, "seconds": 1, "peak_memory_bytes": None,
               "adapter_bytes": 1, "run_bytes": 2}
    for norm, said in ((0.0, False), (0.5, True)):
        lines = []
        print_summary(metrics | {"delta_norms": {"q": norm}}, "runs/x", lines.append)
        assert any("LoRA" in line for line in lines) == said


def test_the_size_of_the_whole_run_stands_beside_that_of_the_adapter(tmp_path):
    files = {"adapter_model.safetensors": 1_200_000, "adapter_config.json": 10_000,
             "detector.safetensors": 40_000, "memory.safetensors": 3_000_000,
             "report.html": 5_000_000, "metrics.json": 7}
    for name, count in files.items():
        (tmp_path / name).write_bytes(bytes(count))
    sizes = bytes_on_disk(tmp_path)
    assert sizes == {"adapter_bytes": 1_200_000, "run_bytes": 4_250_000}
    lines = []
    print_summary(sizes | {"delta_norms": {}, "seconds": 1, "peak_memory_bytes": None}, "runs/x",
                  lines.append)
    assert lines[0].startswith("on disk  adapter 1.20 MB, whole run 4.25 MB")
    (tmp_path / "memory.safetensors").unlink()
    assert bytes_on_disk(tmp_path)["run_bytes"] == 1_250_000, "a run without shots has no memory"


def test_a_finished_run_states_the_size_of_its_files(gear_run):
    folder, _ = gear_run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {key: metrics[key] for key in ("adapter_bytes", "run_bytes")} == bytes_on_disk(folder)
    assert metrics["run_bytes"] > metrics["adapter_bytes"] > 0
    assert "MB, whole run " in (folder / "report.html").read_text()
