"""bench.search: the rivals, what is asked, and that a run makes its tables."""
import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench import search as bench
from minilora.search import events
from minilora.search.index import Index


def curve(values):
    return {"a": (torch.arange(len(values), dtype=torch.float64), torch.tensor(values))}


def test_a_frame_near_a_better_one_is_no_second_event():
    found = bench.frames_as_events(curve([1.0, 5, 4, 0, 3]), length=2, apart=2)
    assert [(e.start, e.end, e.score) for e in found] == [(0, 2, 5), (3, 5, 3)]
    assert len(bench.frames_as_events(curve([1.0, 5, 4, 0, 3]), 1, 1)) == 5


def test_random_spans_are_as_many_and_as_long_as_parts():
    found = bench.at_random(curve([0.0] * 60), torch.Generator().manual_seed(0))
    assert len(found) == 12 and all(e.end - e.start == bench.IN_VIEW for e in found)


def test_the_auroc_of_frames_is_that_of_scikit_learn():
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    true = [("a", 3, 9), ("a", 20, 26), ("b", 0, 40)]
    inside = [3 <= t <= 9 or 20 <= t <= 26 for t in range(40)]
    assert bench.frame_auroc(curve(values.tolist()), true) == pytest.approx(
        roc_auc_score(inside, values))


@pytest.mark.parametrize("order", range(4))
def test_belts_show_the_order_they_are_called_by(order):
    for number in range(5):
        slots = bench.ordered_belt(order, number).slots
        bad = [k for k, s in enumerate(slots) if s.flaw]
        gone = [k for k, s in enumerate(slots) if s.removed]
        if order < 2:
            (b,), (g,) = bad, gone
            assert (b < g) == (order == 0) and abs(b - g) == 2
        else:
            assert not gone and bad[1] - bad[0] == (1 if order == 2 else 2)


def test_recurrent_cells_tell_an_order_that_a_mean_cannot(monkeypatch):
    monkeypatch.setattr(bench, "LEARNED", 20)
    generator = torch.Generator().manual_seed(0)
    orders = torch.arange(24 * 4) % 4
    features = 0.1 * torch.randn(96, 8, 4, generator=generator)
    events_of = {0: (0, 1), 1: (1, 0), 2: (0, 0), 3: (1, 1)}
    for row, order in enumerate(orders.tolist()):
        for place, kind in zip((1, 5), events_of[order]):
            features[row, place, kind] += 3
    told = {kind: sum(bench.learned_order(kind, features, orders, 1, epochs=30)) / 4
            for kind in ("GRU", "mean")}
    assert told["GRU"] > 0.9 and told["mean"] <= 0.8


def test_a_made_up_index_is_asked_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "WIDTH", 32)
    monkeypatch.setattr(bench, "HOUR", 300)
    index = bench.synthetic(tmp_path, 700)
    assert sum(e.rows() for e in Index.open(tmp_path).entries.values()) == 700
    whole, fast = (bench.asked_of(str(tmp_path), way, 3, 1) for way in (False, True))
    assert whole["found"] == fast["found"] and len(whole["seconds"]) == 3
    assert [e[0] for e in whole["found"]] == list(index.entries)
    assert all(e[1] <= 17 <= e[2] for e in whole["found"]), "the scene the query came from"


def test_what_is_asked_of_belts_has_answers(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr(bench, "MIXED", 1)
    monkeypatch.setattr(bench, "LINES", ("gear",))
    monkeypatch.setattr(bench, "DRAWN", 4)
    index, made = bench.drawn_index(tmp_path, tiny_clip, "0" * 64, seed=1)
    assert [e.rows() for e in index.entries.values()] == [240, 240]
    asked = bench.asked(tiny_clip, made, 1)
    assert {a[0] for a in asked} == set(bench.KINDS)
    passes = [p for belt in made.values() for p in belt.passes()]
    assert sum(len(a[4]) for a in asked if a[0] == "by name") == 12
    assert sum(len(a[4]) for a in asked if a[0] == "damaged part") == sum(
        p.class_name == "gear" and p.flaw is not None for p in passes[12:])


def test_tables_of_all_parts(tmp_path, monkeypatch, capsys):
    figures = {"seen": [0.5, 0.4, 0.3, 0.6, 0.8, 0.9], "unseen": [0.2, 0.1, 0.1, 0.2, 0.4, 0.6]}
    cells = {kind: {method: figures for method in bench.METHODS} for kind in bench.KINDS}
    monkeypatch.setattr(bench.measure, "fresh", lambda function, *a: {
        "found_in": cells, "asked_of": {"seconds": [0.1], "memory": 5e6, "build": 1.0,
                                        "found": [["a", 0, 1, 0, 1]]},
        "indexed": {"seconds": 2.0, "memory": 1e7, "disk": 1000, "rows": 9}}[function.__name__])
    monkeypatch.setattr(bench, "LONG", 1)
    monkeypatch.setattr(bench, "VIDEO_RATE", 2)
    monkeypatch.setattr(bench, "synthetic", lambda folder, count: None)
    monkeypatch.setattr(bench, "kept_sequences", lambda options: {
        "features": torch.zeros(8, 3, 128), "orders": torch.arange(8) % 4})
    monkeypatch.setattr(bench, "LEARNED", 1)
    monkeypatch.setattr(bench, "NEW", 1)
    monkeypatch.setattr("sys.argv", ["search", "--out", str(tmp_path), "--seeds", "1", "--frames",
                                     "10", "--rounds", "1"])
    bench.main()
    text = (tmp_path / "search.txt").read_text()
    for words in (*bench.KINDS, "single frames", "GRU", "decoding alone", "faiss, ms"):
        assert words in text
    h = events.harmonic_mean(40, 10)
    assert f"{h:.1f}" in text
