"""A single output file that the user names: written whole, and only over what minilora wrote.

Claim: a typing mistake in `--out` can name an input, or another file of the user.  So a file is
replaced only if the record in its folder lists it for the same command with its present bytes
(io/record.py), never an input of the same call, and never a device, pipe, folder or link.

The record gets the new digest beside the old one before the file gets its name.  So after a crash
the next command recognises the file, whether it is the old or the new one.
Left out: several files that belong together (io/transaction.py).
"""
import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from minilora.io.files import atomic_write, sha256_of
from minilora.io.lock import lock_folder, make_folder
from minilora.io.record import check_place, identity, is_result_name, read_record, write_record
from minilora.io.regular_file import kind_at
from minilora.io.temporary import remove_leftovers
from minilora.io.text import shown

LOCK_WAIT = 10.0                # seconds for which another command may write to the same folder
LONGEST_NAME = 255              # bytes, on all usual file systems


def check_output(path: str | Path, purpose: str, inputs: Iterable[str | Path] = ()) -> None:
    """Raise ValueError, before any work, if `atomic_output` would refuse.  Reads only."""
    path = plain_path(path)
    if kind := kind_at(path):
        raise ValueError(f"{shown(path)} is {kind}, expected the name of a file; give another name")
    if not is_result_name(path.name) or len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ValueError(f"{shown(path)}: expected the name of a file, at most {LONGEST_NAME} "
                         "bytes long, that does not begin like minilora's own; give another name")
    if identity(path) is not None and identity(path) in map(identity, inputs):
        raise ValueError(f"{shown(path)} is read by this command and would be replaced; give "
                         "another name")
    folder = path.parent
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{shown(folder)} is not a folder; give another name")
    if not os.access(next(p for p in (folder, *folder.parents) if p.is_dir()), os.W_OK):
        raise OSError(f"{shown(folder)} cannot be written; give another name")
    check_place(folder, purpose, path.name, read_record(folder), "give another name")


def plain_path(path: str | Path) -> Path:
    """The absolute path, with links and ".." resolved in its folder, not in its own name."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name if path.name else path.absolute()


@contextlib.contextmanager
def atomic_output(path: str | Path, purpose: str, mode: str = "wb",
                  inputs: Iterable[str | Path] = (), locked: bool = False) -> Iterator[IO[Any]]:
    """Open an output file for writing; it gets its name when the block ends, and is recorded.

    purpose: a word for the command, whose earlier file may be replaced;  mode: as in
    `atomic_write`;  inputs: files that the command reads;  locked: whether the caller holds the
    lock of the folder (`lock_folder`).
    Raises ValueError for a file that this command did not write; see `check_output`.
    """
    path, inputs = plain_path(path), tuple(inputs)
    check_output(path, purpose, inputs)
    make_folder(path.parent)
    with contextlib.ExitStack() as until_renamed:
        def enter_in_record(temporary: Path) -> None:
            if not locked:
                until_renamed.enter_context(lock_folder(path.parent, LOCK_WAIT))
            check_output(path, purpose, inputs)             # once more: time has passed
            results = read_record(path.parent)
            digests = [sha256_of(p) for p in (path, temporary) if p.exists()]
            known = {name: old for name, old in results.get(purpose, {}).items()
                     if os.path.lexists(path.parent / name)}
            known[path.name] = " ".join(dict.fromkeys(digests))
            write_record(path.parent, {**results, purpose: known})
            remove_leftovers(path.parent)
        with atomic_write(path, mode, before=enter_in_record) as file:
            yield file


def demo() -> None:
    """Write a page twice; then name a picture that is read, and a user's file."""
    with tempfile.TemporaryDirectory() as root:
        page, picture, notes = (Path(root) / name for name in ("a.html", "a.png", "notes.txt"))
        picture.write_text("pixels")
        notes.write_text("mine")
        for number in (1, 2):
            with atomic_output(page, "demo", "w", inputs=[picture]) as file:
                file.write(f"page {number}")
            print(page.read_text())
        for path, purpose in ((picture, "demo"), (notes, "demo"), (page, "other"), (root, "demo")):
            try:
                check_output(path, purpose, inputs=[picture])
            except ValueError as error:
                print("refused:", str(error).replace(root, "…"))


if __name__ == "__main__":
    demo()
