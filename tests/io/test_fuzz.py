"""A short run of the random damage that `python tests/fuzz.py` applies for hours."""
import fuzz
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
