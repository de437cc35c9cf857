"""Malicious and damaged files, each with a name, and a command that measures their refusal.

    python tests/hostile.py             number of kinds and refusals, longest times, highest memory
                                        (processor time counts where other work runs, too)

WEIGHTS are read by `load_clip`, ADAPTERS (in a run folder) by `Detector.open`.  A kind is a
function: it gets a folder, writes a file there and returns its path.
"""
import argparse
import functools
import io
import os
import pickle
import shutil
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
from hostile_archives import BUDGET
from PIL import Image

from minilora.checkpoint.detector_files import (ADAPTER_CONFIG, ADAPTER_MODEL, DETECTOR_FILE,
                                                MEMORY_FILE)
from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.io.files import load_tensors, save_tensors, sha256_of, write_safetensors
from minilora.io.safetensors import read_safetensors

SMALL = CLIPConfig(**TINY)


def write_pickle(path, data, records=()):
    """Write a minimal archive with this pickle.  records: key -> bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in dict(records).items():
            archive.writestr(f"archive/data/{key}", content)


class Call:
    """An object whose pickle calls `function` with these arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    """An object whose pickle is a reference to a storage."""

    def __init__(self, *pid):
        self.pid = pid


class StoragePickler(pickle.Pickler):
    """Writes a Storage as a persistent id, as torch.save does."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


def write_tensor(path, pid, offset=0, size=(2, 3), stride=(3, 1)):
    """Write one float32 tensor with this metadata; its record has six numbers."""
    data = io.BytesIO()
    tensor = Call(torch._utils._rebuild_tensor_v2, Storage(*pid), offset, size, stride, False, {})
    StoragePickler(data, protocol=2).dump({"a": tensor})
    numbers = torch.arange(6.0).numpy().tobytes()
    write_pickle(path, data.getvalue(), {"0": numbers})


def tiny_state():
    """Official keys of a tiny CLIP with random weights."""
    return official_state_dict(CLIP(SMALL).initialise(torch.Generator().manual_seed(0)))


def pickle_of(content, path="weights.pt"):
    """A kind: an archive with the pickle of this object, or with these bytes as its pickle."""
    def write(folder):
        write_pickle(folder / path, content if isinstance(content, bytes) else
                     pickle.dumps(content, protocol=2))
        return folder / path
    return write


def calling(module, name, *arguments):
    """A kind: a pickle that calls a function; it may not exist on this machine."""
    pushed = b"".join(b"X" + struct.pack("<I", len(a)) + a.encode() for a in arguments)
    function = f"{module}\n{name}\n".encode()
    return pickle_of(b"\x80\x02}X\x01\x00\x00\x00ac" + function + b"(" + pushed + b"tRs.")


def forged_tensor(size=(2, 3), stride=(3, 1), offset=0, storage=torch.FloatStorage, key="0",
                  count=6):
    """A kind: a tensor whose metadata do not fit its record of six numbers."""
    def write(folder):
        write_tensor(folder / "weights.pt", ("storage", storage, key, "cpu", count), offset, size,
                     stride)
        return folder / "weights.pt"
    return write


def file_of(content):
    """A kind: a file with these bytes."""
    def write(folder):
        (folder / "weights.pt").write_bytes(content)
        return folder / "weights.pt"
    return write


def state_with(change):
    """A kind: changed weights of a tiny CLIP."""
    def write(folder):
        state = tiny_state()
        torch.save(change(state) or state, folder / "weights.pt")
        return folder / "weights.pt"
    return write


def archive_with(change):
    """A kind: a valid archive whose bytes are changed."""
    def write(folder):
        torch.save({"a": torch.arange(6.0), "b": torch.ones(2)}, folder / "weights.pt")
        (folder / "weights.pt").write_bytes(change((folder / "weights.pt").read_bytes()))
        return folder / "weights.pt"
    return write


def zip_of(*entries, compress=zipfile.ZIP_STORED):
    """A kind: a zip with these (name, content) pairs."""
    @functools.cache                                    # the bomb is written three times
    def made():
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compress) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return out.getvalue()
    return lambda folder: file_of(made())(folder)


def with_overlap(content):
    """Change the zip's directory: the second record starts at the same byte as the first."""
    content = bytearray(content)
    first, second = (content.rindex(b"PK\1\2", 0, content.rindex(name.encode()))
                     for name in ("/data/0", "/data/1"))
    content[second + 42:second + 46] = content[first + 42:first + 46]
    return bytes(content)


def with_record_size(content, size):
    """Change the zip's directory: the first record has `size` bytes."""
    content = bytearray(content)
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"/data/0"))
    content[entry + 20:entry + 28] = struct.pack("<II", size, size)
    return bytes(content)


def special_file(make):
    """A kind that is not a regular file, made by make(path)."""
    def write(folder):
        make(folder / "weights.pt")
        return folder / "weights.pt"
    return write


def change_one(key, value):
    """A kind: the tiny CLIP's tensor `key` replaced by value(tensor)."""
    def change(state):
        state[key] = value(state[key])
    return state_with(change)


def replace_value(number):
    """A function that returns a copy of a tensor with one value replaced by `number`."""
    def changed(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = number
        return tensor
    return changed


def nested_dicts(width, depth):
    """Dicts in dicts, width^depth paths through a few objects."""
    content = {}
    for _ in range(depth):
        content = {str(k): content for k in range(width)}
    return content


KEY, WEIGHT = "visual.ln_post.bias", "visual.conv1.weight"
EMPTY_DICT = pickle.dumps({}, protocol=2)
WEIGHTS = {
    # pickles that call functions, or misuse the unpickler
    "os.system": calling("os", "system", "touch was-run"),
    "posix.system": calling("posix", "system", "touch was-run"),
    "builtins.eval": calling("builtins", "eval", "open('was-run', 'w')"),
    "builtins.exec": calling("builtins", "exec", "open('was-run', 'w')"),
    "python 2's eval": calling("__builtin__", "eval", "open('was-run', 'w')"),
    "builtins.open": calling("builtins", "open", "was-run", "w"),
    "builtins.getattr": calling("builtins", "getattr", "a", "upper"),
    "__import__": calling("builtins", "__import__", "os"),
    "importlib": calling("importlib", "import_module", "antigravity"),
    "subprocess": calling("subprocess", "Popen", "touch was-run"),
    "shutil.rmtree": calling("shutil", "rmtree", "."),
    "socket": calling("socket", "create_connection", "localhost"),
    "functools.partial": calling("functools", "partial", "a"),
    "operator.methodcaller": calling("operator", "methodcaller", "a"),
    "a pickle in a pickle": calling("pickle", "loads", "cos\nsystem\n(S'touch was-run'\ntR."),
    "torch.load": calling("torch", "load", "/etc/passwd"),
    "torch.hub.load": calling("torch.hub", "load", "a/b", "c"),
    "torch.jit.load": calling("torch.jit", "load", "a.pt"),
    "torch's sparse tensors": calling("torch._utils", "_rebuild_sparse_tensor", "a"),
    "torch's storages by path": calling("torch.storage", "_load_from_bytes", "a"),
    "numpy.load": calling("numpy", "load", "a.npy"),
    "a numpy array": calling("numpy.core.multiarray", "_reconstruct", "a"),
    "dotted names": pickle_of(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n."),
    "a call of a TorchScript class": pickle_of(
        b"\x80\x02c__torch__.os\nmkdir\nX\x07\x00\x00\x00was-run\x85R."),
    "attributes of a function set": pickle_of(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c"
                                              b"\x00\x00\x00__defaults__)s\x86b."),
    "an extension code": pickle_of(b"\x80\x02\x82\x01."),
    "an old instance": pickle_of(b"(S'touch was-run'\nios\nsystem\n."),
    "opcodes of later pickles": pickle_of(pickle.dumps({"a": 1}, protocol=5)),
    "a memo of four billion entries": pickle_of(b"\x80\x02Nr\xff\xff\xff\xff."),
    "a pickle without end": pickle_of(b"\x80\x02}"),
    "a pickle of 5 MB": pickle_of(b"\x80\x02" + b"K" * (5 << 20) + b"N."),
    "nested persistent ids": pickle_of(b"\x80\x02}X\x01\x00\x00\x00aNQQQs."),
    "a persistent id of text": pickle_of(b"\x80\x02}X\x01\x00\x00\x00aPstorage\ns."),
    "a dict that contains itself": pickle_of(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."),
    "a billion laughs": pickle_of(nested_dicts(10, 12)),
    # tensors with forged metadata
    "a stride that reads outside": forged_tensor(stride=(6, 1)),
    "an offset that reads outside": forged_tensor(offset=1),
    "petabytes from one number": forged_tensor(size=(10**9, 10**6), stride=(0, 0)),
    "an absurd shape": forged_tensor(size=(1 << 62, 1 << 62)),
    "a negative size": forged_tensor(size=(-2, 3)),
    "a negative stride": forged_tensor(stride=(-3, 1)),
    "a negative offset": forged_tensor(offset=-1),
    "sizes that are not integers": forged_tensor(size=(2.0, 3)),
    "more strides than sizes": forged_tensor(stride=(3, 1, 1)),
    "a storage longer than its record": forged_tensor(count=7),
    "a storage of another type": forged_tensor(storage=torch.DoubleStorage),
    "a storage of a negative length": forged_tensor(count=-6),
    "a record that is not there": forged_tensor(key="1"),
    "a record above its folder": forged_tensor(key="../data.pkl"),
    "a record by an absolute path": forged_tensor(key="/etc/passwd"),
    # malformed zips
    "a zip bomb": zip_of(("a/data.pkl", b"\0" * (200 << 20)), compress=zipfile.ZIP_DEFLATED),
    "a compressed description": zip_of(("a/data.pkl", EMPTY_DICT), compress=zipfile.ZIP_DEFLATED),
    "members with absolute names": zip_of(("/data.pkl", EMPTY_DICT), ("/etc/passwd", b"x")),
    "members with .. in their names": zip_of(("../../data.pkl", EMPTY_DICT)),
    "two descriptions": zip_of(("a/data.pkl", EMPTY_DICT), ("b/data.pkl", EMPTY_DICT)),
    "no description": zip_of(("word/document.xml", b"<w/>")),
    "a file of a big-endian machine": zip_of(("a/data.pkl", EMPTY_DICT), ("a/byteorder", b"big")),
    "overlapping members": archive_with(with_overlap),
    "a truncated member": archive_with(lambda c: with_record_size(c, 1 << 20)),
    "a member of 4 GB": archive_with(lambda c: with_record_size(c, 0xfffffff0)),
    "a file that was cut off": archive_with(lambda c: c[:len(c) // 2]),
    "a file without its directory": archive_with(lambda c: c[:c.index(b"PK\1\2")]),
    # state dicts that are not a CLIP
    "a missing key": state_with(lambda s: {k: v for k, v in s.items() if k != KEY}),
    "an extra key": state_with(lambda s: s | {"visual.extra": torch.ones(2)}),
    "a mis-shaped key": change_one(KEY, lambda t: t[:-1]),
    "a transposed matrix": change_one("text_projection", lambda t: t.T[:, :-1]),
    "integer weights": change_one(KEY, lambda t: t.long()),
    "a NaN": change_one(KEY, replace_value(float("nan"))),
    "an infinite weight": change_one(WEIGHT, replace_value(float("inf"))),
    "an empty dict": state_with(lambda s: {"epoch": 3}),
    "other weights": state_with(lambda s: torch.nn.Linear(2, 3).state_dict()),
    "a ResNet and a ViT in one file": state_with(lambda s: {
        "visual.layer1.0.conv1.weight": torch.ones(2, 2, 1, 1), **s}),
    "a ResNet of absurd shapes": state_with(lambda s: {
        "visual.layer1.0.conv1.weight": torch.ones(1, 1, 1, 1).expand(2**20, 2, 1, 1).clone(),
        "visual.attnpool.positional_embedding": torch.ones(50, 2),
        **{f"visual.layer{k}.0.conv2.weight": torch.ones(1) for k in (2, 3, 4)}, **s}),
    "a width not divisible by 64": state_with(lambda s: {k: v[..., :40] if v.ndim > 1 else v
                                                 for k, v in s.items()}),
    # other files
    "HTML": file_of(b"\n<!DOCTYPE html><html><head><title>Sign in</title>"),
    "a Git LFS pointer": file_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:5\n"),
    "safetensors": file_of((60).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[2]}}'),
    "a pickle before 2020": file_of(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
    "an empty file": file_of(b""),
    "random bytes": file_of(bytes(range(256)) * 40),
    "a directory": special_file(Path.mkdir),
    "a symlink loop": special_file(lambda path: path.symlink_to(path)),
}
if hasattr(os, "mkfifo"):                               # Windows has none
    WEIGHTS["a named pipe"] = special_file(os.mkfifo)
WEIGHTS |= BUDGET                                       # files that ask for much time or memory


# ---- adapters -----------------------------------------------------------------------------------

@functools.cache
def finished_run():
    """A temporary folder with tiny weights, and a run folder that `predict` accepts."""
    made = tempfile.TemporaryDirectory()
    folder = Path(made.name)
    save_official(tiny_state(), folder / "tiny.safetensors", half=False)
    clip, weights = load_clip(folder / "tiny.safetensors")
    detector = Detector(clip, "plate", DetectorConfig(steps=1, n_train_images=2, batch=2))
    detector.fit(torch.rand(2, 3, SMALL.resolution, SMALL.resolution,
                            generator=torch.Generator().manual_seed(0)))
    detector.save(folder / "run", weights)
    return made                                         # it is deleted together with this object


def write_run(folder):
    """Copy the weights and the run of `finished_run` into a folder; return the run folder."""
    shutil.copytree(finished_run().name, folder, dirs_exist_ok=True)
    return folder / "run"


def reseal(run):
    """Write the SHA-256 of the other files into detector.safetensors, as fit would have."""
    content = load_tensors(run / DETECTOR_FILE)
    files = content["files"]
    files.update({name: sha256_of(run / name) for name in files if (run / name).is_file()})
    save_tensors(run / DETECTOR_FILE, content)


def adapter_with(change, file=DETECTOR_FILE):
    """A kind: a valid run in which the content of one file is changed; the digests fit."""
    def write(folder):
        path = write_run(folder) / file
        content = load_tensors(path)
        save_tensors(path, change(content) or content)
        if file != DETECTOR_FILE:
            reseal(path.parent)
        return path
    return write


@functools.cache
def blank_png(width, height):
    """A grey picture as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (99, 99, 99)).save(file, "PNG")
    return file.getvalue()


def shots_of(pictures):
    """A kind: a valid run with other good pictures, the bytes that pictures() returns."""
    return adapter_with(lambda c: c.update(shots=[
        torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in pictures()]), MEMORY)


def lora_with(change):
    """A kind: a valid run in which the first tensor of adapter_model.safetensors is changed."""
    def write(folder):
        path = write_run(folder) / ADAPTER_MODEL
        tensors, marks = read_safetensors(path)
        tensors = {key: value.clone() for key, value in tensors.items()}
        key = next(iter(tensors))
        write_safetensors(path, tensors | change(key, tensors[key]), marks)
        reseal(path.parent)
        return path
    return write


def peft_settings_with(change):
    """A kind: a valid run in which the text of adapter_config.json is changed."""
    def write(folder):
        path = write_run(folder) / ADAPTER_CONFIG
        path.write_text(change(path.read_text()))
        reseal(path.parent)
        return path
    return write


def adapter_as(kind, file=DETECTOR_FILE, sealed=False):
    """A kind: a valid run in which one file is replaced by a kind of WEIGHTS."""
    def write(folder):
        path = write_run(folder) / file
        path.unlink()
        os.rename(WEIGHTS[kind](folder), path)
        if sealed:
            reseal(path.parent)
        return path
    return write


def config_with(**changes):
    """A kind: a valid run whose settings have these values changed."""
    return adapter_with(lambda c: c["config"].update(changes))


def linked(file):
    """A kind: a valid run in which one file is a link to a file outside."""
    def write(folder):
        path = write_run(folder) / file
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
        return path
    return write


def earlier_run(folder):
    """A run folder of an earlier version, with pickles."""
    path = write_run(folder) / "adapter.pt"
    for file in list(path.parent.iterdir()):
        file.unlink()
    torch.save({"version": 7, "config": {}}, path)
    return path


REPLACED = ("os.system", "builtins.eval", "a numpy array", "a billion laughs",
            "a dict that contains itself", "petabytes from one number", "a zip bomb",
            "overlapping members", "a file that was cut off", "HTML", "an empty file",
            "a directory", "an absurd shape", "other weights")
MEMORY = MEMORY_FILE
ADAPTERS = {kind: adapter_as(kind) for kind in REPLACED}
ADAPTERS |= {f"{kind} as the adapter": adapter_as(kind, ADAPTER_MODEL, True) for kind in REPLACED}
ADAPTERS |= {f"{kind} as the settings of peft": adapter_as(kind, ADAPTER_CONFIG, True)
             for kind in ("HTML", "an empty file", "a directory", "random bytes")}
ADAPTERS |= {f"a linked {name}": linked(name)
             for name in (DETECTOR_FILE, ADAPTER_MODEL, ADAPTER_CONFIG, MEMORY)}
ADAPTERS |= {
    "no version": adapter_with(lambda c: {k: v for k, v in c.items() if k != "version"}),
    "a version that is a tensor": adapter_with(lambda c: c.update(version=torch.ones(10**6))),
    "a version of megabytes": adapter_with(lambda c: c.update(version="\x1b[2J" * 10**5)),
    "no config": adapter_with(lambda c: {k: v for k, v in c.items() if k != "config"}),
    "an unknown setting": config_with(colour=3),
    "a rank that is text": config_with(rank="four"),
    "a resolution that needs terabytes": config_with(resolution=10**6),
    "a resolution that is no whole number": config_with(resolution=64.5),
    "a sigma above its limit": config_with(sigma=1e9),
    "a sigma that is NaN": config_with(sigma=float("nan")),
    "a sigma that is a list": config_with(sigma=[]),
    "a setting of an earlier version": config_with(scales=[1.0]),
    "a block that does not exist": config_with(memory_states=[99]),
    "a block that is no whole number": config_with(memory_states=[1.5]),
    "blocks that are a number": config_with(memory_states=1.5),
    "a flag that is a number": config_with(square=2),
    "a negative rank": config_with(rank=-4),
    "more blocks than there are": config_with(blocks=50),
    "an unknown LoRA target": config_with(targets=["__class__"]),
    "context words of 100,000 characters": config_with(context="a " * 50_000),
    "no context words": config_with(context=""),
    "another model": adapter_with(lambda c: c["base"].update(sha256="0" * 64)),
    "an unknown activation": adapter_with(lambda c: c["base"].update(activation="eval")),
    "a head width that does not divide the width": adapter_with(
        lambda c: c["base"].update(head_width=48)),
    "no files": adapter_with(lambda c: c.update(files={})),
    "a file outside": adapter_with(lambda c: c["files"].update({"../../etc/passwd": "0" * 64})),
    "LoRA of another shape": lora_with(lambda k, v: {k: v[:, :-1]}),
    "LoRA with NaN": lora_with(lambda k, v: {k: v * float("nan")}),
    "LoRA with large numbers": lora_with(lambda k, v: {k: v * 0 + 1e30}),
    "LoRA of whole numbers": lora_with(lambda k, v: {k: v.long()}),
    "LoRA of a layer that does not exist": lora_with(
        lambda k, v: {k.replace("layers.2", "layers.9999"): v}),
    "LoRA of the text tower": lora_with(lambda k, v: {f"text_model.{k}": v}),
    "LoRA under a name of escape codes": lora_with(lambda k, v: {"\x1b[2J" * 200: v}),
    "no settings of peft": peft_settings_with(lambda text: "{}"),
    "settings of peft nested 100,000 deep": peft_settings_with(lambda text: "[" * 10**5),
    "settings of peft with a rank of 10^30": peft_settings_with(
        lambda text: text.replace('"r": 4', f'"r": {10**30}')),
    "settings of peft with NaN": peft_settings_with(
        lambda text: text.replace('"lora_alpha": 8', '"lora_alpha": NaN')),
    "context of another shape": adapter_with(lambda c: c.update(context=torch.ones(3))),
    "context of another length": adapter_with(lambda c: c.update(context=torch.ones(2, 9, 64))),
    "context with NaN": adapter_with(lambda c: c.update(context=c["context"] * float("nan"))),
    "text features of another shape": adapter_with(
        lambda c: c.update(text_features=torch.ones(2, 3))),
    "text features with inf": adapter_with(
        lambda c: c.update(text_features=c["text_features"] * float("inf"))),
    **{f"text features of {dtype}": adapter_with(lambda c, dtype=dtype: c.update(
        text_features=c["text_features"].to(dtype)))
       for dtype in (torch.bool, torch.int64, torch.float64)},
    "a threshold that is text": adapter_with(lambda c: c.update(threshold="high")),
    "a threshold that is a list": adapter_with(lambda c: c.update(threshold=[1.0])),
    "a threshold that is a tensor": adapter_with(lambda c: c.update(threshold=torch.ones(()))),
    "a threshold that is NaN": adapter_with(lambda c: c.update(threshold=float("nan"))),
    "a memory scale of zero": adapter_with(lambda c: c.update(memory_scale=0.0)),
    "a memory scale that is NaN": adapter_with(lambda c: c.update(memory_scale=float("nan"))),
    "a memory scale that is text": adapter_with(lambda c: c.update(memory_scale="1")),
    "a negative text weight": adapter_with(lambda c: c.update(text_weight=-1.0)),
    "an infinite text weight": adapter_with(lambda c: c.update(text_weight=float("inf"))),
    "no text weight": adapter_with(lambda c: {k: v for k, v in c.items() if k != "text_weight"}),
    "a format of an earlier version": adapter_with(lambda c: c.update(version=4)),
    "a run of an earlier version": earlier_run,
    "a class name that is a list": adapter_with(lambda c: c.update(class_name=[1])),
    "a class name of 900 words": adapter_with(lambda c: c.update(class_name="a b" * 300)),
    "a memory of another width": adapter_with(
        lambda c: c["bank"].update(tokens=c["bank"]["tokens"][:, :-1]), MEMORY),
    "a memory with NaN": adapter_with(
        lambda c: c["bank"].update(tokens=c["bank"]["tokens"] * float("nan")), MEMORY),
    "a memory of large numbers": adapter_with(
        lambda c: c["bank"].update(tokens=c["bank"]["tokens"] * 0 + 60_000), MEMORY),
    "a memory without tokens": adapter_with(lambda c: c["bank"].__delitem__("tokens"), MEMORY),
    "a memory without places": adapter_with(lambda c: c["bank"].__delitem__("sources"), MEMORY),
    "a good picture that is text": adapter_with(lambda c: c.update(shots=["picture"]), MEMORY),
    "a good picture of 50 megapixels": shots_of(lambda: [blank_png(7000, 7100)]),
    "a good picture that claims 900 megapixels": shots_of(
        lambda: [blank_png(64, 64).replace(struct.pack(">II", 64, 64),
                                           struct.pack(">II", 30_000, 30_000))]),
    "a good picture smaller than a patch": shots_of(lambda: [blank_png(8, 8)]),
    "a good picture of another resolution": shots_of(lambda: [blank_png(80, 80)]),
    "a good picture that ends after its header": shots_of(lambda: [blank_png(64, 64)[:24]]),
    "good pictures of 10^5 pixels, 2,000 times": shots_of(lambda: 2000 * [blank_png(64, 2048)]),
    "19,000 good pictures of one byte": shots_of(lambda: 19_000 * [b"x"]),
    **{f"{what} that are {kind}": adapter_with(lambda c, what=what, value=value: c.update(
        {what: value})) for what in ("shot_scores", "rotated_scores")
       for kind, value in (("NaN", [float("nan")]), ("10^300", [1e300]), ("text", ["1"]),
                           ("nested", [[1.0]]), ("a million", [0.5] * 10**6))},
    "measures that are negative": adapter_with(
        lambda c: c.update(shot_measures={"aspect": [-1.0]})),
    "measures of 500,000 pictures": adapter_with(
        lambda c: c.update(shot_measures={"aspect": [1.0] * 500_000})),
    "30 measures": adapter_with(lambda c: c.update(shot_measures={str(k): [] for k in range(30)})),
    "a memory that is text": adapter_with(lambda c: c["bank"].update(tokens="all"), MEMORY),
    "a memory of an earlier version": adapter_with(
        lambda c: {"tokens": c["bank"]["tokens"]}, MEMORY),
    "a memory that is HTML": adapter_as("HTML", MEMORY, True),
    "a memory of another run": adapter_as("other weights", MEMORY),
}


# ---- cost of a refusal --------------------------------------------------------------------------

def measure_refusal(kind, group, folder):
    """Read a file of one kind.  Returns {"message", "seconds", "cpu_seconds", "bytes",
    "left"}.

    message: of the error, absent if the file was accepted;  bytes: peak of allocated memory;
    cpu_seconds: the same on a machine that is busy with other work;
    left: names of new files in the folder, which show that code ran.
    """
    from bench import measure
    signal.alarm(60)                                    # a reader that hangs is killed
    path = (WEIGHTS if group == "weights" else ADAPTERS)[kind](Path(folder))
    os.chdir(folder)
    read = {"weights": lambda: load_clip(path), "adapters": lambda: Detector.open(
        path.parent, Path(folder) / "tiny.safetensors")}[group]
    before, found = set(os.listdir(folder)), {}

    def attempt():
        try:
            read()
        except (ValueError, OSError) as error:
            found["message"] = str(error)
    begun = time.perf_counter(), time.process_time()
    found["bytes"] = measure.peak(attempt)["allocated"]
    signal.alarm(0)
    return found | {"seconds": time.perf_counter() - begun[0],
                    "cpu_seconds": time.process_time() - begun[1],
                    "left": sorted(set(os.listdir(folder)) - before)}


def measure_in_child(kind, group):
    """measure_refusal in a process of its own; {"crash": text} if that process dies."""
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1, get_context("fork")) as process:
            try:
                return process.submit(measure_refusal, kind, group, folder).result()
            except Exception as error:                  # another exception, or a killed process
                return {"crash": repr(error)}


def main():
    from bench import measure
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, help="file for the report")
    options = p.parse_args()
    torch.set_num_threads(1)                            # no threads that the children would miss
    finished_run()                                      # once, not in every child
    record = {(group, kind): measure_in_child(kind, group)
              for group, kinds in (("weights", WEIGHTS), ("adapters", ADAPTERS)) for kind in kinds}
    crashed = [k for k, r in record.items() if "crash" in r]
    accepted = [k for k, r in record.items() if "crash" not in r and "message" not in r]
    rest = {k: r for k, r in record.items() if k not in crashed}
    most = lambda what: max(r[what] for r in rest.values())
    lines = [measure.conditions(),
             f"{len(record)} kinds ({len(WEIGHTS)} of weights, {len(ADAPTERS)} of run folders): "
             f"{len(record) - len(crashed) - len(accepted)} refused, accepted: {accepted}, "
             f"crashed: {crashed}; side effects: "
             f"{[k for k, r in record.items() if r.get('left')]}; longest {most('cpu_seconds'):.2f}"
             f" s of processor time ({most('seconds'):.2f} s of the clock), highest "
             f"{most('bytes') / 1e6:.0f} MB"]
    for what, name, unit, scale in (("cpu_seconds", "processor time", "s", 1),
                                    ("seconds", "time of the clock", "s", 1),
                                    ("bytes", "memory", "MB", 1e-6)):
        highest = sorted(rest, key=lambda k: rest[k][what], reverse=True)[:5]
        lines.append(f"most {name}: " + "; ".join(
            f"{kind} {rest[group, kind][what] * scale:.2f} {unit}" for group, kind in highest))
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
