"""Malicious files are refused, quickly and in little memory; no code in them runs.

The error is one line that names the file.  Files that ask for much time or memory are read in a
process of their own: the test process must not end with them.
"""
import hostile
import pytest

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.zip_reader import read_tensors

SECONDS, BYTES = 1.0, 200_000_000


def message_of(kind, group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return checked(hostile.measure_refusal(kind, group, tmp_path))


def checked(found):
    """The message of a refusal, if it is as promised.  found: from measure_refusal."""
    assert "crash" not in found
    assert "message" in found, "the file was accepted"
    assert "\n" not in found["message"] and len(found["message"]) < 2000
    assert found["left"] == [], "code ran: new files appeared"
    assert found["cpu_seconds"] < SECONDS and found["bytes"] < BYTES
    return found["message"]


@pytest.mark.parametrize("kind", [kind for kind in hostile.WEIGHTS if kind not in hostile.BUDGET])
def test_malicious_weights_are_refused(kind, tmp_path, monkeypatch):
    assert "weights.pt" in message_of(kind, "weights", tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", hostile.BUDGET)
def test_weights_that_ask_for_much_are_refused_at_once(kind):
    """Files of up to 10 MB; without a budget some need hours, gigabytes, or end the process."""
    assert "weights.pt" in checked(hostile.measure_in_child(kind, "weights"))


@pytest.mark.parametrize("kind", ["a key of 2^60 members", "numbers that meet in a dict",
                                  "keys that are half of a character"])
def test_what_needs_no_budget_is_read(kind, tmp_path):
    """These hold one tensor besides: the odd value is left out, and costs nothing to leave out."""
    assert list(read_tensors(hostile.BUDGET[kind](tmp_path)).values())[0].shape == ()


CAUSES = {
    "marks nested a million deep": "nests over 100 levels deep",
    "250,000 numbers of one hash": "takes over 300,000 steps",
    "OrderedDict(OrderedDict)": "calls OrderedDict with arguments that cannot be understood",
    "a shape of numbers of 255 bytes": "calls _rebuild_tensor_v2 with arguments that cannot",
    "a key of 2 MB above 120,000 children": "a key of 2,000,000 characters, expected at most 1,000",
    "keys of 1,000 letters at 20 levels": "names its values in over 4,194,304 characters",
    "dicts nested 500 deep": "over 32 levels, or contains itself",
    "2^60 paths through TorchScript": "over 32 levels, or contains itself",
    "5,000 tensors": "names over 4,000 tensors",
    "two tensors of one name": "gives two tensors the name a.b",
    "one storage in two lengths": "describes record data/0 in two ways",
    "one storage of two types": "describes record data/0 in two ways",
    "90 layers in one storage": "makes tensors of .* expected at most 4 times as many",
    "150,000 members in 8 MB": "a directory of 150,000 records",
    "members with 16 kB of extra fields": "a directory of 600 records in 9,631,690 bytes",
    "19,000 members of one name": "has two records a/data.pkl",
    "19,000 members at one place": "has overlapping records",
    "a 64-bit end at another place": "the 64-bit end of its directory is missing",
    "a directory larger than the file": "its directory is not where it should be",
    "a description of 9 MB": "of 9,000,000 bytes, expected at most 4,194,304",
    "a byte order of 9 MB": "of 9,000,000 bytes, expected at most 100",
    "numbers with a flipped bit": "does not have the CRC-32",
}


@pytest.mark.parametrize("kind", CAUSES)
def test_the_cause_of_a_refusal_is_named(kind, tmp_path):
    """Each by the check that was made for it, not by a later one that happens to fail."""
    with pytest.raises(CheckpointError, match=CAUSES[kind]):
        read_tensors(hostile.BUDGET[kind](tmp_path))


def test_a_child_that_dies_is_seen(monkeypatch):
    """Otherwise the tests above would prove nothing about crashes."""
    monkeypatch.setitem(hostile.WEIGHTS, "death", lambda folder: hostile.os.kill(
        hostile.os.getpid(), hostile.signal.SIGKILL))
    assert "crash" in hostile.measure_in_child("death", "weights")


@pytest.mark.parametrize("kind", hostile.ADAPTERS)
def test_malicious_adapters_are_refused(kind, tmp_path, monkeypatch):
    message = message_of(kind, "adapters", tmp_path, monkeypatch)
    assert str(tmp_path / "run") in message


def test_the_unchanged_run_is_accepted(tmp_path):
    """The run folder from which all files in ADAPTERS are made."""
    from minilora.detector import Detector
    run = hostile.write_run(tmp_path)
    assert Detector.open(run, tmp_path / "tiny.safetensors").threshold > 0
