"""The file index.json of a search index: what it holds, and the checks when it is read.

    version                     of the format
    base                        the model that made the features (checkpoint/base_model.py)
    sampling, reads             options of `sample_frames`; whether text was read in the frames
    files                       columns: path, size in bytes, time of the last change, pieces
    parts                       {name of a part: SHA-256 of its file}: what minilora may delete
    unfinished                  {run: time}: runs that may have written parts not listed yet

A piece "stills-0f…-00000:3:4" is rows 3 up to 4 of a part.  The files are columns, not one record
for each, because the number of lists in a JSON file is limited (`io/files.py`).

Claim: an index can come from a stranger.  Every value is checked, a link is never followed, and a
folder that has parts but no index.json is refused, since minilora writes index.json first.
Left out: the features (search/index.py), who may change the file when (search/index_changes.py).
"""
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilora.checkpoint.base_model import BASE_SCHEMA, BaseModel
from minilora.io.cli import shell_command
from minilora.io.files import atomic_write, read_json
from minilora.io.regular_file import kind_of
from minilora.io.safetensors import MAX_CONTAINERS
from minilora.io.schema import Flag, ListOf, MapOf, Number, Record, SchemaError, Text, Whole, check
from minilora.io.text import shown

INDEX_VERSION = 3
INDEX_FILE, PARTS_FOLDER, PART_SUFFIX = "index.json", "parts", ".safetensors"
MAX_INDEX_BYTES = 256 << 20             # about a million files
MAX_FILES, MAX_ROWS = 10**7, 2**20      # of an index; of a part
PIECE = re.compile(r"([A-Za-z0-9-]{1,100}):([0-9]{1,8}):([0-9]{1,8})")
RUN, SHA256 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")
SCHEMA = Record({
    "version": Whole(INDEX_VERSION, INDEX_VERSION), "base": BASE_SCHEMA,
    "sampling": Record({}, {"rate": Number(1e-9, 1e9), "change": Number(0, 255),
                            "bits": Number(0, 16)}), "reads": Flag(),
    "files": Record({"path": ListOf(Text(8192), most=MAX_FILES),
                     "size": ListOf(Whole(0, 2**63 - 1), most=MAX_FILES),
                     "changed": ListOf(Whole(-2**63, 2**63 - 1), most=MAX_FILES),
                     "pieces": ListOf(Text(10**6), most=MAX_FILES)}),
    "parts": MapOf(Text(64)), "unfinished": MapOf(Number(0, 1e12), most=10_000)})


@dataclass
class Entry:
    """One file of the index."""
    path: str
    size: int                   # bytes
    changed: int                # time of the last change, nanoseconds
    pieces: list                # [[name of a part, first row, last row + 1], ...]

    def rows(self) -> int:
        """Number of frames."""
        return sum(last - first for _, first, last in self.pieces)


def read_index_file(folder: Path) -> dict[str, Any]:
    """The checked content of index.json; "files" is a dict {path: Entry}, "base" a BaseModel.

    Raises ValueError in one line if there is no index, or none that can be used.
    """
    refuse_foreign(folder)
    path = folder / INDEX_FILE
    if not os.path.lexists(path):
        raise ValueError(f"{shown(folder)} holds no index; make one with "
                         + shell_command("search", "index", "PATHS", "--out", folder))
    try:
        saved = read_json(path, MAX_INDEX_BYTES)
        if isinstance(saved, dict) and saved.get("version") in (1, 2) and "files" in saved:
            raise ValueError("it was made by an earlier version; make it again")
        saved = check(saved, SCHEMA, INDEX_FILE)
        if not SHA256.fullmatch(saved["base"]["sha256"]) or not all(
                map(SHA256.fullmatch, saved["parts"].values())):
            raise SchemaError("expected a SHA-256 of 64 hexadecimal digits")
        if not all(map(RUN.fullmatch, saved["unfinished"])):
            raise SchemaError("expected runs of 16 hexadecimal digits")
        saved["base"] = BaseModel(**saved["base"])
        saved["files"] = entries_of(saved["files"], saved["parts"])
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ").removesuffix("; make it again")
        raise ValueError(f"{shown(path)} is no index that this version of minilora wrote: "
                         f"{reason}; make it again in another folder") from error
    return saved


def entries_of(columns: dict[str, list], parts: dict[str, str]) -> dict[str, Entry]:
    """{path: Entry} from the columns of index.json.  Raises SchemaError."""
    if len({len(column) for column in columns.values()}) != 1:
        raise SchemaError("files: expected columns of one length")
    entries, claimed = {}, {}
    for path, size, changed, text in zip(*(columns[key] for key in entry_columns())):
        pieces = []
        if "\0" in path:                        # no operating system could open it
            raise SchemaError(f"files: expected a path, found {shown(path)}")
        for piece in text.split():
            match = PIECE.fullmatch(piece)
            name, first, last = match.groups() if match else ("", 0, 0)
            if not (int(first) < int(last) <= MAX_ROWS and name in parts):
                raise SchemaError(f"files: expected rows of a part, found {shown(piece, 80)}")
            pieces.append([name, int(first), int(last)])
            claimed.setdefault(name, []).append((int(first), int(last)))
        entries[path] = Entry(path, size, changed, pieces)
    # If ranges could overlap, a small index could stand for billions of rows
    for name, ranges in claimed.items():
        ranges.sort()
        if any(last > first for (_, last), (first, _) in zip(ranges, ranges[1:])):
            raise SchemaError(f"files: expected each row of {name} once, found ranges that overlap")
    return entries


def write_index_file(folder: Path, content: dict[str, Any]) -> None:
    """Replace index.json.  content: as `read_index_file` returns it, without the version.

    Raises ValueError if it could not be read again.
    """
    entries = content["files"].values()
    columns = {key: [getattr(e, key) for e in entries] for key in entry_columns()}
    columns["pieces"] = [" ".join(f"{name}:{first}:{last}" for name, first, last in pieces)
                         for pieces in columns["pieces"]]
    text = json.dumps({"version": INDEX_VERSION, **content, "base": asdict(content["base"]),
                       "files": columns}, allow_nan=False)
    if len(text) > MAX_INDEX_BYTES or text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise ValueError(f"{shown(folder)}: too many files for one index; give the rest another "
                         "--out")
    with atomic_write(folder / INDEX_FILE, "w") as file:
        file.write(text)


def entry_columns() -> tuple[str, ...]:
    """Names of the columns in index.json: the fields of `Entry`."""
    return tuple(Entry.__dataclass_fields__)


def refuse_foreign(folder: Path) -> None:
    """Raise ValueError if index.json or the folder of parts is not what minilora writes there.

    A link could lead to other people's files.  Parts without an index.json are of other origin,
    since minilora writes index.json first.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{shown(folder)} is not a folder; give another --out")
    found = {name: kind_of(os.lstat(folder / name).st_mode) if os.path.lexists(folder / name)
             else "nothing" for name in (INDEX_FILE, PARTS_FOLDER)}
    for name, expected in ((INDEX_FILE, None), (PARTS_FOLDER, "a folder")):
        if found[name] not in (expected, "nothing"):
            raise ValueError(f"{shown(folder / name)} is {found[name] or 'a file'}, not written by "
                             "minilora; give another --out")
    if found[INDEX_FILE] == "nothing" and found[PARTS_FOLDER] == "a folder" \
            and any((folder / PARTS_FOLDER).iterdir()):
        raise ValueError(f"{shown(folder / PARTS_FOLDER)} is there without an {INDEX_FILE}, not "
                         "written by minilora; give another --out")


def identity_of(folder: Path) -> tuple[int, ...] | None:
    """Inode, time and size of index.json, which differ after it is replaced; None without it."""
    try:
        found = os.lstat(folder / INDEX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def demo() -> None:
    """Write an index of one file and read it; three changed copies of it are refused."""
    import tempfile
    with tempfile.TemporaryDirectory() as root:
        folder, name = Path(root), "frames-0"
        good = {"base": BaseModel("made up", "0" * 64), "sampling": {"rate": 1.0}, "reads": False,
                "files": {"belt.mp4": Entry("belt.mp4", 1, 1, [[name, 0, 3]])},
                "parts": {name: "0" * 64}, "unfinished": {}}
        write_index_file(folder, good)
        print(*read_index_file(folder)["files"].values())
        text = (folder / INDEX_FILE).read_text()
        for old, new in (('"version": 3', '"version": 2'), (":0:3", ":3:3"), ("1.0", "NaN")):
            (folder / INDEX_FILE).write_text(text.replace(old, new))
            try:
                read_index_file(folder)
            except ValueError as error:
                print(str(error).replace(root, "…").split("minilora wrote: ")[1])


if __name__ == "__main__":
    demo()
