"""All features of a picture come from one pass; they are exactly those of the separate paths."""
import pytest
import torch

from minilora.clip import CLIP, CLIPConfig
from minilora.data.images import normalise
from minilora.features import both_paths, extract_features
from minilora.lora import add_lora, lora_layers

SHAPE = CLIPConfig(embed=32, resolution=64, vision_layers=5, vision_width=128, patch=16,
                   text_width=64, text_layers=1)


@pytest.fixture
def visual():
    """A tower with LoRA that has an effect in its last two blocks."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(SHAPE).initialise(generator).requires_grad_(False)
    add_lora(clip.visual, ("q", "k", "v", "out"), (3, 4), 2, 4, generator)
    for layer in lora_layers(clip.visual).values():
        layer.lora_B.data.normal_(0, 0.1, generator=generator)
    return clip.visual


@pytest.mark.parametrize("n_blocks", [1, 2, 5])
def test_one_pass_gives_what_the_two_paths_give(visual, n_blocks):
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    x = visual.embed(normalise(pixels))
    states, patches, image = both_paths(visual, x, n_blocks)
    expected = visual.hidden_states(x, 4)
    assert len(states) == len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(states, expected))
    assert torch.equal(patches, visual.value_value(expected, n_blocks))
    assert torch.equal(image, visual.encode_image(normalise(pixels)))


def test_v_is_computed_once_in_each_block(visual):
    calls = {"q": 0, "k": 0, "v": 0, "out": 0}
    for block in visual.blocks:
        for name in calls:
            getattr(block.attn, name).register_forward_hook(
                lambda *_, name=name: calls.update({name: calls[name] + 1}))
    extract_features(visual, torch.rand(1, 3, 64, 64), (2, 3), 2)
    assert calls == {"q": 5, "k": 5, "v": 5, "out": 5 + 2}
