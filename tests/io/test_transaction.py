"""A folder of results changes as a whole, whoever is killed and whenever."""
import errno
import os
import subprocess
import sys

import pytest
from conftest import REPO

from minilora.io import transaction

STAGED = f"{transaction.STAGING}test"


def write(folder, **files):
    with transaction.whole_folder(folder, "test") as staging:
        for name, text in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(text)


def test_all_files_take_their_places_and_nothing_else_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with transaction.whole_folder(tmp_path, "test") as staging:
        (staging / "maps").mkdir()
        (staging / "maps" / "a.png").write_text("a")
        (staging / "metrics.json").write_text("{}")
        assert not (tmp_path / "metrics.json").exists()
    assert (tmp_path / "maps" / "a.png").read_text() == "a"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / STAGED).exists()


def test_an_error_leaves_the_earlier_result_and_what_is_to_be_kept(tmp_path):
    write(tmp_path, one="old", two="old")
    with pytest.raises(KeyboardInterrupt), transaction.whole_folder(tmp_path, "test") as staging:
        (staging / "one").write_text("new")
        (staging / transaction.RESUME).write_text("half-way")
        raise KeyboardInterrupt
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "old"
    with transaction.whole_folder(tmp_path, "other") as staging:
        assert not list(staging.iterdir())
    with transaction.whole_folder(tmp_path, "test") as staging:
        assert [p.name for p in staging.iterdir()] == [transaction.RESUME], "of what may not fit"
        (staging / "one").write_text("newest")
    assert (tmp_path / "one").read_text() == "newest"
    assert not (tmp_path / STAGED).exists() and not (tmp_path / transaction.RESUME).exists()


def test_what_the_earlier_result_had_and_the_new_one_has_not_goes(tmp_path):
    write(tmp_path, one="old", two="old", **{"maps/a.png": "old", "maps/notes.txt": "mine"})
    with transaction.whole_folder(tmp_path, "test", earlier=("one", "two", "maps")) as staging:
        (staging / "one").write_text("new")
        (staging / "maps").mkdir()
        (staging / "maps" / "b.png").write_text("new")
    assert (tmp_path / "one").read_text() == "new" and not (tmp_path / "two").exists()
    assert sorted(os.listdir(tmp_path / "maps")) == ["b.png", "notes.txt"]


def test_links_lead_nowhere(tmp_path):
    """A stranger's folder: its staging is complete, its maps lead to somebody's home."""
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    (home / "a").write_text("mine")
    (run / STAGED / "maps").mkdir(parents=True)
    (run / STAGED / "maps" / "a").write_text("theirs")
    (run / STAGED / transaction.COMPLETE).write_text("")
    (run / "maps").symlink_to(home)
    with pytest.raises(ValueError, match="leads out of .*; remove the link"):
        transaction.settle(run)
    (run / "maps").unlink()
    (run / transaction.LOCK).unlink()
    (run / transaction.LOCK).symlink_to(home / "a")
    with pytest.raises(ValueError, match=".lock is a link"):
        transaction.settle(run)
    assert (home / "a").read_text() == "mine"


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    import fcntl

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path, one="new")
    assert (tmp_path / "one").read_text() == "new"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_change_that_was_cut_short_is_finished_by_the_next_one(tmp_path, moved, monkeypatch):
    """Killed after so many of two files had taken their places."""
    write(tmp_path, one="old", two="old")
    calls, replace = [], os.replace

    def deadly(source, target):
        if target.name == transaction.COMPLETE:
            return replace(source, target)
        if len(calls) == moved:
            raise SystemExit("killed")
        calls.append(target)
        replace(source, target)
    monkeypatch.setattr(os, "replace", deadly)
    if moved < 2:
        with pytest.raises(SystemExit):
            write(tmp_path, one="new", two="new")
    else:
        monkeypatch.setattr(transaction.shutil, "rmtree", lambda path: sys.exit("killed"))
        with pytest.raises(SystemExit):
            write(tmp_path, one="new", two="new")
    monkeypatch.undo()
    transaction.settle(tmp_path)
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "new"
    assert not (tmp_path / STAGED).exists()


def test_half_written_files_of_a_killed_process_are_swept_away(tmp_path):
    (tmp_path / STAGED).mkdir()
    (tmp_path / STAGED / ".adapter.pt.0123abcd.tmp").write_text("half")
    write(tmp_path, one="new")
    assert sorted(os.listdir(tmp_path)) == [transaction.LOCK, "one"]


def test_the_second_of_two_processes_is_told_and_the_folder_is_free_after_a_kill(tmp_path):
    code = ("import sys, time; from minilora.io.transaction import only_one\n"
            f"with only_one({str(tmp_path)!r}): print('mine', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPO)
    assert other.stdout.readline() == b"mine\n"
    with pytest.raises(ValueError, match=f"another process .number {other.pid}.*--out"):
        with transaction.only_one(tmp_path):
            pass
    other.kill()
    other.wait()
    with transaction.only_one(tmp_path):
        pass
