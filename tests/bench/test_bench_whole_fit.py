"""The time of the whole fit: here in a small shape; every value is present and a number."""
import csv
import sys

import pytest
from conftest import TINY

from bench import whole_fit
from minilora.clip import CLIPConfig
from minilora.scenes import scene


def measured(monkeypatch, folder, out, *options):
    """{what: measured} of the command."""
    monkeypatch.setattr(sys, "argv", ["whole_fit", *options, "--data", str(folder / "data"),
                                      "--out", str(folder / out)])
    whole_fit.main()
    with open(folder / out / "whole-fit.csv") as file:
        return {row["what"]: row["measured"] for row in csv.DictReader(file)}


def test_the_whole_fit_is_measured(tmp_path, monkeypatch):
    scene.write_class(tmp_path / "data", "gear", good=4, test_good=3, defective=1, resolution=64)
    monkeypatch.setattr(whole_fit, "VIT_B_16", CLIPConfig(**TINY))
    found = measured(monkeypatch, tmp_path, "out", "--class", "gear", "--shots", "3")
    assert float(found["highest resident memory, MB"].replace(",", "")) > 100
    parts = sum(float(found[f"{name}.safetensors, MB"]) for name in ("adapter_model", "memory"))
    whole = float(found["whole run, which predict reads, MB"])
    assert parts <= whole + 0.1 <= float(found["run folder, with pages and maps, MB"]) + 0.2
    assert float(found["fit and scoring of all test pictures, s"]) > 0
    assert len(found) == 8


def test_a_finished_fit_of_bench_speed_is_not_fitted_again(tmp_path, monkeypatch):
    scene.write_class(tmp_path / "data", "gear", good=4, test_good=3, defective=1, resolution=64)
    monkeypatch.setattr(whole_fit, "VIT_B_16", CLIPConfig(**TINY))
    fitted = tmp_path / "speed"
    whole_fit.fit_seconds(fitted / "runs" / "ViT-B-16", "--class", "gear", "--shots", "3", "--steps",
                          "2", "--data", str(tmp_path / "data"), "--model",
                          str(whole_fit.random_weights(fitted)))
    monkeypatch.setattr(whole_fit, "fit_seconds", lambda *_: pytest.fail("fitted again"))
    found = measured(monkeypatch, tmp_path, "again", "--class", "gear", "--fitted", str(fitted))
    assert float(found["scoring a picture, s (median)"]) >= 0 and len(found) == 8
