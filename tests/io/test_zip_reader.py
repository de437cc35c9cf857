"""An archive is read as records of numbers and their metadata; no code in it is run."""
import io
import os
import pickle
import random
import warnings
import zipfile
from collections import OrderedDict

import hostile
import official_archive
import pytest
import torch
from hostile import Call, write_pickle, write_tensor

from minilora.checkpoint.openai_layout import official_state_dict
from minilora.clip import CLIP, CLIPConfig
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.zip_reader import check_file_type, read_tensors

SMALL = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=128, patch=16,
                   vocab=100, text_width=64, text_layers=1)


@pytest.fixture(scope="module")
def state():
    """Official keys of a small CLIP with random weights."""
    return official_state_dict(CLIP(SMALL).initialise(torch.Generator().manual_seed(0)))


def by_torch(path):
    """The result of torch's own reader, which runs the archive's code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path), map_location="cpu").state_dict()


def same(ours, theirs):
    return list(ours) == list(theirs) and all(
        ours[key].dtype == value.dtype and torch.equal(ours[key], value)
        for key, value in theirs.items())


@pytest.mark.parametrize("script", [False, True], ids=["traced", "scripted"])
@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
def test_an_official_archive_reads_as_torch_reads_it(tmp_path, state, script, location):
    """Keys in order, dtypes and values; a storage marked cuda:0 needs no GPU."""
    path = tmp_path / "clip.pt"
    official_archive.write_archive(state, path, script, location)
    with zipfile.ZipFile(path) as archive:
        assert location.encode() in archive.read("clip/data.pkl")
    ours = read_tensors(path)
    assert same(ours, by_torch(path))
    scalars = {key: ours[key].item() for key in ours if ours[key].dtype == torch.int64}
    assert scalars == {"input_resolution": 64, "context_length": 77, "vocab_size": 100}
    kinds = {key: ours[key].dtype for key in ours}
    assert kinds["visual.proj"] == kinds["visual.conv1.weight"] == torch.float16
    assert kinds["transformer.resblocks.0.attn.in_proj_bias"] == torch.float16
    assert kinds["logit_scale"] == kinds["visual.ln_pre.bias"] == torch.float32
    assert kinds["token_embedding.weight"] == torch.float32


def test_a_dict_saved_by_torch_reads_as_torch_reads_it(tmp_path):
    """Views share one storage, parameters and module metadata are unwrapped, strides are kept."""
    base = torch.arange(24.0).reshape(4, 6)
    linear = torch.nn.Linear(3, 2)
    content = OrderedDict(linear.state_dict(), parameter=torch.nn.Parameter(base + 1), base=base,
                          transposed=base.T, part=base[1:3, ::2], scalar=torch.tensor(7),
                          flags=torch.tensor([True, False]), bf16=base.bfloat16(),
                          strided=torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
    content._metadata = linear.state_dict()._metadata
    torch.save(content, tmp_path / "a.pt")
    ours = read_tensors(tmp_path / "a.pt")
    assert same(ours, torch.load(tmp_path / "a.pt", weights_only=True))
    assert ours["transposed"].stride() == base.T.stride()


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.pt")
    read_tensors(tmp_path / "a.pt")["a"].fill_(1)
    assert read_tensors(tmp_path / "a.pt")["a"].sum() == 0


# ---- other kinds of files ----------------------------------------------------------------------

WRONG = {
    "is empty": b"",
    "is a web page": b"\n<!DOCTYPE html><html><head><title>Sign in</title>",
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:58\nsize 3\n",
    "is a safetensors file": (60).to_bytes(8, "little") + b'{"a":{"dtype":"F16","shape":[2]}}',
    "before 2020": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    "is not a PyTorch archive": b"hello",
    "is cut off or damaged": b"PK\x03\x04 and nothing more",
}


@pytest.mark.parametrize("words", WRONG)
def test_files_often_mistaken_for_weights_are_named_in_one_line(tmp_path, words):
    (tmp_path / "clip.pt").write_bytes(WRONG[words])
    with pytest.raises(CheckpointError, match=f"clip.pt .*{words}") as error:
        read_tensors(tmp_path / "clip.pt")
    assert "\n" not in str(error.value)


def test_a_folder_and_a_missing_file_are_named_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; give the .pt file in it"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="absent.pt cannot be read: No such file"):
        read_tensors(tmp_path / "absent.pt")


def test_another_zip_is_not_accepted_as_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "report.docx", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(CheckpointError, match="not one of PyTorch .expected one data.pkl.*found 0"):
        read_tensors(tmp_path / "report.docx")


def test_an_archive_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_tensors(tmp_path / "a.pt")


# ---- damage ------------------------------------------------------------------------------------

@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, state, share):
    path = tmp_path / "clip.pt"
    official_archive.write_archive(state, path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(CheckpointError, match="is cut off or damaged"):
        read_tensors(path)


CHANGES = {
    "has no record .*data/1;": lambda name, data: None if name.endswith("data/1") else data,
    "it has [0-9]+ bytes": lambda name, data: data[:-2] if name.endswith("data/1") else data,
    "data.pkl is damaged": lambda name, data: data[:-40] if name.endswith("data.pkl") else data,
    "big-endian": lambda name, data: b"big" if name.endswith("byteorder") else data,
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_record_that_does_not_fit_its_description_is_refused(tmp_path, words):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(4), "b": torch.ones(4)}, path)
    official_archive.change_archive(path, CHANGES[words])
    with pytest.raises(CheckpointError, match=words):
        read_tensors(path)


def test_a_zip_directory_with_sizes_beyond_the_file_is_refused(tmp_path):
    """The zip's directory at its end holds the sizes; here it claims 4 GB for one record."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(4.0)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"a/data/0"))
    content[entry + 20:entry + 28] = b"\xf0\xff\xff\xff" * 2     # its two sizes, stored and real
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="has overlapping records; it is damaged"):
        read_tensors(path)


def test_overlapping_records_are_refused(tmp_path):
    path = hostile.WEIGHTS["overlapping members"](tmp_path)
    with pytest.raises(CheckpointError, match="has overlapping records"):
        read_tensors(path)


def test_misaligned_numbers_are_copied_to_aligned_memory(tmp_path):
    """PyTorch pads records to 64 bytes; a repacked zip does not, and not every CPU can read it."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(4.0), "b": torch.arange(3.0).double()}, path)
    for pad in range(8):                                        # every alignment occurs
        official_archive.change_archive(
            path, lambda name, data: b"x" * pad if name.endswith("version") else data)
        for tensor in read_tensors(path).values():
            assert tensor.data_ptr() % tensor.itemsize == 0
            assert tensor.tolist() == list(range(len(tensor)))


def test_compressed_records_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(4)}, path)
    official_archive.change_archive(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="has a compressed record"):
        read_tensors(path)


def test_a_damaged_byte_gives_a_checkpoint_error_or_other_numbers(tmp_path):
    """400 files with one random byte changed: never another exception, never a crash."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(4), "b": torch.ones(4, 3).half().T}, path)
    content, draw = path.read_bytes(), random.Random(0)
    used = [i for i, byte in enumerate(content) if byte]        # most of the file is padding
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        damaged[draw.choice(used)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except CheckpointError:
            refused += 1
    assert 100 < refused < 400, "changed weights or dates go unnoticed, most else is refused"


# ---- malicious files ---------------------------------------------------------------------------

RUN = "raise SystemExit('this must never run')"


@pytest.mark.parametrize("call", [
    Call(os.mkdir, "was-run"), Call(exec, RUN), Call(getattr, "a", "upper"), Call(torch.load, "x"),
    Call(__import__, "os"), Call(type, "A", (), {}), Call(pickle.loads, b""),
    Call(io.open, "x", "w"), Call(torch.hub.load, "a/b", "c"), Call(open, "x", "w")],
    ids=lambda call: call.call[0].__name__)
def test_a_file_that_names_what_runs_commands_is_refused_and_not_run(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    write_pickle("bad.pt", pickle.dumps({"a": call}, protocol=2))
    with pytest.raises(CheckpointError, match="bad.pt is refused: it names .* not run"):
        read_tensors("bad.pt")
    assert os.listdir(tmp_path) == ["bad.pt"]


@pytest.mark.parametrize("call", [
    Call(torch._utils._rebuild_tensor, 1, 2, 3, 4), Call(torch.nn.Linear, 2, 2)],
    ids=lambda call: call.call[0].__name__)
def test_any_other_function_is_not_run_either(tmp_path, monkeypatch, call):
    def never(*arguments):
        raise AssertionError("it was run")
    content = pickle.dumps({"a": call}, protocol=2)
    for module, name in ((torch._utils, "_rebuild_tensor"), (torch.nn, "Linear")):
        monkeypatch.setattr(module, name, never)
    write_pickle(tmp_path / "bad.pt", content)
    with pytest.raises(CheckpointError, match="holds no named tensors.* not read: .*"
                       f"{call.call[0].__name__}"):
        read_tensors(tmp_path / "bad.pt")


def test_dotted_names_do_not_reach_into_allowed_ones(tmp_path):
    """Python's own unpickler follows them; `_rebuild_tensor_v2.__globals__` gives every module."""
    for name in (b"_rebuild_tensor_v2.__globals__", b"_rebuild_tensor_v2.__class__"):
        write_pickle(tmp_path / "bad.pt", b"\x80\x02ctorch._utils\n" + name + b"\n.")
        with pytest.raises(CheckpointError, match="is refused: it names torch._utils._rebuild"):
            read_tensors(tmp_path / "bad.pt")


def test_classes_in_the_archive_hold_attributes_and_do_nothing(tmp_path):
    """`__torch__.os.mkdir(...)` calls neither os.mkdir nor anything else."""
    call = b"\x80\x02c__torch__.os\nmkdir\nX\x07\x00\x00\x00was-run\x85R."
    write_pickle(tmp_path / "bad.pt", call)
    with pytest.raises(CheckpointError, match="calls __torch__.os.mkdir, which PyTorch does not"):
        read_tensors(tmp_path / "bad.pt")
    assert not os.path.exists("was-run")


def test_a_file_cannot_change_how_the_next_one_is_read(tmp_path):
    """BUILD sets attributes of any object on the stack, also of allowed functions and classes."""
    for name in (b"torch._utils\n_rebuild_tensor_v2", b"__torch__\nA", b"collections\nOrderedDict"):
        for key in (b"__defaults__", b"__setstate__", b"attributes", b"items"):
            pair = b"X" + len(key).to_bytes(4, "little") + key + b")s"
            write_pickle(tmp_path / "bad.pt", b"\x80\x02c" + name + b"\nN}" + pair + b"\x86b.")
            with pytest.raises(CheckpointError):
                read_tensors(tmp_path / "bad.pt")
    torch.save(OrderedDict(a=torch.ones(2)), tmp_path / "good.pt")
    assert read_tensors(tmp_path / "good.pt")["a"].tolist() == [1, 1]


GOOD = ("storage", torch.FloatStorage, "0", "cpu", 6)
BEYOND, FORGED = "outside its storage of 6 elements", "damaged or forged"
CLAIMS = [
    (GOOD, {"size": (2, 4), "stride": (4, 1)}, BEYOND),
    (GOOD, {"offset": 1}, BEYOND),
    (GOOD, {"stride": (6, 1)}, BEYOND),
    (GOOD, {"size": (10**9, 10**6), "stride": (0, 0)}, BEYOND),     # petabytes from one number
    (GOOD, {"size": (0, 3)}, BEYOND),
    (GOOD, {"offset": -1}, FORGED),
    (GOOD, {"stride": (-3, 1)}, FORGED),
    (GOOD, {"stride": (3,)}, FORGED),
    (GOOD, {"size": (2.0, 3)}, FORGED),
    (GOOD, {"size": "ab"}, FORGED),
    (GOOD, {"size": (1 << 64, 1)}, FORGED),
    (("storage", torch.FloatStorage, "0", "cpu", 7), {}, "but it has 24 bytes"),
    (("storage", torch.HalfStorage, "0", "cpu", 6), {}, "but it has 24 bytes"),
    (("storage", torch.FloatStorage, "1", "cpu", 6), {}, "has no record archive/data/1"),
    (("storage", torch.FloatStorage, "../data.pkl", "cpu", 6), {}, "has no record"),
    (("storage", torch.FloatStorage, 0, "cpu", 6), {}, FORGED),
    (("storage", torch.FloatStorage, "0", "cpu", -6), {}, FORGED),
    (("storage", "FloatStorage", "0", "cpu", 6), {}, FORGED),
    (("module", torch.FloatStorage, "0", "cpu", 6), {}, FORGED),
    ((), {}, FORGED),
]


def test_the_unforged_tensor_is_read(tmp_path):
    """The next test changes this tensor's metadata."""
    write_tensor(tmp_path / "a.pt", GOOD)
    assert read_tensors(tmp_path / "a.pt")["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("pid, shape, words", CLAIMS)
def test_a_tensor_reaches_no_byte_outside_its_record(tmp_path, pid, shape, words):
    write_tensor(tmp_path / "a.pt", pid, **shape)
    with pytest.raises(CheckpointError, match=words):
        read_tensors(tmp_path / "a.pt")


def test_a_pickle_that_contains_itself_is_refused(tmp_path):
    endless, bomb = {}, {}
    endless.update({str(i): endless for i in range(10)})
    for _ in range(12):
        bomb = {str(i): bomb for i in range(10)}                # 10^12 paths in a few hundred bytes
    for content in (endless, bomb):
        write_pickle(tmp_path / "a.pt", pickle.dumps(content, protocol=2))
        with pytest.raises(CheckpointError, match="over 100,000 values, .* or contains itself"):
            read_tensors(tmp_path / "a.pt")


def test_a_pickle_above_the_size_limit_is_not_read(tmp_path):
    write_pickle(tmp_path / "a.pt", b"\x80\x02" + b"K" * (5 << 20) + b"N.")
    with pytest.raises(CheckpointError, match="of 5,242,884 bytes, expected at most 4,194,304"):
        read_tensors(tmp_path / "a.pt")


def test_a_pickle_cannot_reserve_a_huge_memo(tmp_path):
    """Opcode `r` stores an object at a 32-bit index: Python would make a table of 2^33 entries."""
    write_pickle(tmp_path / "a.pt", b"\x80\x02Nr\xff\xff\xff\xff.")
    with pytest.raises(CheckpointError, match="uses LONG_BINPUT 4294967295, which PyTorch"):
        read_tensors(tmp_path / "a.pt")


def test_instructions_that_torch_does_not_write_are_named(tmp_path):
    write_pickle(tmp_path / "a.pt", b"\x80\x02N2.")
    with pytest.raises(CheckpointError, match="uses DUP, .* save it again with torch.save's"):
        read_tensors(tmp_path / "a.pt")


# ---- shared numbers ----------------------------------------------------------------------------

def test_weights_may_be_tied_four_times(tmp_path):
    """Five names for 4 MB would be 20 MB from 4: refused; so a small file stays a small model."""
    weight = torch.rand(1 << 20)
    for names, accepted in (("abcd", True), ("abcde", False)):
        torch.save({name: weight for name in names}, tmp_path / "a.pt")
        if accepted:
            tensors = read_tensors(tmp_path / "a.pt")
            assert len({tensor.data_ptr() for tensor in tensors.values()}) == 1
        else:
            with pytest.raises(CheckpointError, match="makes tensors of 20,971,520 bytes from "
                               "4,194,304 bytes of numbers, expected at most 4 times"):
                read_tensors(tmp_path / "a.pt")


def test_small_numbers_may_be_shared_often(tmp_path):
    zeros = torch.zeros(8)
    torch.save({f"{k}": zeros for k in range(1_000)}, tmp_path / "a.pt")
    assert len(read_tensors(tmp_path / "a.pt")) == 1_000


def test_two_tensors_of_one_name_are_refused(tmp_path):
    torch.save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="gives two tensors the name a.b"):
        read_tensors(tmp_path / "a.pt")


def test_a_path_is_shown_in_one_printable_line(tmp_path):
    path = tmp_path / "a\nOK score 0.pt"
    torch.save({}, path)
    with pytest.raises(CheckpointError, match=r"a\\nOK score 0.pt holds no named") as error:
        read_tensors(path)
    assert str(error.value).isprintable()


def test_safetensors_files_pass_the_check_of_the_file_type(tmp_path):
    """Their first byte may be that of a pickle or of a web page: it is part of a length."""
    for length in (0x80, ord("<"), ord("P")):
        content = b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'.ljust(length)[:length]
        (tmp_path / "a.pt").write_bytes(length.to_bytes(8, "little") + content + bytes(4))
        check_file_type(tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="is a safetensors file; expected a .pt file"):
            read_tensors(tmp_path / "a.pt")
