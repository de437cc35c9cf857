"""Which pictures of a watched folder are new and complete."""
import builtins
import contextlib
import os

import pytest

from minilora.data.listing import list_pictures
from minilora.prediction import new_files
from minilora.prediction.new_files import NewFiles


@pytest.fixture
def belt(tmp_path):
    """(watched folder, NewFiles without known pictures)."""
    folder = tmp_path / "belt"
    folder.mkdir()
    return folder, NewFiles(folder, tmp_path / "out", set())


def names(found):
    return [file.name for file in found]


def test_a_file_that_grows_is_complete_when_two_polls_find_it_equal(belt):
    folder, found = belt
    for size in (1, 2, 3):
        (folder / "a.png").write_bytes(bytes(size))
        assert found.poll() == []
    assert names(found.poll()) == ["a.png"]


def test_a_file_of_equal_size_that_was_written_again_is_not_complete(belt):
    folder, found = belt
    for second in (1, 2, 3):
        (folder / "a.png").write_bytes(bytes(second))
        (folder / "a.png").write_bytes(b"equal")
        os.utime(folder / "a.png", (second, second))
        assert found.poll() == []


def test_known_pictures_do_not_count_until_their_content_is_replaced(belt):
    folder, found = belt
    (folder / "a.png").write_bytes(b"old")
    found.poll()
    found.known.update(a.key for a in found.poll())
    assert found.poll() == found.poll() == [] and found.waiting == {}
    (folder / "a.png").write_bytes(b"new content")
    found.poll()
    assert names(found.poll()) == ["a.png"]


def test_a_file_that_is_renamed_into_the_folder_counts(belt):
    folder, found = belt
    (folder / "a.png.part").write_bytes(b"whole")
    found.poll(), found.poll()
    os.rename(folder / "a.png.part", folder / "a.png")
    found.poll()
    assert names(found.poll()) == ["a.png"]


@pytest.mark.parametrize("backwards", [False, True])
def test_the_pictures_are_those_of_data_listing_in_whatever_order_the_disk_lists_them(
        belt, monkeypatch, backwards):
    folder, found = belt
    for name in ("a.png", "line 2/b.JPG", "line 2/c.tmp", ".hidden.png", ".trash/d.png", "e.png~",
                 "f.part", ".png", "g.webp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "h.png").write_bytes(b"x")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    (folder / "a link").symlink_to(folder / "line 2")
    (folder / "the link").symlink_to(folder / "line 2")
    (folder / "circle").symlink_to(folder)
    expected, scandir = list_pictures(folder), os.scandir

    @contextlib.contextmanager
    def in_order(place):
        with scandir(place) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=backwards)
    monkeypatch.setattr(os, "scandir", in_order)
    found.poll()
    assert sorted(folder / name for name in names(found.poll())) == expected


def test_the_output_folder_inside_the_watched_one_is_not_watched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "NG-a.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    found = NewFiles(tmp_path, tmp_path / "out", set())
    assert found.poll() == found.poll() == []


def test_what_failed_is_tried_again_after_a_change_or_when_it_is_final(belt, monkeypatch):
    folder, found = belt
    (folder / "a.png").write_bytes(b"half")
    found.poll()
    found.poll()[0].failed = True
    assert found.poll() == []
    monkeypatch.setattr(new_files, "GIVE_UP_AFTER", 0.0)
    assert names(found.poll()) == ["a.png"]
    monkeypatch.undo()
    (folder / "a.png").write_bytes(b"all of it")
    assert found.poll() == [] and names(found.poll()) == ["a.png"]


def test_what_cannot_be_looked_at_is_a_problem_and_no_picture(belt):
    folder, found = belt
    (folder / "lost.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "good.png").write_bytes(b"x")
    found.poll()
    assert names(found.poll()) == ["good.png"]
    assert found.problems == {"lost.png": "cannot be read (No such file or directory)",
                              "pipe.png": "is a named pipe, expected a file",
                              "circle.png": "cannot be read (Too many levels of symbolic links)"}


def test_a_poll_opens_no_file(belt, monkeypatch):
    folder, found = belt
    (folder / "a.png").write_bytes(b"x")

    def refuse(*arguments, **options):
        raise AssertionError(f"opened {arguments}")
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    found.poll()
    assert names(found.poll()) == ["a.png"]


def test_the_oldest_picture_comes_first_and_is_complete_when_it_was_last_written(belt):
    folder, found = belt
    found.poll()
    start = found.polled
    for name, written in (("a.png", start + 0.002), ("b.png", start + 0.001), ("c.png", 1e9)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (written, written))
    while new_files.time.time() < start + 0.002:
        pass
    found.poll()
    complete = found.poll()
    assert names(complete) == ["c.png", "b.png", "a.png"]
    assert complete[0].completed == start, "moved here: it was not there at the poll before"
    assert complete[1].completed == pytest.approx(start + 0.001, abs=1e-6)


def test_a_name_that_is_not_utf8_has_a_key():
    assert len(new_files.picture_key("caf\udce9.png", 1, 2)) == 16
