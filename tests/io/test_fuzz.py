"""A short run of the random changes that `python tests/fuzz.py` applies for hours."""
import random

import fuzz
import fuzz_data
import fuzz_runs
import fuzz_weights
import numpy as np
import pytest

from minilora.io.notes import note

STRUCTURED = [kind for kind in fuzz.KINDS if kind not in fuzz.READERS]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return fuzz.make_kinds(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_changed_files_raise_only_documented_errors_in_one_line(kind, kinds):
    answers = [fuzz.attempt(kind, 10**6 + seed, kinds) for seed in range(120)]
    assert not [a for a in answers if a not in fuzz.FINE]
    assert kind == "bytes of metrics.json" or answers.count("refused") > 12
    assert kind in fuzz.READERS or answers.count("read") > 1


@pytest.mark.parametrize("kind", fuzz.READERS)
def test_the_undamaged_file_is_read(kind, kinds, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda content, draw: content)
    assert fuzz.attempt(kind, 0, kinds) == "read"


class Lenient(random.Random):
    """Chooses no damage of bytes, where a kind draws whether there is one."""

    def random(self):
        return 0.99


@pytest.mark.parametrize("kind", STRUCTURED)
def test_the_files_from_which_changes_start_are_read(kind, kinds, monkeypatch):
    """Otherwise every change would be refused for one and the same reason."""
    for module in (fuzz_runs, fuzz_weights, fuzz_data):
        monkeypatch.setattr(module, "mutated", lambda content, *others, **options: content)
    monkeypatch.setattr(fuzz_weights, "changed_instructions", lambda steps, *_: b"".join(steps))
    monkeypatch.setattr(fuzz_weights, "WRAPPERS", ("",))
    monkeypatch.setattr(fuzz_data, "SPELLINGS", ("000_mask.png",) * 3)
    monkeypatch.setattr(fuzz_data, "odd_picture", lambda draw: fuzz_data.Image.fromarray(
        np.uint8([[0, 255] * 6] * 8)))
    monkeypatch.setattr(fuzz_data, "SAVED", ("PNG",))
    assert kinds[kind](Lenient(0)) is not False


# ---- what counts as wrong -----------------------------------------------------------------------

def test_an_undocumented_error_a_long_message_and_a_slow_reader_are_seen(monkeypatch):
    answer = lambda action: fuzz.attempt("x", 0, {"x": lambda draw: action()})
    refuse = fuzz.decoding.check_size                   # raises a ValueError of minilora
    assert answer(lambda: refuse((10**6, 10**6), "a file")) == "refused"
    assert answer(lambda: False) == "refused" and answer(lambda: None) == "read"
    assert answer(lambda: {}["key"]).startswith("KeyError")
    assert answer(lambda: refuse((10**6, 10**6), "two\nlines")).startswith("not in one line")
    assert answer(lambda: refuse((10**6, 10**6), "x" * 5000)).startswith("not in one line")
    assert answer(lambda: float("text")).startswith("not raised by minilora")
    assert answer(lambda: "\ud800".encode()).startswith("not raised by minilora")
    assert "and the note" in answer(lambda: note("two\nlines", "a.png"))
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.001)
    assert " after " in answer(lambda: sum(range(10**6)))


def test_memory_that_is_given_back_is_seen():
    answer = fuzz.attempt("x", 0, {"x": lambda draw: bytearray(400_000_000) and None})
    assert " MB more" in answer
    assert fuzz.attempt("x", 1, {"x": lambda draw: None}) == "read"


def test_a_reader_that_waits_is_ended(monkeypatch):
    monkeypatch.setattr(fuzz, "MAX_WAITING", 0.05)
    old = fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz.wait_no_longer)
    try:
        assert fuzz.attempt("x", 0, {"x": lambda draw: fuzz.time.sleep(5)}).startswith("Waits")
    finally:
        fuzz.signal.signal(fuzz.signal.SIGALRM, old)


def test_a_change_of_a_users_file_is_seen(kinds, monkeypatch):
    """`record` watches a file that minilora did not write, in and beside the folder."""
    def careless(folder, name, *others):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(b"")
    monkeypatch.setattr(fuzz_data, "result_path", careless)
    answers = {fuzz.attempt("record", seed, kinds) for seed in range(30)}
    assert any(answer.startswith("RuntimeError: a user's file was changed") for answer in answers)
