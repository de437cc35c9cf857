"""Temporary files and folders: a later process can tell which of them nobody uses any more.

Claim: a process that is killed cannot remove what it was writing.  All temporary names have one
form, `.minilora-<16 hexadecimal digits>.tmp`, whatever the final name is, so they are never too
long.  The process that writes such a file holds a lock on it (io/lock.py), which ends with the
process.  So `remove_leftovers` deletes what has this form, is older than this process and is not
locked.

Left out: files in other folders than the one that is written to.
"""
import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from minilora.io.lock import UNFOLLOWED, try_lock

TEMPORARY_NAME = re.compile(r"\.minilora-[0-9a-f]{16}\.tmp")
PROCESS_START = time.time()
ABANDONED_AFTER = 86_400                # seconds; where the system has no locks


def temporary_path(folder: str | Path) -> Path:
    """A new name of this form in a folder; nothing is created."""
    return Path(folder) / f".minilora-{secrets.token_hex(8)}.tmp"


@contextlib.contextmanager
def temporary_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder inside an existing one; it is deleted with its content when the block ends."""
    path = temporary_path(folder)
    path.mkdir()
    try:
        with opened_entry(path) as descriptor:
            if descriptor is not None:
                try_lock(descriptor)
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def opened_entry(path: Path) -> Iterator[int | None]:
    """A descriptor of a file or folder for locking; None where a folder cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | UNFOLLOWED)
    except PermissionError:                             # a folder on Windows
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(folder: str | Path) -> list[str]:
    """Delete temporary files and folders of killed processes in a folder.  Returns their names."""
    removed = []
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if TEMPORARY_NAME.fullmatch(e.name)]
    for path in (Path(folder) / name for name in found):
        try:
            if is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path.name)
        except FileNotFoundError:                       # another process has deleted or renamed it
            continue
    return removed


def is_abandoned(path: Path) -> bool:
    """Whether a regular file or a folder is older than this process, and no process uses it."""
    status = os.lstat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) \
            or status.st_mtime >= PROCESS_START:
        return False
    with opened_entry(path) as descriptor:
        locked = None if descriptor is None else try_lock(descriptor)
    return status.st_mtime < PROCESS_START - ABANDONED_AFTER if locked is None else locked


def demo() -> None:
    """A file that is being written stays; an old one that nobody uses is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [temporary_path(folder) for _ in range(3)]
        for path in paths:
            path.write_text("half of it")
        for path in paths[:2]:
            os.utime(path, (0, 0))
        with open(paths[0], "rb") as file:
            try_lock(file.fileno())
            removed = remove_leftovers(folder)
        for path, state in zip(paths, ("old, in use", "old, not in use", "new")):
            print(f"{state:16s}", "deleted" if path.name in removed else "stays")


if __name__ == "__main__":
    demo()
