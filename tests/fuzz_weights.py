"""Files of weights with changes in their structure, for fuzz.py.

An archive's description is changed by instructions (left out, repeated, exchanged, with another
number or text), its directory by fields; a safetensors file by its header; a CLIP by its keys,
tensors and configuration files, under the names of OpenAI, Hugging Face and open_clip.  Checksums
are written as they should be, so that the checks behind them are reached.
"""
import collections
import copy
import io
import json
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib

import torch
from hostile_archives import end, entry, header
from mutations import ODD_TEXTS, mutated, odd_tensor

from minilora.checkpoint.base_model import BASE_SCHEMA, BaseModel, open_base
from minilora.checkpoint.huggingface_layout import PARTS, PROJECTIONS
from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.recognise import CLIP_FORMAT
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.io.files import sha256_of
from minilora.io.safetensors import DTYPE_NAMES, METADATA_KEY, raw_bytes, read_safetensors
from minilora.io.schema import check
from minilora.io.text import shown
from minilora.io.zip_reader import read_tensors

SMALL = CLIPConfig(embed=8, resolution=8, vision_layers=1, vision_width=64, patch=4, context=8,
                   vocab=16, text_width=64, text_layers=1)
RESNET = CLIPConfig(embed=8, resolution=32, vision_layers=(1, 1, 1, 1), vision_width=8, patch=32,
                    context=8, vocab=16, text_width=64, text_layers=1)
EDGES = (0, 1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
WIDTHS = (1, 2, 4, 8)                                   # of the numbers behind an instruction
WRAPPERS = ("", "", "", "module.", "model.", "_orig_mod.", "state_dict.", "ema.", "model.module.")


# ---- parts of archives --------------------------------------------------------------------------

def saved_by_torch(content):
    """{record: bytes} of what torch.save writes."""
    out = io.BytesIO()
    torch.save(content, out)
    return records_of(out)


def saved_by_torchscript():
    """{record: bytes} of a TorchScript archive, the form of OpenAI's files."""
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)),
                                 torch.ones(1, 3))
        out = io.BytesIO()
        torch.jit.save(traced, out)
    return records_of(out)


def records_of(file):
    with zipfile.ZipFile(file) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()
                if not name.endswith((".py", ".debug_pkl"))}


def instructions(content):
    """The bytes of each instruction of a pickle."""
    places = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    return [content[a:b] for a, b in zip(places, places[1:])]


def changed_instructions(steps, others, draw):
    """A copy of a list of instructions with one to four changes.  others: to take from."""
    steps = list(steps)
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randrange(len(steps)), draw.randrange(7)
        if kind == 0:
            del steps[at]
        elif kind == 1:
            steps[at:at] = [steps[at]] * draw.choice((1, 1, 2, 9, 500))
        elif kind == 2:
            other = draw.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
        elif kind == 3:
            steps[at] = draw.choice(others)
        elif kind == 4:
            other = draw.randrange(len(steps))
            steps[at:at] = steps[other:other + draw.randint(1, 20)]
        else:
            steps[at] = changed_argument(steps[at], draw)
        if not steps:
            break
    return b"".join(steps)


def changed_argument(step, draw):
    """An instruction with another number or text behind it; without one, another instruction."""
    text = next((width for code, width in ((b"X", 4), (b"\x8c", 1)) if step[:1] == code), 0)
    if text:
        new = draw.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")[:255]
        new = new if draw.random() < 0.7 else step[1 + text:] + new[:50]
        return step[:1] + (len(new) % 256**text).to_bytes(text, "little") + new
    if step[:1] == b"c":
        module, name = draw.choice(("torch", "os", "collections", "torch._utils", "m" * 1200)), \
            draw.choice(("FloatStorage", "system", "OrderedDict", "_rebuild_tensor", "\x1b"))
        return f"c{module}\n{name}\n".encode()
    if len(step) - 1 in WIDTHS:
        near = int.from_bytes(step[1:], "little") + draw.choice((-1, 1, 2, 8))
        return step[:1] + (draw.choice((near, *EDGES)) % 256**(len(step) - 1)).to_bytes(
            len(step) - 1, "little")
    return draw.choice((bytes([draw.randrange(256)]), b"(", b"}", b"]", b"N", b")", b"R", b"0"))


def zip_bytes(records, draw=None):
    """A zip of stored records {name: bytes}.  draw: changes some fields of its directory."""
    body, directory = b"", b""
    for name, content in records.items():
        name = name.encode("utf-8", "surrogatepass")[:60_000]
        fields = {"name": name, "place": len(body), "size": len(content),
                  "crc": zlib.crc32(content)}
        if draw is not None and draw.random() < 2 / len(records):
            fields |= changed_fields(fields, draw)
        body += header(name, len(content)) + content
        directory += entry(**fields)
    count, size, start, comment = len(records), len(directory), len(body), b""
    if draw is not None and draw.random() < 0.2:
        count, size, start = (draw.choice((v, v, v + 1, v - 1 if v else 0, 0, 0xFFFF))
                              for v in (count, size, start))
        comment = draw.choice((b"", b"PK\5\6", b"x" * 65_535))
    return body + directory + end(count, size, start, comment)


def changed_fields(fields, draw):
    """Other values for one field of an entry of a zip's directory."""
    field = draw.choice(("place", "size", "crc", "name", "extra", "comment", "method", "packed"))
    if field in ("name", "extra", "comment"):
        odd = draw.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        zip64 = struct.pack("<2H", 1, draw.choice((0, 8, 16, 24, 65_535))) + draw.choice(
            EDGES).to_bytes(8, "little") * draw.choice((1, 2, 3))
        return {field: draw.choice((odd, zip64, b"archive/data/0", b"archive/data.pkl"))} | (
            {"size": 0xFFFFFFFF} if draw.random() < 0.5 else {})
    if field == "method":
        return {"method": draw.choice((8, 1, 12, 99))}
    value = fields.get(field, fields["size"])
    return {field: draw.choice((value + 1, value + 64, max(0, value - 1), *EDGES)) % 2**32}


# ---- a CLIP under three layouts -----------------------------------------------------------------

def huggingface_state(state):
    """OpenAI's keys -> those of transformers' CLIPModel."""
    renamed = {}
    for key, tensor in state.items():
        if key in PROJECTIONS.values():
            name = {ours: theirs for theirs, ours in PROJECTIONS.items()}[key]
            renamed[name] = tensor.T.contiguous()
            continue
        vision = key.startswith("visual.")
        name = key.removeprefix("visual.")
        for theirs, ours in PARTS.items():
            if key != "logit_scale" and not (vision and theirs.startswith("embeddings.token")):
                name = name.replace(ours, theirs, 1)
        name = name if key == "logit_scale" else ("vision_model." if vision else
                                                  "text_model.") + name
        if ".attn.in_proj_" in name:
            for part, rows in zip("qkv", tensor.chunk(3)):
                renamed[name.replace(".attn.in_proj_", f".self_attn.{part}_proj.")] = rows.clone()
        else:
            renamed[name] = tensor
    return renamed


def custom_text_state(state):
    """OpenAI's keys -> those of open_clip's CustomTextCLIP."""
    return {key if key.startswith(("visual.", "logit")) else f"text.{key}": tensor
            for key, tensor in state.items()}


HF_CONFIG = {"model_type": "clip", "vision_config": {
    "hidden_act": "quick_gelu", "hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-5,
    "patch_size": 4, "image_size": 8}, "text_config": {
        "hidden_act": "quick_gelu", "hidden_size": 64, "num_attention_heads": 1,
        "eos_token_id": 2}, "projection_dim": 8, "vision_config_dict": {}, "text_config_dict": {}}
PREPROCESSOR = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.5, 0.5, 0.5]}
OPEN_CLIP_CONFIG = {"model_cfg": {
    "embed_dim": 8, "quick_gelu": True, "vision_cfg": {"layers": 1, "width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}},
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073],
                       "std": [0.26862954, 0.26130258, 0.27577711]}}
OWN_CONFIG = {"format": CLIP_FORMAT, "activation": "gelu", "head_width": "64",
              "text_head_width": "64"}


def safetensors_bytes(tensors, metadata=None, change=lambda head: head):
    """A safetensors file without a digest, as other programs write it.

    change(header as a dict): what is written in its place.
    """
    head, position, numbers = {METADATA_KEY: metadata} if metadata else {}, 0, []
    for name, tensor in tensors.items():
        head[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape),
                      "data_offsets": [position, position + tensor.nbytes]}
        numbers.append(raw_bytes(tensor))
        position += tensor.nbytes
    text = json.dumps(change(head)).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(numbers)


class WeightFolder:
    """A folder for a file of weights and its configurations; `attempt` writes and reads them."""

    def __init__(self, folder, damaged):
        """damaged(bytes, draw): a copy with random changes."""
        self.folder, self.damaged = folder, damaged
        self.path = folder / "weights.pt"
        two = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, 3).half().T}
        tied = torch.nn.Linear(3, 3)
        tied.other = tied.weight
        self.archives = [
            saved_by_torch(two), saved_by_torch(tied.state_dict(keep_vars=True)),
            saved_by_torch({"state_dict": two, "epoch": 3, "optimizer": {"state": {0: {
                "step": torch.tensor(1.0), "rates": (0.1, 0.2)}}, "groups": [{"lr": 1e-3}]}}),
            saved_by_torchscript()]
        self.programs = [instructions(records["data.pkl"]) for records in self.archives]
        self.others = [step for program in self.programs for step in program] \
            + instructions(pickle.dumps({"a": {1, 2}, "b": frozenset((3,)), "c": b"bytes",
                                         "d": 1 << 40, "e": collections.Counter("ab")}, 4))
        self.two = two
        state, resnet = ({
            key: value.detach().half() for key, value in official_state_dict(
                CLIP(config).initialise(torch.Generator().manual_seed(0))).items()}
            for config in (SMALL, RESNET))
        self.own = folder.parent / "own.safetensors"
        save_official(state, self.own)
        self.base = {"name": "own", "path": str(self.own), "sha256": sha256_of(self.own),
                     "activation": "quick_gelu", "head_width": 64, "text_head_width": 64}
        self.states = {"weights.pt": state, "resnet.pt": resnet,
                       "model.safetensors": huggingface_state(state),
                       "open_clip_model.safetensors": custom_text_state(state)}

    def read(self, content):
        self.path.write_bytes(content)
        for tensor in read_tensors(self.path).values():
            tensor.float().sum()                        # reads each number

    def attempt_description(self, draw):
        which = draw.randrange(len(self.archives))
        description = changed_instructions(self.programs[which], self.others, draw)
        self.read(zip_bytes({f"archive/{name}": content for name, content in (
            self.archives[which] | {"data.pkl": description}).items()}))

    def attempt_zip(self, draw):
        records = {f"archive/{name}": content
                   for name, content in draw.choice(self.archives).items()}
        if draw.random() < 0.4:
            name = draw.choice(list(records))
            content = records.pop(name)
            records[draw.choice((name, name + draw.choice(ODD_TEXTS), "b/data.pkl", name.upper(),
                                 "archive/byteorder", ""))] = draw.choice(
                (content, content[1:], content * 2, b"", b"big"))
        self.read(zip_bytes(records, draw))

    def attempt_safetensors(self, draw):
        change = lambda head: mutated(head, draw, tensors=False)
        content = safetensors_bytes(self.two, {"format": "pt"}, change)
        if draw.random() < 0.15:
            content = self.damaged(content, draw)
        self.path.write_bytes(content)
        for tensor in read_safetensors(self.path)[0].values():
            tensor.float().sum()

    # ---- whole models

    def attempt_base(self, draw):
        """What a run or an index stores about its base model, which is then found and loaded."""
        base = check(mutated(self.base, draw, tensors=False), BASE_SCHEMA, "base")
        open_base("run", BaseModel(**base), None if draw.random() < 0.7 else self.own)

    def changed_state(self, file, draw):
        """The tensors of a CLIP with one change, or none, and perhaps a prefix."""
        state = copy.copy(self.states[file])
        if draw.random() < 0.4:
            state = mutated(state, draw, times=1)
            state = {str(key): value if isinstance(value, torch.Tensor) else odd_tensor(draw)
                     for key, value in state.items()} if type(state) is dict else {}
        prefix = draw.choice(WRAPPERS)
        return {prefix + key: value for key, value in state.items()}

    def load(self, path, draw):
        activation = draw.choice((None, None, None, "gelu", "quick_gelu"))
        weights = load_clip(path, activation=activation)[1]
        if not weights.about.isprintable() or not shown(weights.name).isprintable():
            raise RuntimeError(f"not one line: {weights.about!r}")

    def clear(self, *configs):
        """Write the configuration files (name, text) beside the weights, and remove all others."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, text in configs:
            (self.folder / name).write_bytes(text)

    def configs(self, contents, draw):
        """(name, bytes) of configuration files: with changed values or bytes, or left out."""
        for name, content in contents.items():
            if draw.random() < 0.9:
                content = mutated(content, draw, tensors=False) if draw.random() < 0.6 else content
                text = json.dumps(content).encode()
                yield name, self.damaged(text, draw) if draw.random() < 0.05 else text

    def attempt_hugging_face(self, draw):
        self.model("model.safetensors", {"config.json": HF_CONFIG,
                                         "preprocessor_config.json": PREPROCESSOR}, draw)

    def attempt_open_clip(self, draw):
        file = draw.choice(("open_clip_model.safetensors", "weights.pt"))
        self.model(file, {"open_clip_config.json": OPEN_CLIP_CONFIG}, draw)

    def model(self, file, contents, draw):
        """Load a model in a folder, by the folder or by the file, in one of two formats."""
        self.clear(*self.configs(contents, draw))
        state = self.changed_state(file, draw)
        pickled = draw.random() < 0.2
        name = {"model.safetensors": "pytorch_model.bin"}.get(
            file, "open_clip_pytorch_model.bin") if pickled else file
        if pickled:
            torch.save({"state_dict": state, "epoch": 1} if draw.random() < 0.5 else state,
                       self.folder / name)
        else:
            (self.folder / name).write_bytes(self.safetensors(state, {"format": "pt"}, draw))
        self.load(self.folder / name if draw.random() < 0.5 or name == "weights.pt"
                  else self.folder, draw)

    def safetensors(self, state, metadata, draw):
        try:
            return safetensors_bytes(state, metadata)
        except (ValueError, KeyError):                  # a name that is no text in UTF-8
            return self.damaged(safetensors_bytes(self.two, metadata), draw)

    def attempt_official(self, draw):
        """As minilora saves a CLIP, with changed metadata; or as a state dict."""
        self.clear()
        state = self.changed_state(draw.choice(("weights.pt", "resnet.pt")), draw)
        if draw.random() < 0.3:
            torch.save(state, self.path)
            return self.load(self.path, draw)
        metadata = mutated(OWN_CONFIG, draw, tensors=False)
        path = self.folder / "weights.safetensors"
        path.write_bytes(self.safetensors(state, metadata, draw))
        self.load(path, draw)


