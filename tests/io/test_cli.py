"""Errors in one line, Ctrl-C without a traceback, progress as plain lines."""
import sys

import pytest

from minilora.io import cli, files
from minilora.io.cli import ProgressLine, run_command
from minilora.io.transaction import STAGING


def test_an_error_is_one_line_and_an_exit_status(capsys):
    def main():
        raise ValueError("--shots few: expected a number")
    with pytest.raises(SystemExit) as stop:
        run_command("minilora.fit", main, error_status=2)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "minilora.fit: --shots few: expected a number\n"


def test_debug_shows_the_traceback(monkeypatch):
    def main():
        raise OSError("disk full")
    monkeypatch.setattr(sys, "argv", ["minilora.fit", "--debug"])
    with pytest.raises(OSError, match="disk full"):
        run_command("minilora.fit", main)


def test_a_bug_in_minilora_keeps_its_traceback():
    def main():
        raise KeyError("no such thing")
    with pytest.raises(KeyError):
        run_command("minilora.fit", main)


@pytest.mark.parametrize("count, words", [
    (0, "stopped; no file was written yet"),
    (1, "stopped; completely written: 0.txt"),
    (5, "stopped; completely written: 2.txt, 3.txt, 4.txt and 2 more")])
def test_control_c_names_the_files_that_are_written(count, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "WRITTEN", [])
    monkeypatch.setattr(cli, "WRITTEN", files.WRITTEN)
    monkeypatch.chdir(tmp_path)

    def main():
        for k in range(count):
            with files.atomic_write(f"{k}.txt", "w") as file:
                file.write("whole")
        with files.atomic_write("incomplete.txt", "w") as file:
            file.write("half")
            raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stop:
        run_command("minilora.fit", main)
    assert stop.value.code == 130 and capsys.readouterr().err == f"\nminilora.fit: {words}\n"


def test_control_c_in_a_fit_says_that_it_can_continue(tmp_path, monkeypatch):
    staged = tmp_path / "run" / f"{STAGING}fit" / "unfinished.pt"
    monkeypatch.setattr(cli, "WRITTEN", [staged])
    assert cli.written_files_message() == "run the same command again to continue"


def test_help_shows_defaults_except_none_and_switches():
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
