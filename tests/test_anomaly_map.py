"""Anomaly maps, image scores and thresholds; smoothing is compared with scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.ndimage import gaussian_filter

from minilora import anomaly_map


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_gaussian_smoothing_equals_scipy(generator, sigma):
    maps = torch.rand(2, 40, 40, generator=generator, dtype=torch.float64)
    expected = np.stack(
        [
            gaussian_filter(m, sigma, mode="mirror", radius=max(1, int(np.ceil(4 * sigma))))
            for m in maps.numpy()
        ]
    )
    assert np.abs(anomaly_map.gaussian_blur(maps, sigma).numpy() - expected).max() < 1e-12


def test_smoothing_with_sigma_0_leaves_the_map_unchanged(generator):
    maps = torch.rand(2, 5, 9, generator=generator)
    assert torch.equal(anomaly_map.gaussian_blur(maps, 0), maps)


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (2, 40), (1, 7)])
@pytest.mark.parametrize("sigma", [1.0, 30.0, 100.0])
def test_a_kernel_wider_than_the_map_is_cut_at_its_shorter_side(generator, size, sigma):
    """The border can be reflected only once.  scipy with the same radius is the reference."""
    maps = torch.rand(2, *size, generator=generator, dtype=torch.float64)
    radius = min(4 * int(sigma), min(size) - 1)
    expected = maps.numpy() if radius == 0 else np.stack(
        [gaussian_filter(m, sigma, mode="mirror", radius=radius) for m in maps.numpy()])
    found = anomaly_map.gaussian_blur(maps, sigma)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    assert maps.min() - 1e-12 <= found.min() and found.max() <= maps.max() + 1e-12


def test_text_map_is_the_softmax_of_scaled_cosines(generator):
    patches, text = (
        torch.randn(2, 4, 8, generator=generator),
        torch.randn(2, 8, generator=generator),
    )
    cosine = torch.stack([F.cosine_similarity(patches, t, dim=-1) for t in text], -1)
    assert torch.allclose(
        anomaly_map.text_map(patches, text, 10.0), (10 * cosine).softmax(-1)[..., 1], atol=1e-6
    )


def test_a_map_is_highest_where_the_patch_lies():
    scores = torch.zeros(1, 16)
    scores[0, 6] = 1  # row 1, column 2 of 4 x 4
    place = int(anomaly_map.to_pixels(scores, (64, 64), sigma=1.0)[0].flatten().argmax())
    row, column = divmod(place, 64)
    assert 16 <= row < 32 and 32 <= column < 48


@pytest.mark.parametrize("rows, columns", [(2, 6), (6, 2), (1, 7), (14, 35), (3, 3)])
def test_maps_of_rectangular_pictures_have_the_right_rows_and_columns(generator, rows, columns):
    scores = torch.rand(2, rows * columns, generator=generator)
    maps = anomaly_map.to_pixels(scores, (16 * rows, 16 * columns), sigma=0)
    assert maps.shape == (2, 16 * rows, 16 * columns)
    peer = F.interpolate(scores.view(2, 1, rows, columns), scale_factor=16, mode="bilinear")[:, 0]
    assert torch.allclose(maps, peer, atol=1e-6)


def test_image_score_is_the_mean_of_the_highest_pixels():
    maps = torch.arange(1600.0).view(1, 40, 40)
    assert anomaly_map.image_score(maps).item() == pytest.approx((1599 + 1598 + 1597 + 1596) / 4)
    assert anomaly_map.image_score(maps, top_fraction=0).item() == 1599, "at least one"


def test_the_score_of_the_whole_image_is_added_to_each_picture(generator):
    maps, whole = torch.rand(2, 8, 8, generator=generator), torch.tensor([0.0, 0.5])
    added = anomaly_map.image_score(maps, whole_image_score=whole) - anomaly_map.image_score(maps)
    assert added.tolist() == pytest.approx([0, 0.5])


@pytest.mark.parametrize("count", [4, 8, 16, 1000])
def test_a_new_good_picture_lies_above_the_threshold_with_the_stated_rate(count):
    """400 draws of `count` normal scores, and the chance of a new score above each threshold."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, count, generator=generator)
    limits = torch.tensor([anomaly_map.threshold(d, 0.05) for d in draws])
    above = 0.5 * torch.erfc(limits / 2**0.5)                   # 1 - Phi(limit)
    assert above.mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("count", [4, 8, 16])
def test_the_threshold_is_the_limit_of_students_prediction_interval(count):
    """scipy is the reference; from 4 scores on, the expansion's first term is within 9 %."""
    scores = torch.randn(count, generator=torch.Generator().manual_seed(count)).double()
    expected = stats.t.ppf(0.95, count - 1) * scores.std().item() * (1 + 1 / count) ** 0.5
    found = anomaly_map.threshold(scores, 0.05) - scores.mean().item()
    assert found == pytest.approx(expected, rel=0.09)


def test_the_threshold_of_equal_scores_or_of_one_score_is_that_score():
    assert anomaly_map.threshold(torch.tensor([2.0]), 0.05) == 2.0
    assert anomaly_map.threshold(torch.full((16,), 0.25), 0.0) == 0.25, "a rate of 0 is not inf"
