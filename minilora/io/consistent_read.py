"""Read several files that belong together while another process may replace them.

Claim: a writer gives each of its files its name in one step (io/files.py, io/transaction.py), so
one file is always whole.  But a reader of three files can meet two old ones and a new one, and a
file whose SHA-256 was right can be another one when it is opened.  So the inode numbers, times and
sizes of all files are compared before and after reading; if a writer has replaced one of them in
between, the reading is repeated.

Left out: files whose bytes are changed in their place, which no writer here does.
"""
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from minilora.io.text import shown
from minilora.io.transaction import COMMIT_RECORD, STAGING

Content = TypeVar("Content")
READ_ATTEMPTS, READ_PAUSE = 40, 0.05        # seconds; a writer moves a hundred files in 0.01 s


def consistent_read(paths: Iterable[Path], work: Callable[[], Content]) -> Content:
    """`work()`, which reads some of the paths; repeated if one of them was replaced meanwhile.

    An error of `work` (ValueError, OSError) is raised if no file has changed.  Raises ValueError if
    the files change all the time.
    """
    paths = list(paths)
    for _ in range(READ_ATTEMPTS):
        before = [version_of(path) for path in paths]
        try:
            content, error = work(), None
        except (ValueError, OSError) as raised:
            error = raised
        if before == [version_of(path) for path in paths]:
            if error is not None:
                raise error
            return content
        time.sleep(READ_PAUSE)
    raise ValueError(f"{shown(paths[0].parent)} is replaced by another process all the time; try "
                     "again when it has ended")


def read_result(folder: str | Path, names: Iterable[str], work: Callable[[], Content],
                purpose: str = "fit") -> Content:
    """`consistent_read` of files of a command's result, which a commit moves (io/transaction.py).
    """
    folder, staging, names = Path(folder), Path(folder) / f"{STAGING}{purpose}", tuple(names)
    places = [place / name for place in (folder, staging) for name in names]
    return consistent_read([*places, staging / COMMIT_RECORD], work)


def version_of(path: Path) -> tuple[int, ...] | None:
    """Inode number, time and size: they change when a file is replaced.  None if there is none."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def demo() -> None:
    """A writer replaces both files while they are read the first time."""
    with tempfile.TemporaryDirectory() as folder:
        paths, rounds = [Path(folder) / name for name in ("weights", "threshold")], []

        def write(content):
            for path in paths:
                path.with_suffix(".new").write_text(content)
                path.with_suffix(".new").replace(path)

        def read():
            first = paths[0].read_text()
            if not rounds:
                write("new")
            rounds.append((first, paths[1].read_text()))
            return rounds[-1]
        write("old")
        print("read:", consistent_read(paths, read), " after", rounds)


if __name__ == "__main__":
    demo()
