"""Fixtures of all tests: reference outputs, tiny models, and a finished run."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:                 # one core per worker: with more threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")       # the workers would slow each other down

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))                           # bench/ is not installed
SHARED = Path(os.environ.get("MINILORA_SHARED", REPO.parent / "shared"))


def shared_path(relative):
    """Path inside the shared reference folder; the calling test is skipped if it is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"reference file {relative} not found below {SHARED} (set MINILORA_SHARED)")
    return path


def names_a_file(config):
    """Whether the command line names a test file, and not folders only."""
    return any(".py" in str(argument) for argument in config.args)


@pytest.hookimpl(tryfirst=True)                         # before pytest-xdist reads the number
def pytest_cmdline_main(config):
    """Whole folders run in two processes, unless `-n` gives another number or --pdb is used."""
    if "PYTEST_XDIST_WORKER" in os.environ:             # this is one of the two; it starts no more
        return
    chosen = getattr(config.option, "numprocesses", 0)  # no such option without pytest-xdist
    if chosen is None and not names_a_file(config) and not config.option.usepdb:
        config.option.numprocesses = 2


def pytest_configure(config):
    """Slow tests run with `-m slow`, or if their file is named; otherwise they are left out."""
    config.addinivalue_line("markers", "slow: takes many seconds; `python -m pytest -q -m slow`")
    if not config.option.markexpr and not names_a_file(config):
        config.option.markexpr = "not slow"


@pytest.fixture(scope="session")
def seeded():
    """The module that draws full-size official weights and input pictures from a seed."""
    path = shared_path("golden/seeded_weights.py")
    spec = importlib.util.spec_from_file_location("seeded_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = dict(
    embed=32,
    resolution=64,
    vision_layers=3,
    vision_width=64,
    patch=16,
    text_width=64,
    text_layers=1,
)


@pytest.fixture
def tiny_clip():
    """A CLIP of three small blocks with random weights, the same in every test."""
    import torch

    from minilora.clip import CLIP, CLIPConfig

    return CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """The same model as a checkpoint file under the official keys."""
    import torch

    from minilora.checkpoint.weights import save_official
    from minilora.clip import CLIP, CLIPConfig

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_official(CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0)), path)
    return path


@pytest.fixture(scope="session")
def gear_run(tmp_path_factory, tiny_weights):
    """A finished run of the tiny model on a drawn product: (run folder, folder of the class)."""
    from minilora import fit
    from minilora.runs import run_class
    from minilora.scenes import scene

    root = tmp_path_factory.mktemp("data")
    scene.write_class(root, "gear", good=5, test_good=3, defective=2, resolution=64)
    out = tmp_path_factory.mktemp("runs") / "gear"
    options = fit.parse(["--class", "gear", "--shots", "4", "--data", str(root), "--steps", "4",
                         "--model", str(tiny_weights), "--out", str(out)])
    run_class.run_class(options, lambda line: None)
    return out, root / "gear"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium for all tests of this process; see tests/browser.py."""
    from browser import chromium

    with chromium() as running:
        yield running
