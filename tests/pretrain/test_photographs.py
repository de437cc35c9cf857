"""Photographs for pretraining: crops, held-out pictures, teacher targets, stored files."""
from copy import copy

import numpy as np
import pytest
import torch
from photographs import write_photographs, write_teacher
from sklearn.decomposition import PCA

from minilora.pretrain import photographs, target_cache, teacher_targets
from minilora.pretrain.captions import NORMAL, PASTED, UNMENTIONED


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    return write_photographs(folder / "photos"), write_teacher(folder / "teacher.npz")


@pytest.fixture(scope="module")
def drawn(sources):
    return target_cache.Photographs(*sources, crops=2)


def test_folder_names_are_the_class_names_and_background_has_none(sources):
    found, class_names = photographs.find_photographs(sources[0])
    assert class_names == ["sea horse", "tick"] and len(found) == 30
    assert {path.parent.name: class_name for path, class_name in found} == {
        "BACKGROUND_noise": UNMENTIONED, "sea_horse": 0, "tick": 1}


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected folders of photographs named by what they show"):
        photographs.find_photographs(tmp_path)


def test_no_photograph_is_used_for_training_and_held_out(drawn):
    number = [number for number, _ in drawn.crops.items]
    train, test = ({number[k] for k in part} for part in (drawn.train, drawn.test))
    assert not train & test and test == {9, 19, 29} and len(train) == 27
    assert len(drawn.test) == 6, "each without and with a defect"


def test_a_crop_is_always_the_same_and_no_two_crops_are_equal(sources, drawn):
    again = target_cache.Photographs(*sources, crops=2).crops
    for k in (0, 3):
        assert torch.equal(drawn.crops[k][0], again[k][0])
    one, two = (drawn.crops[k] for k in (0, 1))
    assert one[3] == two[3] and not torch.equal(one[0], two[0]), "two crops of a photograph differ"


def test_facts_and_mask_show_a_pasted_defect(drawn):
    items = [drawn.crops[k] for k in range(len(drawn.crops))]
    damaged = [facts[3] == PASTED for _, _, facts, _ in items]
    assert 10 < sum(damaged) < 50, "about half"
    for (_, mask, facts, _), pasted in zip(items, damaged):
        assert mask.any() == pasted and facts[3] in (PASTED, NORMAL)
    for good, bad in zip(drawn.test[::2].tolist(), drawn.test[1::2].tolist()):
        assert not damaged[good] and damaged[bad]
        same = (items[good][0] == items[bad][0]).all(0)
        assert same.float().mean() > 0.3, "the same central square of the same photograph"


def test_the_four_neighbours_of_a_patch_keep_their_positions():
    results = torch.arange(28.0 * 28).view(1, 1, 28, 28)
    grouped = teacher_targets.group_by_patch(results, 2)
    assert grouped.shape == (1, 14, 14, 4, 1)
    assert grouped[0, 3, 5, :, 0].tolist() == [6 * 28 + 10, 6 * 28 + 11, 7 * 28 + 10, 7 * 28 + 11]


def test_components_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 12, generator=generator) * torch.linspace(0.1, 2, 12)
    part = teacher_targets.Components(vectors, 5)
    unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
    peer = PCA(5).fit(unit)
    assert part.kept == pytest.approx(peer.explained_variance_ratio_.sum(), rel=1e-4)
    expected = peer.transform(unit) / np.sqrt(peer.explained_variance_.sum())
    assert np.allclose(part.project(vectors).abs(), np.abs(expected), atol=1e-4)
    assert part.project(vectors).var(0).sum() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(part.project(3 * vectors), part.project(vectors), atol=1e-5)


def test_stored_pictures_equal_drawn_ones(drawn, tmp_path):
    lines = []
    stored = target_cache.store(copy(drawn), tmp_path / "views", 0, lines.append)
    assert any("can be deleted" in line for line in lines)
    assert stored.columns and not drawn.columns
    numbers = [0, 5, int(drawn.test[1])]
    for one, two in zip(stored.rows(numbers)[:3], drawn.rows(numbers)[:3]):
        assert torch.equal(one, two)
    for layer, target in stored.rows(numbers)[3].items():
        assert torch.allclose(target, drawn.rows(numbers)[3][layer], atol=5e-3), layer
    lines.clear()
    target_cache.store(copy(drawn), tmp_path / "views", 0, lines.append)
    assert not lines, "stored pictures are not drawn again"


def test_the_predicted_size_is_the_size_on_disk(drawn, tmp_path):
    target_cache.store(copy(drawn), tmp_path / "views", 0, lambda line: None)
    size = sum(path.stat().st_size for path in (tmp_path / "views").glob("*.npy"))
    assert size / 1e9 == pytest.approx(target_cache.gigabytes(len(drawn.crops)), rel=0.01)


def test_a_random_crop_cuts_picture_and_mask_at_the_same_place():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 1, 14, 14, generator=generator) > 0.5
    mask = torch.nn.functional.interpolate(mask.float(), (224, 224))[0, 0] > 0
    picture = (255 * mask).byte().expand(3, -1, -1)
    crops = [photographs.random_crop(picture, mask, generator) for _ in range(8)]
    for crop, part in crops:
        assert crop.shape == (3, 224, 224) and crop.dtype == torch.uint8
        assert ((crop[0] > 127) != part).float().mean() < 0.03
    assert not torch.equal(crops[0][1], crops[1][1])
    wide, part = photographs.random_crop(picture, mask, generator, (96, 192))
    assert wide.shape == (3, 96, 192) and ((wide[0] > 127) != part).float().mean() < 0.03


def test_live_photographs_get_new_crops_and_the_targets_of_these_crops(sources, tmp_path):
    live = target_cache.store(target_cache.Photographs(*sources, crops=1, live=True),
                              tmp_path / "views", 0, lambda line: None)
    assert not [name for name in live.columns if name.startswith("target")]
    generator = torch.Generator().manual_seed(0)
    one, two = (live.batch(4, generator) for _ in range(2))
    assert one[3] == {} and not torch.equal(one[0], two[0])
    again = live.batch(4, torch.Generator().manual_seed(0))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    pictures, _, _, targets = live.rows(live.test[:2])
    assert torch.equal(targets[39], live.targets(pictures)[39].float())
