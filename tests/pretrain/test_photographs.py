"""Photographs for pretraining: what is cut out, held out, asked of the teacher and kept."""
from copy import copy

import numpy as np
import pytest
import torch
from photographs import write_photographs, write_teacher
from sklearn.decomposition import PCA

from minilora.pretrain import photographs, teacher_targets
from minilora.pretrain.captions import NORMAL, PASTED, UNMENTIONED


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    return write_photographs(folder / "photos"), write_teacher(folder / "teacher.npz")


@pytest.fixture(scope="module")
def drawn(sources):
    return photographs.Photographs(*sources, crops=2)


def test_folder_names_are_the_nouns_and_background_has_none(sources):
    found, class_names = photographs.find_photographs(sources[0])
    assert class_names == ["sea horse", "tick"] and len(found) == 30
    assert {path.parent.name: class_name for path, class_name in found} == {
        "BACKGROUND_noise": UNMENTIONED, "sea_horse": 0, "tick": 1}


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected folders of photographs named by what they show"):
        photographs.find_photographs(tmp_path)


def test_no_photograph_is_both_learned_from_and_held_out(drawn):
    number = [number for number, _ in drawn.crops.items]
    train, test = ({number[k] for k in part} for part in (drawn.train, drawn.test))
    assert not train & test and test == {9, 19, 29} and len(train) == 27
    assert len(drawn.test) == 6, "each as it is and with a defect"


def test_a_crop_is_always_the_same_and_none_is_twice(sources, drawn):
    again = photographs.Photographs(*sources, crops=2).crops
    for k in (0, 3):
        assert torch.equal(drawn.crops[k][0], again[k][0])
    one, two = (drawn.crops[k] for k in (0, 1))
    assert one[3] == two[3] and not torch.equal(one[0], two[0]), "two crops of a photograph differ"


def test_a_pasted_defect_is_told_by_facts_and_coverage(drawn):
    items = [drawn.crops[k] for k in range(len(drawn.crops))]
    damaged = [facts[3] == PASTED for _, _, facts, _ in items]
    assert 10 < sum(damaged) < 50, "about half"
    for (_, mask, facts, _), pasted in zip(items, damaged):
        assert mask.any() == pasted and facts[3] in (PASTED, NORMAL)
    for good, bad in zip(drawn.test[::2].tolist(), drawn.test[1::2].tolist()):
        assert not damaged[good] and damaged[bad]
        same = (items[good][0] == items[bad][0]).all(0)
        assert same.float().mean() > 0.3, "the same middle of the same photograph"


def test_four_neighbours_of_a_patch_keep_their_places():
    results = torch.arange(28.0 * 28).view(1, 1, 28, 28)
    placed = teacher_targets.places_of(results, 2)
    assert placed.shape == (1, 14, 14, 4, 1)
    assert placed[0, 3, 5, :, 0].tolist() == [6 * 28 + 10, 6 * 28 + 11, 7 * 28 + 10, 7 * 28 + 11]


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


def test_what_is_stored_is_what_would_be_drawn(drawn, tmp_path):
    lines = []
    stored = photographs.store(copy(drawn), tmp_path / "views", 0, lines.append)
    assert any("can be deleted" in line for line in lines)
    assert stored.columns and not drawn.columns
    numbers = [0, 5, int(drawn.test[1])]
    for one, two in zip(stored.rows(numbers)[:3], drawn.rows(numbers)[:3]):
        assert torch.equal(one, two)
    for layer, target in stored.rows(numbers)[3].items():
        assert torch.allclose(target, drawn.rows(numbers)[3][layer], atol=5e-3), layer
    lines.clear()
    photographs.store(copy(drawn), tmp_path / "views", 0, lines.append)
    assert not lines, "what is there is not drawn again"


def test_the_size_told_is_the_size_taken(drawn, tmp_path):
    photographs.store(copy(drawn), tmp_path / "views", 0, lambda line: None)
    taken = sum(path.stat().st_size for path in (tmp_path / "views").glob("*.npy"))
    assert taken / 1e9 == pytest.approx(photographs.gigabytes(len(drawn.crops)), rel=0.01)


def test_a_picture_cut_anew_keeps_its_mask_in_place():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 1, 14, 14, generator=generator) > 0.5
    mask = torch.nn.functional.interpolate(mask.float(), (224, 224))[0, 0] > 0
    picture = (255 * mask).byte().expand(3, -1, -1)
    cuts = [photographs.recut(picture, mask, generator) for _ in range(8)]
    for cut, part in cuts:
        assert cut.shape == (3, 224, 224) and cut.dtype == torch.uint8
        assert ((cut[0] > 127) != part).float().mean() < 0.03
    assert not torch.equal(cuts[0][1], cuts[1][1])
    wide, part = photographs.recut(picture, mask, generator, (96, 192))
    assert wide.shape == (3, 96, 192) and ((wide[0] > 127) != part).float().mean() < 0.03


def test_live_photographs_are_cut_anew_and_the_teacher_sees_the_cut(sources, tmp_path):
    live = photographs.store(photographs.Photographs(*sources, crops=1, live=True), tmp_path / "views", 0,
                        lambda line: None)
    assert not [name for name in live.columns if name.startswith("target")]
    generator = torch.Generator().manual_seed(0)
    one, two = (live.batch(4, generator) for _ in range(2))
    assert one[3] == {} and not torch.equal(one[0], two[0])
    again = live.batch(4, torch.Generator().manual_seed(0))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    pictures, _, _, targets = live.rows(live.test[:2])
    assert torch.equal(targets[39], live.targets(pictures)[39].float())
