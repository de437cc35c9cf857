"""From a file of weights to OpenAI's names: which layout it has, and what its shapes do not tell.

    file, folder  ->  tensors, configurations  ->  layout  ->  OpenAI's names  ->  CLIPConfig

Claim: three layouts hold the same network, and the keys tell which it is.  They do not tell the
activation: weights that were trained with the exact GELU load as QuickGELU without an error, and
their features are off by 0.15 and more.  It comes from the first of these that is there:

    1. the option --activation
    2. what minilora wrote into the metadata of its own safetensors files
    3. the three sizes that only OpenAI's archives hold: QuickGELU
    4. config.json or open_clip_config.json next to the file
    5. the layout and the name: Hugging Face's names mean QuickGELU, files of open_clip GELU

Left out: reading bytes (`io/safetensors.py`, `io/zip_reader.py`), the model itself
(`openai_layout.py`).
"""
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from minilora.attention import ACTIVATIONS
from minilora.checkpoint.hub_cache import snapshot_of
from minilora.checkpoint.huggingface_layout import (huggingface_facts, is_huggingface_config,
                                                    openai_from_huggingface)
from minilora.checkpoint.model_folder import Facts, config_beside, normalisation_note
from minilora.checkpoint.open_clip_layout import (FILE_MARKS, HEAD_WIDTHS, facts_without_config,
                                                  is_custom_text, open_clip_facts,
                                                  openai_from_custom_text)
from minilora.checkpoint.weight_shapes import (RESNET_KEY, SCALARS, config_from_state_dict,
                                               entry_shape, is_weight)
from minilora.clip import CLIPConfig
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.safetensors import is_safetensors, read_safetensors
from minilora.io.schema import Record, Text, check
from minilora.io.text import shown
from minilora.io.zip_reader import read_tensors

CLIP_FORMAT = "minilora clip 1"         # in the metadata of a file that `save_official` wrote
OWN_METADATA = Record({"format": Text(40), "activation": Text(40, tuple(ACTIVATIONS)),
                       "head_width": Text(6), "text_head_width": Text(6)})
FIRST_KEYS = ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight")
PREFIX = re.compile(r"((state_dict|model|module|_orig_mod)\.){0,8}")
OPENAI, HUGGING_FACE = "OpenAI's names", "Hugging Face's names"
CUSTOM_TEXT = "open_clip's names (CustomTextCLIP)"


@dataclass(frozen=True)
class Recognised:
    """The weights of a file under OpenAI's names, and how they were recognised."""
    state: dict[str, Tensor]            # official key -> tensor of the file
    named: dict[str, Tensor]            # the same under the names of the file, for messages
    config: CLIPConfig
    layout: str
    why: str                            # where the activation comes from
    prefix: str                         # in front of every key in the file, or ""
    ignored: list[str]                  # keys of the file that are no weights of the model
    note: str                           # a warning, or ""

    def about(self) -> str:
        """Layout, activation and what was left out, in one line."""
        c = self.config
        parts = [self.layout, f"activation {c.activation} ({self.why})"]
        if c.head_width != 64 or c.text_head_width != 64:
            parts.append(f"heads {c.head_width} wide in the image tower, {c.text_head_width} in "
                         "the text tower")
        if self.prefix:
            parts.append(f"prefix {shown(self.prefix)} stripped")
        return "; ".join(parts + [self.note] * bool(self.note))


def recognise(path: Path, activation: str | None = None, known: Facts | None = None) -> Recognised:
    """The weights in a file under OpenAI's names.

    activation: overrides what the file says;  known: all that no shape tells, if it was stored.
    Tensors are views of the mapped file.  Raises CheckpointError or SchemaError (ValueErrors).
    """
    tensors, metadata = read_file(path)
    found, prefix = without_prefix(tensors)
    ignored = [key for key in tensors if not key.startswith(prefix)]
    ignored += [key for key in found if not is_weight(key)]
    named = weights = {key: value for key, value in found.items() if is_weight(key)}
    layout = OPENAI
    if any(key.startswith("vision_model.") for key in weights):
        layout, weights = HUGGING_FACE, openai_from_huggingface(weights)
    elif is_custom_text(weights):
        layout, weights = CUSTOM_TEXT, openai_from_custom_text(weights)
    widths = {"vision_config": image_width(weights),
              "text_config": entry_shape(weights, "token_embedding.weight", 2)[1]}
    facts = known or facts_of(path, metadata, layout, set(found), widths, activation)
    config = config_from_state_dict(weights, facts.activation, facts.head_width,
                                    facts.text_head_width)
    return Recognised(weights, named, config, layout, facts.why, prefix, ignored, facts.note)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> tensor, metadata of a safetensors file) of a file of either kind."""
    return read_safetensors(path) if is_safetensors(path) else (read_tensors(path), {})


def without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(the tensors of the model, the prefix that their keys had in the file).

    A prefix is made of state_dict., model., module. and _orig_mod., which training loops, wrappers
    for several GPUs and torch.compile put in front.  Raises CheckpointError if two are possible.
    """
    prefixes = {key.removesuffix(first) for key in tensors for first in FIRST_KEYS
                if key.endswith(first)}
    prefixes = sorted(prefix for prefix in prefixes if PREFIX.fullmatch(prefix))
    if not prefixes or prefixes[0] == "":
        return tensors, ""
    if len(prefixes) > 1:
        raise CheckpointError(f"it holds {len(prefixes)} models, under "
                              f"{shown(', '.join(prefixes))}; save the one that you mean alone")
    return {key.removeprefix(prefixes[0]): value for key, value in tensors.items()
            if key.startswith(prefixes[0])}, prefixes[0]


def image_width(weights: dict[str, Tensor]) -> int:
    """The width W of a ViT; 0 for a ResNet, which has heads only in its pooling."""
    return 0 if RESNET_KEY in weights else entry_shape(weights, "visual.conv1.weight", 4)[0]


def facts_of(path: Path, metadata: dict[str, str], layout: str, keys: set[str],
             widths: dict[str, int], activation: str | None) -> Facts:
    """What the shapes do not tell, from the first source that knows it.

    keys: all keys of the file, also those that are no weights;  widths: of both towers.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise CheckpointError(f"activation: expected {' or '.join(ACTIVATIONS)}, found "
                              f"{shown(repr(activation))}")
    if metadata.get("format") == CLIP_FORMAT:
        facts = facts_from_metadata(metadata)
    elif keys & set(SCALARS):
        facts = Facts("quick_gelu", why="OpenAI's archive")
    else:
        facts = facts_beside(path, layout, widths) or facts_from_layout(path, layout, keys, widths)
    if activation is not None:
        other = f", not {shown(facts.activation, 60)}: {facts.why}"
        return replace(facts, activation=activation, why="as --activation says"
                       + other * (facts.activation != activation))
    if facts.activation not in ACTIVATIONS:
        raise CheckpointError(f"{facts.why}: expected {' or '.join(ACTIVATIONS)} in both towers, "
                              f"found {shown(facts.activation, 60)}; --activation can override it")
    return facts


def facts_from_metadata(metadata: dict[str, str]) -> Facts:
    """What `save_official` wrote."""
    check(metadata, OWN_METADATA, "metadata")
    heads = [int(metadata[key]) if metadata[key].isdecimal() and metadata[key].isascii() else 0
             for key in ("head_width", "text_head_width")]
    if min(heads) < 1:
        raise CheckpointError("metadata: head_width and text_head_width must be whole numbers "
                              "above 0; the file is damaged")
    return Facts(metadata["activation"], *heads, "written by minilora")


def facts_beside(path: Path, layout: str, widths: dict[str, int]) -> Facts | None:
    """What a configuration file next to the weights says: the one of their layout, else the other.
    """
    theirs = config_beside(path, "config.json")
    open_clip = config_beside(path, "open_clip_config.json")
    if not is_huggingface_config(theirs):       # of another program, or none
        theirs = None
    if open_clip is not None and (layout != HUGGING_FACE or theirs is None):
        return open_clip_facts(open_clip, widths)
    if theirs is None or widths["vision_config"] == 0:      # Hugging Face has no ResNets
        return None
    pictures = config_beside(path, "preprocessor_config.json") or {}
    return replace(huggingface_facts(theirs, widths), note=normalisation_note(
        pictures.get("image_mean"), pictures.get("image_std")))


def facts_from_layout(path: Path, layout: str, keys: set[str], widths: dict[str, int]) -> Facts:
    """The most likely facts of a file without a configuration."""
    name = f"{snapshot_of(path) or ''}/{path.name}".lower()
    head = HEAD_WIDTHS.get(widths["vision_config"], 64)
    if layout == HUGGING_FACE:
        return Facts("quick_gelu", head, 64, "as OpenAI's models there, because no config.json is "
                     "beside it; else give --activation gelu")
    if layout == CUSTOM_TEXT or "attn_mask" in keys or any(mark in name for mark in FILE_MARKS):
        return facts_without_config(name, widths)
    return Facts("quick_gelu", head, 64, "usual under these names; else give --activation gelu")


def demo() -> None:
    """How the keys of four files are read."""
    for key in ("visual.conv1.weight", "state_dict.module.visual.conv1.weight",
                "model._orig_mod.vision_model.embeddings.patch_embedding.weight",
                "ema.visual.conv1.weight"):
        state, prefix = without_prefix({key: torch.zeros(1), "epoch": torch.zeros(1)})
        print(f"{key:64} prefix {prefix or 'none'}, {len(state)} kept")
    widths = {"vision_config": 768, "text_config": 512}
    for name, layout, keys in (("ViT-B-16.pt", OPENAI, {"vocab_size"}),
                               ("model.safetensors", HUGGING_FACE, set()),
                               ("vit_b_16-laion2b.pt", OPENAI, set())):
        facts = facts_of(Path("/nowhere") / name, {}, layout, keys, widths, None)
        print(f"{name:20} {facts.activation}: {facts.why}")


if __name__ == "__main__":
    demo()
