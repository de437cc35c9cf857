"""A file belongs to minilora only if the record of its folder lists it with its bytes."""
import json
import os

import pytest

from minilora.io import record
from minilora.io.files import sha256_of


def listing(folder, purpose, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    record.write_record(folder, {purpose: {name: sha256_of(folder / name) for name in names}})


@pytest.mark.parametrize("name", ["a", "a.png", "maps/a.png", "ImageSets/Main/default.txt", "é",
                                  "…", "caf\udce9.png", "a\nb", "-a", "~", "a b", "[x]*?"])
def test_relative_names_are_kept(tmp_path, name):
    assert record.is_result_name(name)
    record.write_record(tmp_path, {"fit": {name: "0" * 64}})
    assert record.read_record(tmp_path) == {"fit": {name: "0" * 64}}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/a", "../a", "a/../b", "a//b", "a/", "./a",
                                  "a\0b", "a/b/c/d/e", ".minilora.json", "maps/.minilora.lock",
                                  ".unfinished-fit/complete"])
def test_other_names_are_refused(tmp_path, name):
    assert not record.is_result_name(name)
    (tmp_path / record.RECORD_FILE).write_text(
        json.dumps({"version": 1, "results": {"fit": {name: "0" * 64}}}))
    with pytest.raises(ValueError, match="json is not as minilora writes it .expected names"):
        record.read_record(tmp_path)


def test_a_wildcard_does_not_cross_a_folder_nor_find_our_own_files(tmp_path):
    listing(tmp_path, "fit", "a.json", "maps/b.json")
    assert list(record.existing_names(tmp_path, ["*.json"])) == ["a.json"]
    assert list(record.existing_names(tmp_path, ["maps/*", "none/*", "b"])) == ["maps/b.json"]
    assert record.matches("maps/b.json", ["maps/*.json"])
    assert not record.matches("maps/b.json", ["*", "*.json", "maps"])


def test_results_are_told_from_the_pictures_beside_them(tmp_path):
    listing(tmp_path, "predict", "0001-OK-a.png", "sub/deep/c.png", "b.png")
    (tmp_path / "b.png").write_text("a picture of the same name")
    for name in ("a.png", "sub/deep/d.png"):
        (tmp_path / name).write_text("picture")
    paths = sorted(tmp_path.rglob("*.png"))
    assert record.results_among(paths) == {tmp_path / "0001-OK-a.png", tmp_path / "sub/deep/c.png"}
    (tmp_path / record.RECORD_FILE).write_text("damaged")
    assert record.results_among(paths) == set()


def test_relative_paths_are_recognised_too(tmp_path, monkeypatch):
    listing(tmp_path, "predict", "a.png")
    monkeypatch.chdir(tmp_path)
    assert list(record.results_among(["a.png", "sub/../a.png"])) == [record.Path("a.png")]


def test_a_long_listing_is_refused_when_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1000)
    with pytest.raises(ValueError, match="too many files for one folder; give fewer at once"):
        record.write_record(tmp_path, {"fit": {f"{k}.png": "0" * 64 for k in range(99)}})
    assert not os.listdir(tmp_path)
