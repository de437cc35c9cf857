"""A run and a search index know their base model: found again anywhere, and never exchanged."""
import json
import shutil

import pytest
import safetensors.torch
import torch
from PIL import Image

from minilora import explain, export, fit, predict
from minilora.checkpoint.base_model import BaseModel, base_of, check_base, find_base, open_base
from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP, CLIPConfig
from minilora.detector import Detector
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.runs import run_class
from minilora.search import run as search_run
from minilora.search.index import Index

CONFIG = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=160, patch=16,
                    text_width=64, text_layers=1, activation="gelu", head_width=80)
SAID = {"model_cfg": {"vision_cfg": {"width": 160, "head_width": 80}, "text_cfg": {"heads": 1}}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Four folders: the same file with its configuration (exact GELU, heads of 80), with another
    one, and with none; and another file."""
    root = tmp_path_factory.mktemp("models")
    for name, seed, config in (("gelu", 0, SAID), ("other", 1, SAID), ("none", 0, None), (
            "quick", 0, {"model_cfg": SAID["model_cfg"] | {"quick_gelu": True}})):
        clip = CLIP(CONFIG).initialise(torch.Generator().manual_seed(seed))
        (root / name).mkdir()
        state = {key: value.clone() for key, value in official_state_dict(clip).items()}
        safetensors.torch.save_file(state, root / name / "open_clip_model.safetensors")
        if config:
            (root / name / "open_clip_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def run(models, gear_run, tmp_path_factory):
    """A run that was fitted with the exact GELU, and a picture."""
    out = tmp_path_factory.mktemp("run") / "run"
    _, data = gear_run
    options = fit.parse(["--class", "gear", "--shots", "2", "--steps", "1", "--data",
                         str(data.parent), "--model", str(models / "gelu"), "--out", str(out)])
    run_class.run_class(options, lambda line: None)
    return out, next((data / "test" / "good").glob("*.png"))


def searched(*arguments):
    lines = []
    floor = ["--any"] if arguments[0] == "query" else []      # a small random model finds nothing
    options = search_run.parser().parse_args([*map(str, arguments), *floor])
    assert options.run(options, lines.append) == 0
    return lines


@pytest.fixture(scope="module")
def index(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    for name in ("red", "green", "blue"):
        Image.new("RGB", (64, 64), name).save(root / f"{name}.png")
    said = searched("index", root, "--out", root / "index", "--model", models / "gelu")
    assert "activation gelu (quick_gelu is not set in open_clip_config.json)" in said[0]
    return root / "index"


def called(monkeypatch, main, *arguments):
    monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
    return main()


def test_a_run_and_an_index_store_the_same_about_their_model(run, index, models):
    path = models / "gelu" / "open_clip_model.safetensors"
    clip, weights = load_clip(path)
    expected = BaseModel("gelu/open_clip_model.safetensors", weights.sha256, str(path), "gelu", 80)
    assert Index.open(index).base == base_of(weights, clip.config) == expected
    assert open_base(run[0], expected)[0].config == CONFIG


@pytest.mark.parametrize("model", ["quick", "none"])
def test_the_stored_activation_and_head_width_decide_not_the_folder_of_model(model, run, index,
                                                                             models, tmp_path):
    """The same weights without their configuration, or beside another one."""
    assert Detector.open(run[0], models / model).clip.config == CONFIG
    lines = []
    for given in ([], ["--model", str(models / model)]):
        options = predict.parser().parse_args([str(run[0]), str(run[1]), *given, "--out",
                                               str(tmp_path / "p")])
        predict.run_predict(options, lines.append)
    assert len(lines) == 2 and lines[0] == lines[1]
    found = [searched("query", index, "a red thing", *given)
             for given in ([], ["--model", models / model])]
    assert found[0] == found[1] and len(found[0]) == 3


@pytest.mark.parametrize("command", ["predict", "explain", "export", "query", "index"])
@pytest.mark.parametrize("other", ["other", "tiny"])
def test_other_weights_are_refused_by_name_on_every_command(command, other, run, index, models,
                                                            tiny_weights, tmp_path,
                                                            monkeypatch):
    """tiny has a width that is no multiple of 80: the reason is not its shape."""
    path = tiny_weights if other == "tiny" else models / other
    out = ["--out", str(tmp_path / "out"), "--model", str(path)]
    job = {"predict": lambda: predict.run_predict(
               predict.parser().parse_args([*map(str, run), *out]), print),
           "explain": lambda: called(monkeypatch, explain.main, *run, *out),
           "export": lambda: export.run_export(
               export.parser().parse_args([*map(str, run), *out]), print),
           "query": lambda: searched("query", index, "a", "--model", path),
           "index": lambda: searched("index", index.parent, "--out", index, "--model", path)}
    with pytest.raises(ValueError, match=r"was made with gelu/open_clip_model.safetensors \(sha256 "
                       r".*found .*(other/|tiny).*; give the file of these weights") as error:
        job[command]()
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_an_index_is_queried_from_another_folder_with_the_model_that_made_it(index, models,
                                                                             tmp_path, monkeypatch):
    """It was made with a relative path; its file is not among the known weights."""
    monkeypatch.chdir(models)
    searched("index", index.parent, "--out", tmp_path / "i", "--model", "gelu")
    monkeypatch.chdir(tmp_path)
    assert searched("query", "i", "red") == searched("query", index, "red")
    searched("index", index.parent, "--out", "i")                # nor is --model needed to go on


def test_the_option_activation_makes_another_index_and_is_stored(index, models, tmp_path):
    made = ("index", index.parent, "--out", tmp_path / "i", "--model", models / "gelu")
    searched(*made, "--activation", "quick_gelu")
    assert Index.open(tmp_path / "i").base.activation == "quick_gelu"
    assert Index.open(tmp_path / "i").base.head_width == 80
    searched(*made, "--activation", "quick_gelu")
    searched(*made)                                             # the stored one
    with pytest.raises(ValueError, match="was made with quick_gelu, found --activation gelu"):
        searched(*made, "--activation", "gelu")
    assert searched("query", tmp_path / "i", "red") != searched("query", index, "red")


@pytest.mark.parametrize("change", [{"activation": "relu"}, {"head_width": 0}, {"sha256": "0"},
                                    {"head_width": True}, {"path": 1}, {"more": 1},
                                    {"name": None}])
def test_a_forged_base_model_of_an_index_is_named(index, change, tmp_path):
    shutil.copytree(index, tmp_path / "i")
    content = json.loads((index / "index.json").read_text())
    content["base"] |= change
    (tmp_path / "i/index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="index.json is no index that this version") as error:
        Index.open(tmp_path / "i")
    assert str(error.value).isprintable()


def test_a_model_that_is_gone_is_named_with_its_place(models, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "weights_folders", lambda: [tmp_path])
    shutil.copy(models / "other/open_clip_model.safetensors", tmp_path / "mini-clip.safetensors")
    base = BaseModel("mini-clip", "0" * 64, str(tmp_path / "gone/mini-clip.safetensors"))
    with pytest.raises(CheckpointError, match="mini-clip .sha256 0000.*/gone/.*neither there nor"):
        find_base(base)


def test_a_model_that_was_loaded_in_another_way_is_refused(models):
    """From Python: Detector.load takes a loaded model."""
    clip, weights = load_clip(models / "gelu", activation="quick_gelu")
    base = BaseModel(weights.name, weights.sha256, None, "gelu", 80)
    with pytest.raises(ValueError, match="run was made with activation gelu, found quick_gelu"):
        check_base("run", base, weights, clip.config)


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/\0", "/\ud800"])
def test_a_stored_path_that_no_system_has_counts_as_missing(path):
    with pytest.raises(ValueError, match="are neither there nor among the known ones") as caught:
        find_base(BaseModel("own", "0" * 64, path))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_file_without_bytes_is_not_read(tmp_path, monkeypatch):
    """As those of /proc seem to be: reading some of them never ends."""
    (tmp_path / "kmsg").touch()
    monkeypatch.setattr("minilora.checkpoint.base_model.sha256_of",
                        lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(CheckpointError, match="neither there nor among the known"):
        find_base(BaseModel("a.safetensors", "0" * 64, str(tmp_path / "kmsg")))
