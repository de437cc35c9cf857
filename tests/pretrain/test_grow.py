"""A deeper tower grown from a trained one computes the same, until training continues."""
from dataclasses import replace

import pytest
import torch

from minilora.pretrain.grow import grown, positions_of_trained


def test_a_grown_tower_computes_the_same_as_before(tiny_clip):
    large = grown(tiny_clip, replace(tiny_clip.config, vision_layers=7))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(large.encode_image(pixels), tiny_clip.encode_image(pixels))
        ids = torch.tensor([[49406, 320, 49407]])
        assert torch.equal(large.encode_text(ids), tiny_clip.encode_text(ids))


def test_the_last_block_stays_the_last():
    for old in range(1, 6):
        for new in range(old, 13):
            positions = positions_of_trained(old, new)
            assert len(set(positions)) == old
            assert positions[-1] == new - 1 and positions[0] >= 0


def test_new_blocks_learn(tiny_clip):
    large = grown(tiny_clip, replace(tiny_clip.config, vision_layers=5))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    large.encode_image(pixels).square().sum().backward()
    assert all(block.mlp.c_proj.weight.grad.abs().sum() > 0 for block in large.visual.blocks)


@pytest.mark.parametrize("change", [dict(vision_layers=2), dict(vision_width=128), dict(embed=64)])
def test_another_shape_is_refused(tiny_clip, change):
    with pytest.raises(ValueError, match="weights to start from: expected the same shape"):
        grown(tiny_clip, replace(tiny_clip.config, **change))


def test_the_same_shape_is_the_same_model(tiny_clip):
    assert grown(tiny_clip, tiny_clip.config) is tiny_clip
