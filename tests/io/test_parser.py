"""Every --help fits one screen: an example that can be run, then one line per option."""
import argparse
import re
import shlex
import sys

import pytest

from minilora.__main__ import COMMANDS, command_main
from minilora.io.cli import option_parser

COLUMNS, LINES = 80, 40                         # of a small screen


def parsers():
    """{command: its parser}, with those of search's three commands."""
    found = {}
    for name in COMMANDS:
        found[name] = p = sys.modules[command_main(name).__module__].parser()
        for action in p._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= {f"{name} {job}": one for job, one in action.choices.items()}
    return found


PARSERS = parsers()


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("command", PARSERS)
def test_the_help_of_a_command_fits_one_screen(command, screen):
    lines = PARSERS[command].format_help().splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) < COLUMNS


@pytest.mark.parametrize("command", PARSERS)
def test_the_help_starts_with_an_example_that_itself_parses(command, screen):
    """Nothing runs: the paths of an example need not be there."""
    p = PARSERS[command]
    words = shlex.split(p.format_help().splitlines()[0])
    start = ["example:", "python", "-m", *f"minilora.{command}".split()]
    assert words[:len(start)] == start and len(words) > len(start)
    p.parse_args(words[len(start):])


@pytest.mark.parametrize("command", PARSERS)
def test_each_option_has_a_line_of_its_own_and_the_rare_ones_come_last(command, screen):
    p = PARSERS[command]
    text = p.format_help()
    listed = re.findall(r"^  (-[-\w]+).*?  \S", text, re.M)
    shown = [a.option_strings[0] for a in p._actions
             if a.option_strings and a.help is not argparse.SUPPRESS]
    assert sorted(listed) == sorted(shown)
    rare = text.index("\nrare options:\n")
    assert all(text.index(f"\n  {a.option_strings[0]}") > rare for a in p.rare._group_actions
               if a.help is not argparse.SUPPRESS)
    assert not [title for title in re.findall(r"^(\w.*):$", text[rare + 2:], re.M)
                if title != "are options"]


def test_a_flag_means_the_same_in_every_command():
    """One spelling that --help shows has one unit (metavar) everywhere."""
    units = {}
    for command, p in PARSERS.items():
        for action in p._actions:
            if action.option_strings and action.help is not argparse.SUPPRESS:
                unit = "switch" if action.nargs == 0 else action.metavar
                units.setdefault(action.option_strings[0], {}).setdefault(unit, []).append(command)
    allowed = {"--out"}                                         # a file or a folder
    assert {flag: found for flag, found in units.items() if len(found) > 1
            and flag not in allowed} == {}
    assert list(units["--rate"]) == ["R"] and list(units["--save-every"]) == ["SECONDS"]


@pytest.mark.parametrize("command, old, new", [
    ("belts", "--rate 4", "--frame-rate 4"), ("search index", "p --rate 4", "p --frame-rate 4"),
    ("pretrain", "--save-every 5", "--save-steps 5"), ("export", "r p --runs", "r p --rle"),
    ("fit", "--noun nut", "--class-name nut"), ("fit", "--no-turns", "--no-rotations")])
def test_an_older_spelling_still_works_and_is_not_in_the_help(command, old, new):
    p = PARSERS[command]
    assert p.parse_args(old.split()) == p.parse_args(new.split())
    hidden = re.search(r"--[-a-z]+", old)[0]
    assert not re.search(rf"{hidden}\b", p.format_help())


def test_help_shows_defaults_except_none_and_switches():
    p = option_parser("minilora.fit", "Fits.\n\nMore.", "--seed 2", "exit status: 0")
    p.add_argument("--seed", type=int, default=0, help="of the draw")
    p.add_argument("--model", help="a file")
    p.add_argument("--no-turns", action="store_false", help="as they lie")
    text = p.format_help()
    assert "of the draw (default: 0)" in text and text.count("default") == 1
    assert text.startswith("example: python -m minilora.fit --seed 2\n\nFits.\n")
    assert "More" not in text and text.endswith("\nexit status: 0\n")


def test_without_docstrings_there_is_still_a_help():
    assert "--debug" in option_parser("minilora.fit", None).format_help()


def test_an_unknown_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        PARSERS["data"].parse_args(["--sahpe"])
    assert stop.value.code == 2 and capsys.readouterr().err == (
        "minilora.data: unrecognized arguments: --sahpe; --help lists the options\n")
