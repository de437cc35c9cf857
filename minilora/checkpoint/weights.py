"""Load a CLIP from a file of weights, save one, and show what is in a file.

Claim: a result must say which weights it was made with; their SHA-256 identifies them.  So
`load_clip` returns the model together with its `Weights` (name, path, SHA-256), which are stored
with metrics and adapters.

Nothing is downloaded unless a published model is requested by name.
Left out: which file a name means (`checkpoint/published.py`), the names of the tensors in a file
(`checkpoint/openai_layout.py`), reading a file safely (`io/zip_reader.py`).
"""
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from minilora.checkpoint.openai_layout import (check_keys, clip_from_state_dict,
                                               config_from_state_dict, empty_clip, official_shapes,
                                               official_state_dict)
from minilora.checkpoint.published import (OFFICIAL, Weights, download_official, find_file,
                                           find_path, published_name)
from minilora.clip import CLIP, CLIPConfig
from minilora.io.cli import option_parser
from minilora.io.files import atomic_write, sha256_of
from minilora.io.unpickler import CheckpointError
from minilora.io.zip_reader import read_tensors


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Official key -> CPU tensor in the file's dtype; the three scalars too if the file has them.

    Reads TorchScript archives and dicts saved by torch.save; runs no code in them.  The tensors are
    views of the mapped file.  Raises CheckpointError.
    """
    return read_tensors(path)


def load_clip(name_or_path: str | Path | None = None, device: str | torch.device = "cpu"
              ) -> tuple[CLIP, Weights]:
    """(CLIP in float32 and eval mode on `device`, its Weights).

    name_or_path: see `find_weights`; a published model whose file is missing is downloaded.  Raises
    CheckpointError that names the file, what was expected and what was found.
    """
    if name_or_path in OFFICIAL and find_file(OFFICIAL[name_or_path].file) is None:
        download_official(name_or_path)
    path = find_path(name_or_path)
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(sha256_of, path)                   # while loading: it releases the GIL
        try:
            clip = clip_from_state_dict(read_state_dict(path))
        except CheckpointError as error:
            text = str(error)
            raise CheckpointError(text if str(path) in text else f"{path}: {text}") from error
    return clip.to(device), Weights(published_name(path, sha256.result()), path, sha256.result())


def save_official(clip_or_state: CLIP | dict[str, Tensor], path: str | Path,
                  half: bool = True) -> None:
    """Write a state dict under the official keys, every tensor in float16 (or float32).

    clip_or_state: a CLIP, or a dict that `clip_from_state_dict` accepts.  Raises CheckpointError
    for other keys, or if a value is too large for float16.
    """
    state = clip_or_state
    if isinstance(state, CLIP):
        state = official_state_dict(state)
    check_keys(state, official_shapes(empty_clip(config_from_state_dict(state))))
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().to("cpu", dtype, copy=True) for key, value in state.items()
             if value.is_floating_point()}
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} was not written: {broken[0]} and {len(broken) - 1} others "
                              f"have values that are infinite or NaN as {dtype}; save with "
                              "half=False, or check the training for divergence")
    with atomic_write(path) as file:
        torch.save(state, file)


def describe_checkpoint(path: str | Path) -> None:
    """Print what a file holds; afterwards CheckpointError if it is not a CLIP that can be used."""
    state = read_state_dict(path)
    sha256 = sha256_of(path)
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    print(f"{path}: {published_name(Path(path), sha256)}")
    print(f"sha256      {sha256}")
    print(f"keys        {len(state)}: " + ", ".join(f"{n} {kind}" for kind, n in dtypes.items()))
    print(f"config      {config_from_state_dict(state)}")
    clip = empty_clip(config_from_state_dict(state))
    check_keys(state, official_shapes(clip))
    image, text, total = (sum(p.numel() for p in module.parameters())
                          for module in (clip.visual, clip.text, clip))
    print(f"parameters  image {image:,} + text {text:,} + temperature 1 = {total:,}")


def demo() -> None:
    """Save a small model under the official keys, describe it, load it; then remove one key."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
                        vocab=1000, text_width=64, text_layers=1)
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pt"
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


def main() -> None:
    """Shows what is inside a file of weights, or downloads a published one."""
    parser = option_parser("minilora.checkpoint", main.__doc__)
    parser.add_argument("file", nargs="?", help="a .pt file; without it, a demonstration")
    parser.add_argument("--download", metavar="NAME", help=f"one of {', '.join(OFFICIAL)}")
    parser.add_argument("--folder", help="where to put the download (default: weights/ of a "
                        "checkout, otherwise the user's cache)")
    options = parser.parse_args()
    if options.download:
        path = download_official(options.download, options.folder)
        print(f"{path} is there and has the right sha256")
    if options.file:
        describe_checkpoint(options.file)
    if not (options.download or options.file):
        demo()


if __name__ == "__main__":
    demo()
