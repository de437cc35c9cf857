"""Weight of the text map, decided from synthetic defects pasted into the good pictures."""
from types import SimpleNamespace

import pytest
import torch

from minilora import calibration
from minilora.calibration import LeftOut
from minilora.synthetic.defects import DEFECT_KINDS


def fraction(memory, text):
    """The fraction of the maximum weight for given scores.

    memory, text: for each shot, the scores of one good picture and of its two pasted defects.
    """
    scores = {"adapted": iter(sum(memory, [])), "text": iter(sum(text, []))}
    detector = SimpleNamespace(
        config=SimpleNamespace(seed=1, defect_kinds=DEFECT_KINDS), encode=lambda pixels: pixels,
        map_and_score=lambda features, row, bank: (
            None, torch.tensor([float(next(scores[row]))])))
    left_out = [LeftOut(None, torch.full((3, 64, 64), 0.5), [None]) for _ in memory]
    return calibration.text_weight_fraction(detector, left_out)


RIGHT, WRONG, EVEN = [0, 1, 1], [1, 0, 0], [1, 1, 1]


@pytest.mark.parametrize("memory, text, expected", [
    ([RIGHT, RIGHT], [RIGHT, RIGHT], 1), ([RIGHT, RIGHT], [EVEN, EVEN], 0),
    ([RIGHT, RIGHT], [WRONG, WRONG], 0), ([EVEN, EVEN], [RIGHT, RIGHT], 1),
    ([RIGHT, RIGHT], [[0, 1, 0], [0, 1, 1]], 0.75)])    # AUROC (3 + 1/2) / 4 = 0.875
def test_the_fraction_compares_how_far_both_are_above_chance(memory, text, expected):
    assert fraction(memory, text) == pytest.approx(expected)


def test_every_shot_is_scored_with_a_memory_that_does_not_contain_it(tiny_clip, monkeypatch):
    from minilora.config import DetectorConfig
    from minilora.detector import Detector
    good, found = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    original = calibration.text_weight_fraction

    def text_weight_fraction(detector, left_out):
        found.extend(left_out)
        assert detector.text_weight == 0, "the row adapted is the memory alone"
        return original(detector, left_out)
    monkeypatch.setattr("minilora.calibration.text_weight_fraction", text_weight_fraction)
    detector = Detector(tiny_clip, "plate", DetectorConfig(steps=0)).fit(good)
    assert len(found) == 3 and len({id(bank) for bank, *_ in found}) == 3
    assert not any(bank is detector.banks["adapted"] for bank, *_ in found)
    for (_, picture, copies), shot in zip(found, good):
        assert torch.equal(picture, shot) and len(copies) == 4
        itself = detector.encode(shot[None])
        assert torch.equal(copies[0].frozen_tokens, itself.frozen_tokens), "the shot itself"
