"""Read the tensors of a `.pt` file; no code from the file runs.

A `.pt` file is a zip.  Its record `<root>/data.pkl` is a pickle with the name, shape, strides and
storage of each tensor; each storage is one uncompressed record `<root>/data/<key>` of raw numbers.

Claim: with our own machine for data.pkl (`io/pickle_machine.py`), a bounded zip directory
(`io/zip_directory.py`) and a check of each number in the description against the records, tensors
can be views of the mapped file: nothing is run or copied, and none reaches outside its record.

Which tensors have a name: those that are reached from the top through dicts with keys of text, and
through attributes of TorchScript modules.  What lies in a list or tuple, or under a number (the
state of an optimizer), has none and is left out.

Bounds: MAX_PICKLE_BYTES of description; MAX_VISITED values and MAX_NAMES characters of names in it;
MAX_TENSORS tensors, which together have at most MAX_SHARING times as many numbers as the file, so
that a file of 5 MB whose 600 tensors share one storage does not become a model of 3 GB.

Accepted: archives of `torch.save` (torch/serialization.py) and TorchScript archives, the form of
OpenAI's files (torch/csrc/jit/serialization).
Left out: the TorchScript code (never read); torch.save's format before 2020; sparse and quantised
tensors (refused by name), empty ones (not read); a file that is changed while it is read.
"""
import argparse
import math
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.file_type import MAX_PATH_SHOWN, check_file_type
from minilora.io.notes import note
from minilora.io.pickle_machine import MAX_UNREAD, restricted_load
from minilora.io.regular_file import open_regular
from minilora.io.text import shown
from minilora.io.unpickler import ModuleStub, StorageReference, TensorMetadata, Unread
from minilora.io.zip_directory import ZipDirectory

MAX_PICKLE_BYTES = 4 << 20              # a CLIP needs about 0.05 MB; its numbers are elsewhere
MAX_VISITED, MAX_LEVELS = 100_000, 32    # of a walk through the pickle: it may hold itself
MAX_TENSORS, MAX_NAMES = 4_000, 4 << 20             # a CLIP: about 600 tensors, 30,000 characters
MAX_SHARING, FREE_BYTES = 4, 1 << 20    # tied weights share numbers; so may all of a small file


class Archive:
    """The records of one file, mapped into memory: bytes are read when a tensor is used."""

    def __init__(self, path: str | Path) -> None:
        """Checks the directory.  Raises CheckpointError for a damaged or other file."""
        self.path = Path(path)
        check_file_type(self.path)
        try:
            with open_regular(self.path) as file:
                # A private mapping: writing to a tensor never changes the file.
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise self.error(f"cannot be read: {shown(error)}") from error
        if self.bytes[:4] != b"PK\3\4":
            raise self.error("is a safetensors file; expected a .pt file of OpenAI's CLIP")
        try:
            self.directory = ZipDirectory(self.bytes)
        except CheckpointError as error:
            raise self.error(str(error)) from error
        ends = [name for name in self.directory.records if name.endswith("/data.pkl")]
        if len(ends) != 1:
            raise self.error("is a zip, but not one of PyTorch (expected one data.pkl inside, "
                             f"found {len(ends)}); give the .pt file itself")
        self.root = ends[0].removesuffix("data.pkl")
        self.storages, self.unread = {}, []     # key -> numbers; names of objects that are not read
        order = f"{self.root}byteorder"                 # absent in files of before 2023
        if order in self.directory.records and self.record_bytes(order, 100) != b"little":
            raise self.error("was written on a big-endian machine; save it again on this one")

    def error(self, text: str) -> CheckpointError:
        """A CheckpointError that starts with the file's path."""
        return CheckpointError(f"{shown(self.path, MAX_PATH_SHOWN)} {text}")

    def record_range(self, name: str) -> tuple[int, int]:
        """(start, end) of a record's bytes in the file; it must be uncompressed and complete."""
        try:
            return self.directory.content_range(name)
        except CheckpointError as error:
            raise self.error(str(error)) from error

    def record_bytes(self, name: str, limit: int) -> bytes:
        """A copy of a record's bytes, of which there must not be more than `limit`."""
        start, end = self.record_range(name)
        if end - start > limit:
            raise self.error(f"has a record {shown(name)} of {end - start:,} bytes, expected at "
                             f"most {limit:,}; this is not a CLIP checkpoint")
        return self.bytes[start:end]

    def metadata(self) -> Any:
        """The object in data.pkl: dicts, lists and ModuleStubs with TensorMetadata in them."""
        content = self.record_bytes(f"{self.root}data.pkl", MAX_PICKLE_BYTES)
        try:
            value, self.unread = restricted_load(content)
        except CheckpointError as error:
            raise self.error(f"is refused: {error}") from error
        return value

    def named_metadata(self) -> Iterator[tuple[str, TensorMetadata]]:
        """Yield (attribute path, TensorMetadata) for every tensor, in the file's order."""
        todo, values, characters = [("", 0, self.metadata())], 0, 0
        while todo:
            name, depth, value = todo.pop()
            children = value.attributes if type(value) is ModuleStub else value
            if type(value) is Unread and value.for_tensor:
                raise self.error(f"makes {shown(name) or 'its content'} with {value.name}, which "
                                 "is not supported and was not run; save plain tensors of real "
                                 "numbers, such as a state_dict")
            if type(value) is TensorMetadata:
                yield name, value
            elif type(children) is dict:
                values += len(children)
                path, deeper = f"{name}." if name else "", []
                for key, child in children.items():
                    if type(key) is str and type(child) in (dict, ModuleStub, TensorMetadata,
                                                            Unread):
                        characters += len(path) + len(key)
                        if characters > MAX_NAMES:
                            raise self.error(f"names its values in over {MAX_NAMES:,} characters; "
                                             "not a checkpoint")
                        deeper.append((path + key, depth + 1, child))
                todo += reversed(deeper)
            if values > MAX_VISITED or depth > MAX_LEVELS:
                raise self.error(f"holds over {MAX_VISITED:,} values, over {MAX_LEVELS} levels, or "
                                 "contains itself; not a checkpoint")

    def storage(self, reference: StorageReference) -> Tensor:
        """All numbers of one storage, (n,), in the file's dtype, checked against the record."""
        dtype, key, count = reference
        if key not in self.storages:
            start, end = self.record_range(f"{self.root}data/{key}")
            if end - start != count * dtype.itemsize or not count:
                raise self.error(f"says that record data/{shown(key)} holds {count} x {dtype}, but "
                                 f"it has {end - start} bytes; the file is damaged, download it "
                                 "again")
            # Numbers must start at a multiple of their size; a record that does not is copied.
            source = self.bytes if start % dtype.itemsize == 0 else bytearray(self.bytes[start:end])
            self.storages[key] = torch.frombuffer(
                source, dtype=dtype, count=count, offset=start if source is self.bytes else 0)
        numbers = self.storages[key]
        if len(numbers) != count or numbers.dtype != dtype:
            raise self.error(f"describes record data/{shown(key)} in two ways, as {len(numbers)} x "
                             f"{numbers.dtype} and {count} x {dtype}; it is damaged or forged")
        return numbers

    def tensor(self, name: str, metadata: TensorMetadata) -> Tensor:
        """The tensor of this metadata.  CheckpointError if it reaches outside its storage."""
        numbers = self.storage(metadata.storage)
        size, stride = metadata.size, metadata.stride
        last = metadata.offset + sum((n - 1) * step for n, step in zip(size, stride))
        # The product too: with stride 0 a few numbers could appear as a tensor of any size.
        if not 0 < math.prod(size) <= len(numbers) or last >= len(numbers):
            raise self.error(f"places {shown(name)} {size} outside its storage of {len(numbers)} "
                             "elements; it is damaged or forged")
        return numbers.as_strided(size, stride, metadata.offset)

    def named_tensors(self) -> dict[str, Tensor]:
        """Attribute path -> tensor, for all that have a name.  Raises CheckpointError."""
        tensors, tensor_bytes = {}, 0
        for name, metadata in self.named_metadata():
            if name in tensors or len(tensors) == MAX_TENSORS:
                raise self.error(f"gives two tensors the name {shown(name)}" if name in tensors else
                                 f"names over {MAX_TENSORS:,} tensors; not a CLIP checkpoint")
            if metadata.storage.count:
                tensors[name] = self.tensor(name, metadata)
                tensor_bytes += tensors[name].nbytes
            elif len(self.unread) < MAX_UNREAD:         # torch.empty(0): a weight is never empty
                self.unread.append(f"an empty tensor {shown(name)}")
        present = sum(numbers.nbytes for numbers in self.storages.values())
        if tensor_bytes > MAX_SHARING * present + FREE_BYTES:
            raise self.error(f"makes tensors of {tensor_bytes:,} bytes from {present:,} bytes of "
                             f"numbers, expected at most {MAX_SHARING} times as many; it is forged")
        if not tensors:
            raise self.error("holds no named tensors; expected the weights of a CLIP model"
                             + "".join(f"; {line}" for line in self.notes()))
        return tensors

    def notes(self) -> list[str]:
        """Lines that a user should see: what was not read, what was not checked."""
        unread = f"objects that were not read: {', '.join(self.unread)}"
        unchecked = "written without checksums, so damage to its numbers cannot be seen"
        return [unread] * bool(self.unread) + [unchecked] * (not self.directory.has_checksums)


def read_archive(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """(name -> CPU tensor, lines for the user) of a TorchScript archive or a dict of torch.save.

    Names are attribute paths such as "visual.conv1.weight".  Tensors have the file's dtypes and are
    views of the mapped file: copy those that must not change with it.  Raises CheckpointError.
    """
    archive = Archive(path)
    return archive.named_tensors(), archive.notes()


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of `read_archive`; its lines become notes, which a command prints at its end."""
    tensors, lines = read_archive(path)
    for line in lines:
        note(line, path)
    return tensors


def demo() -> None:
    """Read two tensors that share a storage; refuse metadata that reach outside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.pt"
        weights = torch.arange(6.0).half().reshape(2, 3)
        torch.save({"weight": weights, "transposed": weights.T, "epoch": 3,
                    "args": argparse.Namespace(rate=0.1)}, path)
        archive = Archive(path)
        print("records:", ", ".join(archive.directory.records))
        for name, metadata in archive.named_metadata():
            print(f"{name}: storage {metadata.storage.key}, size {metadata.size}, stride "
                  f"{metadata.stride} -> {archive.tensor(name, metadata).tolist()}")
        print(*archive.notes())
        try:
            archive.tensor("weight", metadata._replace(size=(2, 4)))
        except CheckpointError as error:
            print(str(error).replace(folder, "..."))


if __name__ == "__main__":
    demo()
