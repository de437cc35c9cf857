"""The worst patch of a picture, and the good patch that is nearest to it."""
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.report.nearest_patch import nearest_good_patch, patch_pair


@pytest.fixture
def good():
    """Smooth random pictures, which JPEG hardly changes."""
    coarse = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(64, 96), mode="bilinear")


def found_in(detector, pixels):
    with torch.no_grad():
        features = detector.encode(pixels)
        maps, _ = detector.map_and_score(features, "adapted")
    return nearest_good_patch(detector, features, maps[0]), maps[0]


def test_the_worst_patch_lies_where_the_map_is_highest(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", DetectorConfig(steps=0)).fit(good)
    spotted = good[:1].clone()
    spotted[0, :, 32:48, 64:80] = 0
    found, scores = found_in(detector, spotted)
    row, column = divmod(int(scores.argmax()), 96)
    left, top, right, bottom = found.box
    assert left * 96 <= column < right * 96 and top * 64 <= row < bottom * 64
    assert right - left == pytest.approx(16 / 96) and bottom - top == pytest.approx(16 / 64)


@pytest.mark.parametrize("quarter_turns", range(4))
def test_a_patch_of_the_memory_is_found_again_in_the_rotated_good_picture(tiny_clip, good,
                                                                          quarter_turns):
    """A rotated shot is scored: every patch that the coreset kept has distance zero to itself."""
    detector = Detector(tiny_clip, "plate", DetectorConfig(steps=0)).fit(good)
    bank = detector.banks["adapted"]
    copy, patch = next(source for source in bank.sources.tolist()
                       if source[0] // 3 == quarter_turns)
    pixels = torch.rot90(good[copy % 3], quarter_turns, (1, 2))[None]
    columns = pixels.shape[3] // 16
    scores = torch.zeros(pixels.shape[2:])
    scores[patch // columns * 16 + 8, patch % columns * 16 + 8] = 1
    with torch.no_grad():
        found = nearest_good_patch(detector, detector.encode(pixels), scores)
    assert found.distance < 1e-3 and (found.shot, found.quarter_turns) == (copy % 3, quarter_turns)
    assert found.box == found.shot_box
    picture = Image.fromarray((pixels[0] * 255).byte().permute(1, 2, 0).numpy())
    crops = [torch.frombuffer(bytearray(crop.tobytes()), dtype=torch.uint8).float()
             for crop in patch_pair(detector, picture, found)]
    assert (crops[0] - crops[1]).abs().mean() < 12, "the same place, but for the loss of JPEG"


def test_a_loaded_run_shows_the_same_pair_as_the_fitted_detector(gear_run):
    run, pictures = gear_run
    detector = Detector.open(run)
    assert len(detector.shot_pictures) == 4
    picture = detector.read(sorted(pictures.rglob("test/*/*.png"))[0])
    found, _ = found_in(detector, detector.prepare(picture)[None])
    assert 0 <= found.shot < 4 and all(0 <= value <= 1 for value in found.shot_box)


def test_without_a_memory_there_is_no_nearest_patch(tiny_clip, good):
    detector = Detector(tiny_clip, "plate")
    with torch.no_grad():
        assert nearest_good_patch(detector, detector.encode(good[:1]), good[0, 0]) is None
