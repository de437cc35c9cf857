"""The memory bank of good patches; its nearest neighbours are compared with scikit-learn."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from minilora import memory_bank
from minilora.memory_bank import CORESET_SHARE, MemoryBank, coreset, patch_descriptors


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def unit(*shape, generator, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def cover(tokens, kept):
    """Distance of the token that lies farthest from all that are kept."""
    return torch.cdist(tokens, tokens[kept]).amin(1).max().item()


# ---- patch descriptors --------------------------------------------------------------------------

def test_a_descriptor_concatenates_the_tokens_of_some_layers_and_has_length_one(generator):
    """So the cosine of two descriptors is the mean of the cosines of their layers."""
    hidden = [torch.randn(2, 10, 8, generator=generator) for _ in range(4)]
    tokens = patch_descriptors(hidden, (1, 3))
    assert tokens.shape == (2, 9, 16), "CLS is left out"
    assert torch.allclose(tokens.norm(dim=-1), torch.ones(2, 9))
    first, second = tokens[0, 2], tokens[1, 5]
    layers = [F.cosine_similarity(hidden[n][0, 3], hidden[n][1, 6], dim=0) for n in (1, 3)]
    assert torch.allclose(first @ second, sum(layers) / 2, atol=1e-6)


# ---- distances ----------------------------------------------------------------------------------

def test_distances_equal_the_nearest_neighbour_of_scikit_learn(generator):
    tokens, kept = unit(3, 16, 8, generator=generator), unit(64, 8, generator=generator)
    peer = NearestNeighbors(n_neighbors=1, metric="cosine").fit(kept.numpy())
    far = peer.kneighbors(tokens.flatten(0, 1).numpy())[0].reshape(3, 16)
    bank = MemoryBank(kept)
    assert np.abs(bank.distances(tokens).numpy() - far).max() < 1e-12


def test_a_kept_patch_has_distance_zero_and_its_opposite_two(generator):
    kept = unit(1, 8, generator=generator)
    bank = MemoryBank(kept)
    assert bank.distances(kept[None]).item() == pytest.approx(0, abs=1e-12)
    assert bank.distances(1.01 * kept[None]).item() == 0, "rounding gives no distance below 0"
    assert bank.distances(-kept[None]).item() == pytest.approx(2, abs=1e-12)


# ---- coreset ------------------------------------------------------------------------------------

def test_the_coreset_is_the_greedy_search_for_the_farthest_point(monkeypatch):
    """Gonzalez 1985, written out, where the random projection keeps all directions."""
    tokens = unit(60, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: torch.eye(*shape))
    monkeypatch.setattr(memory_bank, "PROJECTION_DIM", 8)
    found = coreset(tokens, 12, torch.Generator().manual_seed(1)).tolist()
    chosen = [found[0]]
    while len(chosen) < 12:
        chosen.append(max(range(60), key=lambda n: min(
            (tokens[n] - tokens[k]).square().sum().item() for k in chosen)))
    assert found == chosen and len(set(found)) == 12


def test_a_coreset_covers_the_patches_better_than_any_of_many_random_choices(generator):
    """A random choice misses a few rare patches among many similar ones."""
    kinds = unit(12, 32, generator=generator)
    which = torch.cat([torch.zeros(388, dtype=torch.long), torch.arange(12)])
    tokens = F.normalize(kinds[which] + 0.02 * torch.randn(400, 32, generator=generator), dim=-1)
    greedy = cover(tokens, coreset(tokens, 20, generator))
    chance = [cover(tokens, torch.randperm(400, generator=generator)[:20]) for _ in range(100)]
    assert greedy < min(chance) / 2


def test_a_coreset_of_as_many_patches_as_there_are_keeps_them_all(generator):
    tokens = unit(7, 8, generator=generator)
    for count in (7, 8):
        assert coreset(tokens, count, generator).tolist() == list(range(7))


def test_a_bank_keeps_a_tenth_of_the_patches(generator):
    pictures = list(unit(5, 40, 8, generator=generator, dtype=torch.float32))
    bank = MemoryBank.build(pictures, generator)
    assert bank.tokens.shape == (round(CORESET_SHARE * 200), 8)
    every = torch.cat(pictures)
    assert ((bank.tokens @ every.T).amax(1) > 0.999).all(), "each is one of the patches"
    assert len(MemoryBank.build(pictures[:1], generator).tokens) == 4
    assert len(MemoryBank.build([pictures[0][:3]], generator).tokens) == 1, "at least one"


def test_a_bank_is_no_larger_than_ten_megabytes(generator, monkeypatch):
    pictures = list(unit(5, 40, 8, generator=generator, dtype=torch.float32))
    assert memory_bank.MAX_BYTES == 10_000_000
    monkeypatch.setattr(memory_bank, "MAX_BYTES", 100)
    bank = MemoryBank.build(pictures, generator)
    assert len(bank.tokens) == 6 and bank.state()["tokens"].nbytes == 96
    monkeypatch.setattr(memory_bank, "MAX_BYTES", 3)
    assert len(MemoryBank.build(pictures, generator).tokens) == 1


# ---- stored -------------------------------------------------------------------------------------

@pytest.fixture
def bank(generator):
    pictures = list(unit(3, 40, 8, generator=generator, dtype=torch.float32))
    return MemoryBank.build(pictures, generator)


def test_a_truncated_bank_compares_only_the_first_numbers_of_each_feature(bank, generator):
    tokens = unit(2, 10, 3, generator=generator, dtype=torch.float32)
    found = bank.truncated(3)
    assert found.tokens.shape == (len(bank.tokens), 3) and bank.tokens.shape[1] == 8
    cosines = F.cosine_similarity(tokens[:, :, None], bank.tokens[:, :3], dim=-1)
    assert torch.allclose(found.distances(tokens), 1 - cosines.amax(-1), atol=1e-6)


def test_a_stored_bank_gives_exactly_the_same_distances(bank, generator):
    """Its tokens are rounded to half precision when the bank is built, not when it is stored."""
    again = MemoryBank.from_state(bank.state(), 8)
    assert bank.state()["tokens"].dtype == torch.float16
    assert torch.equal(again.tokens, bank.tokens)
    new = unit(2, 10, 8, generator=generator, dtype=torch.float32)
    assert torch.equal(again.distances(new), bank.distances(new))


def test_each_kept_patch_tells_from_which_picture_and_place_it_comes(generator):
    pictures = [unit(n, 8, generator=generator, dtype=torch.float32) for n in (60, 30, 45)]
    bank = MemoryBank.build(pictures, generator)
    for token, (picture, patch) in zip(bank.tokens, bank.sources.tolist()):
        assert torch.equal(token, pictures[picture][patch].half().float())
    again = MemoryBank.from_state(bank.state(), 8)
    assert torch.equal(again.sources, bank.sources)
    assert torch.equal(bank.truncated(3).sources, bank.sources)


def test_rounding_to_half_precision_moves_a_distance_by_less_than_a_thousandth(generator):
    """Half precision has 11 bits: each number is off by 2^-12 of itself at most."""
    tokens = unit(1, 40, 64, generator=generator, dtype=torch.float32)
    exact = MemoryBank(tokens[0])
    rounded = MemoryBank(tokens[0].half().float())
    new = unit(2, 100, 64, generator=generator, dtype=torch.float32)
    for some in (new, tokens):
        assert (exact.distances(some) - rounded.distances(some)).abs().max() < 1e-3


@pytest.mark.parametrize("change", [
    lambda s: s | {"tokens": s["tokens"][:, :-1]}, lambda s: s | {"tokens": s["tokens"][0]},
    lambda s: s | {"tokens": s["tokens"][:0]},
    lambda s: s | {"tokens": s["tokens"] * float("nan")},
    lambda s: s | {"tokens": s["tokens"] * float("inf")}, lambda s: s | {"tokens": s["tokens"] * 9},
    lambda s: s | {"tokens": s["tokens"].float()}, lambda s: s | {"tokens": "all"},
    lambda s: s | {"sources": s["sources"][1:]}, lambda s: s | {"sources": s["tokens"]},
    lambda s: s | {"places": s["tokens"]}, lambda s: {}, lambda s: [s]])
def test_a_stored_bank_that_does_not_fit_is_refused(bank, change):
    with pytest.raises(ValueError, match=r"memory(.tokens|.sources)?: expected .*, found"):
        MemoryBank.from_state(change(bank.state()), 8)
