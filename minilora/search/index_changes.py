"""Several processes change one index: no rows are lost, and nothing foreign is deleted.

Claim: an index is changed only inside `changing`: with the lock of the folder, index.json is read
again if another process has replaced it, changed, and written.  This takes milliseconds, so several
runs can encode at the same time.  Each run has a random number, which index.json lists before the
run writes its first part, and which is in the names of its parts.  So no two runs write the same
file, and minilora deletes only

    parts that index.json lists with this SHA-256, and that no file of the index uses
    parts of runs that index.json lists as unfinished: of this run, or of one that has not changed
    the index for ABANDONED_SECONDS

Where the operating system has no locks, io/lock.py uses a file.
Left out: a lock for a whole run; two runs that are given the same new file encode it twice.
"""
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minilora.io.files import sha256_of
from minilora.io.lock import lock_folder
from minilora.io.regular_file import kind_of
from minilora.io.temporary import remove_leftovers
from minilora.io.text import shown
from minilora.search.index import Index
from minilora.search.index_file import PART_SUFFIX, PARTS_FOLDER, Entry, refuse_foreign

WAIT_SECONDS = 60.0                     # for the lock: other runs hold it for milliseconds
ABANDONED_SECONDS = 7 * 86_400          # after which a run that changes nothing has been killed


@contextmanager
def changing(index: Index) -> Iterator[None]:
    """Lock the folder, read `index` again if it was replaced, run the block, then write `index`.

    After an error in the block nothing is written.  Raises ValueError if the folder holds files of
    other origin, if the index on disk has other options, or if another process keeps the lock.
    """
    take_over(index)                        # before a lock file is made in a folder of others
    with lock_folder(index.folder, WAIT_SECONDS):
        take_over(index)
        yield
        index.write()


def take_over(index: Index) -> None:
    """Make `index` as it is on the disk.  Raises ValueError for a folder of other origin."""
    refuse_foreign(index.folder)
    index.refresh()


def begin_run(index: Index) -> str:
    """The number of a new run, 16 hexadecimal digits; index.json lists it as unfinished."""
    run = secrets.token_hex(8)
    with changing(index):
        index.unfinished[run] = time.time()
    parts = index.folder / PARTS_FOLDER
    parts.mkdir(exist_ok=True)
    for folder in (index.folder, parts):
        remove_leftovers(folder)
    return run


def add_entries(index: Index, run: str, entries: Iterable[Entry]) -> None:
    """Add files to the index on disk.  A file that another run has added meanwhile stays as it is.

    Raises ValueError if a part of an entry is missing.
    """
    with changing(index):
        index.unfinished[run] = time.time()
        for entry in entries:
            missing = [name for name, _, _ in entry.pieces if not index.part_path(name).is_file()]
            if missing:
                raise ValueError(f"{shown(index.part_path(missing[0]))} is missing: another "
                                 "process has deleted it; run the same command again")
            if not is_known(index, entry.path, entry.size, entry.changed):
                index.entries[entry.path] = entry


def is_known(index: Index, path: str, size: int, changed: int) -> bool:
    """Whether the index holds a file, of this size and time."""
    known = index.entries.get(path)
    return known is not None and (known.size, known.changed) == (size, changed)


def remove_entries(index: Index, paths: Iterable[str]) -> list[str]:
    """Remove files from the index on disk.  Returns the paths of those that it held."""
    with changing(index):
        return [path for path in paths if index.entries.pop(path, None)]


def end_run(index: Index, run: str | None = None) -> None:
    """Delete the parts that no file uses, and those of finished and abandoned runs.

    The index.json on disk does not need them: it was replaced before.  Their names leave index.json
    only after the files are deleted, so after a kill in between the next run still knows them.
    """
    with changing(index):
        used = {*index.part_names()}
        for name in [name for name in index.parts if name not in used]:
            if is_regular(index.part_path(name)) \
                    and sha256_of(index.part_path(name)) == index.parts[name]:
                index.part_path(name).unlink()
            del index.parts[name]
        for other, since in [*index.unfinished.items()]:
            unused = [path for path in parts_of_run(index, other) if path.stem not in used]
            if other == run or time.time() - since > ABANDONED_SECONDS:
                for path in unused:
                    path.unlink()
                unused = []
            if not unused:
                del index.unfinished[other]


def parts_of_run(index: Index, run: str) -> list[Path]:
    """The regular files that a run has written as parts."""
    name = re.compile(f"[a-z]+-{run}-[0-9a-f-]+{re.escape(PART_SUFFIX)}")
    return [path for path in (index.folder / PARTS_FOLDER).glob(f"*{PART_SUFFIX}")
            if name.fullmatch(path.name) and is_regular(path)]


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, not a link, at this path."""
    return os.path.lexists(path) and kind_of(os.lstat(path).st_mode) is None


def demo() -> None:
    """Two runs add a file each; a user's file among the parts stays."""
    import tempfile

    import torch

    from minilora.checkpoint.base_model import BaseModel
    from minilora.io.files import save_tensors
    with tempfile.TemporaryDirectory() as folder:
        new = lambda: Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0})
        runs = [(index, begin_run(index)) for index in (new(), new())]
        for number, (index, run) in enumerate(runs):
            name = f"stills-{run}-00000"
            save_tensors(index.part_path(name), {
                "features": torch.ones(1, 2).half(), "times": torch.zeros(1).double()})
            add_entries(index, run, [Entry(f"{number}.png", 1, 1, [[name, 0, 1]])])
        mine = Path(folder) / PARTS_FOLDER / "holiday.safetensors"
        mine.write_text("not of minilora")
        for index, run in runs:
            end_run(index, run)
        index = Index.open(folder)
        print("files:", *index.entries, " unfinished runs:", len(index.unfinished))
        print("removed:", *remove_entries(index, ["0.png"]))
        end_run(index)
        print("files:", *Index.open(folder).entries, " parts:", len(index.parts))
        print("a user's file is there:", mine.exists())


if __name__ == "__main__":
    demo()
