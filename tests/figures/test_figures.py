"""Each mechanism has a figure that shows what its docstring claims."""
import re
import subprocess
import sys
from functools import lru_cache
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import REPO
from PIL import Image
from test_house import MECHANISMS

from minilora import lora
from minilora.bpe import default_tokenizer
from minilora.charts.drawing import Dot, Polyline, Raster, Label
from minilora.charts.writers import standalone_svg
from minilora.figures.embedded import drawn
from minilora.figures.write import FIGURES, write_figure
from minilora.io.demos import run_demo

SVG = "{http://www.w3.org/2000/svg}"


@lru_cache(maxsize=None)
def figure(name):
    return FIGURES[name]()


def texts(name):
    return [shape.text for shape in figure(name).shapes if isinstance(shape, Label)]


def rasters(name):
    return [np.asarray(s.pixels).astype(int) for s in figure(name).shapes if isinstance(s, Raster)]


def curves(name):
    """The curves of a figure as arrays of points; y grows downwards."""
    return [np.array(s.points) for s in figure(name).shapes
            if isinstance(s, Polyline) and len(s.points) > 40]


def numbers(name, side):
    """The numbers in the cells of a matrix, (side, side)."""
    found = [t for t in texts(name) if re.fullmatch(r"\d+(\.\d+)?%?", t)]
    return torch.tensor([float(t.rstrip("%")) for t in found]).view(side, side)


def test_every_mechanism_has_a_figure():
    assert set(FIGURES) == set(MECHANISMS)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_figure_is_an_svg_with_a_title_labels_and_data(name):
    root = ElementTree.fromstring(standalone_svg(figure(name)))
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label")
    assert root.findtext(f"{SVG}title") and len(texts(name)) >= 6
    width, height = figure(name).width, figure(name).height
    for shape in figure(name).shapes:
        if isinstance(shape, Label):
            length = 5.5 * len(shape.text) * shape.size / 11
            low = shape.x - {"start": 0, "middle": length / 2, "end": length}[shape.anchor]
            assert shape.rotated or (0 <= low and low + length <= width + 8), shape
            assert 0 < shape.y <= height
    data = [len(np.unique(pixels.reshape(-1, 3), axis=0)) for pixels in rasters(name)]
    data += [len(np.unique(points[:, 1].round(1))) for points in curves(name)]
    dots = sum(isinstance(shape, Dot) for shape in figure(name).shapes)
    assert max(data, default=0) >= 10 or dots > 100 or name in ("bpe", "text", "prompts", "clip")


def test_bpe_has_a_row_for_each_merge_and_ends_with_the_tokens():
    tokenizer = default_tokenizer()
    steps = list(tokenizer.merge_steps("flawlessness"))
    rows = [t for t in texts("bpe") if t == "bytes" or t.endswith(("merge", "merges"))]
    assert len(rows) == len(steps) == 11
    assert f"ids {', '.join(map(str, tokenizer.encode('flawlessness')))}" in texts("bpe")[-1]


def test_text_tokens_see_only_what_stands_before_them():
    weights = numbers("text", 8)
    assert torch.equal(weights, weights.tril()) and weights[0, 0] == 1
    assert torch.allclose(weights.sum(1), torch.ones(8), atol=0.03)


def test_normal_prompts_are_closer_to_each_other_than_to_anomalous_ones():
    cosines = numbers("prompts", 11)
    assert torch.equal(cosines, cosines.T)
    assert cosines[:7, :7].min() > cosines[:7, 7:].max()


def test_each_picture_gets_its_own_sentence():
    assert numbers("clip", 4).argmax(1).tolist() == [0, 1, 2, 3]


def brightest(pixels):
    return divmod(int(pixels.sum(-1).argmax()), pixels.shape[1])


def test_a_patch_attends_most_to_itself_with_values_and_not_with_queries():
    share = torch.nn.functional.avg_pool2d(drawn("gear", 0, "broken").mask[None].float(), 16)[0]
    place = divmod(int(share.argmax()), 14)
    cls, query_key, value_value = [p for p in rasters("attention") if p.shape[:2] == (14, 14)]
    assert brightest(value_value) == place != brightest(query_key)
    assert not np.array_equal(cls, query_key)


def test_a_position_is_most_similar_to_itself():
    maps = [p for p in rasters("vit") if p.shape[:2] == (14, 14)]
    assert [brightest(p) for p in maps] == [(7, 7), (0, 0), (2, 11)]


def test_stages_of_the_resnet_halve_the_side():
    assert [p.shape[0] for p in rasters("clip_resnet") if 1 < p.shape[0] == p.shape[1] < 224] == [
        56, 28, 14, 7]


def test_both_anomaly_maps_are_highest_at_the_defect():
    mask = drawn("gear", 0, "broken").mask[None, None].float()
    near = torch.nn.functional.max_pool2d(mask, 33, 1, 16)[0, 0] > 0
    maps = [p for p in rasters("anomaly_map") if p.shape[:2] == (224, 224)][1::2]
    assert len(maps) == 2
    for pixels in maps:
        assert near[brightest(pixels)]


def test_lora_of_rank_2_reaches_the_demo_s_loss_and_rank_1_does_not(capsys):
    lora.demo()
    printed = float(re.search(r"step 200  loss (\S+)", capsys.readouterr().out)[1])
    one, two, four = curves("lora")[:3]
    bottom = max(points[:, 1].max() for points in (one, two, four))     # loss 0
    scale = (0.08 / (bottom - np.interp(0, one[:1, 0], one[:1, 1])))
    assert printed < 1e-4 and (bottom - two[-1, 1]) * scale < 1e-3
    assert (bottom - one[-1, 1]) * scale > 0.02
    for points in curves("lora")[3:6]:                                  # norms: from 0, upwards
        assert points[0, 1] == pytest.approx(bottom, abs=0.2) and points[-1, 1] < bottom - 100


def test_coop_approaches_the_wanted_features():
    for points in curves("coop"):
        assert points[-1, 1] < points[0, 1] - 100 and (np.diff(points[20:, 1]) < 1).all()


def test_focal_loss_is_below_cross_entropy():
    entropy, two, five = (points[:, 1] for points in curves("losses")[:3])
    assert (entropy <= two).all() and (two <= five).all(), "y grows downwards"
    dice = curves("losses")[5][:, 1]
    assert dice.argmax() == pytest.approx(5, abs=8), "the best single p is small, but not zero"


def test_the_coreset_covers_the_points_better_than_chance():
    ours, chance = (float(re.search(r"[\d.]+", t)[0]) for t in texts("memory_bank")
                    if t.startswith(("Coreset", "At random")))
    assert ours < 0.7 * chance


def test_auroc_grows_with_the_distance_of_the_scores():
    areas = [float(t.split(": ")[1]) for t in texts("auroc") if "sigma apart" in t]
    assert areas == pytest.approx([0.921, 0.760, 0.5], abs=0.03)        # Phi(d / sqrt 2)


# ---- the command --------------------------------------------------------------------------------

def test_the_demo_runs_and_its_figure_is_written(tmp_path):
    done = subprocess.run([sys.executable, "-m", "minilora.losses", "--plot", tmp_path / "a.svg"],
                          capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("answer ") and done.stdout.splitlines()[-1].startswith("written ")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"


def test_a_figure_can_be_a_png_and_replaces_its_earlier_self(tmp_path, capsys):
    for _ in range(2):
        write_figure("auroc", tmp_path / "a.PNG")
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.format == "PNG" and image.width == 2 * figure("auroc").width


@pytest.mark.parametrize("arguments, words", [
    (["--plot", "a.txt"], "a.txt: expected the name of a file that ends in .svg or .png"),
    (["--plot", "mine.svg"], "mine.svg was not written by minilora"),
    (["--plot"], "expected one argument"), (["--plot", ""], "expected a value"),
    (["a.svg"], "the following arguments are required: --plot")])
def test_a_wrong_file_is_one_line_before_the_demo(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.svg").write_text("<svg/>")
    monkeypatch.setattr(sys, "argv", ["lora", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_demo("lora", lora.demo)
    said = capsys.readouterr()
    assert stop.value.code == 2 and words in said.err and said.err.count("\n") == 1
    assert said.out == "" and [p.name for p in tmp_path.iterdir()] == ["mine.svg"]


def test_a_demo_without_options_loads_neither_figures_nor_torch():
    program = ("import runpy, sys; runpy.run_module('minilora.prompts', run_name='__main__'); "
               "print({'torch', 'minilora.figures.write'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=REPO)
    assert done.returncode == 0 and done.stdout.endswith("set()\n")
