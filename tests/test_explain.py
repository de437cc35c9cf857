"""The page about one picture: its numbers on LoRA and attention are those of the formulas."""

import copy
import math
import re

import pytest
import torch
from PIL import Image

from minilora import explain
from minilora.data.images import normalise
from minilora.detector import Detector
from minilora.lora import add_lora, lora_layers
from minilora.train import frozen_states


@pytest.fixture(scope="module")
def fitted(gear_run):
    out, data = gear_run
    return out, data / "test" / "good" / "000.png"


def test_the_page_shows_every_stage_and_the_same_score_as_predict(fitted):
    out, picture = fitted
    detector = Detector.open(out)
    body = explain.explain(detector, picture)
    for heading in ("The prompts", "Shapes", "Attention", "Cosine", "by LoRA", "scores"):
        assert heading in body
    assert "a photo of a damaged gear" in body and "(3, 64, 64)" in body
    pixels = detector.prepare(detector.read(picture))[None]
    assert f"<td>{detector.score(pixels)[1].item():.3f}</td>" in body
    assert not re.search("<script|https?:", body) and all(
        'alt="' in tag for tag in re.findall("<img[^>]*>", body))


def test_a_head_that_does_not_exist_is_refused(fitted):
    with pytest.raises(ValueError, match="--head 9: expected 0 to"):
        explain.explain(Detector.open(fitted[0]), fitted[1], head=9)


def test_attention_of_cls_is_the_first_row_of_the_softmax(tiny_clip):
    tokens = torch.randn(1, 17, 64, generator=torch.Generator().manual_seed(0))
    block = tiny_clip.visual.blocks[-1]
    x = block.ln_1(tokens)[0]
    q, k = x @ block.attn.q.weight.T + block.attn.q.bias, x @ block.attn.k.weight.T
    scores = (q @ (k + block.attn.k.bias).T / math.sqrt(64)).softmax(-1)
    found = explain.attention_of_cls(tiny_clip.visual, tokens, 0)
    assert torch.allclose(found, scores[0, 1:], atol=1e-6)


def test_attention_without_lora_is_that_of_the_pretrained_tower(tiny_clip, monkeypatch):
    """q and k of the last block belong to LoRA as well, not only the state that enters it."""
    visual, plain = tiny_clip.visual, copy.deepcopy(tiny_clip.visual)
    generator = torch.Generator().manual_seed(0)
    add_lora(visual, generator=generator)
    for layer in lora_layers(visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.5, generator=generator)
    shown = []
    monkeypatch.setattr(explain, "heat",
                        lambda values: shown.append(values) or Image.new("L", (1, 1)))
    pixels = torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        frozen = frozen_states(visual, pixels)
        adapted = visual.hidden_states(visual.embed(normalise(pixels)))
        explain.attention_part(visual, frozen, adapted, 0, (4, -1))
        entering = plain.hidden_states(plain.embed(normalise(pixels)))[-2]
        expected = explain.attention_of_cls(plain, entering, 0).view(4, 4)
    assert torch.allclose(shown[0], expected, atol=1e-6)
    assert (shown[1] - expected).abs().max() > 1e-3, "with LoRA it is another"


def test_the_changes_by_lora_are_those_of_b_times_a(tiny_clip):
    generator = torch.Generator().manual_seed(0)
    add_lora(tiny_clip.visual, ("q",), (2,), rank=2, alpha=4, generator=generator)
    (layer,) = lora_layers(tiny_clip.visual).values()
    torch.nn.init.normal_(layer.lora_B, std=0.1, generator=generator)
    with torch.no_grad():
        ((name, norm, share, first, cosine),) = explain.lora_changes(tiny_clip.visual)
        delta = 2 * layer.lora_B @ layer.lora_A
        values = torch.linalg.svd(delta).S
    assert norm == pytest.approx(delta.norm().item(), rel=1e-5) and 0.5 <= first <= 1
    assert first == pytest.approx((values[0] / values.sum()).item(), rel=1e-4)
    assert share == pytest.approx((delta.norm() / layer.weight.norm()).item(), rel=1e-5)
    assert -1 <= cosine <= 1


def test_heat_runs_from_the_lowest_to_the_highest_value():
    image = explain.heat(torch.arange(4.0).view(2, 2))
    assert isinstance(image, Image.Image) and image.size == (explain.PAGE_SIDE, explain.PAGE_SIDE)
    last = explain.PAGE_SIDE - 1
    dark, bright = image.getpixel((0, 0)), image.getpixel((last, last))
    assert sum(dark) < sum(bright)
