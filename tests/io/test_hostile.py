"""Files from strangers are refused in one line that names them, soon, in little memory, unrun."""
import hostile
import pytest

SECONDS, BYTES = 1.0, 200_000_000


def judge(kind, group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = hostile.refused(kind, group, tmp_path)
    assert "message" in found, "it was taken for what it is not"
    assert "\n" not in found["message"] and len(found["message"]) < 2000
    assert found["left"] == [], "it left something behind"
    assert found["seconds"] < SECONDS and found["bytes"] < BYTES
    return found["message"]


@pytest.mark.parametrize("kind", hostile.WEIGHTS)
def test_weights_from_strangers_are_refused(kind, tmp_path, monkeypatch):
    assert "weights.pt" in judge(kind, "weights", tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", hostile.ADAPTERS)
def test_adapters_from_strangers_are_refused(kind, tmp_path, monkeypatch):
    message = judge(kind, "adapters", tmp_path, monkeypatch)
    assert "adapter.pt" in message or "memory.pt" in message or "adapter:" in message


def test_an_honest_run_is_taken(tmp_path):
    """What the adapters above are made of."""
    from minilora.predict import open_run
    run = hostile.write_run(tmp_path)
    assert open_run(run, tmp_path / "tiny.pt").threshold > 0
