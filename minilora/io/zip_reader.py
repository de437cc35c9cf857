"""Tensors out of a `.pt` file without running anything that is in it.

Claim: a `.pt` file is a zip of one pickle, `<root>/data.pkl`, which says what each tensor is
called, its shape and the storage it lies in, and one uncompressed record per storage,
`<root>/data/<key>`.  Whoever takes the pickle as a description (`io/unpickler.py`) and checks every
number in it against the records can map the file into memory and look at it through tensors:
nothing is run, nothing is copied, and no tensor reaches a byte outside its record.

Formats: torch/serialization.py (`torch.save`) and torch/csrc/jit/serialization (TorchScript, the
form of OpenAI's files).
Leaves out: the TorchScript code (never read), torch.save's form before 2020, sparse and quantised
tensors.
"""
import math
import mmap
import struct
import tempfile
import zipfile
from pathlib import Path

import torch

from minilora.io.unpickler import CheckpointError, Module, TensorRecord, read_description

LARGEST_PICKLE = 4 << 20        # bytes; a CLIP needs about 0.05 MB, its numbers lie elsewhere
MOST_VALUES, DEEPEST = 100_000, 16              # what is walked at most: a pickle may hold itself
PLAIN = (str, int, float, bool, type(None))     # besides tensors: what a file of ours may hold


class Archive:
    """The records of one file, mapped into memory: bytes are read when a tensor is."""

    def __init__(self, path):
        self.path = Path(path)
        check_kind(self.path)
        try:
            with open(self.path, "rb") as file:
                directory = zipfile.ZipFile(file).infolist()
                # A private mapping: what is written to a tensor never reaches the file.
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError,
                OSError) as error:
            raise self.error(f"is cut off or damaged ({error}); copy or download it "
                             "again") from error
        places = sorted((info.header_offset, info.compress_size) for info in directory)
        if any(start + size > after for (start, size), (after, _) in zip(places, places[1:])):
            raise self.error("has records that lie over one another; it is damaged or forged")
        self.records = {info.filename: info for info in directory}
        roots = [name[:-len("data.pkl")] for name in self.records if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise self.error("is a zip, but not one of PyTorch (expected one data.pkl inside, "
                             f"found {len(roots)}); give the .pt file itself")
        self.root, self.flat = roots[0], {}
        order = self.records.get(f"{self.root}byteorder")
        if order and bytes(self.content(order.filename)) != b"little":
            raise self.error("was written on a big-endian machine; save it again on this one")

    def error(self, text):
        return CheckpointError(f"{self.path} {text}")

    def span(self, name):
        """First and last byte position of a record, whole and uncompressed inside the file."""
        info = self.records.get(name)
        if info is None:
            raise self.error(f"has no record {name}; it is incomplete, copy or download it again")
        start, whole = info.header_offset, len(self.bytes)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise self.error(f"has a compressed record {name}; only files as PyTorch writes them "
                             "are read, save it again with torch.save")
        if 0 <= start <= whole - 30 and self.bytes[start:start + 4] == b"PK\3\4":
            name_and_extra = struct.unpack("<HH", self.bytes[start + 26:start + 30])
            start += 30 + sum(name_and_extra)
            if info.file_size == info.compress_size and start + info.file_size <= whole:
                return start, start + info.file_size
        raise self.error(f"has a damaged record {name}; copy or download it again")

    def content(self, name):
        start, end = self.span(name)
        return self.bytes[start:end]

    def description(self):
        """The object in data.pkl: dicts and Modules with TensorRecords in them."""
        name = f"{self.root}data.pkl"
        start, end = self.span(name)
        if end - start > LARGEST_PICKLE:
            raise self.error(f"describes its tensors in {end - start:,} bytes, expected at most "
                             f"{LARGEST_PICKLE:,}; this is not a CLIP checkpoint")
        try:
            return read_description(self.content(name))
        except CheckpointError as error:
            raise self.error(f"is refused: {error}") from error

    def tensor_records(self):
        """Yield (attribute path, TensorRecord) for every tensor, in the file's order."""
        todo = [("", 0, self.description())]
        for _ in range(MOST_VALUES):
            if not todo:
                return
            name, depth, value = todo.pop()
            children = value.attributes if isinstance(value, Module) else value
            if isinstance(children, dict) and depth < DEEPEST:
                todo += [(f"{name}.{key}" if name else key, depth + 1, child)
                         for key, child in reversed(list(dict.items(children))) if type(key) is str]
            elif isinstance(value, TensorRecord):
                yield name, value
        raise self.error(f"holds over {MOST_VALUES:,} values or contains itself; not a checkpoint")

    def values(self):
        """What `files.save_tensors` wrote: plain values, and a copy of each tensor.

        Raises CheckpointError for more values or bytes than such a file can hold, however often it
        refers to one of them.
        """
        left = {"values": 3 * MOST_VALUES, "bytes": len(self.bytes)}
        return self.value(self.description(), "", 0, left)

    def value(self, value, place, depth, left):
        """One value and all in it.  left: what may still be spent, counted down."""
        tensor = self.tensor(place, value) if isinstance(value, TensorRecord) else None
        left["values"] -= 1
        left["bytes"] -= 0 if tensor is None else tensor.nbytes
        for what, amount in left.items():
            if amount < 0:
                raise self.error(f"refers to more {what} than it holds; it is damaged or forged")
        if tensor is not None:
            return tensor.clone()                               # not of the mapping
        if depth < DEEPEST and type(value) is dict:
            return {key: self.value(item, f"{place}.{key}", depth + 1, left)
                    for key, item in value.items()}
        if depth < DEEPEST and type(value) is list:
            return [self.value(item, f"{place}[{k}]", depth + 1, left)
                    for k, item in enumerate(value)]
        if type(value) in PLAIN:
            return value
        raise self.error(f"holds {type(value).__name__} at {place or 'its top'}; expected tensors "
                         "and plain values in lists and dicts")

    def storage(self, record):
        """All numbers of one storage, (n,), as the file has them; the device noted is ignored."""
        if not (type(record) is tuple and len(record) == 5 and record[0] == "storage"
                and isinstance(record[1], torch.dtype) and type(record[2]) is str
                and is_counts(record[4:]) and record[4]):
            raise self.error("has a storage that cannot be understood; it is damaged or forged")
        _, dtype, key, _, count = record
        if (dtype, key) not in self.flat:
            start, end = self.span(f"{self.root}data/{key}")
            if end - start != count * dtype.itemsize:
                raise self.error(f"says that record data/{key} holds {count} x {dtype}, but it has "
                                 f"{end - start} bytes; the file is damaged, download it again")
            source = self.bytes if start % dtype.itemsize == 0 else bytearray(self.bytes[start:end])
            self.flat[dtype, key] = torch.frombuffer(source, dtype=dtype, count=count,
                                                     offset=start if source is self.bytes else 0)
        flat = self.flat[dtype, key]
        if len(flat) != count:
            raise self.error(f"gives record data/{key} two lengths, {len(flat)} and {count}")
        return flat

    def tensor(self, name, record):
        """The tensor that a TensorRecord describes, if it lies wholly inside its storage."""
        flat = self.storage(record.storage)
        size, stride = record.size, record.stride
        if not (type(size) is type(stride) is tuple and len(size) == len(stride)
                and is_counts((record.offset, *size, *stride))):
            raise self.error(f"gives {name} a shape that cannot be understood; it is damaged or "
                             "forged")
        last = record.offset + sum((n - 1) * step for n, step in zip(size, stride))
        # The product: with stride 0 a few numbers could claim to be a tensor of any size.
        if not 0 < math.prod(size) <= len(flat) or last >= len(flat):
            raise self.error(f"places {name} {size} outside its storage of {len(flat)} elements; "
                             "it is damaged or forged")
        return flat.as_strided(size, stride, record.offset)


def read_tensors(path):
    """Name -> CPU tensor of everything in a TorchScript archive or a dict saved by torch.save.

    Names are attribute paths such as "visual.conv1.weight".  The tensors have the file's dtypes and
    lie in a private mapping of the file: copy what is to outlive changes to it.  Raises
    CheckpointError.
    """
    archive = Archive(path)
    tensors = {name: archive.tensor(name, record) for name, record in archive.tensor_records()}
    if not tensors:
        raise archive.error("holds no named tensors; expected the weights of a CLIP model")
    return tensors


def is_counts(values):
    """True if all are plain integers from 0 to 2^48."""
    return all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def check_kind(path):
    """Raise CheckpointError, in words, for what is often found in place of a .pt file."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the .pt file in it")
    if path.exists() and not path.is_file():                    # reading a pipe would wait for ever
        raise CheckpointError(f"{path} is no ordinary file; give a .pt file")
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
         f"is a web page, not weights; {again}, not the page around it"),
        (head.startswith(b"version https://git-lfs"),
         "is a Git LFS pointer, not the weights; run `git lfs pull`"),
        (head[:1] == b"\x80", "has torch.save's form before 2020, or is a bare pickle; save it "
         "again with a present-day torch.save"),
        (head[:4] != b"PK\3\4", f"is not a PyTorch archive, it starts with {head[:8]!r}; {again}")]
    for found, text in kinds:
        if found:
            raise CheckpointError(f"{path} {text}")


def demo():
    """Two tensors in one storage, and a file whose description lies."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.pt"
        weights = torch.arange(6.0).half().reshape(2, 3)
        torch.save({"weight": weights, "transposed": weights.T}, path)
        archive = Archive(path)
        print("records:", ", ".join(archive.records))
        for name, record in archive.tensor_records():
            print(f"{name}: storage {record.storage[2]}, size {record.size}, stride {record.stride}"
                  f" -> {archive.tensor(name, record).tolist()}")
        try:
            archive.tensor("weight", record._replace(size=(2, 4)))
        except CheckpointError as error:
            print(str(error).replace(folder, "..."))


if __name__ == "__main__":
    demo()
