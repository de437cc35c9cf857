"""Read the tensors of a `.pt` file; no code from the file runs.

A `.pt` file is a zip.  Its record `<root>/data.pkl` is a pickle with the name, shape, strides and
storage of each tensor; each storage is one uncompressed record `<root>/data/<key>` of raw numbers.

Claim: with a restricted unpickler for data.pkl (`io/unpickler.py`) and a check of each number in it
against the records, the file can be mapped into memory and its tensors be views of that memory:
nothing is run, nothing is copied, and no tensor reaches a byte outside its record.

Accepted: archives of `torch.save` (torch/serialization.py) and TorchScript archives, the form of
OpenAI's files (torch/csrc/jit/serialization).
Refused: compressed, overlapping or truncated records, shapes that do not fit a storage, endless
nesting, other file types.
Left out: the TorchScript code (never read), torch.save's format before 2020, sparse and quantised
tensors.
"""
import math
import mmap
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.io.unpickler import CheckpointError, ModuleStub, TensorMetadata, restricted_load

MAX_PICKLE_BYTES = 4 << 20              # a CLIP needs about 0.05 MB; its numbers are elsewhere
MAX_VALUES, MAX_DEPTH = 100_000, 16     # limits of a walk through the pickle: it may contain itself
PLAIN_TYPES = (str, int, float, bool, type(None))       # a file of ours holds these and tensors


class Archive:
    """The records of one file, mapped into memory: bytes are read when a tensor is used."""

    def __init__(self, path: str | Path) -> None:
        """Checks the zip's directory.  Raises CheckpointError for a damaged or other file."""
        self.path = Path(path)
        check_file_type(self.path)
        try:
            with open(self.path, "rb") as file:
                directory = zipfile.ZipFile(file).infolist()
                # A private mapping: writing to a tensor never changes the file.
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError,
                OSError) as error:
            raise self.error(f"is cut off or damaged ({error}); copy or download it "
                             "again") from error
        places = sorted((info.header_offset, info.compress_size) for info in directory)
        if any(start + size > after for (start, size), (after, _) in zip(places, places[1:])):
            raise self.error("has overlapping records; it is damaged or forged")
        self.records = {info.filename: info for info in directory}
        roots = [name[:-len("data.pkl")] for name in self.records if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise self.error("is a zip, but not one of PyTorch (expected one data.pkl inside, "
                             f"found {len(roots)}); give the .pt file itself")
        self.root, self.storages = roots[0], {}
        order = self.records.get(f"{self.root}byteorder")
        if order and bytes(self.record_bytes(order.filename)) != b"little":
            raise self.error("was written on a big-endian machine; save it again on this one")

    def error(self, text: str) -> CheckpointError:
        """A CheckpointError that starts with the file's path."""
        return CheckpointError(f"{self.path} {text}")

    def record_range(self, name: str) -> tuple[int, int]:
        """(start, end) of a record's bytes in the file; it must be uncompressed and complete."""
        info = self.records.get(name)
        if info is None:
            raise self.error(f"has no record {name}; it is incomplete, copy or download it again")
        start, file_size = info.header_offset, len(self.bytes)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise self.error(f"has a compressed record {name}; only files as PyTorch writes them "
                             "can be read, save it again with torch.save")
        if 0 <= start <= file_size - 30 and self.bytes[start:start + 4] == b"PK\3\4":
            name_and_extra = struct.unpack("<HH", self.bytes[start + 26:start + 30])
            start += 30 + sum(name_and_extra)
            if info.file_size == info.compress_size and start + info.file_size <= file_size:
                return start, start + info.file_size
        raise self.error(f"has a damaged record {name}; copy or download it again")

    def record_bytes(self, name: str) -> bytes:
        """A copy of a record's bytes."""
        start, end = self.record_range(name)
        return self.bytes[start:end]

    def metadata(self) -> Any:
        """The object in data.pkl: dicts, lists and ModuleStubs with TensorMetadata in them."""
        name = f"{self.root}data.pkl"
        start, end = self.record_range(name)
        if end - start > MAX_PICKLE_BYTES:
            raise self.error(f"describes its tensors in {end - start:,} bytes, expected at most "
                             f"{MAX_PICKLE_BYTES:,}; this is not a CLIP checkpoint")
        try:
            return restricted_load(self.record_bytes(name))
        except CheckpointError as error:
            raise self.error(f"is refused: {error}") from error

    def named_metadata(self) -> Iterator[tuple[str, TensorMetadata]]:
        """Yield (attribute path, TensorMetadata) for every tensor, in the file's order."""
        todo = [("", 0, self.metadata())]
        for _ in range(MAX_VALUES):
            if not todo:
                return
            name, depth, value = todo.pop()
            children = value.attributes if isinstance(value, ModuleStub) else value
            if isinstance(children, dict) and depth < MAX_DEPTH:
                todo += [(f"{name}.{key}" if name else key, depth + 1, child)
                         for key, child in reversed(list(dict.items(children))) if type(key) is str]
            elif isinstance(value, TensorMetadata):
                yield name, value
        raise self.error(f"holds over {MAX_VALUES:,} values or contains itself; not a checkpoint")

    def load(self) -> Any:
        """The content that `files.save_tensors` wrote: plain values, and a copy of each tensor.

        Raises CheckpointError if it has more values or bytes than the file can hold: a pickle can
        refer to the same value many times.
        """
        budget = {"values": 3 * MAX_VALUES, "bytes": len(self.bytes)}
        return self.load_value(self.metadata(), "", 0, budget)

    def load_value(self, value: Any, position: str, depth: int, budget: dict[str, int]) -> Any:
        """One value with everything in it.  budget: what may still be used, counted down."""
        tensor = self.tensor(position, value) if isinstance(value, TensorMetadata) else None
        budget["values"] -= 1
        budget["bytes"] -= 0 if tensor is None else tensor.nbytes
        for what, amount in budget.items():
            if amount < 0:
                raise self.error(f"refers to more {what} than it holds; it is damaged or forged")
        if tensor is not None:
            return tensor.clone()                               # independent of the mapped file
        if depth < MAX_DEPTH and type(value) is dict:
            return {key: self.load_value(item, f"{position}.{key}", depth + 1, budget)
                    for key, item in value.items()}
        if depth < MAX_DEPTH and type(value) is list:
            return [self.load_value(item, f"{position}[{k}]", depth + 1, budget)
                    for k, item in enumerate(value)]
        if type(value) in PLAIN_TYPES:
            return value
        raise self.error(f"holds {type(value).__name__} at {position or 'its top level'}; expected "
                         "tensors and plain values in lists and dicts")

    def storage(self, pid: Any) -> Tensor:
        """All numbers of one storage, (n,), in the file's dtype; the saved device is ignored.

        pid: a reference to a storage, as in TensorMetadata.  It is checked against the record.
        """
        if not (type(pid) is tuple and len(pid) == 5 and pid[0] == "storage"
                and isinstance(pid[1], torch.dtype) and type(pid[2]) is str
                and are_sizes(pid[4:]) and pid[4]):
            raise self.error("has a storage that cannot be understood; it is damaged or forged")
        _, dtype, key, _, count = pid
        if (dtype, key) not in self.storages:
            start, end = self.record_range(f"{self.root}data/{key}")
            if end - start != count * dtype.itemsize:
                raise self.error(f"says that record data/{key} holds {count} x {dtype}, but it has "
                                 f"{end - start} bytes; the file is damaged, download it again")
            # Numbers must start at a multiple of their size; a record that does not is copied.
            source = self.bytes if start % dtype.itemsize == 0 else bytearray(self.bytes[start:end])
            self.storages[dtype, key] = torch.frombuffer(
                source, dtype=dtype, count=count, offset=start if source is self.bytes else 0)
        numbers = self.storages[dtype, key]
        if len(numbers) != count:
            raise self.error(f"gives record data/{key} two lengths, {len(numbers)} and {count}")
        return numbers

    def tensor(self, name: str, metadata: TensorMetadata) -> Tensor:
        """The tensor of this metadata.  CheckpointError if it reaches outside its storage."""
        numbers = self.storage(metadata.storage)
        size, stride = metadata.size, metadata.stride
        if not (type(size) is type(stride) is tuple and len(size) == len(stride)
                and are_sizes((metadata.offset, *size, *stride))):
            raise self.error(f"gives {name} a shape that cannot be understood; it is damaged or "
                             "forged")
        last = metadata.offset + sum((n - 1) * step for n, step in zip(size, stride))
        # The product too: with stride 0 a few numbers could appear as a tensor of any size.
        if not 0 < math.prod(size) <= len(numbers) or last >= len(numbers):
            raise self.error(f"places {name} {size} outside its storage of {len(numbers)} "
                             "elements; it is damaged or forged")
        return numbers.as_strided(size, stride, metadata.offset)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Name -> CPU tensor of everything in a TorchScript archive or a dict saved by torch.save.

    Names are attribute paths such as "visual.conv1.weight".  Tensors have the file's dtypes and are
    views of the mapped file: copy those that must not change with it.  Raises CheckpointError.
    """
    archive = Archive(path)
    tensors = {name: archive.tensor(name, metadata) for name, metadata in archive.named_metadata()}
    if not tensors:
        raise archive.error("holds no named tensors; expected the weights of a CLIP model")
    return tensors


def are_sizes(values: Iterable) -> bool:
    """True if all are plain integers from 0 to 2^48: offsets, sizes or strides."""
    return all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def check_file_type(path: Path) -> None:
    """Raise CheckpointError for files that are often given in place of a .pt file."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the .pt file in it")
    if path.exists() and not path.is_file():                    # reading a pipe could wait forever
        raise CheckpointError(f"{path} is not a regular file; give a .pt file")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    again = "download the file again"
    kinds = [
        (not head, f"is empty; {again}"),
        (head[8:10] == b'{"', "is a safetensors file; expected a .pt file of OpenAI's CLIP"),
        (head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<",
         f"is a web page, not weights; {again}, not the web page about it"),
        (head.startswith(b"version https://git-lfs"),
         "is a Git LFS pointer, not the weights; run `git lfs pull`"),
        (head[:1] == b"\x80", "is in torch.save's format before 2020, or is a bare pickle; save it "
         "again with a recent torch.save"),
        (head[:4] != b"PK\3\4", f"is not a PyTorch archive, it starts with {head[:8]!r}; {again}")]
    for found, text in kinds:
        if found:
            raise CheckpointError(f"{path} {text}")


def demo() -> None:
    """Read two tensors that share a storage; refuse metadata that reach outside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.pt"
        weights = torch.arange(6.0).half().reshape(2, 3)
        torch.save({"weight": weights, "transposed": weights.T}, path)
        archive = Archive(path)
        print("records:", ", ".join(archive.records))
        for name, metadata in archive.named_metadata():
            print(f"{name}: storage {metadata.storage[2]}, size {metadata.size}, stride "
                  f"{metadata.stride} -> {archive.tensor(name, metadata).tolist()}")
        try:
            archive.tensor("weight", metadata._replace(size=(2, 4)))
        except CheckpointError as error:
            print(str(error).replace(folder, "..."))


if __name__ == "__main__":
    demo()
