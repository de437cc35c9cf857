"""`python -m minilora` lists the commands; each explains itself and fails in one line."""

import os
import subprocess
import sys

import pytest
from conftest import REPO

from minilora.__main__ import COMMANDS


def run(*arguments, cwd=REPO):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True,
                          env=environment, cwd=cwd)


def test_the_package_lists_its_commands():
    printed = run("minilora").stdout
    assert all(f"python -m minilora.{name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    done = run(f"minilora.{name}", "--help")
    assert done.returncode == 0 and f"minilora.{name}" in done.stdout


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
