"""The base model of a run or a search index: what is stored about it, and how it is found again.

    name, path, sha256                             which weights; the hash decides
    activation, head_width, text_head_width        what no shape tells

Claim: a memory, a threshold or an index fits the features of one model only, and no error would
say that it met others.  So weights with another SHA-256 are refused.  The activation and the
widths of the heads are used as stored, whatever configuration lies next to the file today: they
may have come from --activation, or from a config.json that was not copied with the weights.

Nothing is downloaded here: a stranger's run could name any model.
Left out: what is fitted to these weights (`detector_files.py`, search/index.py).
"""
import os.path
from dataclasses import dataclass
from pathlib import Path

import torch

from minilora.attention import ACTIVATIONS
from minilora.checkpoint.model_folder import Facts
from minilora.checkpoint.published import Weights, find_weights, hub_file, is_model_name, local_file
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP, CLIPConfig
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import sha256_of
from minilora.io.schema import Nothing, OneOf, Record, Text, Whole
from minilora.io.text import shown

UNTOLD = ("activation", "head_width", "text_head_width")        # of a CLIPConfig
BASE_SCHEMA = Record({
    "name": Text(), "path": OneOf(Nothing(), Text(10_000)), "sha256": Text(64),
    "activation": Text(choices=tuple(ACTIVATIONS)), "head_width": Whole(1, 10_000),
    "text_head_width": Whole(1, 10_000)})


@dataclass(frozen=True)
class BaseModel:
    """What is stored; `BASE_SCHEMA` describes its values."""
    name: str
    sha256: str
    path: str | None = None             # absolute
    activation: str = "quick_gelu"
    head_width: int = 64
    text_head_width: int = 64


def base_of(weights: Weights, config: CLIPConfig) -> BaseModel:
    """What to store about a loaded model."""
    path = None if weights.path is None else str(Path(weights.path).absolute())
    return BaseModel(weights.name, weights.sha256, path,
                     *(getattr(config, name) for name in UNTOLD))


def find_base(base: BaseModel) -> Path:
    """The file with this SHA-256 that a run or an index was made with: at its path, else by name.

    Nothing is downloaded.  If no file has this hash, the one at the path is returned, so that the
    caller can say what differs.  Raises CheckpointError if there is none either.
    """
    path = None if base.path is None else Path(base.path)
    candidates = [path] if path is not None else []
    if is_model_name(base.name):
        candidates += [p for p in (local_file(base.name), hub_file(base.name)) if p]
    if path is not None:
        candidates += [folder / path.name for folder in paths.weights_folders()]
    for candidate in candidates:
        if is_stored(candidate) and sha256_of(candidate) == base.sha256:
            return candidate
    if path is None or not is_stored(path):
        raise CheckpointError(f"the weights {shown(base.name)} (sha256 {shown(base.sha256, 13)}) "
                              f"were at {shown(path)}, and are neither there nor among the known "
                              "ones; give their file with --model")
    return path


def is_stored(path: Path) -> bool:
    """Whether a file with some bytes is there.  Files of /proc, which a stranger's run could name,
    say that they have none, and reading some of them never ends."""
    return os.path.isfile(path) and os.path.getsize(path) > 0


def open_base(owner: str | Path, base: BaseModel, model: str | Path | None = None,
              device: str | torch.device = "cpu") -> tuple[CLIP, Weights]:
    """The CLIP that a run or an index was made with, and its Weights.

    owner: the run or index, for messages;  model: its file, or a name; None: see `find_base`.
    Raises ValueError (CheckpointError) if it is missing or another one.
    """
    facts = Facts(*(getattr(base, name) for name in UNTOLD), f"as {shown(owner)} stores it")
    path = model or find_base(base)
    try:
        clip, weights = load_clip(path, device, known=facts)
    except CheckpointError as error:
        check_base(owner, base, find_weights(path))             # the reason, if it is another model
        raise CheckpointError(f"{shown(owner)}: {error}") from error
    check_base(owner, base, weights, clip.config)
    return clip, weights


def check_base(owner: str | Path, base: BaseModel, weights: Weights,
               config: CLIPConfig | None = None) -> None:
    """Raise ValueError unless this model is the one that a run or an index was made with."""
    if base.sha256 != weights.sha256:
        raise ValueError(f"{shown(owner)} was made with {shown(base.name)} (sha256 "
                         f"{shown(base.sha256[:12])}…), found {shown(weights.name)} "
                         f"({weights.sha256[:12]}…); give the file of these weights with --model")
    for name in UNTOLD if config else ():
        if getattr(base, name) != getattr(config, name):
            raise ValueError(f"{shown(owner)} was made with {name} {getattr(base, name)}, found "
                             f"{getattr(config, name)}; load the weights in the same way")


def demo() -> None:
    """A model is found at another place by its hash; with other weights it is refused."""
    import tempfile

    from minilora.checkpoint.weights import save_official
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
                        vocab=1000, text_width=64, text_layers=1, activation="gelu")
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(("old", "other")):
            clip = CLIP(config).initialise(torch.Generator().manual_seed(seed))
            save_official(clip, Path(folder) / f"{name}.safetensors")
        base = base_of(load_clip(Path(folder) / "old.safetensors")[1], config)
        new = (Path(folder) / "old.safetensors").rename(Path(folder) / "new.safetensors")
        clip, weights = open_base("run", base, new)
        print(f"opened {weights.name}, activation {clip.config.activation}")
        for model in (None, Path(folder) / "other.safetensors"):
            try:
                open_base("run", base, model)
            except ValueError as error:
                print(str(error).replace(folder, "…"))


if __name__ == "__main__":
    demo()
