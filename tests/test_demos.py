"""Every module runs alone and shows its mechanism in at most twelve lines."""

import importlib
import pkgutil

import pytest

import minilora

MODULES = sorted(
    m.name.removeprefix("minilora.") for m in pkgutil.walk_packages(minilora.__path__, "minilora.")
    if not m.ispkg and not m.name.endswith("__main__"))
COMMANDS = ("fit", "predict", "belts", "pretrain.train")  # these do a job instead


def test_there_are_modules_to_try():
    assert {"bpe", "attention", "vit", "lora", "coop", "anomaly_map", "auroc"} <= set(MODULES)


@pytest.mark.parametrize("name", [m for m in MODULES if m not in COMMANDS])
def test_demo(name, capsys):
    importlib.import_module(f"minilora.{name}").demo()
    lines = capsys.readouterr().out.splitlines()
    assert 1 <= len(lines) <= 12, f"{len(lines)} lines"
