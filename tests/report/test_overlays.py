"""Overlays: an outline around the region, at a bounded size and cost."""
import time

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from minilora.report import overlays


@pytest.mark.parametrize("width", [1, 3, 7])
def test_two_dilations_along_the_axes_are_one_with_a_square(width):
    mask = torch.rand(40, 30, generator=torch.Generator().manual_seed(width)) < 0.02
    square = F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    assert torch.equal(overlays.dilated(mask, width), square)


@pytest.mark.parametrize("size, expected", [
    ((6000, 4000), (2048, 1365)), ((4000, 6000), (1365, 2048)), ((2048, 2048), (2048, 2048)),
    ((40_000, 1), (2048, 1)), ((64, 48), (64, 48))])
def test_an_overlay_has_at_most_2048_pixels_on_its_longer_side(size, expected):
    picture = Image.new("RGB", size)
    assert overlays.reduced(picture).size == expected
    assert overlays.draw_outline(picture, torch.zeros(8, 8), 0.5).size == expected


def test_the_outline_of_a_large_picture_does_not_take_its_pixels_time():
    picture, scores = Image.new("RGB", (6000, 4000)), torch.zeros(224, 336)
    scores[50:90, 60:130] = 1
    begun = time.perf_counter()
    drawn = overlays.draw_outline(picture, scores, 0.5)
    assert time.perf_counter() - begun < 5              # 0.2 s; at full size 18 s
    assert overlays.OUTLINE in {colour for _, colour in drawn.getcolors()}
