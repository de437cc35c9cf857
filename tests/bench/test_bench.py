"""Cells of the benchmark: stored, computed again if anything changed, averaged in tables."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from bench import accuracy, autocast, measure, recipes, tables
from minilora.data.mvtec import Sample, few_shot, load_class
from minilora.scenes import scene


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_weights):
    root = tmp_path_factory.mktemp("data")
    for name in ("gear", "mesh"):
        scene.write_class(root, name, good=4, test_good=2, defective=1, resolution=64)
    o = accuracy.parser().parse_args([
        "--class", "gear", "mesh", "--seeds", "1", "2", "--data", str(root), "--steps", "2",
        "--model", str(tiny_weights),
        "--out", str(tmp_path_factory.mktemp("bench"))])
    o.shots, o.methods = 2, ["winclip", "linear probe"]
    return o


def test_a_finished_cell_is_not_computed_again(options, monkeypatch):
    first, _ = accuracy.collect(options, lambda line: None)
    assert {row for row, _ in first} == {"WinCLIP", "WinCLIP+", "linear probe"}
    assert all(len(seeds) == 2 for seeds in first.values())
    for seed, metrics in zip((1, 2), first["WinCLIP+", "gear"]):
        files = few_shot(load_class(options.data, "gear").train, 2, seed)
        assert (metrics["seed"], metrics["shots"]) == (seed, " ".join(f.path.name for f in files))
    monkeypatch.setattr(accuracy, "compute", lambda *_: pytest.fail("computed again"))
    again, _ = accuracy.collect(options, lambda line: None)
    assert again == first
    monkeypatch.setattr(options, "steps", 3)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        accuracy.collect(options, lambda line: None)


def test_tables_hold_mean_and_spread_over_the_seeds():
    found = {("a", "x"): [{"image_auroc": 0.9, "pixel_auroc": None, "aupro": 0.5},
                          {"image_auroc": 0.8, "pixel_auroc": None, "aupro": 0.5}],
             ("a", "y"): [{"image_auroc": 0.5, "pixel_auroc": 0.5, "aupro": 0.1}]}
    made = accuracy.tables(found, ["x", "y"])
    assert made[0] == ("image AUROC, per cent", ["row", "x", "y", "mean"],
                       [["a", "85.0 ± 7.1", "50.0", "67.5"]])
    assert made[1][2] == [["a", "--", "50.0", "50.0"]]
    apart = accuracy.tables(found, ["x", "y"], ("y",))[0]
    assert apart[1:] == (["row", "x", "y", "mean", "y"], [["a", "85.0 ± 7.1", "50.0", "67.5",
                                                           "50.0"]])
    text, page = tables.as_text(made, ["head"]), tables.as_markdown(made, ["head"])
    assert text.startswith("head") and page.startswith("head")
    assert "a    85.0 ± 7.1  50.0  67.5" in text and "| a | 85.0 ± 7.1 | 50.0 | 67.5 |" in page
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(*accuracy.numbers(found)))))
    assert [r["image_auroc"] for r in rows] == ["0.900000", "0.800000", "0.500000"]
    assert [r["pixel_auroc"] for r in rows] == ["", "", "0.500000"]


def test_shares_of_pictures_called_ng_are_counted_at_the_threshold():
    samples = [Sample(Path(f"{k}.png"), "good" if k < 2 else "dent", int(k >= 2)) for k in range(6)]
    scores = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.9, 1.0])
    shares = accuracy.decisions(scores, samples, 0.5)
    assert shares == {"false_alarms": 0.5, "detected": 0.75}
    found = {("adapted", "x"): [{"image_auroc": 1.0, "pixel_auroc": 1.0, "aupro": 1.0} | shares],
             ("memory", "x"): [{"image_auroc": 1.0, "pixel_auroc": 1.0, "aupro": 1.0}]}
    *_, false_alarms, detected = accuracy.tables(found, ["x"])
    assert false_alarms[2] == [["adapted", "50.0"]] and detected[2] == [["adapted", "75.0"]]


def test_the_hyperparameters_of_every_method_are_listed():
    listed = " ".join(method for method, *_ in recipes.recipes()).lower()
    assert all(method in listed for method in accuracy.METHODS)


def test_anomalyclip_is_never_trained_on_the_class_it_is_tested_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(scene, "write_class", lambda root, name: seen.append(name) or root / name)
    monkeypatch.setattr(accuracy, "load_class", lambda root, name: type("D", (), {"test": [name]}))
    monkeypatch.setattr(accuracy, "squares", lambda samples, _: samples)
    monkeypatch.setattr(accuracy, "load_masks", lambda _, sizes: list(map(torch.zeros, sizes)))
    pictures, masks = accuracy.other_products("gear", 64, tmp_path)
    assert "gear" not in pictures and len(pictures) == len(scene.CLASSES) - 1 == len(seen)
    assert masks.shape == (len(pictures), 64, 64)


def test_every_stored_cell_is_complete(options):
    for path in (options.out / "cells").iterdir():
        assert json.loads(path.read_text()).keys() == {"fingerprint", "seconds", "rows"}


def test_the_curve_over_shots_stays_within_its_frame_and_draws_every_row():
    from bench import shots
    series = {"memory": {"1": (0.8, 0.05), "8": (0.9, 0.02)}, "adapted": {"8": (0.97, 0.0)}}
    image = shots.curve(series, ("1", "8"), "bottle")
    assert image.size == (shots.WIDTH, shots.HEIGHT)
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    assert (0xb3, 0x45, 0x0b) in colours and (0x0b, 0x62, 0xc4) in colours
    frame = image.crop((0, 0, shots.LEFT - 1, shots.HEIGHT))
    assert (0xb3, 0x45, 0x0b) not in {colour for _, colour in frame.getcolors(1 << 20)}


def test_a_point_of_the_curve_is_a_mean_over_classes_with_a_deviation_over_seeds():
    from bench import shots
    found = {("a", "x"): [{"image_auroc": 0.8}, {"image_auroc": 1.0}],
             ("a", "y"): [{"image_auroc": 0.6}, {"image_auroc": 0.8}]}
    mean, deviation = shots.points_of(found, ["x", "y"])["a"]
    assert mean == pytest.approx(0.8) and deviation == pytest.approx(0.1 * 2 ** 0.5)


def test_coop_forgets_nothing_and_every_method_is_measured_on_the_same_scenes(options,
                                                                                  monkeypatch):
    from bench import forgetting
    from minilora.config import DetectorConfig
    monkeypatch.setattr(options, "count", 12, raising=False)
    monkeypatch.setattr(options, "device", "cpu")
    data = forgetting.load_class(options.data, "gear")
    config = DetectorConfig(steps=40, n_train_images=32, rate=2e-2)
    found = {m: forgetting.after(m, data, config, options) for m in forgetting.METHODS}
    assert found["CoOp"] == found["before"], "CoOp changes neither tower"
    assert found["LoRA"] != found["before"]
    assert all(0 <= v <= 1 for row in found.values() for v in row.values())


@pytest.fixture
def found_by_others(monkeypatch):
    """A fresh process can import the functions of this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_a_peak_counts_memory_held_at_once_and_not_memory_from_before(found_by_others):
    kept = torch.ones(20_000_000 // 4)
    found = measure.fresh(measure_two_blocks, 32_000_000, returning=True)
    assert found["allocated"] == pytest.approx(64_000_000, rel=0.05), len(kept)
    assert found["after"] == pytest.approx(32_000_000, rel=0.1)


def measure_two_blocks(size):
    def one_after_another():
        first = torch.ones(size // 4)
        second = first + 1
        del first
        torch.ones(size // 8).add_(second[:size // 8])
    torch.ones(1) + 1                                   # loads what torch needs
    both = measure.peak(one_after_another)["allocated"]
    return {"allocated": both, "after": measure.peak(lambda: torch.ones(size // 4))["allocated"]}


def test_a_failed_process_passes_its_error_on(found_by_others):
    with pytest.raises(RuntimeError, match="no number: -1"):
        measure.fresh(fail, -1)


def fail(number):
    raise ValueError(f"no number: {number}")


def test_rivals_run_in_turn_and_the_first_round_does_not_count(monkeypatch):
    order, clock = [], iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    taken = measure.side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b")},
                                 rounds=3)
    assert order == ["a", "b"] * 4 and taken == {"a": [1] * 3, "b": [1] * 3}
    assert measure.ratio([2, 3, 9], [1, 1, 1]) == (3, 2, 9)


def test_a_module_that_runs_as_a_command_finds_its_own_functions_in_a_fresh_process(monkeypatch):
    here = measure.sys.modules[__name__]
    monkeypatch.setattr(here, "__spec__", type("Spec", (), {"name": "os.path"}))
    monkeypatch.setattr(basename, "__module__", "__main__")
    monkeypatch.setitem(measure.sys.modules, "__main__", here)
    assert measure.fresh(basename, "a/b") == "b"


def basename(path):
    raise AssertionError("taken from __main__ instead of its own module")


def test_half_precision_is_compared_on_the_same_pictures(options, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [
        "autocast", "--class", "gear", "--data", str(options.data), "--steps", "2", "--shots", "2",
        "--model", str(options.model), "--rounds", "1", "--out", str(tmp_path)])
    autocast.main()
    with open(tmp_path / "autocast.csv") as file:
        rows = {r["precision"]: r for r in csv.DictReader(file)}
    assert list(rows) == ["float32", "bfloat16", "float16"]
    assert float(rows["float32"]["largest difference, thresholds"]) == 0
    assert 0 < float(rows["bfloat16"]["largest difference, thresholds"]) < 0.2
