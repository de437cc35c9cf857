"""A folder of results changes completely or not at all, whenever a process is killed."""
import errno
import os
import subprocess
import sys

import pytest
from conftest import REPO

from minilora.io import transaction

STAGED = f"{transaction.STAGING}test"


def write(folder, **files):
    with transaction.atomic_folder(folder, "test") as staging:
        for name, text in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(text)


def test_all_files_are_moved_into_place_and_no_other_file_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with transaction.atomic_folder(tmp_path, "test") as staging:
        (staging / "maps").mkdir()
        (staging / "maps" / "a.png").write_text("a")
        (staging / "metrics.json").write_text("{}")
        assert not (tmp_path / "metrics.json").exists()
    assert (tmp_path / "maps" / "a.png").read_text() == "a"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / STAGED).exists()


def test_an_error_leaves_the_earlier_result_and_the_resume_file(tmp_path):
    write(tmp_path, one="old", two="old")
    with pytest.raises(KeyboardInterrupt), transaction.atomic_folder(tmp_path, "test") as staging:
        (staging / "one").write_text("new")
        (staging / transaction.RESUME_FILE).write_text("half-way")
        raise KeyboardInterrupt
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "old"
    with transaction.atomic_folder(tmp_path, "other") as staging:
        assert not list(staging.iterdir())
    with transaction.atomic_folder(tmp_path, "test") as staging:
        assert [p.name for p in staging.iterdir()] == [transaction.RESUME_FILE]
        (staging / "one").write_text("newest")
    assert (tmp_path / "one").read_text() == "newest"
    assert not (tmp_path / STAGED).exists() and not (tmp_path / transaction.RESUME_FILE).exists()


def test_files_that_only_the_earlier_result_had_are_deleted(tmp_path):
    write(tmp_path, one="old", two="old", **{"maps/a.png": "old", "maps/notes.txt": "mine"})
    with transaction.atomic_folder(tmp_path, "test", earlier=("one", "two", "maps")) as staging:
        (staging / "one").write_text("new")
        (staging / "maps").mkdir()
        (staging / "maps" / "b.png").write_text("new")
    assert (tmp_path / "one").read_text() == "new" and not (tmp_path / "two").exists()
    assert sorted(os.listdir(tmp_path / "maps")) == ["b.png", "notes.txt"]


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path):
    """A malicious folder: its staging is committed, its maps link to a user's home."""
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    (home / "a").write_text("mine")
    (run / STAGED / "maps").mkdir(parents=True)
    (run / STAGED / "maps" / "a").write_text("theirs")
    (run / STAGED / transaction.COMMIT_RECORD).write_text("")
    (run / "maps").symlink_to(home)
    with pytest.raises(ValueError, match="leads out of .*; remove the link"):
        transaction.recover(run)
    (run / "maps").unlink()
    (run / transaction.LOCK_FILE).unlink()
    (run / transaction.LOCK_FILE).symlink_to(home / "a")
    with pytest.raises(ValueError, match=".lock is a link"):
        transaction.recover(run)
    assert (home / "a").read_text() == "mine"


def test_a_system_without_locks_is_accepted(tmp_path, monkeypatch):
    import fcntl

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path, one="new")
    assert (tmp_path / "one").read_text() == "new"


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_an_interrupted_commit_is_finished_by_recovery(tmp_path, moved, monkeypatch):
    """The process is killed after `moved` of two files are in place."""
    write(tmp_path, one="old", two="old")
    calls, replace = [], os.replace

    def deadly(source, target):
        if target.name == transaction.COMMIT_RECORD:
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
    transaction.recover(tmp_path)
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "new"
    assert not (tmp_path / STAGED).exists()


def test_temporary_files_of_a_killed_process_are_deleted(tmp_path):
    (tmp_path / STAGED).mkdir()
    (tmp_path / STAGED / ".adapter.pt.0123abcd.tmp").write_text("half")
    write(tmp_path, one="new")
    assert sorted(os.listdir(tmp_path)) == [transaction.LOCK_FILE, "one"]


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path):
    code = ("import sys, time; from minilora.io.transaction import lock_folder\n"
            f"with lock_folder({str(tmp_path)!r}): print('mine', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPO)
    assert other.stdout.readline() == b"mine\n"
    with pytest.raises(ValueError, match=f"another process .number {other.pid}.*--out"):
        with transaction.lock_folder(tmp_path):
            pass
    other.kill()
    other.wait()
    with transaction.lock_folder(tmp_path):
        pass
