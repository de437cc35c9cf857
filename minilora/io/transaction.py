"""A folder of results that changes as a whole, and that one process writes at a time.

Claim: three habits of databases make a folder safe against a pulled plug.  New files are collected
in a hidden folder inside; when all are there a last file, `complete`, says so and names what the
earlier result had; and only then the old ones go and the new ones take their places.  Whoever is
killed before that file leaves the earlier result as it was; whoever is killed after it leaves work
that the next one who opens the folder finishes (a write-ahead log, as in SQLite).

Leaves out: folders on several file systems; readers that do not call `settle` and look at the
folder in the very moment of a change; locks where the system has none (Windows, some network
drives): there two processes are not kept apart.
"""
import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

STAGING, COMPLETE, LOCK = ".unfinished-", "complete", ".lock"
RESUME = "unfinished.pt"        # in the hidden folder: from where a stopped attempt goes on
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def only_one(folder):
    """Within the block no other process that asks for the same folder gets it.

    The system lets go of the lock when a process ends, however it ends.  Raises ValueError if
    another holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LOCK).is_symlink():                    # what it leads to would be overwritten
        raise ValueError(f"{folder / LOCK} is a link; expected a file of minilora; remove it")
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
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def settle(folder):
    """Finishes what a process that was killed while its files took their places had begun.

    Raises ValueError if that process is still at it, or if a link leads out of the folder.
    """
    if any(Path(folder).glob(f"{STAGING}*/{COMPLETE}")):
        with only_one(folder):
            publish(folder)


def publish(folder):
    """Puts complete results in place.  The caller holds the lock."""
    folder = Path(folder)
    for staging in [path.parent for path in folder.glob(f"{STAGING}*/{COMPLETE}")]:
        new = sorted(p for p in staging.rglob("*")
                     if not p.is_dir() and p.name not in (COMPLETE, RESUME))
        places = [folder / p.relative_to(staging) for p in new]
        for path in (staging, *new, *(p.parent for p in places)):
            there = path.resolve()
            if path.is_symlink() or folder.resolve() not in (there, *there.parents):
                raise ValueError(f"{path} leads out of {folder}; remove the link")
        for name in (staging / COMPLETE).read_text("utf-8").split():
            remove_result(folder / Path(name).name)
        complete(staging, ())                           # or a second attempt would remove new ones
        for source, target in zip(new, places):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
        shutil.rmtree(staging)


def complete(staging, earlier):
    """Says that all new files are there, and which earlier ones are to go."""
    with open(staging.with_suffix(".tmp"), "w", encoding="utf-8") as file:
        file.write("\n".join(earlier))
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, staging / COMPLETE)


def remove_result(path):
    """An earlier result: a file, or the pictures and descriptions in a folder."""
    if path.is_dir() and not path.is_symlink():
        for file in (*path.glob("*.png"), *path.glob("*.xml")):
            file.unlink()
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder, purpose, earlier=()):
    """Yields a folder for new files, which take their places in `folder` when the block ends.

    purpose: a word; commands of another purpose do not touch what is unfinished.  earlier: names of
    what an earlier result may have had, files or folders of pictures, which then goes.  Of an
    attempt that was stopped its RESUME file alone stays, until the results are in place.  An error
    in the block leaves `folder` as it was.  Raises ValueError if another process is writing there.
    """
    with only_one(folder):
        publish(folder)
        staging = Path(folder) / f"{STAGING}{purpose}"
        if staging.is_symlink():
            raise ValueError(f"{staging} is a link; expected a folder of minilora; remove it")
        staging.mkdir(exist_ok=True)
        for path in staging.iterdir():
            if path.name != RESUME:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield staging
        complete(staging, earlier)
        publish(folder)


def demo():
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        for number, killed in ((1, False), (2, True), (3, False)):
            try:
                with whole_folder(folder, "demo") as staging:
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
