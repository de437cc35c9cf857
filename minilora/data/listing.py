"""What is in a folder of pictures: the pictures, and what was left out with the reason.

    pictures   regular files with the suffix of a picture, also through links to files and folders;
               every folder is read once, so links in a circle do no harm
    skipped    what may be or hold pictures and could not be looked at: unreadable folders, broken
               links, pipes and devices with the suffix of a picture
    ignored    what is no picture by its name: other suffixes, and everything hidden (its name
               starts with "."), such as .DS_Store, ._000.png and .ipynb_checkpoints

Claim: if an unreadable folder is left out silently, its pictures seem to be checked and are not.
So every command can count and name what it did not look at.

Left out: reading the files (data/decoding.py), labels (data/mvtec.py, data/own_and_visa.py).
"""
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from minilora.io.regular_file import kind_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
PHONE_SUFFIXES = (".heic", ".heif")         # what phones save, and Pillow does not read
PHONE_REMEDY = "export as JPEG, which can be read"


class Listing(NamedTuple):
    """Sorted paths of pictures, and of what was left out: pairs (path, reason)."""
    pictures: list[Path]
    skipped: list[tuple[Path, str]]
    ignored: list[tuple[Path, str]]


def is_picture_name(path: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a name has the suffix of a picture, in any case, and is not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def listing(folder: str | Path, suffixes: Iterable[str] = IMAGE_SUFFIXES,
            recursive: bool = True) -> Listing:
    """The pictures (files with one of the suffixes) in a folder and, if recursive, below it.

    Raises OSError if the folder itself cannot be read.
    """
    found, visited, links = Listing([], [], []), set(), []
    os.scandir(folder).close()
    waiting = [Path(folder)]
    while waiting or links:
        # Links last, so a folder is listed under its own path even if a link leads to it, too
        inside = waiting.pop() if waiting else links.pop()
        try:
            state = os.stat(inside)
            if (state.st_dev, state.st_ino) in visited:
                continue
            visited.add((state.st_dev, state.st_ino))
            with os.scandir(inside) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            found.skipped.append((inside, f"a folder that cannot be read ({error.strerror})"))
            continue
        for path in (inside / name for name in names):
            kind = _sort_in(path, suffixes, found)
            if kind == "folder" and recursive:
                (links if path.is_symlink() else waiting).append(path)
        links.sort(reverse=True)
    return Listing(*(sorted(part) for part in found))


def _sort_in(path, suffixes, found):
    """Puts one entry into the Listing.  A folder belongs to none of its lists: "folder"."""
    if path.name.startswith("."):
        found.ignored.append((path, "hidden"))
        return None
    wanted = is_picture_name(path, suffixes)
    try:
        kind = kind_of(os.stat(path).st_mode)
    except OSError as error:
        reason = "a broken link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        found.skipped.append((path, reason))
        return None
    if kind == "a folder":
        return "folder"
    if not wanted:
        found.ignored.append((path, kind or f"ends in {path.suffix or 'no suffix'}"))
    elif kind:
        found.skipped.append((path, kind))
    else:
        found.pictures.append(path)
    return None


def list_pictures(folder: str | Path) -> list[Path]:
    """Every picture in a folder, searched recursively, sorted; hidden files are left out."""
    return listing(folder).pictures


def pictures_directly_in(folder: Path) -> list[Path]:
    """Picture files of a folder, not below it, sorted by name; empty without such a folder."""
    return listing(folder, recursive=False).pictures if folder.is_dir() else []


def folders_in(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones; empty without such a folder."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in entries if p.is_dir() and not p.name.startswith("."))


def demo() -> None:
    """A folder with a linked folder, a hidden one, a broken link and a pipe."""
    import tempfile
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "line 2"
        for name in ("a.png", "more/b.JPG", ".ipynb_checkpoints/a.png", "notes.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        (Path(root) / "elsewhere").mkdir()
        (Path(root) / "elsewhere" / "c.png").write_bytes(b"")
        (folder / "linked").symlink_to(Path(root) / "elsewhere")
        (folder / "circle").symlink_to(folder)
        (folder / "lost.png").symlink_to("nowhere")
        if hasattr(os, "mkfifo"):
            os.mkfifo(folder / "pipe.png")
        found = listing(folder)
        print("pictures:", *(p.relative_to(folder) for p in found.pictures))
        for part in ("skipped", "ignored"):
            print(f"{part}:", ", ".join(f"{path.relative_to(folder)} ({reason})"
                                        for path, reason in getattr(found, part)))


if __name__ == "__main__":
    demo()
