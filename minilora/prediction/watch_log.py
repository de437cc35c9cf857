"""The table watch.csv: one row for each scored picture, on the disk before its line is printed.

Claim: after `kill -9` or a power cut, what is on the disk decides which pictures are done.  Every
row is one line and ends with the key of the picture (`picture_key`); it is appended in one write
and reaches the disk (fsync) before `append` returns.  A kill can cut the last row only: that half
row is removed at the next start, and the picture is scored again.

The table grows, so the record of the folder (io/record.py) cannot list its digest.  It lists the
purpose "watch" from before the table exists; a watch.csv in a folder without that entry, or with
other columns, is a user's, and is refused.  The overlays are listed when watching ends.

Left out: rows that somebody deletes (those pictures are scored again).
"""
import contextlib
import csv
import errno
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from minilora.io.files import WRITTEN, atomic_write
from minilora.io.record import identity, read_record, regular_digest, write_record
from minilora.io.regular_file import open_regular
from minilora.io.text import shown
from minilora.prediction.picture import CSV_COLUMNS, MAX_ERROR, csv_lines

WATCH_FILE, WATCH_PURPOSE = "watch.csv", "watch"
# time: of the decision; latency_s: from the complete file to the decision; key: hexadecimal digits
WATCH_COLUMNS = ("time", *CSV_COLUMNS, "latency_s", "scoring_ms", "key")
WATCH_HEAD = csv_lines([], WATCH_COLUMNS).encode()
WHOLE_ROW = re.compile(rb"[^\0\n]*,([0-9a-f]{32})\r?\n")
OVERLAY = re.compile(r"NG-[^/\\\0]*\.png")
MOST_LISTED = 100_000           # overlays in the record, which is read as a whole


class WatchLog:
    """The open table of a folder; the caller holds the lock of the folder.

    known: the keys of all rows;  was_cut: whether a half-written row was removed.
    Raises ValueError if the table is not as this class writes it; it is then unchanged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.path = Path(folder), Path(folder) / WATCH_FILE
        check_watch_log(folder)
        if not self.path.exists():
            write_record(folder, {WATCH_PURPOSE: {}} | read_record(folder))
            with atomic_write(self.path) as file:
                file.write(WATCH_HEAD)
        with open_regular(self.path, follow=False) as file:
            self.known, end = whole_rows(self.path, file)
        self.file = open(self.path, "ab", buffering=0)
        self.was_cut = self.file.tell() > end
        if self.was_cut:
            self.file.truncate(end)

    def append(self, row: dict[str, Any], key: bytes) -> None:
        """Write a row to the disk; after an OSError the table is as it was before."""
        one_line = {name: shown(value, MAX_ERROR) if isinstance(value, str) else value
                    for name, value in row.items()}
        data = csv_lines([one_line | {"key": key.hex()}], WATCH_COLUMNS, head=False).encode()
        state = os.fstat(self.file.fileno())
        if identity(self.path) != (state.st_dev, state.st_ino):
            raise OSError(f"{shown(self.path)} was moved, deleted or replaced while it was "
                          "written to; run the same command again, which starts another")
        try:
            if self.file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.truncate(state.st_size)
            raise OSError(f"{shown(self.path)}: the row of {one_line['file']} cannot be written "
                          f"({error.strerror}); free some space or correct the rights, and run "
                          "the same command again, which scores this picture") from error
        self.known.add(key)

    def list_overlays(self) -> None:
        """Enter the overlays in the record of the folder, so that no command takes them for
        new pictures."""
        results = read_record(self.folder)
        listed = results.get(WATCH_PURPOSE, {})
        with open(self.path, encoding="utf-8", errors="replace", newline="") as file:
            for name in itertools.islice(overlay_names(file), MOST_LISTED):
                if name not in listed and (digest := regular_digest(self.folder / name)):
                    listed[name] = digest
        write_record(self.folder, results | {WATCH_PURPOSE: listed})

    def __enter__(self) -> "WatchLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.file.close()


def overlay_names(rows: Iterable[str]) -> Iterator[str]:
    """The overlays that are named in the rows, which are one line each.  Somebody may have changed
    them, so a name that leads out of the folder is left out."""
    column = WATCH_COLUMNS.index("overlay")
    for row in rows:
        with contextlib.suppress(csv.Error):
            for name in next(csv.reader([row]))[column:column + 1]:
                if OVERLAY.fullmatch(name):
                    yield name


def check_watch_log(folder: str | Path) -> None:
    """Raise ValueError if a folder holds a watch.csv that `WatchLog` did not write.  Reads only."""
    path = Path(folder) / WATCH_FILE
    if not os.path.lexists(path):
        return
    if WATCH_PURPOSE not in read_record(folder):
        raise ValueError(f"{shown(path)} was not written by minilora, or by an earlier version; "
                         "give another --out")
    with open_regular(path, follow=False) as file:
        head = file.readline(len(WATCH_HEAD))
    if head != WATCH_HEAD:
        raise ValueError(f"{shown(path)}: expected the columns {WATCH_HEAD.decode().strip()}, "
                         f"found {shown(head.decode(errors='replace').strip())}; it was changed, "
                         "or another version wrote it: move it away, or give another --out")


def whole_rows(path: Path, file: IO[bytes]) -> tuple[set[bytes], int]:
    """(keys of all rows, where the last whole row ends).  path: for the message.

    Raises ValueError for a line that no kill and no power cut can have left.
    """
    known, end, torn = set(), len(file.readline()), 0
    for number, line in enumerate(file, 2):
        whole = WHOLE_ROW.fullmatch(line)
        if torn or not whole and line.endswith(b"\n") and b"\0" not in line:
            raise ValueError(f"{shown(path)}: line {torn or number} does not end with the key of "
                             "a picture (32 hexadecimal digits); it was changed: move the file "
                             "away, or give another --out")
        if whole:
            known.add(bytes.fromhex(whole[1].decode()))
            end += len(line)
        else:
            torn = number
    return known, end


def demo() -> None:
    """Two rows; then a kill leaves half a row; then a table of somebody else."""
    with tempfile.TemporaryDirectory() as root:
        for k in range(2):
            with WatchLog(root) as log:
                log.append({"file": f"{k}.png", "decision": "OK", "score": 0.25}, bytes([k] * 16))
        with open(log.path, "ab") as file:
            file.write(b"2026-01-01T06:00:00,2.png,N")
        with WatchLog(root) as log:
            print(f"cut a half row: {log.was_cut}; known keys: {len(log.known)}")
        print(log.path.read_text(), end="")
        WRITTEN.clear()
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / WATCH_FILE).write_text("my own table")
        try:
            WatchLog(root)
        except ValueError as error:
            print("refused:", str(error).replace(root, "…"))


if __name__ == "__main__":
    demo()
