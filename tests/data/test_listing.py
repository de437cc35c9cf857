"""What is in a folder: nothing is passed over without a word, nothing waits or is read twice."""
import os

import pytest
from PIL import Image

from minilora.data import frames, listing, own_and_visa
from minilora.data.mvtec import check_good_folder, list_classes, load_class
from minilora.io.notes import take_notes


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name, "PNG")


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found.pictures]


def test_linked_folders_are_followed_once_and_circles_end(tmp_path):
    folder = tmp_path / "line"
    files(folder, "a.png", "more/b.png")
    files(tmp_path, "elsewhere/c.png")
    for name in ("0 linked", "z linked"):
        (folder / name).symlink_to(folder / "more")
    (folder / "circle").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "d.png").symlink_to(folder / "a.png")
    found = listing.listing(folder)
    assert names(found, folder) == ["a.png", "d.png", "more/b.png", "out/c.png"]
    assert found.skipped == []


def test_pipes_broken_links_and_unreadable_folders_are_named(tmp_path, monkeypatch):
    files(tmp_path, "a.png", "locked/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost.jpg").symlink_to("nowhere")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refuse)
    found = listing.listing(tmp_path)
    assert names(found, tmp_path) == ["a.png"]
    assert {p.name: reason for p, reason in found.skipped} == {
        "locked": "a folder that cannot be read (Permission denied)", "lost.jpg": "a broken link",
        "pipe.png": "a named pipe"}
    assert [p.name for p, _ in found.ignored] == ["pipe"]


def test_hidden_folders_never_become_a_shot_a_kind_or_an_indexed_picture(tmp_path):
    files(tmp_path, "good/a.png", "good/.ipynb_checkpoints/a-checkpoint.png", "good/._a.png",
          "test/.ipynb_checkpoints/b.png", "test/bent/c.png",
          "nut/train/good/a.png", "nut/test/.ipynb_checkpoints/b.png", ".old/train/good/a.png")
    data = own_and_visa.own_pictures(tmp_path / "good", tmp_path / "test")
    assert [s.path.name for s in data.train] == ["a.png"]
    assert [s.kind for s in data.test] == ["bent"]
    assert load_class(tmp_path, "nut").test == []
    assert own_and_visa.class_names(tmp_path) == ["nut"]
    assert [p.name for p in frames.media_in([tmp_path / "good"]).pictures] == ["a.png"]


def test_folders_of_masks_are_not_indexed_and_that_is_said(tmp_path):
    files(tmp_path, "nut/test/dent/0.png", "nut/ground_truth/dent/0_mask.png",
          "pcb/Data/Images/0.png", "pcb/Data/Masks/0.png", "Masks/carnival.png")
    take_notes()
    found = [str(p.relative_to(tmp_path)) for p in frames.media_in([tmp_path]).pictures]
    assert found == ["Masks/carnival.png", "nut/test/dent/0.png", "pcb/Data/Images/0.png"]
    (line,) = take_notes()
    assert "ground_truth and 1 more file: a folder of masks" in line
    given = frames.media_in([tmp_path / "nut/ground_truth"]).pictures
    assert [p.name for p in given] == ["0_mask.png"], "a folder that is given by its name counts"


def test_a_pipe_among_the_files_of_an_index_never_blocks(tmp_path):
    for name in ("pipe.png", "pipe.gif", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
        with pytest.raises((OSError, ValueError), match=f"{name}.* a named pipe"):
            list(frames.all_frames(tmp_path / name))
    assert len(frames.media_in([tmp_path]).skipped) == 3


@pytest.mark.parametrize("name", ["Good", "GOOD", "good "])
def test_a_folder_named_nearly_good_is_asked_about(name, tmp_path):
    files(tmp_path, "nut/train/good/a.png", f"nut/test/{name}/0.png", "nut/test/dent/0.png")
    with pytest.raises(ValueError, match=f"{name}: are its pictures good ones.*rename"):
        load_class(tmp_path, "nut")
    with pytest.raises(ValueError, match="are its pictures good ones"):
        own_and_visa.own_pictures(tmp_path / "nut/train/good", tmp_path / "nut/test")
    check_good_folder(tmp_path / "nut/train")


@pytest.mark.parametrize("names", [list_classes, own_and_visa.class_names])
def test_a_class_whose_good_pictures_are_named_good_in_another_case_is_not_passed_over(names,
                                                                                       tmp_path):
    files(tmp_path, "nut/train/good/a.png", "bolt/train/GOOD/a.png", "notes/a.txt")
    with pytest.raises(ValueError, match="bolt/train/GOOD: are its pictures good ones"):
        names(tmp_path)


def test_pictures_of_one_stem_are_both_kept_and_their_masks_found(tmp_path):
    files(tmp_path, "nut/train/good/a.png", "nut/test/dent/0.png", "nut/test/dent/0.jpg",
          "nut/ground_truth/dent/0.BMP")
    test = load_class(tmp_path, "nut").test
    assert [s.path.name for s in test] == ["0.jpg", "0.png"]
    assert {s.mask_path.name for s in test} == {"0.BMP"}


def test_what_is_not_looked_at_is_part_of_the_data(tmp_path):
    files(tmp_path, "nut/train/good/a.png", "nut/test/dent/0.png", "nut/test/dent/more/1.png")
    os.mkfifo(tmp_path / "nut/test/dent/pipe.png")
    skipped = load_class(tmp_path, "nut").skipped
    assert sorted((p.name, reason) for p, reason in skipped) == [
        ("more", "a folder inside the folder of a kind"), ("pipe.png", "a named pipe")]


def test_names_that_are_not_utf_8_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        files(tmp_path, f"nut/train/good/{name}", f"nut/test/dent/{name}")
    except OSError:
        pytest.skip("this file system accepts UTF-8 names only")
    files(tmp_path, f"nut/ground_truth/dent/{name.removesuffix('.png')}_mask.PNG")
    data = load_class(tmp_path, "nut")
    assert data.test[0].mask_path is not None and len(listing.list_pictures(tmp_path)) == 3
    (tmp_path / "nut/test/dent" / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot read picture .*caf\\xe9\.png") as error:
        load_class(tmp_path, "nut")
    assert str(error.value).isprintable()


def test_the_demo_prints_at_most_12_lines(capsys):
    listing.demo()
    assert 0 < len(capsys.readouterr().out.splitlines()) <= 12
