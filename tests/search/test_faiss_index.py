"""Search with faiss: one inverted file for each group of parts, kept while its parts stay."""
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minilora.checkpoint.base_model import BaseModel
from minilora.io.files import save_tensors
from minilora.io.notes import take_notes
from minilora.io.progress import stages_on
from minilora.search import faiss_index, query
from minilora.search.index import Index, similarity_to
from minilora.search.index_file import Entry

faiss = pytest.importorskip("faiss")


def add_video(index, name, features):
    """One part and one file with these features, of length one, a frame a second."""
    save_tensors(index.part_path(f"frames-{name}"), {
        "features": F.normalize(features, dim=1).half(),
        "times": torch.arange(len(features)).double()})
    index.entries[f"{name}.mp4"] = Entry(f"{name}.mp4", 1, 1, [
        [f"frames-{name}", 0, len(features)]])


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Seven videos of 40 random frames; a group holds two of them.  The cache is beside it."""
    monkeypatch.setattr(faiss_index, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(faiss_index, "GROUP_ROWS", 100)
    made, generator = Index(tmp_path / "i", BaseModel("made up", "0" * 64), {}), torch.Generator()
    for k in range(7):
        add_video(made, k, torch.randn(40, 8, generator=generator.manual_seed(k)))
    return made


def stored(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.faiss")}


def test_groups_hold_whole_parts_in_order_and_no_more_rows_than_allowed(index):
    add_video(index, "long", torch.ones(150, 8))
    add_video(index, "short", torch.ones(3, 8))
    index.entries["0 again.mp4"] = Entry("0 again.mp4", 1, 1, [["frames-0", 10, 20]])
    groups = faiss_index.groups_of_parts(index)
    assert [name for group in groups for name in group] == index.part_names()
    assert [sum(group.values()) for group in groups] == [90, 80, 80, 40, 150, 3]
    assert faiss_index.groups_of_parts(Index(index.folder, index.base, {})) == []


def test_the_nearest_rows_of_all_groups_decide_on_the_files(index, monkeypatch):
    """With every list searched they are those of the exact product."""
    monkeypatch.setattr(faiss_index, "N_PROBES", 512)
    rows = torch.cat([index.load_part(name)["features"] for name in index.part_names()]).float()
    for seed in range(5):
        text = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        best = (rows @ F.normalize(text, dim=0)).topk(6).indices
        assert faiss_index.nearest_files(index, text, rows=6) == {f"{r // 40}.mp4" for r in best}


def test_the_best_event_is_that_of_the_exhaustive_search(index):
    for k, name in enumerate(index.part_names()):
        text = index.load_part(name)["features"][5 * k].float()
        files = faiss_index.nearest_files(index, text, rows=3)
        (exact, *_), _ = query.find_events(index, similarity_to(text), 10)
        (fast, *_), curves = query.find_events(index, similarity_to(text), 10, files=files)
        assert fast == exact and fast.file == f"{k}.mp4" and len(curves) <= 3


def test_the_parts_of_the_nearest_rows_are_followed_first(index, monkeypatch):
    monkeypatch.setattr(faiss_index, "NEAREST_PARTS", 2)
    text = index.load_part("frames-5")["features"][7].float()
    found = faiss_index.nearest_files(index, text, rows=200)
    assert len(found) == 2 and "5.mp4" in found


def test_a_new_video_changes_only_the_last_group(index, tmp_path):
    text = torch.ones(8)
    faiss_index.nearest_files(index, text)
    before = stored(tmp_path)
    add_video(index, 7, torch.ones(40, 8))
    assert "7.mp4" in faiss_index.nearest_files(index, text, rows=3)
    after = stored(tmp_path)
    assert len(before) == len(after) == 4
    assert len(before.items() & after.items()) == 3, "the others are neither made nor written again"


def test_one_group_is_in_memory_while_the_next_is_built(index, monkeypatch):
    """Those of the group before are gone by then, with and without a cache."""
    import weakref
    alive, real = [], faiss_index.build_inverted_index

    def build(*arguments):
        assert [ref() for ref in alive if ref() is not None] == []
        made = real(*arguments)
        alive.append(weakref.ref(made))
        return made
    monkeypatch.setattr(faiss_index, "build_inverted_index", build)
    for cache in (faiss_index.cache_folder, lambda: None):
        monkeypatch.setattr(faiss_index, "cache_folder", cache)
        faiss_index.nearest_files(index, torch.ones(8))
    assert len(alive) == 8


def test_k_means_sees_a_sample_of_the_rows(index, monkeypatch):
    """Not more than `TRAINING_ROWS_PER_LIST` for a list, and one more for each part."""
    monkeypatch.setattr(faiss_index, "N_LISTS", 2)
    monkeypatch.setattr(faiss_index, "TRAINING_ROWS_PER_LIST", 10)
    seen, real = [], faiss.index_factory

    def factory(*arguments):
        made = real(*arguments)
        train = made.train
        made.train = lambda rows: (seen.append(len(rows)), train(rows))
        return made
    monkeypatch.setattr(faiss, "index_factory", factory)
    inverted = faiss_index.build_inverted_index(index, {f"frames-{k}": 40 for k in range(7)})
    assert inverted.ntotal == 280 and inverted.nlist == 2 and 20 <= seen[0] <= 27


# ---- cache --------------------------------------------------------------------------------------

def inverted_file(width, ids, kind="IVF1,Flat"):
    """Inverted lists of random rows, as a file of faiss could hold them."""
    made = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
    rows = torch.randn(len(ids), width).numpy()
    made.train(rows)
    made.add_with_ids(rows, ids.numpy()) if "IVF" in kind else made.add(rows)
    return made


@pytest.mark.parametrize("other", [
    lambda: inverted_file(9, torch.arange(80)), lambda: inverted_file(8, torch.arange(5)),
    lambda: inverted_file(8, torch.arange(80), "Flat")], ids=["width", "rows", "kind"])
def test_inverted_lists_of_something_else_are_made_again(index, other):
    expected = faiss_index.nearest_files(index, torch.ones(8), rows=3)
    group, *_ = faiss_index.groups_of_parts(index)
    path = faiss_index.inverted_index_path(index, group)
    faiss.write_index(other(), str(path))
    assert faiss_index.nearest_files(index, torch.ones(8), rows=3) == expected
    assert faiss_index.load_inverted_index(path, group, 8).ntotal == 80


def test_rows_that_no_part_has_are_left_out(index):
    faiss_index.nearest_files(index, torch.ones(8))
    path = faiss_index.inverted_index_path(index, faiss_index.groups_of_parts(index)[0])
    faiss.write_index(inverted_file(8, torch.arange(80) + 10**12), str(path))
    found = faiss_index.nearest_files(index, torch.ones(8), rows=500)
    assert found == {f"{k}.mp4" for k in range(2, 7)}


@pytest.mark.parametrize("content", [b"", b"IwFl", bytes(5000), None])
def test_a_damaged_file_or_a_folder_in_its_place_is_no_error(index, content):
    expected = faiss_index.nearest_files(index, torch.ones(8), rows=3)
    path = faiss_index.inverted_index_path(index, faiss_index.groups_of_parts(index)[0])
    whole = path.read_bytes()
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert faiss_index.nearest_files(index, torch.ones(8), rows=3) == expected
    if content is not None:
        for size in range(0, len(whole), 97):
            path.write_bytes(whole[:size])
            assert faiss_index.nearest_files(index, torch.ones(8), rows=3) == expected


def test_a_full_disk_and_a_closed_cache_are_noted_and_the_search_goes_on(index, monkeypatch):
    def full(*arguments):
        raise RuntimeError("write error: No space left on device")

    def closed(path):
        if path.suffix == ".faiss":
            raise PermissionError(13, "Permission denied")
        return is_file(path)
    expected, is_file = faiss_index.nearest_files(index, torch.ones(8), rows=3), Path.is_file
    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(faiss, "write_index", full)
    take_notes()
    assert faiss_index.nearest_files(index, torch.ones(8), rows=3) == expected
    line, = take_notes()
    assert "3 more files: could not be kept" in line and "set XDG_CACHE_HOME" in line


def test_building_shows_how_many_groups_are_done(index, monkeypatch):
    monkeypatch.setattr("minilora.io.progress.EVERY_SECONDS", 0)
    stream = io.StringIO()
    with stages_on(stream):
        faiss_index.nearest_files(index, torch.ones(8))
    assert "groups of frames    4/4" in stream.getvalue()
