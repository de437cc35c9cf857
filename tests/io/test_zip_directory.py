"""A zip's directory is read as Python's zipfile reads it, within bounds, and checked."""
import io
import mmap
import struct
import zipfile
import zlib

import hostile_archives
import official_archive
import pytest
import torch
from hostile_archives import BODY, DIRECTORY, end, end_64, entry, header

from minilora.checkpoint.openai_layout import official_state_dict
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.zip_directory import MAX_RECORDS, ZipDirectory
from minilora.io.zip_reader import read_archive, read_tensors


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def as_python_reads(content):
    """name -> (place, size, CRC-32, content)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: (info.header_offset, info.file_size, info.CRC,
                                archive.read(info.filename)) for info in archive.infolist()
                if info.compress_type == zipfile.ZIP_STORED}    # the code of TorchScript is not


def as_we_read(content):
    directory, found = ZipDirectory(content), {}
    for name, record in directory.records.items():
        if not record.stored:
            continue
        start, end_ = directory.content_range(name)
        found[name] = record.start, record.size, record.crc, bytes(content[start:end_])
    return found


def by_zipfile(*names, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name in names:
            archive.writestr(name, name * 5)
    return file.getvalue()


def test_archives_of_torch_and_of_zipfile_are_read_as_python_reads_them(tmp_path, tiny_clip):
    """torch writes a 64-bit end always, zipfile only where it is needed."""
    official_archive.write_archive(official_state_dict(tiny_clip), tmp_path / "clip.pt")
    for content in (saved({"a": torch.rand(100), "b": torch.empty(0)}), by_zipfile("a", "b/c"),
                    by_zipfile("模型/data.pkl", "é"), (tmp_path / "clip.pt").read_bytes()):
        assert as_we_read(content) == as_python_reads(content)


def test_an_archive_made_without_knowing_its_sizes_is_read(tmp_path):
    """A writer that cannot go back puts sizes and CRC-32 behind the record; the directory has them.
    """
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError
    file = Pipe()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"some text")
        archive.writestr("a/data/0", b"numbers")
    content = file.getvalue()
    assert as_we_read(content) == as_python_reads(content)


def test_records_beyond_4_gb_are_found(tmp_path):
    """A sparse file: a record of 5 GB that takes no space on the disk, and a small one after it."""
    size, path = 5 << 30, tmp_path / "large.zip"
    place = 30 + len(b"big") + size
    small = header(b"small", 4) + b"abcd"
    directory = entry(b"big", 0, 0xFFFFFFFF, 1, struct.pack("<2H2Q", 1, 16, size, size),
                      packed=0xFFFFFFFF)
    directory += entry(b"small", 0xFFFFFFFF, 4, zlib.crc32(b"abcd"),
                       struct.pack("<2HQ", 1, 8, place))
    start = place + len(small)
    with open(path, "wb") as file:
        file.write(header(b"big"))
        file.seek(place)
        file.write(small + directory + end_64(2, len(directory), start, start + len(directory))
                   + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = ZipDirectory(content)
        assert found.records["big"].size == size and found.records["small"].start == place
        first, last = found.content_range("small")
        assert content[first:last] == b"abcd"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("small") == b"abcd", "the file is a valid zip"


def test_the_forged_zips_begin_as_a_valid_one(tmp_path):
    """The kinds in hostile_archives.py change this file; in both forms it holds one tensor."""
    for make in (hostile_archives.zipped(), hostile_archives.zipped_64()):
        assert read_tensors(make(tmp_path))["a"].tolist() == 0
        assert len(as_python_reads((tmp_path / "weights.pt").read_bytes())) == 2


# ---- checksums ----------------------------------------------------------------------------------

def test_any_changed_bit_of_the_numbers_is_seen(tmp_path):
    """Each of 64 single bits of a float32 tensor, flipped in turn."""
    numbers = torch.tensor([1.5, -2.25])
    content = saved({"a": numbers})
    place = content.index(numbers.numpy().tobytes())
    for bit in range(64):
        changed = bytearray(content)
        changed[place + bit // 8] ^= 1 << bit % 8
        (tmp_path / "a.pt").write_bytes(changed)
        with pytest.raises(CheckpointError, match="damaged record archive/data/0: its content"):
            read_tensors(tmp_path / "a.pt")


def test_a_changed_bit_of_the_description_is_seen(tmp_path):
    content = bytearray(saved({"abc": torch.rand(3)}))
    content[content.index(b"abc")] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="archive/data.pkl: its content does not"):
        read_tensors(tmp_path / "a.pt")


def test_a_record_that_is_not_used_is_not_checked(tmp_path):
    """The state of an optimizer may be many times as large as the weights."""
    content = bytearray(saved({"a": torch.ones(2), "list": [torch.tensor([7.5])]}))
    content[content.index(torch.tensor([7.5]).numpy().tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    assert read_tensors(tmp_path / "a.pt")["a"].tolist() == [1, 1]


def test_a_file_without_checksums_is_read_and_says_so(tmp_path):
    """torch.serialization.set_crc32_options(False) writes zero as each CRC-32."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    tensors, lines = read_archive(tmp_path / "a.pt")
    assert tensors["a"].tolist() == [1, 1]
    assert lines == ["written without checksums, so damage to its numbers cannot be seen"]


def test_one_record_without_a_checksum_among_others_is_damaged(tmp_path):
    content = bytearray(saved({"a": torch.ones(2)}))
    place = content.rindex(b"PK\1\2", 0, content.rindex(b"/data/0"))
    content[place + 16:place + 20] = bytes(4)
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="does not have the CRC-32"):
        read_tensors(tmp_path / "a.pt")


def test_a_record_that_reaches_into_the_next_or_the_directory_is_damaged():
    """Its header says that an extra field is longer than it is, so that its content moves on."""
    good = header(b"a", 4) + b"abcd"
    directory = entry(b"a", 0, 4, zlib.crc32(b"abcd"))
    for body, refused in ((good, False), (header(b"a", 4, b"xxxxxxxx")[:-8] + b"abcd", True)):
        content = body + directory + end(1, len(directory), len(body))
        found = ZipDirectory(content)
        found.has_checksums = False
        if refused:
            with pytest.raises(CheckpointError, match="has a damaged record a; copy"):
                found.content_range("a")
        else:
            assert content[slice(*found.content_range("a"))] == b"abcd"


def test_a_record_must_have_its_name_at_its_place():
    """Two programs could otherwise read two different contents from one file."""
    body, directory = header(b"b", 4) + b"abcd", entry(b"a", 0, 4, zlib.crc32(b"abcd"))
    with pytest.raises(CheckpointError, match="has a damaged record a; copy"):
        ZipDirectory(body + directory + end(1, len(directory), len(body))).content_range("a")


# ---- bounds -------------------------------------------------------------------------------------

def many(count, name=b"%08d"):
    """A zip of empty records."""
    names = [name % k for k in range(count)]
    body = b"".join(map(header, names))
    step = len(header(names[0]))
    directory = b"".join(entry(n, k * step) for k, n in enumerate(names))
    return body + directory + end(count, len(directory), len(body))


def test_the_number_of_records_is_bounded():
    assert len(ZipDirectory(many(MAX_RECORDS)).records) == MAX_RECORDS
    with pytest.raises(CheckpointError, match="of 20,001 records in .* at most 20,000 in"):
        ZipDirectory(many(MAX_RECORDS + 1))


def test_the_bytes_of_the_directory_are_bounded():
    """Extra fields of 60,000 bytes each: 69 entries have less than 4 MB, 70 have more."""
    for count, refused in ((69, False), (70, True)):
        names = [b"%04d" % k for k in range(count)]
        directory = b"".join(entry(name, 34 * k, extra=bytes(60_000)) for k, name in
                             enumerate(names))
        content = b"".join(map(header, names)) + directory
        content += end(count, len(directory), 34 * count)
        if refused:
            with pytest.raises(CheckpointError, match="70 records in 4,203,500 bytes, expected"):
                ZipDirectory(content)
        else:
            assert len(ZipDirectory(content).records) == 69


@pytest.mark.parametrize("length", range(len(BODY), len(BODY + DIRECTORY) + 22))
def test_a_zip_cut_off_at_any_byte_of_its_directory_is_refused(length):
    content = (BODY + DIRECTORY + end(2, len(DIRECTORY), len(BODY)))[:length]
    with pytest.raises(CheckpointError, match="is cut off or damaged"):
        ZipDirectory(content)


def test_bytes_before_or_behind_a_zip_are_refused():
    """They belong to no record: the file is not what PyTorch wrote."""
    content = BODY + DIRECTORY + end(2, len(DIRECTORY), len(BODY))
    assert len(ZipDirectory(content).records) == 2
    for changed in (b"x" + content, content + b"x"):
        with pytest.raises(CheckpointError, match="is cut off or damaged"):
            ZipDirectory(changed)
