"""Scoring pictures with a finished run: printed lines, written files, exit status."""

import csv
import json
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from conftest import REPO
from PIL import Image

from minilora import fit, predict
from minilora.detector import Detector
from minilora.prediction import inputs, picture
from minilora.report import overlays
from minilora.runs import run_class


@pytest.fixture(scope="module")
def finished(gear_run):
    """(run folder, data folder, rows of its scores.csv)."""
    out, data = gear_run
    return out, data, list(csv.DictReader((out / "scores.csv").open()))


def predicted(run, paths, out, *extra):
    lines = []
    options = predict.parser().parse_args([str(run), *map(str, paths), "--out", str(out), *extra])
    return predict.run_predict(options, lines.append), lines


def test_predictions_are_the_scores_of_the_run(finished, tmp_path):
    run, data, rows = finished
    status, lines = predicted(run, [data / "test"], tmp_path)
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {r["file"] for r in results} == {row["file"] for row in rows} and len(lines) == 11
    by_file = {row["file"]: row for row in rows}
    for result in results:
        assert result["score"] == pytest.approx(float(by_file[result["file"]]["score"]), abs=2e-2)
    assert status == int(any(result["decision"] == "NG" for result in results))
    assert len(list(tmp_path.glob("*.png"))) == len(rows)


def test_overlays_of_an_earlier_call_are_removed_and_other_files_stay(finished, tmp_path):
    run, data, _ = finished
    predicted(run, [data / "test"], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"mine")
    predicted(run, [data / "test" / "good"], tmp_path)
    results = json.loads((tmp_path / "predictions.json").read_text())
    new = {result["overlay"] for result in results}
    assert len(new) == len(results)
    assert {p.name for p in tmp_path.glob("*.png")} == new | {"mine.png"}


def test_exit_status_says_ok_ng_or_error(finished, tmp_path, monkeypatch):
    run, data, _ = finished
    good = data / "train" / "good" / "000.png"
    for threshold, expected in ((1e9, 0), (-1e9, 1)):
        monkeypatch.setattr(Detector, "open", lambda *_: with_threshold(run, threshold))
        status, lines = predicted(run, [good], tmp_path)
        assert status == expected and lines[0].startswith(("OK", "NG")[expected])


def with_threshold(run, threshold):
    from minilora.checkpoint.weights import load_clip
    from minilora.io.files import load_tensors
    clip, weights = load_clip(load_tensors(run / "detector.safetensors")["base"]["path"])
    detector = Detector.load(run, clip, weights)
    detector.threshold = threshold
    return detector


def test_a_broken_picture_is_reported_and_the_others_are_scored(finished, tmp_path):
    run, data, _ = finished
    broken, good = tmp_path / "broken.png", data / "train" / "good" / "000.png"
    broken.write_bytes(b"no picture")
    paths = [broken, tmp_path / "gone.png", good]
    status, lines = predicted(run / "detector.safetensors", paths, tmp_path / "o")
    assert status == 2 and len(lines) == 3
    assert "broken.png" in lines[0] and "gone.png" in lines[1] and lines[2][:2] in ("OK", "NG")
    rows = list(csv.DictReader((tmp_path / "o" / "predictions.csv").open()))
    assert [bool(row["error"]) for row in rows] == [True, True, False]


def test_json_prints_one_object_per_picture(finished, tmp_path):
    run, data, _ = finished
    _, lines = predicted(run, [data / "train"], tmp_path, "--json")
    for prediction in map(json.loads, lines):
        assert prediction["decision"] in ("OK", "NG")
        assert 0 <= prediction["x_fraction"] <= 1 and 0 <= prediction["y"] < 64
        assert (tmp_path / prediction["overlay"]).is_file()


def test_the_outline_surrounds_the_suspicious_region():
    scores = torch.zeros(16, 16)
    scores[4:8, 4:8] = 1
    black = Image.new("RGB", (64, 64), (10, 10, 10))
    drawn = overlays.draw_outline(black, scores, 0.5)
    red = [(x, y) for x in range(64) for y in range(64)
           if drawn.getpixel((x, y)) == overlays.OUTLINE]
    assert red and all(10 <= x < 38 and 10 <= y < 38 for x, y in red)
    assert drawn.getpixel((24, 24)) == (10, 10, 10), "the inside stays visible"


def test_the_outline_uses_the_pixel_threshold(monkeypatch, finished):
    run, data, _ = finished
    detector = with_threshold(run, 0.5)
    lines = []
    monkeypatch.setattr(picture, "draw_outline", lambda picture, maps, line: lines.append(line))
    monkeypatch.setattr(Detector, "pixel_threshold", lambda *_: torch.tensor([0.125]))
    monkeypatch.setattr(Detector, "map_and_score",
                        lambda *_: (torch.zeros(1, 64, 64), torch.tensor([0.75])))
    path = data / "train" / "good" / "000.png"
    picture.predict_picture(detector, path, Image.open(path))
    assert lines == [0.125]


def test_a_run_without_threshold_is_an_error(finished, tiny_weights, tmp_path):
    _, data, _ = finished
    run_class.run_class(fit.parse(["--class", "gear", "--shots", "0", "--data", str(data.parent),
                       "--model", str(tiny_weights), "--out", str(tmp_path)]), lambda line: None)
    command = [sys.executable, "-m", "minilora.predict", str(tmp_path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 2 and "no threshold" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="detector.safetensors not found; give the folder"):
        Detector.open(tmp_path)


def test_skipped_files_are_named(finished, tmp_path, capsys):
    run, data, _ = finished
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "phone.heic").write_bytes(b"not read")
    Image.open(data / "test/good/000.png").save(folder / "a.png")
    predicted(run, [folder], tmp_path / "out")
    printed = capsys.readouterr().err
    assert "skipped" in printed and "phone.heic" in printed and "pictures: 1," in printed


def test_a_mistyped_path_does_not_replace_earlier_predictions(finished, tmp_path):
    run, data, _ = finished
    predicted(run, [data / "test" / "good"], tmp_path)
    before = (tmp_path / "predictions.csv").read_bytes()
    with pytest.raises(FileNotFoundError, match="tset not found; give pictures"):
        predicted(run, [data / "tset"], tmp_path)
    status, lines = predicted(run, [data / "tset", run / "metrics.json"], tmp_path)
    assert status == 2 and "not found" in lines[0]
    assert (tmp_path / "predictions.csv").read_bytes() == before


def test_a_row_names_the_worst_place_in_pixels_and_the_overlay(finished, tmp_path, monkeypatch):
    run, data, _ = finished
    scores = torch.zeros(1, 64, 64)
    scores[0, 16, 48] = 1
    monkeypatch.setattr(Detector, "map_and_score", lambda *_: (scores, torch.tensor([0.75])))
    wide = tmp_path / "wide.png"
    Image.new("RGB", (640, 320)).save(wide)
    predicted(run, [wide], tmp_path / "o")
    (row,) = csv.DictReader((tmp_path / "o" / "predictions.csv").open())
    assert (row["x"], row["y"]) == ("484", "82") and (row["x_fraction"], row["y_fraction"]) == \
        ("0.7578", "0.2578")
    assert (tmp_path / "o" / row["overlay"]).is_file()


def test_another_framing_is_named_in_line_row_and_page(finished, tmp_path):
    run, data, _ = finished
    with Image.open(data / "test" / "good" / "000.png") as picture:
        picture.resize((128, 64)).save(tmp_path / "wide.png")
    _, lines = predicted(run, [tmp_path / "wide.png"], tmp_path / "o")
    (row,) = csv.DictReader((tmp_path / "o" / "predictions.csv").open())
    assert "looks framed differently (aspect 2:1 instead of 1:1" in lines[0]
    assert row["framing"].startswith("aspect 2:1 instead of 1:1")
    assert "looks framed differently: aspect 2:1" in (tmp_path / "o/predictions.html").read_text()


def test_the_last_line_names_page_table_and_overlays(finished, tmp_path, capsys):
    run, data, _ = finished
    predicted(run, [data / "test" / "good"], tmp_path / "o")
    last = capsys.readouterr().err.splitlines()[-1]
    for name in ("predictions.html", "predictions.csv", "*.png"):
        assert str(tmp_path / "o" / name) in last


def test_after_an_error_no_thread_is_left_that_keeps_the_process_alive(finished, tmp_path,
                                                                       monkeypatch):
    run, data, _ = finished
    monkeypatch.setattr(inputs, "READ_AHEAD", 1)                # the reading thread waits
    before = set(threading.enumerate())

    def full_disk(line):
        raise OSError("no space left")
    options = predict.parser().parse_args([str(run), str(data / "test"), "--out", str(tmp_path)])
    with pytest.raises(OSError) as kept:                        # its frames keep the generator
        predict.run_predict(options, full_disk)
    assert kept.value and set(threading.enumerate()) <= before


def test_a_run_that_is_deleted_meanwhile_costs_no_result(finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    options = predict.parser().parse_args([str(copy), str(finished[1] / "test" / "good"), "--out",
                                           str(tmp_path / "o")])
    predict.run_predict(options, lambda line: shutil.rmtree(copy, ignore_errors=True))
    assert not copy.exists() and (tmp_path / "o" / "predictions.html").exists()


@pytest.mark.parametrize("option, value, decision", [("--threshold", "1e5", "OK"),
                                                     ("--threshold", "0", "NG")])
def test_a_given_threshold_decides(finished, tmp_path, option, value, decision):
    run, data, _ = finished
    _, lines = predicted(run, [data / "test" / "good" / "000.png"], tmp_path, option, value)
    assert lines[0].startswith(decision) and f"threshold {float(value):.3f}" in lines[0]
    assert "given, in use" in (tmp_path / "predictions.html").read_text()


@pytest.mark.parametrize("wrong", [("--threshold", "nan"), ("--threshold", "-1"),
                                   ("--false-positive-rate", "5"),
                                   ("--false-positive-rate", "0")])
def test_a_threshold_that_means_nothing_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.parser().parse_args(["runs/mine", "a.png", *wrong])
    assert stop.value.code == 2 and "expected a number from" in capsys.readouterr().err


def test_the_small_model_is_no_base_for_decisions_and_that_is_said_once(finished, tmp_path, capsys,
                                                                         monkeypatch):
    run, data, _ = finished
    path = data / "test" / "good" / "000.png"
    for small, times in ((True, 1), (False, 0)):
        monkeypatch.setattr(predict, "uses_small_model", lambda run: small)
        predicted(run, [path, path], tmp_path)
        page = (tmp_path / "predictions.html").read_text()
        assert capsys.readouterr().err.count("do not base decisions") == times
        assert page.count("do not base decisions") == times
