"""Files from strangers: every kind by name, and a command that says what they cost to refuse.

    python tests/hostile.py             kinds, refused, longest time, highest memory

WEIGHTS are read by `load_clip`, ADAPTERS (in a run folder) by `predict.open_run`.  A kind is a
function of a folder and returns the path of the file that it wrote there.
"""
import io
import os
import pickle
import signal
import struct
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from conftest import TINY

from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.io.files import load_tensors, save_tensors

SMALL = CLIPConfig(**TINY)


def write_pickle(path, data, records=()):
    """A minimal archive around a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in dict(records).items():
            archive.writestr(f"archive/data/{key}", content)


class Call:
    """Pickles as a call of `function`, which need not exist anywhere."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    """Stands in a pickle for a reference to a record."""

    def __init__(self, *pid):
        self.pid = pid


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


def write_tensor(path, pid, offset=0, size=(2, 3), stride=(3, 1)):
    """One float32 tensor as described, over a record of six numbers."""
    data = io.BytesIO()
    tensor = Call(torch._utils._rebuild_tensor_v2, Storage(*pid), offset, size, stride, False, {})
    StoragePickler(data, protocol=2).dump({"a": tensor})
    numbers = torch.arange(6.0).numpy().tobytes()
    write_pickle(path, data.getvalue(), {"0": numbers})


def tiny_state():
    return official_state_dict(CLIP(SMALL).initialise(torch.Generator().manual_seed(0)))


def names(content, path="weights.pt"):
    """A kind: an archive around a pickle of this object."""
    def write(folder):
        write_pickle(folder / path, content if isinstance(content, bytes) else
                     pickle.dumps(content, protocol=2))
        return folder / path
    return write


def calls(module, name, *arguments):
    """A kind: a pickle that calls any function, whether or not it exists here."""
    pushed = b"".join(b"X" + struct.pack("<I", len(a)) + a.encode() for a in arguments)
    return names(b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + b"(" + pushed
                 + b"tRs.")


def claims(size=(2, 3), stride=(3, 1), offset=0, storage=torch.FloatStorage, key="0", count=6):
    """A kind: a tensor described otherwise than its record of six numbers allows."""
    def write(folder):
        write_tensor(folder / "weights.pt", ("storage", storage, key, "cpu", count), offset, size,
                     stride)
        return folder / "weights.pt"
    return write


def bytes_of(content):
    def write(folder):
        (folder / "weights.pt").write_bytes(content)
        return folder / "weights.pt"
    return write


def state_with(change):
    """A kind: a tiny CLIP's weights, changed."""
    def write(folder):
        state = tiny_state()
        torch.save(change(state) or state, folder / "weights.pt")
        return folder / "weights.pt"
    return write


def archive_with(change):
    """A kind: an honest archive whose bytes are changed."""
    def write(folder):
        torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, folder / "weights.pt")
        (folder / "weights.pt").write_bytes(change((folder / "weights.pt").read_bytes()))
        return folder / "weights.pt"
    return write


def members(*entries, compress=zipfile.ZIP_STORED):
    """A kind: a zip with these (name, content)."""
    def write(folder):
        with zipfile.ZipFile(folder / "weights.pt", "w", compress) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return folder / "weights.pt"
    return write


def overlapping(content):
    """The directory's second record starts where the first does, but is another one."""
    content = bytearray(content)
    first, second = (content.rindex(b"PK\1\2", 0, content.rindex(name.encode()))
                     for name in ("/data/0", "/data/1"))
    content[second + 42:second + 46] = content[first + 42:first + 46]
    return bytes(content)


def promised(content, size):
    """The directory says that a record is longer than the file."""
    content = bytearray(content)
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"/data/0"))
    content[entry + 20:entry + 28] = struct.pack("<II", size, size)
    return bytes(content)


def made(make):
    """A kind that is no file with content: make(path)."""
    def write(folder):
        make(folder / "weights.pt")
        return folder / "weights.pt"
    return write


def change_one(key, value):
    def change(state):
        state[key] = value(state[key])
    return state_with(change)


def with_value(number):
    def spoil(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = number
        return tensor
    return spoil


def bomb(width, depth):
    content = {}
    for _ in range(depth):
        content = {str(k): content for k in range(width)}
    return content


KEY, WEIGHT = "visual.ln_post.bias", "visual.conv1.weight"
HONEST = pickle.dumps({}, protocol=2)
WEIGHTS = {
    # programs
    "os.system": calls("os", "system", "touch was-run"),
    "posix.system": calls("posix", "system", "touch was-run"),
    "builtins.eval": calls("builtins", "eval", "open('was-run', 'w')"),
    "builtins.exec": calls("builtins", "exec", "open('was-run', 'w')"),
    "python 2's eval": calls("__builtin__", "eval", "open('was-run', 'w')"),
    "builtins.open": calls("builtins", "open", "was-run", "w"),
    "builtins.getattr": calls("builtins", "getattr", "a", "upper"),
    "__import__": calls("builtins", "__import__", "os"),
    "importlib": calls("importlib", "import_module", "antigravity"),
    "subprocess": calls("subprocess", "Popen", "touch was-run"),
    "shutil.rmtree": calls("shutil", "rmtree", "."),
    "socket": calls("socket", "create_connection", "localhost"),
    "functools.partial": calls("functools", "partial", "a"),
    "operator.methodcaller": calls("operator", "methodcaller", "a"),
    "a pickle in a pickle": calls("pickle", "loads", "cos\nsystem\n(S'touch was-run'\ntR."),
    "torch.load": calls("torch", "load", "/etc/passwd"),
    "torch.hub.load": calls("torch.hub", "load", "a/b", "c"),
    "torch.jit.load": calls("torch.jit", "load", "a.pt"),
    "torch's sparse tensors": calls("torch._utils", "_rebuild_sparse_tensor", "a"),
    "torch's storages by path": calls("torch.storage", "_load_from_bytes", "a"),
    "numpy.load": calls("numpy", "load", "a.npy"),
    "a numpy array": calls("numpy.core.multiarray", "_reconstruct", "a"),
    "dotted names": names(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n."),
    "a class of the archive called": names(b"\x80\x02c__torch__.os\nmkdir\nX\x07\x00\x00\x00was-run"
                                           b"\x85R."),
    "attributes of a function set": names(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c"
                                          b"\x00\x00\x00__defaults__)s\x86b."),
    "an extension code": names(b"\x80\x02\x82\x01."),
    "an old instance": names(b"(S'touch was-run'\nios\nsystem\n."),
    "opcodes of later pickles": names(pickle.dumps({"a": 1}, protocol=5)),
    "a memo of four billion entries": names(b"\x80\x02Nr\xff\xff\xff\xff."),
    "a pickle without end": names(b"\x80\x02}"),
    "a pickle of 5 MB": names(b"\x80\x02" + b"K" * (5 << 20) + b"N."),
    "nested persistent ids": names(b"\x80\x02}X\x01\x00\x00\x00aNQQQs."),
    "a persistent id of text": names(b"\x80\x02}X\x01\x00\x00\x00aPstorage\ns."),
    "a dict that holds itself": names(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."),
    "a billion laughs": names(bomb(10, 12)),
    # tensors
    "a stride that reads outside": claims(stride=(6, 1)),
    "an offset that reads outside": claims(offset=1),
    "petabytes from one number": claims(size=(10**9, 10**6), stride=(0, 0)),
    "an absurd shape": claims(size=(1 << 62, 1 << 62)),
    "a negative size": claims(size=(-2, 3)),
    "a negative stride": claims(stride=(-3, 1)),
    "a negative offset": claims(offset=-1),
    "sizes that are no integers": claims(size=(2.0, 3)),
    "more strides than sizes": claims(stride=(3, 1, 1)),
    "a storage longer than its record": claims(count=7),
    "a storage of another type": claims(storage=torch.DoubleStorage),
    "a storage of a negative length": claims(count=-6),
    "a record that is not there": claims(key="1"),
    "a record above its folder": claims(key="../data.pkl"),
    "a record by an absolute path": claims(key="/etc/passwd"),
    # zips
    "a zip bomb": members(("a/data.pkl", b"\0" * (200 << 20)), compress=zipfile.ZIP_DEFLATED),
    "a compressed description": members(("a/data.pkl", HONEST), compress=zipfile.ZIP_DEFLATED),
    "members with absolute names": members(("/data.pkl", HONEST), ("/etc/passwd", b"x")),
    "members with .. in their names": members(("../../data.pkl", HONEST)),
    "two descriptions": members(("a/data.pkl", HONEST), ("b/data.pkl", HONEST)),
    "no description": members(("word/document.xml", b"<w/>")),
    "a big-endian machine": members(("a/data.pkl", HONEST), ("a/byteorder", b"big")),
    "overlapping members": archive_with(overlapping),
    "a truncated member": archive_with(lambda c: promised(c, 1 << 20)),
    "a member of 4 GB": archive_with(lambda c: promised(c, 0xfffffff0)),
    "a file that was cut off": archive_with(lambda c: c[:len(c) // 2]),
    "a file without its directory": archive_with(lambda c: c[:c.index(b"PK\1\2")]),
    # keys
    "a missing key": state_with(lambda s: {k: v for k, v in s.items() if k != KEY}),
    "an extra key": state_with(lambda s: s | {"visual.extra": torch.ones(2)}),
    "a mis-shaped key": change_one(KEY, lambda t: t[:-1]),
    "a transposed matrix": change_one("text_projection", lambda t: t.T[:, :-1]),
    "integers for weights": change_one(KEY, lambda t: t.long()),
    "a NaN": change_one(KEY, with_value(float("nan"))),
    "an infinite weight": change_one(WEIGHT, with_value(float("inf"))),
    "an empty dict": state_with(lambda s: {"epoch": 3}),
    "other weights": state_with(lambda s: torch.nn.Linear(2, 3).state_dict()),
    "a ResNet beside a ViT": state_with(lambda s: {
        "visual.layer1.0.conv1.weight": torch.ones(2, 2, 1, 1), **s}),
    "a ResNet of absurd shapes": state_with(lambda s: {
        "visual.layer1.0.conv1.weight": torch.ones(1, 1, 1, 1).expand(2**20, 2, 1, 1).clone(),
        "visual.attnpool.positional_embedding": torch.ones(50, 2),
        **{f"visual.layer{k}.0.conv2.weight": torch.ones(1) for k in (2, 3, 4)}, **s}),
    "a width of no heads": state_with(lambda s: {k: v[..., :40] if v.ndim > 1 else v
                                                 for k, v in s.items()}),
    # something else
    "HTML": bytes_of(b"\n<!DOCTYPE html><html><head><title>Sign in</title>"),
    "a Git LFS pointer": bytes_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:5\n"),
    "safetensors": bytes_of((60).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[2]}}'),
    "a pickle before 2020": bytes_of(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
    "an empty file": bytes_of(b""),
    "random bytes": bytes_of(bytes(range(256)) * 40),
    "a directory": made(Path.mkdir),
    "a symlink loop": made(lambda path: path.symlink_to(path)),
}
if hasattr(os, "mkfifo"):                               # Windows has none
    WEIGHTS["a named pipe"] = made(os.mkfifo)


# ---- adapters -----------------------------------------------------------------------------------

def write_run(folder):
    """A run folder with tiny weights beside it, whose adapter `predict` takes."""
    save_official(tiny_state(), folder / "tiny.pt", half=False)
    clip, weights = load_clip(folder / "tiny.pt")
    detector = Detector(clip, "plate", DetectorConfig(steps=1, n_train_images=2, batch=2))
    detector.fit(torch.rand(2, 3, SMALL.resolution, SMALL.resolution,
                            generator=torch.Generator().manual_seed(0)))
    detector.save(folder / "run", weights)
    return folder / "run"


def adapter_with(change, file="adapter.pt"):
    """A kind: an honest run, one of its files read, changed and written again."""
    def write(folder):
        path = write_run(folder) / file
        content = load_tensors(path)
        save_tensors(path, change(content) or content)
        return path
    return write


def adapter_as(kind, file="adapter.pt"):
    """A kind: in place of a run's file one of WEIGHTS."""
    def write(folder):
        path = write_run(folder) / file
        path.unlink()
        os.rename(WEIGHTS[kind](folder), path)
        return path
    return write


def setting(**changes):
    return adapter_with(lambda c: c["config"].update(changes))


ADAPTERS = {kind: adapter_as(kind) for kind in (
    "os.system", "builtins.eval", "a numpy array", "a billion laughs", "a dict that holds itself",
    "petabytes from one number", "a zip bomb", "overlapping members", "a file that was cut off",
    "HTML", "an empty file", "a directory", "an absurd shape", "other weights")}
ADAPTERS |= {
    "no version": adapter_with(lambda c: {k: v for k, v in c.items() if k != "version"}),
    "no config": adapter_with(lambda c: {k: v for k, v in c.items() if k != "config"}),
    "config of no name": setting(colour=3),
    "config that is text": setting(rank="four"),
    "a resolution for terabytes": setting(resolution=10**6),
    "a smoothing over all bounds": setting(sigma=1e9),
    "a smoothing that is no number": setting(sigma=float("nan")),
    "a setting of an earlier version": setting(scales=[1.0]),
    "a layer that is not there": setting(memory_states=[99]),
    "a negative rank": setting(rank=-4),
    "more blocks than there are": setting(blocks=50),
    "a target of no name": setting(targets=["__class__"]),
    "another model": adapter_with(lambda c: c["weights"].update(sha256="0" * 64)),
    "LoRA of another shape": adapter_with(
        lambda c: [e.update(lora_A=e["lora_A"][:, :-1]) for e in c["lora"]["layers"].values()][:0]),
    "LoRA with NaN": adapter_with(
        lambda c: [e.update(lora_B=e["lora_B"] * float("nan"))
                   for e in c["lora"]["layers"].values()][:0]),
    "context of another shape": adapter_with(lambda c: c.update(context=torch.ones(3))),
    "context with NaN": adapter_with(lambda c: c.update(context=c["context"] * float("nan"))),
    "text of another shape": adapter_with(lambda c: c.update(text=torch.ones(2, 3))),
    "text with inf": adapter_with(lambda c: c.update(text=c["text"] * float("inf"))),
    "a threshold that is text": adapter_with(lambda c: c.update(threshold="high")),
    "a threshold that is no number": adapter_with(lambda c: c.update(threshold=float("nan"))),
    "a level of zero": adapter_with(lambda c: c.update(level=0.0)),
    "a level that is no number": adapter_with(lambda c: c.update(level=float("nan"))),
    "a level that is text": adapter_with(lambda c: c.update(level="1")),
    "a negative weight": adapter_with(lambda c: c.update(weight=-1.0)),
    "an infinite weight": adapter_with(lambda c: c.update(weight=float("inf"))),
    "no weight": adapter_with(lambda c: {k: v for k, v in c.items() if k != "weight"}),
    "an adapter of an earlier version": adapter_with(lambda c: c.update(version=4)),
    "a noun that is none": adapter_with(lambda c: c.update(class_name=[1])),
    "a memory of another width": adapter_with(
        lambda c: c.update(tokens=c["tokens"][:, :-1]), "memory.pt"),
    "a memory with NaN": adapter_with(
        lambda c: c.update(tokens=c["tokens"] * float("nan")), "memory.pt"),
    "a memory without tokens": adapter_with(lambda c: {"token": c["tokens"]}, "memory.pt"),
    "a memory that is text": adapter_with(lambda c: c.update(tokens="all"), "memory.pt"),
    "a memory of an earlier version": adapter_with(lambda c: {"scales": []}, "memory.pt"),
    "a memory that is HTML": adapter_as("HTML", "memory.pt"),
}


# ---- what refusing costs ------------------------------------------------------------------------

def refused(kind, group, folder):
    """{"message", "seconds", "bytes", "left"}: what a reader says of one kind, in this process.

    left: names that the folder has afterwards and had not before.
    """
    from bench import measure
    from minilora.predict import open_run
    signal.alarm(60)                                    # a reader that hangs ends, as a crash
    path = (WEIGHTS if group == "weights" else ADAPTERS)[kind](Path(folder))
    os.chdir(folder)
    read = {"weights": lambda: load_clip(path), "adapters": lambda: open_run(
        path.parent, Path(folder) / "tiny.pt")}[group]
    before, found = set(os.listdir(folder)), {}

    def attempt():
        try:
            read()
        except (ValueError, OSError) as error:
            found["message"] = str(error)
    begun = time.perf_counter()
    found["bytes"] = measure.peak(attempt)["allocated"]
    signal.alarm(0)
    return found | {"seconds": time.perf_counter() - begun,
                    "left": sorted(set(os.listdir(folder)) - before)}


def main():
    from bench import measure
    record = {}
    for group, kinds in (("weights", WEIGHTS), ("adapters", ADAPTERS)):
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                with ProcessPoolExecutor(1, get_context("fork")) as process:
                    job = process.submit(refused, kind, group, folder)
                    try:
                        record[group, kind] = job.result()
                    except Exception as error:          # an exception of no kind, or a dead process
                        record[group, kind] = {"crash": repr(error)}
    crashed = [k for k, r in record.items() if "crash" in r]
    accepted = [k for k, r in record.items() if "crash" not in r and "message" not in r]
    rest = [r for k, r in record.items() if k not in crashed]
    print(measure.conditions())
    print(f"{len(record)} kinds: {len(record) - len(crashed) - len(accepted)} refused, accepted: "
          f"{accepted}, crashed: {crashed}; side effects: "
          f"{[k for k, r in record.items() if r.get('left')]}; longest "
          f"{max(r['seconds'] for r in rest):.2f} s, highest "
          f"{max(r['bytes'] for r in rest) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
