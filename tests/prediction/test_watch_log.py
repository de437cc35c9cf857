"""The table of `predict --watch`: what is on the disk decides which pictures are done."""
import csv
import os
import resource

import pytest

from minilora.io.record import read_record
from minilora.prediction.watch_log import WATCH_COLUMNS, WATCH_HEAD, WatchLog, check_watch_log

KEYS = [bytes([k]) * 16 for k in range(4)]


def written(folder, keys, name="a.png"):
    """The table's bytes after these rows were appended."""
    with WatchLog(folder) as log:
        for key in keys:
            log.append({"file": name, "decision": "OK", "score": 0.5}, key)
    return log.path.read_bytes()


def known(folder):
    with WatchLog(folder) as log:
        return log.known, log.was_cut


def test_a_restart_knows_the_rows(tmp_path):
    written(tmp_path, KEYS[:2])
    written(tmp_path, KEYS[2:])
    assert known(tmp_path) == (set(KEYS), False)
    with (tmp_path / "watch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [key.hex() for key in KEYS]
    assert list(rows[0]) == list(WATCH_COLUMNS)


def test_a_row_that_a_kill_has_cut_anywhere_is_removed(tmp_path):
    one, two = written(tmp_path, KEYS[:1]), written(tmp_path, KEYS[1:2])
    for end in range(len(one) + 1, len(two)):
        (tmp_path / "watch.csv").write_bytes(two[:end])
        assert known(tmp_path) == ({KEYS[0]}, True)
        assert (tmp_path / "watch.csv").read_bytes() == one
        assert written(tmp_path, KEYS[1:2]) == two, "the next row starts on a line of its own"


@pytest.mark.parametrize("tail", [b"\0" * 90, b"\0" * 50 + KEYS[1].hex().encode() + b"\r\n"])
def test_zeros_that_a_power_cut_has_left_are_removed(tmp_path, tail):
    one = written(tmp_path, KEYS[:1])
    with (tmp_path / "watch.csv").open("ab") as file:
        file.write(tail)
    assert known(tmp_path) == ({KEYS[0]}, True)
    assert (tmp_path / "watch.csv").read_bytes() == one


@pytest.mark.parametrize("change", [
    lambda lines: [*lines, b"checked by hand\n"],
    lambda lines: [*lines[:1], b"half a ro\0w\n", *lines[1:]],
    lambda lines: [lines[0].replace(b",", b";"), *lines[1:]]], ids=["added", "inside", "columns"])
def test_a_table_that_was_changed_is_refused_and_kept(tmp_path, change):
    lines = written(tmp_path, KEYS[:2]).splitlines(keepends=True)
    (tmp_path / "watch.csv").write_bytes(b"".join(change(lines)))
    before = (tmp_path / "watch.csv").read_bytes()
    with pytest.raises(ValueError, match="was changed.* move .*away, or give another --out"):
        known(tmp_path)
    assert (tmp_path / "watch.csv").read_bytes() == before


def test_a_table_of_the_user_is_refused_even_with_the_same_columns(tmp_path):
    (tmp_path / "watch.csv").write_bytes(WATCH_HEAD)
    with pytest.raises(ValueError, match="watch.csv was not written by minilora"):
        WatchLog(tmp_path)
    assert os.listdir(tmp_path) == ["watch.csv"]


def test_a_link_in_place_of_the_table_is_refused(tmp_path):
    written(tmp_path / "theirs", KEYS[:1])
    written(tmp_path / "mine", [])
    (tmp_path / "mine" / "watch.csv").unlink()
    (tmp_path / "mine" / "watch.csv").symlink_to(tmp_path / "theirs" / "watch.csv")
    with pytest.raises(OSError, match="is a link, expected a regular file"):
        check_watch_log(tmp_path / "mine")


def test_on_a_full_disk_the_row_is_not_claimed(tmp_path):
    before = written(tmp_path, KEYS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WatchLog(tmp_path) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(OSError, match="row of a.png cannot be written .*free some space"):
                log.append({"file": "a.png"}, KEYS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert KEYS[1] not in log.known
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("change", [os.unlink, lambda path: path.rename(f"{path}.old")])
def test_no_row_goes_into_a_table_that_was_taken_away(tmp_path, change):
    with WatchLog(tmp_path) as log:
        change(log.path)
        with pytest.raises(OSError, match="was moved, deleted or replaced"):
            log.append({"file": "a.png"}, KEYS[0])
        assert log.known == set()


def test_the_row_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    with WatchLog(tmp_path) as log:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda d: synced.append(os.fstat(d).st_size))
        log.append({"file": "a.png"}, KEYS[0])
    assert synced == [log.path.stat().st_size]


def test_a_hostile_name_is_one_line_and_no_formula(tmp_path):
    text = written(tmp_path, KEYS[:1], "=a\r\nOK,b\udce9.png").decode()
    assert text.count("\n") == 2 and ',"\'=a\\r\\nOK,b\\xe9.png",' in text
    assert known(tmp_path) == ({KEYS[0]}, False)


def test_the_overlays_enter_the_record_and_the_growing_table_does_not(tmp_path):
    (tmp_path / "NG-a.png").write_bytes(b"overlay")
    with WatchLog(tmp_path) as log:
        assert read_record(tmp_path) == {"watch": {}}
        log.append({"file": "a.png", "overlay": "NG-a.png"}, KEYS[0])
        log.append({"file": "b.png", "overlay": "NG-deleted.png"}, KEYS[1])
        log.list_overlays()
    assert list(read_record(tmp_path)["watch"]) == ["NG-a.png"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../NG-a.png", ".minilora.json", "NG-x/../a.png",
                                  '"NG-' + "x" * 200_000, "caf\udce9.png", ""])
def test_a_changed_row_brings_no_name_of_a_file_elsewhere_into_the_record(tmp_path, name):
    """One such name would make the record unreadable, and every later command refuse the folder."""
    (tmp_path / "NG-a.png").write_bytes(b"overlay")
    with WatchLog(tmp_path) as log:
        for key, overlay in zip(KEYS, ("NG-other.png", "NG-a.png")):
            log.append({"file": "a.png", "overlay": overlay}, key)
    log.path.write_bytes(log.path.read_bytes().replace(b"NG-other.png", os.fsencode(name)))
    with WatchLog(tmp_path) as log:
        log.list_overlays()
    assert list(read_record(tmp_path)["watch"]) == ["NG-a.png"]
