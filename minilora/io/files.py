"""Files that are either whole or absent, their fingerprints, and a safe format for tensors.

Claims: a run that dies while writing leaves the previous file untouched (temporary file in the
same folder, fsync, rename), and a tensor file from a stranger can only hold data, never code,
because it is read as a description (`io/zip_reader.py`) and holds plain values and tensors alone.

Leaves out: OpenAI's own files (`checkpoint/weights.py`) and downloads (`checkpoint/download.py`).
"""
import contextlib
import errno
import hashlib
import json
import os
import tempfile
import uuid
from pathlib import Path

import torch

from minilora.io.unpickler import DTYPES, CheckpointError
from minilora.io.zip_reader import PLAIN, Archive

FULL = (errno.ENOSPC, errno.EDQUOT)                 # the disk, or what this user may have of it
READABLE = set(DTYPES.values())
WRITTEN = []                    # files that this process put in place, for its last words


class TensorFileError(ValueError):
    """A tensor file that cannot be written or read; the message says which, why and what to do."""


@contextlib.contextmanager
def whole_file(path, mode="wb"):
    """Open a file that takes its place at `path` only when the block ends without an error.

    mode: "wb", or "w" for UTF-8 text with line ends as written.  Missing folders are made.
    An error in the block removes the temporary file and leaves what was at `path` as it was.
    """
    path = Path(path).resolve()                     # of a link, replace the target
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file name; add one to it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())                 # on the disk before the name points to it
        os.replace(temporary, path)                 # atomic: same folder, so same file system
        WRITTEN.append(path)
    except BaseException as error:                  # Ctrl-C as well: nothing half-written stays
        temporary.unlink(missing_ok=True)
        cause = error.__context__ or error          # torch.save raises a second one about the first
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise OSError(cause.errno, f"no room to write {path}; what was there is as it was; "
                          "free some space and run the same again") from error
        raise


def sha256_of(path):
    """SHA-256 of a file's bytes as 64 hex digits, read in pieces of 1 MiB."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


def digest_of(*parts):
    """16 hexadecimal digits that change when any of the parts, plain values, does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def save_tensors(path, content):
    """Write a dict of (nested dicts and lists of) tensors, str, int, float, bool and None.

    Tensors are stored on the CPU in their own dtype, each with its own values only.  Anything else
    raises TensorFileError with the place of the value, before a byte is written.
    """
    if type(content) is not dict:
        raise TensorFileError(f"{path}: expected a dict to save, found {type(content).__name__}")
    content = plain(content, "")
    with whole_file(path) as file:
        torch.save(content, file)


def load_tensors(path):
    """Read what `save_tensors` wrote, on the CPU.  Raises TensorFileError for any other file."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise TensorFileError(f"{path}: expected a file written by minilora, found {found}")
    try:
        content = Archive(path).values()
    except CheckpointError as error:
        raise TensorFileError(f"{error} (no tensor file of minilora: write it again)") from error
    if type(content) is not dict:
        raise TensorFileError(f"{path}: expected a dict inside, found {type(content).__name__}")
    return content


def plain(value, place):
    """A copy of `value` that a weights-only reader admits; `place` names it in errors."""
    if isinstance(value, torch.Tensor) and (not value.numel() or value.dtype not in READABLE):
        raise TensorFileError(f"tensor at {place}: {tuple(value.shape)} {value.dtype} could not be "
                              "read again; leave out what is empty, convert the rest")
    if isinstance(value, torch.Tensor):             # cloned, for a view drags its storage along
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if type(value) is dict:
        for key in value:
            if type(key) not in (str, int):
                raise TensorFileError(f"key {key!r} in {place or 'the dict'}: expected str or int, "
                                      f"found {type(key).__name__}")
        return {key: plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if type(value) is list:
        return [plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if type(value) in PLAIN:                        # type, not isinstance: numpy.float64 is a float
        return value
    raise TensorFileError(f"value at {place}: expected a tensor, dict, list, str, int, float, bool "
                          f"or None, found {type(value).__name__}; convert it before saving")


def write_json(path, content):
    """Writes plain values as JSON, the whole file or none of it.  NaN and inf raise ValueError."""
    with whole_file(path, "w") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def demo():
    """A write that fails half-way, and a round trip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.pt"
        save_tensors(path, {"threshold": 0.25, "A": torch.arange(4.0)})
        before = sha256_of(path)
        try:
            with whole_file(path) as file:
                file.write(b"half of it")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("writing was interrupted after 10 bytes")
        print("the old file is untouched:", sha256_of(path) == before)
        print("files in the folder:", [item.name for item in Path(folder).iterdir()])
        print("read back:", load_tensors(path))
        try:
            save_tensors(path, {"options": {"act": print}})
        except TensorFileError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
