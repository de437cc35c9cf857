"""Replace all results in a folder in one transaction, by one process at a time.

Claim: four techniques from databases protect a folder of results against a crash or a power cut.

    lock        one process at a time writes to the folder (`lock_folder`)
    staging     new files are written to a hidden subfolder; the earlier result stays in place
    commit      when all are written, the file `complete` appears in the subfolder, in one step;
                it lists the earlier files to delete.  From now on the new result is valid
    recovery    after the commit, earlier files are deleted and new ones moved to their places.  If
                a crash interrupts this, the next process repeats it from the commit record, as
                SQLite does from its write-ahead log (`recover`)

So a crash before the commit leaves the earlier result, and a crash after it the new one.

Left out: folders that span several file systems; readers that do not call `recover` and read the
folder while files are moved; locks where the operating system has none (Windows, some network
drives): there, two processes can write at once.
"""
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

STAGING, COMMIT_RECORD, LOCK_FILE = ".unfinished-", "complete", ".lock"
RESUME_FILE = "unfinished.pt"   # in the staging folder: the state of an interrupted training
LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Inside the block, no other process can lock the same folder.

    The operating system releases the lock when the process ends, even after a crash.  Raises
    ValueError if another process holds the lock.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LOCK_FILE).is_symlink():               # writing would overwrite the link's target
        raise ValueError(f"{folder / LOCK_FILE} is a link, expected a file of minilora; remove it")
    with open(folder / LOCK_FILE, "a+") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:                             # Windows
            pass
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(f"{folder} is being written by another process (number "
                             f"{file.read() or 'unknown'}); wait for it, or give another folder "
                             "with --out") from error
        except OSError as error:
            if error.errno not in LOCKS_UNSUPPORTED:
                raise
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def recover(folder: str | Path) -> None:
    """Finish a commit that a crash interrupted; without one, do nothing.

    Raises ValueError if another process is writing there, or if a link leads out of the folder.
    """
    if any(Path(folder).glob(f"{STAGING}*/{COMMIT_RECORD}")):
        with lock_folder(folder):
            apply_commits(folder)


def apply_commits(folder: str | Path) -> None:
    """Delete earlier results and move committed files to their places; the caller has the lock."""
    folder = Path(folder)
    for staging in [path.parent for path in folder.glob(f"{STAGING}*/{COMMIT_RECORD}")]:
        new = sorted(p for p in staging.rglob("*")
                     if not p.is_dir() and p.name not in (COMMIT_RECORD, RESUME_FILE))
        places = [folder / p.relative_to(staging) for p in new]
        for path in (staging, *new, *(p.parent for p in places)):
            target = path.resolve()
            if path.is_symlink() or folder.resolve() not in (target, *target.parents):
                raise ValueError(f"{path} leads out of {folder}; remove the link")
        for name in (staging / COMMIT_RECORD).read_text("utf-8").split():
            remove_result(folder / Path(name).name)
        write_commit_record(staging, ())                # a repetition must not delete new files
        for source, target in zip(new, places):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
        shutil.rmtree(staging)


def write_commit_record(staging: Path, earlier: Iterable[str]) -> None:
    """Commit: record, in one step, that all new files are written and which earlier ones to delete.

    staging: the folder with the new files;  earlier: names in the folder of results.
    """
    with open(staging.with_suffix(".tmp"), "w", encoding="utf-8") as file:
        file.write("\n".join(earlier))
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, staging / COMMIT_RECORD)


def remove_result(path: Path) -> None:
    """Delete one earlier result: a file, or the .png and .xml files in a folder."""
    if path.is_dir() and not path.is_symlink():
        for file in (*path.glob("*.png"), *path.glob("*.xml")):
            file.unlink()
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path, purpose: str, earlier: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a staging folder; when the block ends, its files are moved into `folder` together.

    purpose: a word for the command; another command's staging folder is not touched.
    earlier: names of an earlier result's files, and of its folders of pictures; they are deleted.
    After an error in the block `folder` is as it was before.  Files of an interrupted attempt are
    deleted, except RESUME_FILE, which stays until a commit.
    Raises ValueError if another process is writing there.
    """
    with lock_folder(folder):
        apply_commits(folder)
        staging = Path(folder) / f"{STAGING}{purpose}"
        if staging.is_symlink():
            raise ValueError(f"{staging} is a link, expected a folder of minilora; remove it")
        staging.mkdir(exist_ok=True)
        for path in staging.iterdir():
            if path.name != RESUME_FILE:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield staging
        write_commit_record(staging, earlier)
        apply_commits(folder)


def demo() -> None:
    """Write a result three times, the second time with an interruption; then try a second lock."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        for number, interrupted in ((1, False), (2, True), (3, False)):
            try:
                with atomic_folder(folder, "demo") as staging:
                    (staging / "scores.csv").write_text(f"scores of run {number}")
                    if interrupted:
                        raise KeyboardInterrupt
                    (staging / "metrics.json").write_text(f"metrics of run {number}")
            except KeyboardInterrupt:
                print(f"run {number} is interrupted between its two files")
            print(f"after run {number}:", *(p.read_text() for p in sorted(folder.glob("*.*"))
                                            if p.is_file() and p.name != LOCK_FILE), sep="  ")
        with lock_folder(folder):
            try:
                with lock_folder(folder):
                    pass
            except ValueError as error:
                print(str(error).split(" (")[0].replace(str(folder), "the folder"))


if __name__ == "__main__":
    demo()
