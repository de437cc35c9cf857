"""Which pictures in a folder are new and complete.

Claim: a file has its name before it has all of its content.  So a picture counts as complete when
two polls in a row find the same size and modification time.  The key of a picture is a digest of
its path, size and time: 16 bytes, so even the keys of a million known pictures fit into memory, and
a file whose content is replaced is a new picture.

A poll reads folders and the state of files, never their content: 10,000 files take 0.1 s, a third
of what data/listing.py needs for its sorted paths.  It finds the same pictures: regular files with
the suffix of a picture, also through links, none that is hidden, and every folder once.

Left out: a copying program that sets size and time before it writes the content (when it changes
the time, the picture is new again); notifications of the operating system, which network drives do
not send; a moved file (its path is another, so it is a new picture).
"""
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from minilora.data.listing import IMAGE_SUFFIXES, PHONE_REMEDY, PHONE_SUFFIXES
from minilora.io.record import identity
from minilora.io.regular_file import kind_of

GIVE_UP_AFTER = 10.0            # seconds without a change; then an undecodable file is no picture


@dataclass
class NewFile:
    """A picture file that is not known yet."""
    name: str                   # path inside the watched folder, with "/"
    key: bytes                  # of `picture_key`
    completed: float            # when it was last written, as a value of time.time()
    seen: float                 # when this size and time were first seen, of time.monotonic()
    failed: bool = False        # could not be decoded; perhaps more content follows

    @property
    def is_final(self) -> bool:
        """Whether there was no change for so long that no more content is expected."""
        return time.monotonic() - self.seen >= GIVE_UP_AFTER


class NewFiles:
    """The new picture files of a folder, which `poll` finds.

    folder: the watched one;  unwatched: a folder whose pictures do not count, wherever it is;
    known: keys of pictures that do not count; the caller adds those that are done.
    """

    def __init__(self, folder: str | Path, unwatched: str | Path, known: set[bytes]) -> None:
        self.folder, self.unwatched, self.known = Path(folder), Path(unwatched), known
        self.waiting: dict[str, NewFile] = {}
        self.problems: dict[str, str] = {}      # {name: why it cannot be read}, of this poll
        self.polled = time.time()

    def poll(self) -> list[NewFile]:
        """The pictures that are complete and not known, the oldest first."""
        now, clock, waiting, self.problems = time.time(), time.monotonic(), {}, {}
        for name, size, changed in scan(self.folder, self.unwatched, self.problems):
            key = picture_key(name, size, changed)
            if key not in self.known:
                before = self.waiting.get(name)
                # The time is that of the file; of a file that is moved here only the poll is known
                waiting[name] = before if before and before.key == key else NewFile(
                    name, key, min(max(changed / 1e9, self.polled), now), clock)
        complete = [a for name, a in waiting.items() if a is self.waiting.get(name)
                    and (not a.failed or a.is_final)]
        self.waiting, self.polled = waiting, now
        return sorted(complete, key=lambda a: (a.completed, a.name))

    def is_unchanged(self, file: NewFile) -> bool:
        """Whether the file still has the size and time with which it was found."""
        try:
            state = os.stat(self.folder / file.name)
        except OSError:
            return False
        return picture_key(file.name, state.st_size, state.st_mtime_ns) == file.key


def picture_key(name: str, size: int, changed: int) -> bytes:
    """16 bytes that differ if path, size or modification time (nanoseconds) differ."""
    text = f"{name}\0{size}\0{changed}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=16).digest()


def scan(folder: Path, unwatched: Path, problems: dict[str, str]
         ) -> Iterator[tuple[str, int, int]]:
    """(name, size, modification time in nanoseconds) of every picture in a folder and below it.

    problems: what cannot be read is entered here, {name: reason}; "." is the folder itself.
    """
    visited, waiting, links = {identity(unwatched)}, [""], []
    while waiting or links:
        inside = waiting.pop() if waiting else links.pop()      # links last: as in data/listing.py
        try:
            place = os.path.join(folder, inside)
            state = os.stat(place)
            if (state.st_dev, state.st_ino) in visited:
                continue
            visited.add((state.st_dev, state.st_ino))
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = inside + entry.name
                    if leads_to_folder(entry):
                        (links if entry.is_symlink() else waiting).append(name + "/")
                    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                        yield from state_of_entry(entry, name, problems)
                    elif entry.name.lower().endswith(PHONE_SUFFIXES):
                        problems[name] = f"is HEIC; {PHONE_REMEDY}"
            links.sort(reverse=True)
        except OSError as error:
            problems[inside.rstrip("/") or "."] = f"cannot be read ({error.strerror})"


def leads_to_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one.  A link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:                                 # `state_of_entry` says why
        return False


def state_of_entry(entry: os.DirEntry, name: str, problems: dict[str, str]
            ) -> Iterator[tuple[str, int, int]]:
    """(name, size, time) if the entry is a regular file, for `scan`."""
    try:
        state = entry.stat()
    except OSError as error:
        if entry.is_symlink() or not isinstance(error, FileNotFoundError):  # else deleted just now
            problems[name] = f"cannot be read ({error.strerror})"
        return
    if kind := kind_of(state.st_mode):
        problems[name] = f"is {kind}, expected a file"
    else:
        yield name, state.st_size, state.st_mtime_ns


def demo() -> None:
    """A picture that grows, is complete, is known, and gets another content."""
    with tempfile.TemporaryDirectory() as root:
        known = set()
        watched = NewFiles(root, Path(root) / "out", known)
        for content in (b"half", b"half and half", None, None, b"another one", None):
            if content:
                (Path(root) / "a.png").write_bytes(content)
            complete = watched.poll()
            known.update(file.key for file in complete)
            state = f"{len(content):2d} bytes written" if content else "no change"
            print(f"{state:16s} -> complete and new: {[file.name for file in complete]}")


if __name__ == "__main__":
    demo()
