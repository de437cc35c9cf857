"""What the keys and shapes of a checkpoint say: the sizes of the model, and what does not fit it.

Claim: a checkpoint is a dictionary from names to tensors, and the shapes determine the sizes of
the model (widths, depths, patch, resolution).  They do not tell the activation and the width of a
head; those come from `recognise.py`.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision";
    the names are those of the released code.

Left out: the values of the tensors (`checkpoint/weight_values.py`).
"""
import math
from typing import Any

import torch
from torch import Tensor

from minilora.clip import CLIPConfig
from minilora.clip_resnet import STRIDE
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.text import shown

SCALARS = ("input_resolution", "context_length", "vocab_size")  # in official files; not weights
NO_WEIGHTS = (".num_batches_tracked", ".position_ids", ".attn_mask")
RESNET_KEY = "visual.layer1.0.conv1.weight"                     # only an image tower of this kind
IMAGE_BLOCKS, TEXT_BLOCKS = "visual.transformer.resblocks.", "transformer.resblocks."
MAX_LISTED = 16                                                 # keys that an error lists
MAX_BLOCKS = 100                                                # ViT-bigG: 48


def config_from_state_dict(state: dict[str, Tensor], *untold: Any) -> CLIPConfig:
    """The CLIPConfig that the shapes imply.  Raises CheckpointError if no CLIP has such shapes.

    untold: activation, head_width and text_head_width, which no shape tells; default: OpenAI's.
    """
    if RESNET_KEY in state:
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
    try:
        return CLIPConfig(embed, grid * patch, count_blocks(state, IMAGE_BLOCKS), vision_width,
                          patch, context, vocab, text_width, count_blocks(state, TEXT_BLOCKS),
                          *untold)
    except ValueError as error:                                 # e.g. a width not divisible by 64
        raise CheckpointError(f"no CLIP with a ViT has these shapes: {error}; if its heads have "
                              "another width, put its config.json next to the file") from error


def resnet_config(state: dict[str, Tensor], *untold: Any) -> CLIPConfig:
    """The CLIPConfig of a CLIP whose image tower is a ResNet."""
    width = entry_shape(state, RESNET_KEY, 4)[0]
    stages = tuple(count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
    positions, _ = entry_shape(state, "visual.attnpool.positional_embedding", 2)
    vocab, text_width = entry_shape(state, "token_embedding.weight", 2)
    context, embed = (entry_shape(state, key, 2)[axis] for key, axis in
                      (("positional_embedding", 0), ("text_projection", 1)))
    grid = math.isqrt(max(positions - 1, 1))
    try:
        return CLIPConfig(embed, max(1, grid) * STRIDE, stages, width, STRIDE, context, vocab,
                          text_width, count_blocks(state, TEXT_BLOCKS), *untold)
    except ValueError as error:
        raise CheckpointError(f"no CLIP with a ResNet has these shapes: {error}") from error


def is_weight(key: str) -> bool:
    """False for entries of files that are not weights: sizes, counters, positions, the mask."""
    return key not in SCALARS and not key.endswith(NO_WEIGHTS) and key != "attn_mask"


def entry_shape(state: dict[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """Shape of one entry.  CheckpointError if it is absent or has not this many dimensions."""
    if key not in state:
        examples = shown(", ".join(map(str, list(state)[:3])))
        raise CheckpointError("these are not the weights of a CLIP (image tower and text tower) "
                              "under OpenAI's, open_clip's or Hugging Face's names: expected the "
                              f"key {key}, found {len(state)} others ({examples}, ...)")
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
    """The sizes of a model from six shapes; then two dictionaries that are refused."""
    block = "transformer.resblocks.0.ln_1.weight"
    shapes = {"visual.conv1.weight": (64, 3, 16, 16), "visual.positional_embedding": (17, 64),
              "visual.proj": (64, 32), "token_embedding.weight": (1000, 64),
              "positional_embedding": (77, 64), f"visual.{block}": (64,), block: (64,)}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    print(config_from_state_dict(state))
    for change in ({"visual.positional_embedding": torch.zeros(18, 64)},
                   {"visual.proj": torch.zeros(64)}):
        try:
            config_from_state_dict(state | change)
        except CheckpointError as error:
            print(error)
    try:
        check_keys({"visual.proj": torch.zeros(64, 16), "extra": torch.zeros(1)},
                   {"visual.proj": (64, 32), "logit_scale": ()})
    except CheckpointError as error:
        print(error)


if __name__ == "__main__":
    demo()
