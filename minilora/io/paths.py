"""Where the files that are not Python are found: the vocabulary and the folders with weights.

The claim: the same three functions serve a checkout, an editable install and `pip install .`
run from another folder. The vocabulary lies beside this module. `weights/` lies at the top of a
checkout; setup.py maps it to `minilora/weights` when the package is built, so an installed copy
carries the small model along. Downloads go to the checkout's `weights/`, otherwise to the user's
cache, never into an installed package, which an upgrade would delete.

Left out: reading or checking the files; that is done by `bpe` and `checkpoint`.
"""
import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def vocabulary_path():
    """Path of the compressed list of byte-pair merges that is shipped with the package."""
    return PACKAGE / "bpe_merges.txt.gz"


def checkout_folder():
    """Top folder of the checkout this package runs from, or None for an installed copy.

    `setup.py` and `weights/` beside the package are the sign: in `site-packages` a folder
    `weights` alone could belong to anybody.
    """
    top = PACKAGE.parent
    is_checkout = (top / "setup.py").is_file() and (top / "weights").is_dir()
    return top if is_checkout else None


def cache_folder():
    """The user's cache: $XDG_CACHE_HOME/minilora, or ~/.cache/minilora. It need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):                    # unset, empty or relative: to be ignored,
        base = Path.home() / ".cache"              # says the XDG base directory specification
    return Path(base) / "minilora"


def weights_folders():
    """Folders in which weights are looked for, first match wins; some may not exist.

    A checkout: its own `weights/`, then the cache. An installed copy: the folder inside the
    package, then the cache.
    """
    top = checkout_folder()
    return [top / "weights" if top else PACKAGE / "weights", cache_folder()]


def download_folder():
    """Where downloaded weights are put: `weights/` of a checkout, otherwise the user's cache."""
    top = checkout_folder()
    return top / "weights" if top else cache_folder()


def demo():
    """Show what is found from here."""
    print(f"running from    {checkout_folder() or 'an installed copy'}")
    print(f"vocabulary      {vocabulary_path()} ({vocabulary_path().stat().st_size:,} bytes)")
    for folder in weights_folders():
        found = sorted(p.name for p in folder.glob("*.pt")) if folder.is_dir() else "no such folder"
        print(f"weights         {folder}: {found}")
    print(f"downloads go to {download_folder()}")


if __name__ == "__main__":
    demo()
