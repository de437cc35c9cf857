"""Weights of texts, and the part of the videos that is searched."""
import argparse
import math

import pytest
import torch
from PIL import Image
from test_floor import index_of

from minilora.search import query as search
from minilora.search import run as search_run
from minilora.search import times
from minilora.search.index import similarity_to

# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", [
    ("a gear", ("a gear", 1)), ("a gear:0.5", ("a gear", 0.5)), ("a gear:2 ", ("a gear", 2)),
    ("a gear:.25", ("a gear", 0.25)), ("a ratio of 4:3", ("a ratio of 4", 3)),
    ("a ratio of 4:3:1", ("a ratio of 4:3", 1)), ("step 1: a gear", ("step 1: a gear", 1)),
    ("a gear:1e3", ("a gear:1e3", 1)), ("a gear:nan", ("a gear:nan", 1)),
    ("two\nlines:3", ("two\nlines", 3))])
def test_a_number_after_the_last_colon_is_the_weight(text, expected):
    assert search.text_and_weight(text) == expected


@pytest.mark.parametrize("text", ["a gear:0", "a gear:-0.5", "a gear:0.0", "a gear:1001",
                                  "a gear:.0009", "a gear:" + "9" * 400])
@pytest.mark.parametrize("place", ["texts", "without"])
def test_a_weight_outside_its_limits_is_refused_with_the_remedy(text, place):
    options = {"texts": ["a nut"], "without": []} | {place: [text]}
    with pytest.raises(ValueError, match="'a gear:.* a weight from 0.001 to 1000 .* found .*--without") as no:
        search.check_query(**options)
    assert len(str(no.value)) < 300
    with pytest.raises(ValueError, match="an empty text"):
        search.check_query(**options | {place: [":2"]})


@pytest.fixture
def plane(monkeypatch):
    """Texts as vectors of a plane: "x" is (1, 0), "y" is (0, 1)."""
    vectors = {"x": torch.tensor([1.0, 0]), "y": torch.tensor([0.0, 1])}
    monkeypatch.setattr(search, "text_features", lambda clip, text: vectors[text])


def test_texts_are_averaged_with_their_weights(plane):
    """3 x + 1 y has the direction (3, 1) / sqrt(10)."""
    query = lambda *texts, **more: search.query_features(None, texts, **more).tolist()
    assert query("x:3", "y") == pytest.approx([3 / math.sqrt(10), 1 / math.sqrt(10)])
    assert query("x:1.5", "y:0.5") == pytest.approx(query("x:3", "y"))
    assert query("x", "y") == query("x:1", "y:1") == pytest.approx([math.sqrt(0.5)] * 2)
    assert query("x:7") == query("x") == [1, 0]


def test_excluded_texts_have_weights_as_well(plane):
    """NEGATIVE_WEIGHT is a half: "y:3" subtracts 1.5 of it."""
    query = lambda texts, without=(): search.encode_query(None, texts, without)
    assert query(["x"])[1] is None
    for asked, expected in ((query(["x"], ["y"]), 0.5), (query(["x"], ["y:3"]), 1.5),
                            (query(["x without y:3"]), 1.5), (query(["x"], ["y", "y:2"]), 1.5)):
        assert asked[0].tolist() == [1, -expected] and asked[1].tolist() == [0, expected]
    assert search.weighted_sum(None, [("y", 3.0)]).tolist() == [0, 3]



@pytest.mark.parametrize("texts, without", [(["x"], ["x:2"]), (["x without x:2"], []),
                                            (["x", "y"], ["x:1.4142135", "y:1.4142135"])])
def test_a_query_of_which_nothing_remains_is_refused(plane, texts, without):
    """Half of the double weight is the text itself: rounding errors would decide what is found."""
    with pytest.raises(ValueError, match="cancel what is searched for.*give others, or smaller"):
        search.encode_query(None, texts, without)
    search.encode_query(None, ["x"], ["x:1.9"])


def test_the_query_in_words_names_all_its_parts():
    words = lambda *arguments: search_run.query_words(
        search_run.parser().parse_args(["query", "i", *arguments]))
    assert words("a nut", "a washer:2") == "a nut and a washer:2"
    assert words("a nut", "--without", "rust", "dirt") == "a nut without rust without dirt"
    assert words("a nut", "--like", "a.png", "b.png") == "a nut and like a.png, b.png"
    assert words("--reads", "SN 4821") == "SN 4821"


# ---- times --------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, seconds", [
    ("90", 90), ("1:30", 90), ("01:30.5", 90.5), ("0:01:30", 90), ("2:00:00", 7200), ("0", 0),
    ("90:00", 5400), (" 7.25 ", 7.25)])
def test_a_time_is_seconds_or_minutes_or_hours(text, seconds):
    assert times.time_option(text) == seconds


@pytest.mark.parametrize("text", ["-1", "1:60", "1:2:3:4", "1:60:00", "nan", "1e3", "", ":30", "1:",
                                  "1h"])
def test_another_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="seconds, MM:SS or HH:MM:SS, found"):
        times.time_option(text)


def test_a_printed_time_can_be_given_again():
    for seconds, text in ((75.5, "01:15.5"), (59.97, "01:00.0"), (0, "00:00.0"),
                          (7200.04, "120:00.0")):
        assert times.format_time(seconds) == text
        assert times.time_option(text) == pytest.approx(seconds, abs=0.05)


def test_from_must_be_before_to():
    assert times.time_window(None, None) is None
    assert times.time_window(3.0, None) == (3.0, math.inf)
    assert times.time_window(None, 3.0) == (0.0, 3.0)
    for start, end in ((5.0, 5.0), (6.0, 5.0), (None, 0.0)):
        with pytest.raises(ValueError, match="--from .* is not before --to .*; give an earlier"):
            times.time_window(start, end)


def test_only_moments_between_from_and_to_are_found(tmp_path):
    """Peaks at 2 s and 6 s; a picture has no time and is left out."""
    rows = [[0.1, 0] for _ in range(9)]
    rows[2], rows[6] = [0.9, 0], [0.7, 0]
    index = index_of(tmp_path / "i", {"a.mp4": rows, "b.png": [[0.8, 0]]})
    query = similarity_to(torch.tensor([1.0, 0]))
    peaks = lambda window: [(e.file, e.peak) for e in search.find_events(
        index, query, 9, window=window)[0]]
    assert peaks(None) == [("a.mp4", 2), ("b.png", 0), ("a.mp4", 6)]
    assert peaks((3, 8)) == [("a.mp4", 6)] and peaks((0, 2)) == [("a.mp4", 2)]
    assert peaks((50, 60)) == []
    _, curves = search.find_events(index, query, 9, window=(3, 8))
    assert curves["a.mp4"][0].tolist() == [3, 4, 5, 6, 7, 8]


def test_from_and_to_of_the_command(tmp_path, tiny_weights, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = [Image.new("RGB", (8, 8), (40 * k, 0, 0)) for k in range(6)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=1000)
    frames[5].save(tmp_path / "a.png")
    run = lambda *arguments: (lambda o: o.run(o, print))(
        search_run.parser().parse_args([*map(str, arguments)]))
    run("index", tmp_path, "--out", tmp_path / "i", "--model", tiny_weights)
    ask = ("query", tmp_path / "i", "a gear", "--any", "--model", tiny_weights)
    capsys.readouterr()
    assert run(*ask, "--from", "0:02", "--to", "0:00:04") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all("b.gif" in line for line in lines)
    assert all(2 <= times.time_option(line.split()[-1]) <= 4 for line in lines)
    assert run(*ask, "--from", "10:00") == 1
    assert capsys.readouterr().out == ("nothing found for a gear: no video has a frame between "
                                       "--from and --to; give other times\n")
    assert run(*ask, "--from", "10:00", "--page", tmp_path / "o" / "p.html") == 1
    assert "no video has a frame between" in (tmp_path / "o" / "p.html").read_text()
    with pytest.raises(ValueError, match="--fast follows .* of all times .*leave out --fast"):
        run(*ask, "--fast", "--to", "3")
    with pytest.raises(ValueError, match="--from 00:04.0 is not before --to 00:02.0"):
        run(*ask, "--from", "4", "--to", "2")
    with pytest.raises(SystemExit):
        run(*ask, "--from", "soon")
    assert "--from: expected seconds, MM:SS or HH:MM:SS, found 'soon'" in capsys.readouterr().err
