"""Scoring a folder: every picture gets a result, and memory does not grow with their number."""
import load
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("watching", [False, True])
def test_every_picture_gets_a_score_or_an_error_and_memory_does_not_grow(monkeypatch, watching):
    monkeypatch.setattr(load, "WARM_UP", 60)
    results, memory, clock = load.run_load(240, watching=watching)
    assert len({file for file, _ in results}) == len(results) == 240
    failed = [(file, error) for file, error in results if error]
    assert len(failed) == 60 and all(file in error for file, error in failed)
    assert load.slope(memory[60:]) < 25e6, "a leak of one tensor per picture: 49 MB per 1,000"
    assert "240 pictures: 180 scores, 60 errors" in load.report_lines(results, memory, clock)[0]
