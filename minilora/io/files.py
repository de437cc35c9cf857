"""Files that are written completely or not at all, their SHA-256, and a safe format for tensors.

Claims: `atomic_write` leaves the previous file untouched if the program stops while writing
(temporary file in the same folder, fsync, rename).  What `save_tensors` writes is a safetensors
file (`io/safetensors.py`): numbers and JSON, nothing that could run.

Left out: OpenAI's own files (`checkpoint/weights.py`), downloads (`checkpoint/download.py`).
"""
import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.lock import try_lock
from minilora.io.regular_file import NotRegularFileError, kind_at, open_regular, read_regular
from minilora.io.safetensors import MAX_CONTAINERS, read_safetensors, safetensors_chunks
from minilora.io.temporary import temporary_path
from minilora.io.tensor_json import TensorFileError, from_json, to_json
from minilora.io.text import shown

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)            # no space on the disk, or quota exceeded
FORMAT = "minilora 1"           # in the metadata of a file that `save_tensors` wrote
MAX_JSON_BYTES = 64 << 20
WRITTEN = []                    # files that this process has completed; io/cli.py lists them


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb",
                 before: Callable[[Path], None] = lambda temporary: None) -> Iterator[IO[Any]]:
    """Open a file for writing; it appears at `path` only when the block ends without an error.

    mode: "wb", or "w" for UTF-8 text whose line ends are kept;  before: called with the complete
    temporary file, before it gets its name.  Missing folders are created.
    After an error in the block the temporary file is removed and `path` is as it was before.
    Raises OSError if there is a link, folder, pipe or device at `path`: only a file is replaced.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise IsADirectoryError(f"{shown(path)} is a folder, expected a file name; add one to it")
    if kind := kind_at(path):
        raise NotRegularFileError(f"{shown(path)} is {kind}, expected a file; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path.parent)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode.replace("w", "x"), **text) as file:
            try_lock(file.fileno())                 # tells `remove_leftovers` that it is in use
            yield file
            file.flush()
            os.fsync(file.fileno())                 # the bytes reach the disk before the rename
        before(temporary)
        os.replace(temporary, path)                 # atomic: same folder, so same file system
        WRITTEN.append(path)
    except BaseException as error:                  # Ctrl-C too: no incomplete file remains
        temporary.unlink(missing_ok=True)
        # closing the file may fail too, or the error occurred while Pillow handled another
        codes = [getattr(each, "errno", None) for each in (error, error.__context__)]
        if full := [code for code in codes if code in DISK_FULL]:
            raise OSError(full[0], f"no space left to write {path}; the earlier file is "
                          "unchanged; free some space and run the same command again") from error
        raise


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits; reads 1 MiB at a time."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """A fingerprint of plain values: 16 hexadecimal digits that change if any value changes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_safetensors(path: str | Path, tensors: dict[str, Tensor],
                      metadata: dict[str, str] | None = None) -> None:
    """Write tensors in the safetensors format, with texts that describe them, and a digest.

    Raises TensorFileError, before anything is written, for what the format cannot hold.
    """
    try:
        chunks = safetensors_chunks(tensors, metadata or {})
        first = next(chunks)                        # the header: everything is checked here
    except (ValueError, AttributeError) as error:
        raise TensorFileError(f"{shown(path)} was not written: {error}") from error
    with atomic_write(path) as file:
        file.write(first)
        for chunk in chunks:
            file.write(chunk)


def save_tensors(path: str | Path, content: dict) -> None:
    """Write a dict of tensors, str, int, float, bool and None; dicts and lists may be nested in it.

    The tensors become those of a safetensors file, named by their positions; all else is JSON in
    its metadata, with {"$tensor": name} in the place of each tensor.  For any other type it raises
    TensorFileError with the position of the value, before writing anything.
    """
    if type(content) is not dict:
        raise TensorFileError(f"{path}: expected a dict to save, found {type(content).__name__}")
    tensors = {}
    structure = json.dumps(to_json(content, "", tensors, 0))
    write_safetensors(path, tensors, {"format": FORMAT, "content": structure})


def load_tensors(path: str | Path) -> dict:
    """Read what `save_tensors` wrote, on the CPU.  Raises TensorFileError for any other file."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise TensorFileError(f"{shown(path)}: expected a file written by minilora, found "
                              f"{found}")
    try:
        if is_zip(path):
            raise CheckpointError("it is of an earlier version, which stored pickles")
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT or metadata.keys() != {"format", "content"}:
            raise CheckpointError(f"expected the format {FORMAT}, found "
                                  f"{shown(metadata.get('format', 'another safetensors file'))}")
        content = from_json(parse_json(metadata["content"]), tensors, 0)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{shown(path)} is refused: ").partition("; ")[0]
        raise TensorFileError(f"{shown(path)} is no file that this version of minilora wrote, "
                              f"or it is damaged: {reason}; make it again with the same command"
                              ) from error
    if type(content) is not dict or tensors:
        raise TensorFileError(f"{shown(path)}: expected a dict with every tensor in it, found "
                              f"{type(content).__name__} and {len(tensors)} others")
    return content


def check_file_size(path: Path, most: int) -> None:
    """Raise TensorFileError if a file has more than `most` bytes, before it is hashed or read.

    A file of terabytes fits into a small archive if nearly all of it is a hole.
    """
    if path.stat().st_size > most:
        raise TensorFileError(f"{shown(path)} has {path.stat().st_size:,} bytes, expected at "
                              f"most {most:,}; it is damaged or forged, make it again")


def is_zip(path: Path) -> bool:
    """Whether a file starts like a zip, the container of torch.save."""
    with open_regular(path) as file:
        return file.read(4) == b"PK\3\4"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.  Raises ValueError in one line, also where Python would run out of
    memory or depth: lists and objects are counted first."""
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(text.count(bracket) for bracket in brackets) > MAX_CONTAINERS:
        raise ValueError(f"expected at most {MAX_CONTAINERS:,} lists and objects, found more")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deep") from error
    except ValueError as error:                     # JSON's and UTF-8's errors
        raise ValueError(f"it is no JSON: {shown(error)}") from error


def read_json(path: str | Path, limit: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file.  Raises ValueError in one line for any other content, and OSError
    for what is missing, no regular file, or larger than `limit` bytes."""
    try:
        return parse_json(read_regular(path, limit))
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}; make it again") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values as JSON with `atomic_write`.  NaN and inf raise ValueError."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def demo() -> None:
    """Interrupt a write, then save tensors and read them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_tensors(path, {"threshold": 0.25, "A": torch.arange(4.0)})
        before = sha256_of(path)
        try:
            with atomic_write(path) as file:
                file.write(b"half of it")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("writing was interrupted after 10 bytes")
        print("the old file is unchanged:", sha256_of(path) == before)
        print("files in the folder:", [item.name for item in Path(folder).iterdir()])
        print("read back:", load_tensors(path))
        try:
            save_tensors(path, {"options": {"act": print}})
        except TensorFileError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
