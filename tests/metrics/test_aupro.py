"""Regions against scipy.ndimage.label, AUPRO against scikit-learn's weighted ROC curve."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import roc_curve

from minilora.metrics.aupro import aupro, connected_regions


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def labelled(masks):
    """Scipy's regions of all pictures, numbered from 0, at the marked pixels."""
    out, count = [], 0
    for mask in masks.numpy():
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        out.append(labels[mask] - 1 + count)
        count += found
    return np.concatenate(out)


@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_regions_equal_those_of_scipy(seed, share):
    masks = drawn(seed, 3, 17, 23) < share
    assert np.array_equal(connected_regions(masks).numpy(), labelled(masks))


def test_a_spiral_is_one_region():
    """The longest path in a picture; spreading from neighbour to neighbour would be slow."""
    spiral = torch.zeros(1, 65, 65, dtype=torch.bool)
    top, left, bottom, right = 0, 0, 64, 64
    while top <= bottom and left <= right:
        spiral[0, top, left:right + 1] = True
        spiral[0, top:bottom + 1, right] = True
        spiral[0, bottom, left:right + 1] = True
        spiral[0, top + 2:bottom + 1, left] = True
        if left + 2 <= right:
            spiral[0, top + 2, left:left + 2] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    regions = connected_regions(spiral)
    assert regions.max() == labelled(spiral).max() == 0


def test_a_region_never_spans_two_pictures():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 3, 3] = masks[1, 0, 0] = True
    assert connected_regions(masks).tolist() == [0, 1]


def reference_aupro(maps, masks, limit):
    """AUPRO by scikit-learn's weighted ROC curve, up to the limit."""
    regions = labelled(masks)
    weights = np.ones(masks.shape)
    weights[masks.numpy()] = 1 / np.bincount(regions)[regions]
    return area(masks.numpy().ravel(), maps.numpy().ravel(), weights.ravel(), limit)


def area(truth, scores, weights, limit):
    """Area under scikit-learn's weighted ROC curve up to a false-positive rate, divided by it."""
    rate, found, _ = roc_curve(truth, scores, sample_weight=weights, drop_intermediate=False)
    k = np.searchsorted(rate, limit)  # the first point at the limit or beyond
    last = np.interp(limit, rate[k - 1:k + 1], found[k - 1:k + 1])
    height, at = (torch.tensor(np.append(x[:k], y)) for x, y in ((found, last), (rate, limit)))
    return torch.trapezoid(height, at).item() / limit


@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.5),
       levels=st.sampled_from([2, 5, 10**6]), limit=st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_aupro_equals_the_weighted_curve_of_scikit_learn(seed, share, levels, limit):
    masks = drawn(seed, 3, 16, 16) < share
    masks[0, 0, 0], masks[0, 8, 8] = True, False
    maps = (drawn(seed + 1, 3, 16, 16) + 0.3 * masks).mul(levels).floor()
    assert aupro(maps, masks, limit) == pytest.approx(reference_aupro(maps, masks, limit), abs=1e-9)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pictures_of_differing_sizes_are_measured_together(limit):
    """Equal to scikit-learn's curve over all pixels, weighted by the regions of all pictures."""
    sizes = [(16, 16), (7, 30), (1, 9), (12, 5)]
    masks = [drawn(k, *size) < 0.2 for k, size in enumerate(sizes)]
    masks[2] &= False                                   # a good picture among them
    maps = [drawn(9 + k, *mask.shape) + 0.3 * mask for k, mask in enumerate(masks)]
    regions, count = [], 0
    for mask in masks:
        regions.append(labelled(mask[None]) + count)
        count += len(np.unique(regions[-1]))
    regions = np.concatenate(regions).astype(int)
    truth = torch.cat([mask.flatten() for mask in masks])
    weights = np.ones(len(truth))
    weights[truth.numpy()] = 1 / np.bincount(regions)[regions]
    scores = torch.cat([found.flatten() for found in maps])
    assert aupro(maps, masks, limit) == pytest.approx(
        area(truth.numpy(), scores.numpy(), weights, limit), abs=1e-9)


def test_a_list_of_maps_gives_the_same_as_their_stack():
    masks = drawn(0, 3, 16, 16) < 0.2
    maps = drawn(1, 3, 16, 16)
    assert aupro(list(maps), list(masks)) == aupro(maps, masks)


def test_a_small_region_has_the_same_weight_as_a_large_one():
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, :8, :8] = masks[0, 15, 15] = True
    maps = torch.zeros(1, 20, 20)
    maps[0, :8, :8] = 1
    other = torch.zeros(1, 20, 20)
    other[0, 15, 15] = 1
    assert aupro(maps, masks) == pytest.approx(aupro(other, masks))


def test_a_perfect_map_has_one_and_a_constant_map_half_the_limit():
    masks = drawn(0, 2, 16, 16) < 0.2
    assert aupro(masks.float(), masks) == pytest.approx(1)
    assert aupro(torch.zeros(2, 16, 16), masks) == pytest.approx(0.15)


@pytest.mark.parametrize("masks, maps, words", [
    (torch.zeros(1, 4, 4).bool(), torch.zeros(1, 4, 4), "only one kind"),
    (torch.ones(1, 4, 4).bool(), torch.zeros(1, 4, 4), "only one kind"),
    (torch.eye(4)[None].bool(), torch.zeros(1, 5, 5), "resize"),
    (torch.eye(4)[None].bool(), torch.full((1, 4, 4), float("nan")), "NaN")])
def test_undefined_aupro_is_an_error_with_a_remedy(masks, maps, words):
    with pytest.raises(ValueError, match=words):
        aupro(maps, masks)
