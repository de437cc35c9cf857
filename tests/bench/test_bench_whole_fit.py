"""The time of the whole fit: here in a small shape; every value is present and a number."""
import csv
import sys

from conftest import TINY

from bench import whole_fit
from minilora.clip import CLIPConfig
from minilora.scenes import scene


def test_the_whole_fit_is_measured(tmp_path, monkeypatch):
    scene.write_class(tmp_path / "data", "gear", good=4, test_good=3, defective=1, resolution=64)
    monkeypatch.setattr(whole_fit, "VIT_B_16", CLIPConfig(**TINY))
    monkeypatch.setattr(sys, "argv", [
        "whole_fit", "--class", "gear", "--shots", "3", "--data", str(tmp_path / "data"), "--out",
        str(tmp_path / "out")])
    whole_fit.main()
    with open(tmp_path / "out" / "whole-fit.csv") as file:
        found = {row["what"]: row["measured"] for row in csv.DictReader(file)}
    assert float(found["highest resident memory, MB"].replace(",", "")) > 100
    parts = sum(float(found[f"{name}.safetensors, MB"]) for name in ("adapter_model", "memory"))
    assert parts <= float(found["run folder, MB"]) + 0.1
    assert float(found["fit and scoring of all test pictures, s"]) > 0
    assert len(found) == 7
