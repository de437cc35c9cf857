"""Published CLIP weights: which file a name means, where it is searched for, how it is downloaded.

Claim: the SHA-256 of a file, not its name, says which weights it holds.  A file that has only the
name of a published one is reported under another name, because results depend on the content.

    Radford et al. 2021, "Learning transferable visual models from natural language supervision".
    Addresses and hashes are those of OpenAI's released code.  This project has not downloaded these
    files of about 350 MB each: the addresses are not tested.

Nothing is downloaded here unless `download_official` is called with the name of a published model.
Left out: HTTP (`checkpoint/download.py`), reading a file (`checkpoint/weights.py`).
"""
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minilora.checkpoint import download as http
from minilora.io import paths
from minilora.io.files import sha256_of
from minilora.io.unpickler import CheckpointError
from minilora.io.zip_reader import check_file_type

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
PREFERRED_MODEL = "ViT-B/16"    # the default if its file is present
BUNDLED_MODEL = "mini-clip"     # the default otherwise; its file is part of the package


@dataclass(frozen=True)
class Weights:
    """Identifies weights: a readable name, the file, and the SHA-256 of the file's bytes."""
    name: str
    path: Path
    sha256: str


def find_weights(name_or_path: str | Path | None = None) -> Weights:
    """The Weights of a model name or a path.  Does not load or download anything.

    None: the published ViT-B/16 if its file is in weights/ or the cache, otherwise "mini-clip".
    Raises CheckpointError if there is no such file, or if it cannot be a file of weights.
    """
    path = find_path(name_or_path)
    sha256 = sha256_of(path)
    return Weights(published_name(path, sha256), path, sha256)


def is_model_name(name: str | Path) -> bool:
    """Whether `name` is a known model, for which no path is needed."""
    return name in OFFICIAL or name == BUNDLED_MODEL


def find_path(name_or_path: str | Path | None) -> Path:
    """The file of a model name, a path or None, as in `find_weights`."""
    if name_or_path is None:
        path = find_file(OFFICIAL[PREFERRED_MODEL].file) or find_file(f"{BUNDLED_MODEL}.pt")
        expected = f"{OFFICIAL[PREFERRED_MODEL].file} or {BUNDLED_MODEL}.pt"
    elif is_model_name(name_or_path):
        expected = (OFFICIAL[name_or_path].file if name_or_path in OFFICIAL
                    else f"{BUNDLED_MODEL}.pt")
        path = find_file(expected)
    else:
        path, expected = Path(name_or_path), None
    if path is None:
        folders = " and ".join(map(str, paths.weights_folders()))
        wanted = name_or_path if name_or_path in OFFICIAL else PREFERRED_MODEL
        raise CheckpointError(f"no weights found: expected {expected} in {folders}; download them "
                              f"with `python -m minilora.checkpoint --download {wanted}`, or make "
                              "the small model with `python -m minilora.pretrain`")
    if not path.exists():
        raise unknown_model(str(name_or_path))
    check_file_type(path)                                       # before the whole file is hashed
    return path


def find_file(file: str) -> Path | None:
    """Path of `file` in the first weights folder that has it, or None."""
    candidates = (folder / file for folder in paths.weights_folders())
    return next((path for path in candidates if path.is_file()), None)


def published_name(path: Path, sha256: str) -> str:
    """The name to report for weights: that of a published model only if the hash is the same."""
    for name, official in OFFICIAL.items():
        if sha256 == official.sha256:
            return name
        if path.name == official.file:
            return f"{path.name}, not the published {name}"
    return BUNDLED_MODEL if path.name == f"{BUNDLED_MODEL}.pt" else path.name


def unknown_model(name: str) -> CheckpointError:
    """The error for a name that is neither a file nor a known model; it lists the known ones."""
    return CheckpointError(f"{name}: expected a .pt file or one of {', '.join(OFFICIAL)}, "
                           f"{BUNDLED_MODEL}; found neither a file nor a model of this name")


def download_official(name: str, folder: str | Path | None = None) -> Path:
    """Download a published file, verify its SHA-256, and return its path.

    folder: by default weights/ of a checkout, otherwise the user's cache.  A file that is already
    there with the right hash is not downloaded again.  Raises CheckpointError; it says where to put
    a file that was downloaded by hand.
    """
    if name not in OFFICIAL:
        raise unknown_model(name)
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
