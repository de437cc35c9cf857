"""Malicious files are refused, quickly and in little memory; no code in them runs.

The error is one line that names the file.
"""
import hostile
import pytest

SECONDS, BYTES = 1.0, 200_000_000


def message_of(kind, group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = hostile.measure_refusal(kind, group, tmp_path)
    assert "message" in found, "the file was accepted"
    assert "\n" not in found["message"] and len(found["message"]) < 2000
    assert found["left"] == [], "code ran: new files appeared"
    assert found["seconds"] < SECONDS and found["bytes"] < BYTES
    return found["message"]


@pytest.mark.parametrize("kind", hostile.WEIGHTS)
def test_malicious_weights_are_refused(kind, tmp_path, monkeypatch):
    assert "weights.pt" in message_of(kind, "weights", tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", hostile.ADAPTERS)
def test_malicious_adapters_are_refused(kind, tmp_path, monkeypatch):
    message = message_of(kind, "adapters", tmp_path, monkeypatch)
    assert "adapter.pt" in message or "memory.pt" in message or "adapter:" in message


def test_the_unchanged_run_is_accepted(tmp_path):
    """The run folder from which all files in ADAPTERS are made."""
    from minilora.predict import open_run
    run = hostile.write_run(tmp_path)
    assert open_run(run, tmp_path / "tiny.pt").threshold > 0
