"""Errors in one line, exit statuses, Ctrl-C without a traceback, checked options."""
import argparse
import errno
import io
import os
import re
import sys

import pytest

from minilora.io import cli, error_text, files, notes
from minilora.io.cli import option_parser, run_command
from minilora.io.transaction import RESUME_FILE, STAGING


def test_an_error_is_one_line_and_an_exit_status(capsys):
    def main():
        raise ValueError("--shots few: expected a number")
    with pytest.raises(SystemExit) as stop:
        run_command("minilora.fit", main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "minilora.fit: --shots few: expected a number\n"


def test_debug_shows_the_traceback(monkeypatch, capsys):
    def main():
        raise OSError("disk full")
    monkeypatch.setattr(sys, "argv", ["minilora.fit", "--debug"])
    assert status(main) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and printed.endswith("OSError: disk full\n")


@pytest.mark.parametrize("error, words", [
    (KeyError("no such thing"), "unexpected KeyError: 'no such thing'"),
    (RuntimeError("two\nlines \x1b[2J"), "unexpected RuntimeError: two lines \\x1b[2J"),
    (MemoryError(), "unexpected MemoryError: ")])
def test_a_bug_in_minilora_is_one_line_and_never_status_1(error, words, capsys):
    def main():
        files.write_json("x", Unwritable(error))
    assert status(main) == 2
    printed = capsys.readouterr().err
    assert re.fullmatch(re.escape(f"minilora.fit: {words} (") + r"files.py:\d+\); --debug shows "
                        r"the traceback\n", printed), printed


class Unwritable(dict):
    """A value that fails inside minilora/io/files.py, as a bug would."""

    def __init__(self, error):
        super().__init__(a=1)
        self.error = error

    def items(self):
        raise self.error

    def __len__(self):
        raise self.error


def status(main, name="minilora.fit"):
    """The exit status of a command."""
    with pytest.raises(SystemExit) as stop:
        run_command(name, main)
    return stop.value.code


def test_a_message_cannot_forge_a_second_line(capsys):
    def main():
        raise ValueError("picture a.png\nOK  score 0.1  b.png\x1b[1A is damaged")
    assert status(main) == 2
    assert capsys.readouterr().err == ("minilora.fit: picture a.png\\nOK  score 0.1  "
                                       "b.png\\x1b[1A is damaged\n")


def test_a_note_about_a_file_is_printed_once_at_the_end(capsys):
    def main():
        for _ in range(2):
            notes.note("only the first page is used", "a.tif")
    assert status(main) == 0
    assert capsys.readouterr().err == "minilora.fit: a.tif: only the first page is used\n"


@pytest.mark.parametrize("kind, text", [
    (cli.positive_int, "0"), (cli.positive_int, "2.5"), (cli.positive_int, "9" * 5000),
    (cli.non_negative_int, "-1"), (cli.seed_value, str(2**63)), (cli.seed_value, "-1"),
    (cli.finite_number(0, 10), "nan"), (cli.finite_number(0, 10), "inf"),
    (cli.finite_number(0, 10), "-0.5"), (cli.device_name, "cdua"), (cli.device_name, "cuda:99"),
    (cli.device_name, ""), (cli.non_negative_int, "\x1b[2J")])
def test_a_wrong_value_is_refused_by_argparse_in_one_line(kind, text, capsys):
    p = cli.option_parser("minilora.fit", "Fits.")
    p.add_argument("--number", type=kind)
    with pytest.raises(SystemExit) as stop:
        p.parse_args([f"--number={text}"])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.count("\n") == 1 and printed[:-1].isprintable()
    assert "--number: " in printed and len(printed) < 500


def test_the_limits_of_an_option_are_allowed():
    assert cli.seed_value(str(2**63 - 1)) == 2**63 - 1 and cli.non_negative_int("0") == 0
    assert cli.positive_int("1") == 1 and cli.finite_number(0, 10)("1e1") == 10


def test_a_refused_number_is_told_the_limits_as_people_write_them():
    with pytest.raises(argparse.ArgumentTypeError, match="a number from 0 to 1,000,000, found"):
        cli.finite_number(0, 1e6)("-1")
    assert cli.device_name("cpu") == "cpu" and cli.checked_device("cpu").type == "cpu"


def test_the_devices_that_are_here_are_listed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert cli.checked_device("cuda:1").index == 1 and cli.checked_device("cuda").type == "cuda"
    with pytest.raises(ValueError, match="cuda:2: no such device here.*cpu.*cuda, cuda:0, cuda:1"):
        cli.checked_device("cuda:2")


@pytest.mark.parametrize("count, words", [
    (0, "stopped; no file was written yet"),
    (1, "stopped; completely written: 0.txt"),
    (5, "stopped; completely written: 2.txt, 3.txt, 4.txt and 2 more")])
def test_control_c_names_the_files_that_are_written(count, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "WRITTEN", [])
    monkeypatch.setattr(error_text, "WRITTEN", files.WRITTEN)
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
    staged = tmp_path / "run" / f"{STAGING}fit" / RESUME_FILE
    monkeypatch.setattr(error_text, "WRITTEN", [staged])
    assert error_text.written_files_message() == "run the same command again to continue"


def test_suggested_commands_are_quoted_and_in_the_form_that_was_used(monkeypatch):
    for start, expected in (("/usr/bin/minilora", "minilora predict"),
                            ("C:/x/minilora.exe", "minilora predict"),
                            ("/x/minilora/__main__.py", "python -m minilora predict"),
                            ("/x/minilora/fit.py", "python -m minilora.predict")):
        monkeypatch.setattr(sys, "argv", [start])
        assert cli.shell_command("predict", "runs/my nut", "-x") == f"{expected} 'runs/my nut' -x"


def test_auto_is_the_fastest_device(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.device_name("auto") == "cpu"
    assert cli.device_text("cpu").startswith("cpu (no GPU found), ")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert cli.device_name("auto") == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    assert cli.device_name("auto") == "cuda" and cli.device_text("cuda") == "cuda (Tesla T4)"
    assert cli.device_text("cpu").startswith("cpu (chosen with --device; cuda is here as well), ")


def test_an_output_that_is_full_gives_status_2_even_if_nothing_was_flushed(monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(sys, "stdout", Full())
    assert status(lambda: print("a result")) == 2
    assert capsys.readouterr().err == "minilora.fit: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("returned, expected", [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_the_exit_status_is_what_the_command_returns(returned, expected):
    assert status(lambda: returned) == expected


def test_a_working_folder_that_is_gone_does_not_hide_what_was_written(tmp_path, monkeypatch):
    def gone():
        raise FileNotFoundError("no such folder")
    monkeypatch.setattr(error_text, "WRITTEN", [tmp_path / "a.txt"])
    monkeypatch.setattr(os, "getcwd", gone)
    assert error_text.written_files_message() == f"completely written: {tmp_path / 'a.txt'}"


def test_an_error_of_the_system_names_the_file_first(capsys, tmp_path):
    def failing(error):
        raise error
    for error, words in ((PermissionError(13, "Permission denied", "a\nb.png"),
                          "a\\nb.png: Permission denied; give the rights for it"),
                         (OSError(5, "Input/output error", "a.png"), "a.png: Input/output error")):
        with pytest.raises(SystemExit):
            run_command("minilora.fit", lambda error=error: failing(error))
        assert capsys.readouterr().err == f"minilora.fit: {words}\n"


def test_an_empty_value_is_refused_unless_the_option_may_be_empty(capsys):
    p = option_parser("minilora.demo", None)
    p.add_argument("--data")
    p.add_argument("--views")
    p.add_argument("text", nargs="?")
    p.may_be_empty = ("--views",)
    assert p.parse_args(["--views", "", "--data=x"]).views == ""
    assert p.parse_args([""]).text == ""
    for arguments in (["--data="], ["--data", ""], ["--data", "", "x"]):
        with pytest.raises(SystemExit) as stop:
            p.parse_args(arguments)
        assert stop.value.code == 2 and "--data: expected a value" in capsys.readouterr().err
