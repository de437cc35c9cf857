"""Scaling is measured on minilora's own fit; the exponent of a power law is fitted correctly."""
import argparse

import pytest

from bench import measure, scaling


def test_the_slope_of_a_power_law_is_its_exponent():
    assert scaling.slope((1, 2, 4), (3, 12, 48)) == pytest.approx(2)
    assert scaling.slope((2, 4, 8), (5, 5, 5)) == pytest.approx(0)


def test_the_memory_grows_with_shots_as_expected_and_training_does_not(tiny_weights, monkeypatch):
    """A tenth of the patches is stored, a whole number of them: the slope is 1 up to rounding."""
    monkeypatch.setitem(scaling.BASE, "steps", 2)
    monkeypatch.setattr(measure, "fresh", lambda f, *arguments, returning=False: f(*arguments))
    options = argparse.Namespace(rounds=1, model=str(tiny_weights), threads=1)
    found = scaling.grown("shots", options, lambda line: None)
    title, header, rows = scaling.table("shots", found)
    assert header == ("part", "2", "4", "8", "16", "slope", "expected")
    cells = {row[0]: row for row in rows}
    assert float(cells["stored, MB"][-2]) == pytest.approx(1, abs=0.02)
    assert cells["stored, MB"][-1] == "1"
    assert all(float(v) > 0 for row in rows[:3] for v in row[1:5])
    lines = scaling.numbers({"shots": found})[1]
    assert len(lines) == 4 * len(scaling.PARTS) and lines[0][:2] == ("shots", 2)


def test_every_part_has_an_expected_exponent():
    assert all(len(laws) == len(scaling.PARTS) for _, laws in scaling.GROWTH.values())
