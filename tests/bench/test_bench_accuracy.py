"""Rows of methods that only keep good patches: in the tables if they were measured."""
from dataclasses import asdict

import pytest

from bench import accuracy, readme
from minilora.config import DetectorConfig
from minilora.scenes import scene


def test_memory_only_methods_give_one_row_each(tmp_path, tiny_weights):
    scene.write_class(tmp_path, "gear", good=4, test_good=2, defective=1, resolution=64)
    options = accuracy.parser().parse_args(
        ["--class", "gear", "--seeds", "1", "--shots", "2", "--data", str(tmp_path), "--model",
         str(tiny_weights), "--out", str(tmp_path / "bench")])
    options.methods = ["patchcore", "anomalydino"]
    found, _ = accuracy.collect(options, lambda line: None)
    assert [row for row, _ in found] == ["PatchCore", "AnomalyDINO's recipe"]
    assert all(0 <= seeds[0]["pixel_auroc"] <= 1 for seeds in found.values())
    options.shots = 0
    assert accuracy.collect(options, lambda line: None)[0] == {}, "they need good pictures"


def test_steps_and_rank_change_the_stored_cells_of_methods_that_train_only():
    changed = [DetectorConfig(steps=steps, rank=rank) for steps, rank in ((5, 4), (6, 8))]
    for method in accuracy.METHODS:
        fields = [accuracy.used_config(method, config) for config in changed]
        uses_all = method == "minilora" or method in accuracy.TRAINED
        assert (fields[0] != fields[1]) == uses_all, method
    assert accuracy.used_config("minilora", changed[0]) == asdict(changed[0])


@pytest.mark.parametrize("measured", [(), ("PatchCore",), ("PatchCore", "AnomalyDINO's recipe")])
def test_the_readme_has_the_rows_that_are_in_the_results(measured, monkeypatch):
    rows = ("memory", "adapted", *measured)
    monkeypatch.setattr(readme, "means", lambda name: {
        (row, name, key): 0.9 for row in rows for name in ("bottle", *scene.UNSEEN_CLASSES)
        for key in readme.SHOWN})
    lines = readme.accuracy().splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == list(rows)
