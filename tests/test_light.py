"""Test pictures often have another brightness than the shots; that is not a defect."""
import pytest
import torch

from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data.images import load_squares
from minilora.data.mvtec import load_class
from minilora.detector import Detector
from minilora.scenes import scene

LIGHT = {"darker": lambda x: 0.85 * x, "brighter": lambda x: (1.15 * x).clamp(0, 1),
         "flatter": lambda x: 0.8 * x + 0.1, "another gamma": lambda x: x ** 1.2}


@pytest.fixture(scope="module")
def metal(tmp_path_factory):
    """(maps -> scores of a fitted memory, good pictures, defective ones, the shots)."""
    root = tmp_path_factory.mktemp("data")
    data = load_class(scene.write_class(root, "metal", good=4, test_good=6, defective=3).parent,
                      "metal")
    clip, _ = load_clip("mini-clip")
    shots = load_squares([s.path for s in data.train], 224)
    detector = Detector(clip, "metal", DetectorConfig(steps=0)).fit(shots)
    good, bad = (load_squares([s.path for s in data.test if s.label == label], 224)
                 for label in (0, 1))

    @torch.no_grad()
    def scores(pixels):
        return detector.map_and_score(detector.encode(pixels, lora=False), "memory")[1]
    return scores, good, bad, shots


def separation(good, bad):
    return auroc(torch.cat([good, bad]), [0] * len(good) + [1] * len(bad))


@pytest.mark.parametrize("light", LIGHT)
def test_good_pictures_in_another_light_still_score_below_defective_ones(metal, light):
    scores, good, bad, _ = metal
    assert separation(scores(LIGHT[light](good)), scores(bad)) >= 0.9


def test_comparing_pixels_mistakes_brightness_for_a_defect(metal):
    """Why features are needed: the distance to the nearest shot, pixel by pixel, fails here."""
    _, good, bad, shots = metal

    def distance(pixels):
        return torch.stack([(shots - p).abs().mean((1, 2, 3)).min() for p in pixels])
    assert separation(distance(LIGHT["darker"](good)), distance(bad)) < 0.3
