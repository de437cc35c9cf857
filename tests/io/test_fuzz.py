"""Random damage, a little of it; `python tests/fuzz.py` does the same for hours."""
import fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damage_gives_documented_errors_alone(name, tmp_path):
    answers = [fuzz.attempt(name, 10**6 + seed, tmp_path) for seed in range(200)]
    assert not [a for a in answers if a not in ("read", "refused")]
    assert name == "metrics.json" or answers.count("refused") > 20


@pytest.mark.parametrize("name", fuzz.READERS)
def test_the_honest_file_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda content, draw: content)
    assert fuzz.attempt(name, 0, tmp_path) == "read"
