"""Progress as plain lines where there is no terminal, on any clock."""
import gc
import io
import itertools
import sys

import pytest

from minilora.io import progress
from minilora.io.cli import run_command
from minilora.io.progress import ProgressLine, print_line, stage, stages_on, time_left


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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_stage_is_silent_unless_a_command_runs(capsys):
    assert list(stage("scoring", range(100), 100)) == list(range(100))
    assert capsys.readouterr() == ("", "")


def test_a_stage_names_itself_how_much_is_done_how_fast_and_the_time_left(monkeypatch):
    clock, out = itertools.count(0, 4), io.StringIO()       # four seconds per batch
    monkeypatch.setattr(progress.time, "time", clock.__next__)
    with stages_on(out):
        taken = list(stage("scoring", [[0] * 8] * 10, 80, len))
    assert len(taken) == 10
    assert out.getvalue().splitlines() == [
        "scoring   24/80  2.0/s    28 s left", "scoring   48/80  2.0/s    16 s left",
        "scoring   72/80  2.0/s     4 s left"]               # every ten seconds, not every batch


def test_a_short_stage_prints_nothing_where_there_is_no_terminal():
    out = io.StringIO()
    with stages_on(out):
        assert sum(stage("scoring", range(300), 300)) == 44850
    assert out.getvalue() == ""


def test_on_a_terminal_a_stage_is_one_line_that_disappears():
    out = Terminal()
    with stages_on(out):
        for k in stage("scoring", range(3), 3):
            assert out.getvalue().count("scoring") == k
    shown = out.getvalue()
    assert "\n" not in shown and "3/3" in shown and shown.endswith(" \r")


def test_a_stage_that_is_left_early_disappears_as_well():
    out = Terminal()
    with pytest.raises(KeyboardInterrupt), stages_on(out):
        for k in stage("scoring", range(3), 3):
            if k == 2:
                raise KeyboardInterrupt
    gc.collect()
    assert out.getvalue().endswith(" \r")


def test_a_printed_line_takes_the_place_of_the_progress_line(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    with stages_on(screen):
        for k in stage("scoring", range(2), 2):
            print_line(f"picture {k}")
    last = [part.split("\r")[-1] for part in screen.getvalue().split("\n")]
    assert last == ["picture 0", "picture 1", ""]           # what remains of each line


def test_a_closed_stderr_does_not_end_a_stage():
    class Closed(Terminal):
        def write(self, text):
            raise BrokenPipeError
    with stages_on(Closed()):
        assert list(stage("scoring", range(3), 3)) == [0, 1, 2]


def test_many_seconds_are_minutes():
    assert (time_left(12.3), time_left(3000)) == ("  12 s left", "  50 min left")


def test_only_a_running_command_shows_stages(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", -1)      # every item is shown
    with pytest.raises(SystemExit):
        run_command("minilora.demo", lambda: sum(stage("adding", range(2), 2)) * 0)
    out, err = capsys.readouterr()
    assert out == "" and [line.split()[:2] for line in err.splitlines()] == [
        ["adding", "1/2"], ["adding", "2/2"]]
    assert list(stage("adding", range(2), 2)) == [0, 1] and capsys.readouterr().err == ""


def test_what_comes_before_the_first_step_is_not_counted_as_a_step(monkeypatch):
    clock, out = iter([0, 100, 101, 111]), io.StringIO()    # 100 s of preparation, then steps
    monkeypatch.setattr(progress.time, "time", clock.__next__)
    line = ProgressLine(20, stream=out)
    for step in range(3):
        line(step, 0.5)
    assert out.getvalue() == "step    3/20  loss 0.5000  0.2 steps/s    94 s left\n"
