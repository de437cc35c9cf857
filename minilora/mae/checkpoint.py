"""Files of masked autoencoders: the official layout and our own.

    official    {"model": {key: tensor}}: `mae_pretrain_vit_base.pth` holds only the encoder,
                `mae_visualize_vit_base.pth` also the decoder (He et al. 2022, their repository)
    ours        mae.safetensors with {"config": ..., "state": ...}, written by `save_mae`

Official blocks store q, k and v in one matrix; ours store three, as in CLIP's towers.
Symbols: W width.  Left out: fine-tuned classifiers of the official repository.
"""
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minilora.checkpoint.weight_shapes import check_keys, count_blocks, entry_shape
from minilora.io.files import load_tensors, save_tensors
from minilora.io.safetensors import is_safetensors
from minilora.io.schema import Record, TensorOf, check
from minilora.io.text import shown
from minilora.io.zip_reader import read_tensors
from minilora.mae.model import MAE_B_16, MAE_SCHEMA, MAEConfig, MAEEncoder, MaskedAutoencoder

ENCODER_HEADS = {1280: 16}              # ViT-H's heads are 80 wide, those of all others 64
DECODER_HEAD_WIDTH = 32
BLOCK_KEYS = {"ln_1": "norm1", "attn.out": "attn.proj", "ln_2": "norm2", "mlp.c_fc": "mlp.fc1",
              "mlp.c_proj": "mlp.fc2"}
ENCODER_KEYS = {"encoder.cls": "cls_token", "encoder.positions": "pos_embed",
                "encoder.embed": "patch_embed.proj", "encoder.norm": "norm"}
DECODER_KEYS = {"mask_token": "mask_token", "positions": "decoder_pos_embed",
                "narrow": "decoder_embed", "norm": "decoder_norm", "paint": "decoder_pred"}
TOKEN_KEYS = ("cls_token", "mask_token")        # official shape (1, 1, W), ours (W,)


def mae_official_key(name: str) -> tuple[str, int | None]:
    """(official key of our parameter `name`, which third of that tensor, None: all three).

    A third is the block of rows of q, k or v in the fused matrix.
    """
    module, _, kind = name.rpartition(".")
    if ".blocks." in f".{name}":
        prefix = "blocks" if name.startswith("encoder.") else "decoder_blocks"
        number, part = module.split("blocks.")[1].split(".", 1)
        if part in ("attn.q", "attn.k", "attn.v"):
            return f"{prefix}.{number}.attn.qkv.{kind}", "qkv".index(part[-1])
        return f"{prefix}.{number}.{BLOCK_KEYS[part]}.{kind}", None
    table = ENCODER_KEYS if name.startswith("encoder.") else DECODER_KEYS
    return (table[name], None) if name in table else (f"{table[module]}.{kind}", None)


def official_state(mae: MaskedAutoencoder) -> dict[str, Tensor]:
    """The weights in the official layout."""
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


def state_from_official(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """{our name: tensor} for our parameters `names`, from a state in the official layout."""
    own = {}
    for name in names:
        key, third = mae_official_key(name)
        value = state[key].float()
        if third is not None:
            value = value.chunk(3)[third]
        if key in TOKEN_KEYS:
            value = value.flatten()
        own[name] = value[0] if key.endswith("pos_embed") else value
    return own


def config_from_official(state: dict[str, Tensor]) -> MAEConfig:
    """The MAEConfig of an official state; if it has no decoder, with the default decoder sizes."""
    width, _, patch, _ = entry_shape(state, "patch_embed.proj.weight", 4)
    tokens = entry_shape(state, "pos_embed", 3)[1]
    encoder = {"width": width, "patch": patch, "layers": count_blocks(state, "blocks."),
               "heads": ENCODER_HEADS.get(width, max(1, width // 64)),
               "resolution": math.isqrt(max(tokens - 1, 1)) * patch}
    if "decoder_embed.weight" not in state:
        return MAEConfig(**encoder)
    decoder = entry_shape(state, "decoder_embed.weight", 2)[0]
    return MAEConfig(**encoder, decoder_width=decoder,
                     decoder_layers=count_blocks(state, "decoder_blocks."),
                     decoder_heads=max(1, decoder // DECODER_HEAD_WIDTH))


def from_official(state: dict[str, Tensor]) -> MaskedAutoencoder | MAEEncoder:
    """A MaskedAutoencoder, or an MAEEncoder if the state has no decoder.

    Raises CheckpointError (a ValueError) that lists every key that does not fit.
    """
    config = config_from_official(state)
    with torch.device("meta"):
        expected = {key: tuple(v.shape) for key, v in
                    official_state(MaskedAutoencoder(config)).items()}
    has_decoder = "decoder_embed.weight" in state
    if not has_decoder:
        expected = {k: v for k, v in expected.items() if "decoder" not in k and k != "mask_token"}
        state = {k: v for k, v in state.items() if k != "mask_token"}
    check_keys(state, expected, "a masked autoencoder")
    if has_decoder:
        mae = MaskedAutoencoder(config)
        mae.load_state_dict(state_from_official(state, mae.state_dict()))
        return mae.eval()
    encoder = MAEEncoder(config)
    own = state_from_official(state, [f"encoder.{name}" for name in encoder.state_dict()])
    encoder.load_state_dict({name.removeprefix("encoder."): v for name, v in own.items()})
    return encoder.eval()


def load_mae(path: str | Path) -> MaskedAutoencoder | MAEEncoder:
    """A MaskedAutoencoder, or an MAEEncoder if the file has no decoder, in evaluation mode.

    Raises ValueError in one line if the file is in neither layout.
    """
    if is_safetensors(path):
        return own_mae(path)
    tensors = read_tensors(path)
    official = {key.removeprefix("model."): value for key, value in tensors.items()
                if key.startswith("model.")}
    if not official:
        raise ValueError(f"{shown(path)}: expected a masked autoencoder, official or written by "
                         "minilora.mae; a file of an earlier minilora must be made again")
    return from_official(official)


def own_mae(path: str | Path) -> MaskedAutoencoder:
    """The MaskedAutoencoder that `save_mae` wrote.  Raises ValueError for anything else."""
    content = check(load_tensors(path), Record({"config": MAE_SCHEMA,
                                                "state": Record({}, others=True)}), shown(path))
    try:
        config = MAEConfig(**content["config"])
        with torch.device("meta"):                      # shapes only, no memory
            empty = MaskedAutoencoder(config).state_dict()
        check(content["state"], Record({name: TensorOf(tuple(value.shape), value.dtype)
                                        for name, value in empty.items()}), "state")
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}; make it again") from error
    mae = MaskedAutoencoder(config)
    mae.load_state_dict(content["state"])
    return mae.eval()


def save_mae(mae: MaskedAutoencoder, path: str | Path) -> None:
    """Write a MaskedAutoencoder in our layout."""
    save_tensors(path, {"config": asdict(mae.config), "state": dict(mae.state_dict())})


def demo() -> None:
    """Official keys of some parameters, and a file in the official layout read back."""
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
