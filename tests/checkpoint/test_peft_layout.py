"""LoRA in PEFT's files: peft loads what minilora writes, and minilora what peft has trained."""
import copy
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.peers import transformers_twin
from minilora import fit, lora, predict
from minilora.checkpoint.adapter import adapter_state
from minilora.checkpoint.detector_files import read_detector
from minilora.checkpoint.peft_layout import (ADAPTER_CONFIG, ADAPTER_MODEL, load_peft, own_place,
                                             peft_key, read_peft, write_peft)
from minilora.checkpoint.weights import Weights, load_clip
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.data.images import normalise
from minilora.detector import Detector
from minilora.io.files import write_safetensors
from minilora.io.safetensors import read_safetensors
from minilora.lora import LoRALinear, add_lora, lora_layers
from minilora.runs import run_class

os.environ.setdefault("HF_HUB_OFFLINE", "1")            # before the import: nothing is looked up
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("error:.*adapter keys.*"),     # such as missing ones
              pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*"),
              pytest.mark.filterwarnings("ignore:.*(invalid shape|config file).*")]

CONFIG = CLIPConfig(embed=48, resolution=64, vision_layers=4, vision_width=128, patch=16,
                    text_width=64, text_layers=1)
SMALL = DetectorConfig(steps=4, batch=4, n_train_images=8, rank=2, alpha=3)
WEIGHTS = Weights("toy", None, "0" * 64)
TOLERANCE = 1e-5                        # a few float32 roundings of values to 10
QV = dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


@pytest.fixture
def clip():
    return CLIP(CONFIG).initialise(torch.Generator().manual_seed(0)).requires_grad_(False)


@pytest.fixture
def vision(clip):
    """transformers' CLIPVisionModel with the same weights."""
    return copy.deepcopy(transformers_twin(clip).vision_model)


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def hidden_states(clip, pixels):
    with torch.no_grad():
        return clip.visual.hidden_states(clip.visual.embed(normalise(pixels)))


def assert_same_tokens(clip, peer, pixels):
    with torch.no_grad():
        theirs = peer.eval()(normalise(pixels), output_hidden_states=True)
    ours = hidden_states(clip, pixels)
    assert len(ours) == len(theirs.hidden_states)
    for a, b in zip(ours, theirs.hidden_states):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours[-1], theirs.last_hidden_state, rtol=0, atol=TOLERANCE)


def disturb(module):
    for k, layer in enumerate(lora_layers(module).values()):
        nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(k))


def with_lora(clip, **options):
    add_lora(clip.visual, generator=torch.Generator().manual_seed(3), **options)
    disturb(clip.visual)
    return clip


# ---- peft loads ours ----------------------------------------------------------------------------

def test_peft_loads_the_lora_of_a_run_folder_and_finds_the_same_patch_tokens(clip, vision, pixels,
                                                                            tmp_path):
    plain = hidden_states(clip, pixels)[-1]
    detector = Detector(clip, "plate", replace(SMALL, steps=0, blocks=2)).fit(pixels)
    disturb(clip.visual)
    detector.save(tmp_path, WEIGHTS)
    peer = peft.PeftModel.from_pretrained(vision, tmp_path)
    assert_same_tokens(clip, peer, pixels)
    assert (hidden_states(clip, pixels)[-1] - plain).abs().max() > 0.01, "LoRA has an effect"
    layers = {name.split(".lora_")[0] for name, _ in peer.named_parameters() if "lora_" in name}
    assert len(layers) == len(lora_layers(clip.visual)) == 8, "no layer more"


@pytest.mark.parametrize("options", [
    dict(targets=("q", "v"), blocks=None, rank=3, alpha=5), dict(targets=("out",), blocks=(2,)),
    dict(targets=("q", "k", "v", "out"), blocks=(0, 3), rank=1, alpha=0.5)])
def test_any_choice_of_targets_and_blocks_comes_out_alike(clip, vision, pixels, tmp_path, options):
    with_lora(clip, **options)
    write_peft(tmp_path, adapter_state(clip.visual), "toy")
    assert_same_tokens(clip, peft.PeftModel.from_pretrained(vision, tmp_path), pixels)


def test_layers_that_form_no_grid_are_named_one_by_one(clip, vision, pixels, tmp_path):
    add_lora(clip.visual, ("q",), (1,), rank=2, alpha=2)
    with_lora(clip, targets=("v",), blocks=(3,), rank=2, alpha=2)
    write_peft(tmp_path, adapter_state(clip.visual), "toy")
    peer = peft.PeftModel.from_pretrained(vision, tmp_path)
    assert sum("lora_A" in name for name, _ in peer.named_parameters()) == 2
    assert_same_tokens(clip, peer, pixels)


# ---- ours loads peft's --------------------------------------------------------------------------

def saved_by_peft(vision, folder, **options):
    peer = peft.get_peft_model(vision, peft.LoraConfig(**(QV | options)))
    for k, (name, p) in enumerate(peer.named_parameters()):
        if "lora_A" in name or "lora_B" in name:
            nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(k))
    peer.save_pretrained(folder)
    return peer


@pytest.mark.parametrize("options", [
    {}, {"layers_to_transform": [1, 3], "layers_pattern": "layers"}, {"layers_to_transform": 2},
    {"target_modules": ["out_proj"]}, {"target_modules": r".*layers\.[02].*\.(k|q)_proj"},
    {"use_rslora": True}, {"r": 3, "lora_alpha": 1}, {"init_lora_weights": "gaussian"},
    {"target_modules": ["layers.0.self_attn.q_proj", "layers.2.self_attn.v_proj"]}])
def test_a_lora_of_peft_gives_the_same_patch_tokens_here(clip, vision, pixels, tmp_path, options):
    peer = saved_by_peft(vision, tmp_path, **options)
    load_peft(tmp_path, clip)
    assert_same_tokens(clip, peer, pixels)
    assert sum("lora_A" in n for n, _ in peer.named_parameters()) == len(lora_layers(clip.visual))


def test_a_lora_that_was_trained_with_the_whole_clip_model_is_read(clip, pixels, tmp_path):
    """Its keys have another prefix; the regular expression keeps LoRA out of the text tower."""
    whole = transformers_twin(clip)
    peer = saved_by_peft(whole, tmp_path, target_modules=r"vision_model\..*\.[qv]_proj")
    load_peft(tmp_path, clip)
    assert_same_tokens(clip, peer.base_model.model.vision_model, pixels)


def test_keys_of_every_version_name_the_same_layer():
    end = "encoder.layers.11.self_attn.out_proj.lora_B.weight"
    for start in ("base_model.model.", "base_model.model.vision_model.", "base_model.model.clip."
                  "vision_model.", "vision_model.", ""):
        assert own_place(start + end) == ("blocks.11.attn.out", "lora_B"), start
    for name in ("blocks.0.attn.q", "blocks.11.attn.out"):
        for part in ("lora_A", "lora_B", "magnitude", "lora_C"):
            assert own_place(peft_key(name, part)) == (name, part)


@pytest.mark.parametrize("options, words", [
    ({"target_modules": ["q_proj", "fc1"]}, r"fc1.lora_.* is no LoRA of q_proj, k_proj"),
    ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias: expected one of none"),
    ({"alpha_pattern": {"layers.1.self_attn.q_proj": 4}}, "sets alpha_pattern"),
    ({"rank_pattern": {"layers.1.self_attn.q_proj": 4}}, "sets rank_pattern"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"), ({"lora_bias": True}, "sets lora_bias"),
    ({"modules_to_save": ["post_layernorm"]}, "modules_to_save")])
def test_what_lora_here_cannot_do_is_refused_in_one_line(clip, vision, tmp_path, options, words):
    saved_by_peft(vision, tmp_path, **options)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    with pytest.raises(ValueError, match=words) as refused:
        load_peft(tmp_path, clip)
    assert "\n" not in str(refused.value)
    assert not lora_layers(clip.visual) and before.keys() == clip.state_dict().keys()


def rewrite(folder, tensors=lambda x: x, config=lambda x: x):
    found, marks = read_safetensors(folder / ADAPTER_MODEL)
    write_safetensors(folder / ADAPTER_MODEL,
                      tensors({k: v.clone() for k, v in found.items()}), marks)
    content = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config(content)))


FIRST = "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize("change, words", [
    (dict(tensors=lambda t: {}), "holds no tensors"),
    (dict(tensors=lambda t: t | {FIRST: t[FIRST].long()}), "lora_A: expected a tensor"),
    (dict(tensors=lambda t: t | {FIRST: t[FIRST] * float("inf")}), "lora_A: expected finite"),
    (dict(tensors=lambda t: t | {FIRST: t[FIRST][:, :5]}), r"tensor \(8, 128\)"),
    (dict(tensors=lambda t: t | {FIRST: t[FIRST][:3]}), r"lora_A: expected a tensor \(8, any\)"),
    (dict(tensors=lambda t: t | {FIRST: t[FIRST] * 1e9}), "numbers up to 10000"),
    (dict(tensors=lambda t: {k: v for k, v in t.items() if k != FIRST}), "key lora_A"),
    (dict(tensors=lambda t: t | {FIRST.replace("model.enc", "model.vision_model.enc"): t[FIRST]}),
     "lora_A of blocks.0.attn.q twice"),
    (dict(tensors=lambda t: t | {FIRST.replace("lora_A", "bias"): t[FIRST]}), "no key bias"),
    (dict(tensors=lambda t: t | {FIRST.replace("encoder", "text_model.encoder"): t[FIRST]}),
     "is no LoRA of q_proj"),
    (dict(tensors=lambda t: {k.replace("layers.3", "layers.44"): v for k, v in t.items()}),
     "blocks must be numbers from 0 to 3"),
    (dict(config=lambda c: c | {"r": "8"}), "r: expected a whole number"),
    (dict(config=lambda c: c | {"r": 4}), r"expected a tensor \(4, any\)"),
    (dict(config=lambda c: c | {"lora_alpha": [16]}), "lora_alpha: expected a number"),
    (dict(config=lambda c: c | {"peft_type": "IA3"}), "peft_type: expected one of LORA"),
    (dict(config=lambda c: {}), "expected the key peft_type"), (dict(config=lambda c: []), "named"),
    (dict(config=lambda c: c | {"target_modules": ["q_proj"]}), "v_proj, which target_modules"),
    (dict(config=lambda c: c | {"layers_to_transform": [0]}), "layers_to_transform of"),
    (dict(config=lambda c: c | {"fan_in_fan_out": True}), "sets fan_in_fan_out")])
def test_damaged_or_unfitting_files_of_peft_are_refused_in_one_line(clip, vision, tmp_path, change,
                                                                    words):
    saved_by_peft(vision, tmp_path)
    load_peft(tmp_path, copy.deepcopy(clip))
    rewrite(tmp_path, **change)
    with pytest.raises(ValueError, match=words) as refused:
        load_peft(tmp_path, clip)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json not found"):
        load_peft(tmp_path, clip)


def test_our_own_files_are_bound_to_their_base_model_and_those_of_peft_are_not(clip, tmp_path):
    with_lora(clip)
    write_peft(tmp_path, adapter_state(clip.visual), "toy")
    other = CLIP(CONFIG).initialise(torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="made on base weights"):
        load_peft(tmp_path, copy.deepcopy(other))
    rewrite(tmp_path)
    found, _ = read_safetensors(tmp_path / ADAPTER_MODEL)
    write_safetensors(tmp_path / ADAPTER_MODEL, {k: v.clone() for k, v in found.items()})
    assert read_peft(tmp_path)["fingerprint"] is None
    assert len(load_peft(tmp_path, other)) == 16


# ---- another update in its place ----------------------------------------------------------------

class DoRALinear(LoRALinear):
    """W' = m (W + Delta W) / |W + Delta W|, row by row (Liu et al. 2024, "DoRA", eq. 5)."""

    TRAINED = ("lora_A", "lora_B", "magnitude")

    def reset_lora(self, generator=None):
        super().reset_lora(generator)
        self.magnitude = nn.Parameter(self.weight.detach().norm(dim=1))

    def forward(self, x):
        adapted = self.weight + self.delta_weight()
        weight = self.magnitude[:, None] * nn.functional.normalize(adapted, dim=1)
        return nn.functional.linear(x, weight, self.bias)


def test_dora_as_a_subclass_is_stored_under_the_names_of_peft(clip, vision, pixels, tmp_path,
                                                             monkeypatch):
    """In both directions; so a subclass needs no change in the files."""
    monkeypatch.setattr(lora, "LoRALinear", DoRALinear)
    again = copy.deepcopy(clip)
    lora.add_lora(clip.visual, ("q", "v"), (1, 2), rank=2, alpha=4)
    disturb(clip.visual)
    for layer in lora_layers(clip.visual).values():
        layer.magnitude.data *= 1.5
    write_peft(tmp_path, adapter_state(clip.visual), "toy")
    peer = peft.PeftModel.from_pretrained(vision, tmp_path)
    assert_same_tokens(clip, peer, pixels)
    peer.save_pretrained(tmp_path / "again")
    load_peft(tmp_path / "again", again)
    assert_same_tokens(again, peer, pixels)


# ---- in a detector ------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"layers_to_transform": [3]}, {"r": 2}])
def test_a_detector_with_the_lora_of_peft_is_saved_and_loaded(clip, vision, pixels, tmp_path,
                                                             options):
    """Also with LoRA in early blocks, from which the memory's frozen tokens come."""
    saved_by_peft(vision, tmp_path / "peft", **options)
    plain = copy.deepcopy(clip)
    frozen = Detector(copy.deepcopy(clip), "plate", SMALL).encode(pixels, lora=False)
    detector = Detector(clip, "plate", replace(SMALL, steps=0), read_peft(tmp_path / "peft"))
    detector.fit(list(pixels))
    seen = detector.encode(pixels)
    torch.testing.assert_close(seen.frozen_tokens, frozen.frozen_tokens, rtol=0, atol=1e-6)
    assert (seen.image - frozen.image).abs().max() > 1e-3
    detector.save(tmp_path / "run", WEIGHTS)
    again = Detector.load(tmp_path / "run", plain, WEIGHTS)
    other = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    for row, (maps, scores) in again.rows(other).items():
        assert torch.equal(maps, detector.rows(other)[row][0]), row
        assert torch.equal(scores, detector.rows(other)[row][1]), row


@pytest.mark.parametrize("name, expected", [
    ("ViT-B/16", "openai/clip-vit-base-patch16"), ("tiny.safetensors", "tiny.safetensors"),
    ("laion/CLIP-ViT-B-16-laion2B (Hugging Face)", "laion/CLIP-ViT-B-16-laion2B")])
def test_the_base_model_has_the_name_under_which_peft_finds_it(name, expected, clip, tmp_path):
    Detector(clip, "plate", SMALL).save(tmp_path, Weights(name, None, "0" * 64))
    assert peft.PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == expected


@pytest.fixture(scope="module")
def made(gear_run, tmp_path_factory):
    """(run folder of minilora, data folder, folder of a LoRA that peft saved on the same base)."""
    run, data = gear_run
    folder = tmp_path_factory.mktemp("peft")
    base, _ = load_clip(base_path(run))
    saved_by_peft(transformers_twin(base).vision_model, folder)
    return run, data, folder


def base_path(run):
    return read_detector(run)["base"]["path"]


def predicted(run, data, out, *more):
    lines = []
    options = predict.parser().parse_args([str(run), str(data / "test"), "--out", str(out), *more])
    predict.run_predict(options, lines.append)
    return [float(line.split("score")[1].split()[0]) for line in lines]


def test_predict_with_the_lora_of_peft_says_whose_threshold_it_uses(made, tmp_path, capsys):
    run, data, folder = made
    own = predicted(run, data, tmp_path / "own")
    capsys.readouterr()
    other = predicted(run, data, tmp_path / "peft", "--adapter", str(folder))
    said = capsys.readouterr().err
    assert "memory and threshold are those of the run" in said and "fit --adapter" in said
    assert own != other and len(own) == len(other)
    same = predicted(run, data, tmp_path / "same", "--adapter", str(run))
    assert same == own, "the run's own LoRA, given by name"


def test_a_lora_that_was_put_into_a_run_folder_is_noticed(made, tmp_path):
    run, data, folder = made
    shutil.copytree(run, tmp_path / "run")
    for name in (ADAPTER_MODEL, ADAPTER_CONFIG):
        shutil.copy(folder / name, tmp_path / "run" / name)
    with pytest.raises(ValueError, match=f"{ADAPTER_MODEL} is not the file .* --adapter"):
        Detector.open(tmp_path / "run")
    own = predicted(run, data, tmp_path / "a", "--adapter", str(folder))
    assert predicted(tmp_path / "run", data, tmp_path / "b", "--adapter", str(folder)) == own


def test_fit_takes_the_lora_of_peft_and_computes_memory_and_threshold_with_it(made, tmp_path):
    run, data, folder = made
    lines, out = [], tmp_path / "run"
    options = fit.parse(["--class", "gear", "--shots", "4", "--data", str(data.parent), "--model",
                         base_path(run), "--adapter", str(folder), "--out", str(out)])
    metrics = run_class.run_class(options, lines.append)
    said = next(line for line in lines if line.startswith("adapter"))
    assert "LoRA r=8 on q,v of blocks 0-2, not trained here" in said and str(folder) in said
    assert metrics["losses"] == [] and metrics["adapter"] == str(folder)
    theirs = read_peft(folder)["layers"]
    ours = adapter_state(Detector.open(out).clip.visual)["layers"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n][k], theirs[n][k]) for n in ours for k in ("lora_A", "lora_B"))
    assert Detector.open(out).threshold == metrics["threshold"] > 0
    scores = predicted(out, data, tmp_path / "p")
    assert len(scores) == 11 and all(score >= 0 for score in scores)
    again = run_class.run_class(options, lines.append, again=False)
    assert again["fingerprint"] == metrics["fingerprint"] and lines[-1].startswith("finished")
