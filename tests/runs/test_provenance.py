"""Every run folder says how it was made."""
import hashlib
import json
import platform
import subprocess

import numpy
import PIL
import pytest
import torch

from minilora import __version__
from minilora.io.schema import check
from minilora.runs import provenance


@pytest.fixture
def fresh_commit():
    """The commit is found once per process; here it is found anew."""
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


def test_a_run_names_command_versions_machine_and_shots_with_their_digests(gear_run):
    out, data = gear_run
    made = check(json.loads((out / "metrics.json").read_text("utf-8"))["made"],
                 provenance.MADE_SCHEMA, "made")
    assert made["command"].endswith(f"--out {out}") and made["arguments"][:2] == ["--class", "gear"]
    assert (made["minilora"], made["python"], made["torch"], made["numpy"], made["pillow"]) == (
        __version__, platform.python_version(), torch.__version__, numpy.__version__,
        PIL.__version__)
    assert made["device"] == "cpu" and made["threads"] >= 1 and made["seed"] == 1
    assert len(made["shots"]) == 4
    for shot in made["shots"]:
        digest = hashlib.sha256((data.parent / shot["file"]).read_bytes()).hexdigest()
        assert shot["sha256"] == digest


def test_the_commit_is_that_of_the_checkout_also_inside_a_git_hook(tmp_path, monkeypatch,
                                                                   fresh_commit):
    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, text=True,
                              capture_output=True).stdout.strip()
    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    monkeypatch.setattr(provenance, "checkout_folder", lambda: tmp_path)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert provenance.commit() == git("--git-dir", str(tmp_path / ".git"), "rev-parse", "HEAD")
    (tmp_path / "a.py").write_text("2")
    provenance.commit.cache_clear()
    assert provenance.commit().endswith("-dirty")


@pytest.mark.parametrize("failure", [FileNotFoundError("git"),
                                     subprocess.TimeoutExpired("git", 5)])
def test_without_git_there_is_no_commit_and_no_error(monkeypatch, fresh_commit, failure):
    def run(*_, **__):
        raise failure
    monkeypatch.setattr(subprocess, "run", run)
    assert provenance.provenance("c", "cpu")["commit"] is None


def test_differences_name_what_can_change_a_result():
    made = provenance.provenance("a command", "cpu")
    assert provenance.differences(made, made | {"date": "another", "command": "other"}) == []
    lines = provenance.differences(made | {"torch": "1.0", "threads": 99}, made)
    assert [line.partition(":")[0] for line in lines] == ["torch", "threads"]
