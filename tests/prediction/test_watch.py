"""`predict --watch`: one line and one row for each picture that arrives, whatever happens."""
import contextlib
import csv
import gc
import json
import os
import random
import shutil
import signal
import threading
import time
import tracemalloc
from functools import partial
from types import SimpleNamespace

import killed
import pytest
from PIL import Image

from minilora import predict
from minilora.detector import Detector
from minilora.io.files import load_tensors, save_tensors
from minilora.io.lock import lock_folder
from minilora.io.notes import note
from minilora.io.record import read_record
from minilora.prediction import new_files, watch
from minilora.prediction.picture import empty_prediction
from minilora.prediction.watch import StopRequest, watch_folder


class Script(StopRequest):
    """Runs one step in each pause between two polls, and ends after the last one."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)

    def wait(self, seconds):
        if self.steps:
            step = self.steps.pop(0)
            step and step()
        else:
            self.asked = True


@pytest.fixture(scope="module")
def gear(gear_run):
    """(detector that calls everything NG, folder of pictures)."""
    run, data = gear_run
    detector = Detector.open(run)
    detector.threshold = -1e9
    return detector, data / "test" / "good"


@pytest.fixture
def belt(gear, tmp_path):
    """(watched folder, run the watch through some steps -> (status, lines), rows)."""
    detector, _ = gear
    folder, out = tmp_path / "belt", tmp_path / "out"
    folder.mkdir()

    def run(*steps, as_json=False):
        lines = []
        status = watch_folder(detector, folder, out, lines.append, 0, as_json, Script(*steps))
        return status, lines

    def rows():
        with (out / "watch.csv").open(newline="") as file:
            return [(os.path.relpath(row["file"], folder), row["decision"])
                    for row in csv.DictReader(file)]
    return folder, run, rows


def add(gear, path, number=0):
    """Copy a picture there."""
    shutil.copy(gear[1] / f"{number:03d}.png", path)


def test_a_picture_has_a_line_a_row_and_an_overlay(gear, belt):
    folder, run, rows = belt
    status, lines = run(lambda: add(gear, folder / "a.png"), None, None)
    assert status == 1 and len(lines) == 1 and rows() == [("a.png", "NG")]
    assert lines[0].startswith("NG  score") and str(folder / "a.png") in lines[0]
    assert "s after the file was complete, scored in" in lines[0]
    (overlay,) = folder.parent.glob("out/NG-a-*.png")
    assert Image.open(overlay).size == Image.open(folder / "a.png").size
    assert list(read_record(folder.parent / "out")["watch"]) == [overlay.name]


def test_the_row_is_there_before_the_line(gear, belt):
    folder, _, rows = belt
    add(gear, folder / "a.png")
    found = []
    watch_folder(gear[0], folder, folder.parent / "out", lambda line: found.extend(rows()), 0,
                 stop=Script(None, None))
    assert found == [("a.png", "NG")]


def test_a_restart_judges_nothing_twice_and_finds_what_came_meanwhile(gear, belt):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    run(None)
    add(gear, folder / "b.png")
    assert len(run(None)[1]) == 1 and rows() == [("a.png", "NG"), ("b.png", "NG")]
    status, lines = run(None, None)
    assert (status, lines) == (0, []), "the exit status is that of this call"


def test_new_content_under_an_old_name_is_judged_again(gear, belt):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    run(None, lambda: add(gear, folder / "a.png", 1), None, None)
    assert rows() == [("a.png", "NG")] * 2
    assert len(list(folder.parent.glob("out/NG-a-*.png"))) == 2


def test_a_broken_picture_is_listed_once_and_again_after_a_change(gear, belt, monkeypatch):
    folder, run, rows = belt
    whole = (gear[1] / "000.png").read_bytes()
    (folder / "a.png").write_bytes(whole[:200])
    add(gear, folder / "b.png")
    assert run(None, None, None)[0] == 1 and rows() == [("b.png", "NG")], "its end may follow"
    monkeypatch.setattr(new_files, "GIVE_UP_AFTER", 0.0)
    status, lines = run(None, None, None, lambda: (folder / "a.png").write_bytes(whole), None, None)
    assert status == 2 and rows()[1:] == [("a.png", ""), ("a.png", "NG")]
    assert lines[0].startswith("--  not scored: cannot read picture") and lines[1][:2] == "NG"


def test_a_picture_of_a_phone_that_cannot_be_read_is_said_once_with_the_remedy(gear, belt, capsys):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    assert run(lambda: (folder / "IMG_1.HEIC").write_bytes(b"x"), None, None)[0] == 1
    assert rows() == [("a.png", "NG")]
    said = capsys.readouterr().err
    assert said.count("IMG_1.HEIC is HEIC; export as JPEG, which can be read\n") == 1


def test_a_picture_that_changes_while_it_is_read_waits(gear, belt, monkeypatch):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    read, changes = watch.read_or_error, [lambda: add(gear, folder / "a.png", 1)]

    def read_during_a_change(detector, path):
        picture = read(detector, path)
        changes and changes.pop()()
        return picture
    monkeypatch.setattr(watch, "read_or_error", read_during_a_change)
    assert len(run(None, None, None)[1]) == 1 and rows() == [("a.png", "NG")]


def test_a_folder_that_vanishes_is_reported_once_and_waited_for(gear, belt, capsys):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    away = folder.with_name("away")
    run(None, lambda: folder.rename(away), None, None, lambda: add(gear, away / "b.png"),
        lambda: away.rename(folder), None, None)
    assert rows() == [("a.png", "NG"), ("b.png", "NG")]
    errors = capsys.readouterr().err
    assert errors.count("waiting for it") == 1 and errors.count("is there again") == 1


def test_json_lines_hold_the_latency(gear, belt):
    folder, run, _ = belt
    add(gear, folder / "a.png")
    _, (line,) = run(None, None, as_json=True)
    found = json.loads(line)
    assert found["decision"] == "NG" and 0 <= found["latency_s"] < 60 and found["scoring_ms"] > 0


def test_results_of_other_commands_in_the_folder_are_not_judged(gear, belt):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    watch_folder(gear[0], folder, folder / "earlier", print, 0, stop=Script(None, None))
    run(None, None)
    assert rows() == [("a.png", "NG")]


def test_a_row_that_cannot_be_written_stops_without_a_line(gear, belt, monkeypatch):
    folder, run, rows = belt
    add(gear, folder / "a.png")
    lines = []

    def full(descriptor):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="cannot be written"):
        patch.setattr(watch.WatchLog, "append", failing_append(full))
        watch_folder(gear[0], folder, folder.parent / "out", lines.append, 0, stop=Script(None))
    assert lines == rows() == []
    assert run(None)[0] == 1 and rows() == [("a.png", "NG")]


def failing_append(fsync):
    """`WatchLog.append` while fsync fails."""
    append = watch.WatchLog.append

    def failing(log, row, key):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            append(log, row, key)
    return failing


def test_a_note_about_pictures_is_said_once(gear, belt, monkeypatch, capsys):
    folder, run, _ = belt
    for number in range(2):
        add(gear, folder / f"{number}.png", number)
    read = watch.read_or_error

    def noting(detector, path):
        note("only the first page is used", path)
        return read(detector, path)
    monkeypatch.setattr(watch, "read_or_error", noting)
    run(None, None)
    assert capsys.readouterr().err.count("only the first page is used") == 1


@pytest.mark.parametrize("folder, out, message", [
    ("nowhere", "out", "expected a folder, found nothing"),
    ("a.txt", "out", "expected a folder, found a file"),
    ("belt", "belt", "are the same folder")])
def test_folders_that_do_not_fit_are_refused_and_unchanged(gear, tmp_path, folder, out, message):
    (tmp_path / "belt").mkdir()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=message):
        watch_folder(gear[0], tmp_path / folder, tmp_path / out, print)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "belt"] and not any(
        (tmp_path / "belt").iterdir())


def test_one_process_at_a_time_writes_there(gear, belt):
    folder, run, _ = belt
    with lock_folder(folder.parent / "out"), pytest.raises(ValueError, match="another process"):
        run()


@pytest.mark.parametrize("arguments", [[], ["a.png", "--watch", "belt"]])
def test_predict_takes_pictures_or_a_watched_folder(arguments):
    options = predict.parser().parse_args(["run", *arguments])
    with pytest.raises(ValueError, match="or --watch FOLDER"):
        predict.run_predict(options, print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_pause_and_a_second_one_has_its_usual_effect(number):
    before = signal.signal(number, signal.default_int_handler)
    stop = StopRequest()
    try:
        with stop.listening():
            threading.Timer(0.1, signal.raise_signal, [number]).start()
            begun = time.monotonic()
            stop.wait(60)
            assert stop.asked and time.monotonic() - begun < 30
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_memory_holds_a_key_per_picture_and_nothing_else(gear, tmp_path, monkeypatch):
    """A key has 49 bytes in Python, a path some 200.  A fast stand-in takes the detector's place.
    """
    folder, picture = tmp_path / "belt", Image.new("RGB", (4, 4))
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(watch, "read_or_error", lambda detector, path: picture)
    monkeypatch.setattr(watch, "predict_or_error", lambda detector, path, picture: (
        empty_prediction(path, 0.5) | {"decision": "NG", "score": 1.0},
        SimpleNamespace(overlay=picture)))
    held = []

    def arrive(first):
        for number in range(first, first + 100):
            note("a note about each picture", folder / f"{number}.png")
            (folder / f"camera-2-{number:05d}.png").write_bytes(b"x")

    def measure():
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    steps = [step for k in range(7) for step in (partial(arrive, 100 * k), None, None)]
    steps.insert(3 * 4, measure)            # from 400 to 700 pictures the set is not enlarged
    tracemalloc.start()
    try:
        watch_folder(gear[0], folder, tmp_path / "out", lambda line: None, 0,
                     stop=Script(*steps, measure))
    finally:
        tracemalloc.stop()
    assert len(list((tmp_path / "out").glob("NG-*.png"))) == 700
    assert (held[1] - held[0]) / 300 < 150                  # with the paths it would be some 250


# ---- kills --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def all_ng_run(gear_run, tmp_path_factory):
    """A run folder whose threshold calls everything NG, so each picture has an overlay."""
    run = tmp_path_factory.mktemp("runs") / "all-ng"
    shutil.copytree(gear_run[0], run)
    content = load_tensors(run / "detector.safetensors")
    save_tensors(run / "detector.safetensors", content | {"threshold": -1e9})
    return run


@contextlib.contextmanager
def arriving(folder, source, count, draw):
    """A thread puts pictures there: written in two pieces, or renamed.  Yields it."""
    whole = source.read_bytes()

    def put():
        for k in range(count):
            path = folder / f"{k:03d}.png"
            if k % 3:
                with path.open("wb") as file:
                    file.write(whole[:300])
                    file.flush()
                    time.sleep(draw.uniform(0, 0.04))
                    file.write(whole[300:])
            else:
                path.with_suffix(".part").write_bytes(whole)
                path.with_suffix(".part").rename(path)
            time.sleep(draw.uniform(0, 0.06))
    thread = threading.Thread(target=put)
    thread.start()
    yield thread
    thread.join()


def check_rows(out, count, printed):
    """Raise AssertionError unless each picture has one row, and each line and overlay its row."""
    with (out / "watch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(os.path.basename(r["file"]) for r in rows) == [f"{k:03d}.png"
                                                                 for k in range(count)]
    lines = [json.loads(line) for line in printed.read_text().splitlines()]
    assert {(x["file"], x["score"]) for x in lines} <= {(r["file"], float(r["score"]))
                                                        for r in rows}
    assert len({x["file"] for x in lines}) == len(lines)
    assert {r["overlay"] for r in rows} == {p.name for p in out.glob("*.png")}
    assert set(read_record(out)["watch"]) == {r["overlay"] for r in rows}
    assert not list(out.glob(".minilora-*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments_lose_no_picture_and_repeat_none(all_ng_run, gear, tmp_path, seed):
    draw, count, kills = random.Random(seed), 150, 0
    folder, out, printed = (tmp_path / name for name in ("belt", "out", "printed"))
    folder.mkdir()

    def start(**moment):
        return killed.start(["minilora.predict", str(all_ng_run), "--watch", str(folder), "--json",
                             "--out", str(out), "--poll", "0.05"], str(tmp_path / "errors"),
                            output=str(printed), **moment)
    warm = killed.start(["minilora.predict", "--help"], str(tmp_path / "errors"))
    warm.join()                                         # the server has imported everything now
    with arriving(folder, gear[1] / "000.png", count, draw) as thread:
        moments = [{"kind": "replace", "last": k} for k in (1, 2, 3)]   # record, table, overlay
        while thread.is_alive():
            at_call = {"kind": draw.choice(["fsync", "replace", "open"]),
                       "last": draw.randint(3, 30)}
            process = start(**(moments.pop(0) if moments else draw.choice([{}, at_call])))
            process.join(draw.uniform(0.3, 1.5))
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
    errors = tmp_path / "errors"
    begun, end = errors.read_text().count("watching "), time.monotonic() + 60
    process = start()
    while (errors.read_text().count("watching ") == begun           # its handler of SIGTERM is set
           or (out / "watch.csv").read_bytes().count(b"\n") <= count) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    process.join(30)
    assert process.exitcode in (0, 1) and kills >= 3
    assert "pictures: " in errors.read_text()
    check_rows(out, count, printed)
