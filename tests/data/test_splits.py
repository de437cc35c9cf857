"""Splits for supervised methods: all methods have the same test pictures and train on none."""
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


def test_no_picture_is_in_both_training_and_test(data):
    for labels in (1, 3, "all"):
        chosen = split(data, labels, seed=1)
        assert not {s.path for s in chosen.train} & {s.path for s in chosen.test}


def test_the_test_pictures_depend_only_on_the_seed(data):
    whole = split(data, "all", seed=1).test
    assert split(data, 2, seed=1).test == whole
    assert split(data, "all", seed=1, tail=0.5, good=30).test == whole
    assert split(data, "all", seed=2).test != whole


def test_a_smaller_number_of_labels_gives_a_subset_of_a_larger_one(data):
    assert split(data, 1, seed=3).counts() == [2, 1, 1]
    few, many = ({s.path for s in split(data, n, seed=3).train if s.label} for n in (2, 4))
    assert few < many and len(few) == 4 and len(many) == 8


def test_there_are_as_many_good_training_pictures_as_defective_ones(data):
    chosen = split(data, "all", seed=1)
    assert chosen.kinds == ("good", "crack", "stain")
    assert chosen.counts() == [9, 5, 4], "halves of 11 and 8, rounded down"
    assert len(chosen.test) == 6 + 6 + 4
    assert chosen.targets(chosen.train).bincount().tolist() == [9, 5, 4]


def test_each_kind_of_a_long_tail_has_fewer_pictures_but_at_least_two(data):
    assert split(data, "all", seed=1, tail=0.1, good=30).counts() == [30, 5, 2]


def test_too_many_labels_and_a_class_without_defects_are_errors(data):
    with pytest.raises(ValueError, match="5 labels asked for, 4 of stain"):
        split(data, 5, seed=1)
    bare = Dataset(data.root, "nut", data.train, [s for s in data.test if not s.label])
    with pytest.raises(ValueError, match="expected folders of defects"):
        split(bare, 1, seed=1)
