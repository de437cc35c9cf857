"""Commands under unusual circumstances: consoles, names of files, users, closed outputs."""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from conftest import REPO

from minilora import export, fit, predict
from minilora.io.cli import option_parser, run_command
from minilora.runs import run_class

# Bytes that are not UTF-8, a forged line, a console's control sequence, 249 bytes, a formula, an
# option, a console without Greek; on Linux all of them are names of files
ODD_NAMES = (b"caf\xe9", b"a\nOK  b", b"\x1b[2Jgone", b"x" * 245, b"=1+1", b"-k", "ΔW".encode(),
             "x\x85\u2028y".encode(), b"tab\there")


@pytest.fixture(scope="module")
def odd(gear_run, tmp_path_factory):
    """(run folder, folder with one good picture under all the odd names)."""
    run, data = gear_run
    folder = tmp_path_factory.mktemp("odd") / "pictures"
    folder.mkdir()
    for name in ODD_NAMES:
        try:
            shutil.copy(data / "test/good/000.png", os.path.join(os.fsencode(folder),
                                                                 name + b".png"))
        except (OSError, ValueError):
            pytest.skip("this file system does not have such names")
    return run, folder


def started(arguments, redirect="", environment=None, flags=(), cwd=REPO):
    """A finished process of `python FLAGS -m ARGUMENTS REDIRECT`."""
    if sys.platform == "win32":
        pytest.skip("needs a Unix shell")
    variables = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1",
                 **(environment or {})}
    script = f'exec "$@" {redirect}'
    return subprocess.run(["sh", "-c", script, "sh", sys.executable, *flags, "-m", *arguments],
                          capture_output=True, env=variables, cwd=cwd)


def predicting(odd, out, *more):
    return ["minilora.predict", str(odd[0]), str(odd[1]), "--out", str(out), *more]


# ---- names and consoles -------------------------------------------------------------------------

def test_an_ascii_console_shows_every_name_on_one_line_of_its_own(odd, tmp_path):
    done = started(predicting(odd, tmp_path), environment={"LC_ALL": "C",
                                                            "PYTHONIOENCODING": "ascii"})
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    assert len(lines) == len(ODD_NAMES) and all(line.isprintable() for line in lines)
    assert all(line.startswith(("OK  score", "NG  score")) for line in lines)


def test_tables_hold_every_name_and_are_valid_utf_8(odd, tmp_path):
    options = predict.parser().parse_args(predicting(odd, tmp_path, "--json")[1:])
    lines = []
    predict.run_predict(options, lines.append)
    for line in lines:
        json.loads(line)["file"].encode("utf-8")        # no half of a surrogate pair
    text = (tmp_path / "predictions.csv").read_text("utf-8")
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(json.loads((tmp_path / "predictions.json").read_text("utf-8"))) == 9
    assert "caf\\udce9" in text and {row["error"] for row in rows} == {""}


def test_overlays_have_short_printable_names(odd, tmp_path):
    predict.run_predict(predict.parser().parse_args(predicting(odd, tmp_path)[1:]),
                        lambda line: None)
    names = os.listdir(os.fsencode(tmp_path))
    overlays = [name.decode() for name in names if name.endswith(b".png")]
    assert len(overlays) == len(ODD_NAMES)
    assert all(name.isprintable() and len(name.encode()) < 230 for name in overlays)


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_annotations_of_odd_names_can_be_read(odd, tmp_path, form):
    options = export.parser().parse_args([str(odd[0]), str(odd[1]), "--format", form, "--out",
                                          str(tmp_path)])
    assert export.run_export(options, lambda line: None) == 0
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert len(pictures) == len(ODD_NAMES)
    if form == "coco":
        made = json.loads((tmp_path / "annotations.json").read_text("utf-8"))
        assert {image["file_name"] for image in made["images"]} == pictures
    else:
        assert {ElementTree.parse(path).findtext("filename")
                for path in (tmp_path / "Annotations").iterdir()} == pictures


def test_a_fit_with_odd_names_ends_with_all_its_results(odd, tiny_weights, tmp_path):
    arguments = ["--good", str(odd[1]), "--test", str(odd[1]), "--shots", "2", "--steps", "1",
                 "--model", str(tiny_weights), "--out", str(tmp_path / "run")]
    done = started(["minilora.fit", *arguments], environment={"PYTHONIOENCODING": "cp1252"},
                   cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "scores.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(ODD_NAMES)
    assert len(list((tmp_path / "run" / "maps").iterdir())) == len(ODD_NAMES)
    HTMLParser().feed((tmp_path / "run" / "report.html").read_text("utf-8"))


# ---- outputs ------------------------------------------------------------------------------------

def test_a_closed_stdout_is_said_and_the_files_are_written(odd, tmp_path):
    done = started(predicting(odd, tmp_path), ">&-")
    assert done.returncode in (0, 1) and (tmp_path / "predictions.csv").exists()
    assert done.stderr.startswith(b"minilora.predict: stdout is closed")
    assert b"Traceback" not in done.stderr


def test_nothing_that_is_printed_goes_into_a_file_that_is_opened_later(odd, tmp_path):
    done = started(predicting(odd, tmp_path), "<&- >&- 2>&-")
    assert done.returncode in (0, 1) and done.stdout == done.stderr == b""
    json.loads((tmp_path / "predictions.json").read_text("utf-8"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_output_is_one_line_and_status_2(odd, tmp_path):
    done = started(predicting(odd, tmp_path), ">/dev/full")
    assert done.returncode == 2 and done.stderr.startswith(b"device ")
    assert done.stderr.count(b"\n") == 2                   # the device, the error
    assert b"No space left" in done.stderr


def test_a_reader_that_ends_early_gives_status_2(odd, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)                                   # as if `head` had ended
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([sys.executable, "-m", *predicting(odd, tmp_path)], stdout=pipe,
                              stderr=subprocess.PIPE, cwd=REPO)
    assert done.returncode == 2 and done.stderr.startswith(b"device ")
    assert done.stderr.count(b"\n") == 2                   # the device, the error
    assert b"the output was closed before its end" in done.stderr


# ---- users and interpreters ---------------------------------------------------------------------

def test_a_user_without_a_home_or_a_name_can_predict(odd, tmp_path):
    """As in a container that runs under a number that its list of users does not have."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pwd\n"
        "for name in ('HOME', 'USER', 'LOGNAME', 'XDG_CACHE_HOME'):\n"
        "    os.environ.pop(name, None)\n"
        "def unknown(uid):\n"
        "    raise KeyError(f'uid not found: {uid}')\n"
        "pwd.getpwuid = unknown\n")
    done = started(predicting(odd, tmp_path / "out"), environment={
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}"})
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr


def test_python_without_docstrings_and_asserts_can_predict(odd, tmp_path):
    done = started(predicting(odd, tmp_path), flags=("-OO",))
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr


def test_a_command_without_a_docstring_has_help():
    assert "--debug" in option_parser("minilora.fit", None).format_help()


# ---- options ------------------------------------------------------------------------------------

WRONG = [
    ("fit", "--steps=-3"), ("fit", "--batch=0"), ("fit", "--batch=-1"), ("fit", "--rate=nan"),
    ("fit", "--seed=99999999999999999999"), ("fit", "--blocks=1001"), ("fit", "--rank=0"),
    ("fit", "--device=cdua"), ("fit", "--class=../x"), ("fit", "--class="), ("fit", "--class=a/b"),
    ("fit", "--class-name= "), ("fit", "--class-name=a\x1b[2J"), ("fit", "--save-every=nan"),
    ("fit", "--class-name=" + "deep " * 80), ("fit", "--class=gear", "--shots=-1"),
    ("fit", "--bogus\x1b[2J"), ("mae", "--shots=0"), ("mae", "--batch=0"), ("mae", "--steps=-3"),
    ("mae", "--mask-ratio=0"), ("mae", "--device=cuda:99"), ("mae", "--class=.."),
    ("pretrain", "--batch=0"), ("pretrain", "--rate=nan"), ("pretrain", "--device=cuda:99"),
    ("pretrain", "--steps=0"), ("belts", "--videos=0", "--out=x"),
    ("belts", "--slots=1", "--out=x"), ("explain", "r", "p", "--head=-1"),
    ("explain", "r", "p", "--device=cdua"), ("export", "r", "p", "--device=cdua"),
    ("export", "r", "p", "--min-area=-1"), ("predict", "r", "p", "--device=cdua"),
    ("search", "index", "p", "--device=cdua"), ("search", "index", "p", "--rate=nan"),
    ("search", "query", "i", "x", "-k=-3"), ("search", "query", "i", "x", "--smooth=nan"),
    ("search", "query", "i", ""), ("fit", "--data="), ("fit", "--data", ""), ("fit", "--good="),
    ("predict", "r", "p", "--out="), ("search", "query", "i", "x", "--page="), ("mae", "--out="),
    ("mae", "--weights=/nowhere"), ("pretrain", "--out="), ("pretrain", "--width=100"),
    ("pretrain", "--start=/nowhere"), ("pretrain", "--products=/nowhere"),
    ("pretrain", "--photos=/nowhere", "--teacher=/nowhere"), ("pretrain", "--threads=1000000"),
    ("pretrain", "--workers=1000000"), ("scene_pretraining", "--out=weights.pt"),
    ("scene_pretraining", "--out=/dev/null/x.safetensors")]
HOMES = {"scene_pretraining": "minilora.baselines.scene_pretraining", "belts": "minilora.scenes.belts", "mae": "minilora.mae.run",
         "pretrain": "minilora.pretrain.train", "search": "minilora.search.run"}


@pytest.mark.parametrize("arguments", WRONG, ids=lambda a: " ".join(a)[:40].encode(
    "unicode_escape").decode())
def test_a_wrong_option_is_one_line_and_writes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["x", *arguments[1:]])
    module = importlib.import_module(HOMES.get(arguments[0], f"minilora.{arguments[0]}"))
    with pytest.raises(SystemExit) as stop:
        run_command(f"minilora.{arguments[0]}", module.main)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == "" and not os.listdir(tmp_path)
    assert printed.err.count("\n") == 1 and printed.err[:-1].isprintable() and len(
        printed.err) < 600, printed.err


def test_blocks_and_shots_beyond_what_there_is_are_refused_before_training(gear_run, tiny_weights,
                                                                           tmp_path):
    data = str(gear_run[1].parent)
    for option, words in (("--blocks=99", "--blocks 99: the image tower of .* has 3"),
                          ("--shots=9999", "9999 shots asked for, but there are only")):
        options = fit.parse(["--class", "gear", "--data", data, "--model", str(tiny_weights),
                             "--out", str(tmp_path / "run"), option])
        with pytest.raises(ValueError, match=words):
            run_class.run_class(options, lambda line: None)
    assert not (tmp_path / "run").exists()
