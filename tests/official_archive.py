"""Write archives as OpenAI published CLIP: a traced TorchScript module, not a dict of tensors.

`official_module(state)` builds a tree of ordinary torch modules with the official attribute names
and the official precisions: convolution, linear, attention, `visual.proj` and
`text_projection` in float16, norms and embeddings in float32, and three int64 scalars as buffers.
`write_archive` traces the tree and saves it.

    python tests/official_archive.py OUT.pt     full-size ViT-B/16, ../shared's seeded weights
"""
import sys
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn


class WeightsOnly(nn.Module):
    """A module whose forward does nothing: only the weights of the archive are read."""

    def forward(self, x):
        return x


def official_module(state):
    """Modules holding a copy of `state` in the published precisions, and the three scalars."""
    root = WeightsOnly()
    for key in state:
        parent = root
        *path, _ = key.split(".")
        for depth, name in enumerate(path):
            if name not in parent._modules:
                parent.add_module(name, make_module(".".join(path[:depth + 1]), state))
            parent = parent._modules[name]
    for key, tensor in state.items():
        *path, name = key.split(".")
        module = root.get_submodule(".".join(path))
        half = (isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention))
                or key in ("visual.proj", "text_projection"))
        value = tensor.detach().to(torch.float16 if half else torch.float32, copy=True)
        if "running_" in name or name == "num_batches_tracked":
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    root.register_buffer("input_resolution", torch.tensor(resolution_of(state)))
    root.register_buffer("context_length", torch.tensor(len(state["positional_embedding"])))
    root.register_buffer("vocab_size", torch.tensor(len(state["token_embedding.weight"])))
    return root.eval()


def make_module(path, state):
    """The torch module of the official model at this attribute path, with weights not yet set."""
    weight, name = state.get(f"{path}.weight"), path.split(".")[-1]
    with torch.device("meta"):
        if f"{path}.in_proj_weight" in state:
            width = state[f"{path}.out_proj.weight"].shape[0]
            return nn.MultiheadAttention(width, width // 64 or 1)
        if name == "resblocks":
            return nn.Sequential()
        if name == "token_embedding":
            return nn.Embedding(*weight.shape)
        if weight is None or f"{path}.running_mean" in state:
            return WeightsOnly()
        if weight.ndim == 4:
            return nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], bias=f"{path}.bias" in state)
        return nn.Linear(*weight.shape[::-1]) if weight.ndim == 2 else nn.LayerNorm(len(weight))


def resolution_of(state):
    """Side of the model's square input in pixels: patches per side times the patch size."""
    if "visual.positional_embedding" not in state:              # a ResNet: stride 32
        return 32 * round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return grid * state["visual.conv1.weight"].shape[-1]


def write_archive(state, path, script=False, location="cpu"):
    """Write `state` as a TorchScript archive: traced as OpenAI did, or scripted.

    location: the device stored with every tensor; "cuda:0" in the published files.
    """
    module = official_module(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # torch.jit is deprecated
        made = torch.jit.script(module) if script else torch.jit.trace(module, torch.zeros(1))
        made.save(str(path))
    if location != "cpu":
        change_archive(path, lambda name, data: data.replace(pickled("cpu"), pickled(location))
                       if name.endswith("/data.pkl") else data)


def pickled(text):
    """The bytes of a short string in a pickle."""
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def change_archive(path, change, compression=zipfile.ZIP_STORED):
    """Replace each record by change(name, data); remove it if that is None.

    The new zip has no padding between records, so most numbers are not aligned.
    """
    with zipfile.ZipFile(path) as old:
        records = [(name, change(name, old.read(name))) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in records:
            if data is not None:
                new.writestr(name, data)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shared = Path(__file__).resolve().parents[2] / "shared" / "golden"
    sys.path.insert(0, str(shared))
    import seeded_weights
    write_archive(seeded_weights.seeded_state_dict(seeded_weights.ViT_B_16), sys.argv[1])
    print(f"{sys.argv[1]}: {Path(sys.argv[1]).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
