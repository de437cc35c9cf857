"""The floor of a search: what is answered, what is not, and what is kept in the cache."""
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import REPO
from PIL import Image

from minilora.checkpoint.base_model import BaseModel
from minilora.io.files import load_tensors, save_tensors
from minilora.io.notes import take_notes
from minilora.scenes.outlines import FAMILIES
from minilora.search import floor as module
from minilora.search import run as search_run
from minilora.search.events import Event, localise_events
from minilora.search.floor import Answer, Floor, calibrate_floor, find_answer
from minilora.search.index import Index
from minilora.search.index_file import Entry
from minilora.search.results import nothing_line, result_page
from minilora.search.unrelated_texts import UNRELATED_TEXTS

VECTORS = {"a": [1.0, 0, 0], "b": [0.0, 1, 0], "c": [0.0, 0, 1]}
SCALE = 10.0


def index_of(folder, files, spacing=1.0):
    """An index of made-up features: {file: rows}."""
    index = Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0})
    for k, (name, rows) in enumerate(files.items()):
        times = spacing * torch.arange(len(rows), dtype=torch.float64)
        save_tensors(index.part_path(f"frames-{k}"), {
            "features": torch.tensor(rows).half(), "times": times})
        index.entries[name] = Entry(name, 1, 1, [[f"frames-{k}", 0, len(rows)]])
    return index


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A model that reads three unrelated texts; `clip.read` lists what it has read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "UNRELATED_TEXTS", tuple(VECTORS))
    clip = SimpleNamespace(logit_scale=torch.tensor(SCALE).log(), read=[],
                           config=SimpleNamespace(embed=3))

    def text_features(clip, text):
        clip.read.append(text)
        return torch.tensor(VECTORS[text])
    monkeypatch.setattr(module, "text_features", text_features)
    return clip


FILES = {"belt.mp4": [[0.5, 0.25, 0], [0.25, 0.75, 0], [0, 0, 0.125]], "a.png": [[0, 0.5, 0.25]]}


# ---- calibration --------------------------------------------------------------------------------

def test_the_floor_is_made_of_what_unrelated_texts_reach(tmp_path, clip):
    """Highest similarities: a 0.5, b 0.75 in the video, c 0.25 in the picture."""
    found = calibrate_floor(index_of(tmp_path / "i", FILES), clip)
    assert (found.peak, found.scale) == (0.5, pytest.approx(SCALE))
    assert found.unrelated.tolist() == pytest.approx([1 / 3] * 3)


def test_similarities_are_smoothed_as_those_of_a_query(tmp_path, clip):
    """Three frames within half a second: the mean of each window."""
    rows = [[0.0, 0, 0], [0.75, 0, 0], [0, 0, 0]]
    index = index_of(tmp_path / "i", {"a.mp4": rows}, spacing=0.25)
    assert module.highest_similarities(index, torch.eye(3)).tolist() == [0.25, 0, 0]
    index = index_of(tmp_path / "j", {"a.mp4": rows}, spacing=2.0)
    assert module.highest_similarities(index, torch.eye(3)).tolist() == [0.75, 0, 0]


def test_blocks_of_rows_give_the_same_peaks(tmp_path, monkeypatch):
    rows = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).half()
    index = index_of(tmp_path / "i", {"a.mp4": rows.tolist(), "b.png": [[0.5, 0.5, 2.0]]}, 2.0)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    expected = [*rows[:, :2].amax(0).tolist(), 2.0]
    assert module.highest_similarities(index, torch.eye(3)).tolist() == expected


def test_rows_of_removed_pictures_do_not_count(tmp_path):
    index = index_of(tmp_path / "i", {"a.png": [[0.5, 0, 0], [0.75, 0, 0]]})
    path = module.floor_path(index)
    index.entries["a.png"].pieces = [["frames-0", 0, 1]]
    assert module.highest_similarities(index, torch.eye(3)).tolist() == [0.5, 0, 0]
    assert module.floor_path(index) != path, "the part is the same, but its rows in use are not"
    index.entries["a.png"].pieces = [["frames-0", 2, 3]]
    with pytest.raises(ValueError, match="has 2 rows, index.json expects 3"):
        module.highest_similarities(index, torch.eye(3))


def test_an_empty_index_has_no_floor(tmp_path, clip):
    assert calibrate_floor(index_of(tmp_path / "i", {}), clip) is None
    with pytest.raises(ValueError, match="holds no frame"):
        find_answer(index_of(tmp_path / "i", {}), None, torch.ones(3), 1)


def test_features_of_another_width_are_named(tmp_path, clip):
    with pytest.raises(ValueError, match="features of 2 numbers, the query has 3"):
        calibrate_floor(index_of(tmp_path / "i", {"a.png": [[1.0, 0]]}), clip)


# ---- cache --------------------------------------------------------------------------------------

def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.floor"))


def test_an_index_is_calibrated_once_and_again_when_it_has_changed(tmp_path, clip):
    index = index_of(tmp_path / "i", FILES)
    first = calibrate_floor(index, clip)
    assert len(clip.read) == 3 and len(cached(tmp_path)) == 1
    again = calibrate_floor(index, clip)
    assert len(clip.read) == 3 and again.peak == first.peak
    assert torch.equal(again.unrelated, first.unrelated)
    before = cached(tmp_path)
    del index.entries["belt.mp4"]
    assert calibrate_floor(index, clip).peak == 0.25, "a 0, b 0.5, c 0.25"
    assert len(clip.read) == 6 and len(cached(tmp_path)) == 1 and cached(tmp_path) != before


def test_another_model_or_list_is_calibrated_again(tmp_path, clip, monkeypatch):
    index = index_of(tmp_path / "i", FILES)
    paths = {module.floor_path(index)}
    index.base = BaseModel("made up", "1" * 64)
    paths.add(module.floor_path(index))
    monkeypatch.setattr(module, "UNRELATED_TEXTS", ("a", "b"))
    paths.add(module.floor_path(index))
    assert len(paths) == 3


@pytest.mark.parametrize("damage", [
    b"", b"not a file of minilora", {"peaks": torch.zeros(2), "unrelated": torch.zeros(3)},
    {"peaks": torch.full((3,), math.nan), "unrelated": torch.zeros(3)}, {"peaks": torch.zeros(3)},
    {"peaks": torch.zeros(3), "unrelated": torch.zeros(2)},             # of another model
    {"peaks": torch.full((3,), 3e38), "unrelated": torch.zeros(3)}])
def test_a_damaged_file_in_the_cache_is_made_again(tmp_path, clip, damage):
    index = index_of(tmp_path / "i", FILES)
    calibrate_floor(index, clip)
    path, = cached(tmp_path)
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        save_tensors(path, damage)
    assert calibrate_floor(index, clip).peak == 0.5 and len(clip.read) == 6
    assert load_tensors(path)["peaks"].tolist() == [0.5, 0.75, 0.25]


def test_without_a_cache_the_floor_is_computed_each_time(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: None)
    index = index_of(tmp_path / "i", FILES)
    for _ in range(2):
        assert calibrate_floor(index, clip).peak == 0.5
    assert len(clip.read) == 6
    file = tmp_path / "a file"
    file.write_text("in the place of the cache")
    monkeypatch.setattr(module, "cache_folder", lambda: file)
    assert calibrate_floor(index, clip).peak == 0.5, "a cache that cannot be written"


def test_a_file_that_is_too_large_for_a_calibration_is_not_read(tmp_path, clip, monkeypatch):
    index = index_of(tmp_path / "i", FILES)
    path = module.floor_path(index)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(module.MAX_FLOOR_BYTES + 1))
    monkeypatch.setattr(module, "load_tensors", lambda path: pytest.fail("it was read"))
    assert calibrate_floor(index, clip).peak == 0.5


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_in_the_cache_is_not_read(tmp_path, clip, kind):
    index = index_of(tmp_path / "i", FILES)
    path, target = module.floor_path(index), tmp_path / "of somebody"
    path.parent.mkdir(parents=True)
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    target.write_text("mine")
    {"folder": lambda: path.mkdir(), "link": lambda: path.symlink_to(target),
     "pipe": lambda: os.mkfifo(path)}[kind]()
    assert calibrate_floor(index, clip).peak == 0.5
    assert target.read_text() == "mine" and len(list(path.parent.iterdir())) == 1


def test_a_calibration_that_cannot_be_kept_is_noted_with_the_remedy(tmp_path, clip, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")
    take_notes()
    monkeypatch.setattr(module, "save_tensors", refuse)
    index = index_of(tmp_path / "i", FILES)
    assert calibrate_floor(index, clip).peak == 0.5
    line, = take_notes()
    assert line.startswith(str(module.floor_path(index))) and "set XDG_CACHE_HOME" in line


def test_what_a_killed_query_left_in_the_cache_is_deleted(tmp_path, clip):
    left = tmp_path / "cache" / "minilora" / "search" / f".minilora-{'0' * 16}.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half of it")
    os.utime(left, (1e9, 1e9))
    calibrate_floor(index_of(tmp_path / "i", FILES), clip)
    assert not left.exists() and len(cached(tmp_path)) == 1


# ---- the answer ---------------------------------------------------------------------------------

def belt(query, unrelated, opposite=0.0):
    """Seven moments; at second 3 the given similarities, else 0.1 to the query, 0.2 to the others.

    Axes: 0 the query's text, 1 the unrelated texts, 2 what is excluded.
    """
    rows = [[0.1, 0.2, 0.2] for _ in range(7)]
    rows[3] = [query, unrelated, opposite]
    return {"belt.mp4": rows}


FLOOR = Floor(0.5, torch.tensor([0.0, 1, 0]), SCALE)
MARGIN = math.log(5) / SCALE                    # 0.161


def test_an_event_is_answered_if_it_exceeds_what_unrelated_texts_reach(tmp_path):
    index = index_of(tmp_path / "i", belt(0.6, 0.2))
    answer = find_answer(index, FLOOR, torch.tensor([1.0, 0, 0]), 5)
    assert [event.peak for event in answer.found] == [3] and answer.below is None
    assert answer.floor_of(answer.found[0]) == pytest.approx((0.5 + 0.2) / 2 + MARGIN, abs=1e-3)
    assert len(answer.floors["belt.mp4"]) == 7


def test_a_moment_that_is_similar_to_every_text_is_no_event(tmp_path):
    """The same similarity to the query as before, but the unrelated texts reach 0.5 there."""
    index = index_of(tmp_path / "i", belt(0.6, 0.5))
    answer = find_answer(index, FLOOR, torch.tensor([1.0, 0, 0]), 5)
    assert answer.found == [] and answer.below.peak == 3
    assert answer.below.score == pytest.approx(0.6, abs=1e-3)
    assert answer.floor_of(answer.below) == pytest.approx(0.5 + MARGIN, abs=1e-3)


def test_of_several_events_those_below_the_floor_are_left_out(tmp_path):
    files = belt(0.6, 0.2) | {"b.png": [[0.45, 0.2, 0]], "c.png": [[0.55, 0.2, 0]]}
    index = index_of(tmp_path / "i", files)
    query = torch.tensor([1.0, 0, 0])
    found = lambda floor, count=9: [e.file for e in find_answer(index, floor, query, count).found]
    assert found(FLOOR) == ["belt.mp4", "c.png"] and found(FLOOR, 1) == ["belt.mp4"]
    assert found(None) == ["belt.mp4", "c.png", "b.png"]
    assert find_answer(index, None, query, 9).floor_of(Event("b.png", 0, 0, 0, 0.45)) is None


def test_one_event_is_found_though_a_higher_one_is_below_its_floor(tmp_path):
    """At 3 s 0.65 of a floor of 0.66, at 9 s 0.6 of a floor of 0.51: -k 1 finds the second."""
    rows = belt(0.65, 0.5)["belt.mp4"] + belt(0.6, 0.2)["belt.mp4"]
    index, query = index_of(tmp_path / "i", {"belt.mp4": rows}), torch.tensor([1.0, 0, 0])
    for count in (1, 2, 9):
        answer = find_answer(index, FLOOR, query, count)
        assert [event.peak for event in answer.found] == [10] and answer.below is None
    assert [event.peak for event in find_answer(index, None, query, 1).found] == [3]


def test_events_are_the_same_with_a_floor_and_the_search_ends_where_all_is_below(tmp_path):
    """Random curves: those at or above the floor of all events, however many are wanted."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        times, curve, floor = torch.arange(60.0), *torch.rand(2, 60, generator=generator)
        every = localise_events("a", times, curve, count=99)
        wanted = [e for e in every if e.score >= floor[int(e.peak)]]
        for count in (1, 3, 99):
            found = localise_events("a", times, curve, count=count, floor=floor)
            assert found == every[:len(found)]
            assert [e for e in found if e in wanted] == wanted[:count]
        assert localise_events("a", times, curve, count=9, floor=curve + 1) == every[:1]


def test_without_a_floor_scores_and_events_are_the_same(tmp_path):
    index = index_of(tmp_path / "i", belt(0.6, 0.2))
    query = torch.tensor([2.0, 0, 0])
    with_floor, without = (find_answer(index, f, query, 5) for f in (FLOOR, None))
    assert with_floor.found == without.found
    assert torch.equal(with_floor.curves["belt.mp4"][1], without.curves["belt.mp4"][1])


@pytest.mark.parametrize("scale, excluded, found", [
    (20.0, 0.2, True),          # text 0.6 is 0.4 higher than the excluded one; log(100) / 20 = 0.23
    (10.0, 0.2, False),         # log(100) / 10 = 0.46
    (20.0, 0.5, False)])
def test_with_an_opposite_the_text_must_also_beat_it(tmp_path, scale, excluded, found):
    """By hand: score (0.6 - 0.5 excluded) / |query|, |query| = sqrt(1 + 0.5 ** 2)."""
    index = index_of(tmp_path / "i", belt(0.6, 0.2, excluded))
    opposite = torch.tensor([0.0, 0, 0.5])
    query, length = torch.tensor([1.0, 0, 0]) - opposite, math.sqrt(1.25)
    answer = find_answer(index, FLOOR._replace(scale=scale), query, 5, opposite=opposite)
    event = (answer.found or [answer.below])[0]
    assert bool(answer.found) is found and event.peak == 3
    assert event.score == pytest.approx((0.6 - excluded / 2) / length, abs=1e-3)
    least = max((0.5 + 0.2) / 2 + math.log(5) / scale, excluded + math.log(100) / scale)
    assert answer.floor_of(event) == pytest.approx((least - excluded / 2) / length, abs=1e-3)


def test_with_an_opposite_the_text_alone_must_exceed_the_unrelated_texts(tmp_path):
    """Text 0.4, nothing excluded is visible: far above the opposite, but too low by itself."""
    index = index_of(tmp_path / "i", belt(0.4, 0.2, -0.6))
    opposite = torch.tensor([0.0, 0, 0.5])
    query = torch.tensor([1.0, 0, 0]) - opposite
    assert not find_answer(index, FLOOR, query, 5, opposite=opposite).found
    index = index_of(tmp_path / "j", belt(0.6, 0.2, -0.6))
    assert find_answer(index, FLOOR, query, 5, opposite=opposite).found


# ---- the command --------------------------------------------------------------------------------

@pytest.fixture
def run(tmp_path, tiny_weights, monkeypatch, capsys):
    """run(peak, *arguments) of `query`; the unrelated texts reach `peak`, None: really computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    frames = [Image.new("RGB", (8, 8), (40 * k, 0, 0)) for k in range(5)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=1000)

    def work(*arguments):
        options = search_run.parser().parse_args([*map(str, arguments)])
        return options.run(options, print), capsys.readouterr().out
    work("index", tmp_path, "--out", tmp_path / "i", "--model", tiny_weights)

    def query(peak, *arguments):
        monkeypatch.setattr(search_run, "calibrate_floor", calibrate_floor if peak is None else (
            lambda index, clip: Floor(peak, torch.zeros(clip.config.embed), 100.0)))
        return work("query", tmp_path / "i", *arguments, "--model", tiny_weights)
    return query


def test_nothing_found_is_one_line_status_1_and_empty_outputs(run, tmp_path):
    outputs = ["--json", tmp_path / "f.json", "--page", tmp_path / "f.html", "--sheet",
               tmp_path / "f.png"]
    status, printed = run(4.0, "a violin", *outputs)
    assert status == 1 and printed.count("\n") == 1
    assert printed.startswith("nothing found (best ") and "floor 2.016); --any" in printed
    saved = json.loads((tmp_path / "f.json").read_text())
    assert saved["events"] == [] and saved["query"] == "a violin"
    assert saved["below"]["floor"] == pytest.approx(2 + math.log(5) / 100)
    assert f"{saved['below']['score']:.3f} " in printed
    page = (tmp_path / "f.html").read_text()
    assert "nothing found (best" in page and "<table" not in page
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.convert("L").getextrema()[0] < 128, "the line is drawn on the sheet"


def test_any_shows_what_is_below_the_floor(run, tmp_path):
    status, printed = run(4.0, "a violin", "--any")
    assert status == 0 and Path(printed.split()[2]).parent == tmp_path
    assert run(-9.0, "a violin") == (0, printed)


def test_a_query_by_picture_has_no_floor(run, tmp_path):
    status, printed = run(4.0, "--like", tmp_path / "a.png")
    assert status == 0 and "a.png" in printed


def test_a_query_keeps_its_calibration_in_the_cache_and_writes_nothing_beside_the_index(
        run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNRELATED_TEXTS", UNRELATED_TEXTS[:5])
    before = {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()}
    first = run(None, "a violin")
    path, = cached(tmp_path)
    assert {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()} == before
    assert path.parent.parent.parent == tmp_path / "cache"
    assert run(None, "a violin") == first


def test_the_line_names_file_time_and_floor():
    event = Event("/x/belt.mp4", 10, 14, 12, 0.2134)
    assert nothing_line("a violin", event, 0.24) == (
        "nothing found (best 0.213 at 00:12.0 in /x/belt.mp4, floor 0.240); --any shows it")
    picture = Event("/x/a\n.png", 0, 0, 0, 0.2134)
    assert nothing_line("a violin", picture, 0.24) == (
        "nothing found (best 0.213 in /x/a\\n.png, floor 0.240); --any shows it")
    assert nothing_line("SN 4821", None, None) == "nothing found for SN 4821"


def test_the_page_shows_the_floor_beside_the_similarity():
    times, event = torch.arange(5.0), Event("b.mp4", 1, 3, 2, 0.5)
    picture = {("b.mp4", 2): Image.new("RGB", (8, 8))}
    curves = {"b.mp4": (times, times / 9)}
    page = result_page("a", [event], curves, picture, {"b.mp4": torch.full((5,), 0.7)})
    assert "floor" in page and "floor" not in result_page("a", [event], curves, picture)


# ---- the list -----------------------------------------------------------------------------------

def test_the_unrelated_texts_are_many_and_no_products_or_queries_of_the_measurement():
    assert len(set(UNRELATED_TEXTS)) == len(UNRELATED_TEXTS) >= 200
    assert all(text == text.strip() and "\n" not in text for text in UNRELATED_TEXTS)
    words = {word for text in UNRELATED_TEXTS for word in text.split()}
    assert not words & set(FAMILIES)
    absent = (REPO / "bench" / "absent_queries.txt").read_text("utf-8").splitlines()
    assert not set(absent) & set(UNRELATED_TEXTS)


def test_an_answer_without_floors_has_none():
    assert Answer([], None, {}, {}).floor_of(Event("a", 0, 0, 0, 1)) is None
