"""How much the texts count, asked of pasted defects: by hand, and what it never exceeds."""
from types import SimpleNamespace

import pytest
import torch

from minilora import calibration
from minilora.synthetic.defects import DEFECT_KINDS


def share(memory, text):
    """The share where each row's score of a pasted picture is higher in so many of the cases.

    memory, text: scores of one good picture and its two pasted ones, of each shot.
    """
    told = {"adapted": iter(sum(memory, [])), "text": iter(sum(text, []))}
    detector = SimpleNamespace(
        config=SimpleNamespace(seed=1, defects=DEFECT_KINDS), encode=lambda pixels: pixels,
        map_and_score=lambda seen, row, bank: (None, torch.tensor([float(next(told[row]))])))
    shots = [(None, torch.full((3, 64, 64), 0.5), [None]) for _ in memory]
    return calibration.text_share(detector, shots)


RIGHT, WRONG, EVEN = [0, 1, 1], [1, 0, 0], [1, 1, 1]


@pytest.mark.parametrize("memory, text, expected", [
    ([RIGHT, RIGHT], [RIGHT, RIGHT], 1), ([RIGHT, RIGHT], [EVEN, EVEN], 0),
    ([RIGHT, RIGHT], [WRONG, WRONG], 0), ([EVEN, EVEN], [RIGHT, RIGHT], 1),
    ([RIGHT, RIGHT], [[0, 1, 0], [0, 1, 1]], 0.75)])    # AUROC (3 + 1/2) / 4 = 0.875
def test_the_share_is_how_far_both_are_above_chance(memory, text, expected):
    assert share(memory, text) == pytest.approx(expected)


def test_a_detector_is_asked_about_memories_without_the_photograph(tiny_clip, monkeypatch):
    from minilora.config import DetectorConfig
    from minilora.detector import Detector
    good, asked = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    kept = calibration.text_share

    def text_share(detector, shots):
        asked.extend(shots)
        assert detector.weight == 0, "the row adapted is the memory alone"
        return kept(detector, shots)
    monkeypatch.setattr("minilora.detector.text_share", text_share)
    detector = Detector(tiny_clip, "plate", DetectorConfig(steps=0)).fit(good)
    assert len(asked) == 3 and len({id(bank) for bank, *_ in asked}) == 3
    assert not any(bank is detector.banks["adapted"] for bank, *_ in asked)
    for (_, picture, copies), shot in zip(asked, good):
        assert torch.equal(picture, shot) and len(copies) == 4
        assert torch.equal(copies[0].tokens, detector.encode(shot[None]).tokens), "the shot itself"
