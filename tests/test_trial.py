"""Pasted defects decide how much each size of the memory counts."""
import pytest
import torch

from minilora import trial
from minilora.defects import KINDS


@pytest.fixture
def masks():
    masks = torch.zeros(4, 16, 16, dtype=torch.bool)
    masks[:, 4:9, 4:9] = True
    return masks


def test_every_picture_gets_a_defect_where_its_mask_says_so():
    generator = torch.Generator().manual_seed(0)
    good = torch.rand(6, 3, 64, 64, generator=generator)
    shown, masks = trial.pasted(good, KINDS, generator)
    assert shown.shape == good.shape and masks.dtype == torch.bool
    changed = (shown != good).any(1)
    assert changed.flatten(1).any(1).all() and masks.flatten(1).any(1).all()
    beside = (changed & ~masks).flatten(1).sum(1)
    assert (beside < 0.1 * masks.flatten(1).sum(1)).all(), "but for soft edges"


def test_sizes_count_by_the_inverse_square_of_their_errors(masks):
    """Two maps whose shares of wrongly ordered pairs are 0 and 0.5, by hand."""
    perfect, blind = masks.float(), torch.zeros(masks.shape)
    expected = [0.02 ** -2, 0.52 ** -2]
    assert trial.weights([perfect, blind], masks) == pytest.approx(
        [x / sum(expected) for x in expected])


def test_the_better_size_counts_more_and_all_together_one(masks):
    generator = torch.Generator().manual_seed(0)
    maps = [masks + x * torch.randn(masks.shape, generator=generator) for x in (2.0, 0.5, 1.0)]
    found = trial.weights(maps, masks)
    assert found[1] > found[2] > found[0] > 0 and sum(found) == pytest.approx(1)


def test_without_a_pasted_pixel_all_sizes_count_alike(masks):
    maps = [torch.rand(masks.shape), torch.rand(masks.shape)]
    assert trial.weights(maps, masks & False) == trial.weights(maps, masks | True) == [0.5, 0.5]
