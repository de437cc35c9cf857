"""From a name or a file to a CLIP: where weights are found, how they are fetched, what is in them.

Claim: the weights behind a result are known by their SHA-256, not by the name of a file.  Whoever
loads a model gets both together: `load_clip` returns the CLIP and a `Weights` that goes into the
metrics and the adapter, and a file that only has the name of a published one is not called so.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision".
    Addresses and hashes are those of OpenAI's released code; the ~350 MB behind them have not been
    fetched in this project: untested against the live files.

Nothing is downloaded unless a published model is asked for by name.
Leaves out: the names inside a file (`checkpoint/openai_layout.py`), reading it safely (`io/zip_reader.py`), HTTP
(`checkpoint/download.py`).
"""
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from minilora.checkpoint import download as http
from minilora.checkpoint.openai_layout import (check_keys, clip_from_state_dict,
                                               config_from_state_dict, empty_clip, official_shapes,
                                               official_state_dict)
from minilora.clip import CLIP, CLIPConfig
from minilora.io import paths
from minilora.io.cli import option_parser
from minilora.io.files import sha256_of, whole_file
from minilora.io.unpickler import CheckpointError
from minilora.io.zip_reader import check_kind, read_tensors

ADDRESS = "https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"


class Official(NamedTuple):
    """One published file.  The hash is part of its address."""
    file: str
    sha256: str
    url: str


OFFICIAL = {name: Official(file, sha256, ADDRESS.format(sha256=sha256, file=file))
            for name, file, sha256 in (
    ("ViT-B/16", "ViT-B-16.pt",
     "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    ("ViT-B/32", "ViT-B-32.pt",
     "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    ("ViT-L/14", "ViT-L-14.pt",
     "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    ("ViT-L/14@336px", "ViT-L-14-336px.pt",
     "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    ("RN50", "RN50.pt",
     "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"))}
PREFERRED = "ViT-B/16"          # taken without being asked for, if its file is there
EMBEDDED_MODEL = "mini-clip"          # otherwise this one, which is part of the package


@dataclass(frozen=True)
class Weights:
    """Which weights: a name for people, the file, and the hash of the file's bytes."""
    name: str
    path: Path
    sha256: str


def read_state_dict(path):
    """Official key -> CPU tensor in the file's own dtype, with the three scalars if they are there.

    Reads TorchScript archives and dicts saved by torch.save, and runs nothing in them; the tensors
    lie in the mapped file.  Raises CheckpointError.
    """
    return read_tensors(path)


def load_clip(name_or_path=None, device="cpu"):
    """(CLIP in float32 and eval mode on `device`, its Weights).

    name_or_path: see `find_weights`; a published model that is not there is downloaded, with
    progress.  Raises CheckpointError in words for a user: which file, what was expected and found.
    """
    if name_or_path in OFFICIAL and find_file(OFFICIAL[name_or_path].file) is None:
        download_official(name_or_path)
    path = find_path(name_or_path)
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(sha256_of, path)                   # beside it: hashing frees the GIL
        try:
            clip = clip_from_state_dict(read_state_dict(path))
        except CheckpointError as error:
            text = str(error)
            raise CheckpointError(text if str(path) in text else f"{path}: {text}") from error
    return clip.to(device), Weights(published_name(path, sha256.result()), path, sha256.result())


def find_weights(name_or_path=None):
    """The Weights that a name, a path or nothing stands for.  Loads and fetches nothing.

    None: the published ViT-B/16 if its file is in weights/ or the cache, otherwise "mini-clip".
    Raises CheckpointError if there is no such file, or none that could hold weights.
    """
    path = find_path(name_or_path)
    sha256 = sha256_of(path)
    return Weights(published_name(path, sha256), path, sha256)


def is_published(name):
    """Whether weights of this name can be found without a path."""
    return name in OFFICIAL or name == EMBEDDED_MODEL


def find_path(name_or_path):
    """The file that a name, a path or None stands for, as in `find_weights`."""
    if name_or_path is None:
        path = find_file(OFFICIAL[PREFERRED].file) or find_file(f"{EMBEDDED_MODEL}.pt")
        missing = f"{OFFICIAL[PREFERRED].file} or {EMBEDDED_MODEL}.pt"
    elif is_published(name_or_path):
        missing = OFFICIAL[name_or_path].file if name_or_path in OFFICIAL else f"{EMBEDDED_MODEL}.pt"
        path = find_file(missing)
    else:
        path, missing = Path(name_or_path), None
    if path is None:
        folders = " and ".join(map(str, paths.weights_folders()))
        wanted = name_or_path if name_or_path in OFFICIAL else PREFERRED
        raise CheckpointError(f"no weights: expected {missing} in {folders}; fetch them with "
                              f"`python -m minilora.checkpoint --download {wanted}`, or make the "
                              "small model with `python -m minilora.pretrain`")
    if not path.exists():
        check_name(str(name_or_path))
    check_kind(path)                                            # no point in hashing a web page
    return path


def find_file(file):
    """Path of the first folder for weights that has `file`, or None."""
    candidates = (folder / file for folder in paths.weights_folders())
    return next((path for path in candidates if path.is_file()), None)


def published_name(path, sha256):
    """What weights are called: as published only if the hash says so."""
    for name, official in OFFICIAL.items():
        if sha256 == official.sha256:
            return name
        if path.name == official.file:
            return f"{path.name}, not the published {name}"
    return EMBEDDED_MODEL if path.name == f"{EMBEDDED_MODEL}.pt" else path.name


def check_name(name):
    """Raise CheckpointError for a name that is neither a file nor a model that can be used."""
    raise CheckpointError(f"{name}: expected a .pt file or one of {', '.join(OFFICIAL)}, "
                          f"{EMBEDDED_MODEL}; found neither a file nor a model of this name")


def download_official(name, folder=None):
    """Fetch a published file, verify its SHA-256, and return its path.

    folder: by default weights/ of a checkout, otherwise the user's cache.  A file that is there and
    whole is not fetched again.  Raises CheckpointError that says which file to put where by hand.
    """
    if name not in OFFICIAL:
        check_name(name)
    official = OFFICIAL[name]
    path = Path(folder or paths.download_folder()) / official.file
    if path.is_file() and sha256_of(path) == official.sha256:
        return path
    try:
        return http.download_file(official.url, path, official.sha256)
    except http.DownloadError as error:
        raise CheckpointError(f"{name} could not be downloaded: {error}\n"
                              f"By hand: put {official.file} into {path.parent}\n"
                              f"from {official.url}") from error


def save_official(clip_or_state, path, half=True):
    """Write a plain state dict under the official keys, every tensor float16 (or float32).

    clip_or_state: a CLIP, or a dict that `clip_from_state_dict` takes.  Raises CheckpointError for
    other keys, or if a value does not fit into float16.
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
                              "half=False, or look where training went wrong")
    with whole_file(path) as file:
        torch.save(state, file)


def describe_checkpoint(path):
    """Print what is inside a file.  Raises CheckpointError after that if it is no CLIP for us."""
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


def demo():
    """Write a small model under the official keys, look at it, load it, take one key away."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
                        vocab=1000, text_width=64, text_layers=1)
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pt"
        save_official(clip, path)
        describe_checkpoint(path)
        again, weights = load_clip(path)
        pairs = zip(clip.parameters(), again.parameters())
        off = max((a - b).abs().max().item() for a, b in pairs)
        print(f"loaded {weights.name}: float32, off by at most {off:.1e} (was rounded to float16)")
        state = read_state_dict(path)
        del state["transformer.resblocks.0.ln_1.bias"]
        try:
            clip_from_state_dict({**state, "visual.extra": torch.zeros(1)})
        except CheckpointError as error:
            print(error)


def main():
    """Shows what is inside a file of weights, or fetches a published one."""
    parser = option_parser("minilora.checkpoint", main.__doc__)
    parser.add_argument("file", nargs="?", help="a .pt file; without it, a demonstration")
    parser.add_argument("--download", metavar="NAME", help=f"one of {', '.join(OFFICIAL)}")
    parser.add_argument("--folder", help="where to put it (default: weights/ of a checkout, "
                        "otherwise the user's cache)")
    options = parser.parse_args()
    if options.download:
        print(f"{download_official(options.download, options.folder)} is there and has the right sha256")
    if options.file:
        describe_checkpoint(options.file)
    if not (options.download or options.file):
        demo()


if __name__ == "__main__":
    demo()
