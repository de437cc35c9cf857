"""report.html of a fit without test pictures."""
import re
import shlex

import pytest
from PIL import Image

from minilora import fit
from minilora.io.files import read_json
from minilora.prediction.good_page import framed_worst
from minilora.report.nearest_patch import FRAME
from minilora.runs import run_class


@pytest.fixture(scope="module")
def good_fit(gear_run, tiny_weights, tmp_path_factory):
    """(text of report.html, metrics) of a fit with --good alone, in a folder with a space."""
    out = tmp_path_factory.mktemp("fit") / "my run"
    options = fit.parse(["--good", str(gear_run[1] / "train" / "good"), "--class-name", "gear",
                         "--steps", "2", "--model", str(tiny_weights), "--out", str(out)])
    run_class.run_class(options, lambda line: None)
    return (out / "report.html").read_text("utf-8"), read_json(out / "metrics.json"), out


def test_the_page_shows_every_good_picture_the_highest_score_first(good_fit):
    text, metrics, _ = good_fit
    shown = [float(score) for score in re.findall(r"score ([\d.]+)<br>", text)]
    assert shown == sorted((round(s, 3) for s in metrics["shot_scores"]), reverse=True)
    assert len(shown) == len(metrics["drawn"]) == 5 and text.count("worst patch framed") == 5


def test_the_page_names_the_threshold_and_the_next_command(good_fit):
    text, metrics, out = good_fit
    assert f"Threshold {metrics['threshold']:.3f}: " in text
    (command,) = re.findall(r"Next: <code>(.+?)</code>", text)
    words = shlex.split(command.replace("&#x27;", "'"))
    assert words[-2:] == [str(out), "PICTURES"]


def test_the_page_of_good_pictures_loads_nothing(good_fit):
    text = good_fit[0]
    assert "<script" not in text and re.findall(r'(?:src|href)="(?!data:image/)', text) == []


def test_the_frame_lies_around_the_highest_place():
    import torch
    scores = torch.zeros(64, 64)
    scores[20, 40] = 1
    framed = framed_worst(Image.new("RGB", (128, 128)), scores, 16)
    red = [(x, y) for x in range(128) for y in range(128) if framed.getpixel((x, y)) == FRAME]
    xs, ys = zip(*red)
    assert (min(xs) + max(xs)) / 2 == pytest.approx(81, abs=1)
    assert (min(ys) + max(ys)) / 2 == pytest.approx(41, abs=1)
