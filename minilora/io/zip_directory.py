"""The directory of a zip: where each of its records is; its size is known before it is read.

Claim: the directory at a zip's end says how many records there are, and Python's zipfile makes an
object for each of them before anyone can object to a million.  The directory is a table of simple
entries, read here by hand; its length is checked before the first entry is read.

    a zip:   record, record, ...,  directory,  [its 64-bit end, and where that is],  its end
    record:  30 bytes, its name, an extra field, its content

Checked: the directory lies directly before its end; it has at most MAX_RECORDS entries and
MAX_DIRECTORY_BYTES; no name occurs twice; no record reaches into the next one.  A record that is
used is not compressed, has the same name in the directory and at its place, and has the CRC-32 of
the directory.

Differs: `torch.serialization.set_crc32_options(False)` writes zero as every CRC-32.  Such a file
is read, and `has_checksums` is False for it.

    PKWARE, APPNOTE.TXT 4.3 (the formats) and 4.5.3 (64-bit sizes)

Left out: decompression, encryption, archives in several files, comments after the end.
"""
import io
import struct
import zipfile
import zlib
from mmap import mmap
from typing import NamedTuple

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.text import shown

MAX_RECORDS = 20_000                    # a CLIP has about 600; with an optimizer, three times that
MAX_DIRECTORY_BYTES = 4 << 20           # an entry of torch's has about 80
END_RECORD = struct.Struct("<4s4HLLH")  # the end: mark, disks, counts, size, start, comment
END_64 = struct.Struct("<4sQ2H2L4Q")    # the same with 64 bits
LOCATOR = struct.Struct("<4sLQL")       # where the 64-bit end is
ENTRY = struct.Struct("<4s6H3L5H2L")    # of the directory: sizes and place of one record
HEADER = struct.Struct("<4s5H3L2H")     # in front of a record
UNKNOWN = 0xFFFFFFFF                    # stands for a number that only the 64-bit fields have
NOT_STORED = "only files as PyTorch writes them can be read, save it again with torch.save"


class ZipRecord(NamedTuple):
    """One record, as the directory describes it.  stored: neither compressed nor encrypted."""
    name: bytes
    start: int                  # of its header
    limit: int                  # where the next record or the directory begins
    size: int                   # bytes of its content
    crc: int
    stored: bool


class ZipDirectory:
    """The records of a zip in memory, or mapped into it."""

    def __init__(self, content: bytes | mmap) -> None:
        """Raises CheckpointError for a damaged or oversized directory."""
        self.content = content
        self.records = with_limits(*entries(content))
        self.has_checksums = any(record.crc for record in self.records.values())
        self.checked = set()            # names of the records whose CRC-32 was compared

    def content_range(self, name: str) -> tuple[int, int]:
        """(start, end) of the bytes of a record.  Raises CheckpointError if they are damaged."""
        record, what = self.records.get(name), f"record {shown(name)}"
        if record is None:
            raise CheckpointError(f"has no {what}; it is incomplete, copy or download it again")
        if not record.stored:
            raise CheckpointError(f"has a compressed {what}; {NOT_STORED}")
        head = self.content[record.start:record.start + HEADER.size]
        if len(head) == HEADER.size and head[:4] == b"PK\3\4":
            name_length, extra_length = HEADER.unpack(head)[-2:]
            start = record.start + HEADER.size
            same_name = self.content[start:start + name_length] == record.name
            start += name_length + extra_length
            if same_name and start + record.size <= record.limit:
                self.check_crc(name, start, start + record.size)
                return start, start + record.size
        raise CheckpointError(f"has a damaged {what}; copy or download it again")

    def check_crc(self, name: str, start: int, end: int) -> None:
        """Compare the CRC-32 of a record, once; it takes 0.1 to 1 s for each GB."""
        if self.has_checksums and name not in self.checked:
            with memoryview(self.content) as view, view[start:end] as part:
                if zlib.crc32(part) != self.records[name].crc:
                    raise CheckpointError(f"has a damaged record {shown(name)}: its content does "
                                          "not have the CRC-32 that was stored with it; copy or "
                                          "download it again")
            self.checked.add(name)


def cut_off(what: str) -> CheckpointError:
    """The error for a file without a directory that can be read."""
    return CheckpointError(f"is cut off or damaged ({what}); copy or download it again")


def directory_place(content: bytes | mmap) -> tuple[int, int, int]:
    """(number of entries, start, end) of the directory.  Raises CheckpointError."""
    end = len(content) - END_RECORD.size
    tail = content[max(end, 0):]
    if len(tail) < END_RECORD.size or tail[:4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise cut_off("a zip's directory is missing at its end")
    _, *disks, count, total, size, start, _ = END_RECORD.unpack(tail)
    locator = content[max(end - LOCATOR.size, 0):end]
    if locator[:4] == b"PK\6\7" and len(locator) == LOCATOR.size:
        end -= LOCATOR.size + END_64.size
        place, tail = LOCATOR.unpack(locator)[2], content[max(end, 0):end + END_64.size]
        if place != end or len(tail) < END_64.size or tail[:4] != b"PK\6\6":
            raise cut_off("the 64-bit end of its directory is missing")
        _, _, _, _, *disks, count, total, size, start = END_64.unpack(tail)
    if any(disks) or count != total or size < 0 or start + size != end:
        raise cut_off("its directory is not where it should be")
    if count > MAX_RECORDS or size > MAX_DIRECTORY_BYTES:
        raise CheckpointError(f"has a directory of {count:,} records in {size:,} bytes, expected "
                              f"at most {MAX_RECORDS:,} in {MAX_DIRECTORY_BYTES:,} bytes; this is "
                              "not a CLIP checkpoint")
    return count, start, end


def entries(content: bytes | mmap) -> tuple[dict[str, ZipRecord], int]:
    """(name -> ZipRecord with the least limit, start of the directory).  Raises CheckpointError."""
    count, start, end = directory_place(content)
    directory, at, records = content[start:end], 0, {}
    for _ in range(count):
        if len(directory) - at < ENTRY.size or directory[at:at + 4] != b"PK\1\2":
            raise cut_off("its directory is damaged")
        (_, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length,
         _, _, _, place) = ENTRY.unpack_from(directory, at)
        at += ENTRY.size
        name = directory[at:at + name_length]
        extra = directory[at + name_length:at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if at > len(directory):
            raise cut_off("its directory is damaged")
        size, packed, place = wide_numbers(extra, size, packed, place)
        text = name.decode("utf-8", "surrogateescape")      # every name of bytes has its own text
        if text in records:
            raise CheckpointError(f"has two records {shown(text)}; it is damaged or forged")
        stored = method == zipfile.ZIP_STORED and not flags & 1 and size == packed
        least = place + HEADER.size + len(name) + packed    # it ends there or later
        records[text] = ZipRecord(name, place, least, size, crc, stored)
    if at != len(directory):
        raise cut_off("its directory is damaged")
    return records, start


def wide_numbers(extra: bytes, *numbers: int) -> list[int]:
    """The numbers of an entry; those that need 64 bits stand in the extra field with mark 1."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        mark, length = struct.unpack_from("<2H", extra, at)
        if mark == 1:
            wide = extra[at + 4:at + 4 + length]
        at += 4 + length
    found = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[:len(wide) // 8 * 8]))
    complete = [next(found, None) if number == UNKNOWN else number for number in numbers]
    if None in complete:
        raise cut_off("its directory is damaged")
    return complete


def with_limits(records: dict[str, ZipRecord], directory: int) -> dict[str, ZipRecord]:
    """The records with their limits.  Raises CheckpointError if one reaches into the next."""
    order = sorted(records.values(), key=lambda record: record.start)
    starts = [record.start for record in order] + [directory]
    for record, after in zip(order, starts[1:]):
        if record.limit > after:
            raise CheckpointError("has overlapping records; it is damaged or forged")
    limits = dict(zip((record.name for record in order), starts[1:]))
    return {text: record._replace(limit=limits[record.name]) for text, record in records.items()}


def demo() -> None:
    """Read the directory of a small zip; refuse a changed bit, and a directory that is forged."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data/0", "data/1"):
            archive.writestr(name, name * 3)
    content = file.getvalue()
    for record in ZipDirectory(content).records.values():
        print(f"{record.name.decode()}: at {record.start}, {record.size} bytes, CRC-32 "
              f"{record.crc:08x}, ends by {record.limit}")
    million = END_RECORD.pack(b"PK\5\6", 0, 0, 65535, 65535, len(content), 0, 0)
    for changed in (content.replace(b"1data", b"1dAta"), content + million, content[:-40]):
        try:
            ZipDirectory(changed).content_range("data/1")
        except CheckpointError as error:
            print("refused: it", error)


if __name__ == "__main__":
    demo()
