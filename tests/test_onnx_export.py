"""The ONNX file computes what torch computes, and is used without torch."""
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from conftest import REPO, shared_path
from PIL import Image

from minilora import export, onnx_export
from minilora.checkpoint.base_model import BaseModel
from minilora.checkpoint.weights import clip_from_state_dict
from minilora.config import DetectorConfig
from minilora.data.images import to_png
from minilora.detector import Detector
from minilora.lora import add_lora, lora_layers
from minilora.onnx_export import PixelsToDecision, picture_size, to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
BASE = BaseModel("toy", "0" * 64)
CONFIG = DetectorConfig(steps=0, rank=2, rotations=False)
EXAMPLE = textwrap.dedent(onnx_export.__doc__[onnx_export.__doc__.index("    import sys"):
                                              onnx_export.__doc__.index("    ONNX:")])


def noise(count, height, width, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def fitted(clip, size, count=3, config=CONFIG):
    """A detector of `count` grey pictures (H, W) whose LoRA changes the features."""
    detector = Detector(clip, "plate", config)
    for k, layer in enumerate(lora_layers(clip.visual).values()):
        torch.nn.init.normal_(layer.lora_B, std=0.05, generator=torch.Generator().manual_seed(k))
    return detector.fit(list(0.5 + 0.1 * noise(count, *size)))


def assert_same(content, detector, pixels):
    session = onnxruntime.InferenceSession(content)
    maps, scores, is_ng = session.run(["map", "score", "is_ng"], {"pixels": pixels.numpy()})
    expected_maps, expected = detector.score(pixels)
    np.testing.assert_allclose(maps, expected_maps.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert is_ng.tolist() == (expected > detector.threshold).tolist()


def exported(run, out, *more):
    lines = []
    options = export.parser().parse_args([str(run), "--format", "onnx", "--out", str(out), *more])
    assert export.run_export(options, lines.append) == 0
    return lines


def run_without_torch(model, paths):
    """{path: (decision, score)} printed by the example, in a process that cannot import torch."""
    program = "import sys\nsys.modules['torch'] = None\n" + EXAMPLE.replace("model.onnx", str(model))
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True,
                          text=True, check=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {path: (decision, float(score)) for decision, score, path in lines}


@pytest.fixture(scope="module")
def gear_file(gear_run, tmp_path_factory):
    """(ONNX file of a run, the run folder, its data)."""
    path = tmp_path_factory.mktemp("onnx") / "gear.onnx"
    lines = exported(gear_run[0], path)
    assert len(lines) == 2 and "pictures of 64x64" in lines[0]
    assert "any number of pictures per call; differs from torch by at most" in lines[1]
    return path, *gear_run


def assert_example_agrees(model, run, paths):
    detector = Detector.open(run)
    found = run_without_torch(model, paths)
    for path in paths:
        score = detector.score(detector.prepare(detector.read(path))[None])[1].item()
        decision, theirs = found[str(path)]
        assert theirs == pytest.approx(score, abs=1e-3)
        assert decision == ("NG" if score > detector.threshold else "OK")


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_computes_what_torch_computes_for_any_number_of_pictures(gear_file, batch):
    pixels = noise(batch, 64, 64)
    pixels[0] = 0.5
    assert_same(gear_file[0].read_bytes(), Detector.open(gear_file[1]), pixels)


def test_the_example_prepares_pictures_as_predict_does_and_needs_no_torch(gear_file, tmp_path):
    """Larger pictures than the detector's, one of them lying on its side as phones store them."""
    paths = []
    for number, path in enumerate(sorted(gear_file[2].glob("test/*/*.png"))):
        picture, exif = Image.open(path).resize((151, 148)), Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        paths.append(tmp_path / f"{number}.jpg")
        picture.save(paths[-1], exif=exif)
    assert len(paths) >= 4
    assert_example_agrees(gear_file[0], gear_file[1], paths)


def test_the_file_names_its_size_class_threshold_and_base(gear_file):
    path, run, _ = gear_file
    said = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    detector = Detector.open(run)
    assert said["size"] == "64x64" and said["class"] == "gear" and len(said["base_sha256"]) == 64
    assert float(said["threshold"]) == pytest.approx(detector.threshold, rel=1e-5)
    assert "bicubic" in said["prepare"]


def test_a_detector_that_computes_something_else_is_noticed(gear_file):
    detector = Detector.open(gear_file[1])
    detector.memory_scale *= 1.001
    with pytest.raises(ValueError, match="differs from torch by .*; nothing was written"):
        onnx_export.largest_difference(gear_file[0].read_bytes(), detector, noise(1, 64, 64))


@pytest.mark.slow
def test_a_fixed_batch_of_pictures_that_are_no_squares(tiny_clip):
    detector = fitted(tiny_clip, (64, 96))
    assert picture_size(detector) == (96, 64), "that of the good pictures"
    content, difference = to_onnx(detector, BASE, (96, 64), batch=3)
    assert difference <= 1e-4
    assert_same(content, detector, noise(3, 64, 96))
    session = onnxruntime.InferenceSession(content)
    assert session.get_inputs()[0].shape == [3, 3, 64, 96]


def test_lora_is_merged_but_not_below_the_memory(tiny_clip):
    """An adapter of PEFT may have LoRA in block 0; the memory bank holds features without it."""
    detector = fitted(tiny_clip, (64, 64))
    add_lora(tiny_clip.visual, ("q", "v"), (0,), 2, 2, torch.Generator().manual_seed(1))
    before = detector.score(noise(2, 64, 64))[1]
    torch.nn.init.normal_(tiny_clip.visual.blocks[0].attn.v.lora_B, std=0.5)
    maps, scores = detector.score(noise(2, 64, 64))
    assert not torch.allclose(scores, before)
    with torch.no_grad():
        module = PixelsToDecision(detector, (64, 64))
        theirs = module(noise(2, 64, 64))
    assert torch.allclose(theirs[0], maps, atol=1e-5) and torch.allclose(theirs[1], scores)
    assert list(lora_layers(module.visual)) == ["blocks.0.attn.q", "blocks.0.attn.v"]
    assert len(lora_layers(tiny_clip.visual)) > 2, "the detector itself keeps its LoRA"


def test_a_score_that_is_no_number_is_ng(tiny_clip):
    module = PixelsToDecision(fitted(tiny_clip, (64, 64)), (64, 64))
    with torch.no_grad():
        _, score, is_ng = module(noise(1, 64, 64) * torch.nan)
    assert score.isnan().all() and is_ng.all()


def test_a_good_picture_size_is_chosen_or_refused(tiny_clip):
    detector = fitted(tiny_clip, (64, 64))
    assert picture_size(detector, (96, 64)) == (96, 64)
    for size, words in (((100, 64), "--size 100x64: expected 96x64"),
                        ((128, 128), "expected 64x64, since the detector was fitted at 64 pixels"),
                        ((64, 640), "longer than 4 times its shorter side is cut into strips")):
        with pytest.raises(ValueError, match=words):
            picture_size(detector, size)
    detector.shot_pictures.append(to_png(noise(1, 64, 96)[0]))
    with pytest.raises(ValueError, match=r"several sizes \(64x64, 96x64\).*--size"):
        picture_size(detector)


@pytest.mark.parametrize("arguments, words", [
    ("--format onnx --out a.txt", "--out a.txt: expected the name of a file that ends in .onnx"),
    ("picture.png --format onnx", "--format onnx with 1 pictures .* onnx takes none"),
    ("--format coco", "--format coco with 0 pictures .* the other formats need some"),
    ("--format onnx --out notes.onnx", "notes.onnx was not written by minilora")])
def test_what_does_not_fit_is_refused_before_any_work(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.onnx").write_text("mine")
    options = export.parser().parse_args(["no-such-run", *arguments.split()])
    with pytest.raises(ValueError, match=words):
        export.run_export(options, print)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.onnx"]


@pytest.mark.parametrize("text", ["3", "0x64", "64x", "-1x5", "64x64x3", "axb", "999999x64"])
def test_a_size_that_is_none_is_one_line(text, capsys):
    with pytest.raises(SystemExit):
        export.parser().parse_args(["run", f"--size={text}"])
    said = capsys.readouterr().err
    assert "expected WIDTHxHEIGHT in pixels, such as 320x240" in said and said.count("\n") == 1


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_is_named(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'package {package}.*pip install "\.\[onnx\]"'):
        exported(tmp_path, tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_embedded_model_on_real_pictures(tmp_path):
    from minilora.fit import parse
    from minilora.runs.run_class import run_class
    bottle = shared_path("mvtec/bottle")
    run_class(parse(["--good", str(bottle / "train/good"), "--shots", "3", "--steps", "2",
                     "--class-name", "bottle", "--model", str(REPO / "weights/mini-clip.pt"),
                     "--out", str(tmp_path / "run")]), lambda line: None)
    exported(tmp_path / "run", tmp_path / "bottle.onnx")
    paths = [p for folder in sorted((bottle / "test").iterdir())
             for p in sorted(folder.iterdir())[:2]]
    assert len(paths) >= 6
    assert_example_agrees(tmp_path / "bottle.onnx", tmp_path / "run", paths)
    detector = Detector.open(tmp_path / "run")
    pixels = torch.stack([detector.prepare(detector.read(path)) for path in paths[:3]])
    for batch in (1, 3):
        assert_same((tmp_path / "bottle.onnx").read_bytes(), detector, pixels[:batch])


@pytest.mark.slow
def test_vit_b_16_as_squares_and_as_longer_pictures(seeded):
    """Full width and depth, weights from a seed."""
    clip = clip_from_state_dict(seeded.seeded_state_dict(seeded.ViT_B_16))
    detector = fitted(clip, (224, 224), count=2)
    for size in ((224, 224), (304, 224)):
        content, difference = to_onnx(detector, BASE, size)
        assert difference <= 1e-4 and 3.4e8 < len(content) < 3.6e8
        for batch in (1, 3):
            assert_same(content, detector, noise(batch, size[1], size[0], seed=batch))
