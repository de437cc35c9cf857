"""Progress as plain lines where there is no terminal, on any clock."""
import sys

import pytest

from minilora.io import progress
from minilora.io.progress import ProgressLine


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    line = ProgressLine(120)
    for step in range(120):
        line(step, 0.5)
    out = capsys.readouterr().out
    assert "\r" not in out and [s.split()[1] for s in out.splitlines()] == [
        "50/120", "100/120", "120/120"]


@pytest.mark.parametrize("clock", [lambda: 5.0, iter(range(100, 0, -1)).__next__])
def test_a_clock_that_stands_still_or_goes_back_divides_nothing_by_zero(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress.time, "time", clock)
    line = ProgressLine(50)
    for step in range(50):
        line(step, 0.5)
    assert capsys.readouterr().out == "step   50/50  loss 0.5000  inf steps/s     0 s left\n"


def test_without_a_stdout_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert ProgressLine(1).terminal is False
