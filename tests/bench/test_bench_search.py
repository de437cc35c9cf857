"""bench.search: its baselines, its queries, and that a run makes its tables."""
import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench import search, search_find, search_order, search_speed
from minilora.search import events
from minilora.search.index import Index


def curve(values):
    return {"a": (torch.arange(len(values), dtype=torch.float64), torch.tensor(values))}


def test_a_frame_near_a_higher_one_is_no_second_event():
    found = search_find.frames_as_events(curve([1.0, 5, 4, 0, 3]), length=2, apart=2)
    assert [(e.start, e.end, e.score) for e in found] == [(0, 2, 5), (3, 5, 3)]
    assert len(search_find.frames_as_events(curve([1.0, 5, 4, 0, 3]), 1, 1)) == 5


def test_random_events_are_as_many_and_as_long_as_parts():
    found = search_find.random_events(curve([0.0] * 60), torch.Generator().manual_seed(0))
    assert len(found) == 12 and all(e.end - e.start == search_find.IN_VIEW for e in found)


def test_the_auroc_of_frames_is_that_of_scikit_learn():
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    true = [("a", 3, 9), ("a", 20, 26), ("b", 0, 40)]
    inside = [3 <= t <= 9 or 20 <= t <= 26 for t in range(40)]
    assert search_find.frame_auroc(curve(values.tolist()), true) == pytest.approx(
        roc_auc_score(inside, values))


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


def test_both_kinds_of_search_find_the_same_event_in_a_synthetic_index(tmp_path, monkeypatch):
    monkeypatch.setattr(search_speed, "FEATURES", 32)
    monkeypatch.setattr(search_speed, "FILE_ROWS", 300)
    index = search_speed.synthetic_index(tmp_path, 700)
    assert sum(e.rows() for e in Index.open(tmp_path).entries.values()) == 700
    whole, fast = (search_speed.time_queries(str(tmp_path), way, 3, 1) for way in (False, True))
    assert whole["found"] == fast["found"] and len(whole["seconds"]) == 3
    assert [e[0] for e in whole["found"]] == list(index.entries)
    assert all(e[1] <= 17 <= e[2] for e in whole["found"]), "the scene that the query came from"


def test_every_query_has_its_true_events(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr(search_find, "MIXED_BELTS", 1)
    monkeypatch.setattr(search_find, "LINE_FAMILIES", ("gear",))
    monkeypatch.setattr(search_find, "VIDEO_RATE", 4)
    index, belt_of = search_find.index_belts(tmp_path, tiny_clip, "0" * 64, seed=1)
    assert [e.rows() for e in index.entries.values()] == [240, 240]
    queries = search_find.labelled_queries(tiny_clip, belt_of, 1)
    assert {q[0] for q in queries} == set(search_find.KINDS)
    passes = [p for belt in belt_of.values() for p in belt.passes()]
    assert sum(len(q[4]) for q in queries if q[0] == "by name") == 12
    assert sum(len(q[4]) for q in queries if q[0] == "damaged part") == sum(
        p.class_name == "gear" and p.flaw is not None for p in passes[12:])


def test_a_run_makes_the_tables_of_all_parts(tmp_path, monkeypatch, capsys):
    figures = {"seen": [0.5, 0.4, 0.3, 0.6, 0.8, 0.9], "unseen": [0.2, 0.1, 0.1, 0.2, 0.4, 0.6]}
    cells = {kind: {method: figures for method in search_find.METHODS}
             for kind in search_find.KINDS}
    monkeypatch.setattr(search.measure, "fresh", lambda function, *a: {
        "evaluate_seed": cells, "time_queries": {"seconds": [0.1], "memory": 5e6, "build": 1.0,
                                                 "found": [["a", 0, 1, 0, 1]]},
        "time_indexing": {"seconds": 2.0, "memory": 1e7, "disk": 1000,
                          "rows": 9}}[function.__name__])
    monkeypatch.setattr(search_speed, "PARTS_ON_BELT", 1)
    monkeypatch.setattr(search_speed, "VIDEO_RATE", 2)
    monkeypatch.setattr(search_speed, "synthetic_index", lambda folder, count: None)
    monkeypatch.setattr(search_order, "cached_features", lambda options: {
        "features": torch.zeros(8, 3, 128), "orders": torch.arange(8) % 4})
    monkeypatch.setattr(search_order, "TRAIN_BELTS", 1)
    monkeypatch.setattr(search_order, "TEST_BELTS", 1)
    monkeypatch.setattr("sys.argv", ["search", "--out", str(tmp_path), "--seeds", "1", "--frames",
                                     "10", "--rounds", "1"])
    search.main()
    text = (tmp_path / "search.txt").read_text()
    for words in (*search_find.KINDS, "single frames", "GRU", "decoding alone", "faiss, ms"):
        assert words in text
    h = events.harmonic_mean(40, 10)
    assert f"{h:.1f}" in text
