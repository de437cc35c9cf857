"""bench.search_frames: what is drawn, that both kinds of search agree, and its two tables."""
from argparse import Namespace

import pytest
import torch

from bench import search_frames
from minilora.search.index import Index

pytest.importorskip("faiss")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """An index of 700 clustered frames of 32 numbers in three files: (folder, seconds)."""
    monkeypatch.setattr(search_frames, "FEATURES", 32)
    monkeypatch.setattr(search_frames, "FILE_ROWS", 300)
    return str(tmp_path), search_frames.write_drawn_index(str(tmp_path), 700, "clustered", 1)


def test_the_drawn_index_has_the_frames_that_were_asked_for(drawn):
    folder, seconds = drawn
    entries = Index.open(folder).entries.values()
    assert [entry.rows() for entry in entries] == [300, 300, 100] and seconds > 0
    assert search_frames.size_of(folder, "*.safetensors") > 700 * (32 * 2 + 8)


def test_clustered_frames_resemble_their_scene_and_random_ones_do_not(monkeypatch):
    for kind, low, high in (("clustered", 0.75, 0.85), ("random", -0.05, 0.05)):
        part = next(search_frames.drawn_parts(120, kind))["features"].float()
        inside = (part[:60] @ part[:60].T)[~torch.eye(60, dtype=torch.bool)].mean()
        assert low < inside < high and abs((part[:60] @ part[60:].T).mean()) < 0.1
        assert part.norm(dim=1) == pytest.approx(1, abs=1e-3)


def test_queries_have_the_cosine_of_their_kind(drawn, monkeypatch):
    index = Index.open(drawn[0])
    frames = torch.stack([index.load_part(name)["features"][17].float()
                          for name in index.part_names()]).repeat(100, 1)
    for cosine in search_frames.COSINES.values():
        queries = search_frames.drawn_queries(index, 300, cosine)
        assert (queries * frames).sum(1).mean() == pytest.approx(cosine, abs=0.03)
        assert queries.norm(dim=1).mean() == pytest.approx(1, abs=0.03)


def test_both_kinds_of_search_find_the_frame_that_the_query_came_from(drawn):
    folder, _ = drawn
    whole, fast = (search_frames.time_queries(folder, way, 0.9, 2, 1) for way in (False, True))
    assert whole["found"] == fast["found"] and len(whole["warm"]) == 2 and whole["cold"] > 0
    assert [e[0] for e in whole["found"]] == ["0.mp4", "1.mp4", "2.mp4"]
    assert all(e[1] <= 17 <= e[2] for e in whole["found"]), "the scene that the query came from"
    assert search_frames.share_found(folder, 0.9, 6, 1) == 1


def test_a_file_that_faiss_misses_lowers_the_share(drawn, monkeypatch):
    monkeypatch.setattr(search_frames, "nearest_files", lambda index, query: {"0.mp4"})
    assert search_frames.share_found(drawn[0], 0.9, 6, 1) == pytest.approx(1 / 3)


def test_building_is_measured_where_nothing_is_stored_yet(drawn):
    built = search_frames.time_building(drawn[0], 1)
    assert built["disk"] == search_frames.size_of(drawn[0], "*.faiss") > 700 * 32 * 2
    assert built["process"] > built["memory"] >= 0 and built["seconds"] > 0


def test_the_floor_is_measured_on_every_frame(drawn, monkeypatch):
    seen, real = [], search_frames.highest_similarities
    monkeypatch.setattr(search_frames, "highest_similarities",
                        lambda index, texts: seen.append((texts.shape, real(index, texts))))
    assert search_frames.time_floor(drawn[0], 1)["seconds"] > 0
    (shape, peaks), = seen
    assert shape == (len(search_frames.UNRELATED_TEXTS), 32) and (peaks > 0.2).all()


def test_the_tables_show_what_was_measured(monkeypatch):
    results = {"write_drawn_index": 3.0,
               "time_building": {"seconds": 21.0, "memory": 3e8, "process": 5e8, "disk": 2e9},
               "time_floor": {"seconds": 9.0, "memory": 7e7},
               "time_queries": {"cold": 0.7, "warm": [0.1, 0.3, 0.2], "memory": 4e7,
                                "process": 6e8}, "share_found": 0.96}
    monkeypatch.setattr(search_frames.measure, "fresh", lambda function, *a: results[
        function.__name__])
    (building, queries), lines = search_frames.query_tables(
        Namespace(frames=[2_000_000], threads=1, rounds=3))
    assert building[2][0] == ["2,000,000", "clustered", "0", "3.0", "2,000", "21.0", "300", "500",
                              "9.0", "70"]
    assert queries[2][3] == ["2,000,000", "random", "text", "200", "40", "200", "700", "40", "600",
                             "96%"]
    assert len(building[2]) == 2 and len(queries[2]) == 4 and "drawn, not encoded" in lines[0]
    for _, header, rows in (building, queries):
        assert len(header) <= 10 and all(len(row) == len(header) for row in rows)
