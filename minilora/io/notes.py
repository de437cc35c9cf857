"""Notes about files that were read: what a command says at its end, one line for each kind.

Claim: if only the first page of a picture is used, that is not an error, and a thousand such
pictures must not print a thousand lines.  So a reader notes what it found, wherever it runs, and
`run_command` (io/cli.py) prints each kind of note once, with the first file and the number of the
others.

Left out: errors (they are raised), and what a command prints as its result.
"""
import threading
from typing import Any

from minilora.io.text import shown

MAX_NOTED = 100_000                 # files of one kind that are told apart and counted
_LOCK = threading.Lock()            # pictures are read in threads
_NOTES: dict[str, dict[str, None]] = {}     # kind -> names of its files, in the order of the notes


def note(kind: str, file: Any) -> None:
    """Record a note about a file; the same note about the same file counts once.

    kind: what the user should know, and the remedy, as the end of a sentence.
    """
    with _LOCK:
        files = _NOTES.setdefault(kind, {})
        if len(files) < MAX_NOTED:
            files[str(file)] = None


def take_notes() -> list[str]:
    """One line for each kind of note since the last call."""
    with _LOCK:
        found = dict(_NOTES)
        _NOTES.clear()
    lines = []
    for kind, files in found.items():
        more = len(files) - 1
        least = "at least " if len(files) == MAX_NOTED else ""
        others = f" and {least}{more:,} more file{'s' if more > 1 else ''}" if more else ""
        lines.append(f"{shown(next(iter(files)))}{others}: {kind}")
    return lines


def demo() -> None:
    """Three notes of one kind, one of them twice, and one of another kind."""
    for name in ("a.tif", "b.tif", "a.tif", "c.tif"):
        note("only the first page is used", name)
    note("values use 12 of 16 bits; --bits 12 scales them", "a.tif")
    print(*take_notes(), sep="\n")
    print("taken, so none is left:", take_notes())


if __name__ == "__main__":
    demo()
