"""Evaluation on pictures that no step of pretraining uses."""
import pytest
import torch
import torch.nn.functional as F

from minilora.anomaly_map import image_score, to_pixels
from minilora.pretrain import held_out


@pytest.fixture
def pictures():
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_distance_of_a_shot_and_of_its_rotations_to_the_memory_is_zero(tiny_clip, pictures):
    shots = pictures[:3]
    known = torch.cat([shots, torch.rot90(shots, 1, (2, 3)), torch.rot90(shots, 3, (2, 3))])
    with torch.no_grad():
        assert held_out.plain_memory(tiny_clip.visual, shots, known, (1, 2)).abs().max() < 1e-5
        assert held_out.plain_memory(tiny_clip.visual, shots, pictures[3:], (1, 2)).min() > 1e-3


def test_a_score_comes_from_the_distance_to_the_nearest_patch(tiny_clip, pictures):
    with torch.no_grad():
        found = held_out.plain_memory(tiny_clip.visual, pictures[:2], pictures[4:], (1, 3))
        tokens = held_out.memory_tokens(
            tiny_clip.visual, torch.cat([torch.rot90(pictures[:2], k, (2, 3)) for k in range(4)]
                                        + [pictures[4:]]), (1, 3))
    bank, queries = tokens[:8].flatten(0, 1), tokens[8:]
    distance = torch.stack([torch.stack([min((1 - F.cosine_similarity(p, m, dim=0)) for m in bank)
                                         for p in picture]) for picture in queries])
    expected = image_score(to_pixels(distance, (64, 64), 4.0 * 64 / 224))
    assert torch.allclose(found, expected, atol=1e-5)


def test_both_hidden_states_have_the_same_weight_whatever_their_length(tiny_clip, pictures):
    with torch.no_grad():
        one, two = (held_out.memory_tokens(tiny_clip.visual, pictures[:1], (n,)) for n in (1, 2))
        both = held_out.memory_tokens(tiny_clip.visual, pictures[:1], (1, 2))
    assert torch.allclose(both @ both.mT, (one @ one.mT + two @ two.mT) / 2, atol=1e-5)
