"""Errors in one line, Ctrl-C without a traceback, progress as plain lines."""

import sys

import pytest

from minilora.terminal import ProgressLine, command


def test_an_error_is_one_line_and_an_exit_status(capsys):
    def main():
        raise ValueError("--shots few: expected a number")
    with pytest.raises(SystemExit) as stop:
        command("minilora.fit", main, failed=2)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "minilora.fit: --shots few: expected a number\n"


def test_debug_shows_where_it_came_from(monkeypatch):
    def main():
        raise OSError("disk full")
    monkeypatch.setattr(sys, "argv", ["minilora.fit", "--debug"])
    with pytest.raises(OSError, match="disk full"):
        command("minilora.fit", main)


def test_a_mistake_of_minilora_itself_keeps_its_traceback():
    def main():
        raise KeyError("no such thing")
    with pytest.raises(KeyError):
        command("minilora.fit", main)


def test_control_c_says_what_is_safe(capsys):
    def main():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stop:
        command("minilora.fit", main)
    assert stop.value.code == 130 and "whole" in capsys.readouterr().err


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    line = ProgressLine(120)
    for step in range(120):
        line(step, 0.5)
    out = capsys.readouterr().out
    assert "\r" not in out and [s.split()[1] for s in out.splitlines()] == [
        "50/120", "100/120", "120/120"]
