"""Search: frames with their times, an index that forgets nothing twice, events, the commands."""
import json
import math

import av
import numpy as np
import pytest
import torch
from PIL import Image

from minilora import events, frames, search
from minilora import index as module
from minilora.index import Encoder, Index, remove, update

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
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


class Colours:
    """Mean colours as features; counts what it has encoded, and stops after `limit`."""

    def __init__(self, limit=math.inf):
        self.count, self.limit = 0, limit

    def pictures(self, pictures):
        if self.count + len(pictures) > self.limit:
            raise KeyboardInterrupt
        self.count += len(pictures)
        means = [np.asarray(p.convert("RGB")).reshape(-1, 3).mean(0) for p in pictures]
        return torch.nn.functional.normalize(torch.tensor(np.array(means)).float(), dim=-1).half()


def fresh(folder):
    return Index(folder, "means", "0" * 64, {"rate": 1.0, "change": 0.0})


# ---- frames -------------------------------------------------------------------------------------

def test_a_video_gives_its_frames_at_their_times(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green", "blue"])
    every = list(frames.all_frames(path))
    assert [f.time for f in every] == pytest.approx([k / 10 for k in range(60)], abs=1e-3)
    kept = list(frames.sampled(frames.all_frames(path), 1.0))
    assert [f.time for f in kept] == pytest.approx(range(6), abs=1e-3)
    middle = [f.picture.getpixel((32, 24)) for f in kept]
    for pixel, colour in zip(middle, ("red", "red", "green", "green", "blue", "blue")):
        assert np.abs(np.subtract(pixel, COLOURS[colour])).max() < 30, "encoding costs a little"


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_adds_its_durations_up(tmp_path, ending):
    pictures = [Image.new("RGB", (32, 24), c) for c in COLOURS.values()]
    pictures[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pictures[1:],
                     duration=[500, 1500, 200])
    found = list(frames.all_frames(tmp_path / f"a.{ending}"))
    assert [f.time for f in found] == pytest.approx([0, 0.5, 2.0])
    assert found[1].picture.getpixel((5, 5))[1] > 150


def test_only_changes_are_kept_if_asked(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green", "green", "blue"])
    kept = list(frames.sampled(frames.all_frames(path), rate=10, change=8))
    assert [round(f.time) for f in kept] == [0, 2, 6]


def test_the_frame_of_a_moment_is_the_last_before_it(tmp_path):
    path = video(tmp_path / "belt.mp4", ["red", "green"])
    assert frames.frame_at(path, 2.75).getpixel((32, 24))[1] > 150
    assert frames.frame_at(path, 0.0).getpixel((32, 24))[0] > 150


BROKEN = {"zero length": lambda p: p.write_bytes(b""),
          "not a video": lambda p: p.write_bytes(b"<html>" * 300),
          "cut off": lambda p: p.write_bytes(video(p, ["red"]).read_bytes()[:700])}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_video_is_named(tmp_path, kind):
    path = tmp_path / "belt.mp4"
    BROKEN[kind](path)
    with pytest.raises(ValueError, match="belt.mp4 (beyond|has no pictures)"):
        list(frames.all_frames(path))


def test_sound_alone_and_a_missing_package_are_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="only sound"):
        list(frames.all_frames(sound(tmp_path / "a.mkv")))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install minilora\[video\]"):
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


def test_what_has_not_changed_is_not_encoded_again(tmp_path, files):
    encoder = Colours()
    assert update(fresh(tmp_path / "i"), frames.files_in([files]), encoder) == []
    assert encoder.count == 3 + 6
    again = Index.open(tmp_path / "i")
    update(again, frames.files_in([files]), encoder)
    assert encoder.count == 9
    Image.new("RGB", (32, 24), "white").save(files / "new.png")
    Image.new("RGB", (40, 24), "black").save(files / "red ö.png")
    update(again, frames.files_in([files]), encoder)
    assert encoder.count == 11
    assert sum(e.rows() for e in Index.open(tmp_path / "i").entries.values()) == 10


def test_rows_are_those_of_the_file_they_stand_for(tmp_path, files):
    index = fresh(tmp_path / "i")
    update(index, frames.files_in([files]), Colours())
    for name, axis in (("red", 0), ("green", 1), ("blue", 2)):
        curves = {module.Path(p).name: v for p, _, v in index.curves(torch.eye(3)[axis])}
        assert max(("red ö.png", "green ö.png", "blue ö.png"),
                   key=lambda p: curves[p][0]) == f"{name} ö.png"
        assert int(curves["belt.mp4"].argmax()) // 2 == axis


def test_removed_files_leave_nothing_behind(tmp_path, files):
    index = fresh(tmp_path / "i")
    update(index, frames.files_in([files]), Colours())
    assert remove(index, [files / "belt.mp4"]) == 1
    assert len(list((tmp_path / "i" / "parts").iterdir())) == 1
    assert remove(Index.open(tmp_path / "i"), [files]) == 3
    assert not list((tmp_path / "i" / "parts").iterdir())


def test_an_interrupted_index_goes_on_and_counts_nothing_twice(tmp_path, files, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    monkeypatch.setattr(module, "BATCH", 2)
    index, stopped = fresh(tmp_path / "i"), Colours(limit=4)
    with pytest.raises(KeyboardInterrupt):
        update(index, [files / "belt.mp4"], stopped)
    assert stopped.count == 4
    again = Colours()
    update(fresh(tmp_path / "i"), [files / "belt.mp4"], again)
    assert again.count == 2, "two parts of two frames were there"
    (path, times, values), = Index.open(tmp_path / "i").curves(torch.eye(3)[0])
    assert times.tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-3) and len(values) == 6


def test_few_pictures_are_in_memory_at_a_time(tmp_path, files, monkeypatch):
    """However long a video: no more than a batch is decoded before it is encoded."""
    monkeypatch.setattr(module, "BATCH", 3)
    most = []

    class Slow(Colours):
        def pictures(self, pictures):
            most.append(len(pictures))
            return super().pictures(pictures)
    index = Index(tmp_path / "i", "means", "0" * 64, {"rate": 10.0, "change": 0.0})
    update(index, [files / "belt.mp4"], Slow())
    assert max(most) == 3 and sum(most) == 60


def test_broken_files_are_named_and_the_rest_is_indexed(tmp_path, files):
    (files / "cut.mp4").write_bytes((files / "belt.mp4").read_bytes()[:500])
    (files / "empty.png").write_bytes(b"")
    sound(files / "sound.mkv")
    index = fresh(tmp_path / "i")
    failed = update(index, [*frames.files_in([files]), files / "absent.png"], Colours())
    assert sorted(module.Path(p).name for p, _ in failed) == ["absent.png", "cut.mp4", "empty.png",
                                                              "sound.mkv"]
    assert all(name in error for path, error in failed for name in [module.Path(path).name])
    assert len(index.entries) == 4


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": 2}', "[" * 100_000,
                                     '{"version": 1, "model": 1, "sha256": 2, "sampling": 3, '
                                     '"files": [{"a": 1}]}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="index.json is no index of minilora"):
        Index.open(tmp_path)
    with pytest.raises(ValueError, match="holds no index"):
        Index.open(tmp_path / "elsewhere")


# ---- events -------------------------------------------------------------------------------------

def test_hysteresis_bridges_dips_and_ignores_what_never_rises():
    values = torch.tensor([0, 2, 3, 2, 2, 3, 0, 2, 2, 0, 3.0])
    assert events.spans(values, high=3, low=2) == [(1, 5), (10, 10)]
    assert events.spans(values, high=4, low=2) == []


def test_near_spans_are_one_event_with_the_higher_peak():
    times = torch.arange(10, dtype=torch.float64)
    values = torch.tensor([0, 5, 0, 6, 0, 0, 0, 5, 0, 0.0])
    found = events.events("a", times, values, 4, 4, gap=2)
    assert [(e.start, e.end, e.peak) for e in found] == [(1, 3, 3), (7, 7, 7)]
    with pytest.raises(ValueError, match="high 1 below low 2"):
        events.events("a", times, values, 1, 2)


def test_smoothing_is_the_mean_of_a_window_in_seconds():
    times = torch.tensor([0, 0.5, 1.0, 5.0, 6.0], dtype=torch.float64)
    values = torch.tensor([1.0, 2, 6, 4, 8])
    smoothed = events.smooth(times, values, 2.0)
    assert smoothed.tolist() == pytest.approx([3, 3, 3, 6, 6])
    assert torch.equal(events.smooth(times, values, 0), values)


def test_average_precision_over_time_is_that_of_ranked_lists():
    """With one truth a file and right or wrong finds, it is scikit-learn's over all truths."""
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
        assert events.average_precision(found, true) == pytest.approx(
            average_precision_score(right, scores))


def test_a_true_event_is_found_once():
    twice = [events.Event("a", 0, 10, 5, 0.9), events.Event("a", 0, 9, 5, 0.8)]
    assert events.average_precision(twice, [("a", 0, 10)]) == 1.0
    assert events.average_precision(twice, [("a", 0, 10), ("b", 0, 10)]) == 0.5
    assert events.average_precision([], []) is None
    assert events.overlap((0, 10), (5, 15)) == pytest.approx(1 / 3)


def test_top_k_and_the_harmonic_mean():
    good, bad = events.Event("a", 0, 10, 5, 0.5), events.Event("a", 20, 30, 25, 0.9)
    queries = [([good, bad], [("a", 0, 10)]), ([good], [("a", 0, 8)])]
    assert events.top(queries, 1) == 0.5 and events.top(queries, 2) == 1.0
    assert events.harmonic_mean(0.9, 0.45) == pytest.approx(0.6)
    assert events.harmonic_mean(0, 0) == 0


# ---- commands -----------------------------------------------------------------------------------

def test_index_and_query_from_the_command_line(tmp_path, files, tiny_weights, capsys):
    out = tmp_path / "index"
    run = lambda *arguments: (lambda o: o.run(o, print))(search.parser().parse_args(arguments))
    assert run("index", str(files), "--out", str(out), "--model", str(tiny_weights)) == 0
    assert "4 files, 9 frames, 0 left out" in capsys.readouterr().out
    assert run("query", str(out), "--like", str(files / "red ö.png"), "-k", "3", "--model",
               str(tiny_weights), "--json", str(tmp_path / "f.json"), "--sheet",
               str(tmp_path / "f.png"), "--page", str(tmp_path / "f.html")) == 0
    found = json.loads((tmp_path / "f.json").read_text())["events"]
    assert found[0]["file"].endswith("red ö.png") and found[0]["score"] > 0.99
    assert len(found) == 3 and set(found[0]) == {"file", "start", "end", "peak", "score"}
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.size == (5 * search.TILE, search.TILE + search.CAPTION)
    text = (tmp_path / "f.html").read_text()
    assert text.count("<img") == 3 and "http" not in text.replace("http-equiv", "")
    assert run("remove", str(out), str(files / "belt.mp4")) == 0
    assert "removed 1 files, 3 left" in capsys.readouterr().out


def test_another_model_or_sampling_is_refused(tmp_path, files, tiny_weights, tiny_clip):
    from minilora.checkpoint import save_official
    run = lambda *arguments: (lambda o: o.run(o, print))(search.parser().parse_args(arguments))
    first = ("index", str(files), "--out", str(tmp_path / "i"))
    run(*first, "--model", str(tiny_weights))
    with torch.no_grad():
        tiny_clip.visual.proj += 1
    save_official(tiny_clip, tmp_path / "other.pt")
    for again in (first, ("query", str(tmp_path / "i"), "a gear")):
        with pytest.raises(ValueError, match="was made with tiny.pt"):
            run(*again, "--model", str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="was sampled with"):
        run(*first, "--model", str(tiny_weights), "--rate", "2")


def test_without_takes_off_what_must_not_be_there(tiny_clip):
    plain = search.query_features(tiny_clip, ["a gear"])
    less = search.query_features(tiny_clip, ["a gear without rust"])
    assert torch.equal(less, search.query_features(tiny_clip, ["a gear"], ["rust"]))
    rust = search.text_features(tiny_clip, "rust")
    assert torch.allclose(plain - less, search.AWAY * rust, atol=1e-6)
    with pytest.raises(ValueError, match="nothing to look for"):
        search.query_features(tiny_clip)


def test_a_picture_is_nearest_to_itself(tmp_path, files, tiny_clip):
    index = fresh(tmp_path / "i")
    update(index, frames.files_in([files]), Encoder(tiny_clip))
    query = search.query_features(tiny_clip, like=[files / "blue ö.png"])
    found, curves = search.find(index, query, 2)
    assert found[0].file.endswith("blue ö.png") and len(curves) == 4
    with pytest.raises(ValueError, match="holds no frame"):
        search.find(fresh(tmp_path / "none"), query, 2)
