"""OpenAI's names and our names for the same weights, and the model that the shapes imply.

Claim: a checkpoint is a dictionary from names to arrays, and everything else about the model
(widths, depths, patch, resolution) can be read off the shapes.  So any dictionary with the official
names becomes a model, and a name that is missing, too many or of another shape is an error that
says which.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision";
    the names are those of the released code.

    official name                             here
    visual.transformer.resblocks.<i>.*        visual.blocks.<i>.*
    transformer.resblocks.<i>.*               text.blocks.<i>.*
    <block>.attn.in_proj_weight, _bias        <block>.attn.{q,k,v}.weight, .bias: split_in_proj
    <block>.attn.out_proj.*                   <block>.attn.out.*
    visual.*, logit_scale                     the same
    everything else                           text.*

Leaves out: getting the dictionary out of a file (`io/zip_reader.py`).
"""
import math

import torch
from torch.overrides import TorchFunctionMode

from minilora.clip import CLIP, CLIPConfig
from minilora.clip_resnet import STRIDE
from minilora.io.unpickler import CheckpointError
from minilora.synthetic.sampling import one_thread

SCALARS = ("input_resolution", "context_length", "vocab_size")  # in official files, no weights
TOLD = 16                                                       # keys that an error names
COUNTER = ".num_batches_tracked"                                # of batch norm: no weight either
BLOCKS = {"visual.blocks.": "visual.transformer.resblocks.",
          "text.blocks.": "transformer.resblocks."}


def config_from_state_dict(state):
    """The CLIPConfig that the shapes imply.  Raises CheckpointError where they imply none."""
    if "visual.layer1.0.conv1.weight" in state:
        return resnet_config(state)
    vision_width, _, patch, _ = shape_of(state, "visual.conv1.weight", 4)
    positions, _ = shape_of(state, "visual.positional_embedding", 2)
    grid = math.isqrt(max(positions - 1, 0))                    # one position per patch, and CLS
    if grid * grid + 1 != positions:
        raise CheckpointError("visual.positional_embedding: expected 1 + a square number of rows, "
                              f"found {positions}; the picture must be square")
    vocab, text_width = shape_of(state, "token_embedding.weight", 2)
    context, embed = (shape_of(state, key, 2)[axis] for key, axis in
                      (("positional_embedding", 0), ("visual.proj", 1)))
    layers = {ours: count_blocks(state, theirs) for ours, theirs in BLOCKS.items()}
    try:
        return CLIPConfig(embed, grid * patch, layers["visual.blocks."], vision_width, patch,
                          context, vocab, text_width, layers["text.blocks."])
    except ValueError as error:                                 # a width that is no multiple of 64
        raise CheckpointError(f"no CLIP with a ViT has these shapes: {error}") from error


def resnet_config(state):
    """The same where the image tower is a ResNet."""
    width = shape_of(state, "visual.layer1.0.conv1.weight", 4)[0]
    stages = tuple(count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
    positions, _ = shape_of(state, "visual.attnpool.positional_embedding", 2)
    vocab, text_width = shape_of(state, "token_embedding.weight", 2)
    context, embed = (shape_of(state, key, 2)[axis] for key, axis in
                      (("positional_embedding", 0), ("text_projection", 1)))
    grid = math.isqrt(max(positions - 1, 1))
    try:
        return CLIPConfig(embed, max(1, grid) * STRIDE, stages, width, STRIDE, context, vocab,
                          text_width, count_blocks(state, BLOCKS["text.blocks."]))
    except ValueError as error:
        raise CheckpointError(f"no CLIP with a ResNet has these shapes: {error}") from error


def is_weight(key):
    """False for what official files hold beside weights."""
    return key not in SCALARS and not key.endswith(COUNTER)


def clip_from_state_dict(state):
    """A float32 CLIP with these weights, in memory of its own, in eval mode.

    state: official key -> floating tensor of any precision; the three scalars may be there or not.
    Raises CheckpointError with all missing, extra and mis-shaped keys, and for NaN and inf.
    """
    clip = empty_clip(config_from_state_dict(state))
    check_keys(state, official_shapes(clip))
    own = {}
    with one_thread():
        for key, tensor in state.items():
            if is_weight(key):
                for name, part in own_parts(key, tensor):       # copied: it may lie in a file
                    own[name] = part.to(torch.float32, copy=True,
                                        memory_format=torch.contiguous_format)
    broken = [name for name, value in own.items() if not value.sum().isfinite()]
    if broken:
        raise CheckpointError(f"{broken[0]} and {len(broken) - 1} other tensors hold NaN or inf; "
                              "the file is damaged, or its training went wrong; take another")
    clip.load_state_dict(own, assign=True)                      # takes the tensors, copies nothing
    return clip.eval()


def official_state_dict(clip):
    """The weights of `clip` under their official keys: the inverse of `clip_from_state_dict`.

    The three scalars are left out; what is not fused shares memory with the model.  Raises
    CheckpointError if the model has other parts than a CLIP: merge LoRA first.
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


def split_in_proj(fused):
    """The fused projection of official files into q, k, v: three blocks of rows, in this order.

    fused: (3W, W) weight or (3W,) bias.  Returns three views, (W, W) or (W,).
    """
    return fused.chunk(3)


def own_parts(key, tensor):
    """Yield (our name, tensor) for one official key: one pair, or three where q, k, v are fused."""
    for ours, theirs in BLOCKS.items():
        if key.startswith(theirs):
            key = key.replace(theirs, ours, 1)
    name = key if key.startswith(("visual.", "text.", "logit_scale")) else f"text.{key}"
    if ".attn.in_proj_" in name:
        for part, piece in zip("qkv", split_in_proj(tensor)):
            yield name.replace("in_proj_", f"{part}."), piece
    else:
        yield name.replace(".attn.out_proj.", ".attn.out."), tensor


def openai_key(name):
    """(official key, which part of it: "q", "k", "v", or "" for the whole) for one of our names."""
    for ours, theirs in BLOCKS.items():
        if name.startswith(ours):
            name = name.replace(ours, theirs, 1)
    name = name.removeprefix("text.").replace(".attn.out.", ".attn.out_proj.")
    for part in "qkv":
        if name.endswith((f".attn.{part}.weight", f".attn.{part}.bias")):
            return name.replace(f".attn.{part}.", ".attn.in_proj_"), part
    return name, ""


def official_shapes(clip):
    """Official key -> shape, for every weight that a model like `clip` needs."""
    shapes = {}
    for name, tensor in clip.state_dict().items():
        key, part = openai_key(name)
        shapes[key] = (3 * len(tensor), *tensor.shape[1:]) if part else tuple(tensor.shape)
    return shapes


class NoDraws(TorchFunctionMode):
    """Inside, `normal_` leaves its tensor alone.

    What it would draw is about to be replaced; and even on the meta device, where nothing is drawn,
    its first call loads other parts of torch for 0.7 s.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":      # Tensor.normal_ and nn.init.normal_
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def empty_clip(config):
    """A CLIP with shapes but no numbers (meta device), for load_state_dict(assign=True)."""
    with torch.device("meta"), NoDraws():
        return CLIP(config)


def shape_of(state, key, dimensions):
    """Shape of one entry.  Raises CheckpointError if it is absent or has not `dimensions`."""
    if key not in state:
        some = ", ".join(str(name) for name in list(state)[:3])
        raise CheckpointError("these are not the weights of a CLIP under OpenAI's names: expected "
                              f"the key {key}, found {len(state)} others ({some}, ...)")
    if state[key].ndim != dimensions:
        raise CheckpointError(f"{key}: expected {dimensions} dimensions, found the shape "
                              f"{tuple(state[key].shape)}; the file is damaged or not a CLIP")
    return tuple(state[key].shape)


def count_blocks(state, prefix):
    """How many residual blocks have keys below `prefix`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def check_keys(state, expected, model="a CLIP"):
    """Raise CheckpointError with the keys that are missing, too many, mis-shaped or not floating.

    state: key -> tensor, scalars ignored; expected: key -> shape; model: its name in the message.
    """
    keys = [key for key in state if is_weight(key)]
    wrong = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in state]
    wrong += [f"not expected: {key}" for key in keys if key not in expected]
    for key in keys:
        found, shape = state[key], expected.get(key)
        if shape is not None and (tuple(found.shape) != shape or not found.is_floating_point()):
            wrong.append(f"{key}: expected floating point {shape}, found {found.dtype} "
                         f"{tuple(found.shape)}")
    if wrong:
        raise CheckpointError(f"keys that do not fit {model} of these sizes: {len(wrong)}; use its "
                              "weights whole and unchanged: " + "; ".join(wrong[:TOLD])
                              + (f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""))


def demo():
    """Split a fused projection and find the nine sizes again in the shapes."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=128, patch=16,
                        vocab=1000, text_width=64, text_layers=1)
    state = official_state_dict(CLIP(config).initialise(torch.Generator().manual_seed(0)))
    key = "visual.transformer.resblocks.1.attn.in_proj_weight"
    print(f"{key} {tuple(state[key].shape)}")
    for name, part in own_parts(key, state[key]):
        print(f"    -> {name} {tuple(part.shape)}")
    print(config_from_state_dict(state))
    print("the same sizes again:", config_from_state_dict(state) == config)
    back = official_state_dict(clip_from_state_dict(state))
    print("there and back, equal:", all(torch.equal(back[name], state[name]) for name in state))
    del state[key]
    try:
        clip_from_state_dict(state)
    except CheckpointError as error:
        print("one key taken out:", error)


if __name__ == "__main__":
    demo()
