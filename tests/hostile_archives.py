"""Archives of a few MB that ask for much: for time, for memory, or for the end of the process.

A kind is a function: it gets a folder, writes weights.pt there and returns its path.  `hostile.py`
adds BUDGET to its WEIGHTS.  Each file has at most 10 MB, each refusal takes less than a second and
300 MB.  The pickles are put together byte by byte, because Python's pickler would not write them.
"""
import struct
import zipfile
import zlib

import torch

from minilora.checkpoint.openai_layout import empty_clip, official_shapes
from minilora.clip import CLIPConfig

START, LIMIT = b"\x80\x02", 10_000_000


# ---- pickles, byte by byte ----------------------------------------------------------------------

def text(value):
    """Instructions that push a text."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value):
    """Instructions that push an integer of at most 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(name):
    """Instructions that push what module.name stands for."""
    return "c{}\n{}\n".format(*name.rsplit(".", 1)).encode()


def put(index):
    """Instruction that stores the top of the stack."""
    return b"r" + struct.pack("<I", index)


def get(index):
    """Instruction that pushes what was stored."""
    return b"j" + struct.pack("<I", index)


TENSOR = 4                                              # its place in the memo


def storage(key="0", count=1, kind="torch.FloatStorage"):
    """Instructions that push a reference to a storage."""
    return b"(" + text("storage") + named(kind) + text(key) + text("cpu") + whole(count) + b"tQ"


def tensor(size=b")", stride=b")", offset=b"K\0", reference=None):
    """Instructions that push a tensor; by default a number in the record data/0."""
    return (named("torch._utils._rebuild_tensor_v2") + b"(" + (reference or storage()) + offset
            + size + stride + b"\x89" + named("collections.OrderedDict") + b")Rt" + b"R")


def write_zip(path, records):
    """Write stored records (name, content) as a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    assert path.stat().st_size <= LIMIT, "files of up to 10 MB are meant"
    return path


def pickled(*parts):
    """A kind: an archive with one number in data/0 and this description."""
    def write(folder):
        return write_zip(folder / "weights.pt", [
            ("a/data.pkl", START + b"".join(parts) + b"."), ("a/data/0", bytes(4)),
            ("a/version", b"3")])
    return write


def in_dict(*parts):
    """A kind: a dict with a tensor, in which the instructions then set more."""
    return pickled(b"}", text("a"), tensor(), put(TENSOR), b"s", *parts)


# ---- keys, shapes, calls ------------------------------------------------------------------------

def doubled_tuple(times):
    """A tuple of itself and itself: 2^times members for a program that visits each."""
    return b")" + (put(9) + get(9) + b"\x86") * times


def shared_dicts(times, make=b"}"):
    """A dict that holds a dict twice, which holds a dict twice, ..."""
    return make + b"".join(put(9) + make + text("a") + get(9) + b"s" + text("b") + get(9) + b"s"
                           for _ in range(times))


BIG_KEY, LONG_KEY = "k" * 2_000_000, "k" * 1_000
MANY_NAMES = [named(f"m{k}.{k}") for k in range(40_000)]

PICKLES = {
    "a key nested 150,000 deep": in_dict(b")", b"\x85" * 150_000, b"Ns"),
    "a key of 2^60 members": in_dict(doubled_tuple(60), b"Ns"),
    "a value nested 200,000 deep": in_dict(text("b"), b")", b"\x85" * 200_000, b"s"),
    "lists nested 100,000 deep": in_dict(text("b"), b"]" * 100_000, b"a" * 99_999, b"s"),
    "marks nested a million deep": in_dict(b"(" * 10**6),
    "250,000 numbers of one hash": in_dict(*(
        whole(k * (2**61 - 1)) + b"N" + b"s" for k in range(250_000))),
    "numbers that meet in a dict": in_dict(*(
        b"J" + struct.pack("<i", k << 16) + b"Ns" for k in range(-32_000, 32_000))),
    "a shape of 900,000 dimensions": pickled(
        b"}", text("a"), tensor(b"(" + b"K\1" * 900_000 + b"t", b"(" + b"K\1" * 900_000 + b"t"),
        b"s"),
    "a shape of numbers of 255 bytes": pickled(
        b"}", text("a"), tensor(whole(2**2000) + b"\x85", whole(2**2000) + b"\x85"), b"s"),
    "OrderedDict(OrderedDict)": in_dict(
        named("collections.OrderedDict"), put(8), b"}(", *(
            text(f"{k}") + b"N" for k in range(20_000)), b"u", put(9), *(
                get(8) + get(9) + b"\x85R" for _ in range(20_000))),
    "list(a text of 1 MB)": in_dict(
        named("torch.jit._pickle.build_intlist"), put(8), text("t" * 10**6), put(9), *(
            get(8) + get(9) + b"\x85R" for _ in range(20_000))),
    "a list of a list of 50,000": in_dict(
        named("torch.jit._pickle.build_intlist"), put(8), b"](", b"K\1" * 50_000, b"e", put(9), *(
            get(8) + get(9) + b"\x85R" for _ in range(5_000))),
    "a key of 2 MB above 120,000 children": pickled(
        b"}", text(BIG_KEY), b"}(", *(text(f"{k}") + b"N" for k in range(120_000)), b"us"),
    "a key of 1,000 letters above 30,000 children": pickled(
        b"}", text("t"), tensor(), put(TENSOR), b"s", text(LONG_KEY), b"}", text(LONG_KEY), b"}",
        text(LONG_KEY), b"}(", *(text(f"{k}") + get(TENSOR) for k in range(30_000)), b"usss"),
    "keys of 1,000 letters at 20 levels": pickled(b"".join(
        b"}" + text(LONG_KEY) for _ in range(20)), b"}(", *(
            text(f"{k}") + b"}" for k in range(30_000)), b"u", b"s" * 20),
    "2^60 paths through dicts": pickled(shared_dicts(60)),
    "2^60 paths through TorchScript": pickled(
        named("__torch__.A"), put(8), get(8), b")\x81", *(
            put(9) + get(8) + b")\x81}" + text("a") + get(9) + b"s" + text("b") + get(9) + b"sb"
            for _ in range(60))),
    "a TorchScript object that holds itself": pickled(
        named("__torch__.A"), b")\x81", put(9), b"}", text("a"), get(9), b"s", text("b"), get(9),
        b"sb"),
    "dicts nested 500 deep": pickled(*(b"}" + text("a") for _ in range(500)), tensor(), b"s" * 500),
    "a million empty dicts": in_dict(b"}" * 10**6),
    "a million empty sets": in_dict(b"\x8f" * 10**6),
    "a million values on the stack": in_dict(get(TENSOR) * 700_000),
    "a million appends": in_dict(text("l"), b"]", (b"(" + get(TENSOR) + b"e") * 500_000),
    "a list that is appended to itself": in_dict(
        text("l"), b"]", put(9), (get(9) + b"a") * 600_000),
    "a million versions": pickled(b"\x80\x02" * 2_000_000),
    "400,000 frames": pickled((b"\x95" + bytes(8)) * 400_000),
    "4 MB of DUP": in_dict(b"N", b"2" * 4_000_000),
    "4 MB of POP": in_dict(b"0" * 4_000_000),
    "a memo of 100,000 values": in_dict(*(b"N" + put(k) for k in range(100_000))),
    "a memo index of four billion": in_dict(b"N", put(0xFFFFFFFF)),
    "a number of 2 GB": in_dict(b"\x8b\xff\xff\xff\x7f"),
    "a text of 4 GB": in_dict(b"X\xff\xff\xff\xff"),
    "bytes of 2^63": in_dict(b"\x96" + b"\xff" * 8),
    "12,000 numbers of 250 bytes": in_dict(*(whole(2**2000) for _ in range(12_000)), b"R"),
    "40,000 unknown names": in_dict(text("n"), b"](", *MANY_NAMES, b"es"),
    "40,000 calls of unknown names": in_dict(
        named("m.n"), put(8), b")", put(9), (get(8) + get(9) + b"R") * 300_000),
    "calls with tuples of tuples": in_dict(
        named("m.n"), put(8), b"(" + b"N" * 8 + b"t", put(9), b"(", get(9) * 8, b"t", put(9),
        (get(8) + get(9) + b"R") * 300_000),
    "one name of 2 MB": in_dict(b"c" + b"m" * 2_000_000 + b"\nn\n"),
    "names made of two texts": in_dict(
        text("m" * 400 + "\n"), put(8), text("\x1b" * 400), put(9),
        (get(8) + get(9) + b"\x93") * 300_000),
    "names made of two printable texts": in_dict(
        text("m" * 400), put(8), text("\xe9" * 400), put(9),
        (get(8) + get(9) + b"\x93") * 300_000),
    "keys of control characters": pickled(
        b"}(", *(text("\x1b[2J" * 200 + f"{k}") + tensor() for k in range(1_200)), b"u"),
    "keys that are half of a character": pickled(b"}", text("\ud800"), tensor(), b"s"),
    "a storage named by 1 MB": pickled(
        b"}", text("a"), tensor(reference=storage("k" * 10**6)), b"s"),
    "100,000 keys that are None": in_dict(b"(" + b"N" * 100_000 + b"u"),
    "5,000 tensors": pickled(
        b"}", text("a"), tensor(), put(TENSOR), b"s(", *(
            text(f"w{k}") + get(TENSOR) for k in range(5_000)), b"u"),
    "20,000 resblocks of one number": pickled(
        b"}", text("a"), tensor(), put(TENSOR), b"s(", *(
            text(f"visual.transformer.resblocks.{k}.a") + get(TENSOR) for k in range(20_000)),
        b"u"),
    "20,000 resblocks of nothing": pickled(b"}(", *(
        text(f"visual.transformer.resblocks.{k}") + b"}" for k in range(20_000)), b"u"),
    "two tensors of one name": pickled(
        b"}", text("a.b"), tensor(), b"s", text("a"), b"}", text("b"), tensor(), b"ss"),
    "one storage in two lengths": pickled(
        b"}", text("a"), tensor(), b"s", text("b"), tensor(reference=storage("0", 2)), b"s"),
    "one storage of two types": pickled(
        b"}", text("a"), tensor(), b"s", text("b"),
        tensor(reference=storage("0", 1, "torch.IntStorage")), b"s"),
    "a call of a dict": in_dict(b"})R"),
    "a class of a dict": in_dict(b"})\x81"),
    "attributes of a list": in_dict(text("l"), b"]}bs"),
    "a storage with a nested kind": pickled(b"}", text("a"), b"(" * 5 + b"t" * 5 + b"Q", b"s"),
    "more values than marks": in_dict(b"tttt"),
    "values below a mark": in_dict(b"(\x87"),
    "a text that is not UTF-8": in_dict(text(b"\xff\xfe")),
}


# ---- shared numbers -----------------------------------------------------------------------------

def deep_clip(layers, width=768):
    """A kind: every weight of a deep CLIP is a view of one storage of a few MB."""
    def write(folder):
        config = CLIPConfig(embed=512, resolution=32, vision_layers=layers, vision_width=width,
                            patch=16, vocab=600, text_width=64, text_layers=1)
        numbers = torch.ones(4 * width * width, dtype=torch.float16)
        state = {}
        for key, shape in official_shapes(empty_clip(config)).items():
            count = torch.Size(shape).numel()
            state[key] = numbers[:count].view(shape)
        torch.save(state, folder / "weights.pt")
        assert (folder / "weights.pt").stat().st_size <= LIMIT
        return folder / "weights.pt"
    return write


def many_resblocks(count):
    """A kind: a CLIP's other keys are not there; `count` blocks have one number each."""
    def write(folder):
        number = torch.ones(1)
        state = {f"visual.transformer.resblocks.{k}.ln_1.bias": number for k in range(count)}
        shapes = {"visual.conv1.weight": (64, 3, 4, 4), "visual.positional_embedding": (5, 64),
                  "token_embedding.weight": (9, 64), "positional_embedding": (7, 64),
                  "visual.proj": (64, 8)}
        torch.save(state | {key: torch.rand(shape) for key, shape in shapes.items()},
                   folder / "weights.pt")
        return folder / "weights.pt"
    return write


# ---- zips, byte by byte -------------------------------------------------------------------------

def entry(name=b"a/data.pkl", place=0, size=0, crc=0, extra=b"", comment=b"", method=0,
          packed=None):
    """One entry of a zip's directory."""
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, method, 0, 0, crc,
                       size if packed is None else packed, size, len(name), len(extra),
                       len(comment), 0, 0, 0, place) + name + extra + comment


def header(name=b"a/data.pkl", size=0, extra=b""):
    """What stands in front of a record."""
    return struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, size, size, len(name),
                       len(extra)) + name + extra


def end(count, size, start, comment=b"", disk=0):
    """The end of a zip."""
    return struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, min(count, 0xFFFF), min(count, 0xFFFF),
                       size, start, len(comment)) + comment


def end_64(count, size, start, place):
    """The 64-bit end of a zip, which lies at `place`, and its locator."""
    return (struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
            + struct.pack("<4sLQL", b"PK\6\7", 0, place, 1))


GOOD = START + b"}" + text("a") + tensor() + b"s."
BODY = header(size=len(GOOD)) + GOOD + header(b"a/data/0", 4) + bytes(4)
DIRECTORY = (entry(size=len(GOOD), crc=zlib.crc32(GOOD))
             + entry(b"a/data/0", BODY.rindex(b"PK\3\4"), 4, zlib.crc32(bytes(4))))


def zipped(directory=DIRECTORY, count=2, body=BODY, tail=None):
    """A kind: a zip with this directory.  tail: what stands behind it."""
    def write(folder):
        content = body + directory + (end(count, len(directory), len(body)) if tail is None
                                      else tail)
        assert len(content) <= LIMIT
        (folder / "weights.pt").write_bytes(content)
        return folder / "weights.pt"
    return write


def zipped_64(count=2, size=len(DIRECTORY), start=len(BODY), place=len(BODY) + len(DIRECTORY),
              body=BODY, directory=DIRECTORY):
    """A kind: a zip with a 64-bit end."""
    return zipped(directory, body=body, tail=end_64(count, size, start, place)
                  + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))


def changed_record():
    """A kind: one bit of the numbers differs from what was written."""
    def write(folder):
        torch.save({"a": torch.arange(8.0)}, folder / "weights.pt")
        content = bytearray((folder / "weights.pt").read_bytes())
        content[content.index(torch.arange(8.0).numpy().tobytes()) + 9] ^= 1
        (folder / "weights.pt").write_bytes(content)
        return folder / "weights.pt"
    return write


MILLION = b"".join(entry(b"%d" % k) for k in range(150_000))
LARGE_EXTRA = b"".join(entry(b"%d" % k, extra=b"xx" + struct.pack("<H", 16_000) + bytes(16_000))
                       for k in range(600))
ZIPS = {
    "150,000 members in 8 MB": zipped(tail=b"", directory=MILLION + end_64(
        150_000, len(MILLION), len(BODY), len(BODY) + len(MILLION)) + end(
            0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)),
    "65,535 members": zipped(b"".join(entry(b"%d" % k) for k in range(65_535)), 65_535),
    "19,000 members at one place": zipped(b"".join(
        entry(b"%d/data.pkl" % k) for k in range(19_000)), 19_000),
    "19,000 members of one name": zipped(entry() * 19_000, 19_000),
    "19,000 members of 400 letters": zipped(b"".join(
        entry(b"a/%0400d" % k, k) for k in range(19_000)), 19_000),
    "members with 16 kB of extra fields": zipped(LARGE_EXTRA, 600),
    "a comment of 64 kB": zipped(tail=end(2, len(DIRECTORY), len(BODY), b"x" * 65_535)),
    "9 MB of ends": zipped(tail=end(2, len(DIRECTORY), len(BODY)) * 400_000 + b"x"),
    "an end that points at itself": zipped(tail=end(0, 0, len(BODY) + len(DIRECTORY))),
    "an end that points behind the file": zipped(tail=end(2, len(DIRECTORY), 1 << 31)),
    "a directory larger than the file": zipped(tail=end(2, 0xFFFFFFF0, len(BODY))),
    "a directory on another disk": zipped(tail=end(2, len(DIRECTORY), len(BODY), disk=1)),
    "a count of 65,535 over two entries": zipped(count=65_535),
    "a count of one over two entries": zipped(count=1),
    "a 64-bit count of 2^63": zipped_64(count=2**63),
    "a 64-bit size of 2^64": zipped_64(size=2**64 - 1, start=len(BODY) + len(DIRECTORY) + 1),
    "a 64-bit start of 2^63": zipped_64(start=2**63),
    "a 64-bit end at another place": zipped_64(place=2**63),
    "a 64-bit end that is its own locator": zipped_64(place=len(BODY) + len(DIRECTORY) + 56),
    "a 64-bit size that is not there": zipped(entry(size=0xFFFFFFFF), 1),
    "a 64-bit place of 2^63": zipped(entry(
        place=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, 2**63)), 1),
    "a record of 2^64 bytes": zipped(entry(
        size=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 2**64 - 1, 2**64 - 1)), 1),
    "a record that reaches into the next": zipped(
        entry(size=len(GOOD) + 20) + entry(b"a/data/0", BODY.rindex(b"PK\3\4"), 4), 2),
    "a record whose header is too long": zipped(
        entry(size=4), 1, header(extra=b"x" * 8)[:-8] + bytes(4)),
    "a record of another name": zipped(entry(b"b/data.pkl", size=len(GOOD)), 1),
    "a record at the directory": zipped(entry(place=len(BODY)), 1),
    "a description with another CRC-32": zipped(entry(size=len(GOOD), crc=1), 1),
    "numbers with a flipped bit": changed_record(),
    "a description of 9 MB": lambda folder: write_zip(
        folder / "weights.pt", [("a/data.pkl", bytes(9_000_000))]),
    "a byte order of 9 MB": lambda folder: write_zip(folder / "weights.pt", [
        ("a/byteorder", b"little" * 1_500_000), ("a/data.pkl", GOOD), ("a/data/0", bytes(4))]),
    "a name of 65,000 letters": zipped(entry(b"a" * 65_000 + b"/data.pkl"), 1),
    "a name of control characters": zipped(entry(b"\x1b[2J\n/data.pkl", method=8), 1),
}
SHARED = {"90 layers in one storage": deep_clip(90), "3,000 resblocks": many_resblocks(3_000)}
BUDGET = PICKLES | ZIPS | SHARED
