"""Load a CLIP from a file of weights, save one, and show what is in a file.

Claim: a result must say which weights it was made with; their SHA-256 identifies them.  So
`load_clip` returns the model together with its `Weights` (name, path, SHA-256), which are stored
with metrics and adapters.

    name ── published.py ──► file ── recognise.py ──► OpenAI's names, CLIPConfig
         ── openai_layout.py ──► CLIP

Nothing is downloaded unless the caller asks for it and names a published model.
Left out: which file a name means (`checkpoint/published.py`), which layout a file has
(`checkpoint/recognise.py`), reading a file safely (`io/safetensors.py`, `io/zip_reader.py`).
"""
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.attention import ACTIVATIONS
from minilora.checkpoint.download_published import download_official
from minilora.checkpoint.model_folder import Facts
from minilora.checkpoint.openai_layout import (clip_from_state_dict, empty_clip, official_shapes,
                                               official_state_dict)
from minilora.checkpoint.published import (OFFICIAL, Weights, find_path, hub_file, local_file,
                                           published_name, published_spelling)
from minilora.checkpoint.recognise import CLIP_FORMAT, OPENAI, read_file, recognise
from minilora.checkpoint.weight_shapes import check_keys, config_from_state_dict
from minilora.checkpoint.weight_values import check_values
from minilora.clip import CLIP, CLIPConfig
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.cli import option_parser
from minilora.io.files import sha256_of, write_safetensors
from minilora.io.parser import OneLineParser
from minilora.io.text import shown

SAVED_SUFFIX = ".safetensors"
LISTED_KEYS = 4                         # of those that are ignored


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Key -> CPU tensor, both as in the file; the three scalars too if the file has them.

    Reads safetensors, TorchScript archives and dicts saved by torch.save; runs no code in them.
    The tensors are views of the mapped file.  Raises CheckpointError.
    """
    return read_file(Path(path))[0]


def load_clip(name_or_path: str | Path | None = None, device: str | torch.device = "cpu",
              activation: str | None = None, download: bool = False,
              known: Facts | None = None) -> tuple[CLIP, Weights]:
    """(CLIP in float32 and eval mode on `device`, its Weights).

    name_or_path: see `find_weights`;  activation: "quick_gelu" or "gelu" in place of what the file
    says;  download: fetch a published model that is not there;  known: what no shape tells, in
    place of what the file says.  Raises CheckpointError that names the file, what was expected and
    what was found.
    """
    name_or_path = published_spelling(name_or_path)
    if download and name_or_path in OFFICIAL and not (local_file(name_or_path)
                                                      or hub_file(name_or_path)):
        download_official(name_or_path)
    path = find_path(name_or_path)
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(sha256_of, path)                   # while loading: it releases the GIL
        layout = ""
        try:
            found = recognise(path, activation, known)
            layout = f" ({found.layout}, given here as OpenAI's)" * (found.layout != OPENAI)
            clip = clip_from_state_dict(found.state, found.config, found.named)
        except ValueError as error:
            text = str(error)
            raise CheckpointError(text if str(path) in text else f"{shown(path)}{layout}: {text}"
                                  ) from error
    name = published_name(path, sha256.result())
    return clip.to(device), Weights(name, path, sha256.result(), found.about())


def add_activation_option(add: Callable[..., Any]) -> None:
    """Add --activation next to a command's --model.  add: a parser's or a group's add_argument."""
    add("--activation", metavar="NAME", choices=tuple(ACTIVATIONS),
        help=f"of the model: {', '.join(ACTIVATIONS)}")


def check_saved_name(path: str | Path) -> None:
    """Raise ValueError unless a file name ends in .safetensors: nothing is saved as a pickle."""
    if Path(path).suffix != SAVED_SUFFIX:
        raise ValueError(f"{shown(path)}: weights are saved as safetensors; expected a name that "
                         f"ends in {SAVED_SUFFIX}")


def save_official(clip_or_state: CLIP | dict[str, Tensor], path: str | Path,
                  half: bool = True) -> None:
    """Write safetensors under the official keys, every tensor in float16 (or float32).

    clip_or_state: a CLIP, or a dict that `clip_from_state_dict` accepts; its activation and head
    widths go into the metadata.  Raises ValueError for another suffix than .safetensors,
    CheckpointError for other keys, or if a value is too large for float16.
    """
    check_saved_name(path)
    state = clip_or_state
    if isinstance(state, CLIP):
        config, state = state.config, official_state_dict(state)
    else:
        config = config_from_state_dict(state)
        check_keys(state, official_shapes(empty_clip(config)))
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().to("cpu", dtype, copy=True) for key, value in state.items()
             if value.is_floating_point()}
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} was not written: {broken[0]} and {len(broken) - 1} others "
                              f"have values that are infinite or NaN as {dtype}; save with "
                              "half=False, or check the training for divergence")
    try:
        check_values(state)                                     # it could not be loaded again
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)} was not written: {error}") from error
    write_safetensors(path, state, {
        "format": CLIP_FORMAT, "activation": config.activation,
        "head_width": str(config.head_width), "text_head_width": str(config.text_head_width)})


def describe_checkpoint(path: str | Path, activation: str | None = None) -> None:
    """Print what a file holds; afterwards CheckpointError if it is not a CLIP that can be used."""
    path = find_path(path)
    tensors, _ = read_file(path)
    sha256 = sha256_of(path)
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in tensors.values())
    print(f"{shown(path)}: {shown(published_name(path, sha256))}")
    print(f"sha256      {sha256}")
    print(f"keys        {len(tensors)}: " + ", ".join(f"{n} {kind}" for kind, n in dtypes.items()))
    found = recognise(path, activation)
    print(f"layout      {found.about()}")
    if found.ignored:
        more = ", ..." * (len(found.ignored) > LISTED_KEYS)
        print(f"ignored     {len(found.ignored)} keys that are no weights of the model: "
              f"{', '.join(shown(key, 60) for key in found.ignored[:LISTED_KEYS])}{more}")
    print(f"config      {found.config}")
    clip = empty_clip(found.config)
    check_keys(found.state, official_shapes(clip))
    check_values(found.named)
    image, text, total = (sum(p.numel() for p in module.parameters())
                          for module in (clip.visual, clip.text, clip))
    print(f"parameters  image {image:,} + text {text:,} + temperature 1 = {total:,}")
    print("usable by   minilora.search" + (
        "; not by minilora.fit, which needs a vision transformer" if found.config.is_resnet else
        " and minilora.fit, with --model"))


def demo() -> None:
    """Save a small model under the official keys, describe it, load it; then remove one key."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
                        vocab=1000, text_width=64, text_layers=1)
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        save_official(clip, path)
        describe_checkpoint(path)
        again, weights = load_clip(path)
        pairs = zip(clip.parameters(), again.parameters())
        difference = max((a - b).abs().max().item() for a, b in pairs)
        print(f"loaded {weights.name} as float32; largest difference {difference:.1e} "
              "(rounding to float16)")
        state = read_state_dict(path)
        del state["transformer.resblocks.0.ln_1.bias"]
        try:
            clip_from_state_dict({**state, "visual.extra": torch.zeros(1)})
        except CheckpointError as error:
            print(error)


def parser() -> OneLineParser:
    """The options of the command."""
    p = option_parser("minilora.checkpoint", main.__doc__, "--download ViT-B/16",
                      f"NAME is one of {', '.join(OFFICIAL)}.\n"
                      "Size: openai 350 to 935 MB (16 bits), huggingface 600 to 1,711 MB (32).")
    p.add_argument("file", nargs="?", help="a file or folder of weights, or a model's name")
    p.add_argument("--download", metavar="NAME", help="download a published model")
    p.add_argument("--source", metavar="HOST", choices=("openai", "huggingface"),
                   default="openai", help="openai or huggingface")
    p.add_argument("--folder", metavar="FOLDER", help="for it (default: weights/ or the cache)")
    add_activation_option(p.rare.add_argument)
    return p


def main() -> None:
    """Shows what is inside a file of weights, or downloads a published one."""
    options = parser().parse_args()
    if options.download:
        path = download_official(options.download, options.folder, options.source)
        pinned = options.source == "openai"
        print(f"{path} is there and has the right sha256" if pinned else
              f"{path} is there and has the sha256 that the hub announced")
        if not pinned:
            describe_checkpoint(path)
    if options.file:
        describe_checkpoint(options.file, options.activation)
    if not (options.download or options.file):
        demo()


if __name__ == "__main__":
    demo()
