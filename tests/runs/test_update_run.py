"""`fit --update`: good pictures are added to a finished run without training."""
import json
import shutil

import pytest
import torch
from PIL import Image

from minilora import fit
from minilora.checkpoint.base_model import BaseModel, open_base
from minilora.checkpoint.detector_files import read_detector
from minilora.data.images import from_png
from minilora.detector import Detector
from minilora.io.record import read_record
from minilora.runs import update_run


@pytest.fixture
def run(gear_run, tmp_path):
    """A copy of a finished run, and the folder of its class."""
    out, data = gear_run
    return shutil.copytree(out, tmp_path / "gear"), data


def update(run, *pictures, **more):
    lines = []
    words = ["--update", str(run), *map(str, pictures),
             *(w for key, value in more.items() for w in (f"--{key}", str(value)))]
    status = update_run.update_run(fit.parse(words), lines.append)
    return status, "\n".join(lines)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*")
            if p.is_file() and p.suffix != ".lock" and p.name != ".minilora.json"}


def test_a_good_picture_that_was_ng_becomes_ok_and_nothing_is_trained(run, tmp_path):
    folder, data = run
    before, picture = Detector.open(folder), tmp_path / "with a label.png"
    with Image.open(data / "test" / "good" / "000.png") as image:
        image.paste((255, 255, 255), (8, 8, 40, 40))
        image.save(picture)
    pixels = before.prepare(before.read(picture))[None]
    status, text = update(folder, picture)
    after = Detector.open(folder)
    assert status == 0 and f"{before.threshold:.3f} before" in text
    assert f"{after.threshold:.3f} after, from 5 good pictures" in text and "whole run" in text
    assert before.score(pixels)[1] > before.threshold and "NG before" in text
    assert after.score(pixels)[1] <= after.threshold and "OK after" in text
    assert len(after.shot_pictures) == 5 and after.shot_pictures[:4] == before.shot_pictures
    assert torch.equal(after.prompts.context, before.prompts.context)
    for name, norm in before.delta_norms().items():
        assert after.delta_norms()[name] == norm


def test_a_new_picture_unlike_the_others_is_warned_about(run, tmp_path, monkeypatch):
    folder, data = run
    _, text = update(folder, data / "test" / "good" / "000.png", out=tmp_path / "similar")
    assert "warning" not in text
    monkeypatch.setattr(update_run, "MUCH_HIGHER", 1.1)         # the tiny model knows little
    picture = tmp_path / "other product.png"
    Image.effect_noise((96, 96), 120).convert("RGB").save(picture)
    _, text = update(folder, picture, out=tmp_path / "new")
    assert "warning  other product.png: differs from the others" in text
    assert "times as high, so defects may be OK" in text
    assert "other product.png: differs" in (tmp_path / "new" / "report.html").read_text("utf-8")


def test_the_threshold_is_that_of_a_calibration_with_all_pictures(run, tiny_weights):
    """The claim of `build_memory`: the same memory, whoever asks for it."""
    folder, data = run
    picture = data / "test" / "good" / "001.png"
    earlier = Detector.open(folder)
    pictures = [from_png(d) for d in earlier.shot_pictures] + [earlier.prepare(
        earlier.read(picture))]
    earlier.build_memory(pictures)
    update(folder, picture)
    assert Detector.open(folder).threshold == pytest.approx(earlier.threshold, abs=1e-6)


def test_metrics_say_what_was_added_and_hold_no_result_of_the_earlier_memory(run):
    folder, data = run
    _, text = update(folder, data / "test" / "good" / "000.png")
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert metrics["shots"] == 5 and len(metrics["shot_scores"]) == 5
    assert metrics["added"][0]["file"].endswith("gear/test/good/000.png")
    assert len(metrics["added"][0]["sha256"]) == 64 and "--update" in metrics["updated"]["command"]
    assert not {"rows", "kinds", "decisions"} & metrics.keys() and "leave the run" in text
    assert not (folder / "scores.csv").exists() and (folder / "report.html").exists()
    assert set(read_record(folder)["fit"]) == {"/".join(p.relative_to(folder).parts)
                                               for p in folder.rglob("*") if p.is_file()
                                               and not p.name.startswith(".")}


def test_a_picture_that_is_in_the_run_is_left_out_also_under_another_name(run, tmp_path):
    folder, data = run
    before, shots = contents(folder), data / "train" / "good"
    with Image.open(shots / "000.png") as image:
        image.save(tmp_path / "again.tif")
    new = [p for p in sorted(shots.glob("*.png"))] + [tmp_path / "again.tif"]
    drawn = json.loads((folder / "metrics.json").read_text("utf-8"))["drawn"]
    known = [p for p in new if f"gear/train/good/{p.name}" in drawn]
    status, text = update(folder, *known)
    assert status == 0 and text.count("left out") == 4 and "nothing to add" in text
    assert contents(folder) == before
    _, text = update(folder, *new)                      # one new file, perhaps also as a copy
    assert "1 more" in text and text.count("left out") == 5


def test_out_leaves_the_run_as_it_is(run, tmp_path):
    folder, data = run
    before = contents(folder)
    update(folder, data / "test" / "good", out=tmp_path / "more")
    assert contents(folder) == before and len(Detector.open(tmp_path / "more").shot_pictures) == 7


@pytest.mark.parametrize("words, message", [
    (["--update", "RUN"], "expected good pictures.*found none"),
    (["--update", "RUN", "a.png", "--shots", "4"], "--shots was given; leave it out"),
    (["--update", "RUN", "a.png", "--good", "x"], "--good was given")])
def test_options_that_update_does_not_take_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        fit.parse(words)


def test_what_cannot_be_updated_is_refused_and_nothing_changes(run, tmp_path):
    folder, data = run
    picture = data / "test" / "good" / "000.png"
    with pytest.raises(FileNotFoundError, match="detector.safetensors not found"):
        update(tmp_path / "nowhere", picture)
    assert not (tmp_path / "nowhere").exists()
    before = contents(folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises((ValueError, OSError), match="broken.png"):
        update(folder, picture, broken)
    assert contents(folder) == before
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    wrong = metrics | {"drawn": metrics["drawn"][:-1]}
    (folder / "metrics.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="names 3 good pictures, expected 4|was changed since"):
        update(folder, picture)
    del metrics["model"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match="expected the key model.*fit again|was changed since"):
        update(folder, picture)


def test_a_run_without_its_good_pictures_is_refused(run, tmp_path):
    folder, data = run
    detector = Detector.open(folder)
    detector.shot_pictures = []
    _, weights = open_base(folder, BaseModel(**read_detector(folder)["base"]))
    detector.save(tmp_path / "bare", weights)
    shutil.copy(folder / "metrics.json", tmp_path / "bare")
    with pytest.raises(ValueError, match="keeps no good pictures.*fit again"):
        update(tmp_path / "bare", data / "test" / "good", out=tmp_path / "new")


def test_the_kept_pictures_give_the_threshold_of_the_fit_again(gear_run):
    """They are kept without loss: JPEG files would move the threshold by several per cent."""
    out, data = gear_run
    detector = Detector.open(out)
    shots = json.loads((out / "metrics.json").read_text("utf-8"))["drawn"]
    for name, kept in zip(shots, detector.shot_pictures):
        assert torch.equal(from_png(kept), detector.prepare(detector.read(data.parent / name)))
    threshold = detector.threshold
    detector.build_memory([from_png(kept) for kept in detector.shot_pictures])
    assert detector.threshold == pytest.approx(threshold, rel=1e-5)
