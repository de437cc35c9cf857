"""A name made from any other is short, printable and distinct."""
import os

import pytest

from minilora.io.derived_name import derived_stem


@pytest.mark.parametrize("stem", ["a", "scratch-003", "Teil 7 (grün)", "x" * 200, "日本", "[a]", "-"])
def test_an_ordinary_name_stays(stem):
    assert derived_stem(stem) == stem


@pytest.mark.parametrize("stem", ["x" * 201, "ü" * 101, "日" * 80, "a\nb", "a\x1b[2J",
                                  "caf\udce9", "", "\udc80" * 255, "a\\b", "a:b", "\ud800", "‮gnp"])
def test_any_other_becomes_short_and_printable(tmp_path, stem):
    name = derived_stem(stem)
    assert name.isprintable() and 0 < len(name.encode()) <= 200
    (tmp_path / f"0000-OK-{name}-12.png").write_text("")
    assert len(os.fsencode(f"0000-OK-{name}-12.png")) <= 255


def test_names_that_differ_stay_different():
    stems = ["x" * 250 + end for end in "abc"] + ["a\n", "a\t", "a_", "a\udce9", "a\udce8"]
    assert len({derived_stem(stem) for stem in stems}) == len(stems)
