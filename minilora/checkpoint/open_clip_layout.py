"""open_clip's names of CLIP's weights, and what its open_clip_config.json says about a model.

Claim: open_clip's `CLIP` has OpenAI's names, so its files look like OpenAI's; but most of its
models were trained with the exact GELU, OpenAI's with QuickGELU.  `CustomTextCLIP` puts the text
tower under `text.`:

    text.transformer.resblocks.<i>.*       transformer.resblocks.<i>.*
    text.token_embedding.weight, ...       token_embedding.weight, ...
    attn_mask, text.attn_mask              no weights: the causal mask

    https://github.com/mlfoundations/open_clip (model.py, factory.py, pretrained.py)
Left out: text towers of Hugging Face, image towers of timm, CoCa, models for other languages.
"""
from typing import Any

import torch
from torch import Tensor

from minilora.checkpoint.model_folder import Facts, normalisation_note
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.schema import Flag, Nothing, OneOf, Record, Whole, check
from minilora.io.text import shown

FILE_MARKS = ("open_clip", "laion", "datacomp")     # in the names of files that open_clip trained
QUICK_MARKS = ("quickgelu", "openai")               # in the names of models with QuickGELU
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}       # of ViT-H, ViT-g and ViT-bigG; all others: 64
# Options that change what a tower computes, with the values that are computed here.
FIXED = {"vision_cfg": {"pool_type": "tok", "no_ln_pre": False, "norm_kwargs": {},
                        "act_kwargs": {}, "global_average_pool": False, "timm_model_name": None,
                        "attentional_pool": False, "final_ln_after_pool": False},
         "text_cfg": {"pool_type": "argmax", "no_causal_mask": False, "norm_kwargs": {},
                      "act_kwargs": {}, "embed_cls": False, "hf_model_name": None}}
SIZE = Whole(1, 1 << 20)
CONFIG = Record({"model_cfg": Record(
    {"vision_cfg": Record({}, {"width": SIZE, "head_width": SIZE}, others=True),
     "text_cfg": Record({}, {"width": SIZE, "heads": SIZE}, others=True)},
    {"quick_gelu": OneOf(Flag(), Nothing())}, others=True)},
    {"preprocess_cfg": Record({}, others=True)}, others=True)


def is_custom_text(state: dict[str, Tensor]) -> bool:
    """Whether the keys are those of CustomTextCLIP."""
    return "text.token_embedding.weight" in state


def openai_from_custom_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under OpenAI's keys."""
    return {key.removeprefix("text."): tensor for key, tensor in state.items()}


def open_clip_facts(config: dict[str, Any], widths: dict[str, int]) -> Facts:
    """Activation and head widths from an open_clip_config.json.

    widths: {"vision_config": W of the image tower, "text_config": of the text tower}, from shapes;
    0 for a ResNet, whose width here is that of its stem.
    Raises SchemaError or CheckpointError if it contradicts the shapes, or describes a network that
    is not computed here.
    """
    config = check({key: value for key, value in config.items() if value is not None}, CONFIG,
                   "open_clip_config.json")
    model = config["model_cfg"]
    for tower, fixed in FIXED.items():
        for option, value in fixed.items():
            found = model[tower].get(option)
            if found is not None and (found or value) and found != value:
                raise CheckpointError(f"open_clip_config.json: {tower}.{option} "
                                      f"{shown(repr(found), 60)} is not computed here; only "
                                      "towers as in OpenAI's CLIP are")
    head = model["vision_cfg"].get("head_width", 64)
    text_width = widths["text_config"]
    heads = model["text_cfg"].get("heads", 8)
    for tower, key in (("vision_cfg", "vision_config"), ("text_cfg", "text_config")):
        if widths[key] and model[tower].get("width", widths[key]) != widths[key]:
            raise CheckpointError(f"open_clip_config.json describes another model: {tower} has "
                                  f"the width {model[tower]['width']}, the weights {widths[key]}")
    if text_width % heads:
        raise CheckpointError(f"open_clip_config.json describes another model: {heads} heads in "
                              f"text_cfg, the weights have the width {text_width}")
    preprocess = config.get("preprocess_cfg", {})
    quick = bool(model.get("quick_gelu"))
    return Facts("quick_gelu" if quick else "gelu", head, text_width // heads,
                 f"quick_gelu is {'' if quick else 'not '}set in open_clip_config.json",
                 normalisation_note(preprocess.get("mean"), preprocess.get("std")))


def facts_without_config(name: str, widths: dict[str, int]) -> Facts:
    """What is most likely for a file of open_clip of which only the name is known.

    name: in the hub's cache with the model's in front.  open_clip fetches the weights alone, also
    OpenAI's own, as timm/vit_base_patch16_clip_224.openai.
    """
    head = HEAD_WIDTHS.get(widths["vision_config"], 64)
    for mark in QUICK_MARKS:
        if mark in name.lower():
            return Facts("quick_gelu", head, 64, f"its name holds \"{mark}\"")
    return Facts("gelu", head, 64, "a file of open_clip without open_clip_config.json, whose "
                 "models mostly use it; else give --activation quick_gelu")


def demo() -> None:
    """The facts of three models."""
    widths = {"vision_config": 768, "text_config": 512}
    config = {"model_cfg": {"vision_cfg": {"width": 768}, "text_cfg": {"width": 512, "heads": 8}}}
    print(open_clip_facts(config, widths))
    config["model_cfg"]["quick_gelu"] = True
    print(open_clip_facts(config, widths))
    print(facts_without_config("vit_b_32-quickgelu-laion400m_e32.pt", widths))
    print(list(openai_from_custom_text({"text.ln_final.bias": torch.zeros(1),
                                        "visual.proj": torch.zeros(1)})))
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    try:
        open_clip_facts(config, widths)
    except CheckpointError as error:
        print(error)


if __name__ == "__main__":
    demo()
