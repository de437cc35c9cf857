"""An output that the user names replaces only what the same command wrote."""
import os

import pytest

from minilora.io import output
from minilora.io.files import sha256_of
from minilora.io.lock import lock_folder
from minilora.io.output import atomic_output, check_output
from minilora.io.record import read_record


def write(path, text, purpose="explain", **options):
    with atomic_output(path, purpose, "w", **options) as file:
        file.write(text)


def test_the_output_of_the_same_command_is_replaced_and_others_stay(tmp_path):
    write(tmp_path / "a.html", "1")
    write(tmp_path / "b.html", "1")
    write(tmp_path / "a.html", "2")
    assert (tmp_path / "a.html").read_text() == "2" and (tmp_path / "b.html").read_text() == "1"
    assert sha256_of(tmp_path / "a.html") in read_record(tmp_path)["explain"]["a.html"].split()
    (tmp_path / "b.html").unlink()
    write(tmp_path / "c.html", "1")
    assert set(read_record(tmp_path)["explain"]) == {"a.html", "c.html"}    # no more than there is


def refused(path, message, purpose="explain", inputs=()):
    before = os.lstat(path)
    for act in (lambda: check_output(path, purpose, inputs),
                lambda: write(path, "new", purpose, inputs=inputs)):
        with pytest.raises(ValueError, match=message):
            act()
    assert os.lstat(path).st_ino == before.st_ino


def test_a_file_of_other_origin_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("mine")
    refused(tmp_path / "a.png", "a.png was not written by minilora.*give another name")
    write(tmp_path / "a.html", "1")
    refused(tmp_path / "a.html", "belongs to the result of another command", "query")
    (tmp_path / "a.html").write_text("with my notes")
    refused(tmp_path / "a.html", "was changed since minilora wrote it")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_an_input_is_refused_even_if_minilora_wrote_it_and_through_links(tmp_path):
    write(tmp_path / "sheet.png", "1", "query")
    (tmp_path / "link.png").symlink_to("sheet.png")
    os.link(tmp_path / "sheet.png", tmp_path / "hard.png")
    for name in ("sheet.png", "link.png", "hard.png"):
        refused(tmp_path / "sheet.png", "is read by this command", "query", [tmp_path / name])


@pytest.mark.parametrize("make, found", [
    (os.mkfifo, "a named pipe"), (os.mkdir, "a folder"),
    (lambda p: p.symlink_to("victim"), "a link"), (lambda p: p.symlink_to("nothing"), "a link"),
    (lambda p: p.symlink_to("/dev/null"), "a link")])
def test_anything_but_a_file_is_refused(tmp_path, make, found):
    (tmp_path / "victim").write_text("mine")
    make(tmp_path / "out")
    refused(tmp_path / "out", f"out is {found}, expected the name of a file")
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "nothing").exists()


def test_a_device_is_refused():
    refused("/dev/null", "is a device")


@pytest.mark.parametrize("name, message", [("n" * 256, "at most 255 bytes"),
                                           (".minilora.json", "begin like minilora's own"),
                                           ("victim/a", "victim is not a folder")])
def test_names_that_cannot_be_are_refused_before_the_work(tmp_path, name, message):
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(ValueError, match=message):
        check_output(tmp_path / name, "explain")
    assert os.listdir(tmp_path) == ["victim"]


def test_a_name_of_255_bytes_and_a_missing_folder_are_fine(tmp_path):
    write(tmp_path / "new" / ("n" * 255), "1")
    assert (tmp_path / "new" / ("n" * 255)).read_text() == "1"


def test_a_file_that_appears_during_the_work_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="a.html was not written by minilora"):
        with atomic_output(tmp_path / "a.html", "explain", "w") as file:
            file.write("new")
            (tmp_path / "a.html").write_text("mine")
    assert (tmp_path / "a.html").read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("moment", ["before the new name", "after it"])
def test_after_a_crash_the_file_is_still_known(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.html"
    write(path, "old")
    real = os.replace

    def deadly(source, target):
        if str(target).endswith("a.html") and moment == "after it":
            real(source, target)
        if str(target).endswith("a.html"):
            raise SystemExit("killed")
        real(source, target)
    monkeypatch.setattr(os, "replace", deadly)
    with pytest.raises(SystemExit):
        write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == ("new" if moment == "after it" else "old")
    write(path, "newest")
    assert path.read_text() == "newest"


def test_a_writer_that_holds_the_lock_can_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "LOCK_WAIT", 0.0)
    with lock_folder(tmp_path):
        write(tmp_path / "index.json", "{}", "index", locked=True)
        with pytest.raises(ValueError, match="being written by another process"):
            write(tmp_path / "a.html", "1")
    assert (tmp_path / "index.json").read_text() == "{}"
