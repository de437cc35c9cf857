"""`minilora` lists the commands and runs them; each explains itself and fails in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from minilora import __version__
from minilora.__main__ import COMMANDS, main


def run(*arguments, cwd=REPO):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True,
                          env=environment, cwd=cwd)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_package_lists_its_commands(arguments):
    done = run("minilora", *arguments)
    assert done.returncode == 0 and done.stdout.startswith("example: python -m minilora fit ")
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_an_unknown_command_is_one_line_with_the_nearest_name():
    done = run("minilora", "predct", "runs/mine")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("minilora: no command 'predct'; did you mean predict? --help lists the "
                           "commands\n")
    hostile = run("minilora", "x\ny").stderr
    assert hostile == "minilora: no command 'x\\ny'; --help lists the commands\n"


@pytest.mark.parametrize("argument", ["--help", "--version", "fti"])
def test_the_list_and_the_version_need_no_torch(argument):
    code = (f"import sys; sys.argv = ['minilora', '{argument}']\n"
            "from minilora.__main__ import main\n"
            "try: main()\nfinally: print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.endswith("False\n")


def called(arguments, monkeypatch, capsys):
    """(exit status, stdout, stderr) of `main` in this process; the first argument is argv[0]."""
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, *capsys.readouterr()


CONSOLE, MODULE = "/usr/bin/minilora", str(Path(REPO, "minilora", "__main__.py"))


@pytest.mark.parametrize("start, form", [(CONSOLE, "minilora data"),
                                         (MODULE, "python -m minilora data")])
def test_a_command_speaks_in_the_form_in_which_it_was_called(start, form, monkeypatch, capsys):
    def call(*arguments):
        return called((start, "data", *arguments), monkeypatch, capsys)
    status, _, error = call("/nowhere")
    assert status == 2
    assert error.startswith(f"{form.removeprefix('python -m ')}: no class found in /nowhere; ")
    assert call("--help")[1].startswith(f"example: {form} data/mvtec\n")
    assert call("--version") == (0, f"minilora {__version__}\n", "")


def test_the_package_runs_a_command_like_its_module(tmp_path):
    for name in ("minilora data", "minilora.data"):
        done = run(*name.split(), "/nowhere", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(f"{name}: no class found in")
    assert run("minilora", "--version").stdout == f"minilora {__version__}\n"


def test_the_console_command_of_the_package_is_this_function():
    text = Path(REPO, "setup.py").read_text("utf-8")
    assert '"console_scripts": ["minilora = minilora.__main__:main"]' in text


@pytest.mark.parametrize("arguments, words", [
    (["minilora.data", "/nowhere"], "/nowhere"),
    (["minilora.scenes", "--out", "x", "--class", "spoon"], "no class 'spoon'"),
    (["minilora.checkpoint", "/nowhere.pt"], "/nowhere.pt"),
    (["minilora.fit", "--data", "/nowhere"], "/nowhere"),
    (["minilora.predict", "/nowhere", "/nowhere"], "detector.safetensors not found")])
def test_an_error_is_one_line_unless_debug_asks_for_more(arguments, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert "Traceback" in run(*arguments, "--debug", cwd=tmp_path).stderr
