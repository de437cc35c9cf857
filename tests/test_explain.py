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
from minilora.report import explain_parts, score_parts
from minilora.train import frozen_states


@pytest.fixture(scope="module")
def fitted(gear_run):
    out, data = gear_run
    return out, data / "test" / "good" / "000.png"


def test_the_page_shows_every_stage_and_the_same_score_as_predict(fitted):
    out, picture = fitted
    detector = Detector.open(out)
    body = explain.explain(detector, picture)
    for heading in ("add up to the score", "nearest good patch", "The prompts", "Shapes",
                    "Attention", "Cosine", "by LoRA", "scores of all rows"):
        assert heading in body
    assert "a photo of a damaged gear" in body and "(3, 64, 64)" in body
    pixels = detector.prepare(detector.read(picture))[None]
    score = f"{detector.score(pixels)[1].item():.3f}"
    assert f"<td>{score}</td>" in body and f"<td><b>{score}</b></td>" in body
    assert "row lora-only" in body and "<tuple>" not in body and "&lt;tuple" not in body
    assert not re.search("<script|https?:", body) and all(
        'alt="' in tag for tag in re.findall("<img[^>]*>", body))


@pytest.mark.parametrize("name", ["adapted", "text", "zero-shot"])
def test_the_parts_add_up_to_the_score(fitted, name):
    out, picture = fitted
    detector = Detector.open(out)
    pixels = detector.prepare(detector.read(picture))[None]
    with torch.no_grad():
        features = detector.encode(pixels, name != "zero-shot")
        maps, score = detector.map_and_score(features, name)
    parts = score_parts.score_parts(detector, features, name)
    assert sum(parts[:3]) == pytest.approx(score.item(), abs=1e-5) and parts.whole > 0
    assert torch.allclose(parts.memory_map + parts.text_map, maps[0], atol=1e-5)
    assert (parts.memory > 0) == (name == "adapted")


def test_the_numbers_on_the_page_add_up_to_the_printed_score(fitted):
    out, picture = fitted
    detector = Detector.open(out)
    body = explain.explain(detector, picture)
    values = re.findall(r"<td>(?:<b>)?([\d.]+)(?:</b>)?</td></tr>",
                        body[:body.index("threshold</td>")])
    *parts, total = map(float, values)
    assert len(parts) == 3 and round(sum(parts), 3) == total
    for module in ("memory_bank.py", "anomaly_map.py", "calibration.py", "lora.py", "bpe.py"):
        assert module in body


@pytest.mark.parametrize("parts, total", [
    ([0.3335, 0.3335, 0.3335], 1.0005), ([1.0004, 0.0004, 0.0004], 1.0012), ([0, 0, 0], 0)])
def test_rounded_parts_add_up_to_the_rounded_sum(parts, total):
    texts = score_parts.rounded_parts(parts, total)
    assert round(sum(map(float, texts)), 3) == round(total, 3)
    assert all(abs(float(text) - part) <= 0.0021 for text, part in zip(texts, parts))


def test_a_head_that_does_not_exist_is_refused(fitted):
    with pytest.raises(ValueError, match="--head 9: expected 0 to"):
        explain.explain(Detector.open(fitted[0]), fitted[1], head=9)


def test_attention_of_cls_is_the_first_row_of_the_softmax(tiny_clip):
    tokens = torch.randn(1, 17, 64, generator=torch.Generator().manual_seed(0))
    block = tiny_clip.visual.blocks[-1]
    x = block.ln_1(tokens)[0]
    q, k = x @ block.attn.q.weight.T + block.attn.q.bias, x @ block.attn.k.weight.T
    scores = (q @ (k + block.attn.k.bias).T / math.sqrt(64)).softmax(-1)
    found = explain_parts.attention_of_cls(tiny_clip.visual, tokens, 0)
    assert torch.allclose(found, scores[0, 1:], atol=1e-6)


def test_attention_without_lora_is_that_of_the_pretrained_tower(tiny_clip, monkeypatch):
    """q and k of the last block belong to LoRA as well, not only the state that enters it."""
    visual, plain = tiny_clip.visual, copy.deepcopy(tiny_clip.visual)
    generator = torch.Generator().manual_seed(0)
    add_lora(visual, generator=generator)
    for layer in lora_layers(visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.5, generator=generator)
    shown = []
    monkeypatch.setattr(explain_parts, "heat", lambda values, low, high: (
        shown.append(values) or Image.new("L", (1, 1))))
    pixels = torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        frozen = frozen_states(visual, pixels)
        adapted = visual.hidden_states(visual.embed(normalise(pixels)))
        explain_parts.attention_part(visual, frozen, adapted, 0, (4, -1))
        entering = plain.hidden_states(plain.embed(normalise(pixels)))[-2]
        expected = explain_parts.attention_of_cls(plain, entering, 0).view(4, 4)
    assert torch.allclose(shown[0], expected, atol=1e-6)
    assert (shown[1] - expected).abs().max() > 1e-3, "with LoRA it is another"


def test_the_changes_by_lora_are_those_of_b_times_a(tiny_clip):
    generator = torch.Generator().manual_seed(0)
    add_lora(tiny_clip.visual, ("q",), (2,), rank=2, alpha=4, generator=generator)
    (layer,) = lora_layers(tiny_clip.visual).values()
    torch.nn.init.normal_(layer.lora_B, std=0.1, generator=generator)
    with torch.no_grad():
        ((name, norm, share, first, cosine),) = explain_parts.lora_changes(tiny_clip.visual)
        delta = 2 * layer.lora_B @ layer.lora_A
        values = torch.linalg.svd(delta).S
    assert norm == pytest.approx(delta.norm().item(), rel=1e-5) and 0.5 <= first <= 1
    assert first == pytest.approx((values[0] / values.sum()).item(), rel=1e-4)
    assert share == pytest.approx((delta.norm() / layer.weight.norm()).item(), rel=1e-5)
    assert -1 <= cosine <= 1


def test_heat_runs_from_the_lowest_to_the_highest_value():
    image = explain_parts.heat(torch.arange(4.0).view(2, 2), 0, 3)
    assert isinstance(image, Image.Image) and image.size == (explain_parts.PAGE_SIDE, explain_parts.PAGE_SIDE)
    last = explain_parts.PAGE_SIDE - 1
    dark, bright = image.getpixel((0, 0)), image.getpixel((last, last))
    assert sum(dark) < sum(bright)
