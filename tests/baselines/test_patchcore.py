"""Plain PatchCore: each step against the paper's formula, torch or scikit-learn."""
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from minilora.baselines.patchcore import PatchCore, neighbourhood_mean, reweighted
from minilora.data.images import normalise


@pytest.fixture
def good():
    """A noisy grey plate, five times."""
    generator = torch.Generator().manual_seed(0)
    return 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)


def test_a_patch_becomes_the_mean_of_three_by_three_and_zeros_count_beyond_the_border():
    grid = torch.arange(12.0).view(1, 12, 1)                    # 3 rows of 4 patches, width 1
    mean = neighbourhood_mean(grid, rows=3).view(3, 4)
    assert mean[1, 1].item() == 5, "the mean of 0 1 2, 4 5 6, 8 9 10"
    assert mean[0, 0].item() == pytest.approx((0 + 1 + 4 + 5) / 9), "a corner has four of nine"
    tokens = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0))
    for k in range(6):
        expected = F.avg_pool2d(tokens[:, None, :, k].unflatten(2, (4, 5)), 3, 1, 1)
        torch.testing.assert_close(neighbourhood_mean(tokens, 4)[..., k], expected.flatten(1))


def test_the_weight_of_equation_7_by_hand():
    """Three good patches at 0, 3 and 7 of a line; a test patch at -2 has the distances 2, 5, 9."""
    bank, token = torch.tensor([[0.0], [3.0], [7.0]]), torch.tensor([-2.0])
    all_three = 1 - math.exp(2) / (math.exp(2) + math.exp(5) + math.exp(9))
    nearest_two = 1 - math.exp(2) / (math.exp(2) + math.exp(5))
    for count, weight in ((3, all_three), (9, all_three), (2, nearest_two)):
        found = reweighted(token, torch.tensor(0), bank, count).item()
        assert found == pytest.approx(weight * 2, rel=1e-5)
    assert reweighted(token, torch.tensor(0), bank[:1]).item() == 2, "no neighbours, no weight"


def test_a_large_distance_overflows_nothing():
    bank = torch.tensor([[0.0], [1.0]])
    found = reweighted(torch.tensor([-500.0]), torch.tensor(0), bank).item()
    assert found == pytest.approx(500 * (1 - 1 / (1 + math.e)), rel=1e-4)


def test_features_are_two_middle_states_each_averaged(tiny_clip, good):
    detector, visual = PatchCore(tiny_clip), tiny_clip.visual
    hidden = visual.hidden_states(visual.embed(normalise(good)))
    expected = [neighbourhood_mean(hidden[n][:, 1:], 4) for n in (1, 2)]
    torch.testing.assert_close(detector.features(good), torch.cat(expected, -1))


def test_a_tenth_of_the_patches_is_kept_and_the_shots_are_not_changed(tiny_clip, good):
    detector = PatchCore(tiny_clip).fit(good)
    assert len(detector.bank) == round(0.1 * 5 * 16)
    of_shots = detector.features(good).flatten(0, 1)
    assert all((of_shots - kept).abs().amax(1).min() < 1e-5 for kept in detector.bank)


def test_distances_equal_those_of_scikit_learn(tiny_clip, good):
    detector = PatchCore(tiny_clip).fit(good[:3])
    peer = NearestNeighbors(n_neighbors=1).fit(detector.bank.numpy())
    tokens = detector.features(good[3:]).detach()               # (2, P, 2 W)
    distance, index = peer.kneighbors(tokens.flatten(0, 1).numpy())
    distance = torch.tensor(distance, dtype=torch.float32).view(2, 16)
    index = torch.tensor(index).view(2, 16)
    maps, scores = detector.score(good[3:])
    for k, worst in enumerate(distance.argmax(1)):
        expected = reweighted(tokens[k, worst], index[k, worst], detector.bank)
        assert scores[k].item() == pytest.approx(expected.item(), rel=1e-4)
    plain = F.interpolate(distance.view(2, 1, 4, 4), (64, 64), mode="bilinear")[:, 0]
    assert maps.shape == (2, 64, 64)
    torch.testing.assert_close(maps.mean((1, 2)), plain.mean((1, 2)), rtol=0.02, atol=0)
    assert (maps.amax((1, 2)) <= plain.amax((1, 2))).all(), "smoothed"


def test_a_pasted_defect_is_found_where_it_is_at_any_resolution(tiny_clip, good):
    for size in (128, 192):
        pictures = F.interpolate(good, (size, size))
        detector = PatchCore(tiny_clip).fit(pictures[:4])
        defective = pictures[4:].clone()
        defective[..., size // 4:size // 2, size // 2:3 * size // 4] = 0.05
        maps, scores = detector.score(torch.cat([pictures[4:], defective]))
        assert scores[1] > 1.2 * scores[0]
        row, column = divmod(maps[1].argmax().item(), size)
        assert 0.2 * size < row < 0.55 * size and 0.45 * size < column < 0.8 * size


def test_a_seed_determines_the_coreset_and_clip_is_not_changed(tiny_clip, good):
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    first, again, other = (PatchCore(tiny_clip, seed=k).fit(good).bank for k in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(value, before[name]) for name, value in tiny_clip.state_dict().items())
