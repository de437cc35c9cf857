"""The memory of good patches; the peer for nearest neighbours is scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from minilora import memory
from minilora.memory import SLACK, Memory, around, leave_one_out, nearest_twice


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def unit(*shape, generator):
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_distance_and_number_equal_the_nearest_neighbour_of_scikit_learn(generator):
    tokens, remembered = unit(3, 16, 8, generator=generator), unit(64, 8, generator=generator)
    peer = NearestNeighbors(n_neighbors=1, metric="cosine").fit(remembered.numpy())
    far, number = (x.reshape(3, 16) for x in peer.kneighbors(tokens.flatten(0, 1).numpy()))
    for block in (1, 350, 2**22):  # however the product is cut up
        distance, found = nearest_twice(tokens, remembered, around(16), block)
        assert np.abs(distance[0].numpy() - far / 2).max() < 1e-12
        assert np.array_equal(found[0].numpy(), number)


def test_a_patch_of_the_memory_has_distance_zero_and_its_opposite_one(generator):
    remembered = unit(1, 8, generator=generator)
    for sign, expected in ((1, 0), (-1, 1)):
        distance, _ = nearest_twice(sign * remembered[None], remembered, around(1))
        assert distance.flatten().tolist() == pytest.approx([expected, expected], abs=1e-6)


def test_leaving_one_out_means_all_copies_of_one_photograph(generator):
    copies = unit(3, 4, 8, generator=generator).repeat_interleave(2, 0)  # each photograph twice
    owners = torch.tensor([0, 0, 1, 1, 2, 2])
    distance, number = leave_one_out(copies, owners, copies, owners, around(4))
    for k in range(6):
        others = copies[owners != owners[k]].flatten(0, 1)
        assert torch.allclose(distance[0, k], 0.5 * (1 - (copies[k] @ others.T).amax(-1)))
    assert distance.min() > 0.01, "a copy of itself would be at distance 0"
    found = copies.flatten(0, 1)[number]  # the numbers count through all pictures
    assert torch.allclose(0.5 * (1 - (found * copies).sum(-1)), distance)


def test_nearby_is_the_best_among_the_places_around(generator):
    """Both answers of one product against a search patch by patch."""
    tokens, remembered = unit(2, 49, 8, generator=generator), unit(3, 49, 8, generator=generator)
    for block in (1, 400, 2**22):
        distance, number = nearest_twice(tokens, remembered.flatten(0, 1), around(49), block)
        for b, p in ((0, 0), (0, 24), (1, 6), (1, 45)):
            near = [(0.5 * (1 - tokens[b, p] @ remembered[n, q]).item(), n * 49 + q)
                    for n in range(3) for q in range(49)
                    if abs(q // 7 - p // 7) <= 1 and abs(q % 7 - p % 7) <= 1]
            assert distance[1, b, p].item() == pytest.approx(min(near)[0], abs=1e-12)
            assert number[1, b, p] == min(near)[1]
        best, found = (tokens @ remembered.flatten(0, 1).T).max(-1)
        assert torch.allclose(distance[0], 0.5 * (1 - best)) and torch.equal(number[0], found)


def test_the_places_around_reach_a_seventh_of_the_side():
    window = around(14 * 14)
    assert window.shape == (196, 25)
    middle = 7 * 14 + 7
    assert sorted(window[middle].tolist()) == sorted(
        (7 + y) * 14 + 7 + x for y in range(-2, 3) for x in range(-2, 3))
    assert set(window[0].tolist()) == {y * 14 + x for y in range(3) for x in range(3)}


def aligned(generator, count=9):
    """Pictures of 49 places (layers, N, P, W), every place with a look of its own."""
    look = torch.randn(1, 49, 32, generator=generator)
    return (look + 0.3 * torch.randn(count, 49, 32, generator=generator))[None]


def test_good_pictures_say_whether_a_place_means_anything(generator):
    good = aligned(generator)
    assert Memory.of(good, torch.arange(9)).place > 0.95
    mixed = torch.stack([picture[torch.randperm(49, generator=generator)] for picture in good[0]])
    assert Memory.of(mixed[None], torch.arange(9)).place == 0
    assert Memory.of(good, torch.arange(9), nearby=0.0).place == 0


def test_what_is_known_elsewhere_is_odd_here(generator):
    """A missing piece shows the background, which every good picture has, too: at the border."""
    good = aligned(generator)
    broken = good[:, 8:].clone()
    broken[:, :, 24] = good[:, 8:, 0]                               # the middle shows a corner
    everywhere, here = (Memory.of(good[:, :8], torch.arange(8), nearby=n) for n in (0.0, 1.0))
    rest = [p for p in range(49) if p != 24]
    for kept, odd in ((everywhere, False), (here, True)):
        score = kept.score(broken)[0]
        assert (score[24] > 2 * score[rest].max()) == odd


def test_a_score_is_distance_over_looseness(generator):
    """Breunig et al. 2000, definition 7, with one neighbour, and a slack in the denominator."""
    good = torch.randn(1, 6, 4, 8, generator=generator)
    kept = Memory.of(good, torch.arange(6), nearby=0.0)
    new = torch.randn(1, 2, 4, 8, generator=generator)
    mean = good.mean((1, 2), keepdim=True)
    all_good = F.normalize(good - mean, dim=-1)[0]
    looseness = torch.stack([
        0.5 * (1 - (patch @ all_good[torch.arange(6) != n].flatten(0, 1).T).max())
        for n in range(6) for patch in all_good[n]])
    cosine = F.normalize(new - mean, dim=-1)[0] @ all_good.flatten(0, 1).T  # (2, 4, M)
    distance, number = 0.5 * (1 - cosine.amax(-1)), cosine.argmax(-1)
    expected = distance / (looseness[number] + SLACK * looseness.mean())
    assert torch.allclose(kept.score(new) * kept.level[0], expected, atol=1e-5)


def test_an_odd_patch_counts_less_where_good_pictures_differ(generator):
    good = torch.randn(1, 16, 32, generator=generator) + 0.1 * torch.randn(
        9, 16, 32, generator=generator)
    good[:, 3] += torch.randn(9, 32, generator=generator)
    kept, odd = Memory.of(good[None, :8], torch.arange(8)), good[8:].clone()
    odd[:, [3, 5]] += torch.randn(32, generator=generator)
    score = kept.score(odd[None])[0]
    assert score[5] > 2 * score[3]


def test_one_is_the_score_of_a_good_picture_where_it_is_oddest(generator):
    good = torch.randn(1, 50, 32, generator=generator) + 0.3 * torch.randn(
        40, 50, 32, generator=generator)
    kept = Memory.of(good[None, :30], torch.arange(30))
    assert kept.score(good[None, 30:]).amax(1).mean().item() == pytest.approx(1, abs=0.15)


def test_turned_copies_are_as_loose_as_what_they_were_turned_from(generator):
    grid = torch.randn(2, 3, 4, 4, 8, generator=generator)                # (layers, N, G, G, W)
    turned = torch.cat([torch.rot90(grid, k, (2, 3)) for k in range(4)], 1).flatten(2, 3)
    owners = torch.arange(12) % 3
    short, long = Memory.of(turned, owners, turns=4), Memory.of(turned, owners)
    assert torch.allclose(short.loose, long.loose) and torch.allclose(short.level, long.level)
    assert short.place == pytest.approx(long.place)
    assert short.left_out.shape == (3, 16) and long.left_out.shape == (12, 16)
    assert torch.allclose(short.left_out, long.left_out[:3])


def test_a_memory_of_equal_pictures_gives_finite_scores():
    same = torch.ones(1, 3, 4, 8)
    kept = Memory.of(same, torch.arange(3))
    assert kept.score(torch.randn(1, 2, 4, 8)).isfinite().all()


def test_a_picture_can_be_compared_with_the_other_photographs_alone(generator):
    good = torch.randn(2, 8, 9, 16, generator=generator)
    owners = torch.arange(8) % 4
    kept = Memory.of(good, owners)
    assert kept.score(good).max() < 1e-3 < kept.score(good, owners, owners).min()
    assert torch.allclose(kept.score(good, owners, owners), kept.left_out, atol=1e-5)
    stranger = torch.full((8,), 9)
    assert torch.allclose(kept.score(good, stranger, owners), kept.score(good), atol=1e-6)


def test_stored_in_half_precision_scores_move_by_less_than_a_hundredth(generator):
    good = torch.randn(2, 6, 49, 64, generator=generator)
    kept, new = Memory.of(good, torch.arange(6)), torch.randn(2, 3, 49, 64, generator=generator)
    again = Memory.from_state(kept.state(), (2, 64))
    assert (again.score(new) - kept.score(new)).abs().max() < 0.01
    assert memory.Memory.of(good, torch.arange(6)).left_out.shape == (6, 49)


@pytest.mark.parametrize("change", [
    lambda s: s | {"patches": s["patches"][..., :-1]}, lambda s: s | {"patches": s["patches"][:1]},
    lambda s: s | {"loose": s["loose"][:, :, :-1]}, lambda s: s | {"loose": s["loose"][:1]},
    lambda s: s | {"mean": s["mean"] * float("nan")}, lambda s: s | {"level": torch.zeros(2)},
    lambda s: s | {"level": torch.tensor([1.0, float("nan")])},
    lambda s: s | {"level": torch.ones(3)}, lambda s: s | {"places": 5},
    lambda s: s | {"places": 0}, lambda s: s | {"places": 4.0}, lambda s: s | {"place": 1.5},
    lambda s: s | {"place": float("nan")}, lambda s: s | {"place": None},
    lambda s: s | {"weight": -0.1}, lambda s: s | {"weight": float("nan")},
    lambda s: s | {"weight": "1"},
    lambda s: s | {"patches": s["patches"][:, :0], "loose": s["loose"][:, :, :0]}])
def test_a_stored_memory_that_does_not_fit_is_refused(generator, change):
    kept = Memory.of(torch.randn(2, 3, 4, 8, generator=generator), torch.arange(3)).state()
    Memory.from_state(kept, (2, 8))
    with pytest.raises(ValueError, match="memory.pt: expected finite patches .2, M, 8."):
        Memory.from_state(change(kept), (2, 8))
