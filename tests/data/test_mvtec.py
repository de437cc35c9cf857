"""The data folder: which files are read, what a few-shot draw means, which errors are raised."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, shared_path
from PIL import Image

from minilora.data import summary
from minilora.data.masks import read_mask
from minilora.data.mvtec import (Sample, few_shot, find_data, list_classes, load_class,
                                  parse_shots)
from minilora.data.summary import data_summary


def save(path, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 90).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes: `nut` is complete except for one mask, `bolt` has good pictures only."""
    for i in range(5):
        save(tmp_path / f"nut/train/good/{i:03}.png")
    save(tmp_path / "nut/test/good/000.png")
    for i in range(2):
        save(tmp_path / f"nut/test/scratch/{i:03}.png")
    save(tmp_path / "nut/ground_truth/scratch/001_mask.png", mode="L")
    save(tmp_path / "bolt/train/good/a.JPG")
    return tmp_path


def numbered(count):
    return [Sample(Path(f"c/train/good/{i:03}.png"), "good", 0) for i in range(count)]


def test_a_class_is_read_in_sorted_order_with_labels_and_masks(folder):
    nut = load_class(folder, "nut")
    assert [s.path.name for s in nut.train] == [f"{i:03}.png" for i in range(5)]
    assert {(s.kind, s.label, s.mask_path) for s in nut.train} == {("good", 0, None)}
    assert [(s.kind, s.path.name, s.label) for s in nut.test] == [
        ("good", "000.png", 0), ("scratch", "000.png", 1), ("scratch", "001.png", 1)]
    assert (nut.root, nut.name) == (folder, "nut")


def test_a_defective_picture_without_a_mask_has_none(folder):
    without, with_mask = load_class(folder, "nut").test[1:]
    assert without.mask_path is None
    assert with_mask.mask_path == folder / "nut/ground_truth/scratch/001_mask.png"
    assert with_mask.mask_path.exists()


def test_dark_grey_pixels_of_a_white_mask_are_not_marked(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 2:4], pixels[:, 4:] = 90, 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", 8, (8, 8))
    assert mask.float().mean(0).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_classes_are_the_folders_with_good_training_pictures(folder):
    (folder / "notes").mkdir()
    assert list_classes(folder) == ["bolt", "nut"]
    assert load_class(folder, "bolt").test == []


def test_hidden_files_and_other_file_types_are_ignored(folder):
    for name in (".DS_Store", "._000.png", "Thumbs.db", "readme.txt"):
        (folder / "nut/train/good" / name).write_text("x")
    save(folder / "nut/test/.cache/000.png")
    nut = load_class(folder, "nut")
    assert len(nut.train) == 5 and len(nut.test) == 3


def test_the_error_for_a_missing_class_lists_the_classes_found(folder):
    with pytest.raises(FileNotFoundError, match="class 'screw' not found .* it holds bolt, nut"):
        load_class(folder, "screw")
    with pytest.raises(FileNotFoundError, match="no class; give the folder above it"):
        load_class(folder / "nut", "nut")
    with pytest.raises(FileNotFoundError, match="it holds no class"):
        load_class(folder / "nowhere", "nut")


def test_an_empty_train_good_is_an_error(folder):
    (folder / "bolt/train/good/a.JPG").unlink()
    with pytest.raises(FileNotFoundError, match="bolt.*good holds no picture"):
        load_class(folder, "bolt")


def test_a_mask_of_another_size_than_its_picture_is_an_error(folder):
    save(folder / "nut/ground_truth/scratch/000_mask.png", size=(10, 12), mode="L")
    with pytest.raises(ValueError, match="000_mask.png is 10x12, its picture .* 12x10"):
        load_class(folder, "nut")


def test_the_error_names_an_unreadable_test_picture_with_a_mask(folder):
    (folder / "nut/test/scratch/001.png").write_text("nothing")
    with pytest.raises(ValueError, match="cannot read picture .*001.png"):
        load_class(folder, "nut")


# The few-shot draw

def test_the_draw_does_not_depend_on_the_order_of_the_files():
    files = numbered(50)
    shuffled = [files[i] for i in np.random.default_rng(0).permutation(50)]
    assert few_shot(shuffled, 8, 1) == few_shot(files, 8, 1)


def test_the_draw_depends_only_on_the_seed():
    files = numbered(50)
    torch.manual_seed(5)
    first = few_shot(files, 8, 1)
    torch.manual_seed(6)
    assert few_shot(files, 8, 1) == first != few_shot(files, 8, 2)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert first == [files[i] for i in order[:8]]


def test_a_smaller_draw_is_the_beginning_of_a_larger_one():
    """So a curve over K adds pictures and replaces none."""
    files = numbered(50)
    assert few_shot(files, 16, 3)[:4] == few_shot(files, 4, 3)
    assert len(set(few_shot(files, 50, 3))) == 50


def test_all_shots_are_the_sorted_list_and_0_shots_are_none():
    files = numbered(9)
    assert few_shot(files[::-1], "all", 1) == files
    assert few_shot(files, 0, 1) == []


def test_the_error_for_too_many_shots_gives_the_number_of_pictures():
    with pytest.raises(ValueError, match="10 shots asked for, but there are only 9 good pictures"):
        few_shot(numbered(9), 10, 1)
    for wrong in (-1, 2.0, "8", True, None):
        with pytest.raises(ValueError, match="expected a whole number from 0 upwards, or 'all'"):
            few_shot(numbered(9), wrong, 1)


@pytest.mark.parametrize("text", ["a\nOK", "\u202e8", "9" * 5000, "-1", "", "²"])
def test_a_number_of_shots_that_is_none_is_shown_in_one_line(text):
    with pytest.raises(ValueError, match="--shots .*expected a whole number") as caught:
        parse_shots(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


# Where the data is

def test_data_is_found_by_option_then_environment_then_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    assert find_data() is None
    (tmp_path / "data/mvtec").mkdir(parents=True)
    assert find_data() == Path("data/mvtec")
    for name in ("option", "variable"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MINILORA_DATA", "variable")
    assert find_data() == Path("variable")
    assert find_data("option") == Path("option")


def test_a_named_data_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILORA_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"gone \(from \$MINILORA_DATA\) not found"):
        find_data()
    with pytest.raises(FileNotFoundError, match=r"lost \(from --data\) not found"):
        find_data(tmp_path / "lost")


# The summary

def test_the_summary_lists_counts_sizes_modes_and_missing_masks(folder):
    lines = list(data_summary(folder))
    assert lines[:4] == ["bolt", "  train     1   good 1", "  test      0   ",
                         "  12x10; RGB 1"]
    nut = lines[lines.index("nut"):]
    assert nut == ["nut", "  train     5   good 5", "  test      3   good 1, scratch 2",
                   "  12x10; RGB 8", "  masks 1 of 2 (two values 1); 1 missing: scratch/000.png; 1 "
                   "with more than half marked (inverted?): scratch/001.png; pixel metrics leave "
                   "the missing and empty ones out",
                   f"  ! mask missing: {Path('test/scratch/000.png')}"]


def test_the_summary_lists_faults_and_continues(folder):
    (folder / "nut/train/good/000.png").write_text("nothing")
    save(folder / "nut/ground_truth/scratch/000_mask.png", size=(10, 12), mode="L")
    save(folder / "nut/ground_truth/scratch/077_mask.png", mode="L")
    for i in range(30):
        save(folder / f"nut/test/dent/{i:03}.png", size=(20 + i, 10), mode="L")
    text = "\n".join(data_summary(folder))
    assert "cannot read picture" in text and "L 30" in text and "RGB 7" in text
    assert "is 10x12, its picture " in text
    assert "31 sizes, 12-49 wide, 10-10 high" in text
    assert "and 13 more" in text                            # 33 faults, 20 of them shown
    assert text.count("\n  ! ") == 21
    with pytest.raises(FileNotFoundError, match="no class found in"):
        list(data_summary(folder / "nut"))


def test_the_summary_of_real_classes_has_no_faults():
    text = "\n".join(data_summary(shared_path("mvtec")))
    assert "contamination 21" in text and "masks 63 of 63" in text and "!" not in text
    bottle = load_class(shared_path("mvtec"), "bottle")
    assert len(bottle.train) == 209 and len(bottle.test) == 83
    assert all((s.mask_path is None) == (s.label == 0) for s in bottle.test)
    marked = [read_mask(s.mask_path, 224).float().mean().item() for s in bottle.test[:5]]
    assert all(0 < share < 0.5 for share in marked)


def test_the_command_prints_a_summary_or_the_demo(folder, capsys, monkeypatch):
    out = subprocess.run([sys.executable, "-m", "minilora.data", str(folder)], cwd=REPO,
                         capture_output=True, text=True, check=True).stdout
    assert "scratch 2" in out
    monkeypatch.setattr(sys, "argv", ["data"])
    summary.main()
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) <= 12 and "True" in lines[6]
