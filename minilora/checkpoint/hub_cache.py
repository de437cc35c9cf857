"""Models in the local cache of the Hugging Face hub, found by their names; nothing is downloaded.

    <hub>/models--openai--clip-vit-base-patch16/refs/main                   the revision
    <hub>/models--openai--clip-vit-base-patch16/snapshots/<revision>/...    its files, links to
    <hub>/models--openai--clip-vit-base-patch16/blobs/<sha256>              the contents

Claim: whoever has used CLIP with transformers or open_clip has its weights already.  <hub> is
$HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else
~/.cache/huggingface/hub.

    https://github.com/huggingface/huggingface_hub (constants.py, file_download.py)
Left out: other revisions than the one that refs/main names; the cache's layout of before 2022.
"""
import os
import re
import tempfile
from pathlib import Path

from minilora.checkpoint.model_folder import WEIGHT_FILES, weights_in
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.regular_file import read_regular
from minilora.io.text import shown

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")    # owner/name
REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)")                      # a folder's name


def hub_folder() -> Path | None:
    """The cache of the hub, which may not exist; None if there is no home folder to look in."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    home = os.path.expanduser(home)             # leaves ~ as it is if there is no home
    return None if home.startswith("~") else Path(home) / "hub"


def is_hub_name(name: str | Path) -> bool:
    """Whether `name` has the form owner/name.  A path can have it too."""
    return isinstance(name, str) and HUB_NAME.fullmatch(name) is not None


def cached_model(name: str, files: tuple[str, ...] = WEIGHT_FILES) -> Path | None:
    """The file of weights of a hub model in the local cache; None if the model is not there.

    files: names to look for.  Raises CheckpointError if the model is there without weights.
    """
    hub = hub_folder()
    folder = hub / f"models--{name.replace('/', '--')}" if hub else None
    if folder is None or not (folder / "snapshots").is_dir():
        return None
    return weights_in(folder / "snapshots" / revision_of(folder), files)


def revision_of(folder: Path) -> str:
    """The revision that refs/main names; without this file, the only one that is there."""
    try:
        revision = read_regular(folder / "refs" / "main", 1000).decode("ascii").strip()
    except FileNotFoundError:
        found = sorted(path.name for path in (folder / "snapshots").iterdir() if path.is_dir())
        if len(found) != 1:
            raise CheckpointError(f"{shown(folder)} has {len(found)} revisions and no "
                                  "refs/main, which says which one to use; give the path of the "
                                  "file") from None
        return found[0]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(folder)}/refs/main cannot be read: {shown(error)}; "
                              "give the path of the file") from error
    if not REVISION.fullmatch(revision):
        raise CheckpointError(f"{shown(folder)}/refs/main names the revision "
                              f"{shown(repr(revision), 60)}, which is none; download the model "
                              "again")
    return revision


def hub_name_of(path: Path, sha256: str) -> str | None:
    """"owner/name" of a file in a hub cache; None for other files.

    The cache names a file's content by its SHA-256.  A file with another content is not that model.
    """
    blob = Path(os.path.realpath(path)).name
    if re.fullmatch("[0-9a-f]{64}", blob) and blob != sha256:
        return None
    return snapshot_of(path)


def snapshot_of(path: Path) -> str | None:
    """"owner/name" of the hub model in whose folder a file lies; None for other files."""
    parts = path.parts
    match = SNAPSHOT.fullmatch(parts[-4]) if len(parts) > 3 and parts[-3] == "snapshots" else None
    return f"{match[1]}/{match[2]}" if match else None


def demo() -> None:
    """A cache with one model, found by its name."""
    before = os.environ.get("HF_HUB_CACHE")
    with tempfile.TemporaryDirectory() as hub:
        os.environ["HF_HUB_CACHE"] = hub
        folder = Path(hub) / "models--openai--clip-vit-base-patch16"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("57c216\n")
        (folder / "snapshots" / "57c216").mkdir(parents=True)
        (folder / "snapshots" / "57c216" / "model.safetensors").write_bytes(b"")
        path = cached_model("openai/clip-vit-base-patch16")
        print(path.relative_to(hub))
        print("is", hub_name_of(path, "0" * 64))
        print("another model:", cached_model("openai/clip-vit-large-patch14"))
    os.environ.pop("HF_HUB_CACHE")
    if before is not None:
        os.environ["HF_HUB_CACHE"] = before


if __name__ == "__main__":
    demo()
