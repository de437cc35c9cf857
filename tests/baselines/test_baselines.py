"""Methods for comparison that use CLIP: the mechanism of each, on a tiny tower."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from scipy.stats import hmean

from minilora.baselines.anomalyclip import AnomalyCLIP
from minilora.baselines.finetuned import CoOp, FullFineTuning, LinearProbe
from minilora.baselines.winclip import WinCLIP, harmonic_aggregation, window_indices
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.data.images import normalise
from minilora.training_steps import TrainConfig

SMALL = DetectorConfig(steps=5, batch=4, n_train_images=8)


@pytest.fixture
def good():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 64, 64, generator=generator) * 0.3 + 0.3


@pytest.mark.parametrize("grid, side", [(4, 2), (4, 3), (5, 3), (3, 3)])
def test_windows_are_all_squares_of_adjacent_patches(grid, side):
    numbers = torch.arange(grid * grid).view(grid, grid)
    expected = [numbers[r:r + side, c:c + side].flatten().tolist()
                for r in range(grid - side + 1) for c in range(grid - side + 1)]
    assert window_indices(grid, side).tolist() == expected


def test_a_pixels_score_is_the_harmonic_mean_of_its_windows():
    """WinCLIP, equation 4."""
    index = window_indices(4, 2)
    scores = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) + 0.01
    out = harmonic_aggregation(scores, index, 16)
    for patch in range(16):
        shows = (index == patch).any(1)
        assert torch.allclose(out[:, patch], torch.tensor(hmean(scores[:, shows], axis=1)))


def test_the_feature_of_a_window_depends_on_no_other_patch(tiny_clip, good):
    detector, visual = WinCLIP(tiny_clip, "plate"), tiny_clip.visual
    _, windows, _ = detector.features(good[:2])
    x = visual.embed(normalise(good[:2]))
    for side, features in windows.items():
        for q, numbers in enumerate(window_indices(4, side)):
            alone = torch.cat([x[:, :1], x[:, 1:][:, numbers]], dim=1)
            expected = visual.pool(visual.hidden_states(alone)[-1])
            assert torch.allclose(features[:, q], expected, atol=1e-5)


def test_winclip_plus_adds_the_distance_to_the_good_pictures(tiny_clip, good):
    detector = WinCLIP(tiny_clip, "plate")
    zero_shot, before = detector.score(good)
    maps, scores = detector.fit(good[:3]).score(good)
    assert torch.allclose(maps[:3], zero_shot[:3], atol=1e-4), "those in the memory bank"
    assert (maps[3] > zero_shot[3] + 1e-4).any()
    assert torch.allclose(scores[:3], before[:3] / 2, atol=1e-4)


@pytest.mark.parametrize("method, trained", [(CoOp, ()), (LinearProbe, ()),
                                           (FullFineTuning, ("visual.",))])
def test_each_method_trains_its_own_weights_and_no_others(method, trained, tiny_clip, good):
    before = copy.deepcopy(tiny_clip.state_dict())
    detector = method(tiny_clip, "plate", SMALL)
    context = detector.prompts.context.detach().clone()
    detector.fit(good)
    for name, value in tiny_clip.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(trained or "-"), name
    assert torch.equal(context, detector.prompts.context) == (method is LinearProbe)
    maps, scores = detector.score(good)
    assert maps.shape == (4, 64, 64) and scores.isfinite().all()


@pytest.mark.parametrize("layers", [2, 6, 12])
def test_coop_trains_the_context_on_towers_of_any_depth(layers, good):
    """The value-value path branches off before the last third of the blocks, not the last one."""
    clip = CLIP(CLIPConfig(**TINY | {"vision_layers": layers})).initialise()
    detector = CoOp(clip, "plate", SMALL)
    context = detector.prompts.context.detach().clone()
    assert not torch.equal(context, detector.fit(good).prompts.context)


def test_object_agnostic_prompts_are_the_same_for_every_product(tiny_clip, good):
    """AnomalyCLIP, section 3.1: prompts trained on one product are used unchanged on another."""
    before = copy.deepcopy(tiny_clip.state_dict())
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[::2, 16:48, 16:48] = True
    detector = AnomalyCLIP(tiny_clip, train_config=TrainConfig(40, 4, 1e-2))
    shown = torch.where(masks[:, None], 1 - good, good)
    detector.fit(shown, masks)
    assert detector.losses[-1] < detector.losses[0]
    assert all(torch.equal(v, before[k]) for k, v in tiny_clip.state_dict().items())
    maps, scores = detector.score(shown)
    assert maps.shape == (4, 64, 64) and (scores <= 2).all()
    patches = F.avg_pool2d(maps, 16).flatten(1)
    marked = F.avg_pool2d(masks.float(), 16).flatten(1) > 0.5
    assert patches[marked].mean() > patches[~marked].mean()
