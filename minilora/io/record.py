"""The record of what minilora wrote into a folder: `.minilora.json`, names and digests.

Claim: a program must not delete or replace what it did not write.  A name proves nothing: a user's
folder can hold its own `metrics.json` or `maps/1.png`.  So each command records the names and the
SHA-256 of its results in the folder, and a file belongs to a command only if the record lists it
for this command and its bytes are still the same.

    {"version": 1, "results": {"fit": {"metrics.json": "9f86d0…", "maps/1.jpg": "60303a…"}}}

Purpose: a word for the command ("fit").  Name: path relative to the folder, with "/".
Pattern: a name whose last part may hold the wildcards of fnmatch ("maps/*.jpg").
Digests: the SHA-256; or, while a file is replaced, the old and the new one with a space between:
after a crash the file has one of them.

Left out: how files get their names (io/transaction.py, io/output.py); an attacker who changes the
folder while minilora runs.
"""
import fnmatch
import glob
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from minilora.io.files import WRITTEN, atomic_write, parse_json, sha256_of
from minilora.io.regular_file import kind_of, read_regular
from minilora.io.schema import MapOf, Record, Text, Whole, check
from minilora.io.text import shown

RECORD_FILE, RECORD_VERSION = ".minilora.json", 1
OWN_PREFIXES = (".minilora", ".unfinished-")        # of its own hidden files
MAX_RECORD_BYTES = 32 << 20                         # some 300,000 results
MAX_FOLDERS = 4                                     # parts of a name
DIGESTS = re.compile("[0-9a-f]{64}( [0-9a-f]{64})?")

Results = dict[str, dict[str, str]]                 # {purpose: {name: digests}}
RECORD_SCHEMA = Record({"version": Whole(RECORD_VERSION, RECORD_VERSION),
                        "results": MapOf(MapOf(Text(129)))})


# ---- the file -----------------------------------------------------------------------------------

def read_record(folder: str | Path) -> Results:
    """The results that the record of a folder lists; {} without a record.

    Raises ValueError if it is damaged, a link, or not a regular file.
    """
    path = Path(folder) / RECORD_FILE
    if not os.path.lexists(path):
        return {}
    return read_listing(path, RECORD_SCHEMA)["results"]


def write_record(folder: str | Path, results: Results) -> None:
    """Replace the record of a folder; the caller holds the lock of the folder."""
    write_listing(Path(folder) / RECORD_FILE, {"version": RECORD_VERSION, "results": results})


def read_listing(path: Path, schema: Record) -> dict:
    """The JSON content of the record or of a journal, checked: types, names, digests."""
    try:
        content = check(parse_json(read_regular(path, MAX_RECORD_BYTES, follow=False)), schema,
                        path.name)
        for names in content["results"].values():
            for name, digests in names.items():
                if not is_result_name(name) or not DIGESTS.fullmatch(digests):
                    raise ValueError(f"expected names with their sha256, found {shown(name, 80)}")
    except (ValueError, OSError) as error:
        raise ValueError(f"{shown(path)} is not as minilora writes it ({shown(error)}); remove "
                         "it, or give another folder") from error
    return content


def write_listing(path: Path, content: dict) -> None:
    """Write the record or a journal.  Raises ValueError if it could not be read again."""
    text = json.dumps(content)
    if len(text) > MAX_RECORD_BYTES:
        raise ValueError(f"{shown(path.parent)}: too many files for one folder; give fewer at "
                         "once, with another --out for the rest")
    with atomic_write(path, "w") as file:
        file.write(text)
    WRITTEN.remove(path.absolute())                 # it is no result, and not named after Ctrl-C


def is_result_name(name: str) -> bool:
    """Whether a text is a relative path that stays inside the folder."""
    parts = name.split("/")
    return len(parts) <= MAX_FOLDERS and "\0" not in name and not os.path.splitdrive(name)[0] \
        and not any(part in ("", ".", "..") or part.startswith(OWN_PREFIXES) for part in parts)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, part by part."""
    parts = name.split("/")
    return any(len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
               for wanted in (pattern.split("/") for pattern in patterns))


# ---- what is in the folder ----------------------------------------------------------------------

def regular_digest(path: Path) -> str | None:
    """SHA-256 of a regular file; None for anything else: nothing, a folder, a link, a pipe."""
    if not os.path.lexists(path) or kind_of(os.lstat(path).st_mode):
        return None
    return sha256_of(path)


def existing_names(folder: Path, patterns: Iterable[str]) -> Iterator[str]:
    """Names of everything in a folder that fits one of the patterns, of whatever kind.

    Raises ValueError if a folder of a pattern ("maps" of "maps/*.jpg") is a link, or no folder.
    """
    for pattern in patterns:
        found = [""]
        *folders, last = pattern.split("/")
        for part in folders:
            found = [f"{name}{part}/" for name in found if is_folder(folder / name / part)]
        for name in found:
            if glob.has_magic(last):
                with os.scandir(folder / name) as entries:
                    yield from sorted(f"{name}{e.name}" for e in entries
                                      if fnmatch.fnmatchcase(e.name, last)
                                      and not e.name.startswith(OWN_PREFIXES))
            elif os.path.lexists(folder / name / last):
                yield name + last


def is_folder(path: Path) -> bool:
    """Whether there is a folder; False if there is nothing.  Raises ValueError for anything else.
    """
    if not os.path.lexists(path):
        return False
    kind = kind_of(os.lstat(path).st_mode)
    if kind != "a folder":
        raise ValueError(f"{shown(path)} is {kind or 'a file'}, expected a folder; remove it, or "
                         "give another folder")
    return True


def check_places(folder: str | Path, purpose: str, patterns: Iterable[str],
                 inputs: Iterable[str | Path] = ()) -> None:
    """Raise ValueError if anything that fits the patterns is not an unchanged result of `purpose`.

    inputs: files that the same call reads; they must not be among the earlier results, which are
    going to be deleted or replaced.  Reads only; a folder that is missing is fine.
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    results, read = read_record(folder), {identity(path) for path in inputs} - {None}
    for name in existing_names(folder, patterns):
        check_place(folder, purpose, name, results)
        if identity(folder / name) in read:
            raise ValueError(f"{shown(folder / name)} is read by this command and would be "
                             "replaced; give another --out")


def check_place(folder: Path, purpose: str, name: str, results: Results,
                remedy: str = "give another --out") -> None:
    """Raise ValueError if something at `name` is not an unchanged result of `purpose`.

    remedy: what the user can do, for the message.
    """
    path = folder / name
    if not os.path.lexists(path):
        return
    if kind := kind_of(os.lstat(path).st_mode):
        raise ValueError(f"{shown(path)} is {kind}, expected a file; {remedy}")
    known = results.get(purpose, {}).get(name)
    other = next((word for word, names in results.items() if name in names), None)
    if known is None and other is not None:
        raise ValueError(f"{shown(path)} belongs to the result of another command "
                         f"({shown(other, 60)}); {remedy}")
    if known is None:
        raise ValueError(f"{shown(path)} was not written by minilora, or by an earlier version; "
                         f"{remedy}")
    if sha256_of(path) not in known.split():
        raise ValueError(f"{shown(path)} was changed since minilora wrote it; move it away, or "
                         f"{remedy}")


def identity(path: str | Path) -> tuple[int, int] | None:
    """Device and number of the file that a path leads to; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def results_among(paths: Iterable[str | Path]) -> set[Path]:
    """Those of the paths that a record in their folder, or in one above, lists with these bytes.

    A command that searches folders for pictures leaves them out, since they are its own results.
    Reads only.  A record that cannot be read lists nothing.
    """
    records, found = {}, set()
    for path in map(Path, paths):
        for depth, folder in enumerate(path.absolute().parents[:MAX_FOLDERS], 1):
            if folder not in records:
                records[folder] = listed(folder)
            name = "/".join(path.absolute().parts[-depth:])
            if name in records[folder] and regular_digest(path) in records[folder][name].split():
                found.add(path)
                break
    return found


def listed(folder: Path) -> dict[str, str]:
    """{name: digests} of all purposes in the record of a folder; {} if it cannot be read."""
    try:
        return {name: digests for names in read_record(folder).values()
                for name, digests in names.items()}
    except (ValueError, OSError):
        return {}


def demo() -> None:
    """A folder with a recorded file, the same after a change, and a user's file."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "metrics.json").write_text("{}")
        write_record(folder, {"fit": {"metrics.json": sha256_of(folder / "metrics.json")}})
        print((folder / RECORD_FILE).read_text()[:80], "…")
        check_places(folder, "fit", ("metrics.json", "maps/*.jpg"))
        print("fit may replace its metrics.json")
        (folder / "notes.csv").write_text("mine")
        (folder / "metrics.json").write_text('{"auroc": 1.0}')
        for purpose, pattern in (("mae", "*.json"), ("fit", "*.json"), ("fit", "*.csv")):
            try:
                check_places(folder, purpose, (pattern,))
            except ValueError as error:
                print(str(error).replace(f"{root}/", ""))


if __name__ == "__main__":
    demo()
