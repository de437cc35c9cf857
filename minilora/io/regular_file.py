"""Open a file that a stranger may have put there: only a regular file, and only up to a size.

Claim: opening a named pipe waits until somebody writes to it, and a device such as /dev/zero never
ends.  So a file is opened without waiting, and its kind and size are those of the opened file, not
of a name that may have changed since.

Left out: what the bytes mean.
"""
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
         (stat.S_ISLNK, "a link"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


class NotRegularFileError(OSError):
    """A path that is a folder, pipe, socket, device or (where refused) a link."""


def open_regular(path: str | Path, follow: bool = True) -> IO[bytes]:
    """Open a regular file for reading bytes; never waits.

    follow: whether a link is followed.  Raises NotRegularFileError, FileNotFoundError or OSError.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) \
        | getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    if not follow and os.path.islink(path):
        raise NotRegularFileError(f"{path} is a link, expected a regular file")
    kind = kind_of(os.stat(path).st_mode)           # before opening: opening a device can act
    if kind:
        raise NotRegularFileError(f"{path} is {kind}, expected a regular file")
    descriptor = os.open(path, flags)
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind:                                        # it was exchanged in between
        os.close(descriptor)
        raise NotRegularFileError(f"{path} is {kind}, expected a regular file")
    return open(descriptor, "rb")


def read_regular(path: str | Path, limit: int, follow: bool = True) -> bytes:
    """All bytes of a regular file of at most `limit` bytes.  Raises OSError, also if it is larger.
    """
    with open_regular(path, follow) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} has over {limit:,} bytes, expected at most that")
    return content


def kind_at(path: str | Path) -> str | None:
    """What is at a path, in words; links are not followed.  None: a regular file, or nothing."""
    return kind_of(os.lstat(path).st_mode) if os.path.lexists(path) else None


def kind_of(mode: int) -> str | None:
    """What a file is, in words, from its st_mode; None for a regular file."""
    return None if stat.S_ISREG(mode) else next(
        (name for test, name in KINDS if test(mode)), "no regular file")


def demo() -> None:
    """A regular file is read; a pipe, a folder and a large file are refused."""
    with tempfile.TemporaryDirectory() as folder:
        path, pipe = Path(folder) / "a.txt", Path(folder) / "pipe"
        path.write_text("some text")
        if hasattr(os, "mkfifo"):
            os.mkfifo(pipe)
        print(read_regular(path, 100))
        for other, limit in ((pipe, 100), (Path(folder), 100), (path, 4)):
            try:
                read_regular(other, limit)
            except OSError as error:
                print("refused:", str(error).replace(folder, "…"))


if __name__ == "__main__":
    demo()
