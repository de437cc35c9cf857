"""Files that are written completely or not at all, their SHA-256, and a safe format for tensors.

Claims: `atomic_write` leaves the previous file untouched if the program stops while writing
(temporary file in the same folder, fsync, rename).  `load_tensors` never runs code from the file
that it reads: it accepts tensors and plain values only (`io/zip_reader.py`, `io/unpickler.py`).

Left out: OpenAI's own files (`checkpoint/weights.py`), downloads (`checkpoint/download.py`).
"""
import contextlib
import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from minilora.io.unpickler import STORAGE_DTYPES, CheckpointError
from minilora.io.zip_reader import PLAIN_TYPES, Archive

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)            # no space on the disk, or quota exceeded
READABLE_DTYPES = set(STORAGE_DTYPES.values())
WRITTEN = []                    # files that this process has completed; io/cli.py lists them


class TensorFileError(ValueError):
    """A tensor file that cannot be written or read; the message says which, why and what to do."""


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing; it appears at `path` only when the block ends without an error.

    mode: "wb", or "w" for UTF-8 text whose line ends are kept.  Missing folders are created.
    After an error in the block the temporary file is removed and `path` is as it was before.
    """
    path = Path(path).resolve()                     # a link stays; its target is replaced
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file name; add one to it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())                 # the bytes reach the disk before the rename
        os.replace(temporary, path)                 # atomic: same folder, so same file system
        WRITTEN.append(path)
    except BaseException as error:                  # Ctrl-C too: no incomplete file remains
        temporary.unlink(missing_ok=True)
        cause = error.__context__ or error          # torch.save raises a second error
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise OSError(cause.errno, f"no space left to write {path}; the earlier file is "
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


def save_tensors(path: str | Path, content: dict) -> None:
    """Write a dict of tensors, str, int, float, bool and None; dicts and lists may be nested in it.

    Each tensor is stored on the CPU in its own dtype, without other values of its storage.  For any
    other type it raises TensorFileError with the position of the value, before writing anything.
    """
    if type(content) is not dict:
        raise TensorFileError(f"{path}: expected a dict to save, found {type(content).__name__}")
    content = storable_copy(content, "")
    with atomic_write(path) as file:
        torch.save(content, file)


def load_tensors(path: str | Path) -> dict:
    """Read what `save_tensors` wrote, on the CPU.  Raises TensorFileError for any other file."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise TensorFileError(f"{path}: expected a file written by minilora, found {found}")
    try:
        content = Archive(path).load()
    except CheckpointError as error:
        raise TensorFileError(f"{error} (not a tensor file of minilora; write it again)") from error
    if type(content) is not dict:
        raise TensorFileError(f"{path}: expected a dict inside, found {type(content).__name__}")
    return content


def storable_copy(value: Any, position: str) -> Any:
    """A copy of `value` that `load_tensors` can read; `position` is named in errors."""
    is_tensor = isinstance(value, torch.Tensor)
    if is_tensor and (not value.numel() or value.dtype not in READABLE_DTYPES):
        raise TensorFileError(f"tensor at {position}: {tuple(value.shape)} {value.dtype} could not "
                              "be read again; leave out empty tensors, convert other dtypes")
    if is_tensor:                                   # cloned: a view would save its whole storage
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if type(value) is dict:
        for key in value:
            if type(key) not in (str, int):
                raise TensorFileError(f"key {key!r} in {position or 'the dict'}: expected str or "
                                      f"int, found {type(key).__name__}")
        return {key: storable_copy(item, f"{position}[{key!r}]") for key, item in value.items()}
    if type(value) is list:
        return [storable_copy(item, f"{position}[{index}]") for index, item in enumerate(value)]
    if type(value) in PLAIN_TYPES:                  # not isinstance: numpy.float64 is a float
        return value
    raise TensorFileError(f"value at {position}: expected a tensor, dict, list, str, int, float, "
                          f"bool or None, found {type(value).__name__}; convert it before saving")


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values as JSON with `atomic_write`.  NaN and inf raise ValueError."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def demo() -> None:
    """Interrupt a write, then save tensors and read them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.pt"
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
