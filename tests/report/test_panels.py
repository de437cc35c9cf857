"""Panels: the bar's colour says what the decision is worth, and only what exists is shown."""
from pathlib import Path

import pytest
import torch
from PIL import Image

from minilora.data.mvtec import Sample
from minilora.report import panels

GREEN, RED, GREY = panels.RIGHT_COLOUR, panels.WRONG_COLOUR, panels.UNDECIDED_COLOUR


@pytest.mark.parametrize("label, is_ng, colour, word", [
    (0, False, GREEN, "good"), (0, True, RED, "false alarm"), (1, True, GREEN, "defect found"),
    (1, False, RED, "miss"), (None, False, GREEN, ""), (None, True, RED, ""),
    (None, None, GREY, ""), (1, None, GREY, "")])
def test_a_bar_is_green_if_the_decision_is_right_or_else_ok(label, is_ng, colour, word):
    assert panels.bar_colour(label, is_ng) == colour and panels.verdict(label, is_ng) == word


@pytest.mark.parametrize("label, score, colour", [(1, 0.5, RED), (0, 0.5, GREEN), (0, 1.5, RED)])
def test_a_miss_is_not_green(label, score, colour, tmp_path):
    sample = Sample(Path("a.png"), "dent" if label else "good", label)
    (path,) = panels.write_maps(tmp_path, [sample], [torch.zeros(3, 32, 32)], None,
                                [torch.zeros(32, 32)], torch.tensor([score]), 1.0)
    found = Image.open(path).getpixel((130, 2))             # beside the words
    assert max(abs(a - b) for a, b in zip(found, colour)) < 20, "but for JPEG's losses"


@pytest.mark.parametrize("mask, parts", [(None, 3), (torch.zeros(8, 8).bool(), 3),
                                         (torch.eye(8).bool(), 4)])
def test_there_is_no_mask_panel_without_a_mask(mask, parts):
    image = panels.panel(torch.ones(3, 8, 8), mask, torch.zeros(8, 8), 0, 1, "", GREY)
    assert image.width == parts * (8 + 2 * panels.GAP) + panels.SCALE_WIDTH


def test_a_panel_has_a_colour_scale_from_dark_below_to_light_above():
    image = panels.panel(torch.zeros(3, 64, 64), None, torch.zeros(64, 64), 0, 2, "", GREY)
    left = image.width - panels.SCALE_WIDTH + panels.GAP + 2
    top = panels.TITLE_HEIGHT + panels.NAMES_HEIGHT
    assert sum(image.getpixel((left, top + 1))) > 600
    assert sum(image.getpixel((left, image.height - 2))) < 150


def test_one_scale_serves_all_maps_of_a_run():
    maps = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 3.0, 2.0]])]
    assert panels.map_scale(maps) == pytest.approx((0.0, 1 + 0.9 * 2))
