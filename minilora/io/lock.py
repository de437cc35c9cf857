"""One process at a time writes to a folder.

Claim: the operating system releases `flock` when a process ends, even after `kill -9`, so a lock of
this kind never has to be cleaned up.  Where the system has none (Windows, some network drives), a
file that can be created only once replaces it; after a crash, that file has to be removed by hand,
and the message says so.  So two processes never mix their results.

The lock file of a stranger's folder can be a link, a pipe or somebody's text.  It is opened without
following links, and only a file that holds a process number, or nothing, is written.
Left out: several machines that write to one network drive whose server ignores `flock`.
"""
import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from minilora.io.regular_file import kind_at, kind_of
from minilora.io.text import shown

LOCK_FILE, HELD_FILE = ".minilora.lock", ".minilora.held"
LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)
UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)    # never through a link


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed.  False: another process has the lock; None: the system
    has no locks."""
    try:
        import fcntl
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:                                 # Windows
        return None
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in LOCKS_UNSUPPORTED:
            raise
        return None
    return True


@contextlib.contextmanager
def lock_folder(folder: str | Path, wait: float = 0.0) -> Iterator[None]:
    """Inside the block, no other process (and no other block) can lock the same folder.

    A missing folder is created.  wait: seconds for which another process may still hold the lock.
    Raises ValueError if it still does then, or if the folder is a file; OSError if the folder
    cannot be written.
    """
    folder = make_folder(folder)
    with open_lock_file(folder / LOCK_FILE) as file:
        end = time.monotonic() + wait
        while (locked := try_lock(file.fileno())) is False:
            if time.monotonic() >= end:
                raise being_written(folder, file.read(20))
            time.sleep(0.05)
        with contextlib.nullcontext() if locked else exclusive_file(folder, end):
            file.truncate(0)
            file.seek(0)
            file.write(b"%d" % os.getpid())
            file.flush()
            yield


def make_folder(folder: str | Path) -> Path:
    """Create a folder, and those above it, if it is missing.  Its errors name the remedy."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        place = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
        raise ValueError(f"{shown(place)} is not a folder; give another --out") from error
    except OSError as error:
        raise OSError(f"{shown(folder)} cannot be created ({error.strerror}); give another --out"
                      ) from error
    return folder


def open_lock_file(path: Path) -> IO[bytes]:
    """The lock file, created if it is missing, open for reading and writing at its start."""
    try:
        kind = kind_at(path)
        if kind is None:
            file = open(os.open(path, os.O_RDWR | os.O_CREAT | UNFOLLOWED, 0o666), "r+b", 0)
    except OSError as error:
        raise OSError(f"{shown(path.parent)} cannot be written ({error.strerror}); give another "
                      "--out") from error
    if kind:
        raise ValueError(f"{shown(path)} is {kind}, expected a file of minilora; remove it")
    if kind_of(os.fstat(file.fileno()).st_mode) or not re.fullmatch(rb"\d{0,20}", file.read(64)):
        file.close()
        raise ValueError(f"{shown(path)} was not written by minilora; give another --out")
    file.seek(0)
    return file


@contextlib.contextmanager
def exclusive_file(folder: Path, end: float) -> Iterator[None]:
    """The lock of a system without locks: a file that exists while the block runs.

    end: when to stop waiting for another process, as a value of time.monotonic().
    """
    path, descriptor = folder / HELD_FILE, None
    while descriptor is None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | UNFOLLOWED, 0o666)
        except FileExistsError as error:
            if time.monotonic() >= end:
                raise ValueError(f"{being_written(folder, b'')}; if that process has ended, remove "
                                 f"{shown(path)}") from error
            time.sleep(0.05)
    os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def being_written(folder: Path, process: bytes) -> ValueError:
    """The error for a folder that another process has locked.  process: its number, if known."""
    return ValueError(f"{shown(folder)} is being written by another process (number "
                      f"{process.decode() or 'unknown'}); wait for it, or give another folder with "
                      "--out")


def demo() -> None:
    """A second lock on the same folder is refused; so are a file and a link."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        (Path(root) / "notes.txt").write_text("mine")
        (Path(root) / "linked").mkdir()
        (Path(root) / "linked" / LOCK_FILE).symlink_to(Path(root) / "notes.txt")
        with lock_folder(folder):
            for other in (folder, Path(root) / "notes.txt", Path(root) / "linked"):
                try:
                    with lock_folder(other):
                        pass
                except ValueError as error:
                    print(re.sub(r"number \d+", "number …", str(error)).replace(root, "…"))
        with lock_folder(folder):
            print("after the block it can be locked again")


if __name__ == "__main__":
    demo()
