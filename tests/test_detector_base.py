"""The detector as a Python caller meets it: what it takes, what it returns, what it refuses."""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_detector import SMALL, WEIGHTS, discs, fresh_clip

from minilora import predict
from minilora.clip import CLIPConfig
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.detector_base import Predictions
from minilora.lora import LoRALinear, add_lora, lora_layers, merge
from minilora.memory_bank import MemoryBank

PLAIN = DetectorConfig(steps=0)


def picture(seed=0, width=96, height=64):
    """A disc on a plain ground, PIL RGB."""
    pixels = discs(1, height, width, seed)[0]
    return Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())


def results(detector):
    """Everything that a fit sets and that a score depends on."""
    layers = lora_layers(detector.clip.visual).values()
    found = [*(layer.lora_A for layer in layers), *(layer.lora_B for layer in layers),
             detector.prompts.context, detector.text_features,
             *(bank.tokens for bank in detector.banks.values()), torch.tensor(detector.losses),
             torch.tensor([detector.threshold, detector.memory_scale, detector.text_weight]),
             detector.generator.get_state()]
    return [tensor.detach().clone() for tensor in found]


@pytest.fixture(scope="module")
def fitted():
    return Detector(fresh_clip(), "plate", PLAIN).fit(discs(4))


@pytest.fixture
def folder(tmp_path):
    """A folder of three pictures of two sizes and a file that is none."""
    for k, size in enumerate(((96, 64), (64, 64), (200, 130))):
        picture(k, *size).save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


# ---- what is taken ------------------------------------------------------------------------------

def test_scores_and_decisions_are_those_of_the_command(gear_run, tmp_path, capsys):
    run, data = gear_run
    options = predict.parser().parse_args([str(run), str(data / "test"), "--out",
                                           str(tmp_path / "out"), "--device", "cpu"])
    predict.run_predict(options, lambda line: None)
    told = json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))
    found = Detector.open(run).predict(data / "test")
    assert [row["file"] for row in told] == found.names and len(found) > 4
    assert [row["score"] for row in told] == [round(score, 6) for score in found.scores.tolist()]
    assert [row["decision"] for row in told] == found.decisions


def test_a_picture_gets_the_same_score_however_it_is_given(fitted, folder):
    path = folder / "2.png"
    pixels, array = fitted.prepare(fitted.read(path)), np.array(Image.open(path))
    given = [str(path), path, Image.open(path), array, array / 255, (array - 0.4) / 255,
             np.dstack([array, array[..., :1]]), pixels, pixels[None], [path], (array,)]
    scores = [fitted.predict(one).scores for one in given]
    assert all(torch.equal(scores[0], score) and score.shape == (1,) for score in scores)
    assert torch.equal(fitted.predict(given[:9]).scores, scores[0].expand(9)), "and in one list"
    assert torch.equal(fitted.predict(folder.glob("2.png")).scores, scores[0])


def test_grey_and_16_bit_pictures_are_treated_as_their_files_are(folder):
    detector = Detector(fresh_clip(), "plate", DetectorConfig(steps=0, bits=12)).fit(discs(2))
    grey = np.array(picture().convert("L"))
    deep = np.linspace(0, 4095, grey.size).reshape(grey.shape).astype(np.uint16)
    for name, array in (("grey", grey), ("deep", deep)):
        Image.fromarray(array).save(folder / f"{name}.png")
        expected = detector.predict(folder / f"{name}.png").scores
        for one in (array, array[..., None], Image.open(folder / f"{name}.png")):
            assert torch.equal(detector.predict(one).scores, expected), name


def test_a_pil_picture_is_turned_by_its_exif_tag_as_its_file_is(fitted, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.png", exif=exif)
    opened = fitted.predict(Image.open(tmp_path / "turned.png"))
    assert opened.maps[0].shape == (96, 64)
    assert torch.equal(opened.scores, fitted.predict(tmp_path / "turned.png").scores)


def test_names_are_paths_or_numbers(fitted, folder):
    found = fitted.predict([discs(2), folder, picture(), Image.open(folder / "0.png")])
    paths = [str(folder / f"{k}.png") for k in range(3)]
    assert found.names == ["picture 1", "picture 2", *paths, "picture 6", paths[0]]
    assert [tuple(m.shape) for m in found.maps] == 2 * [(64, 64)] + [
        (64, 96), (64, 64), (64, 96), (64, 96), (64, 96)]


def test_fitting_a_folder_is_fitting_its_prepared_pictures(folder):
    one, two = (Detector(fresh_clip(), "plate", SMALL) for _ in range(2))
    one.fit(folder)
    two.fit([two.prepare(two.read(path)) for path in sorted(folder.glob("*.png"))])
    assert all(map(torch.equal, results(one), results(two)))


def test_what_was_noted_about_files_is_a_warning(fitted, tmp_path):
    values = np.full((64, 64), 4095, np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    with pytest.warns(UserWarning, match="deep.png: 16-bit values use only 12 bits"):
        fitted.predict(tmp_path)


# ---- what is refused ----------------------------------------------------------------------------

REFUSED = {
    "no picture was given": [],
    "picture 1: expected paths, folders.*found int": 7,
    "picture 2: expected paths, folders.*found NoneType": [np.zeros((8, 8), np.uint8), None],
    "picture 1: expected paths, folders.*found dict": {"a": 1},
    "nowhere.png not found; give a picture file": "nowhere.png",
    "expected values in .0, 1., found 0 to 255; divide": torch.arange(256.).expand(3, 64, 256),
    "expected values in .0, 1., found -2": torch.full((3, 64, 64), -2.),
    "expected values in .0, 1., found nan": torch.full((3, 64, 64), float("nan")),
    "expected values in .0, 1., found 0 to inf": np.array([[0, np.inf]]),
    "expected floating point.*of uint8; divide by 255": torch.zeros(3, 64, 64).byte(),
    "shorter side of 64.*multiple of 16, found .1, 3, 64, 100.*detector.prepare":
        torch.zeros(3, 64, 100),
    "shorter side of 64.*found .1, 3, 128, 128": torch.zeros(3, 128, 128),
    "expected a tensor .3, H, W.*found .1, 64, 64, 3": torch.zeros(64, 64, 3),
    "expected a tensor .3, H, W.*found .1, 1, 64, 64": torch.zeros(1, 64, 64),
    "expected an array .H, W.*found shape .3, 64, 64.*transpose": np.zeros((3, 64, 64)),
    "expected an array .H, W.*found shape .2, 8, 8, 3.*list": np.zeros((2, 8, 8, 3), np.uint8),
    "expected uint8.*of int64; values": np.zeros((8, 8, 3), int),
    "of uint16; .*16-bit colour": np.zeros((8, 8, 3), np.uint16),
    "at least one pixel": np.zeros((0, 8, 3)),
    "is 0x8; expected at least one pixel": Image.new("RGB", (0, 8)),
    "holds floating-point values of unknown range": Image.new("F", (8, 8)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line_before_any_work(fitted, message, monkeypatch):
    """Behind a good picture, too, and by fit as by predict; the detector stays as it was."""
    wrong, before = REFUSED[message], results(fitted)
    monkeypatch.setattr(Detector, "encode", lambda *_: pytest.fail("the work was started"))
    several = isinstance(wrong, list)
    for given in [wrong, *([] if several else [[wrong, discs(1)]])]:
        for use in (fitted.predict, fitted.fit):
            with pytest.raises((ValueError, TypeError, OSError), match=message) as refused:
                use(given)
            assert "\n" not in str(refused.value)
    assert all(map(torch.equal, results(fitted), before))


def test_a_file_that_is_no_picture_is_refused_before_any_work(fitted, folder, monkeypatch):
    (folder / "9.png").write_text("<html>")
    monkeypatch.setattr(Detector, "encode", lambda *_: pytest.fail("the work was started"))
    with pytest.raises(ValueError, match="9.png: not a picture"):
        fitted.predict(folder)


@pytest.mark.parametrize("pixels, message", [
    (255 * discs(1), "pixels: expected values in .* divide values of 0 to 255 by 255"),
    (discs(1, 96, 96), "pixels: expected pixels of a shorter side of 64"),
    (discs(1)[0], "pixels: expected a tensor .*pixels.None.")])
def test_score_takes_prepared_pixels_only(fitted, pixels, message):
    with pytest.raises(ValueError, match=message):
        fitted.score(pixels)


def test_squares_are_wanted_where_pictures_are_squeezed():
    detector = Detector(fresh_clip(), "plate", DetectorConfig(steps=0, square=True))
    with pytest.raises(ValueError, match="expected pixels of 64 x 64, found .2, 3, 64, 96"):
        detector.fit(discs(2, 64, 96))
    assert detector.fit(picture()).predict(picture()).maps[0].shape == (64, 64)


def test_predicting_before_fit_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"fitted detector.*call fit\(good_pictures\)"):
        Detector(tiny_clip, "plate", PLAIN).predict(discs(1))


# ---- a second fit, a second detector ------------------------------------------------------------

def test_a_second_fit_is_the_fit_of_a_new_detector(tmp_path):
    first, second = discs(3), discs(4, 64, 96, seed=5)
    again, new = (Detector(fresh_clip(), "plate", SMALL) for _ in range(2))
    kept = results(again.fit(first))
    assert all(map(torch.equal, results(again.fit(second)), results(new.fit(second))))
    assert not any(map(torch.equal, kept[:9], results(again)[:9])), "they learned something else"
    again.save(tmp_path, WEIGHTS)
    loaded = Detector.load(tmp_path, fresh_clip(), WEIGHTS).fit(first)
    assert all(map(torch.equal, results(loaded), kept)), "also of a detector from its files"


def test_a_fit_that_fails_leaves_no_half_fitted_detector(tiny_clip, monkeypatch):
    detector = Detector(tiny_clip, "plate", SMALL).fit(discs(2))
    monkeypatch.setattr("minilora.detector.adapt", lambda *_: (_ for _ in ()).throw(
        ValueError("loss is nan")))
    with pytest.raises(ValueError, match="loss is nan"):
        detector.fit(discs(2))
    with pytest.raises(ValueError, match="expected a fitted detector"):
        detector.predict(discs(1))


def test_a_second_detector_on_one_clip_is_refused_and_the_first_stays_as_it_is():
    clip = fresh_clip()
    detector = Detector(clip, "plate", DetectorConfig(steps=0, targets=("q",))).fit(discs(2))
    before = detector.score(discs(1))
    for config in (PLAIN, DetectorConfig(steps=0, targets=("v",))):     # no LoRA layer in common
        with pytest.raises(ValueError, match=r"has LoRA already.*load_clip\(\) for each detector"):
            Detector(clip, "bolt", config)
    assert all(map(torch.equal, detector.score(discs(1)), before))
    assert "not fitted" in repr(Detector(merge(clip), "bolt", PLAIN)), "a merged copy has no LoRA"


# ---- what is shown ------------------------------------------------------------------------------

def test_a_detector_shows_what_it_is(tiny_clip):
    detector = Detector(tiny_clip, "metal_nut", SMALL)
    count = sum(p.numel() for p in tiny_clip.parameters()) / 1e6
    text = f"Detector('metal nut', {count:.1f} M parameters, resolution 64, 4 LoRA layers of rank 2"
    assert repr(detector) == f"{text}, not fitted)"
    detector.fit(discs(2))
    assert repr(detector) == f"{text}, threshold {detector.threshold:.3f})"


def test_the_parts_show_what_they_are(tiny_clip):
    layer = LoRALinear(96, 64, rank=4, alpha=8)
    assert repr(layer) == ("LoRALinear(in_features=96, out_features=64, bias=True, r=4, alpha=8, "
                           "LoRA on)")
    layer.enabled = False
    assert repr(layer).endswith("LoRA off)")
    add_lora(tiny_clip.visual, blocks=(2,))
    assert str(tiny_clip).count("r=4, alpha=8, LoRA on") == 4
    sources = torch.tensor([[0, 1], [2, 5], [2, 6]])
    tokens = torch.eye(3, 8)
    assert repr(MemoryBank(tokens, sources)) == "MemoryBank(3 patches of 2 pictures, width 8)"
    assert repr(MemoryBank(tokens)) == "MemoryBank(3 patches, width 8)"
    assert eval(repr(tiny_clip.config)) == tiny_clip.config and isinstance(
        tiny_clip.config, CLIPConfig)


def test_predictions_print_as_a_table_and_have_rows():
    maps = [torch.zeros(2, 2)] * 2
    found = Predictions(["a.png", "b\n.png"], torch.tensor([1.0, 2.5]), maps, 2.5)
    assert found.decisions == ["OK", "OK"], "NG is above the threshold"
    found = Predictions(found.names, found.scores, found.maps, 1.5)
    head, first, second = repr(found).splitlines()
    assert head == "decision   score  picture (1 of 2 NG, threshold 1.500)"
    assert first == "OK         1.000  a.png" and second.startswith("NG         2.500  b")
    assert [row.decision for row in found] == found.decisions == ["OK", "NG"]
    assert len(found) == 2 and found[-1].score == 2.5 and found[0].name == "a.png"
    many = Predictions(100 * ["x"], torch.zeros(100), 100 * [torch.zeros(1)], 1.0)
    assert repr(many).endswith("... and 60 more") and len(repr(many).splitlines()) == 42
