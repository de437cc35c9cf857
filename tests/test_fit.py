"""`minilora.fit` from the command line, with a tiny model and drawn pictures."""

import csv
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO
from PIL import Image

from minilora import fit
from minilora.data.images import read_image
from minilora.data.mvtec import load_class
from minilora.detector import Detector
from minilora.prediction.picture import predict_picture
from minilora.report import panels, results
from minilora.rows import ROWS
from minilora.runs import evaluation, run_class
from minilora.scenes import scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    scene.write_class(root, "gear", good=5, test_good=3, defective=2, resolution=64)
    return root


@pytest.fixture(scope="module")
def done(folder, tiny_weights, tmp_path_factory):
    """A finished run: (options, metrics, printed lines)."""
    lines = []
    options = fit.parse(["--class", "gear", "--shots", "4", "--data", str(folder),
                         "--model", str(tiny_weights), "--steps", "4",
                         "--out", str(tmp_path_factory.mktemp("runs") / "one")])
    return options, run_class.run_class(options, lines.append), "\n".join(lines)


def test_a_run_leaves_adapter_memory_metrics_scores_and_maps(done):
    options, _, _ = done
    assert {p.name for p in options.out.iterdir() if not p.name.startswith(".")} == {
        "adapter_model.safetensors", "adapter_config.json", "detector.safetensors",
        "memory.safetensors", "metrics.json", "scores.csv", "maps", "report.html"}
    assert len(list((options.out / "maps").glob("*.jpg"))) == 3 + 4 * 2


def test_metrics_hold_what_the_format_promises(done):
    options, metrics, _ = done
    assert json.loads((options.out / "metrics.json").read_text()) == metrics
    assert {"class", "shots", "seed", "model", "data", "device", "seconds", "peak_memory_bytes",
            "threshold", "trainable_parameters", "total_parameters", "rows"} <= metrics.keys()
    assert list(metrics["rows"]) == list(ROWS)
    for row in metrics["rows"].values():
        assert row.keys() == {name + suffix for suffix in ("", "_odd") for name in (
            "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")}
        assert all(0 <= value <= 1 for value in row.values())
    assert set(metrics["kinds"]) == set(scene.product("gear")[1])
    assert len(metrics["model"]["sha256"]) == 64
    assert all(n > 0 for n in metrics["delta_norms"].values())


def test_scores_and_decisions_follow_the_threshold(done, folder):
    options, metrics, _ = done
    rows = list(csv.DictReader((options.out / "scores.csv").open()))
    assert [r["file"] for r in rows] == [str(s.path) for s in load_class(folder, "gear").test]
    for row in rows:
        assert row["decision"] == ("NG" if float(row["score"]) > metrics["threshold"] else "OK")
    called = [(row["label"], row["decision"]) for row in rows]
    assert metrics["decisions"] == {"good": 3, "false_alarms": called.count(("0", "NG")),
                                    "defective": 8, "found": called.count(("1", "NG")),
                                    "unlabelled": 0, "called": 0}


def test_the_first_lines_say_weights_data_device_and_parameters(done):
    text = done[2].splitlines()
    assert [line.split()[0] for line in text[:5]] == ["weights", "read", "data", "device",
                                                      "training"]
    assert "tiny.safetensors" in text[0] and "activation quick_gelu (written by" in text[1]
    assert "gear" in text[2] and "cpu" in text[3] and "%" in text[4]
    assert all(any(line.startswith(row) for line in text) for row in ROWS)


def test_the_same_command_gives_the_same_numbers(done, tmp_path):
    options, metrics, _ = done
    command = ["--class", "gear", "--shots", "4", "--data", str(options.data),
               "--model", str(options.model), "--steps", "4", "--out", str(tmp_path)]
    again = run_class.run_class(fit.parse(command), lambda line: None)
    assert again["rows"] == metrics["rows"] and again["threshold"] == metrics["threshold"]


def run_with(folder, tiny_weights, out, *extra):
    command = ["--class", "gear", "--data", str(folder), "--model", str(tiny_weights),
               "--out", str(out), *extra]
    return run_class.run_class(fit.parse(command), lambda line: None)


def test_zero_shots_means_zero_shot(folder, tiny_weights, tmp_path):
    metrics = run_with(folder, tiny_weights, tmp_path, "--shots", "0")
    assert list(metrics["rows"]) == ["zero-shot"] and metrics["threshold"] is None
    decisions = {row["decision"] for row in csv.DictReader((tmp_path / "scores.csv").open())}
    assert decisions == {""} and metrics["decisions"] is None, "no decision without a threshold"


def test_zero_steps_means_no_adaptation(folder, tiny_weights, tmp_path):
    metrics = run_with(folder, tiny_weights, tmp_path, "--shots", "2", "--steps", "0")
    assert set(metrics["delta_norms"].values()) == {0.0} and metrics["losses"] == []
    assert metrics["rows"]["adapted"] == pytest.approx(metrics["rows"]["lora-off"])


def test_all_shots_are_every_good_picture(folder, tiny_weights, tmp_path):
    metrics = run_with(folder, tiny_weights, tmp_path, "--shots", "all", "--steps", "1")
    assert metrics["shots"] == "all"
    assert len(metrics["drawn"]) == len(set(metrics["drawn"])) > 0
    assert all((Path(metrics["data"]["root"]) / name).is_file() for name in metrics["drawn"])


def test_without_data_the_embedded_scenes_are_drawn_and_named(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.delenv("MINILORA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    few = functools.partial(scene.write_class, good=2, test_good=2, defective=1, resolution=64)
    monkeypatch.setattr(scene, "write_class", few)
    lines = []
    command = ["--class", "nut", "--shots", "2", "--steps", "1", "--model", str(tiny_weights)]
    metrics = run_class.run_class(fit.parse(command), lines.append)
    assert metrics["data"]["name"].startswith("embedded scenes") and "embedded scenes" in lines[2]
    assert (tmp_path / "runs/nut-2shot-seed1/metrics.json").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--class", "spoon"], "spoon.*gear"),
        (["--class", "gear", "--shots", "99"], "99 shots.*only 5"),
        (["--class", "gear", "--shots", "few"], "few.*number.*'all'"),
        (["--class", "gear", "--resolution", "72"], "--resolution 72.*multiple of 16.*64 or 80"),
        (["--class", "gear", "--resolution", "8"], "multiple of 16.*give 16"),
        (["--class", "gear", "--device", "cuda:9"], "--device.*cuda:9.*has cpu"),
        (["--class", "gear", "--model", "ViT-Q/3"], "ViT-Q/3"),
    ],
)
def test_mistakes_get_one_line_that_names_them(arguments, words, folder, tiny_weights, tmp_path):
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU, so the device exists")
    model = [] if "--model" in arguments else ["--model", str(tiny_weights)]
    command = [sys.executable, "-m", "minilora.fit", "--data", str(folder), *model, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert re.search(words, result.stderr, re.DOTALL), result.stderr
    assert result.stdout == "" and list(tmp_path.iterdir()) == [], "no banner and no folder"


def test_auroc_is_missing_where_there_is_one_class_only():
    maps, labels = torch.rand(2, 4, 4), torch.tensor([0, 0])
    row = results.row_metrics(torch.rand(2), maps, labels, torch.zeros(2, 4, 4, dtype=torch.bool))
    assert set(row.values()) == {None}
    assert "--" in results.text_table({"memory": row}, {"memory": ""})


def test_odd_numbered_pictures_count_from_zero():
    scores, labels = torch.tensor([0.0, 9.0, 1.0, 2.0]), torch.tensor([1, 0, 0, 1])
    row = results.row_metrics(scores, scores[:, None, None], labels, None)
    assert row["image_auroc_odd"] == 0.0 and row["image_auroc"] == 0.25
    assert row["pixel_auroc"] is None


def test_metrics_of_maps_of_differing_sizes_are_of_all_their_pixels():
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 6), (6, 4), (8, 8), (4, 6)]
    masks = [torch.rand(size, generator=generator) < 0.3 for size in sizes]
    maps = [torch.rand(size, generator=generator) + 0.5 * mask for size, mask in zip(sizes, masks)]
    labels, scores = torch.tensor([1, 0, 1, 0]), torch.rand(4, generator=generator)
    row = results.row_metrics(scores, maps, labels, masks)
    for suffix, part in (("", slice(None)), ("_odd", slice(1, None, 2))):
        found, truth = (torch.cat([m.flatten() for m in c[part]]) for c in (maps, masks))
        assert row["pixel_auroc" + suffix] == results.auroc(found, truth)
        assert row["pixel_ap" + suffix] == results.average_precision(found, truth)
        assert row["aupro" + suffix] == results.aupro(maps[part], masks[part])


def test_pictures_of_many_shapes_are_scored_in_their_order(tiny_clip):
    """Pictures of one shape are scored together; each gets its own map."""
    detector = Detector(tiny_clip, "plate")
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 96), (64, 64), (64, 96), (96, 64), (64, 64)]
    pictures = [torch.rand(3, *shape, generator=generator) for shape in shapes]
    maps, scores = evaluation.score_pictures(detector, [pictures[:3], pictures[3:]])["zero-shot"]
    assert [tuple(m.shape) for m in maps] == shapes and scores.shape == (5,)
    for picture, found, score in zip(pictures, maps, scores):
        alone, its_score = detector.score(picture[None])
        assert torch.allclose(found, alone[0], atol=1e-5)
        assert score.item() == pytest.approx(its_score.item(), abs=1e-5)


def test_wide_and_tall_pictures_keep_their_aspect_from_file_to_map(tiny_weights, tmp_path):
    root = scene.write_class(tmp_path, "gear", good=4, test_good=2, defective=1, resolution=64)
    for path in root.rglob("*.png"):                # a mask has the sides of its picture
        sides = (150, 100) if int(path.stem[:3]) % 2 else (100, 150)
        with Image.open(path) as image:
            image.resize(sides, Image.Resampling.NEAREST).save(path)
    options = fit.parse(["--class", "gear", "--shots", "3", "--data", str(tmp_path), "--steps", "2",
                         "--model", str(tiny_weights), "--out", str(tmp_path / "run")])
    metrics = run_class.run_class(options, lambda line: None)
    assert 0 <= metrics["rows"]["adapted"]["pixel_auroc"] <= 1
    sizes = {Image.open(path).size for path in (options.out / "maps").glob("*.jpg")}
    scale, bars = panels.SCALE_WIDTH, panels.TITLE_HEIGHT + panels.NAMES_HEIGHT
    assert sizes == {(parts * (width + 4) + scale, height + bars) for parts, width, height in (
        (3, 96, 64), (3, 64, 96), (4, 64, 96))}, "good pictures have no mask"
    detector = Detector.open(options.out)
    for path in sorted((root / "test").rglob("*.png"))[:3]:
        scored = predict_picture(detector, path, read_image(path))
        assert scored.overlay.size == Image.open(path).size
        assert scored.prediction["decision"] in ("OK", "NG")


def test_a_panel_shows_the_mask_white_and_the_defect_hot():
    pixels, scores = torch.zeros(3, 8, 8), torch.zeros(8, 8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2, 3], scores[2, 3] = True, 1.0
    image = panels.panel(pixels, mask, scores, 0.0, 1.0, "", panels.RIGHT_COLOUR)
    top = panels.TITLE_HEIGHT + panels.NAMES_HEIGHT
    where = lambda part: image.getpixel((part * 12 + 2 + 3, top + 2))
    assert image.size == (4 * 12 + panels.SCALE_WIDTH, top + 8)
    assert where(0) == (0, 0, 0) and where(1) == (255, 255, 255)
    assert min(where(2)) > 200 and sum(where(3)) > 400
