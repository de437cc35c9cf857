"""Convert between OpenAI's parameter names and ours: from a dictionary to a model, and back.

Claim: any dictionary with the official names becomes a model, because the shapes tell its sizes
(`weight_shapes.py`).  A missing name, an unexpected name or a wrong shape is an error that lists
it.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision";
    the names are those of the released code.

    official name                             here
    visual.transformer.resblocks.<i>.*        visual.blocks.<i>.*
    transformer.resblocks.<i>.*               text.blocks.<i>.*
    <block>.attn.in_proj_weight, _bias        <block>.attn.{q,k,v}.weight, .bias: split_in_proj
    <block>.attn.out_proj.*                   <block>.attn.out.*
    visual.*, logit_scale                     the same
    everything else                           text.*

Left out: reading the dictionary from a file (`io/zip_reader.py`).
"""
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minilora.checkpoint.weight_shapes import (IMAGE_BLOCKS, TEXT_BLOCKS, check_keys,
                                               config_from_state_dict, is_weight)
from minilora.checkpoint.weight_values import check_values
from minilora.clip import CLIP, CLIPConfig
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.threads import one_thread

BLOCKS = {"visual.blocks.": IMAGE_BLOCKS, "text.blocks.": TEXT_BLOCKS}     # ours: official


def clip_from_state_dict(state: dict[str, Tensor], config: CLIPConfig | None = None,
                         named: dict[str, Tensor] | None = None) -> CLIP:
    """A float32 CLIP in eval mode with a copy of these weights.

    state: official key -> floating-point tensor of any precision; the three scalars are optional;
    config: by default what the shapes imply;  named: the same tensors under the names of the file.
    Raises CheckpointError that lists missing, extra and mis-shaped keys, and for wrong values.
    """
    clip = empty_clip(config or config_from_state_dict(state))
    check_keys(state, official_shapes(clip))
    check_values(state if named is None else named)
    ours = {}
    with one_thread():
        for key, tensor in state.items():
            if is_weight(key):
                for name, part in our_parameters(key, tensor):  # copied: it may be a mapped file
                    ours[name] = part.to(torch.float32, copy=True,
                                         memory_format=torch.contiguous_format)
    clip.load_state_dict(ours, assign=True)                     # uses the tensors, no second copy
    return clip.eval()


def official_state_dict(clip: CLIP) -> dict[str, Tensor]:
    """The weights of `clip` under their official keys: the inverse of `clip_from_state_dict`.

    Without the three scalars.  All tensors except the fused projections share memory with the
    model.  Raises CheckpointError if the model has other parameters than a CLIP: merge LoRA first.
    """
    official, fused = {}, {}
    for name, tensor in clip.state_dict().items():
        key, part = openai_key(name)
        if part:
            fused.setdefault(key, {})[part] = tensor
        else:
            official[key] = tensor
    for key, parts in fused.items():
        official[key] = torch.cat([parts[part] for part in "qkv"])       # (3W, W) or (3W,)
    check_keys(official, official_shapes(empty_clip(clip.config)))
    return official


def split_in_proj(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection of official files into q, k, v: three blocks of rows, in order.

    fused: (3W, W) weight or (3W,) bias.  Returns three views, (W, W) or (W,).
    """
    return fused.chunk(3)


def our_parameters(key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield (our name, tensor) for one official key: one pair, or three if q, k, v are fused."""
    for ours, theirs in BLOCKS.items():
        if key.startswith(theirs):
            key = key.replace(theirs, ours, 1)
    name = key if key.startswith(("visual.", "text.", "logit_scale")) else f"text.{key}"
    if ".attn.in_proj_" in name:
        for part, piece in zip("qkv", split_in_proj(tensor)):
            yield name.replace("in_proj_", f"{part}."), piece
    else:
        yield name.replace(".attn.out_proj.", ".attn.out."), tensor


def openai_key(name: str) -> tuple[str, str]:
    """(official key, part) of one of our names.  part: "q", "k" or "v" of a fused key, else ""."""
    for ours, theirs in BLOCKS.items():
        if name.startswith(ours):
            name = name.replace(ours, theirs, 1)
    name = name.removeprefix("text.").replace(".attn.out.", ".attn.out_proj.")
    for part in "qkv":
        if name.endswith((f".attn.{part}.weight", f".attn.{part}.bias")):
            return name.replace(f".attn.{part}.", ".attn.in_proj_"), part
    return name, ""


def official_shapes(clip: CLIP) -> dict[str, tuple[int, ...]]:
    """Official key -> shape, for every weight of a model of the same sizes as `clip`."""
    shapes = {}
    for name, tensor in clip.state_dict().items():
        key, part = openai_key(name)
        shapes[key] = (3 * len(tensor), *tensor.shape[1:]) if part else tuple(tensor.shape)
    return shapes


class SkipNormalInit(TorchFunctionMode):
    """Inside the block, `normal_` does nothing.

    Random initial weights are not needed, because loading replaces them.  Even on the meta device,
    which draws nothing, the first call of `normal_` spends 0.7 s on loading other parts of torch.
    """

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: tuple = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":      # Tensor.normal_ and nn.init.normal_
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def empty_clip(config: CLIPConfig) -> CLIP:
    """A CLIP on the meta device: shapes without memory, for load_state_dict(assign=True)."""
    with torch.device("meta"), SkipNormalInit():
        return CLIP(config)


def demo() -> None:
    """Split a fused projection, and infer the nine sizes of a model from its shapes."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=128, patch=16,
                        vocab=1000, text_width=64, text_layers=1)
    state = official_state_dict(CLIP(config).initialise(torch.Generator().manual_seed(0)))
    key = "visual.transformer.resblocks.1.attn.in_proj_weight"
    print(f"{key} {tuple(state[key].shape)}")
    for name, part in our_parameters(key, state[key]):
        print(f"    -> {name} {tuple(part.shape)}")
    print(config_from_state_dict(state))
    print("equal to the sizes of the model:", config_from_state_dict(state) == config)
    back = official_state_dict(clip_from_state_dict(state))
    print("converted to our names and back, equal:",
          all(torch.equal(back[name], state[name]) for name in state))
    del state[key]
    try:
        clip_from_state_dict(state)
    except CheckpointError as error:
        print("with one key removed:", error)


if __name__ == "__main__":
    demo()
