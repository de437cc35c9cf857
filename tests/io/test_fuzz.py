"""A short run of the random damage that `python tests/fuzz.py` applies for hours."""
import random

import fuzz
import fuzz_runs
import pytest


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_files_raise_only_documented_errors(name, tmp_path):
    answers = [fuzz.attempt(name, 10**6 + seed, tmp_path) for seed in range(200)]
    assert not [a for a in answers if a not in ("read", "refused")]
    assert name == "metrics.json" or answers.count("refused") > 20


@pytest.mark.parametrize("name", fuzz.READERS)
def test_the_undamaged_file_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda content, draw: content)
    assert fuzz.attempt(name, 0, tmp_path) == "read"


# ---- valid files with changed values ------------------------------------------------------------

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fuzz_runs.RunFolder(tmp_path_factory.mktemp("run"), fuzz.damaged)


@pytest.mark.parametrize("kind", fuzz_runs.KINDS)
def test_changed_values_raise_only_documented_errors_in_one_line(kind, run, tmp_path):
    answers = [fuzz.attempt(kind, 10**6 + seed, tmp_path, run) for seed in range(150)]
    assert not [a for a in answers if a not in ("read", "refused")]
    assert answers.count("refused") > 50 and answers.count("read") > 1


@pytest.mark.parametrize("kind", fuzz_runs.KINDS)
def test_the_files_from_which_changes_start_are_read(kind, run, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_runs, "mutated", lambda content, draw, tensors=True: content)
    draw = random.Random(next(s for s in range(99) if random.Random(s).random() > 0.5))
    getattr(run, fuzz_runs.KINDS[kind])(draw)


def test_an_undocumented_error_a_long_message_and_a_slow_reader_are_seen(run, tmp_path,
                                                                         monkeypatch):
    def answer(action):
        monkeypatch.setattr(fuzz_runs.RunFolder, "attempt_lora", lambda self, draw: action())
        return fuzz.attempt("lora", 0, tmp_path, run)

    def refuse(text):
        raise ValueError(text)
    assert answer(lambda: refuse("a file: expected this, found that")) == "refused"
    assert answer(lambda: {}["key"]).startswith("KeyError")
    assert answer(lambda: refuse("two\nlines")).startswith("not in one line")
    assert answer(lambda: refuse("x" * 5000)).startswith("not in one line")
    assert answer(lambda: "\ud800".encode()).startswith("not in one line")
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.001)
    assert " after " in answer(lambda: sum(range(10**6)))
