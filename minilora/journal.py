"""A folder of results that changes as a whole, and that one process writes at a time.

Claim: three habits of databases make a folder safe against a pulled plug.  New files are collected
in a hidden folder inside, `.unfinished`; when all are there a last empty file, `complete`, says so;
and only then they take their places one by one.  Whoever is killed before that file leaves the
earlier result as it was; whoever is killed after it leaves work that the next one who opens the
folder finishes (a write-ahead log, as in SQLite).

Leaves out: folders on several file systems; removing what an earlier result had and a new one has
not; readers that do not call `settle` and look at the folder in the very moment of a change.
"""
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

STAGING, COMPLETE, LOCK = ".unfinished", "complete", ".lock"


@contextmanager
def only_one(folder):
    """Within the block no other process that asks for the same folder gets it.

    The system lets go of the lock when a process ends, however it ends.  Raises ValueError if
    another holds it.  Without `fcntl` (Windows) nothing is locked.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(f"{folder} is being written by another process (number "
                             f"{file.read() or 'unknown'}); wait for it, or give another folder "
                             "with --out") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def settle(folder):
    """Finishes what a process that was killed while its files took their places had begun."""
    staging = Path(folder) / STAGING
    if not (staging / COMPLETE).exists():
        return
    for source in sorted(p for p in staging.rglob("*") if p.is_file() and p.name != COMPLETE):
        target = Path(folder) / source.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    shutil.rmtree(staging)


@contextmanager
def whole_folder(folder):
    """Yields a folder for new files, which take their places in `folder` when the block ends.

    What an earlier process left there unfinished is still in it, for going on.  An error in the
    block leaves `folder` as it was.  Raises ValueError if another process is writing there.
    """
    with only_one(folder):
        settle(folder)
        staging = Path(folder) / STAGING
        staging.mkdir(exist_ok=True)
        for stray in staging.rglob(".*.tmp"):           # of files.whole_file, killed half-way
            stray.unlink()
        yield staging
        with open(staging / COMPLETE, "wb") as file:
            os.fsync(file.fileno())
        settle(folder)


def demo():
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        for number, killed in ((1, False), (2, True), (3, False)):
            try:
                with whole_folder(folder) as staging:
                    (staging / "scores.csv").write_text(f"scores of run {number}")
                    if killed:
                        raise KeyboardInterrupt
                    (staging / "metrics.json").write_text(f"metrics of run {number}")
            except KeyboardInterrupt:
                print(f"run {number} is stopped between its two files")
            print(f"after run {number}:", *(p.read_text() for p in sorted(folder.glob("*.*"))
                                            if p.is_file() and p.name != LOCK), sep="  ")
        with only_one(folder):
            try:
                with only_one(folder):
                    pass
            except ValueError as error:
                print(str(error).split(" (")[0].replace(str(folder), "the folder"))


if __name__ == "__main__":
    demo()
