"""Masked autoencoders from files: the official layout, and our own.

    official    {"model": {key: tensor}}: `mae_pretrain_vit_base.pth` holds the encoder alone,
                `mae_visualize_vit_base.pth` the decoder, too (He et al. 2022, their repository)
    ours        {"config": ..., "state": ...}, written by `save`

Official blocks hold q, k and v in one matrix; ours hold three, as in CLIP's towers.
Leaves out: fine-tuned classifiers of the official repository.
"""
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from minilora.checkpoint.openai_layout import check_keys, count_blocks, shape_of
from minilora.io.files import load_tensors, save_tensors
from minilora.io.zip_reader import read_tensors
from minilora.mae.model import MAE_B_16, MAEConfig, MAEEncoder, MaskedAutoencoder

HEADS = {1280: 16}                              # ViT-H's heads are 80 wide, all others' 64
DECODER_HEAD = 32
BLOCK = {"ln_1": "norm1", "attn.out": "attn.proj", "ln_2": "norm2", "mlp.c_fc": "mlp.fc1",
         "mlp.c_proj": "mlp.fc2"}
ENCODER = {"encoder.cls": "cls_token", "encoder.positions": "pos_embed",
           "encoder.embed": "patch_embed.proj", "encoder.norm": "norm"}
DECODER = {"mask_token": "mask_token", "positions": "decoder_pos_embed",
           "narrow": "decoder_embed", "norm": "decoder_norm", "paint": "decoder_pred"}
TOKEN_KEYS = ("cls_token", "mask_token")              # (1, 1, W) there, (W,) here


def mae_official_key(name):
    """(key in the official layout, which third of it or None) of our parameter `name`."""
    module, _, kind = name.rpartition(".")
    if ".blocks." in f".{name}":
        prefix = "blocks" if name.startswith("encoder.") else "decoder_blocks"
        number, part = module.split("blocks.")[1].split(".", 1)
        if part in ("attn.q", "attn.k", "attn.v"):
            return f"{prefix}.{number}.attn.qkv.{kind}", "qkv".index(part[-1])
        return f"{prefix}.{number}.{BLOCK[part]}.{kind}", None
    table = ENCODER if name.startswith("encoder.") else DECODER
    return (table[name], None) if name in table else (f"{table[module]}.{kind}", None)


def official_state(mae):
    """{official key: tensor} of a MaskedAutoencoder."""
    thirds, state = {}, {}
    for name, value in mae.state_dict().items():
        key, third = mae_official_key(name)
        if third is not None:
            thirds.setdefault(key, []).append(value)            # q, k, v, in this order
        elif key in TOKEN_KEYS:
            state[key] = value[None, None]
        else:
            state[key] = value[None] if key.endswith("pos_embed") else value
    return state | {key: torch.cat(parts) for key, parts in thirds.items()}


def own_state(state, names):
    """{our name: tensor} for `names` out of the official layout."""
    own = {}
    for name in names:
        key, third = mae_official_key(name)
        value = state[key].float()
        if third is not None:
            value = value.chunk(3)[third]
        own[name] = value.flatten() if key in TOKEN_KEYS else value[0] if key.endswith("pos_embed") \
            else value
    return own


def config_of(state):
    """The MAEConfig behind an official state.  Without a decoder, its numbers are the default."""
    width, _, patch, _ = shape_of(state, "patch_embed.proj.weight", 4)
    tokens = shape_of(state, "pos_embed", 3)[1]
    encoder = {"width": width, "patch": patch, "layers": count_blocks(state, "blocks."),
               "heads": HEADS.get(width, max(1, width // 64)),
               "resolution": math.isqrt(max(tokens - 1, 1)) * patch}
    if "decoder_embed.weight" not in state:
        return MAEConfig(**encoder)
    decoder = shape_of(state, "decoder_embed.weight", 2)[0]
    return MAEConfig(**encoder, decoder_width=decoder,
                     decoder_layers=count_blocks(state, "decoder_blocks."),
                     decoder_heads=max(1, decoder // DECODER_HEAD))


def from_official(state):
    """A MaskedAutoencoder, or a MAEEncoder where the state has no decoder.

    Raises CheckpointError (a ValueError) naming every key that does not fit.
    """
    config = config_of(state)
    with torch.device("meta"):
        expected = {key: tuple(v.shape) for key, v in
                    official_state(MaskedAutoencoder(config)).items()}
    whole = "decoder_embed.weight" in state
    if not whole:
        expected = {k: v for k, v in expected.items() if "decoder" not in k and k != "mask_token"}
        state = {k: v for k, v in state.items() if k != "mask_token"}
    check_keys(state, expected, "a masked autoencoder")
    if whole:
        mae = MaskedAutoencoder(config)
        mae.load_state_dict(own_state(state, mae.state_dict()))
        return mae.eval()
    encoder = MAEEncoder(config)
    own = own_state(state, [f"encoder.{name}" for name in encoder.state_dict()])
    encoder.load_state_dict({name.removeprefix("encoder."): v for name, v in own.items()})
    return encoder.eval()


def load_mae(path):
    """MaskedAutoencoder, or MAEEncoder of a file without decoder.  Raises ValueError."""
    tensors = read_tensors(path)
    official = {key.removeprefix("model."): value for key, value in tensors.items()
                if key.startswith("model.")}
    if official:
        return from_official(official)
    try:
        content = load_tensors(path)
        mae = MaskedAutoencoder(MAEConfig(**content["config"]))
        mae.load_state_dict(content["state"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a masked autoencoder, official or written by "
                         f"minilora.mae ({type(error).__name__}: {error})") from error
    return mae.eval()


def save_mae(mae, path):
    """Writes a MaskedAutoencoder in our layout."""
    save_tensors(path, {"config": asdict(mae.config), "state": dict(mae.state_dict())})


def demo():
    """What the official keys of ViT-B are, and a file of that form read back."""
    small = MAEConfig(width=64, layers=1, heads=1, patch=8, resolution=32, decoder_width=32,
                      decoder_layers=1, decoder_heads=1)
    mae = MaskedAutoencoder(small).initialise(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mae_visualize.pth"
        torch.save({"model": official_state(mae)}, path)
        again = load_mae(path)
    same = all(torch.equal(a, b) for a, b in zip(mae.state_dict().values(),
                                                 again.state_dict().values()))
    print(f"written in the official layout and read back, equal: {same}")
    for name in ("encoder.cls", "encoder.blocks.0.attn.q.weight", "blocks.0.mlp.c_fc.bias"):
        key, third = mae_official_key(name)
        print(f"{name:32s} {key}" + ("" if third is None else f", third {third + 1} of 3"))
    with torch.device("meta"):
        encoder = MAEEncoder(MAE_B_16)
    print(f"ViT-B encoder: {sum(p.numel() for p in encoder.parameters()):,} parameters")


if __name__ == "__main__":
    demo()
