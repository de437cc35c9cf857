"""safetensors written out: equal to the reference package, and nothing false is read."""
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as reference_load
from safetensors.torch import load_file, save_file

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import TensorFileError, write_safetensors
from minilora.io.safetensors import DTYPES, is_safetensors, read_safetensors

NUMBERS = torch.arange(24).reshape(2, 3, 4)
ALL = {str(dtype): NUMBERS.to(dtype) for dtype in DTYPES.values()} | {
    "scalar": torch.tensor(1.5), "none": torch.zeros(0, 3), "view": NUMBERS.float().permute(2, 0, 1)}


def same(a, b):
    """Equal names, dtypes, shapes and bytes (NaN too; 8-bit floats have no ==)."""
    bits = lambda x: x.contiguous().reshape(-1).view(torch.uint8).numpy() if x.numel() else ()
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape
        and np.array_equal(bits(a[k]), bits(b[k])) for k in a)


def test_the_reference_package_reads_what_is_written(tmp_path):
    write_safetensors(tmp_path / "a", ALL, {"note": "ä\n"})
    assert same(load_file(tmp_path / "a"), ALL)
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata()["note"] == "ä\n"


def test_what_the_reference_package_writes_is_read(tmp_path):
    save_file({k: v.contiguous() for k, v in ALL.items()}, tmp_path / "a", {"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "a")
    assert same(tensors, ALL) and metadata == {"format": "pt"} and is_safetensors(tmp_path / "a")


def test_bytes_are_those_of_the_reference_but_for_our_digest(tmp_path):
    """Order, alignment and spelling of the header are the same, so the numbers lie at the same
    places."""
    save_file({k: v.contiguous() for k, v in ALL.items()}, tmp_path / "theirs")
    write_safetensors(tmp_path / "ours", ALL)
    def parts(path):
        content = path.read_bytes()
        length, = struct.unpack("<Q", content[:8])
        return json.loads(content[8:8 + length]), content[8 + length:]
    (theirs, numbers), (ours, written) = parts(tmp_path / "theirs"), parts(tmp_path / "ours")
    ours.pop("__metadata__")
    assert {k: v["data_offsets"][1] - v["data_offsets"][0] for k, v in ours.items()} == \
        {k: v["data_offsets"][1] - v["data_offsets"][0] for k, v in theirs.items()}
    assert len(written) == len(numbers)


def test_the_file_is_not_changed_by_writing_to_its_tensors(tmp_path):
    write_safetensors(tmp_path / "a", {"x": torch.zeros(3)})
    before = (tmp_path / "a").read_bytes()
    read_safetensors(tmp_path / "a")[0]["x"].fill_(1)
    assert (tmp_path / "a").read_bytes() == before


def test_every_flipped_bit_of_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "a"
    write_safetensors(path, {"x": torch.arange(3.0), "y": torch.tensor(1)}, {"note": "abc"})
    content = path.read_bytes()
    for at in range(len(content) - 20, len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1:])
            with pytest.raises(CheckpointError, match="differs from the digest"):
                read_safetensors(path)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **others):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | others


WRONG = {
    "empty": b"", "short": b"\0" * 7, "long header": struct.pack("<Q", 1 << 60) + b"{}",
    "header past the end": struct.pack("<Q", 100) + b"{}", "no JSON": raw(b"{nonsense}"),
    "list": raw([1]), "not UTF-8": raw(b'{"\xff": 1}'), "deep": raw(b"[" * 100_000),
    "wide": raw(b'{"a":[' + b"[]," * 400_000 + b"1]}"),
    "same name twice": raw(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                           b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "overlap": raw({"a": entry(), "b": entry()}, b"1234"),
    "gap": raw({"a": entry(offsets=(4, 8))}, b"12345678"),
    "rest": raw({"a": entry()}, b"12345678"), "cut off": raw({"a": entry()}, b"123"),
    "outside": raw({"a": entry(offsets=(0, 1 << 40), shape=(1 << 38,))}, b"1234"),
    "backwards": raw({"a": entry(offsets=(4, 0))}, b"1234"),
    "too large a shape": raw({"a": entry(shape=(2,))}, b"1234"),
    "negative": raw({"a": entry(shape=(-1, -1))}, b"1234"),
    "huge product": raw({"a": entry(shape=(1 << 40,) * 8)}, b"1234"),
    "huge product and a zero": raw({"a": entry(shape=(1 << 40, 0, 1 << 40), offsets=(0, 0))}),
    "many tensors": raw({str(k): entry(shape=(0,), offsets=(0, 0)) for k in range(20_001)}),
    "many dimensions": raw({"a": entry(shape=(1,) * 900_000)}, b"1234"),
    "fraction": raw({"a": entry(shape=(1.0,))}, b"1234"),
    "true": raw({"a": entry(shape=(True,))}, b"1234"),
    "huge integer": raw(b'{"a":' + b"1" * 10_000 + b"}"),
    "unknown dtype": raw({"a": entry(dtype="F7")}, b"1234"),
    "dtype as a list": raw({"a": entry(dtype=["F32"])}, b"1234"),
    "further key": raw({"a": entry(code="import os")}, b"1234"),
    "entry as text": raw({"a": "F32"}), "long name": raw({"a" * 5000: entry()}, b"1234"),
    "metadata as a list": raw({"__metadata__": [1]}),
    "metadata with numbers": raw({"__metadata__": {"a": 1}}),
    "wrong digest": raw({"__metadata__": {"minilora.sha256": "0" * 64}, "a": entry()}, b"1234"),
    "control characters": raw({"\x1b[2J\n" * 100: entry(dtype="F7")}, b"1234")}


@pytest.mark.parametrize("name", WRONG)
def test_a_false_file_is_refused_in_one_short_line(tmp_path, name):
    (tmp_path / "a").write_bytes(WRONG[name])
    with pytest.raises(CheckpointError) as refusal:
        read_safetensors(tmp_path / "a")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 700


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_read_is_also_read_by_the_reference_and_equal(tmp_path_factory, data):
    """A random change of a file: either it is refused, or both read the same."""
    path = tmp_path_factory.mktemp("f") / "a"
    save_file({"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.int8)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tensors, _ = read_safetensors(path)
    except CheckpointError:
        return
    try:
        assert same(tensors, reference_load(bytes(content)))
    except SafetensorError as error:            # the reference admits no unknown white space
        assert "header" in str(error).lower()


@pytest.mark.parametrize("tensors", [{"a": torch.zeros(1, dtype=torch.complex64)},
                                     {"a" * 2000: torch.zeros(1)},
                                     {"__metadata__": torch.zeros(1)},
                                     {"a": torch.zeros((1,) * 9)}])
def test_what_the_format_cannot_hold_is_refused_before_writing(tmp_path, tensors):
    with pytest.raises(TensorFileError, match="cannot be stored"):
        write_safetensors(tmp_path / "a", tensors)
    assert not (tmp_path / "a").exists()
