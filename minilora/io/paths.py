"""Where to find the files that are not Python code: the vocabulary and the folders with weights.

Claim: the same functions work in a checkout, in an editable install, and after `pip install .` when
the command runs in another folder. The vocabulary is in the package folder. `weights/` is at the
top of a checkout; setup.py maps it to `minilora/weights` when the package is built, so an installed
copy includes the small model. Downloads go to the checkout's `weights/`, otherwise to the user's
cache, never into an installed package, because an upgrade would delete them.

Left out: reading or checking the files; `bpe` and `checkpoint` do that.
"""
import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def vocabulary_path() -> Path:
    """Path of the compressed list of byte-pair merges that is shipped with the package."""
    return PACKAGE / "bpe_merges.txt.gz"


def checkout_folder() -> Path | None:
    """Top folder of the checkout from which this package runs, or None for an installed copy.

    A checkout has both `setup.py` and `weights/` next to the package. `weights` alone proves
    nothing: in `site-packages` a folder of this name could belong to another package.
    """
    top = PACKAGE.parent
    is_checkout = (top / "setup.py").is_file() and (top / "weights").is_dir()
    return top if is_checkout else None


def home_folder() -> Path | None:
    """The user's home folder; None for a user id without one, as containers and daemons have."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):                # no $HOME, and no entry in the list of users
        return None


def cache_folder() -> Path | None:
    """The user's cache: $XDG_CACHE_HOME/minilora, or ~/.cache/minilora. It may not exist yet.

    None if neither the variable nor a home folder says where.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):                         # unset, empty or relative: the XDG base
        return Path(base) / "minilora"              # directory specification says to ignore it
    home = home_folder()
    return home and home / ".cache" / "minilora"


def weights_folders() -> list[Path]:
    """Folders to search for weights, in this order; some may not exist.

    A checkout: its own `weights/`, then the cache. An installed copy: the folder inside the
    package, then the cache. Without a home folder there is no cache.
    """
    top = checkout_folder()
    own, cache = top / "weights" if top else PACKAGE / "weights", cache_folder()
    return [own, cache] if cache else [own]


def download_folder() -> Path:
    """The folder for downloaded weights: `weights/` of a checkout, otherwise the user's cache.

    Raises FileNotFoundError if this user has neither.
    """
    top = checkout_folder()
    folder = top / "weights" if top else cache_folder()
    if folder is None:
        raise FileNotFoundError("no folder for downloads: this user has no home folder; set "
                                "XDG_CACHE_HOME to a folder, or name one with --folder")
    return folder


def demo() -> None:
    """Show what is found from here."""
    print(f"running from    {checkout_folder() or 'an installed copy'}")
    print(f"vocabulary      {vocabulary_path()} ({vocabulary_path().stat().st_size:,} bytes)")
    for folder in weights_folders():
        found = "no such folder"
        if folder.is_dir():
            found = sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".safetensors"))
        print(f"weights         {folder}: {found}")
    print(f"downloads go to {download_folder()}")


if __name__ == "__main__":
    demo()
