"""Hugging Face's names of CLIP's weights, and what its config.json says about a model.

Claim: transformers' CLIPModel is the same network under other names.  It keeps q, k and v in three
matrices, where OpenAI's files have one; and its two projections are linears (E, W), where OpenAI's
are matrices (W, E) that are multiplied from the right.

    Hugging Face                                       OpenAI
    vision_model.embeddings.patch_embedding.weight     visual.conv1.weight
    vision_model.encoder.layers.<i>.layer_norm1.*      visual.transformer.resblocks.<i>.ln_1.*
    text_model.encoder.layers.<i>.mlp.fc1.*            transformer.resblocks.<i>.mlp.c_fc.*
    <layer>.self_attn.{q,k,v}_proj.*                   <block>.attn.in_proj_*: one below the other
    visual_projection.weight                           visual.proj, transposed
    position_ids                                       no weights

    https://github.com/huggingface/transformers (models/clip: modeling_clip, configuration_clip)
Left out: models with other towers (SigLIP, AltCLIP, ChineseCLIP).
"""
from typing import Any

import torch
from torch import Tensor

from minilora.checkpoint.model_folder import Facts
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.schema import Number, Record, Text, Whole, check
from minilora.io.text import shown

TOWERS = {"vision_model.": "visual.", "text_model.": ""}
PARTS = {"encoder.layers.": "transformer.resblocks.",
         "embeddings.patch_embedding.": "conv1.", "embeddings.class_embedding": "class_embedding",
         "embeddings.position_embedding.weight": "positional_embedding",
         "embeddings.token_embedding.": "token_embedding.", "pre_layrnorm.": "ln_pre.",
         "post_layernorm.": "ln_post.", "final_layer_norm.": "ln_final.",
         ".layer_norm1.": ".ln_1.", ".layer_norm2.": ".ln_2.", ".self_attn.out_proj.":
         ".attn.out_proj.", ".mlp.fc1.": ".mlp.c_fc.", ".mlp.fc2.": ".mlp.c_proj."}
PROJECTIONS = {"visual_projection.weight": "visual.proj",
               "text_projection.weight": "text_projection"}
DEFAULT_HEADS = {"vision_config": 12, "text_config": 8}     # transformers omits these values
DEFAULT_ACTIVATION, NORM_EPSILON = "quick_gelu", 1e-5
TOWER_CONFIG = Record({}, {
    "hidden_act": Text(40), "num_attention_heads": Whole(1, 1024), "hidden_size": Whole(1, 1 << 20),
    "layer_norm_eps": Number(0, 1)}, others=True)
MODEL_CONFIG = Record({}, {"vision_config": TOWER_CONFIG, "text_config": TOWER_CONFIG,
                           "vision_config_dict": TOWER_CONFIG, "text_config_dict": TOWER_CONFIG,
                           "model_type": Text(60)}, others=True)


def openai_from_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under OpenAI's keys; keys that are not Hugging Face's stay as they are.

    Raises CheckpointError if one of the towers is missing.
    """
    for tower in TOWERS:
        if not any(key.startswith(tower) for key in state):
            raise CheckpointError(f"it holds only one tower of a CLIP, nothing under {tower}*; "
                                  "give a complete CLIPModel")
    official, fused = {}, {}
    for key, tensor in state.items():
        if key in PROJECTIONS:
            official[PROJECTIONS[key]] = tensor.T if tensor.ndim == 2 else tensor
            continue
        name = openai_name(key)
        for part in "qkv":
            if f".self_attn.{part}_proj." in name:
                whole = name.replace(f".self_attn.{part}_proj.", ".attn.in_proj_")
                fused.setdefault(whole, {})[part] = tensor
                break
        else:
            official[name] = tensor
    for name, parts in fused.items():
        rows = [parts[part] for part in "qkv" if part in parts]
        same = len({(x.shape[1:], x.dtype) for x in rows}) == 1 and all(x.ndim for x in rows)
        if len(rows) != 3 or not same:
            raise CheckpointError(f"q_proj, k_proj and v_proj of {shown(name)} are not three of "
                                  "one width and dtype; the file is incomplete or damaged")
        official[name] = torch.cat(rows)                        # (3W, W) or (3W,)
    return official


def openai_name(key: str) -> str:
    """The key with OpenAI's words; q_proj, k_proj and v_proj keep theirs."""
    for theirs, ours in TOWERS.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
            for word, replacement in PARTS.items():
                key = key.replace(word, replacement, 1)
    return key


def is_huggingface_config(config: dict[str, Any] | None) -> bool:
    """Whether a config.json describes a CLIP of transformers."""
    return config is not None and (config.get("model_type") == "clip"
                                   or "vision_config" in config or "text_config" in config)


def huggingface_facts(config: dict[str, Any], widths: dict[str, int]) -> Facts:
    """Activation and head widths from a config.json.

    widths: {"vision_config": W of the image tower, "text_config": of the text tower}, from shapes.
    The activation is returned as the file spells it; the caller checks it.  Raises SchemaError or
    CheckpointError if the file contradicts the shapes, or describes a network that is not computed
    here.
    """
    config = check({key: value for key, value in config.items() if value is not None},
                   MODEL_CONFIG, "config.json")
    acts, heads = {}, {}
    for tower, width in widths.items():
        values = config.get(tower, {}) | config.get(f"{tower}_dict", {})     # of older versions
        size, count = values.get("hidden_size", width), values.get(
            "num_attention_heads", DEFAULT_HEADS[tower])
        if size != width or width % count:
            raise CheckpointError(f"config.json describes another model: {tower} has hidden_size "
                                  f"{size} and {count} heads, the weights have the width {width}")
        if abs(values.get("layer_norm_eps", NORM_EPSILON) - NORM_EPSILON) > 1e-9:
            raise CheckpointError(f"config.json: expected {tower}.layer_norm_eps {NORM_EPSILON}, "
                                  f"found {values['layer_norm_eps']:g}, which is not computed here")
        acts[tower] = values.get("hidden_act", DEFAULT_ACTIVATION)
        heads[tower] = width // count
    found = sorted(set(acts.values()))
    return Facts(" and ".join(found), heads["vision_config"], heads["text_config"],
                 "hidden_act in config.json")


def demo() -> None:
    """Some keys under both names, and a configuration with heads of 80."""
    for key in ("vision_model.embeddings.patch_embedding.weight",
                "text_model.final_layer_norm.bias",
                "vision_model.encoder.layers.3.layer_norm1.weight",
                "text_model.encoder.layers.3.self_attn.out_proj.bias"):
        print(f"{key:52} {openai_name(key)}")
    state = {f"vision_model.encoder.layers.0.self_attn.{part}_proj.weight": torch.full((2, 2), k)
             for k, part in enumerate("qkv")} | {"text_model.final_layer_norm.bias": torch.ones(2)}
    print({key: tuple(x.shape) for key, x in openai_from_huggingface(state).items()})
    config = {"vision_config": {"hidden_act": "gelu", "num_attention_heads": 16},
              "text_config": {"hidden_act": "gelu", "num_attention_heads": 16}}
    print(huggingface_facts(config, {"vision_config": 1280, "text_config": 1024}))


if __name__ == "__main__":
    demo()
