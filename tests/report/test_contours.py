"""Regions and polygons of large masks: time and memory follow the outlines, not the pixels."""
import time

import torch

from minilora import export
from minilora.report import contours


def test_a_region_is_kept_as_its_runs():
    mask = torch.zeros(3000, 4000, dtype=torch.bool)
    mask[500:2500, 1000:3000] = True
    (region,) = contours.regions(mask)
    assert region.box == (1000, 500, 2000, 2000) and region.area == 4_000_000
    assert region.runs.numel() * region.runs.element_size() < 100_000


def test_many_small_regions_in_a_large_mask_take_seconds():
    mask = torch.zeros(3000, 4000, dtype=torch.bool)
    mask[::4, ::4] = mask[1::4, 1::4] = True            # 750,000 regions that touch at corners
    begun = time.perf_counter()
    assert contours.regions(mask, min_area=3) == []
    assert len(contours.regions(mask[:200], min_area=2)) == 50 * 1000
    assert time.perf_counter() - begun < 30             # 2 s


def test_a_region_with_a_very_long_outline_gets_run_lengths():
    mask = torch.ones(400, 600, dtype=torch.bool)
    mask[:-1, 1::2] = False                             # a comb: no hole, 240,000 edges
    (region,) = contours.regions(mask)
    assert contours.count_edges(region.mask) > export.MAX_EDGES
    found = export.segmentation(region, (600, 400), as_rle=False)
    assert torch.equal(contours.decode_rle(found), mask)


def test_the_run_lengths_of_a_part_are_at_its_place_in_the_picture():
    mask = torch.zeros(9, 7, dtype=torch.bool)
    mask[0:9, 2:4] = True                               # whole columns: one run, not two
    (region,) = contours.regions(mask)
    assert contours.encode_rle(region.mask, 2, 0, (9, 7)) == {"size": [9, 7],
                                                              "counts": [18, 18, 27]}
