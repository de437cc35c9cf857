"""Which labelled pictures may be learned from: the same ones are judged, whoever learns."""
from pathlib import Path

import pytest

from minilora.data.mvtec import Dataset, Sample
from minilora.data.splits import split


@pytest.fixture
def data():
    test = [Sample(Path(f"test/{kind}/{k:02}.png"), kind, int(kind != "good"))
            for kind, count in (("crack", 11), ("good", 6), ("stain", 8)) for k in range(count)]
    train = [Sample(Path(f"train/good/{k:02}.png"), "good", 0) for k in range(40)]
    return Dataset(Path("nut"), "nut", train, test)


def test_nothing_that_is_judged_is_learned_from(data):
    for labels in (1, 3, "all"):
        chosen = split(data, labels, seed=1)
        assert not {s.path for s in chosen.train} & {s.path for s in chosen.test}


def test_the_judged_pictures_depend_on_the_seed_alone(data):
    whole = split(data, "all", seed=1).test
    assert split(data, 2, seed=1).test == whole
    assert split(data, "all", seed=1, tail=0.5, good=30).test == whole
    assert split(data, "all", seed=2).test != whole


def test_fewer_labels_are_a_part_of_more(data):
    assert split(data, 1, seed=3).counts() == [2, 1, 1]
    few, many = ({s.path for s in split(data, n, seed=3).train if s.label} for n in (2, 4))
    assert few < many and len(few) == 4 and len(many) == 8


def test_good_pictures_number_as_many_as_defective_ones(data):
    chosen = split(data, "all", seed=1)
    assert chosen.kinds == ("good", "crack", "stain")
    assert chosen.counts() == [9, 5, 4], "halves of 11 and 8, rounded down"
    assert len(chosen.test) == 6 + 6 + 4
    assert chosen.targets(chosen.train).bincount().tolist() == [9, 5, 4]


def test_a_tail_grows_thinner_and_never_empty(data):
    assert split(data, "all", seed=1, tail=0.1, good=30).counts() == [30, 5, 2]


def test_too_many_labels_or_none_at_all_are_named(data):
    with pytest.raises(ValueError, match="5 labels asked for, 4 of stain"):
        split(data, 5, seed=1)
    bare = Dataset(data.root, "nut", data.train, [s for s in data.test if not s.label])
    with pytest.raises(ValueError, match="expected folders of defects"):
        split(bare, 1, seed=1)
