"""README and the other documents: short, right, and without dead links."""

import re

import pytest
import torch
from conftest import REPO

import minilora
from bench import readme
from minilora.scenes import scene

README = (REPO / "README.md").read_text("utf-8")
DETAILS = (REPO / "minilora" / "README.md").read_text("utf-8")
DOCUMENTS = sorted([*REPO.glob("*.md"), *(path for folder in ("bench", "minilora", "weights")
                                           for path in (REPO / folder).rglob("*.md"))])


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    scene.write_class(tmp_path / "pictures", "nut", good=8, test_good=1, defective=2)
    monkeypatch.chdir(tmp_path)
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
                if "Detector" in text]                              # the other one is for ONNX
    names = {}
    exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("decision   score  picture (") and len(lines) == 3
    one, two = (names[which].predict("pictures/nut/test/broken") for which in ("detector", "again"))
    assert torch.equal(one.scores, two.scores), "what is saved is what was fitted"


def test_the_reading_order_names_every_module_on_top_and_every_folder():
    package = REPO / "minilora"
    on_top = {p.name for p in package.glob("*.py")} - {"__init__.py", "__main__.py", "belts.py"}
    assert {name for name, *_ in re.findall(readme.READING, minilora.__doc__, re.M)} == on_top
    folders = {p.parent.name for p in package.glob("*/__init__.py")}
    section = DETAILS[DETAILS.index("## Reading order"):]
    assert folders == set(re.findall(r"`(\w+)`", section[section.index("| folder"):
                                                        section.index("Letters:")]))


def test_the_reading_order_tells_how_long_the_files_are():
    """`python -m bench.readme` counts them anew; a file may change by ten lines in between."""
    for name, lines, minutes, _ in re.findall(readme.READING, minilora.__doc__, re.M):
        count = len((REPO / "minilora" / name).read_text("utf-8").splitlines())
        assert abs(int(lines) - count) <= 15 and int(minutes) == int(lines) // 10, name


def test_tables_are_those_of_the_results():
    """`python -m bench.readme` writes them; a figure changed by hand is found here."""
    assert readme.filled(README) == README and readme.filled(DETAILS) == DETAILS
    assert (README + DETAILS).count("<!-- table: ") == len(readme.TABLES)


def test_the_best_value_of_a_column_is_bold_in_whatever_row_it_is():
    lines = [["memory", "99.5 / 98.0", "9.0 / 50.0"], ["adapted", "99.0 / 98.0", "60.1 / 49.9"],
             ["text", "--", "--"]]
    assert readme.bold_best(lines) == [
        ["memory", "**99.5** / **98.0**", "9.0 / **50.0**"],
        ["adapted", "99.0 / **98.0**", "**60.1** / 49.9"], ["text", "--", "--"]]


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_to_files_and_headings_that_are_there(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|data:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-")
                              for h in headings}, target
