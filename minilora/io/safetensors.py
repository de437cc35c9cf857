"""The safetensors format, written out: raw numbers behind a JSON header, and nothing that can run.

    8 bytes        N, the length of the header, little-endian
    N bytes        JSON: {name: {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...,
                   "__metadata__": {text: text}}; spaces at the end align what follows
    the rest       the numbers of all tensors, one after the other, without gaps

Claim: such a file can be mapped into memory, and its tensors can be views of that memory, once
three things are checked: every range lies inside the file, no two overlap, and each range has as
many bytes as its shape and dtype need.  A pickle needs an interpreter for that (`io/unpickler.py`).

Our own files carry a SHA-256 of header and numbers in the metadata, and reading compares it: a bit
that flips on a disk is an error, not a slightly different score.

    https://github.com/huggingface/safetensors (README, "Format").  As there, gaps are refused.
Left out: reading single tensors over a network; dtypes of less than a byte.
"""
import hashlib
import json
import math
import mmap
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.regular_file import open_regular
from minilora.io.text import shown
from minilora.io.unpickler import MAX_DIMENSIONS

DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
          "U16": torch.uint16, "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64,
          "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
          "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA_KEY, DIGEST_KEY = "__metadata__", "minilora.sha256"
MAX_HEADER_BYTES = 16 << 20         # a CLIP needs 0.1 MB
MAX_CONTAINERS = 300_000            # lists and dicts in the header: three for each tensor
MAX_STORED = 20_000                 # tensors; a CLIP has 600, three times that with its optimizer
MAX_NAME, MAX_NUMBERS = 1000, 1 << 48
ALIGNMENT = 8                       # the largest item; numbers start at a multiple of it


def is_safetensors(path: str | Path) -> bool:
    """Whether a file starts like safetensors: a length, then "{".  False if it cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(name -> CPU tensor in the file's dtype, metadata) of a safetensors file.

    The tensors are views of the mapped file; writing to them does not change it.  Raises
    CheckpointError for everything that is not exactly this format, or whose digest differs.
    """
    try:
        with open_regular(path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)   # private to us
    except (OSError, ValueError) as error:                      # ValueError: an empty file
        raise CheckpointError(f"{shown(path)} cannot be read as safetensors: "
                              f"{shown(error)}") from error
    try:
        header, start = read_header_json(mapped)
        metadata = check_metadata(header.pop(METADATA_KEY, {}))
        check_ranges(header, len(mapped) - start)
        expected = metadata.pop(DIGEST_KEY, None)
        if expected is not None and expected != content_digest(header, metadata, mapped, start):
            raise CheckpointError("its content differs from the digest in its header; a byte has "
                                  "changed since it was written; make or copy it again")
        return {name: mapped_tensor(mapped, start, entry) for name, entry in header.items()}, \
            metadata
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)} is refused: {error}") from error


def read_header_json(mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """(the JSON header, the position of the first number).  Raises CheckpointError."""
    if len(mapped) < 8:
        raise CheckpointError(f"{len(mapped)} bytes, expected at least 8; copy it again")
    length, = struct.unpack("<Q", mapped[:8])
    if not 2 <= length <= min(len(mapped) - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"its header would have {length:,} bytes, expected 2 to "
                              f"{min(len(mapped) - 8, MAX_HEADER_BYTES):,}; it is cut off, or no "
                              "safetensors file")
    text = mapped[8:8 + length]
    if text.count(b"{") + text.count(b"[") > MAX_CONTAINERS:    # before any object is made
        raise CheckpointError(f"its header has over {MAX_CONTAINERS:,} lists and objects; these "
                              "are no weights")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:               # JSON's and UTF-8's are ValueErrors
        raise CheckpointError(f"its header is no JSON: {shown(error)}; copy it again") from error
    if type(header) is not dict:
        raise CheckpointError("its header is no JSON object; it is damaged or forged")
    return header, 8 + length


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict.  Raises ValueError if a key occurs twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def check_metadata(metadata: Any) -> dict[str, str]:
    """The metadata, if it maps texts to texts.  Raises CheckpointError."""
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise CheckpointError(f"its {METADATA_KEY} must map texts to texts; it is damaged")
    return metadata


def check_ranges(header: dict[str, Any], size: int) -> None:
    """Raise CheckpointError unless the tensors fill `size` bytes exactly, without overlaps."""
    if len(header) > MAX_STORED:
        raise CheckpointError(f"it has {len(header):,} tensors, expected at most {MAX_STORED:,}; "
                              "these are no weights")
    ranges = []
    for name, entry in header.items():
        first, last = check_entry(name, entry)
        ranges.append((first, last, name))
    position = 0
    for first, last, name in sorted(ranges):
        if first != position:
            raise CheckpointError(f"the numbers of {shown(name)} start at {first:,}, expected "
                                  f"{position:,}: ranges overlap or leave a gap; it is damaged")
        position = last
    if position != size:
        raise CheckpointError(f"its tensors need {position:,} bytes, found {size:,}; it is cut off "
                              "or damaged, copy it again")


def check_entry(name: str, entry: Any) -> tuple[int, int]:
    """(first, last + 1) byte of a tensor; its dtype, shape and range must agree."""
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{shown(name)} must have dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if type(entry["dtype"]) is str else None
    if dtype is None:
        raise CheckpointError(f"{shown(name)} has the dtype {shown(entry['dtype'], 40)}; expected "
                              f"one of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    # Without its zeros too: torch computes strides of (0, 2^40, 2^40), and they must fit 64 bits.
    if not (are_counts(shape) and are_counts(offsets) and len(offsets) == 2
            and len(shape) <= MAX_DIMENSIONS and len(name) <= MAX_NAME
            and math.prod(filter(None, shape)) < MAX_NUMBERS):
        raise CheckpointError(f"{shown(name)} has a shape or range that is not understood; expected"
                              f" lists of whole numbers, at most {MAX_DIMENSIONS} dimensions and "
                              f"2^{MAX_NUMBERS.bit_length() - 1} numbers")
    first, last = offsets
    if last - first != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{shown(name)} {tuple(shape)} {entry['dtype']} has "
                              f"{last - first:,} bytes; it is damaged or forged")
    return first, last


def are_counts(values: Any) -> bool:
    """Whether a value is a list of whole numbers from 0 to 2^48."""
    return type(values) is list and all(type(v) is int and 0 <= v < MAX_NUMBERS for v in values)


def mapped_tensor(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> Tensor:
    """The tensor of a checked entry; a view of the mapped file where its numbers are aligned."""
    dtype, (first, last) = DTYPES[entry["dtype"]], entry["data_offsets"]
    if first == last:
        return torch.empty(entry["shape"], dtype=dtype)
    place = start + first
    source, offset = ((mapped, place) if place % dtype.itemsize == 0
                      else (bytearray(mapped[place:start + last]), 0))
    count = (last - first) // dtype.itemsize
    return torch.frombuffer(source, dtype=dtype, count=count, offset=offset).view(entry["shape"])


def safetensors_chunks(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[Any]:
    """The bytes of a safetensors file, in pieces: the header with its digest, then each tensor.

    tensors: on any device, of a dtype in DTYPES;  metadata: texts.  Raises ValueError otherwise.
    """
    # Largest items first: then every tensor starts at a multiple of its item.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    if len(order) > MAX_STORED:
        raise ValueError(f"{len(order):,} tensors, expected at most {MAX_STORED:,}; join some")
    header, position = {}, 0
    for name in order:
        tensor = tensors[name]
        if type(name) is not str or len(name) > MAX_NAME or name == METADATA_KEY \
                or tensor.dtype not in DTYPE_NAMES or tensor.ndim > MAX_DIMENSIONS:
            raise ValueError(f"tensor {shown(name)}: {tuple(tensor.shape)} {tensor.dtype} cannot "
                             f"be stored; expected a name of at most {MAX_NAME} characters, at "
                             f"most {MAX_DIMENSIONS} dimensions and one of {', '.join(DTYPES)}")
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [position, position + tensor.nbytes]}
        position += tensor.nbytes
    digest = hashlib.sha256(canonical_header(header, metadata))
    for name in order:
        digest.update(raw_bytes(tensors[name]))
    marked = metadata | {DIGEST_KEY: digest.hexdigest()}
    text = json.dumps({METADATA_KEY: marked, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES or text.count(b"{") + text.count(b"[") > MAX_CONTAINERS:
        raise ValueError(f"a header of {len(text):,} bytes, expected at most {MAX_HEADER_BYTES:,} "
                         f"and {MAX_CONTAINERS:,} lists; store fewer values")
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        yield raw_bytes(tensors[name])


def raw_bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def canonical_header(header: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """Header and metadata without the digest, in one fixed spelling."""
    return json.dumps([header, metadata], sort_keys=True, separators=(",", ":")).encode()


def content_digest(header: dict[str, Any], metadata: dict[str, str], mapped: mmap.mmap,
                   start: int) -> str:
    """SHA-256 of header, metadata and numbers, as `safetensors_chunks` writes it."""
    digest = hashlib.sha256(canonical_header(header, metadata))
    with memoryview(mapped) as view, view[start:] as numbers:
        digest.update(numbers)
    return digest.hexdigest()


def demo() -> None:
    """Write two tensors, show the header, read them back; then flip one bit."""
    tensors = {"weight": torch.arange(6.0).half().reshape(2, 3), "step": torch.tensor(7)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.safetensors"
        content = b"".join(safetensors_chunks(tensors, {"note": "two tensors"}))
        path.write_bytes(content)
        length, = struct.unpack("<Q", content[:8])
        print(f"{len(content)} bytes, {length} of them the header:")
        for name, entry in json.loads(content[8:8 + length]).items():
            print("  ", name, entry)
        read, metadata = read_safetensors(path)
        print("read back:", {name: value.tolist() for name, value in read.items()}, metadata)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        try:
            read_safetensors(path)
        except CheckpointError as error:
            print(str(error).replace(folder, "…"))


if __name__ == "__main__":
    demo()
