"""One process at a time writes to a folder, and locking harms nobody's files."""
import os
import subprocess
import sys
import threading

import pytest
from conftest import REPO

from minilora.io import lock
from minilora.io.lock import LOCK_FILE, lock_folder


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path):
    code = ("import sys, time; from minilora.io.lock import lock_folder\n"
            f"with lock_folder({str(tmp_path)!r}): print('mine', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPO)
    assert other.stdout.readline() == b"mine\n"
    with pytest.raises(ValueError, match=f"another process .number {other.pid}.*--out"):
        with lock_folder(tmp_path):
            pass
    other.kill()
    other.wait()
    with lock_folder(tmp_path):
        pass


def test_one_can_wait_for_the_other(tmp_path):
    locked, release, order = threading.Event(), threading.Event(), []

    def first():
        with lock_folder(tmp_path):
            locked.set()
            release.wait(60)
            order.append("first")
    thread = threading.Thread(target=first)
    thread.start()
    locked.wait(60)
    threading.Timer(0.2, release.set).start()
    with lock_folder(tmp_path, wait=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_file_of_this_name_that_is_not_ours_keeps_its_bytes(tmp_path):
    (tmp_path / LOCK_FILE).write_text("my diary")
    with pytest.raises(ValueError, match=f"{LOCK_FILE} was not written by minilora"):
        with lock_folder(tmp_path):
            pass
    assert (tmp_path / LOCK_FILE).read_text() == "my diary"


@pytest.mark.parametrize("make, found", [
    (os.mkfifo, "a named pipe"), (os.mkdir, "a folder"),
    (lambda path: path.symlink_to(path.parent / "victim"), "a link"),
    (lambda path: path.symlink_to(path.parent / "nothing"), "a link")])
def test_a_lock_file_that_is_no_file_is_refused(tmp_path, make, found):
    (tmp_path / "victim").write_text("123")
    make(tmp_path / LOCK_FILE)
    with pytest.raises(ValueError, match=f"{LOCK_FILE} is {found}.*remove it"):
        with lock_folder(tmp_path):
            pass
    assert (tmp_path / "victim").read_text() == "123" and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["file", "file/below", "dangling"])
def test_a_file_in_the_place_of_the_folder_is_named_with_the_remedy(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=f"{name[:4]}.* is not a folder; give another --out"):
        with lock_folder(tmp_path / name):
            pass
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nothing").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    tmp_path.chmod(0o500)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(OSError, match="Permission denied.*; give another --out"):
            with lock_folder(folder):
                pass


def test_a_system_error_is_told_in_one_line(tmp_path, monkeypatch):
    def read_only(*arguments, **options):
        raise OSError(30, "Read-only file system")
    monkeypatch.setattr(lock.os, "open", read_only)
    with pytest.raises(OSError, match="cannot be written .Read-only file system.; give another"):
        with lock_folder(tmp_path):
            pass
