"""What a run says about its training: the truth, also where nothing is trained."""
import argparse

import pytest
import torch

from minilora.checkpoint.weights import Weights
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.data.mvtec import Dataset
from minilora.detector import Detector
from minilora.runs.run_report import print_introduction, print_summary


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
    metrics = {"delta_norms": {"q": 0.0}, "seconds": 1, "peak_memory_bytes": None}
    for norm, said in ((0.0, False), (0.5, True)):
        lines = []
        print_summary(metrics | {"delta_norms": {"q": norm}}, "runs/x", lines.append)
        assert any("LoRA" in line for line in lines) == said
