"""Download the weights of a published CLIP, from OpenAI's server or from the Hugging Face hub.

Claim: whichever server sends it, a file counts only with the right SHA-256.  OpenAI's addresses
contain it (`published.py`); the hub announces it (`hub_download.py`).

Untested against the live servers: the tests use a local one.
Left out: HTTP (`checkpoint/download.py`); any download that the user did not ask for by name.
"""
from pathlib import Path

from minilora.checkpoint import download as http
from minilora.checkpoint.hub_download import HUB_FILES, download_from_hub
from minilora.checkpoint.published import OFFICIAL, published_spelling, unknown_model
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.cli import shell_command
from minilora.io.files import sha256_of
from minilora.io.text import shown


def download_official(name: str, folder: str | Path | None = None,
                      source: str = "openai") -> Path:
    """Download a published file, verify its SHA-256, and return its path.

    folder: by default weights/ of a checkout, otherwise the user's cache;  source: "openai", or
    "huggingface" for the hub's safetensors file, whose SHA-256 the hub announces.  A file that is
    already there with the right hash is not downloaded again.  Raises CheckpointError; it says
    where to put a file that was downloaded by hand, and names the other source.
    """
    name = published_spelling(name)
    if name not in OFFICIAL:
        raise unknown_model(name)
    official, hub = OFFICIAL[name], HUB_FILES.get(name)
    path = Path(folder or paths.download_folder()) / official.file
    other = "" if hub is None else (
        "; second source: "
        f"{shell_command('checkpoint', '--download', name, '--source', 'huggingface')} "
        f"({hub.url()}, {hub.megabytes} MB)")
    url = official.url
    try:
        if source == "huggingface":
            other, url = "", hub.url() if hub else ""
            if hub is None:
                raise http.DownloadError("the hub has no safetensors file of it by OpenAI")
            path = path.with_suffix(".safetensors")
            return download_from_hub(name, path)
        if path.is_file():
            if sha256_of(path) == official.sha256:
                return path
            raise CheckpointError(f"{shown(path)} is there with another sha256 and was not "
                                  "replaced; move it away, or give another --folder")
        return http.download_file(official.url, path, official.sha256)
    except http.DownloadError as error:
        hint = f"; by hand: save {url} as {path}" if url else ""
        raise CheckpointError(f"{name} could not be downloaded: {error}{hint}{other}") from error


def demo() -> None:
    """The sources of each published model; a model that is not published."""
    for name, official in OFFICIAL.items():
        hub = HUB_FILES.get(name)
        print(f"{name:15} {official.file:19} {f'{hub.repo}, {hub.megabytes} MB' if hub else ''}")
    try:
        download_official("ViT-H/14")
    except CheckpointError as error:
        print(str(error).partition(" of Hugging")[0], "...")


if __name__ == "__main__":
    demo()
