"""Convert between OpenAI's parameter names and ours, and infer the model's sizes from the shapes.

Claim: a checkpoint is a dictionary from names to tensors, and their shapes determine the sizes of
the model (widths, depths, patch, resolution).  So any dictionary with the official names becomes a
model.  A missing name, an unexpected name or a wrong shape is an error that lists it.

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
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minilora.checkpoint.weight_values import check_values
from minilora.clip import CLIP, CLIPConfig
from minilora.clip_resnet import STRIDE
from minilora.io.text import shown
from minilora.io.threads import one_thread
from minilora.io.unpickler import CheckpointError

SCALARS = ("input_resolution", "context_length", "vocab_size")  # in official files; not weights
MAX_LISTED = 16                                                 # keys that an error lists
MAX_BLOCKS = 100                                                # ViT-bigG: 48
NO_WEIGHTS = (".num_batches_tracked", ".position_ids", ".attn_mask")
BLOCKS = {"visual.blocks.": "visual.transformer.resblocks.",
          "text.blocks.": "transformer.resblocks."}


def config_from_state_dict(state: dict[str, Tensor], *untold: Any) -> CLIPConfig:
    """The CLIPConfig that the shapes imply.  Raises CheckpointError if no CLIP has such shapes.

    untold: activation, head_width and text_head_width, which no shape tells; default: OpenAI's.
    """
    if "visual.layer1.0.conv1.weight" in state:
        return resnet_config(state, *untold)
    vision_width, _, patch, _ = entry_shape(state, "visual.conv1.weight", 4)
    positions, _ = entry_shape(state, "visual.positional_embedding", 2)
    grid = math.isqrt(max(positions - 1, 0))                    # one position per patch, and CLS
    if grid * grid + 1 != positions:
        raise CheckpointError("visual.positional_embedding: expected 1 + a square number of rows, "
                              f"found {positions}; the picture must be square")
    vocab, text_width = entry_shape(state, "token_embedding.weight", 2)
    context, embed = (entry_shape(state, key, 2)[axis] for key, axis in
                      (("positional_embedding", 0), ("visual.proj", 1)))
    layers = {ours: count_blocks(state, theirs) for ours, theirs in BLOCKS.items()}
    try:
        return CLIPConfig(embed, grid * patch, layers["visual.blocks."], vision_width, patch,
                          context, vocab, text_width, layers["text.blocks."], *untold)
    except ValueError as error:                                 # e.g. a width not divisible by 64
        raise CheckpointError(f"no CLIP with a ViT has these shapes: {error}") from error


def resnet_config(state: dict[str, Tensor], *untold: Any) -> CLIPConfig:
    """The CLIPConfig of a CLIP whose image tower is a ResNet."""
    width = entry_shape(state, "visual.layer1.0.conv1.weight", 4)[0]
    stages = tuple(count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
    positions, _ = entry_shape(state, "visual.attnpool.positional_embedding", 2)
    vocab, text_width = entry_shape(state, "token_embedding.weight", 2)
    context, embed = (entry_shape(state, key, 2)[axis] for key, axis in
                      (("positional_embedding", 0), ("text_projection", 1)))
    grid = math.isqrt(max(positions - 1, 1))
    try:
        return CLIPConfig(embed, max(1, grid) * STRIDE, stages, width, STRIDE, context, vocab,
                          text_width, count_blocks(state, BLOCKS["text.blocks."]), *untold)
    except ValueError as error:
        raise CheckpointError(f"no CLIP with a ResNet has these shapes: {error}") from error


def is_weight(key: str) -> bool:
    """False for entries of files that are not weights: sizes, counters, positions, the mask."""
    return key not in SCALARS and not key.endswith(NO_WEIGHTS) and key != "attn_mask"


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

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":      # Tensor.normal_ and nn.init.normal_
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def empty_clip(config: CLIPConfig) -> CLIP:
    """A CLIP on the meta device: shapes without memory, for load_state_dict(assign=True)."""
    with torch.device("meta"), SkipNormalInit():
        return CLIP(config)


def entry_shape(state: dict[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """Shape of one entry.  CheckpointError if it is absent or has not this many dimensions."""
    if key not in state:
        examples = shown(", ".join(map(str, list(state)[:3])))
        raise CheckpointError("these are not the weights of a CLIP under OpenAI's, open_clip's or "
                              f"Hugging Face's names: expected the key {key}, found {len(state)} "
                              f"others ({examples}, ...)")
    if state[key].ndim != dimensions:
        raise CheckpointError(f"{key}: expected {dimensions} dimensions, found the shape "
                              f"{tuple(state[key].shape)}; the file is damaged or not a CLIP")
    return tuple(state[key].shape)


def count_blocks(state: dict[str, Tensor], prefix: str) -> int:
    """Number of residual blocks whose keys start with `prefix`; above MAX_BLOCKS an error."""
    blocks = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    if len(blocks) > MAX_BLOCKS:                                # each costs time to build
        raise CheckpointError(f"{prefix}*: expected at most {MAX_BLOCKS} blocks, found "
                              f"{len(blocks):,}; this is not a CLIP")
    return len(blocks)


def check_keys(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]],
               model: str = "a CLIP") -> None:
    """Raise CheckpointError that lists missing, unexpected, mis-shaped and non-floating-point keys.

    state: key -> tensor, scalars are ignored; expected: key -> shape; model: named in the message.
    """
    keys = [key for key in state if is_weight(key)]
    wrong = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in state]
    wrong += [f"not expected: {shown(key)}" for key in keys if key not in expected]
    for key in keys:
        found, shape = state[key], expected.get(key)
        if shape is not None and (tuple(found.shape) != shape or not found.is_floating_point()):
            wrong.append(f"{key}: expected floating point {shape}, found {found.dtype} "
                         f"{tuple(found.shape)}")
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise CheckpointError(f"keys that do not fit {model} of these sizes: {len(wrong)}; use a "
                              f"complete and unchanged file: {'; '.join(wrong[:MAX_LISTED])}{more}")


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
