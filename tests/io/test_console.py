"""A console that lacks characters shows escapes; nothing that is printed ends a program."""
import os
import subprocess
import sys

import pytest
from conftest import REPO

ASCII = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONIOENCODING": "ascii"}


def run(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, env=ASCII)


def test_a_demo_prints_on_a_console_of_ascii():
    done = run("-m", "minilora.io.text")                    # it prints an ellipsis
    assert done.returncode == 0 and b"\\u2026" in done.stdout and done.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize("words", [("minilora.runs.run_report",), ("minilora", "--help"),
                                   ("minilora", "fit", "--help"), ("minilora", "fit\u00e9")])
def test_commands_and_reports_print_on_a_console_of_ascii(words):
    done = run("-m", *words)
    assert done.returncode in (0, 2) and b"Traceback" not in done.stderr


def test_importing_minilora_changes_no_stream_of_another_program():
    code = "import sys, minilora; print(sys.stdout.errors)"
    assert run("-c", code).stdout == b"strict\n"
