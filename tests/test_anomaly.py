"""Maps and scores; the peer for smoothing is scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from minilora import anomaly


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
    assert np.abs(anomaly.gaussian(maps, sigma).numpy() - expected).max() < 1e-12


def test_text_map_is_the_softmax_of_scaled_cosines(generator):
    patches, text = (
        torch.randn(2, 4, 8, generator=generator),
        torch.randn(2, 8, generator=generator),
    )
    cosine = torch.stack([F.cosine_similarity(patches, t, dim=-1) for t in text], -1)
    assert torch.allclose(
        anomaly.text_map(patches, text, 10.0), (10 * cosine).softmax(-1)[..., 1], atol=1e-6
    )


def test_maps_keep_the_place_of_a_patch():
    scores = torch.zeros(1, 16)
    scores[0, 6] = 1  # row 1, column 2 of 4 x 4
    place = int(anomaly.to_pixels(scores, 64, sigma=1.0)[0].flatten().argmax())
    row, column = divmod(place, 64)
    assert 16 <= row < 32 and 32 <= column < 48


def test_image_score_is_the_mean_of_the_highest_pixels():
    maps = torch.arange(1600.0).view(1, 40, 40)
    assert anomaly.image_score(maps).item() == pytest.approx((1599 + 1598 + 1597 + 1596) / 4)
    assert anomaly.image_score(maps, top=0).item() == 1599, "at least one"


def test_threshold_leaves_the_stated_share_of_good_pictures_above():
    good = torch.arange(1000.0)
    assert (good > anomaly.threshold(good, 0.05)).float().mean() == pytest.approx(0.05)
    assert anomaly.threshold(torch.tensor([2.0]), 0.05) == 2.0, "one good picture: its own score"
