"""The part of a download: a file that one process at a time writes to.

Claim: if two processes append to one file, a hash that was right a moment ago proves nothing.  So a
part is locked while it is written, and what is renamed at the end is the file that was locked.
Where the operating system has no locks, each process writes to a new file with a copy of the part:
no other process knows it.

A link, a pipe or a device in the place of a part is refused, not opened.
Left out: what the bytes are (`checkpoint/download.py`).
"""
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from minilora.checkpoint.http_limits import DownloadError
from minilora.io.lock import UNFOLLOWED, try_lock
from minilora.io.regular_file import NotRegularFileError, kind_at, kind_of, open_regular

ABANDONED = 3600                # seconds without a write: the process of such a part has ended


class PartFile:
    """What has arrived of a file; no other process writes to it while it is open here."""

    def __init__(self, path: Path, file: IO[bytes], name: str, locked: bool) -> None:
        """name: of the file that it becomes."""
        self.path, self.file, self.name, self.locked = path, file, name, locked
        self.renamed = False

    def size(self) -> int:
        """Number of bytes."""
        self.file.flush()
        return os.fstat(self.file.fileno()).st_size

    def sha256(self) -> str:
        """SHA-256 of the open file, 64 hexadecimal digits."""
        self.file.flush()
        os.fsync(self.file.fileno())
        digest = hashlib.sha256()
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()

    def rename(self, path: Path) -> None:
        """Give it its final name, in one step."""
        if not self.locked:         # Windows renames no open file; nobody else opens this one
            self.file.close()
        os.replace(self.path, path)
        self.renamed = True


@contextlib.contextmanager
def open_part(path: Path) -> Iterator[PartFile]:
    """Open the part `path`, or make it; an empty one is deleted at the end.

    DownloadError if another process writes to it; NotRegularFileError if it is a link or a pipe.
    """
    part = locked_part(path) or own_part(path)
    try:
        yield part
        if not part.locked and part.renamed:
            path.unlink(missing_ok=True)                        # what it began with
    finally:
        if part.renamed:
            part.file.close()                                   # this releases the lock
        else:
            leave(part, path)


def leave(part: PartFile, path: Path) -> None:
    """Close a part that was not renamed; what has arrived stays at `path` for the next attempt."""
    with part.file:
        empty = not part.size()
        if empty and part.locked:
            part.path.unlink()
    if empty and not part.locked:                               # closed before: for Windows
        part.path.unlink()
    elif not part.locked:
        os.replace(part.path, path)


def locked_part(path: Path) -> PartFile | None:
    """The part, locked.  None where files cannot be locked."""
    while True:
        refuse_other_kinds(path)
        flags = os.O_RDWR | os.O_CREAT | UNFOLLOWED | getattr(os, "O_BINARY", 0)
        file = open(os.open(path, flags, 0o666), "r+b")
        locked = try_lock(file.fileno())
        if not locked:
            file.close()
            if locked is None:
                return None
            raise DownloadError(f"{path} is being written by another process; wait for it")
        now = path.lstat() if path.exists() else None
        if now and os.path.samestat(now, os.fstat(file.fileno())):
            return PartFile(path, file, path.stem, locked=True)
        file.close()                    # another process had renamed or deleted it before the lock


def own_part(path: Path) -> PartFile:
    """A new file that only this process knows, with a copy of the part `path`."""
    own = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    file = open(own, "x+b")
    now = own.stat().st_mtime                                   # of the same clock as the others
    for other in path.parent.glob("*.part"):
        name = re.fullmatch(r"(.+)\.[0-9a-f]{32}\.part", other.name)
        with contextlib.suppress(FileNotFoundError):            # it has been renamed meanwhile
            if name and name[1] == path.stem and kind_of(other.lstat().st_mode) is None \
                    and now - other.lstat().st_mtime > ABANDONED:   # of a process that was killed
                other.unlink()
    with contextlib.suppress(FileNotFoundError), open_regular(path, follow=False) as earlier:
        shutil.copyfileobj(earlier, file)
    return PartFile(own, file, path.stem, locked=False)


def refuse_other_kinds(path: Path) -> None:
    """NotRegularFileError if there is something at `path` that is no regular file."""
    if kind := kind_at(path):
        raise NotRegularFileError(f"{path} is {kind}, expected a regular file")


def demo() -> None:
    """Two attempts at one part; then a link in its place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt.part"
        with open_part(path) as part:
            part.file.write(b"half")
            try:
                with open_part(path):
                    pass
            except DownloadError as error:
                print(str(error).replace(folder, "…"))
        with open_part(path) as part:
            print(f"continues after {part.size()} bytes")
            part.rename(Path(folder) / "weights.pt")
        print("left:", *(p.name for p in Path(folder).iterdir()))
        path.symlink_to(Path(folder) / "weights.pt")
        try:
            with open_part(path):
                pass
        except NotRegularFileError as error:
            print(str(error).replace(folder, "…"))


if __name__ == "__main__":
    demo()
