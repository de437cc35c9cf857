"""What a killed process leaves is found by its name, and nothing else is."""
import os
import subprocess
import sys

import pytest
from conftest import REPO

from minilora.io.temporary import remove_leftovers, temporary_folder, temporary_path

HOLD = """
import sys, time
from minilora.io.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print(file.name, flush=True)
    time.sleep(60)
"""


def test_a_file_in_use_stays_and_that_of_a_killed_process_goes(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a")], cwd=REPO,
                             stdout=subprocess.PIPE, text=True)
    path = other.stdout.readline().strip()
    os.utime(path, (1, 1))                              # older than this process
    assert remove_leftovers(tmp_path) == []
    other.kill()
    other.wait()
    assert remove_leftovers(tmp_path) == [os.path.basename(path)] and not os.listdir(tmp_path)


@pytest.mark.parametrize("name", [".minilora-0123456789abcdef.tmp.bak", ".minilora-01234567.tmp",
                                  "minilora-0123456789abcdef.tmp", ".minilora-0123456789ABCDEF.tmp",
                                  ".minilora-notes.tmp", ".a.png.0123abcd.tmp"])
def test_files_of_other_names_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    os.utime(tmp_path / name, (1, 1))
    assert remove_leftovers(tmp_path) == [] and (tmp_path / name).read_text() == "mine"


def test_links_and_pipes_stay_and_so_does_what_is_behind(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "a").write_text("mine")
    for name, make in (("0" * 16, lambda p: p.symlink_to(home)), ("1" * 16, os.mkfifo),
                       ("2" * 16, lambda p: p.symlink_to(home / "a"))):
        path = tmp_path / f".minilora-{name}.tmp"
        make(path)
        os.utime(path, (1, 1), follow_symlinks=False)
    assert remove_leftovers(tmp_path) == [] and (home / "a").read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 4


def test_a_temporary_folder_goes_at_the_end_or_with_the_next_process(tmp_path):
    with temporary_folder(tmp_path) as folder:
        (folder / "a").write_text("half")
        os.utime(folder, (1, 1))
        assert remove_leftovers(tmp_path) == []         # in use
    assert not os.listdir(tmp_path)
    left = temporary_path(tmp_path)
    (left / "train" / "good").mkdir(parents=True)
    os.utime(left, (1, 1))
    assert remove_leftovers(tmp_path) == [left.name] and not os.listdir(tmp_path)
