"""An interrupted training that continues gives the uninterrupted result, bit for bit."""
import pytest
import torch

from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.io.files import load_tensors, save_tensors
from minilora.io.resume import ResumePoint

SMALL = DetectorConfig(steps=6, n_train_images=8, batch=4, rank=2, alpha=2)


def fitted(clip, good, resume=None, stop=None):
    def report(step, loss):
        if step + 1 == stop:
            raise KeyboardInterrupt
    detector = Detector(clip, "plate", SMALL)
    try:
        return detector.fit(good, report, resume)
    except KeyboardInterrupt:
        return None


@pytest.fixture
def good():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fresh_clip(tiny_weights):
    from minilora.checkpoint.weights import load_clip
    return lambda: load_clip(str(tiny_weights))[0]


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_resumed_fit_equals_an_uninterrupted_one(fresh_clip, good, tmp_path, stop):
    point = ResumePoint(tmp_path / "unfinished.safetensors", "mark", every=0)
    assert fitted(fresh_clip(), good, point, stop) is None
    assert len(point.load()["losses"]) == stop
    whole, resumed = fitted(fresh_clip(), good), fitted(fresh_clip(), good, point)
    assert resumed.losses == whole.losses and len(whole.losses) == 6
    assert torch.equal(resumed.text_features, whole.text_features)
    assert resumed.threshold == whole.threshold
    assert all(torch.equal(a, b) for a, b in zip(resumed.clip.visual.parameters(),
                                                 whole.clip.visual.parameters()))


def test_the_state_of_another_training_or_a_damaged_file_is_ignored(fresh_clip, good, tmp_path):
    path = tmp_path / "unfinished.safetensors"
    fitted(fresh_clip(), good, ResumePoint(path, "mark", every=0), 3)
    assert ResumePoint(path, "another").load() is None
    path.write_bytes(path.read_bytes()[:-100])
    assert ResumePoint(path, "mark").load() is None
    whole = fitted(fresh_clip(), good)
    assert fitted(fresh_clip(), good, ResumePoint(path, "mark", every=0)).losses == whole.losses


def test_the_learning_rate_schedule_continues_too(fresh_clip, good, tmp_path):
    """The saved learning rate is that of its step: neither the first nor the highest."""
    path = tmp_path / "unfinished.safetensors"
    rates = []
    for stop in (1, 2, 4):
        path.unlink(missing_ok=True)
        fitted(fresh_clip(), good, ResumePoint(path, "mark", every=0), stop)
        rates.append(load_tensors(path)["rate"])
    assert len(set(rates)) == 3 and max(rates) <= SMALL.rate


def test_the_state_is_not_saved_more_often_than_every_n_seconds(fresh_clip, good, tmp_path):
    fitted(fresh_clip(), good, ResumePoint(tmp_path / "a.safetensors", "mark", every=3600), 5)
    assert not (tmp_path / "a.safetensors").exists()


def without_last(saved):
    return saved | {"trained": dict(list(saved["trained"].items())[:-1])}


def changed(key, number, value):
    return lambda saved: saved | {key: saved[key] | {number: value}}


@pytest.mark.parametrize("change, words", [
    (without_last, "expected the key 8"), (changed("trained", "0", torch.zeros(3)), "trained.0"),
    (changed("trained", "0", 0.5), "trained.0"), (changed("trained", "99", torch.zeros(3)), "99"),
    (changed("optimiser", "0", {"step": torch.tensor(1.0)}), "optimiser.0: expected the key exp_"),
    (changed("optimiser", "77", {}), "77"),
    (lambda saved: saved | {"generator": saved["generator"] * 0}, "mt19937"),
    (lambda saved: saved | {"generator": saved["generator"][:9]}, "RNG")])
def test_a_state_that_does_not_fit_the_training_is_an_error(fresh_clip, good, tmp_path, change,
                                                            words):
    """And nothing is changed by half."""
    path = tmp_path / "unfinished.safetensors"
    fitted(fresh_clip(), good, ResumePoint(path, "mark", every=0), 3)
    saved = load_tensors(path)
    save_tensors(path, change(saved))
    clip = fresh_clip()
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    with pytest.raises(ValueError, match=f"does not fit this training: .*{words}.*; remove it"):
        fitted(clip, good, ResumePoint(path, "mark", every=0))
    after = clip.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(value.any() for name, value in after.items() if name.endswith("lora_B"))


@pytest.mark.parametrize("change", [
    {"losses": []}, {"losses": "none"}, {"losses": [0.5, "x"]}, {"losses": [[0.5]]},
    {"rate": "fast"}, {"rate": float("nan")}, {"betas": [0.9]}, {"mark": 3}, {"trained": [1]},
    {"generator": torch.zeros(3)}, {"generator": None}, {"optimiser": {0: {}}}, {"extra": 1}])
def test_a_state_with_values_of_other_types_counts_as_none(fresh_clip, good, tmp_path, change):
    path = tmp_path / "unfinished.safetensors"
    fitted(fresh_clip(), good, ResumePoint(path, "mark", every=0), 1)
    assert ResumePoint(path, "mark").load() is not None
    save_tensors(path, load_tensors(path) | change)
    assert ResumePoint(path, "mark").load() is None
