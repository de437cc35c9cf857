"""The README's Python example runs as it stands, and its reading order names every module."""

import re

import pytest
import torch
from conftest import REPO

import minilora
from bench import readme
from minilora import load_pictures
from minilora.scenes import scene

README = (REPO / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    scene.write_class(tmp_path / "pictures", "nut", good=8, test_good=1, defective=2)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    assert "tensor([" in capsys.readouterr().out and names["scores"].shape == (2,)
    again = names["again"].score(load_pictures(tmp_path / "pictures/nut/test/broken"))[0]
    assert torch.allclose(again, names["maps"], atol=1e-5), "what is saved is what was fitted"


def test_the_reading_order_names_every_module_on_top_and_every_folder():
    package = REPO / "minilora"
    on_top = {p.name for p in package.glob("*.py")} - {"__init__.py", "__main__.py", "belts.py"}
    assert {name for name, *_ in re.findall(readme.READING, minilora.__doc__, re.M)} == on_top
    folders = {p.parent.name for p in package.glob("*/__init__.py")}
    section = README[README.index("## Reading order"):]
    assert folders == set(re.findall(r"`(\w+)`", section[section.index("| folder"):
                                                        section.index("Letters:")]))


def test_the_reading_order_tells_how_long_the_files_are():
    """`python -m bench.readme` counts them anew; a file may change by ten lines in between."""
    for name, lines, minutes, _ in re.findall(readme.READING, minilora.__doc__, re.M):
        count = len((REPO / "minilora" / name).read_text("utf-8").splitlines())
        assert abs(int(lines) - count) <= 15 and int(minutes) == int(lines) // 10, name


def test_tables_are_those_of_the_results():
    """`python -m bench.readme` writes them; a figure changed by hand is found here."""
    assert readme.filled(README) == README and README.count("<!-- table: ") == len(readme.TABLES)
