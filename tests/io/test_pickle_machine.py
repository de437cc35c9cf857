"""The machine makes of torch.save's descriptions what torch makes of them, and nothing else."""
import argparse
import collections
import io
import pathlib
import pickle
import pickletools
import random
import zipfile
from collections import OrderedDict

import hostile_archives
import numpy as np
import pytest
import torch
from hostile_archives import START, get, in_dict, named, put, tensor, text
from torch import nn

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.notes import take_notes
from minilora.io.pickle_instructions import OPERATIONS
from minilora.io.pickle_machine import MAX_STEPS, PickleMachine, restricted_load
from minilora.io.unpickler import ATTACKS, STORAGE_DTYPES, TensorMetadata, Unread, can_run_commands
from minilora.io.zip_reader import read_archive, read_tensors

PROTOCOLS = (2, 3, 4, 5)
BASE = torch.arange(24.0).reshape(4, 6)


class OwnModel(nn.Module):
    """A class that a reader of the file does not have."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


def linear_state():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def trained():
    """(state dict of a model, of its optimizer, of its schedule), after one step."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict(), schedule.state_dict()


CONTENTS = {
    "dtypes": {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in (
        torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool)},
    "views of one storage": {"base": BASE, "transposed": BASE.T, "part": BASE[1:3, ::2],
                             "row": BASE[2], "one": BASE[1, 1], "expanded": BASE[:1].expand(1, 6)},
    "channels last": {"a": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)},
    "parameters": {"a": nn.Parameter(torch.rand(2, 2)), "b": nn.Parameter(torch.rand(3), False)},
    "a state dict": linear_state(),
    "a scalar and eight dimensions": {"a": torch.tensor(7),
                                      "b": torch.rand(1, 2, 1, 2, 1, 2, 1, 2)},
    "tied weights": (lambda w: {"a": w, "b": w, "c": w.view(-1)})(torch.rand(3, 3)),
    "nested wrappers": {"state_dict": OrderedDict(model=linear_state()), "epoch": 3},
    "dots in keys": {"module.visual.conv1.weight": torch.rand(2), "module": {"x": torch.rand(1)}},
    "names of other languages": {"层.weight": torch.rand(2), "": torch.rand(1)},
    "300 keys, more than a batch": {f"block.{k}.weight": torch.rand(2) for k in range(300)},
}


def flat(content, name=""):
    """name -> tensor of what torch.load returns, by the rule of `io/zip_reader.py`."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    return {} if not isinstance(content, dict) else {
        path: value for key, child in content.items() if type(key) is str
        for path, value in flat(child, f"{name}.{key}" if name else key).items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("content", CONTENTS)
def test_tensors_are_those_of_torchs_own_reader(tmp_path, content, protocol):
    """Order, names, dtype, shape, strides, offset and values, for every pickle protocol."""
    path = tmp_path / "a.pt"
    torch.save(CONTENTS[content], path, pickle_protocol=protocol)
    ours, theirs = read_tensors(path), flat(torch.load(path, weights_only=False))
    assert list(ours) == list(theirs) and len(ours) > 0
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape
        assert ours[name].stride() == value.stride() and torch.equal(ours[name], value)


class Recorder(pickle.Unpickler):
    """Python's unpickler; it records what `_rebuild_tensor_v2` is called with."""

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda *arguments: arguments[:4]
        if name == "_rebuild_parameter":
            return lambda value, *rest: value
        return super().find_class(module, name)

    def persistent_load(self, pid):
        return STORAGE_DTYPES[pid[1].__name__], pid[2], pid[4]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("content", CONTENTS)
def test_metadata_are_those_of_pythons_unpickler(content, protocol):
    file = io.BytesIO()
    torch.save(CONTENTS[content], file, pickle_protocol=protocol)
    data = zipfile.ZipFile(file).read("archive/data.pkl")

    def plain(value):
        if type(value) is TensorMetadata:
            return (tuple(value.storage), *value[1:])
        return {key: plain(item) for key, item in value.items()} if type(value) is dict else value
    theirs = Recorder(io.BytesIO(data)).load()
    assert plain(restricted_load(data).value) == theirs and len(theirs) > 0


# ---- harmless files -----------------------------------------------------------------------------

OTHERS = {
    "training arguments": (
        argparse.Namespace(rate=0.1, path=pathlib.PurePosixPath("a"), names=["b"],
                           betas=(0.9, 0.99)), "argparse.Namespace"),
    "a numpy number": (np.float64(0.5), "numpy.dtype"),
    "a numpy array": (np.arange(3), "numpy.dtype"),
    "a set": ({1, 2}, None),
    "bytes": (b"\xff\0", None),
    "a defaultdict": (collections.defaultdict(list, {"a": [1]}), "collections.defaultdict"),
    "a counter": (collections.Counter("abca"), "collections.Counter"),
    "a dtype": (torch.float16, "torch.float16"),
    "a device": (torch.device("cpu"), "torch.device"),
    "a size": (torch.Size([2, 3]), "torch.Size"),
    "Python's random state": (random.getstate(), None),
    "numpy's random state": (np.random.default_rng(0).bit_generator.state, None),
    "torch's random state": ({"list": [torch.get_rng_state()]}, None),
    "numbers of any size": ([2**31, -2**63, 2**200, 1e300, float("nan")], None),
    "keys that are no text": ({(1, 2): 3, None: 4, 0.5: 5, True: 6, -7: 8}, None),
    "a tuple of tensors": (tuple(torch.rand(1) for _ in range(20)), None),
    "a whole model": (OwnModel(), "test_pickle_machine.OwnModel"),
    "an empty tensor": (torch.empty(0, 3), "an empty tensor other"),
    "none": (None, None),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_tensors_do_not_need_is_named_and_left_out(tmp_path, kind, protocol):
    """A training checkpoint holds many things; the weights are read whatever they are."""
    other, name = OTHERS[kind]
    model, optimizer, schedule = trained()
    torch.save({"state_dict": model, "other": other, "epoch": 3, "optimizer": optimizer,
                "schedule": schedule}, tmp_path / "a.pt", pickle_protocol=protocol)
    tensors, lines = read_archive(tmp_path / "a.pt")
    assert list(tensors) == ["state_dict.weight", "state_dict.bias"]
    assert torch.equal(tensors["state_dict.weight"], model["weight"])
    assert name is None or name in lines[0] and lines[0].startswith("objects that were not read: ")


def test_the_state_of_an_optimizer_has_no_names(tmp_path):
    """It lies under numbers; a list and a tuple have no names either."""
    model, optimizer, _ = trained()
    torch.save({"optimizer": optimizer, "history": [torch.rand(2)], "pair": (torch.rand(2),),
                "model": model}, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == ["model.weight", "model.bias"]


def test_unread_objects_become_a_note_of_the_file(tmp_path):
    torch.save({"a": torch.ones(1), "args": argparse.Namespace()}, tmp_path / "a.pt")
    take_notes()
    read_tensors(tmp_path / "a.pt")
    assert take_notes() == [f"{tmp_path / 'a.pt'}: objects that were not read: argparse.Namespace"]


def test_many_unread_objects_are_named_up_to_a_number(tmp_path):
    kind = in_dict(text("n"), b"](", *(named(f"m.n{k}") for k in range(500)), b"es")
    tensors, (line,) = read_archive(kind(tmp_path))
    assert list(tensors) == ["a"] and line.count("m.n") == 20


PLAIN = nn.Linear(2, 2).weight.detach()
NO_PLAIN_TENSORS = {
    "sparse": (torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
    "complex": (torch.ones(2, dtype=torch.cfloat), "torch.ComplexFloatStorage"),
    "unsigned 16 bit": (torch.ones(2, dtype=torch.uint16), "_rebuild_tensor_v3"),
    "8 bit floats": (torch.ones(2).to(torch.float8_e4m3fn), "_rebuild_tensor_v3"),
    "negative view": (torch._neg_view(torch.ones(2)), "a conjugate or negative view"),
}


@pytest.mark.parametrize("protocol", (2, 4))
@pytest.mark.parametrize("kind", NO_PLAIN_TENSORS)
def test_a_tensor_made_in_an_unknown_way_is_refused_by_name(tmp_path, kind, protocol):
    """Without it the weights would be incomplete, or (a negative view) of the wrong sign."""
    value, name = NO_PLAIN_TENSORS[kind]
    torch.save({"w": PLAIN, "b": value}, tmp_path / "a.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=f"a.pt makes b with .*{name}, which is not"):
        read_tensors(tmp_path / "a.pt")


# ---- names --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_name_that_can_run_commands_condemns_the_whole_file(tmp_path, name):
    """Even where nothing needs it."""
    kind = in_dict(text("b"), named(f"{name}.x" if "." not in name else name), b"s")
    with pytest.raises(CheckpointError, match="it names .*; it was not run; do not open this file"):
        read_tensors(kind(tmp_path))


@pytest.mark.parametrize("module, name", [
    ("argparse", "Namespace"), ("__main__", "Options"), ("builtins", "set"),
    ("__builtin__", "frozenset"), ("builtins", "complex"), ("types", "SimpleNamespace"),
    ("pathlib", "PosixPath"), ("collections", "deque"), ("oslo.config", "Opts"),
    ("code.model", "A"), ("systems", "os"), ("my.os", "system"),
    ("omegaconf.dictconfig", "DictConfig")])
def test_ordinary_names_do_not(module, name):
    assert not can_run_commands(module, name)


@pytest.mark.parametrize("module, name", [
    ("builtins", "eval"), ("__builtin__", "getattr"), ("os.path", "join"), ("builtins", "set.x.y"),
    ("collections", "OrderedDict.__init__"), ("a", "__class__"), ("posix", "system")])
def test_names_that_reach_out_do(module, name):
    assert can_run_commands(module, name)


# ---- the budget ---------------------------------------------------------------------------------

def test_each_instruction_costs_a_step():
    machine = PickleMachine(START + b"N" * 99 + b".")
    machine.run()
    assert machine.steps == 100, "PROTO and 99 times NONE"


def test_the_last_step_of_the_budget_may_be_used_and_no_more():
    restricted_load(START + b"N" * (MAX_STEPS - 1) + b".")
    with pytest.raises(CheckpointError, match=f"takes over {MAX_STEPS:,} steps"):
        restricted_load(START + b"N" * MAX_STEPS + b".")


@pytest.mark.parametrize("pickled, steps", [
    (named("a.b") + b".", 1 + 100), (named("a.b") + b")R.", 1 + 100 + 1 + 1 + 8), (b"].", 1 + 5),
    (b"}.", 1 + 5), (b"N\x85.", 1 + 1 + 5), (b").", 1)])
def test_names_calls_and_containers_cost_more(pickled, steps):
    machine = PickleMachine(pickled)
    machine.run()
    assert machine.steps == steps


def test_no_tuple_is_hashed():
    """A key of 2^60 members would take years; it is left out with its value."""
    nested = hostile_archives.doubled_tuple(60)
    value, unread = restricted_load(START + b"}" + nested + b"Ns" + text("a") + b"K\1s.")
    assert value == {"a": 1} and unread == ["values under keys that are neither text nor small "
                                            "numbers"]


def test_keys_are_text_or_numbers_of_32_bits():
    pairs = {-2**31: 1, 2**31: 2, 2**31 + 1: 3, -2**31 - 1: 4, 2**61 - 1: 5, "a": 6, b"b": 7,
             True: 8}
    found = restricted_load(pickle.dumps(pairs, 3)).value
    assert found == {-2**31: 1, 2**31: 2, "a": 6}


def test_a_long_key_is_refused():
    with pytest.raises(CheckpointError, match="a key of 1,001 characters, expected at most 1,000"):
        restricted_load(pickle.dumps({"a" * 1001: 1}, 2))


def test_a_long_tuple_is_not_kept():
    value, _ = restricted_load(pickle.dumps([tuple(range(8)), tuple(range(9))], 2))
    assert value[0] == tuple(range(8)) and type(value[1]).__name__ == "LongTuple"


def test_a_callable_takes_only_the_arguments_that_torch_writes():
    forms = {b")": False, b"K\1\x85": True, b"}\x85": True}
    for arguments, refused in forms.items():
        pickled = START + named("collections.OrderedDict") + arguments + b"R."
        if refused:
            with pytest.raises(CheckpointError, match="calls OrderedDict with arguments"):
                restricted_load(pickled)
        else:
            assert restricted_load(pickled).value == {}


def test_an_unread_object_keeps_nothing_that_is_put_into_it():
    pickled = named("a.B") + b")\x81" + put(0) + b"(K\1K\2e" + get(0) + text("k") + b"K\1s}b."
    assert restricted_load(START + pickled).value == Unread("a.B")


def test_the_machine_knows_all_instructions_that_torch_writes():
    """And INST, OBJ, EXT1, LONG4 and all others are refused by name."""
    known = {opcode.name for opcode in pickletools.opcodes if ord(opcode.code) in OPERATIONS}
    assert not known & {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "LONG4", "PERSID", "DUP", "POP",
                        "POP_MARK", "NEXT_BUFFER", "READONLY_BUFFER", "STRING", "LONG", "UNICODE"}
    for opcode in pickletools.opcodes:
        if opcode.name not in known | {"STOP"}:
            with pytest.raises(CheckpointError, match=f"uses {opcode.name},"):
                restricted_load(START + opcode.code.encode("latin1") + bytes(300))


def test_random_descriptions_raise_only_the_documented_error():
    """3,000 descriptions with up to eight random bytes changed."""
    file, draw = io.BytesIO(), random.Random(0)
    model, optimizer, _ = trained()
    torch.save({"m": model, "o": optimizer, "args": argparse.Namespace(a=(1, 2))}, file)
    content, refused = zipfile.ZipFile(file).read("archive/data.pkl"), 0
    for _ in range(3_000):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(changed))] = draw.choice((draw.randrange(256), *b"(teuq.Rb"))
        try:
            restricted_load(bytes(changed))
        except CheckpointError as error:
            assert len(str(error)) < 600 and str(error).isprintable()
            refused += 1
    assert 1_000 < refused < 3_000


def test_a_description_with_many_of_everything_stays_in_its_budget(tmp_path):
    """What the budget must allow: 600 weights, their averages, and AdamW's state for each."""
    weights = {f"block.{k}.weight": torch.zeros(1) for k in range(600)}
    state = {"state": {k: {"step": torch.zeros(1), "exp_avg": torch.zeros(1),
                           "exp_avg_sq": torch.zeros(1)} for k in range(600)}}
    torch.save({"model": weights, "ema": {k: v + 1 for k, v in weights.items()},
                "optimizer": state}, tmp_path / "a.pt")
    assert len(read_tensors(tmp_path / "a.pt")) == 1200


def test_the_writer_of_these_tests_writes_what_torch_reads(tmp_path):
    """The pickles of hostile_archives.py are put together by hand; this one is harmless."""
    path = in_dict(text("b"), tensor(b"K\1\x85", b"K\1\x85"), b"s")(tmp_path)
    assert {k: v.shape for k, v in torch.load(path).items()} == {"a": (), "b": (1,)}
