"""Ablation variants and threshold rules: by hand, and once through both commands on drawn parts."""
import sys

import pytest
import torch

from bench import ablation, thresholds
from minilora import anomaly_map
from minilora.scenes import scene


def test_a_variant_passes_if_the_mean_gains_half_a_point_and_no_class_loses_one():
    def seeds(*values):
        return [{"image_auroc": value} for value in values]
    names = ["bottle", "drawn gear"]
    found = {("plain", "bottle"): seeds(0.90, 0.92), ("plain", "drawn gear"): seeds(0.80, 0.80),
             ("good", "bottle"): seeds(0.90, 0.91), ("good", "drawn gear"): seeds(0.82, 0.82),
             ("risky", "bottle"): seeds(0.89, 0.90), ("risky", "drawn gear"): seeds(0.90, 0.90),
             ("idle", "bottle"): seeds(0.91, 0.92), ("idle", "drawn gear"): seeds(0.80, 0.80)}
    _, _, lines = ablation.verdicts(found, names)
    assert lines == [["good", "-0.5", "+2.0", "+0.8", "-0.5 bottle", "yes"],
                     ["risky", "-1.5", "+10.0", "+4.2", "-1.5 bottle", "no"],
                     ["idle", "+0.5", "+0.0", "+0.2", "+0.0 drawn gear", "no"]]


def test_a_threshold_is_scored_by_false_alarms_and_by_defects_found_at_five_per_cent():
    good, bad = torch.arange(100) / 100, torch.tensor([0.5, 0.945, 0.985, 2.0])
    scores, labels = torch.cat([good, bad]), torch.tensor(100 * [0] + 4 * [1])
    assert thresholds.evaluate(0.895, scores, labels) == pytest.approx([0.10, 0.75, 0.50])
    assert thresholds.evaluate(5.0, scores, labels) == pytest.approx([0, 0, 0.50])


@pytest.mark.parametrize("rule", thresholds.RULES)
def test_every_rule_grows_with_the_scores(rule):
    scores = 1 + 0.1 * torch.randn(8, generator=torch.Generator().manual_seed(0))
    one, ten = (thresholds.RULES[rule](factor * scores) for factor in (1, 10))
    assert ten == pytest.approx(10 * one, rel=1e-4) and one > scores.median()


def test_rules_for_normal_and_gumbel_scores_give_five_per_cent_false_alarms():
    generator = torch.Generator().manual_seed(0)
    scores = 5 + torch.randn(20000, generator=generator, dtype=torch.double)
    limit = anomaly_map.threshold(scores)
    assert (scores > limit).double().mean() == pytest.approx(0.05, abs=0.005)
    gumbel = -torch.log(-torch.log(torch.rand(20000, generator=generator, dtype=torch.double)))
    limit = thresholds.extreme_value(gumbel)
    assert (gumbel > limit).double().mean() == pytest.approx(0.05, abs=0.005)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    scene.write_class(root, "gear", good=4, test_good=4, defective=2, resolution=64)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("group, only", [
    ("memory", ["plain", "scales 1 and 2", "copies with other brightness",
                "rotated copies if shots get closer",
                "same place, one patch around", "local scale", "residual of PCA", "foreground only",
                "no coreset", "mean of 3 x 3 patches", "tokens minus their mean", "three nearest",
                "mean of two states"]),
    ("parts", ["default", "mean with the frozen map", "ordinary path"]),
    ("lora", ["default", "context only", "LoRA only, hand-written prompts",
              "unified context, 16 from noise", "LoRA and context alternately",
              "memory of frozen tokens only", "memory of adapted patches only",
              "good patches pulled together", "defects: textures of other products"])])
def test_every_kind_of_variant_runs_and_its_cells_are_stored(folder, tiny_weights, tmp_path,
                                                             monkeypatch, group, only):
    def command():
        monkeypatch.setattr(sys, "argv", [
            "ablation", "--variants", group, "--only", *only, "--class", "gear", "--scenes",
            "--seeds", "1", "--shots", "2", "--steps", "4", "--data", str(folder), "--model",
            str(tiny_weights), "--out", str(tmp_path)])
        ablation.main()
        return (tmp_path / "ablation.md").read_text()
    text = command()
    assert all(f"| {label} |" in text for label in only)
    monkeypatch.setattr(ablation, "prepare_pictures", lambda *_: pytest.fail("computed again"))
    assert command() == text


def test_rules_are_compared_on_the_selected_pictures(folder, tiny_weights, tmp_path, monkeypatch):
    for part in ("even", "all"):
        monkeypatch.setattr(sys, "argv", [
            "thresholds", "--class", "gear", "--seeds", "1", "2", "--shots", "2", "3", "--steps",
            "2", "--data", str(folder), "--model", str(tiny_weights), "--out", str(tmp_path),
            "--pictures", part])
        thresholds.main()
        rows = (tmp_path / "thresholds.csv").read_text().splitlines()
        assert len(rows) == 1 + 2 * 2 * 2 * len(thresholds.RULES)       # shots, seeds, turned
        assert f"{part} test pictures" in (tmp_path / "thresholds.txt").read_text()
