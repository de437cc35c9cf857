"""The README's Python example runs as it stands, and its reading order names every module."""

import re
from pathlib import Path

import torch
from conftest import REPO

from bench import readme
from minilora import load_pictures
from minilora.scenes import scene

README = (REPO / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    scene.write_class(tmp_path / "pictures", "nut", good=8, test_good=1, defective=2)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    assert "tensor([" in capsys.readouterr().out and names["scores"].shape == (2,)
    again = names["again"].score(load_pictures(tmp_path / "pictures/nut/test/broken"))[0]
    assert torch.allclose(again, names["maps"], atol=1e-5), "what is saved is what was fitted"


def test_the_reading_order_names_every_module():
    modules = {p.name for p in Path(REPO, "minilora").rglob("*.py")} - {"__init__.py",
                                                                        "__main__.py"}
    named = set(re.findall(r"(\w+\.py)", README[README.index("## Reading order"):]))
    assert modules == named - {"setup.py"}, modules ^ named


def test_tables_are_those_of_the_results():
    """`python -m bench.readme` writes them; a figure changed by hand is found here."""
    assert readme.filled(README) == README and README.count("<!-- table: ") == len(readme.TABLES)
