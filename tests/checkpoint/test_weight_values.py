"""Weights that no training leaves are refused at load, with the key's name as the file has it."""
import math

import pytest
import safetensors.torch
import torch

from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.weight_values import check_values, wrong_values
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP, CLIPConfig
from minilora.io.checkpoint_error import CheckpointError

CONFIG = CLIPConfig(embed=32, resolution=64, vision_layers=1, vision_width=64, patch=16, vocab=100,
                    text_width=64, text_layers=1)
MATRIX, BIAS = "visual.transformer.resblocks.0.mlp.c_fc.weight", "visual.ln_pre.bias"


def state_of(config=CONFIG):
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0))
    return {key: value.clone() for key, value in official_state_dict(clip).items()}


def changed(key, change):
    state = state_of()
    state[key] = change(state[key])
    return state


def one(value, place=3):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[place] = value
        return tensor
    return change


@pytest.mark.parametrize("key, change, words", [
    (MATRIX, one(math.nan), "holds NaN or inf"), (BIAS, one(math.inf), "holds NaN or inf"),
    (BIAS, one(-math.inf), "holds NaN or inf"),
    (MATRIX, lambda x: x.double() * 1e39, "holds NaN or inf"),  # too large for float32
    (MATRIX, torch.zeros_like, "holds 16,384 times the number 0, which no training leaves"),
    ("visual.proj", lambda x: torch.full_like(x, 0.5), "holds 2,048 times the number 0.5"),
    (MATRIX, lambda x: x * 1e-40, "holds only subnormal numbers"),
    (MATRIX, lambda x: (x.half().clamp(-1, 1) * 1e-6), "holds only subnormal numbers"),
    (BIAS, lambda x: x + 1e-40, "holds only subnormal numbers"),
    ("logit_scale", lambda x: x * 0 + 4.7, "is 4.7, expected 0 to ln 100 = 4.605"),
    ("logit_scale", lambda x: x * 0 - 0.1, "is -0.1, expected 0 to ln 100")])
def test_values_that_no_training_leaves_are_refused_with_the_keys_name(key, change, words,
                                                                       tmp_path):
    safetensors.torch.save_file(changed(key, change), tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=f"clip.safetensors: {key} {words}") as error:
        load_clip(tmp_path / "clip.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_fresh_model_and_the_largest_temperature_are_accepted_in_every_precision(dtype, tmp_path):
    """Zeros in biases, ones in norms; ln 100 is rounded up in float16."""
    state = {key: value.to(dtype) for key, value in
             changed("logit_scale", lambda x: x * 0 + math.log(100)).items()}
    safetensors.torch.save_file(state, tmp_path / "clip.safetensors")
    assert load_clip(tmp_path / "clip.safetensors")[0].logit_scale.exp() < 101


def test_single_subnormal_numbers_and_small_biases_are_accepted():
    """Weight decay leaves some of them in dead channels; a key's bias gets no gradient at all."""
    check_values({"proj": one(1e-42)(torch.randn(4, 4)), "k.bias": torch.full((4,), 1e-7).half()})


def test_a_variance_below_zero_is_refused():
    assert wrong_values("visual.bn1.running_var", torch.tensor([1.0, -0.5])) == \
        "is a variance, but holds -0.5"


def test_the_key_is_named_as_hugging_face_names_it(tmp_path):
    pytest.importorskip("transformers")
    from bench.peers import transformers_model
    state = transformers_model(CONFIG).state_dict()
    key = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    state[key] = torch.zeros_like(state[key])
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{key} holds 4,096 times the number 0"):
        load_clip(tmp_path / "model.safetensors")
