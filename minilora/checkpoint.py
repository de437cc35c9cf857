"""OpenAI's weights in, `CLIP` out: key layout, configuration from shapes, where files are found.

Claim: a checkpoint is a dictionary from names to arrays, and everything else about the model (widths,
depths, patch, resolution) can be read off the shapes.  So any file with the official names loads, and a
name that is missing, too many or of another shape is an error that says which.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision"; the
    names and the addresses are those of the released code (MIT licence).

Official name                                   here
    visual.transformer.resblocks.<i>.*          visual.blocks.<i>.*
    transformer.resblocks.<i>.*                 text.blocks.<i>.*
    <block>.attn.in_proj_{weight,bias}          <block>.attn.{q,k,v}.{weight,bias}, see split_in_proj
    <block>.attn.out_proj.*                     <block>.attn.out.*
    visual.*, logit_scale                       the same
    everything else                             text.*

Leaves out: ResNet towers (recognised and refused), how tensors get out of a file (`archive.py`), how
files get over the network (`download.py`; untested against the live address).
"""
import torch
from torch.overrides import TorchFunctionMode

from minilora.archive import CheckpointError, read_tensors
from minilora.clip import CLIP, CLIPConfig

SCALARS = ("input_resolution", "context_length", "vocab_size")   # in official files: facts, not weights
# Blocks in the four stages of each ResNet that OpenAI released.
RESNETS = {(3, 4, 6, 3): "RN50", (3, 4, 23, 3): "RN101", (4, 6, 10, 6): "RN50x4",
           (6, 8, 18, 8): "RN50x16", (3, 15, 36, 10): "RN50x64"}


def read_state_dict(path):
    """Official key -> CPU tensor in the file's dtype, the three scalars included.

    Reads TorchScript archives and plain state dicts, runs no code; see `archive.read_tensors`.
    """
    return read_tensors(path)


def config_from_state_dict(state):
    """The CLIPConfig that the shapes imply.  Raises CheckpointError where they imply none."""
    refuse_resnet(state)
    vision_width, _, patch, _ = shape_of(state, "visual.conv1.weight", 4)
    positions, _ = shape_of(state, "visual.positional_embedding", 2)
    grid = round((positions - 1) ** 0.5)                         # one position per patch and CLS
    if grid * grid + 1 != positions:
        raise CheckpointError(f"visual.positional_embedding has {positions} rows, expected 1 + a square")
    vocab, text_width = shape_of(state, "token_embedding.weight", 2)
    try:
        return CLIPConfig(embed=shape_of(state, "visual.proj", 2)[1], resolution=grid * patch,
                          vision_layers=count_blocks(state, "visual.transformer.resblocks."),
                          vision_width=vision_width, patch=patch,
                          context=shape_of(state, "positional_embedding", 2)[0], vocab=vocab,
                          text_width=text_width, text_layers=count_blocks(state, "transformer.resblocks."))
    except CheckpointError:
        raise
    except ValueError as error:                                  # a width that is no multiple of 64
        raise CheckpointError(f"these weights fit no CLIP with a vision transformer: {error}") from error


def clip_from_state_dict(state):
    """A float32 CLIP with these weights, in memory of its own, in eval mode.

    state: official key -> floating tensor of any precision (the three scalars may be there or not).
    Raises CheckpointError with all missing, extra and mis-shaped keys.
    """
    clip = empty_clip(config_from_state_dict(state))
    check_keys(state, {key: value.shape for key, value in official_state_dict(clip).items()})
    own = {}
    for key, tensor in state.items():
        if key not in SCALARS:
            for name, part in own_parts(key, tensor):            # always a copy: the source may be a file
                own[name] = part.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    clip.load_state_dict(own, assign=True)                       # takes these tensors, copies nothing
    return clip.eval()


def official_state_dict(clip):
    """The weights of `clip` under their official keys: the inverse of `clip_from_state_dict`."""
    official, fused = {}, {}
    for name, tensor in clip.state_dict().items():
        key, part = official_key(name)
        if part is None:
            official[key] = tensor
        else:
            fused.setdefault(key, {})[part] = tensor
    for key, parts in fused.items():
        official[key] = torch.cat([parts[p] for p in "qkv"])     # (3W, W) or (3W,)
    return official


def split_in_proj(tensor):
    """The fused projection of the official files into q, k, v: three blocks of rows in this order.

    tensor: (3W, W) weight or (3W,) bias.  Returns three views (W, W) or (W,).
    """
    return tensor.chunk(3)


def own_parts(key, tensor):
    """Yield (our name, tensor) for one official key: one pair, or three for a fused q, k, v."""
    if key.startswith("visual.") or key == "logit_scale":
        name = key.replace("visual.transformer.resblocks.", "visual.blocks.")
    else:
        name = f"text.{key}".replace("text.transformer.resblocks.", "text.blocks.")
    if ".attn.in_proj_" in name:
        for part, piece in zip("qkv", split_in_proj(tensor)):
            yield name.replace("in_proj_", f"{part}."), piece
    else:
        yield name.replace(".attn.out_proj.", ".attn.out."), tensor


def official_key(name):
    """(official key, None), or (key of the fused projection, "q", "k" or "v"), for one of our names."""
    key = name.removeprefix("text.").replace(".attn.out.", ".attn.out_proj.")
    if name.startswith("text.blocks."):
        key = key.replace("blocks.", "transformer.resblocks.", 1)
    key = key.replace("visual.blocks.", "visual.transformer.resblocks.")
    for part in "qkv":
        if f".attn.{part}." in key:
            return key.replace(f".attn.{part}.", ".attn.in_proj_"), part
    return key, None


class NoDraws(TorchFunctionMode):
    """Inside, `normal_` draws nothing.  Even on the meta device it would cost 0.7 s the first time,
    for modules of torch that it loads, and what it would draw is about to be replaced."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":       # of Tensor, and of nn.init
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def empty_clip(config):
    """A CLIP with shapes and no numbers (meta device): to be filled by load_state_dict(assign=True)."""
    with torch.device("meta"), NoDraws():
        return CLIP(config)


def shape_of(state, key, dimensions):
    """Shape of one entry.  Raises CheckpointError if it is absent or has other than `dimensions`."""
    if key not in state:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise CheckpointError(f"these are not CLIP weights with OpenAI's names: expected {key} among "
                              f"the keys, found {len(state)} others ({some}, ...)")
    if state[key].ndim != dimensions:
        raise CheckpointError(f"{key}: expected {dimensions} dimensions, "
                              f"found shape {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def count_blocks(state, prefix):
    """How many residual blocks have keys below `prefix`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def refuse_resnet(state):
    """Raise CheckpointError that names the model if the image tower is a ResNet."""
    if "visual.layer1.0.conv1.weight" in state:
        stages = tuple(count_blocks(state, f"visual.layer{n}.") for n in (1, 2, 3, 4))
        raise CheckpointError(f"this is {RESNETS.get(stages, 'a ResNet CLIP')}, a CLIP with a ResNet as "
                              "image tower; only vision transformers are supported, take ViT-B/16")


def check_keys(state, expected):
    """Raise CheckpointError with every key that is missing, too many, mis-shaped or not floating.

    expected: official key -> shape.
    """
    keys = state.keys() - set(SCALARS)
    wrong = [f"missing: {key} {tuple(expected[key])}" for key in expected if key not in keys]
    wrong += [f"not expected: {key}" for key in state if key in keys and key not in expected]
    wrong += [f"{key}: expected floating {tuple(expected[key])}, "
              f"found {state[key].dtype} {tuple(state[key].shape)}" for key in expected if key in keys
              and not (state[key].shape == expected[key] and state[key].is_floating_point())]
    if wrong:
        raise CheckpointError(f"{len(wrong)} keys do not fit; are these the weights of a CLIP with a "
                              "vision transformer, whole and unchanged?\n  " + "\n  ".join(wrong))
