"""A file is complete or absent, and a tensor file holds data and no code."""
import errno
import hashlib
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minilora.io import files
from minilora.io.files import TensorFileError, atomic_write, load_tensors, save_tensors, sha256_of


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(error):
        with atomic_write(path, "w") as file:
            file.write("new, but not all of it")
            file.flush()
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "scores.csv"           # missing folders are created
    with atomic_write(path, "w") as file:
        file.write("Küche,0.5\r\n")
        assert not path.exists()
    assert path.read_bytes() == "Küche,0.5\r\n".encode()        # UTF-8, line ends unchanged


def test_a_written_file_has_the_permissions_of_an_ordinary_new_file(tmp_path):
    with open(tmp_path / "ordinary", "wb"), atomic_write(tmp_path / "ours"):
        pass                                                    # tempfile would set 0600
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "ordinary").st_mode


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.parent / "target"), os.mkfifo])
def test_only_a_regular_file_is_replaced(tmp_path, make):
    (tmp_path / "target").write_bytes(b"mine")
    make(tmp_path / "other")
    before = os.lstat(tmp_path / "other")
    with pytest.raises(OSError, match="other is a .*, expected a file; give another name"):
        with atomic_write(tmp_path / "other") as file:
            file.write(b"content")
    assert os.lstat(tmp_path / "other").st_ino == before.st_ino
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_a_name_of_255_bytes_is_written(tmp_path):
    with atomic_write(tmp_path / ("n" * 255)) as file:
        file.write(b"content")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_a_folder_given_as_a_file_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file name"):
        with atomic_write(tmp_path):
            pass


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (2 << 20) + 17])
def test_sha256_covers_all_bytes(tmp_path, size):
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


CONTENT = {"name": "mini-clip", "steps": 300, "threshold": 0.25, "exact": True, "none": None,
           "blocks": [10, 11, 12], "nested": {"deep": [{"A": torch.arange(3.0)}]}, 7: "integer key",
           "dtypes": [torch.ones(2, dtype=dtype) for dtype in
                      (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)]}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return type(b) is torch.Tensor and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (dict, list)):
        keys = a if isinstance(a, dict) else range(len(a))
        same_keys = list(a) == list(b) if isinstance(a, dict) else len(a) == len(b)
        return type(a) is type(b) and same_keys and all(equal(a[key], b[key]) for key in keys)
    return type(a) is type(b) and a == b


def test_a_tensor_file_reads_back_as_it_was_written(tmp_path):
    save_tensors(tmp_path / "a.safetensors", CONTENT)
    assert equal(CONTENT, load_tensors(tmp_path / "a.safetensors"))


def test_the_same_content_gives_the_same_bytes_under_any_name(tmp_path):
    """Otherwise the fingerprint of a file would not identify its content."""
    save_tensors(tmp_path / "a.safetensors", CONTENT)
    save_tensors(tmp_path / "other.safetensors", CONTENT)
    assert sha256_of(tmp_path / "a.safetensors") == sha256_of(tmp_path / "other.safetensors")


def test_a_view_is_stored_without_the_rest_of_its_storage(tmp_path):
    save_tensors(tmp_path / "view.safetensors", {"row": torch.zeros(1000, 1000)[0]})
    assert (tmp_path / "view.safetensors").stat().st_size < 10_000       # 4 MB with the whole storage


def test_a_parameter_is_read_back_as_a_tensor_without_gradient(tmp_path):
    save_tensors(tmp_path / "p.safetensors", {"A": torch.nn.Parameter(torch.ones(2))})
    back = load_tensors(tmp_path / "p.safetensors")["A"]
    assert type(back) is torch.Tensor and not back.requires_grad


@pytest.mark.parametrize("value, found", [(np.float64(0.5), "float64"), ((1, 2), "tuple"),
                                          (print, "builtin_function_or_method"),
                                          (np.zeros(2), "ndarray")])
def test_other_types_are_refused_with_their_position_and_not_written(tmp_path, value, found):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"kept": 1})
    with pytest.raises(TensorFileError, match=rf"at options.1: .*found {found}"):
        save_tensors(path, {"options": [0, value]})
    assert load_tensors(path) == {"kept": 1}


def test_only_dicts_with_plain_keys_are_saved(tmp_path):
    with pytest.raises(TensorFileError, match="expected a dict to save, found list"):
        save_tensors(tmp_path / "a.safetensors", [1])
    with pytest.raises(TensorFileError, match="an int of 32 bits, found float"):
        save_tensors(tmp_path / "a.safetensors", {"a": {0.5: 1}})


def test_a_number_of_more_bits_is_no_key(tmp_path):
    for key, kept in ((2**31, True), (-2**31, True), (2**31 + 1, False)):
        if kept:
            save_tensors(tmp_path / "a.safetensors", {"a": {key: 1}})
            assert load_tensors(tmp_path / "a.safetensors") == {"a": {key: 1}}
        else:
            with pytest.raises(TensorFileError, match="an int of 32 bits"):
                save_tensors(tmp_path / "a.safetensors", {"a": {key: 1}})


def test_a_file_of_a_terabyte_of_holes_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TensorFileError, match="has 1,099,511,627,776 bytes, expected at most 64"):
        files.check_file_size(tmp_path / "a.safetensors", 64)


def test_a_pickle_is_not_opened(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)
    torch.save({"A": Bad()}, tmp_path / "bad.pt")
    with pytest.raises(TensorFileError, match="bad.pt is no .* an earlier version.*; make it again"):
        load_tensors(tmp_path / "bad.pt")
    assert not (tmp_path / "was-run").exists()


def test_other_files_are_refused_with_the_reason(tmp_path):
    save_tensors(tmp_path / "whole", CONTENT)
    whole = (tmp_path / "whole").read_bytes()
    for name, content in {"empty": b"", "half": whole[:len(whole) // 2], "page": b"<html> page",
                          "text": b"hi"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TensorFileError, match=f"{name} is no file that this version"):
            load_tensors(tmp_path / name)
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(TensorFileError, match="foreign is no .*found another safetensors file"):
        load_tensors(tmp_path / "foreign")
    with pytest.raises(TensorFileError, match="found nothing"):
        load_tensors(tmp_path / "absent")
    with pytest.raises(TensorFileError, match="found a folder"):
        load_tensors(tmp_path)


def forged(path, tensors, content):
    """A file in our format with this JSON text in the place of the structure."""
    files.write_safetensors(path, tensors, {"format": files.FORMAT, "content": content})


@pytest.mark.parametrize("content, found", [
    ('{"a": {"$tensor": "A"}, "b": {"$tensor": "A"}}', "no tensor A, or it is used twice"),
    ('{"a": {"$tensor": "B"}}', "no tensor B"), ('{"a": {"$tensor": 1}}', "no tensor 1"),
    ('{}', "found dict and 1 others"), ('[{"$tensor": "A"}]', "found list"),
    ('{"a": {"$items": [[0.5, 1]]}}', "pairs of a key and a value"),
    ('{"a": {"$items": {"b": 1}}}', "pairs of a key and a value"),
    # Numbers with one hash: 100,000 of them keep a dict busy for ten seconds
    ('{"a": {"$items": [[%d, 1]]}}' % (2**61 - 1), "pairs of a key and a value"),
    ('{"a": ' + '[' * 50 + ']' * 50 + '}', "nested over 16 deep"),
    ('{"a": ' + '[' * 200_000 + ']' * 200_000 + '}', "nested too deep"),
    ("{", "no JSON"), ("", "no JSON")])
def test_a_forged_structure_is_refused_in_one_short_line(tmp_path, content, found):
    forged(tmp_path / "f", {"A": torch.ones(1)}, content)
    with pytest.raises(TensorFileError, match=f"{tmp_path}/f.*{found}") as refusal:
        load_tensors(tmp_path / "f")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600


def test_every_flipped_bit_is_noticed(tmp_path):
    path, content = tmp_path / "a", {"threshold": 0.25, "x": torch.arange(3.0)}
    save_tensors(path, content)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1:])
            try:
                assert equal(load_tensors(path), content), (at, bit)    # a space became a line end
            except TensorFileError:
                pass


def test_int_keys_and_keys_that_start_with_a_dollar_keep_their_type(tmp_path):
    content = {"optimiser": {0: {"step": torch.tensor(3.0)}}, "$tensor": 1, "a.b": torch.ones(1),
               "a": {"b": torch.zeros(1)}}
    save_tensors(tmp_path / "f", content)
    assert equal(content, load_tensors(tmp_path / "f"))


@pytest.mark.parametrize("text, found", [("{", "is no JSON"), ("[" * 10**5, "nested too deep"),
                                         ("[" * 10**6, "at most 300,000"), (b"\xff", "no JSON"),
                                         ("1" * 5000, "no JSON")])
def test_json_that_cannot_be_read_is_refused_in_one_line(tmp_path, text, found):
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"a.json: .*{found}") as refusal:
        files.read_json(tmp_path / "a.json")
    assert "\n" not in str(refusal.value)
    with pytest.raises(OSError, match="over 10 bytes"):
        (tmp_path / "long.json").write_text("[" + "1," * 10 + "1]")
        files.read_json(tmp_path / "long.json", 10)


class FullDisk:
    """A file on a disk with `room` bytes left."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def save_after_an_error(path):
    """As Pillow does: the disk is full while another error is handled."""
    with files.atomic_write(path) as file:
        try:
            raise AttributeError("no encoder of lines")
        except AttributeError:
            file.write(b"x" * 100_000)


@pytest.mark.parametrize("write", [
    save_after_an_error,
    lambda path: save_tensors(path, {"A": torch.ones(100_000)}),
    lambda path: files.write_json(path, {"losses": [0.5] * 100_000})],
    ids=["picture", "tensors", "text"])
def test_a_full_disk_is_reported_and_leaves_the_earlier_file(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    monkeypatch.setattr(files, "open", lambda *a, **k: FullDisk(open(*a, **k), 10_000),
                        raising=False)
    with pytest.raises(OSError, match="no space left to write .*the earlier file is unchanged"):
        write(path)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["file"]
