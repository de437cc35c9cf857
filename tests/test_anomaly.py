"""Maps and scores against peers: scipy for smoothing, scikit-learn for nearest neighbours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

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


def test_memory_distance_equals_the_nearest_neighbour_of_scikit_learn(generator):
    tokens = torch.randn(3, 16, 8, generator=generator, dtype=torch.float64)
    memory = F.normalize(torch.randn(50, 8, generator=generator, dtype=torch.float64), dim=-1)
    peer = NearestNeighbors(n_neighbors=1, metric="cosine").fit(memory.numpy())
    expected = peer.kneighbors(tokens.flatten(0, 1).numpy())[0].reshape(3, 16) / 2
    for rows in (1, 7, 4096):  # however the product is cut up
        assert np.abs(anomaly.nearest(tokens, memory, rows).numpy() - expected).max() < 1e-12


def test_a_patch_of_the_memory_has_distance_zero_and_its_opposite_one(generator):
    memory = F.normalize(torch.randn(1, 8, generator=generator), dim=-1)
    assert anomaly.nearest(5 * memory[None], memory).item() == pytest.approx(0, abs=1e-6)
    assert anomaly.nearest(-memory[None], memory).item() == pytest.approx(1, abs=1e-6)


def test_leaving_one_out_means_all_copies_of_one_photograph(generator):
    photos = torch.randn(3, 4, 8, generator=generator)
    copies = photos.repeat_interleave(2, 0)  # each photograph twice
    owners = torch.tensor([0, 0, 1, 1, 2, 2])
    out = anomaly.leave_one_out(copies, owners)
    for k in range(6):
        others = F.normalize(copies[owners != owners[k]], dim=-1).flatten(0, 1)
        assert torch.allclose(out[k], anomaly.nearest(copies[k : k + 1], others)[0], atol=1e-7)
    assert out.min() > 0.01, "a copy of itself would be at distance 0"


def test_neighbourhood_is_the_mean_of_what_is_there(generator):
    tokens = torch.randn(1, 16, 5, generator=generator)
    out = anomaly.neighbourhood(tokens)[0].view(4, 4, 5)
    grid = tokens[0].view(4, 4, 5)
    for i in range(4):
        for j in range(4):
            around = grid[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].flatten(0, 1)
            assert torch.allclose(out[i, j], around.mean(0), atol=1e-6)


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


def test_image_score_is_the_mean_of_the_top_one_per_cent():
    maps = torch.arange(400.0).view(1, 20, 20)
    assert anomaly.image_score(maps).item() == pytest.approx((399 + 398 + 397 + 396) / 4)


def test_threshold_leaves_the_stated_share_of_good_pictures_above():
    good = torch.arange(1000.0)
    assert (good > anomaly.threshold(good, 0.05)).float().mean() == pytest.approx(0.05)
    assert anomaly.threshold(torch.tensor([2.0]), 0.05) == 2.0, "one good picture: its own score"
