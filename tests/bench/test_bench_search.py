"""bench.search: belts, queries and baselines, where nothing is there, nouns, and a whole run."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bench import (search, search_belts, search_find, search_nothing, search_order, search_speed,
                   search_words)
from bench.search_belts import Asked
from minilora.checkpoint.base_model import BaseModel
from minilora.io.files import save_tensors
from minilora.search import events
from minilora.search.floor import ODDS, Floor
from minilora.search.index import Entry, Index, similarity_to
from minilora.search.unrelated_texts import UNRELATED_TEXTS

WIDTH = 5


def curve(values):
    return {"a": (torch.arange(len(values), dtype=torch.float64), torch.tensor(values))}


def axis(number):
    return torch.eye(WIDTH)[number]


def made_index(folder, shown):
    """An index of one frame a second.  shown: {path: the axis that each frame resembles}."""
    index = Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0})
    for number, (path, axes) in enumerate(shown.items()):
        save_tensors(index.part_path(f"frames-{number}"), {
            "features": torch.stack([axis(k) for k in axes]).half(),
            "times": torch.arange(len(axes), dtype=torch.float64)})
        index.entries[path] = Entry(path, 1, 1, [[f"frames-{number}", 0, len(axes)]])
    index.write()
    return index


# ---- belts --------------------------------------------------------------------------------------

def test_a_frame_near_a_higher_one_is_no_second_event():
    found = search_find.frames_as_events(curve([1.0, 5, 4, 0, 3]), length=2, apart=2)
    assert [(e.start, e.end, e.score) for e in found] == [(0, 2, 5), (3, 5, 3)]
    assert len(search_find.frames_as_events(curve([1.0, 5, 4, 0, 3]), 1, 1)) == 5


def test_random_events_are_as_many_and_as_long_as_parts():
    found = search_find.random_events(curve([0.0] * 60), torch.Generator().manual_seed(0))
    assert len(found) == 12 and all(e.end - e.start == search_find.IN_VIEW for e in found)


def test_every_query_has_its_true_events_and_belts_are_drawn_once(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr(search_belts, "MIXED_BELTS", 1)
    monkeypatch.setattr(search_belts, "LINE_FAMILIES", ("gear",))
    monkeypatch.setattr(search_belts, "VIDEO_RATE", 4)
    index, belt_of = search_belts.index_belts(tmp_path, tiny_clip, "0" * 64, seed=1)
    assert [e.rows() for e in index.entries.values()] == [240, 240]
    queries = [*search_belts.text_queries(tiny_clip, belt_of),
               *search_belts.picture_queries(tiny_clip, belt_of, 1)]
    assert {q.kind for q in queries} == set(search_belts.KINDS)
    passes = [p for belt in belt_of.values() for p in belt.passes()]
    count = lambda kind: sum(len(q.true) for q in queries if q.kind == kind)
    assert count("by name") == count("by picture") == 12
    assert count("damaged part") == count("damaged, by name") == sum(
        p.class_name == "gear" and p.flaw is not None for p in passes[12:])
    for query in queries:
        assert (query.asked.opposite is None) == (not query.kind.startswith("damaged"))
    monkeypatch.setattr(search_belts, "update_index", lambda *a: pytest.fail("drawn again"))
    again, same_belts = search_belts.index_belts(tmp_path, tiny_clip, "0" * 64, seed=1)
    assert again.entries == index.entries and same_belts.keys() == belt_of.keys()
    assert [p.name for p in tmp_path.iterdir()] == [index.folder.name], "the videos are deleted"


# ---- where nothing is there ---------------------------------------------------------------------

def test_a_part_of_an_index_has_the_curves_of_its_files_only(tmp_path):
    whole = made_index(tmp_path / "whole", {"a": [0, 1, 1], "b": [1, 0], "c": [2]})
    part = search_belts.part_of(whole, ["b"], tmp_path / "part")
    (path, times, values), = part.curves(similarity_to(axis(0)))
    assert path == "b" and times.tolist() == [0, 1] and values.tolist() == [0, 1]
    assert len(list((tmp_path / "part" / "parts").iterdir())) == 1


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Two mixed belts, a nut (axis 0) on one and a gear (axis 1) on the other, and a nut's line.

    Some frames of the line resemble a gear, others of all belts axis 2, and one of m0 axis 3.
    """
    index = made_index(tmp_path / "whole", {
        "m0": [2, 2, 0, 0, 0, 2, 3, 2], "m1": [2, 2, 2, 1, 1, 1, 2, 2],
        "line": [2, 0, 0, 2, 1, 1, 2, 2]})
    part = lambda name, flaw: SimpleNamespace(class_name=name, flaw=flaw, start=2, end=4)
    passing = {"m0": [part("nut", None)], "m1": [part("gear", None)], "line": [part("nut", "cut")]}
    belt_of = {path: SimpleNamespace(passes=lambda found=found: found)
               for path, found in passing.items()}
    words = {"a nut": 0, "a gear": 1, "a damaged nut": 0, "a damaged gear": 1, "a violin": 2,
             "qwop": 3}
    for module in (search_belts, search_nothing):
        monkeypatch.setattr(module, "MIXED_BELTS", 2)
        monkeypatch.setattr(module, "text_query",
                            lambda clip, texts, without=(): Asked(axis(words.get(texts[0], 4))))
    monkeypatch.setattr(search_nothing, "LINE_FAMILIES", ("nut", "gear"))
    monkeypatch.setattr(search_nothing, "absent_texts",
                        lambda: {"nonsense": ["qwop", "a violin", "hjkl"]})
    monkeypatch.setattr(search_nothing, "floor_of", lambda index, clip: Floor(
        1.2, torch.zeros(WIDTH), 100.0))       # of every event: 0.6 and log(ODDS) / 100
    return search_nothing.Places(index, None, tmp_path), belt_of


def test_absent_products_are_asked_for_only_where_they_do_not_pass(drawn):
    """Axis 2, "a violin", finds 3 events on m0 and 2 on m1; "qwop" finds 1; "hjkl" none."""
    found = search_nothing.absent_figures(*drawn, None)
    log_odds = math.log(ODDS) / 100
    for group in ("seen", "unseen"):
        assert found[f"a product of other belts, {group}"] == {
            "answered": 0, "events": 0, "margins": [pytest.approx(-0.6 - log_odds)]}
    assert found["damage of another product, unseen"] == {
        "answered": 1, "events": 1, "margins": [pytest.approx(0.4 - log_odds)]}
    assert "damage of another product, seen" not in found, "the only line shows nuts"
    assert found["nonsense"] == {"answered": pytest.approx(2 / 3), "events": 2, "margins": [
        pytest.approx(m - log_odds) for m in (0.4, 0.4, -0.6)]}


def test_present_queries_are_lost_only_by_the_floor(drawn, monkeypatch):
    places, belt_of = drawn
    queries = search_belts.text_queries(None, belt_of)
    found = search_nothing.present_figures(places, queries)["by name, seen"]
    assert len(found.pop("margins")) == 1 and found == {"lost": 0, "R@1": 1, "R@1, floor": 1}
    places.made.clear()
    places.folder = places.folder / "again"
    monkeypatch.setattr(search_nothing, "floor_of", lambda index, clip: Floor(
        3.0, torch.zeros(WIDTH), 100.0))
    found = search_nothing.present_figures(places, queries)["by name, seen"]
    assert len(found.pop("margins")) == 1 and found == {"lost": 1, "R@1": 1, "R@1, floor": 0}


def test_the_floor_was_not_chosen_with_the_texts_that_measure_it():
    texts = search_nothing.absent_texts()
    assert set(texts) == {"nonsense", "things"} and sum(map(len, texts.values())) >= 100
    everything = sum(texts.values(), [])
    assert len(set(everything)) == len(everything)
    assert not set(everything) & set(UNRELATED_TEXTS)


# ---- everyday nouns -----------------------------------------------------------------------------

def test_nouns_become_queries():
    assert [search_words.with_article(noun) for noun in (
        "accordion", "camera", "umbrella", "euphonium", "scissors")] == [
        "an accordion", "a camera", "an umbrella", "a euphonium", "scissors"]


def test_held_out_photographs_of_two_folders_with_one_noun_are_one_kind(tmp_path):
    for folder, count in (("chair", 20), ("windsor_chair", 10), ("wild_cat", 60), ("ant", 10)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{number:02d}.png")
    found = search_words.held_out_photographs(tmp_path)
    assert {noun: [f"{p.parent.name}/{p.stem}" for p in paths] for noun, paths in found.items()
            } == {"chair": ["chair/09", "chair/19", "windsor_chair/09"]}


def test_the_two_rounds_show_each_kind_once_and_never_twice_in_a_row():
    kinds = {f"kind {k}": [f"{k}-{n}" for n in range(5)] for k in range(9)}
    for seed in range(5):
        rounds = search_words.rounds_of(kinds, seed)
        nouns = [{noun for noun, _ in order} for order in rounds]
        assert nouns[0] | nouns[1] == set(kinds) and not nouns[0] & nouns[1]
        for order in rounds:
            assert len(order) == len(set(order)) == search_words.PER_KIND * len(dict(order))
            assert all(a[0] != b[0] for a, b in zip(order, order[1:]))
    assert search_words.rounds_of(kinds, 0) == search_words.rounds_of(kinds, 0)
    assert search_words.rounds_of(kinds, 0) != search_words.rounds_of(kinds, 1)


@pytest.mark.parametrize("place", search_words.PLACES)
def test_nouns_are_measured_where_they_are_shown_and_where_not(tmp_path, place, monkeypatch):
    """Of the nouns, "ant" is found twice, "cup" is there and below the floor, "owl" is not there;
    of the nonsense, "qwop" resembles what is shown."""
    monkeypatch.setattr(search_words, "SHOWN_SECONDS", 4)
    order = [("ant", tmp_path / "1.png"), ("cup", tmp_path / "2.png"), ("ant", tmp_path / "3.png")]
    axes = [0, 1, 0]
    shown = {str(path): [k] for (_, path), k in zip(order, axes)} if place == "folder" else {
        "slideshow.mp4": [k for k in axes for _ in range(4)]}
    index = made_index(tmp_path / "index", shown)
    asked = {"nouns": {"ant": axis(0), "cup": F.normalize(0.2 * axis(1) + axis(3), dim=0),
                       "owl": axis(3)}, "nonsense": {"qwop": axis(0), "hjkl": axis(3)}}
    found = search_words.evaluate_place(place, index, Floor(0.8, torch.zeros(WIDTH), 100.0),
                                        search_words.true_seconds(place, index, order), asked)
    assert found["R@1 0.5"] == 1 and found["R@1 0.5, floor"] == 0.5 and found["lost"] == 0.5
    assert found["AUC"] == 1
    overlap = 1 if place == "folder" else 3 / 4     # 0 to 3 s of 0 to 4 s: the last frame's time
    assert found["mIoU"] == pytest.approx(overlap)
    assert found["F1@1"] == pytest.approx((2 / 3 + 1) / 2), "ant: one of two"
    assert found["answered, other nouns"] == 0 and found["answered, nonsense"] == 0.5
    assert found["events, nonsense"] == 1, "two events of one query"
    assert [len(found[f"margins, {kind}"]) for kind in ("nouns", "other nouns", "nonsense")] == [
        2, 1, 2]


# ---- order of events, and the command -----------------------------------------------------------

@pytest.mark.parametrize("order", range(4))
def test_belts_show_the_order_of_their_name(order):
    for number in range(5):
        slots = search_order.ordered_belt(order, number).slots
        bad = [k for k, s in enumerate(slots) if s.flaw]
        gone = [k for k, s in enumerate(slots) if s.removed]
        if order < 2:
            (b,), (g,) = bad, gone
            assert (b < g) == (order == 0) and abs(b - g) == 2
        else:
            assert not gone and bad[1] - bad[0] == (1 if order == 2 else 2)


def test_recurrent_cells_recognise_an_order_that_a_mean_cannot(monkeypatch):
    monkeypatch.setattr(search_order, "TRAIN_BELTS", 20)
    generator = torch.Generator().manual_seed(0)
    orders = torch.arange(24 * 4) % 4
    features = 0.1 * torch.randn(96, 8, 4, generator=generator)
    events_of = {0: (0, 1), 1: (1, 0), 2: (0, 0), 3: (1, 1)}
    for row, order in enumerate(orders.tolist()):
        for place, kind in zip((1, 5), events_of[order]):
            features[row, place, kind] += 3
    accuracy = {kind: sum(search_order.order_accuracy(kind, features, orders, 1, epochs=30)) / 4
                for kind in ("GRU", "mean")}
    assert accuracy["GRU"] > 0.9 and accuracy["mean"] <= 0.8


def test_the_words_need_photographs(tmp_path):
    with pytest.raises(ValueError, match="--photos"):
        search_words.words_tables(SimpleNamespace(photos=None, out=tmp_path, seeds=[1]))


def test_a_run_makes_the_tables_of_all_parts(tmp_path, monkeypatch, capsys):
    metrics = [*search_find.moment_figures([([], [("a", 0, 1)])]), "AUC"]
    figures = {group: {name: share for name in metrics}
               for group, share in (("seen", 0.4), ("unseen", 0.1))}
    methods = {method: figures for method in search_find.METHODS}
    present = {"lost": 0.25, "R@1": 0.5, "R@1, floor": 0.5, "margins": [0.1, 0.3, 0.4, 0.5]}
    absent = {"answered": 0.125, "events": 1.5, "margins": [0.2, 0.0]}
    place = {name + end: 0.3 for name in metrics for end in ("", ", floor")} | {"lost": 0.05} | {
        f"{name}, {kind}": 0.07 for name in ("answered", "events")
        for kind in ("other nouns", "nonsense", "things")} | {
        f"margins, {kind}": [0.1] for kind in ("nouns", "other nouns", "nonsense", "things")}
    monkeypatch.setattr(search.measure, "fresh", lambda function, *a: {
        "evaluate_seed": {kind: methods for kind in search_belts.KINDS},
        "evaluate_nothing": {"present": {"by name, seen": present}, "absent": {"nonsense": absent}},
        "evaluate_words": dict.fromkeys(search_words.PLACES, place),
        "time_indexing": {"seconds": 2.0, "memory": 1e7, "disk": 1000,
                          "rows": 9}}[function.__name__])
    monkeypatch.setattr(search_words, "held_out_photographs", lambda photos: {"ant": []})
    monkeypatch.setattr(search_speed, "PARTS_ON_BELT", 1)
    monkeypatch.setattr(search_speed, "VIDEO_RATE", 2)
    monkeypatch.setattr(search_order, "cached_features", lambda options: {
        "features": torch.zeros(8, 3, 128), "orders": torch.arange(8) % 4})
    monkeypatch.setattr(search_order, "TRAIN_BELTS", 1)
    monkeypatch.setattr(search_order, "TEST_BELTS", 1)
    monkeypatch.setattr("sys.argv", ["search", "--out", str(tmp_path), "--seeds", "1", "--rounds",
                                     "1", "--part", "find", "nothing", "words", "order", "speed",
                                     "--photos", str(tmp_path)])
    search.main()
    text = (tmp_path / "search.txt").read_text()
    for words in (*search_belts.KINDS, "single frames", "slideshow, above the floor", "GRU",
                  "decoding alone", "25.0", "12.5", "1.50", "87.5"):
        assert words in text
    assert f"{events.harmonic_mean(40, 10):.1f}" in text
