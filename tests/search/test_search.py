"""Search: frames and their times, an index that encodes no file twice, events, the commands."""
import json
import math
import re
import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from minilora.checkpoint.base_model import BaseModel
from minilora.data import frames
from minilora.search import events, faiss_index, indexing, speech
from minilora.search import index as module
from minilora.search import query as search
from minilora.search import run as search_run
from minilora.search.index import Index
from minilora.search.indexing import FrameEncoder, remove_files, update_index
from minilora.search.ocr import TextReader
from minilora.search.results import CAPTION, TILE

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def video(path, colours, rate=10, seconds=2, size=(64, 48), codec="mpeg4"):
    """A video that shows each colour for some seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for colour in colours:
            for k in range(rate * seconds):
                picture = Image.new("RGB", size, COLOURS[colour])
                picture.putpixel((k, 0), (255, 255, 255))
                for packet in stream.encode(av.VideoFrame.from_image(picture)):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def sound(path):
    """A file with only a sound track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


class MeanColours:
    """Mean colours as features; counts the pictures encoded and stops after `limit`."""

    def __init__(self, limit=math.inf):
        self.count, self.limit = 0, limit

    def encode(self, pictures):
        if self.count + len(pictures) > self.limit:
            raise KeyboardInterrupt
        self.count += len(pictures)
        means = [np.asarray(p.convert("RGB")).reshape(-1, 3).mean(0) for p in pictures]
        return torch.nn.functional.normalize(torch.tensor(np.array(means)).float(), dim=-1).half()


def fresh(folder):
    return Index(folder, BaseModel("means", "0" * 64), {"rate": 1.0, "change": 0.0})


# ---- frames -------------------------------------------------------------------------------------

def test_the_frames_of_a_video_have_their_times(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green", "blue"])
    every = list(frames.all_frames(path))
    assert [f.time for f in every] == pytest.approx([k / 10 for k in range(60)], abs=1e-3)
    kept = list(frames.sample_frames(frames.all_frames(path), 1.0))
    assert [f.time for f in kept] == pytest.approx(range(6), abs=1e-3)
    fourth = [f.time for f in frames.sample_frames(frames.all_frames(path), 4.0)]
    assert fourth[:5] == pytest.approx([0, 0.3, 0.5, 0.8, 1.0], abs=1e-3) and len(fourth) == 24
    middle = [f.picture.getpixel((32, 24)) for f in kept]
    for pixel, colour in zip(middle, ("red", "red", "green", "green", "blue", "blue")):
        assert np.abs(np.subtract(pixel, COLOURS[colour])).max() < 30, "compression costs a little"


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_times_of_an_animation_are_sums_of_its_durations(tmp_path, ending):
    pictures = [Image.new("RGB", (32, 24), c) for c in COLOURS.values()]
    pictures[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pictures[1:],
                     duration=[500, 1500, 200])
    found = list(frames.all_frames(tmp_path / f"a.{ending}"))
    assert [f.time for f in found] == pytest.approx([0, 0.5, 2.0])
    assert found[1].picture.getpixel((5, 5))[1] > 150


def test_with_a_change_threshold_only_changed_frames_are_kept(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green", "green", "blue"])
    kept = list(frames.sample_frames(frames.all_frames(path), rate=10, change=8))
    assert [round(f.time) for f in kept] == [0, 2, 6]


def test_the_frame_at_a_time_is_the_last_one_not_later(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green"])
    shown = frames.frames_at(path, [2.75, 0.0, 99.0])
    assert shown[2.75].getpixel((32, 24))[1] > 150 and shown[99.0].getpixel((32, 24))[1] > 150
    assert shown[0.0].getpixel((32, 24))[0] > 150


BROKEN = {"zero length": lambda p: p.write_bytes(b""),
          "not a video": lambda p: p.write_bytes(b"<html>" * 300),
          "cut off": lambda p: p.write_bytes(video(p, ["red"]).read_bytes()[:700])}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_video_is_named(tmp_path, kind):
    path = tmp_path / "belt.mp4"
    BROKEN[kind](path)
    with pytest.raises(ValueError, match="belt.mp4 (beyond|has no pictures)"):
        list(frames.all_frames(path))


def test_a_file_without_pictures_and_a_missing_package_are_reported(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="only sound"):
        list(frames.all_frames(sound(tmp_path / "a.mkv")))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[video\]"'):
        list(frames.all_frames(tmp_path / "a.mkv"))


# ---- index --------------------------------------------------------------------------------------

@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 24), colour).save(folder / f"{name} ö.png")
    video(folder / "belt.mp4", ["red", "green", "blue"])
    return folder


def test_an_unchanged_file_is_not_encoded_again(tmp_path, files):
    encoder = MeanColours()
    assert update_index(fresh(tmp_path / "i"), frames.media_in([files]).pictures, encoder) == []
    assert encoder.count == 3 + 6
    again = Index.open(tmp_path / "i")
    update_index(again, frames.media_in([files]).pictures, encoder)
    assert encoder.count == 9
    Image.new("RGB", (32, 24), "white").save(files / "new.png")
    Image.new("RGB", (40, 24), "black").save(files / "red ö.png")
    update_index(again, frames.media_in([files]).pictures, encoder)
    assert encoder.count == 11
    assert sorted(p.stem for p in (tmp_path / "i" / "parts").iterdir()) == sorted(
        again.part_names()), "unused parts are deleted"
    assert Index.open(tmp_path / "i").unfinished == {}
    video(files / "belt.mp4", ["blue", "red"])
    update_index(again, frames.media_in([files]).pictures, encoder)
    assert len([p for p in (tmp_path / "i" / "parts").iterdir() if "frames" in p.name]) == 1
    assert sum(e.rows() for e in Index.open(tmp_path / "i").entries.values()) == 8


def test_the_curve_of_a_file_comes_from_its_own_rows(tmp_path, files):
    index = fresh(tmp_path / "i")
    update_index(index, frames.media_in([files]).pictures, MeanColours())
    for name, axis in (("red", 0), ("green", 1), ("blue", 2)):
        like = module.similarity_to(torch.eye(3)[axis])
        curves = {Path(p).name: v for p, _, v in index.curves(like)}
        assert max(("red ö.png", "green ö.png", "blue ö.png"),
                   key=lambda p: curves[p][0]) == f"{name} ö.png"
        assert int(curves["belt.mp4"].argmax()) // 2 == axis


def test_removed_files_leave_nothing_behind(tmp_path, files):
    index = fresh(tmp_path / "i")
    update_index(index, frames.media_in([files]).pictures, MeanColours())
    assert remove_files(index, [files / "belt.mp4"]) == 1
    assert len(list((tmp_path / "i" / "parts").iterdir())) == 1
    assert remove_files(Index.open(tmp_path / "i"), [files]) == 3
    assert not list((tmp_path / "i" / "parts").iterdir())


def test_an_interrupted_index_continues_and_encodes_no_frame_twice(tmp_path, files, monkeypatch):
    monkeypatch.setattr(indexing, "PART_ROWS", 2)
    monkeypatch.setattr(indexing, "BATCH", 2)
    index, stopped = fresh(tmp_path / "i"), MeanColours(limit=4)
    with pytest.raises(KeyboardInterrupt):
        update_index(index, [files / "belt.mp4"], stopped)
    assert stopped.count == 4
    again = MeanColours()
    update_index(fresh(tmp_path / "i"), [files / "belt.mp4"], again)
    assert again.count == 2, "two parts of two frames were complete"
    red = module.similarity_to(torch.eye(3)[0])
    (path, times, values), = Index.open(tmp_path / "i").curves(red)
    assert times.tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-3) and len(values) == 6


def test_at_most_one_batch_of_pictures_is_in_memory(tmp_path, files, monkeypatch):
    """No more than one batch is decoded before it is encoded, however long the video is."""
    monkeypatch.setattr(indexing, "BATCH", 3)
    most = []

    class Slow(MeanColours):
        def encode(self, pictures):
            most.append(len(pictures))
            return super().encode(pictures)
    index = Index(tmp_path / "i", BaseModel("means", "0" * 64), {"rate": 10.0, "change": 0.0})
    update_index(index, [files / "belt.mp4"], Slow())
    assert max(most) == 3 and sum(most) == 60


def test_broken_files_are_named_and_the_rest_is_indexed(tmp_path, files):
    (files / "cut.mp4").write_bytes((files / "belt.mp4").read_bytes()[:500])
    (files / "empty.png").write_bytes(b"")
    sound(files / "sound.mkv")
    index = fresh(tmp_path / "i")
    paths = [*frames.media_in([files]).pictures, files / "absent.png"]
    failed = update_index(index, paths, MeanColours())
    assert sorted(Path(p).name for p, _ in failed) == ["absent.png", "cut.mp4", "empty.png",
                                                              "sound.mkv"]
    assert all(name in error for path, error in failed for name in [Path(path).name])
    assert len(index.entries) == 4


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": 1}', "[" * 100_000,
                                     '{"version": 3, "model": 1, "sha256": 2, "sampling": 3, '
                                     '"files": [{"a": 1}]}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="index.json is no index that this version of minilora"):
        Index.open(tmp_path)
    with pytest.raises(ValueError, match="holds no index"):
        Index.open(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [
    {"times": torch.zeros(2, dtype=torch.float64)}, {"features": torch.zeros(2, 3).half()},
    {"features": torch.zeros(2, 3).half(), "times": torch.zeros(3, dtype=torch.float64)},
    {"features": torch.zeros(2, 3).half(), "times": torch.zeros(2, dtype=torch.float64),
     "texts": ["one"]},
    {"features": torch.zeros(6, 3), "times": torch.zeros(6, dtype=torch.float64)},
    {"features": torch.zeros(6, 3).half(), "times": torch.zeros(6)},
    {"features": torch.zeros(6, 3).half(), "times": "0 1 2"},
    {"features": torch.full((6, 3), math.nan).half(), "times": torch.zeros(6).double()},
    {"features": torch.full((6, 3), math.inf).half(), "times": torch.zeros(6).double()},
    {"features": torch.zeros(6, 3).half(), "times": torch.full((6,), math.nan).double()},
    {"features": torch.zeros(6, 3).half(), "times": torch.arange(6).double() * 1e300},
    {"features": torch.zeros(6, 3).half(), "times": torch.zeros(6).double(), "texts": [1] * 6},
    {"features": torch.zeros(6, 3).half(), "times": torch.zeros(6).double(), "other": 1}])
def test_a_part_of_another_shape_is_named(tmp_path, files, content):
    index = fresh(tmp_path / "i")
    update_index(index, [files / "belt.mp4"], MeanColours())
    module.save_tensors(index.part_path(index.part_names()[0]), content)
    with pytest.raises(ValueError, match=r"frames-.*safetensors.*expected .*make the index again"):
        list(index.curves(module.similarity_to(torch.eye(3)[0])))


def test_parts_that_do_not_fit_the_index_are_named(tmp_path, files):
    """Of another width; with fewer rows; with times that go back."""
    index = fresh(tmp_path / "i")
    update_index(index, frames.media_in([files]).pictures, MeanColours())
    video_part, = (name for name in index.part_names() if "frames" in name)
    for width, rows, times, words in (
            (4, 6, range(6), "expected a tensor"), (3, 5, range(5), "5 rows, index.json expects 6"),
            (3, 6, [0, 1, 2, 1, 4, 5], "times of .*belt.mp4 do not ascend")):
        module.save_tensors(index.part_path(video_part), {
            "features": torch.ones(rows, width).half(), "times": torch.tensor(times).double()})
        with pytest.raises(ValueError, match=words):
            list(Index.open(tmp_path / "i").curves(lambda part: part["times"]))


FORGED = {"a path as the part": {"pieces": ["../../x:0:1"]}, "no rows": {"pieces": ["NAME:2:2"]},
          "no number": {"pieces": ["NAME:0:x"]}, "a list": {"pieces": [["NAME", 0, 1]]},
          "an unlisted part": {"pieces": ["other:0:1"]}, "columns of two lengths": {"size": [1, 2]},
          "many rows": {"pieces": ["NAME:0:99999999"]}, "a row twice": {
              "pieces": ["NAME:0:1 NAME:0:1"]}, "a path with NUL": {"path": ["a\0b.png"]},
          "a size that is text": {"size": ["1"]}, "a time that is a float": {"changed": [1.5]}}
FORGED_TOP = {"a hash": {"sha256": "0"}, "a digest": {"parts": {"a": "../../x"}},
              "a run": {"unfinished": {"*": 0}}, "a time": {"unfinished": {"0" * 16: math.nan}},
              "a rate": {"sampling": {"rate": 0}}, "a flag": {"reads": 1},
              "a further key": {"more": 1}}


@pytest.mark.parametrize("kind", [*FORGED, *FORGED_TOP])
def test_a_forged_value_of_the_index_is_named(tmp_path, files, kind):
    index = fresh(tmp_path / "i")
    update_index(index, [files / "belt.mp4"], MeanColours())
    kept = json.loads((tmp_path / "i" / "index.json").read_text())
    kept["files"] |= FORGED.get(kind, {})
    text = json.dumps(kept | FORGED_TOP.get(kind, {})).replace("NAME", index.part_names()[0])
    (tmp_path / "i" / "index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json is no index that this version") as caught:
        Index.open(tmp_path / "i")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_an_index_of_before_is_to_be_made_again(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "index.json").write_text('{"version": 2, "files": []}')
    with pytest.raises(ValueError, match="it was made by an earlier version; make it again"):
        Index.open(tmp_path)


def test_a_query_with_another_number_of_features_is_refused(tmp_path, files):
    index = fresh(tmp_path / "i")
    update_index(index, [files / "belt.mp4"], MeanColours())
    with pytest.raises(ValueError, match="features of 3 numbers, the query has 4"):
        list(index.curves(module.similarity_to(torch.ones(4))))


def test_a_video_of_7680_by_4320_is_indexed(tmp_path):
    path = tmp_path / "large.mp4"
    still = Image.new("RGB", (7680, 4320), COLOURS["green"])
    with open(path, "wb") as file:
        frames.save_video(file, [frames.Frame(k / 2, still) for k in range(2)], 2)
    index = fresh(tmp_path / "i")
    assert update_index(index, [path], MeanColours()) == []
    (_, _, values), = index.curves(module.similarity_to(torch.eye(3)[1]))
    assert values.tolist() == pytest.approx([0.99], abs=0.02)


# ---- extras -------------------------------------------------------------------------------------

def written(text):
    picture = Image.new("RGB", (320, 240), "white")
    ImageDraw.Draw(picture).text((40, 100), text, "black", ImageFont.load_default(40))
    return picture


def test_a_serial_number_in_a_picture_is_found(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for text in ("SN 4821", "SN 7730"):
        written(text).save(files / f"{text[-4:]}.png")
    belt = [written(text) for text in ("LOT 1234", "SN 4821", "LOT 1234")]
    belt[0].save(files / "belt.gif", save_all=True, append_images=belt[1:], duration=1000)
    index = Index(tmp_path / "i", BaseModel("means", "0" * 64), {"rate": 1.0, "change": 0.0}, ocr=True)
    encoder = MeanColours()
    encoder.read = TextReader()
    update_index(index, frames.media_in([files]).pictures, encoder)
    found, _ = search.find_text(Index.open(tmp_path / "i"), "sn-4821", 5)
    assert sorted((Path(e.file).name, e.start) for e in found) == [("4821.png", 0), ("belt.gif", 1)]
    assert search.find_text(index, "9999", 5)[0] == []
    with pytest.raises(ValueError, match="neither letter nor digit"):
        search.find_text(index, "--", 5)
    with pytest.raises(ValueError, match="made without --ocr"):
        search.find_text(fresh(tmp_path / "i"), "4821", 5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_faiss_finds_the_files_that_hold_the_nearest_frames(tmp_path, cache):
    """As the exact product; the inverted lists are rebuilt after the index has changed."""
    index, generator = fresh(tmp_path / "i"), torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(600, 16, generator=generator), dim=-1).half()
    for k in range(6):
        module.save_tensors(index.part_path(f"frames-{k}"), {
            "features": rows[100 * k:100 * k + 100], "times": torch.arange(100.0).double()})
        index.entries[f"{k}.mp4"] = module.Entry(f"{k}.mp4", 1, 1, [[f"frames-{k}", 0, 50]])
        index.entries[f"{k}.mkv"] = module.Entry(f"{k}.mkv", 1, 1, [[f"frames-{k}", 50, 100]])
    query = torch.randn(16, generator=generator)
    best = (rows.float() @ query).topk(5).indices
    names = {f"{r // 100}.{'mp4' if r % 100 < 50 else 'mkv'}" for r in best.tolist()}
    assert faiss_index.nearest_files(index, query, rows=5) == names
    found, _ = search.find_events(index, module.similarity_to(query), 3)
    fast, _ = search.find_events(index, module.similarity_to(query), 3, files=names)
    assert fast[0] == found[0]
    before = list(cache.rglob("*.faiss"))
    assert faiss_index.nearest_files(index, query, rows=5) == names, "from the stored lists"
    del index.entries["0.mp4"], index.entries["0.mkv"]
    assert all(not p.startswith("0.") for p in faiss_index.nearest_files(index, query, rows=99))
    after = list(cache.rglob("*.faiss"))
    assert len(before) == len(after) == 1 and before != after
    assert not list(tmp_path.rglob("i/*.faiss")), "a query writes nothing beside the index"
    assert faiss_index.nearest_files(fresh(tmp_path / "empty"), query) == set()


EXTRAS = {"faiss": (lambda: faiss_index.import_faiss(), '".[faiss]"'),
          "rapidocr_onnxruntime": (lambda: TextReader(), '".[ocr]"'),
          "pyttsx3": (lambda: speech.speak("two events"), '".[speech]"')}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_extra_says_what_to_install(name, monkeypatch):
    use, words = EXTRAS[name]
    for module_name in (name, "gtts"):
        monkeypatch.setitem(sys.modules, module_name, None)
    with pytest.raises(ValueError, match="pip install " + re.escape(words)):
        use()


def test_text_is_spoken_or_written_to_a_file(tmp_path, monkeypatch):
    said = []

    class Engine:
        say = lambda self, text: said.append(("aloud", text))
        save_to_file = lambda self, text, path: Path(path).write_text(text)
        runAndWait = lambda self: said.append("done")
    monkeypatch.setitem(sys.modules, "pyttsx3", types.SimpleNamespace(init=Engine))
    speech.speak("one event")
    speech.speak("one event", tmp_path / "a.wav")
    assert said == [("aloud", "one event"), "done", "done"]
    assert (tmp_path / "a.wav").read_text() == "one event"


def test_without_an_offline_engine_gtts_writes_the_file(tmp_path, monkeypatch):
    def no_voice():
        raise OSError("libespeak.so.1: cannot open shared object file")
    monkeypatch.setitem(sys.modules, "pyttsx3", types.SimpleNamespace(init=no_voice))
    voice = lambda text: types.SimpleNamespace(write_to_fp=lambda file: file.write(text.encode()))
    monkeypatch.setitem(sys.modules, "gtts", types.SimpleNamespace(gTTS=voice))
    speech.speak("one event", tmp_path / "a.mp3")
    assert (tmp_path / "a.mp3").read_bytes() == b"one event"
    with pytest.raises(ValueError, match="libespeak.*espeak-ng"):
        speech.speak("one event")


def test_the_summary_names_events_and_times():
    found = [events.Event("/x/belt.mp4", 61.2, 62.6, 62, 0.3),
             events.Event("/x/a.png", 0, 0, 0, 0.2)]
    assert speech.spoken_summary("a gear", found) == (
        "2 events for a gear. Number 1: belt, from 1 minute 1 second to 1 minute 3 seconds. "
        "Number 2: a.")


# ---- events -------------------------------------------------------------------------------------

def intervals(values, **options):
    times = torch.arange(len(values), dtype=torch.float64)
    found = events.localise_events("a", times, torch.tensor(values), **options)
    return [(e.start, e.end, e.peak) for e in found]


def test_an_event_ends_halfway_between_its_own_peak_and_the_baseline():
    """A low peak next to a high one has its own threshold; the highest peak comes first."""
    curve = [0, 0, 4, 9, 10, 6, 0, 0, 0, 0, 0, 1, 3.0, 2, 0, 0, 0, 0]
    assert intervals(curve) == [(3, 5, 4), (12, 13, 12)]
    assert intervals(curve, count=1) == [(3, 5, 4)]


def test_a_short_dip_does_not_end_an_event():
    curve = [0, 0, 0, 8, 2, 8.5, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0.0]
    assert intervals(curve) == [(11, 11, 11), (5, 5, 5), (3, 3, 3)]
    assert intervals(curve, gap=2) == [(11, 11, 11), (3, 5, 5)]


def test_the_falling_flank_of_an_event_contains_no_other_event():
    curve = [0, 0, 0, 0, 10, 4, 3, 2, 1, 0.0, 0]
    assert intervals(curve) == [(4, 4, 4)]
    assert intervals([1.0, 1, 1, 1]) == []


def test_smoothing_is_a_moving_average_over_seconds():
    times = torch.tensor([0, 0.5, 1.0, 5.0, 6.0], dtype=torch.float64)
    values = torch.tensor([1.0, 2, 6, 4, 8])
    smoothed = events.smooth(times, values, 2.0)
    assert smoothed.tolist() == pytest.approx([3, 3, 3, 6, 6])
    assert torch.equal(events.smooth(times, values, 0), values)


def test_average_precision_of_events_is_that_of_a_ranked_list():
    """With one true event per file it equals scikit-learn's average precision."""
    from sklearn.metrics import average_precision_score
    generator = np.random.default_rng(0)
    for _ in range(30):
        right = generator.random(12) < 0.5
        if not right.any():
            continue
        scores = generator.permutation(12).astype(float)
        found = [events.Event(str(k), 0 if r else 50, 10 if r else 60, 5, s)
                 for k, (r, s) in enumerate(zip(right, scores))]
        true = [(str(k), 0, 10) for k in np.flatnonzero(right)]
        assert events.event_average_precision(found, true) == pytest.approx(
            average_precision_score(right, scores))


def test_a_true_event_is_matched_once():
    twice = [events.Event("a", 0, 10, 5, 0.9), events.Event("a", 0, 9, 5, 0.8)]
    assert events.event_average_precision(twice, [("a", 0, 10)]) == 1.0
    assert events.event_average_precision(twice, [("a", 0, 10), ("b", 0, 10)]) == 0.5
    assert events.event_average_precision([], []) is None
    assert events.temporal_iou((0, 10), (5, 15)) == pytest.approx(1 / 3)


def test_hit_at_k_and_harmonic_mean():
    good, bad = events.Event("a", 0, 10, 5, 0.5), events.Event("a", 20, 30, 25, 0.9)
    queries = [([good, bad], [("a", 0, 10)]), ([good], [("a", 0, 8)])]
    assert events.hit_at_k(queries, 1) == 0.5 and events.hit_at_k(queries, 2) == 1.0
    assert events.harmonic_mean(0.9, 0.45) == pytest.approx(0.6)
    assert events.harmonic_mean(0, 0) == 0


# ---- commands -----------------------------------------------------------------------------------

def test_index_and_query_from_the_command_line(tmp_path, files, tiny_weights, capsys):
    out = tmp_path / "index"
    run = lambda *arguments: (lambda o: o.run(o, print))(search_run.parser().parse_args(arguments))
    assert run("index", str(files), "--out", str(out), "--model", str(tiny_weights)) == 0
    assert "4 files, 9 frames, 0 left out" in capsys.readouterr().out
    assert run("query", str(out), "--like", str(files / "red ö.png"), "-k", "3", "--model",
               str(tiny_weights), "--json", str(tmp_path / "f.json"), "--sheet",
               str(tmp_path / "f.png"), "--page", str(tmp_path / "f.html")) == 0
    found = json.loads((tmp_path / "f.json").read_text())["events"]
    assert {Path(e["file"]).name for e in found[:2]} == {"red ö.png", "belt.mp4"}
    assert min(e["score"] for e in found[:2]) > 0.99
    assert len(found) == 3
    assert set(found[0]) == {"file", "start", "end", "peak", "score", "floor"}
    assert found[0]["floor"] is None, "two pictures are more similar than a picture and a text"
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.size == (5 * TILE, TILE + CAPTION)
    text = (tmp_path / "f.html").read_text()
    assert text.count("<img") == 3 and "http" not in text.replace("http-equiv", "")
    assert run("remove", str(out), str(files / "belt.mp4")) == 0
    assert "removed 1 files, 3 left" in capsys.readouterr().out


def test_text_in_pictures_from_the_command_line(tmp_path, tiny_weights, capsys):
    written("SN 4821").save(tmp_path / "a.png")
    run = lambda *arguments: (lambda o: o.run(o, print))(search_run.parser().parse_args(arguments))
    out = str(tmp_path / "i")
    run("index", str(tmp_path / "a.png"), "--out", out, "--model", str(tiny_weights), "--ocr")
    assert run("query", out, "--reads", "4821") == 0
    assert "1   1.000  " in capsys.readouterr().out
    sheet, page = tmp_path / "f.png", tmp_path / "f.html"
    assert run("query", out, "--reads", "9999", "--sheet", str(sheet), "--page", str(page)) == 1
    assert "nothing found for 9999" in capsys.readouterr().out
    assert Image.open(sheet).size == (5 * TILE, TILE + CAPTION) and "9999" in page.read_text()


def test_another_model_or_sampling_is_refused(tmp_path, files, tiny_weights, tiny_clip):
    from minilora.checkpoint.weights import save_official
    run = lambda *arguments: (lambda o: o.run(o, print))(search_run.parser().parse_args(arguments))
    first = ("index", str(files), "--out", str(tmp_path / "i"))
    run(*first, "--model", str(tiny_weights))
    with torch.no_grad():
        tiny_clip.visual.proj += 1
    save_official(tiny_clip, tmp_path / "other.safetensors")
    for again in (first, ("query", str(tmp_path / "i"), "a gear")):
        with pytest.raises(ValueError, match="was made with tiny.safetensors"):
            run(*again, "--model", str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="was sampled with"):
        run(*first, "--model", str(tiny_weights), "--rate", "2")


def test_without_subtracts_half_of_the_negative_text(tiny_clip):
    plain = search.query_features(tiny_clip, ["a gear"])
    less = search.query_features(tiny_clip, ["a gear without rust"])
    assert torch.equal(less, search.query_features(tiny_clip, ["a gear"], ["rust"]))
    rust = search.text_features(tiny_clip, "rust")
    assert torch.allclose(plain - less, search.NEGATIVE_WEIGHT * rust, atol=1e-6)
    with pytest.raises(ValueError, match="nothing to look for"):
        search.query_features(tiny_clip)


def test_a_picture_is_most_similar_to_itself(tmp_path, files, tiny_clip):
    index = fresh(tmp_path / "i")
    update_index(index, frames.media_in([files]).pictures, FrameEncoder(tiny_clip))
    query = search.query_features(tiny_clip, like=[files / "blue ö.png"])
    found, curves = search.find_events(index, module.similarity_to(query), 2)
    names = {Path(e.file).name for e in found}
    assert names == {"blue ö.png", "belt.mp4"}, "the video shows the same blue for two seconds"
    assert min(e.score for e in found) > 0.99 and len(curves) == 4
    with pytest.raises(ValueError, match="holds no frame"):
        search.find_events(fresh(tmp_path / "none"), module.similarity_to(query), 2)
