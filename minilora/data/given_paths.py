"""The pictures that the paths of a command lead to: files as they are given, folders searched.

Claim: a folder can hold results of minilora, such as the overlays of an earlier call.  They are
pictures, too, but scoring them again makes no sense, so they are left out and counted.  One that is
given by its own name is scored.

Left out: what is in one folder (data/listing.py), videos (data/frames.py).
"""
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from minilora.data.listing import IMAGE_SUFFIXES, PHONE_REMEDY, PHONE_SUFFIXES, listing
from minilora.io.record import results_among
from minilora.io.text import shown



class Found(NamedTuple):
    """The files that the paths of a command lead to."""
    pictures: list[Path]                        # in the order of the paths, in a folder sorted
    skipped: list[tuple[Path, str]]             # what could not be looked at, and why
    other: list[Path]                           # files in the folders that are no pictures
    own: list[Path]                             # results of minilora, such as earlier overlays


def find_pictures(paths: Iterable[str | Path], required: bool = True) -> Found:
    """The files that are given, and the pictures in the folders, searched recursively.

    A given file always counts; if it does not exist, reading it fails later.  In a folder, hidden
    files do not count.  Raises FileNotFoundError without any picture, if one is required.
    """
    found = Found([], [], [], [])
    for path in map(Path, paths):
        try:
            inside = listing(path) if path.is_dir() else None
        except OSError as error:
            found.skipped.append((path, f"a folder that cannot be read ({error.strerror})"))
            continue
        if inside is None:
            found.pictures.append(path)
            continue
        other = [p for p, reason in inside.ignored if reason != "hidden"]
        own = results_among(inside.pictures + other)
        found.pictures.extend(p for p in inside.pictures if p not in own)
        found.skipped.extend(inside.skipped)
        found.other.extend(p for p in other if p not in own)
        found.own.extend(p for p in inside.pictures if p in own)
    if required and found.pictures and not any(map(os.path.lexists, found.pictures)):
        raise FileNotFoundError(f"{', '.join(map(shown, found.pictures))} not found; give "
                                "pictures, or folders with pictures")
    if required and not found.pictures and not found.skipped:
        left_out = f" (apart from {len(found.own)} that minilora wrote)" if found.own else ""
        raise FileNotFoundError(f"no picture in {', '.join(map(shown, paths))}{left_out}; expected "
                                f"files ending in {', '.join(IMAGE_SUFFIXES)}")
    return found


def tell_left_out(found: Found) -> None:
    """Says on stderr what in the folders was not taken for a picture to score."""
    for line in not_taken(found.other):
        print(f"skipped {line}", file=sys.stderr)
    if found.own:
        print(f"left out {len(found.own)} pictures that minilora wrote, such as "
              f"{shown(found.own[0])}; to score one, give its name", file=sys.stderr)


def not_taken(paths: list[Path]) -> list[str]:
    """Lines about files that are no pictures by their name: HEIC with the remedy, others counted.
    """
    phone = [path for path in paths if path.suffix.lower() in PHONE_SUFFIXES]
    lines = []
    if phone:
        more = f" and {len(phone) - 1} more" if len(phone) > 1 else ""
        lines.append(f"{len(phone)} HEIC: {shown(phone[0].name)}{more}; {PHONE_REMEDY}")
    others = [path for path in paths if path not in set(phone)]
    if others:
        counts = Counter(path.suffix.lower() or "no suffix" for path in others).most_common(5)
        kinds = ", ".join(f"{shown(suffix, 20)} {count}" for suffix, count in counts)
        lines.append(f"{len(others)} not ending in {', '.join(IMAGE_SUFFIXES)}: {kinds}, such as "
                     f"{shown(others[0].name)}")
    return lines


def demo() -> None:
    """A folder with a picture and a text, and a picture that is given by its name."""
    import contextlib
    import tempfile
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "belt"
        folder.mkdir()
        for path in (folder / "a.png", folder / "notes.txt", Path(root) / "b.jpg"):
            path.touch()
        found = find_pictures([folder, Path(root) / "b.jpg"])
        print("pictures:", *(path.name for path in found.pictures))
        with contextlib.redirect_stderr(sys.stdout):
            tell_left_out(found)
        try:
            find_pictures([folder / "c.png"])
        except FileNotFoundError as error:
            print("refused:", str(error).replace(root, "…"))


if __name__ == "__main__":
    demo()
