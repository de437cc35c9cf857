"""Replace all results of a command in a folder in one transaction, by one process at a time.

Claim: techniques from databases protect a folder of results against a crash, and against deleting
what minilora did not write.

    lock        one process at a time writes to the folder (io/lock.py)
    record      a file belongs to a command only if the folder's record lists it (io/record.py)
    staging     new files are written to a hidden subfolder; the earlier result stays in place
    commit      when all are written, the journal `complete` appears in the subfolder, in one step;
                it lists the new files.  From now on the new result is valid
    finish      earlier files that the record lists are deleted, new ones moved to their places, the
                record is replaced, and the journal deleted as the last.  If a crash interrupts
                this, the next command that writes there repeats it from the journal

So a crash before the commit leaves the earlier result, and a crash after it the new one.  Readers
change nothing, not even an unfinished folder: `result_path` tells where a file of the valid result
is.  A journal may come from a stranger, so it can only name results of the command, and delete
nothing by itself.

Left out: folders that span several file systems; power cuts on file systems that do not keep the
order of renames; an attacker who changes the folder while minilora runs.
"""
import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from minilora.io.files import WRITTEN, sha256_of
from minilora.io.lock import LOCK_FILE, lock_folder
from minilora.io.record import (RECORD_FILE, RECORD_SCHEMA, RECORD_VERSION, check_place,
                                check_places, is_folder, matches, read_listing, read_record,
                                regular_digest, write_listing, write_record)
from minilora.io.regular_file import kind_at, kind_of
from minilora.io.temporary import TEMPORARY_NAME, remove_leftovers
from minilora.io.text import shown

STAGING, COMMIT_RECORD = ".unfinished-", "complete"
RESUME_FILE = "unfinished.safetensors"      # in the staging folder: an interrupted training


@contextlib.contextmanager
def atomic_folder(folder: str | Path, purpose: str, names: Iterable[str],
                  inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a staging folder; when the block ends, its files are moved into `folder` together.

    purpose: a word for the command; another command's files are not touched.
    names: what the block may write, as names or patterns of io/record.py ("maps/*.jpg").  An
    earlier result of the same purpose is replaced by the new one as a whole.
    inputs: files that the command reads; they must not be among the earlier results.
    After an error in the block `folder` is as it was before, and what was staged is deleted, except
    RESUME_FILE, which stays until a commit.  A block that writes nothing replaces nothing.
    Raises ValueError, before the block begins, if another process is writing there, or if there is
    anything under these names that is not an unchanged earlier result.  A file that appears there
    during the block is not replaced either: ValueError, and the committed result waits until it has
    been moved away (`finish_commit`).
    """
    folder, names, inputs = Path(folder), tuple(names), tuple(inputs)
    if folder.is_dir() and not any(os.path.lexists(folder / name)
                                   for name in (LOCK_FILE, RECORD_FILE)):
        check_places(folder, purpose, names, inputs)    # a user's folder stays without a lock file
    with lock_folder(folder):
        finish_commit(folder, purpose, names)
        remove_leftovers(folder)
        check_places(folder, purpose, names, inputs)
        staging = open_staging(folder, purpose, names)
        try:
            yield staging
            new = {name: sha256_of(staging / name) for name in staged_names(staging, names)}
            if new:                                         # commit
                write_listing(staging / COMMIT_RECORD,
                              {"version": RECORD_VERSION, "results": {purpose: new}})
        except BaseException:
            (staging / COMMIT_RECORD).unlink(missing_ok=True)   # first: Ctrl-C just after it
            clear_staging(staging, names, keep=(RESUME_FILE,))
            raise
        if not new:
            clear_staging(staging, names, keep=(RESUME_FILE,))
        finish_commit(folder, purpose, names)
        WRITTEN.extend(folder.absolute() / name for name in new)


def recover(folder: str | Path, purpose: str, names: Iterable[str]) -> None:
    """For a command that writes to the folder: finish its commit that a crash interrupted.

    Without one, only an empty staging folder is removed: what a crash at the end of that leaves.
    Raises ValueError as `atomic_folder` does.
    """
    folder, staging = Path(folder), Path(folder) / f"{STAGING}{purpose}"
    if is_folder(staging) and (COMMIT_RECORD in (left := os.listdir(staging)) or not left):
        with lock_folder(folder):
            finish_commit(folder, purpose, tuple(names))
            if purpose in read_record(folder) and is_folder(staging) and not os.listdir(staging):
                staging.rmdir()


def result_path(folder: str | Path, name: str, purpose: str = "fit") -> Path:
    """Where a reader finds a file of the valid result of a command; changes nothing.

    After a commit that a crash interrupted it is in the staging folder, or already in its place.
    The file may be missing.  Raises ValueError for a damaged journal, a link or a pipe on the way.
    """
    folder, place = Path(folder), Path(folder) / name
    staging = folder / f"{STAGING}{purpose}"
    committed = read_journal(staging, purpose)
    if committed is not None and (name not in committed or os.path.lexists(staging / name)):
        place = staging / name                  # not in the new result: missing there as well
    for depth in range(1, len(Path(name).parts)):
        is_folder(place.parents[depth - 1])
    if kind := kind_at(place):
        raise ValueError(f"{shown(place)} is {kind}, expected a file; make the run again")
    return place


# ---- the staging folder -------------------------------------------------------------------------

def open_staging(folder: Path, purpose: str, names: tuple[str, ...]) -> Path:
    """The staging folder, empty except for RESUME_FILE.

    The record lists the purpose before the folder exists, so a folder without that entry is a
    user's.  Raises ValueError for it, and for what is inside and not of this command.
    """
    staging, results = folder / f"{STAGING}{purpose}", read_record(folder)
    if purpose not in results:
        if os.path.lexists(staging):
            raise ValueError(f"{shown(staging)} was not written by minilora, or by an earlier "
                             "version; give another --out")
        write_record(folder, {**results, purpose: {}})
    if is_folder(staging):
        clear_staging(staging, names, keep=(RESUME_FILE,))
    staging.mkdir(exist_ok=True)
    return staging


def staged_names(staging: Path, names: tuple[str, ...]) -> list[str]:
    """Names of the new files.  Raises ValueError for a link, and for files of other names.

    Hidden files, which file managers leave everywhere, are passed over.
    """
    found = []
    for root, folders, files in os.walk(staging):
        inside = os.path.relpath(root, staging).replace(os.sep, "/") + "/"
        for entry in sorted(files + folders):
            name, path = inside.removeprefix("./") + entry, Path(root) / entry
            kind = kind_of(os.lstat(path).st_mode)
            if kind is None and matches(name, names):
                found.append(name)
            elif not (kind is None and (entry.startswith(".") or name in (COMMIT_RECORD,
                                                                          RESUME_FILE))
                      or kind == "a folder" and any(w.startswith(f"{name}/") for w in names)):
                raise ValueError(f"{shown(path)} is {kind or 'a file'} that was not written by "
                                 "minilora; remove it, or give another --out")
    return found


def clear_staging(staging: Path, names: tuple[str, ...], keep: tuple[str, ...] = ()) -> None:
    """Delete what this command has written into its staging folder; the journal is the last.

    keep: names of files that stay.  The folder itself goes if it is empty then.
    """
    for name in staged_names(staging, names):
        (staging / name).unlink()
    for root, folders, _ in os.walk(staging, topdown=False):
        for entry in os.listdir(root):
            if TEMPORARY_NAME.fullmatch(entry):
                os.unlink(os.path.join(root, entry))
        if Path(root) != staging and not os.listdir(root):
            os.rmdir(root)
    for name in (RESUME_FILE, COMMIT_RECORD):
        if name not in keep:
            (staging / name).unlink(missing_ok=True)
    if not os.listdir(staging):
        os.rmdir(staging)


# ---- after the commit ---------------------------------------------------------------------------

def read_journal(staging: Path, purpose: str) -> dict[str, str] | None:
    """{name: SHA-256} of a result that was committed and not finished; None if there is none."""
    path = staging / COMMIT_RECORD
    if not is_folder(staging) or not os.path.lexists(path):
        return None
    try:
        results = read_listing(path, RECORD_SCHEMA)["results"]
    except ValueError:
        if not os.path.lexists(path):           # a writer has finished it while we were reading
            return None
        raise
    if list(results) != [purpose]:
        raise ValueError(f"{shown(path)}: expected the files of {purpose}, found those of "
                         f"{shown(', '.join(results), 60)}; remove it")
    return results[purpose]


def finish_commit(folder: Path, purpose: str, names: tuple[str, ...]) -> None:
    """Put a committed result into its place; the caller has the lock.  Nothing without a journal.

    Everything is checked before the first change.  Repeating it after a crash gives the same.
    """
    staging = folder / f"{STAGING}{purpose}"
    new, results = read_journal(staging, purpose), read_record(folder)
    if new is None:
        return
    if purpose not in results:
        raise ValueError(f"{shown(staging)} was not written by minilora, or by an earlier version; "
                         "give another --out")
    staged, old = staged_names(staging, names), results[purpose]
    wrong = [name for name in new if not matches(name, names)] \
        + [name for name in staged if regular_digest(staging / name) != new.get(name)]
    if wrong:
        raise ValueError(f"{shown(staging / COMMIT_RECORD)} does not fit {shown(wrong[0])}; remove "
                         f"{shown(staging)}, or give another --out")
    for name in (*new, *old):
        check_parents(folder, name)
    for name in staged:
        check_place(folder, purpose, name, results)
    for name in old.keys() - new.keys():
        if matches(name, names) and regular_digest(folder / name) in old[name].split():
            (folder / name).unlink()
    for name in staged:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)
    write_record(folder, {**results, purpose: new})
    clear_staging(staging, names)


def check_parents(folder: Path, name: str) -> None:
    """Raise ValueError if a folder on the way to a result is a link, or no folder."""
    for parent in [*Path(name).parents][-2::-1]:        # from the top, without "."
        is_folder(folder / parent)


def demo() -> None:
    """Write a result three times, the second time with an interruption; then refuse a user's file.
    """
    with tempfile.TemporaryDirectory() as root:
        folder, names = Path(root) / "run", ("scores.csv", "metrics.json")
        for number, interrupted in ((1, False), (2, True), (3, False)):
            try:
                with atomic_folder(folder, "demo", names) as staging:
                    (staging / "scores.csv").write_text(f"scores of run {number}")
                    if interrupted:
                        raise KeyboardInterrupt
                    (staging / "metrics.json").write_text(f"metrics of run {number}")
            except KeyboardInterrupt:
                print(f"run {number} is interrupted between its two files")
            print(f"after run {number}:", *(result_path(folder, name, "demo").read_text()
                                            for name in names), sep="  ")
        print("hidden files:", *sorted(p.name for p in folder.glob(".*") if p.name != LOCK_FILE))
        (folder / "metrics.json").write_text("a user's own numbers")
        try:
            with atomic_folder(folder, "demo", names):
                pass
        except ValueError as error:
            print("refused:", str(error).replace(root, "…"))


if __name__ == "__main__":
    demo()
