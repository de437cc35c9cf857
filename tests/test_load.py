"""Scoring a folder: every picture gets a result, and memory does not grow with their number."""
import load
import pytest

pytestmark = pytest.mark.slow


def test_every_picture_gets_a_score_or_an_error_and_memory_does_not_grow(monkeypatch):
    monkeypatch.setattr(load, "WARM_UP", 60)
    results, memory, clock = load.run_load(240)
    assert len({result["file"] for result in results}) == len(results) == 240
    failed = [result for result in results if result["error"]]
    assert len(failed) == 60 and all(result["file"] in result["error"] for result in failed)
    assert load.slope(memory[60:]) < 25e6, "a leak of one tensor per picture: 49 MB per 1,000"
    assert "240 pictures: 180 scores, 60 errors" in load.report_lines(results, memory, clock)[0]
