"""Extreme numbers: undefined metrics are None, defined ones are computed, NaN is an error."""
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from minilora import anomaly_map, fit
from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.lora import LoRALinear, merge
from minilora.runs import run_class
from minilora.scenes import scene

SMALL = DetectorConfig(steps=2, n_train_images=4, batch=2, rank=2, alpha=2)


@pytest.fixture
def clip(tiny_weights):
    return load_clip(str(tiny_weights))[0]


def pictures(count, value=None):
    if value is not None:
        return torch.full((count, 3, 64, 64), value)
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# ---- NaN and inf --------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_score_that_is_nan_or_inf_is_an_error_and_not_ok(number):
    """NaN > threshold is false, so a broken detector would call every picture OK."""
    maps = torch.zeros(2, 8, 8)
    maps[1, 3, 3] = number
    with pytest.raises(ValueError, match="score (nan|inf) of a picture.*fit again"):
        anomaly_map.image_score(maps)


def test_a_loss_that_is_nan_stops_the_training_and_names_the_cause(clip):
    with torch.no_grad():
        clip.visual.proj[0, 0] = float("nan")
    with pytest.raises(ValueError, match="holds NaN; the weights or the pictures are broken"):
        Detector(clip, "plate", SMALL).fit(pictures(2))


def test_hyperparameters_outside_their_limits_are_refused(clip):
    with pytest.raises(ValueError, match="rate: expected a number from 0 to 10"):
        DetectorConfig(rate=1e30)
    with pytest.raises(ValueError, match="sigma: expected a number from 0 to 100"):
        DetectorConfig(sigma=float("nan"))


# ---- little data --------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_pictures_can_be_learned_and_scored(clip, value):
    """Every patch is the same, and nothing is divided by a standard deviation of zero."""
    detector = Detector(clip, "plate", SMALL).fit(pictures(3, value))
    scores = detector.score(torch.cat([pictures(1, value), pictures(1)]))[1]
    assert scores.isfinite().all() and detector.threshold is not None
    assert scores[0] <= detector.threshold < scores[1], "noise is NG, a constant picture is not"


def test_one_shot_gives_a_memory_and_a_threshold(clip):
    """Its own rotated copies take the place of other pictures."""
    detector = Detector(clip, "plate", SMALL).fit(pictures(1))
    assert detector.threshold > 0 and detector.score(pictures(2))[1].isfinite().all()


def test_the_threshold_of_a_single_good_picture_is_its_own_score():
    assert anomaly_map.threshold(torch.tensor([0.7])) == pytest.approx(0.7)


def test_a_class_without_defects_has_no_auroc_but_counts_false_alarms(tmp_path, tiny_weights):
    scene.write_class(tmp_path / "data", "gear", good=4, test_good=3, defective=0, resolution=64)
    metrics = fitted(tmp_path, tiny_weights)
    assert all(v is None for row in metrics["rows"].values() for v in row.values())
    assert metrics["decisions"]["good"] == 3 and metrics["decisions"]["defective"] == 0


def test_a_single_test_picture_is_scored(tmp_path, tiny_weights):
    scene.write_class(tmp_path / "data", "gear", good=4, test_good=1, defective=0, resolution=64)
    metrics = fitted(tmp_path, tiny_weights)
    assert metrics["decisions"]["good"] == 1
    assert len((tmp_path / "run" / "scores.csv").read_text().splitlines()) == 2


def test_an_all_black_mask_leaves_pixel_metrics_undefined(tmp_path, tiny_weights):
    """The picture has a label, so it counts in image metrics; but no pixel is marked."""
    root = scene.write_class(tmp_path / "data", "gear", good=4, test_good=2, defective=1,
                              resolution=64)
    for mask in (root / "ground_truth").rglob("*.png"):
        Image.new("L", (64, 64)).save(mask)
    metrics = fitted(tmp_path, tiny_weights)["rows"]["adapted"]
    assert metrics["image_auroc"] is not None and metrics["pixel_auroc"] is None


def fitted(folder, weights):
    options = fit.parse(["--class", "gear", "--shots", "3", "--data", str(folder / "data"),
                         "--model", str(weights), "--steps", "1", "--out", str(folder / "run")])
    run_class.run_class(options, lambda line: None)
    return json.loads((folder / "run" / "metrics.json").read_text())


# ---- properties ---------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.integers(-30, 30), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows))


@given(ROWS, st.randoms())
@settings(max_examples=200, deadline=None)
def test_auroc_depends_only_on_the_order_of_scores(rows, draw):
    """It equals the count over all pairs; a monotone map or a permutation changes nothing; with the
    labels exchanged it is one minus the value."""
    scores, labels = ([float(s) for s, _ in rows], [int(y) for _, y in rows])
    pairs = [(a > b) + (a == b) / 2 for a, y in zip(scores, labels) if y
             for b, z in zip(scores, labels) if not z]
    found = auroc(scores, labels)
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert auroc([s**3 + 2 * s for s in scores], labels) == found
    assert auroc(scores, [1 - y for y in labels]) == pytest.approx(1 - found, abs=1e-12)
    order = draw.sample(range(len(rows)), len(rows))
    assert auroc([scores[k] for k in order], [labels[k] for k in order]) == found


@given(st.integers(1, 40), st.integers(1, 40), st.data(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_merging_lora_computes_the_same_for_any_shape(inputs, outputs, data, bias):
    rank = data.draw(st.integers(1, min(inputs, outputs)))
    alpha = data.draw(st.floats(0.1, 32))
    generator = torch.Generator().manual_seed(inputs + 50 * outputs)
    layer = LoRALinear.from_linear(nn.Linear(inputs, outputs, bias), rank, alpha, generator)
    layer.lora_B.data.normal_(generator=generator)
    x = torch.randn(3, inputs, generator=generator)
    scale = 1 + layer(x).abs().max()
    assert (merge(layer)(x) - layer(x)).abs().max() < 1e-5 * scale
    assert layer.lora_B.shape == (outputs, rank), "the original is kept"
