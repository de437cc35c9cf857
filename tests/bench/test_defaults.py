"""One commit: every table of bench/results states the defaults of today."""
import re
from dataclasses import dataclass

import pytest
from conftest import REPO

from bench import all as everything
from bench import defaults
from bench.tables import write
from minilora.config import DetectorConfig
from minilora.search import query

RESULTS = REPO / "bench" / "results"
EARLIER = RESULTS / "earlier"
NO_TABLES = re.compile(r"README\.md|safety-\w+\.txt")       # no measurements of the model
JOBS = {job.name: job for job in everything.JOBS}
TABLES = sorted(path.name for ending in ("*.txt", "*.md") for path in RESULTS.glob(ending)
                if not NO_TABLES.fullmatch(path.name))


# ---- the tables ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TABLES)
def test_a_table_states_the_defaults_of_today(name):
    """Run `python -m bench.all --only NAME`, or move a table that explains an earlier choice to
    bench/results/earlier/ and say so in the README there."""
    job = JOBS.get(name.rpartition(".")[0])
    assert job, f"{name} is made by no job of bench/all.py"
    changed = defaults.changed_groups((RESULTS / name).read_text("utf-8"), job.depends)
    assert not changed, f"{name} was measured with other defaults of {', '.join(changed)}"


def test_a_table_of_earlier_defaults_is_explained_beside_it():
    if not EARLIER.is_dir():
        pytest.skip("there are none")
    text = (EARLIER / "README.md").read_text("utf-8")
    missing = {path.stem for path in EARLIER.iterdir()
               if path.name != "README.md" and f"`{path.stem}`" not in text}
    assert not missing


def test_every_table_is_named_beside_the_others():
    text = (RESULTS / "README.md").read_text("utf-8")
    assert [name for name in JOBS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "minilora/README.md",
                                  "minilora/search/README.md", "minilora/baselines/README.md"])
def test_the_pages_for_readers_cite_no_table_of_earlier_defaults(page):
    assert "results/earlier" not in (REPO / page).read_text("utf-8")


# ---- the digests --------------------------------------------------------------------------------

def digests_after(monkeypatch, thing, name, value):
    """Groups whose digest changes with one default."""
    before = defaults.default_digests()
    monkeypatch.setattr(thing, name, value)
    after = defaults.default_digests()
    return [group for group in before if before[group] != after[group]]


def test_another_default_of_the_configuration_changes_the_digest_of_the_detector(monkeypatch):
    @dataclass(frozen=True)
    class Another(DetectorConfig):
        rank: int = 8
    assert digests_after(monkeypatch, defaults, "DetectorConfig", Another) == ["detector"]


@pytest.mark.parametrize("name, value", [("CORESET_SHARE", 0.2), ("PROJECTION_DIM", 32)])
def test_a_constant_of_the_memory_changes_the_digest_of_the_detector(monkeypatch, name, value):
    assert digests_after(monkeypatch, defaults.memory_bank, name, value) == ["detector"]


@pytest.mark.parametrize("name, value", [("NEGATIVE_WEIGHT", 0.7), ("EVENT_GAP", 1.0),
                                         ("QUERY_TEMPLATES", ("{}.",))])
def test_a_constant_of_search_changes_the_digest_of_search(monkeypatch, name, value):
    assert digests_after(monkeypatch, query, name, value) == ["search"]


def test_another_embedded_model_changes_the_digest_of_the_weights(monkeypatch):
    assert digests_after(monkeypatch, defaults, "embedded_digest", lambda: "0" * 64) == ["weights"]


def test_text_and_markdown_state_what_they_were_measured_with(tmp_path):
    write(tmp_path, "one", [("title", ("a",), [["1"]])], ["head"], (("a",), [["1"]]))
    for ending in ("txt", "md"):
        text = (tmp_path / f"one.{ending}").read_text("utf-8")
        assert defaults.stated_defaults(text) == defaults.default_digests()
        assert re.search(r"^commit ([0-9a-f]{7}|unknown)(-dirty)?; ", text, re.M)


def test_the_groups_that_differ_are_named():
    line = defaults.defaults_line()
    assert defaults.changed_groups(line, defaults.default_digests()) == []
    other = line.replace(defaults.default_digests()["search"], "00000000")
    assert defaults.changed_groups(other, ("detector", "search")) == ["search"]
    assert defaults.changed_groups("a table without a line", ("weights",)) == ["weights"]
    assert defaults.changed_groups("a table without a line", ()) == []
