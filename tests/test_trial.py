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


def test_an_error_is_a_pair_of_pixels_in_the_wrong_order(masks):
    """Shares of pairs by hand, each picture by itself: an offset between pictures is no error."""
    assert trial.error(masks.float(), masks) == pytest.approx(0.02)
    assert trial.error(torch.zeros(masks.shape), masks) == pytest.approx(0.52)
    assert trial.error(-masks.float(), masks) == pytest.approx(1.02)
    offset = torch.tensor([0.0, 5, -7, 100])[:, None, None]
    assert trial.error(masks + offset, masks) == pytest.approx(0.02)
    mixed = torch.cat([masks[:2].float(), -masks[2:].float()])
    assert trial.error(mixed, masks) == pytest.approx(0.52), "the mean of 0, 0, 1, 1"


def test_pictures_without_pairs_do_not_count(masks):
    one = masks.clone()
    one[1:3] = False
    one[3] = True
    maps = -masks.float()
    maps[1:] = torch.rand(3, 16, 16)
    assert trial.error(maps, one) == pytest.approx(1.02)
    assert trial.error(maps, masks & False) == 1.0


def test_maps_count_by_the_inverse_square_of_their_errors():
    assert trial.weights([0.1, 0.2]) == pytest.approx([0.8, 0.2])
    assert trial.weights([0.3, 0.3, 0.3]) == pytest.approx(3 * [1 / 3])


def test_the_better_size_counts_more_and_all_together_one(masks):
    generator = torch.Generator().manual_seed(0)
    maps = [masks + x * torch.randn(masks.shape, generator=generator) for x in (2.0, 0.5, 1.0)]
    found = trial.weights([trial.error(m, masks) for m in maps])
    assert found[1] > found[2] > found[0] > 0 and sum(found) == pytest.approx(1)
