"""Errors in one line, Ctrl-C without a traceback, progress as plain lines."""

import sys

import pytest

from minilora.io import cli, files
from minilora.io.cli import ProgressLine, command
from minilora.io.transaction import STAGING


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


@pytest.mark.parametrize("count, words", [
    (0, "stopped; nothing had been written yet"),
    (1, "stopped; written, and whole: 0.txt"),
    (5, "stopped; written, and whole: 2.txt, 3.txt, 4.txt and 2 more")])
def test_control_c_names_what_is_saved(count, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "WRITTEN", [])
    monkeypatch.setattr(cli, "WRITTEN", files.WRITTEN)
    monkeypatch.chdir(tmp_path)

    def main():
        for k in range(count):
            with files.whole_file(f"{k}.txt", "w") as file:
                file.write("whole")
        with files.whole_file("torn.txt", "w") as file:
            file.write("half")
            raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stop:
        command("minilora.fit", main)
    assert stop.value.code == 130 and capsys.readouterr().err == f"\nminilora.fit: {words}\n"


def test_control_c_in_a_fit_says_that_it_can_go_on(tmp_path, monkeypatch):
    staged = tmp_path / "run" / f"{STAGING}fit" / "unfinished.pt"
    monkeypatch.setattr(cli, "WRITTEN", [staged])
    assert cli.saved() == "the same command goes on from where it was"


def test_help_shows_defaults_that_say_something():
    p = cli.option_parser("minilora.fit", "Fits.\n\nMore.")
    p.add_argument("--seed", type=int, default=0, help="of the draw")
    p.add_argument("--model", help="a file")
    p.add_argument("--no-turns", action="store_false", help="as they lie")
    text = p.format_help()
    assert "of the draw (default: 0)" in text and text.count("default") == 1
    assert "python -m minilora.fit" in text and "Fits.\n" in text and "More" not in text


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    line = ProgressLine(120)
    for step in range(120):
        line(step, 0.5)
    out = capsys.readouterr().out
    assert "\r" not in out and [s.split()[1] for s in out.splitlines()] == [
        "50/120", "100/120", "120/120"]
