"""Scaling is measured on minilora's own fit; the exponent of a power law is fitted correctly."""
import argparse

import pytest

from bench import measure, scaling


def test_the_slope_of_a_power_law_is_its_exponent():
    assert scaling.slope((1, 2, 4), (3, 12, 48)) == pytest.approx(2)
    assert scaling.slope((2, 4, 8), (5, 5, 5)) == pytest.approx(0)


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures here instead of in fresh processes; returns the names of what was measured."""
    calls = []
    monkeypatch.setattr(measure, "fresh", lambda f, *arguments, returning=False: (
        calls.append(f.__name__), f(*arguments))[1])
    return calls


def test_the_memory_grows_with_shots_as_expected_and_training_does_not(
        tiny_weights, tmp_path, monkeypatch, in_this_process):
    """A tenth of the patches is stored, a whole number of them: the slope is 1 up to rounding."""
    monkeypatch.setitem(scaling.BASE, "steps", 2)
    options = argparse.Namespace(rounds=1, model=str(tiny_weights), threads=1, out=tmp_path)
    found = scaling.grown("shots", options, lambda line: None)
    title, header, rows = scaling.table("shots", found)
    assert header == ("part", "2", "4", "8", "16", "slope", "expected")
    cells = {row[0]: row for row in rows}
    assert float(cells["stored, MB"][-2]) == pytest.approx(1, abs=0.02)
    assert cells["stored, MB"][-1] == "1"
    assert all(float(v) > 0 for row in rows[:3] for v in row[1:5])
    lines = scaling.numbers({"shots": found})[1]
    assert len(lines) == 4 * len(scaling.PARTS) and lines[0][:2] == ("shots", 2)


def test_a_stopped_run_goes_on_where_it_was(tiny_weights, tmp_path, in_this_process):
    options = argparse.Namespace(rounds=1, model=str(tiny_weights), threads=1, out=tmp_path)
    size = scaling.BASE | {"shots": 2, "steps": 1}
    first = [scaling.measured_once(f, size, 0, options) for f in (scaling.times, scaling.peak)]
    again = [scaling.measured_once(f, size, 0, options) for f in (scaling.times, scaling.peak)]
    assert again == first and in_this_process == ["times", "peak"]
    scaling.measured_once(scaling.times, size, 1, options)              # another round
    scaling.measured_once(scaling.times, size | {"steps": 2}, 0, options)
    assert len(in_this_process) == 4


def test_every_part_has_an_expected_exponent():
    assert all(len(laws) == len(scaling.PARTS) for _, laws in scaling.GROWTH.values())
