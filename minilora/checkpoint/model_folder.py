"""A folder with a model: which file holds the weights, and what its configuration files say.

    Hugging Face    model.safetensors or pytorch_model.bin, with config.json
    open_clip       open_clip_model.safetensors or open_clip_pytorch_model.bin, with
                    open_clip_config.json

Claim: shapes do not tell the activation and the width of a head, but these files do.  So they are
read from the folder of the weights, also if the file itself was named.

    https://github.com/huggingface/transformers (configuration files of a model)
    https://github.com/mlfoundations/open_clip (push_to_hf_hub.py: names of its files)
Left out: what the configurations mean (`huggingface_layout.py`, `open_clip_layout.py`); models in
several files.
"""
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.data.images import CLIP_MEAN, CLIP_STD
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import read_json
from minilora.io.text import shown

# open_clip's first: timm keeps its own image tower in the same folder as model.safetensors.
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = OPEN_CLIP_FILES + HUGGING_FACE_FILES
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Facts:
    """What no shape tells about a CLIP, and which file says so."""
    activation: str                     # a key of attention.ACTIVATIONS
    head_width: int = 64                # of the image tower
    text_head_width: int = 64
    why: str = ""                       # for example "hidden_act in config.json"
    note: str = ""                      # something that the user should know, or ""


def weights_in(folder: Path, names: tuple[str, ...] = WEIGHT_FILES) -> Path:
    """The file of weights in a folder.  Raises CheckpointError that lists what was expected."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    split = next((name for name in names if (folder / f"{name}.index.json").is_file()), None)
    if split:
        raise CheckpointError(f"{shown(folder)} holds a model in several files "
                              f"({split}.index.json); save it as one, with save_pretrained(..., "
                              "max_shard_size=\"100GB\")")
    raise CheckpointError(f"{shown(folder)} is a folder without weights; expected "
                          f"{' or '.join(names)} in it, or give the file itself")


def config_beside(path: Path, name: str) -> dict[str, Any] | None:
    """The content of the configuration file `name` next to the weights; None if there is none.

    Raises CheckpointError if it cannot be read or is no JSON object.
    """
    config = path.parent / name
    if not config.exists():
        return None
    try:
        content = read_json(config, MAX_CONFIG_BYTES)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"the configuration of {shown(path)} cannot be read: "
                              f"{shown(error)}") from error
    if type(content) is not dict:
        raise CheckpointError(f"{shown(config)}: expected a JSON object, found "
                              f"{type(content).__name__}; save the model again")
    return content


def normalisation_note(mean: Any, std: Any) -> str:
    """A warning if a model's pictures were normalised in another way than CLIP's; "" if not."""
    def equal(found, expected):
        return isinstance(found, (list, tuple)) and len(found) == 3 and all(
            type(a) in (int, float) and b - 1e-3 < a < b + 1e-3 for a, b in zip(found, expected))
    if (mean is None or equal(mean, CLIP_MEAN)) and (std is None or equal(std, CLIP_STD)):
        return ""
    return (f"it was trained on pictures with mean {shown(json.dumps(mean), 60)} and std "
            f"{shown(json.dumps(std), 60)}, and gets CLIP's: its features are less exact here")


def demo() -> None:
    """The file and the configuration that are found in a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("pytorch_model.bin", "model.safetensors", "config.json"):
            (folder / file).write_text('{"model_type": "clip"}')
            try:
                print(f"with {file} too: {weights_in(folder).name}, configuration "
                      f"{config_beside(folder / 'model.safetensors', 'config.json')}")
            except CheckpointError as error:
                print(error)
    print(normalisation_note([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]))


if __name__ == "__main__":
    demo()
