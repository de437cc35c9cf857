"""Files that belong together are read as they were at one moment."""
import pytest

from minilora.io import consistent_read as module
from minilora.io.consistent_read import consistent_read, read_result
from minilora.io.transaction import COMMIT_RECORD, STAGING


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "READ_PAUSE", 0)


def replace(path, content):
    path.with_name("new").write_text(content)
    path.with_name("new").replace(path)


def test_a_reading_that_a_writer_came_into_is_repeated(tmp_path):
    paths, rounds = [tmp_path / "a", tmp_path / "b"], []
    for path in paths:
        path.write_text("old")

    def read():
        first = paths[0].read_text()
        if len(rounds) < 2:                             # a writer, twice
            for path in paths:
                replace(path, f"new {len(rounds)}")
        rounds.append((first, paths[1].read_text()))
        return rounds[-1]
    assert consistent_read(paths, read) == ("new 1", "new 1")
    assert rounds[:2] == [("old", "new 0"), ("new 0", "new 1")]


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_an_error_is_raised_at_once_if_no_file_has_changed(tmp_path, error):
    (tmp_path / "a").write_text("damaged")
    calls = []

    def read():
        calls.append(1)
        raise error("a is damaged")
    with pytest.raises(error, match="a is damaged"):
        consistent_read([tmp_path / "a", tmp_path / "missing"], read)
    assert len(calls) == 1


def test_an_error_while_a_file_was_replaced_is_none(tmp_path):
    calls = []

    def read():
        calls.append(1)
        if len(calls) == 1:
            replace(tmp_path / "a", "there")
            raise FileNotFoundError("a")
        return (tmp_path / "a").read_text()
    assert consistent_read([tmp_path / "a"], read) == "there"


def test_a_writer_without_end_is_named(tmp_path):
    path, calls = tmp_path / "a", []
    path.write_text("")

    def read():
        calls.append(1)
        path.write_text("x" * len(calls))
    with pytest.raises(ValueError, match="replaced by another process all the time"):
        consistent_read([path], read)


@pytest.mark.parametrize("moved", [f"{STAGING}fit/metrics.json", f"{STAGING}fit/{COMMIT_RECORD}",
                                   "metrics.json"])
def test_a_commit_in_the_staging_folder_counts(tmp_path, moved):
    (tmp_path / f"{STAGING}fit").mkdir()
    calls = []

    def read():
        calls.append(1)
        if len(calls) == 1:
            (tmp_path / moved).touch()
    read_result(tmp_path, ["metrics.json"], read)
    assert len(calls) == 2
