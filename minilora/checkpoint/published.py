"""From the name of a model, or a path, to the file of weights on this computer.

Claim: the SHA-256 of a file, not its name, says which weights it holds.  A file that has only the
name of a published one is reported under another name, because results depend on the content.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision".
    Addresses and hashes are those of OpenAI's released code.

Left out: downloads (`checkpoint/download_published.py`), the cache of the Hugging Face hub
(`checkpoint/hub_cache.py`), reading a file (`checkpoint/weights.py`).
"""
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from minilora.checkpoint.hub_cache import cached_model, hub_folder, hub_name_of, is_hub_name
from minilora.checkpoint.model_folder import (HUGGING_FACE_FILES, OPEN_CLIP_FILES, WEIGHT_FILES,
                                              weights_in)
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.cli import shell_command
from minilora.io.file_type import check_file_type
from minilora.io.files import sha256_of
from minilora.io.text import shown

ADDRESS = "https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"


class OfficialFile(NamedTuple):
    """One published file.  Its address contains its hash."""
    file: str
    sha256: str
    url: str


OFFICIAL = {name: OfficialFile(file, sha256, ADDRESS.format(sha256=sha256, file=file))
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
# How open_clip writes these names; its own weights under them are given as a file or a folder.
OPEN_CLIP_NAMES = {"ViT-B-16": "ViT-B/16", "ViT-B-32": "ViT-B/32", "ViT-L-14": "ViT-L/14",
                   "ViT-L-14-336": "ViT-L/14@336px"}
# The same weights on the hub: by OpenAI under Hugging Face's names, by timm under open_clip's.
HUB_MODELS = {"ViT-B/16": ("openai/clip-vit-base-patch16", "timm/vit_base_patch16_clip_224.openai"),
              "ViT-B/32": ("openai/clip-vit-base-patch32", "timm/vit_base_patch32_clip_224.openai"),
              "ViT-L/14": ("openai/clip-vit-large-patch14",
                           "timm/vit_large_patch14_clip_224.openai"),
              "ViT-L/14@336px": ("openai/clip-vit-large-patch14-336",
                                 "timm/vit_large_patch14_clip_336.openai"),
              "RN50": ("timm/resnet50_clip.openai",)}
OF_THE_HUB = " (Hugging Face)"      # behind owner/name of a file in the hub's cache
PREFERRED_MODEL = "ViT-B/16"    # the default if its file is present
BUNDLED_MODEL = "mini-clip"     # the default otherwise; its file is part of the package
SUFFIXES = (".safetensors", ".pt")


@dataclass(frozen=True)
class Weights:
    """Identifies weights: a readable name, the absolute path, the SHA-256 of the file's bytes.

    about: layout, activation and why, in one line; "" if the file has not been read.
    """
    name: str
    path: Path
    sha256: str
    about: str = field(default="", compare=False)


def find_weights(name_or_path: str | Path | None = None) -> Weights:
    """The Weights of a model name or a path.  Does not load or download anything.

    None: ViT-B/16 if its file is in weights/ or the cache, otherwise "mini-clip";  a published
    name: its file in the same folders, else in the hub's cache;  owner/name: in the hub's cache;  a
    path: a file, or a folder as Hugging Face or open_clip saves it.
    Raises CheckpointError if there is no such file, or if it cannot be a file of weights.
    """
    path = find_path(name_or_path)
    sha256 = sha256_of(path)
    return Weights(published_name(path, sha256), path, sha256)


def published_spelling(name: str | Path | None) -> str | Path | None:
    """ViT-B/16 for open_clip's ViT-B-16, unless a file or folder has that name; others as given."""
    found = OPEN_CLIP_NAMES.get(str(name))
    return found if found and not Path(str(name)).exists() else name


def is_model_name(name: str | Path) -> bool:
    """Whether `name` is a known model, for which no path is needed."""
    return name in OFFICIAL or name == BUNDLED_MODEL


def find_path(name_or_path: str | Path | None) -> Path:
    """The absolute path of the file of a model name, a path or None, as in `find_weights`."""
    name_or_path = published_spelling(name_or_path)
    if name_or_path is None:
        path = local_file(PREFERRED_MODEL) or local_file(BUNDLED_MODEL)
    elif is_model_name(name_or_path):
        path = local_file(name_or_path) or hub_file(name_or_path)
    elif is_hub_name(name_or_path) and not Path(name_or_path).exists():
        path = cached_model(name_or_path)
        if path is None:
            raise unknown_model(name_or_path)
    else:
        path = Path(name_or_path)
        if not path.exists():
            raise unknown_model(str(name_or_path))
        path = weights_in(path) if path.is_dir() else path
    if path is None:
        raise no_weights(name_or_path)
    # Not resolved: a file of the hub's cache is a link, and its configuration lies beside the link.
    path = Path(os.path.abspath(path))
    check_file_type(path)                                       # before the whole file is hashed
    return path


def file_names(name: str) -> list[str]:
    """Names that the file of a known model can have in a folder with weights."""
    if name == BUNDLED_MODEL:
        return [name + suffix for suffix in SUFFIXES]
    file = OFFICIAL[name].file
    return [file, file.removesuffix(".pt") + ".safetensors"]


def local_file(name: str) -> Path | None:
    """The file of a known model in the first weights folder that has it, or None."""
    candidates = (folder / file for folder in paths.weights_folders() for file in file_names(name))
    return next((path for path in candidates if path.is_file()), None)


def hub_file(name: str) -> Path | None:
    """The file of a known model in the hub's cache, or None.

    timm's models hold their own image tower too, under other names; it is not looked for.
    """
    for repo in HUB_MODELS.get(name, ()):
        files = OPEN_CLIP_FILES if repo.startswith("timm/") else HUGGING_FACE_FILES
        try:
            path = cached_model(repo, files)
        except CheckpointError:                 # there without weights: as if it were not there
            continue
        if path is not None:
            return path
    return None


def published_name(path: Path, sha256: str) -> str:
    """The name to report for weights: that of a published model only if the hash is the same."""
    for name, official in OFFICIAL.items():
        if sha256 == official.sha256:
            return name
        if path.name == official.file:
            return f"{path.name}, not the published {name}"
    repo = hub_name_of(path, sha256)
    if repo:
        return f"{repo}{OF_THE_HUB}"
    if path.name in file_names(BUNDLED_MODEL) and path.parent.resolve() in (
            folder.resolve() for folder in paths.weights_folders()):
        return BUNDLED_MODEL
    return f"{path.parent.name}/{path.name}" if path.name in WEIGHT_FILES else path.name


def name_on_the_hub(name: str) -> str:
    """owner/name for a name of `published_name`, if the hub has the model; else the name itself."""
    return HUB_MODELS.get(name, (name.removesuffix(OF_THE_HUB),))[0]


def unknown_model(name: str) -> CheckpointError:
    """The error for a name that is neither a file nor a known model; it lists the known ones."""
    return CheckpointError(f"{shown(name)}: expected a file or folder of weights, one of "
                           f"{', '.join(OFFICIAL)}, {BUNDLED_MODEL}, or owner/name of a model in "
                           f"the cache of Hugging Face ({hub_folder() or 'no home folder'}); found "
                           "none of them")


def no_weights(name: str | None) -> CheckpointError:
    """The error for a known model, or None, without a file."""
    wanted = name if name in OFFICIAL else PREFERRED_MODEL
    expected = file_names(name) if name else [*file_names(wanted), *file_names(BUNDLED_MODEL)]
    small = f", or make the small model with: {shell_command('pretrain')}"
    hub = [] if name is None else HUB_MODELS.get(name, ())
    places = " and ".join(map(str, paths.weights_folders()))
    cache = f", or {' or '.join(hub)} in {hub_folder()}" if hub and hub_folder() else ""
    return CheckpointError(f"no weights found: expected {' or '.join(expected)} in {places}{cache};"
                           " download them with: "
                           f"{shell_command('checkpoint', '--download', wanted)}"
                           f"{'' if name in OFFICIAL else small}")


def demo() -> None:
    """Show that the hash decides the reported name; look for a file that is absent."""
    official = OFFICIAL[PREFERRED_MODEL]
    print(f"{len(OFFICIAL)} published models: {', '.join(OFFICIAL)}")
    print(f"{PREFERRED_MODEL}: {official.file}, sha256 {official.sha256[:12]}...")
    for hash_of_file in (official.sha256, "0" * 64):
        print(f"{official.file} with sha256 {hash_of_file[:12]}... is reported as: "
              f"{published_name(Path(official.file), hash_of_file)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            find_weights(Path(folder) / "absent.pt")
        except CheckpointError as error:
            print(str(error).replace(folder, "..."))


if __name__ == "__main__":
    demo()
