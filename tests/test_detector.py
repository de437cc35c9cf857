"""The detector: what is trained, what stays frozen, what is shared between rows, what is stored."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import TINY

from minilora.adapt import adaptation_loss, continued, entering_streams
from minilora.anomaly import image_score
from minilora.checkpoint import Weights
from minilora.clip import CLIP, CLIPConfig
from minilora.detector import ROWS, Detector
from minilora.files import load_tensors, save_tensors
from minilora.images import normalise
from minilora.lora import lora_layers, lora_off
from minilora.memory import Memory
from minilora.settings import Settings
from minilora.sight import first_adapted, remembered_layers

SMALL = Settings(steps=6, batch=4, pool=8, rank=2, alpha=2)
WEIGHTS = Weights("tiny", None, "0" * 64)


@pytest.fixture
def good():
    """Five pictures of a disc on a plain ground, (5, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(0)
    side = torch.linspace(-1, 1, 64)
    disc = (side[:, None] ** 2 + side**2 < 0.5).float() * 0.5 + 0.25
    return (disc + 0.02 * torch.randn(5, 3, 64, 64, generator=generator)).clamp(0, 1)


@pytest.fixture
def fitted(tiny_clip, good):
    return Detector(tiny_clip, "plate", SMALL).fit(good[:4])


@pytest.mark.parametrize("layers, blocks, first, remembered", [
    (5, 0, 5, (1, 3)), (12, 0, 11, (3, 8)), (24, 0, 21, (6, 16)),      # mini-clip, ViT-B, ViT-L
    (12, 4, 9, (3, 8)), (12, 8, 5, (2, 4)), (5, 5, 1, (1,)), (1, 0, 1, (1,))])
def test_lora_is_in_the_last_sixth_and_the_memory_looks_before_it(layers, blocks, first,
                                                                  remembered):
    assert first_adapted(layers, blocks) == first
    assert remembered_layers(layers, first) == remembered


def test_fit_moves_lora_and_the_context_and_nothing_else(tiny_clip, good):
    before = copy.deepcopy(tiny_clip.state_dict())
    detector = Detector(tiny_clip, "plate", SMALL)
    context = detector.prompts.context.detach().clone()
    detector.fit(good[:4])
    after = tiny_clip.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "CLIP is frozen"
    assert all(norm > 0 for norm in detector.delta_norms().values())
    assert not torch.equal(context, detector.prompts.context)


def test_only_lora_and_context_are_counted_as_trainable(tiny_clip):
    detector = Detector(tiny_clip, "plate", SMALL)
    lora = len(lora_layers(tiny_clip.visual)) * 2 * 64 * SMALL.rank  # A and B, both 64 wide
    assert detector.parameters()[0] == lora + 2 * 4 * 64  # two prompts, four words each


def test_blocks_before_the_first_adapted_one_need_no_second_pass(fitted, good):
    visual = fitted.clip.visual
    with torch.no_grad():
        frozen = fitted.looks(good)[1]
        shared = continued(fitted.clip.visual, frozen, fitted.first)
        whole = visual.hidden_states(visual.embed(normalise(good)))
    assert len(shared) == len(whole) - 1, "nobody needs what leaves the last block"
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(shared, whole))
    plain, adapted = fitted.frozen_patches(frozen), fitted.adapted_patches(frozen)
    assert torch.allclose(adapted, visual.value_value(whole), atol=1e-5)
    assert not torch.allclose(plain, adapted, atol=1e-4), "LoRA does change the patches"


@pytest.mark.parametrize("layers, streams", [(3, 1), (12, 2)])
def test_training_on_the_pool_equals_training_on_the_pictures(layers, streams, good):
    """What is frozen is computed once; the gradient is that of the plain step, from pixels.

    With 12 blocks, the second path leaves before the ninth and LoRA starts with the eleventh.
    """
    config = CLIPConfig(**TINY | {"vision_layers": layers})
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0))
    visual, detector = clip.visual, Detector(clip, "plate", SMALL)
    trained = [p for p in visual.parameters() if p.requires_grad]
    for layer in lora_layers(visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.02, generator=torch.Generator().manual_seed(1))
    coverage = torch.zeros(4, 16)
    coverage[0, 5] = 1
    pooled = entering_streams(visual, good[:4], detector.first)
    pixels = visual.embed(normalise(good[:4]))[:, None]
    assert pooled.shape[1] == streams
    one, two = (adaptation_loss(clip, detector.prompts, entering, coverage, first, (1, 0.5, 0.1))
                for entering, first in ((pooled, detector.first), (pixels, 1)))
    assert one.item() == pytest.approx(two.item(), abs=1e-6)
    for a, b in zip(*(torch.autograd.grad(loss, trained) for loss in (one, two))):
        assert torch.allclose(a, b, atol=1e-6) and a.abs().max() > 0


def test_the_unadapted_rows_do_not_feel_lora(fitted, good):
    rows = fitted.rows(good)
    for layer in lora_layers(fitted.clip.visual).values():
        torch.nn.init.normal_(layer.lora_B, std=1.0, generator=torch.Generator().manual_seed(1))
    moved = fitted.rows(good)
    for row in ("zero-shot", "memory", "lora-off"):
        assert all(map(torch.equal, rows[row], moved[row])), row
    for row in ("text", "adapted"):
        assert not torch.allclose(rows[row][0], moved[row][0], atol=1e-3), row


def test_the_text_map_is_the_mean_of_lora_on_and_off(fitted, good):
    for layer in lora_layers(fitted.clip.visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        frozen = fitted.looks(good)[1]
        on, off = (fitted.to_map(fitted.text_probability(patches(frozen), fitted.learned))
                   for patches in (fitted.adapted_patches, fitted.frozen_patches))
    assert (on - off).abs().max() > 1e-3
    assert torch.allclose(fitted.rows(good)["text"][0], (on + off) / 2, atol=1e-6)


def test_the_whole_picture_adds_its_probability_to_the_score_and_nothing_to_the_map(fitted, good):
    """By the frozen tower, at the sizes 1 and 0.5, as `encode_image` sees them."""
    clip = fitted.clip
    with torch.no_grad(), lora_off(clip.visual):
        half = torch.nn.functional.interpolate(good, (32, 32), mode="bicubic", antialias=True)
        seen = [clip.encode_image(normalise(x.clamp(0, 1))) for x in (good, half)]
        whole = sum(clip.similarity(x, fitted.learned).softmax(-1)[:, 1] for x in seen) / 2
    maps, scores = fitted.score(good)
    top = image_score(maps, fitted.settings.top)
    assert torch.allclose(scores - top, fitted.settings.picture_weight * whole, atol=1e-5)
    assert (whole > 1e-4).all()
    memory, alone = fitted.rows(good)["memory"]
    assert torch.equal(alone, image_score(memory, fitted.settings.top)), "no text in that row"


def test_a_pixel_is_suspicious_where_the_map_alone_would_make_the_picture_ng(fitted, good):
    maps, scores = fitted.score(good)
    flat = fitted.line(maps, scores)[:, None, None].expand_as(maps)     # such a map throughout
    whole = scores - image_score(maps, fitted.settings.top)
    assert torch.allclose(image_score(flat, fitted.settings.top, whole),
                          torch.full((len(good),), fitted.threshold), atol=1e-5)


def test_sizes_are_weighed_by_defects_pasted_into_photographs_that_the_memory_lacks(
        tiny_clip, good, monkeypatch):
    asked = []
    kept = Memory.score

    def score(self, tokens, owners=None, remembered=None):
        if owners is not None:
            asked.append((owners.tolist(), remembered.tolist()))
        return kept(self, tokens, owners, remembered)
    monkeypatch.setattr(Memory, "score", score)
    detector = Detector(tiny_clip, "plate", replace(SMALL, copies=2)).fit(good[:2])
    assert asked == 3 * [([0, 1, 0, 1], 8 * [0, 1])], "three sizes; 2 shots, 2 copies, 4 turns"
    weights = [m.weight for m in detector.memory]
    assert sum(weights) == pytest.approx(1) and len(set(weights)) == 3
    assert 0 < detector.text_share <= 1


@pytest.mark.parametrize("memory, text, share", [(0.1, 0.4, 0.25), (0.4, 0.1, 1.0)])
def test_the_text_map_counts_less_where_the_memory_errs_less(tiny_clip, good, monkeypatch, memory,
                                                             text, share):
    errors = iter([0.2, 0.2, 0.2, memory, text])                # three sizes, all of them, texts
    monkeypatch.setattr("minilora.trial.error", lambda *_: next(errors))
    detector = Detector(tiny_clip, "plate", SMALL).fit(good[:2])
    assert detector.text_share == pytest.approx(share)
    fused = detector.fuse(torch.zeros(1), torch.ones(1)).item()
    assert fused == pytest.approx(share * detector.settings.text_weight)


def test_without_a_trial_all_sizes_count_alike(tiny_clip, good):
    even = Detector(tiny_clip, "plate", replace(SMALL, trial=False)).fit(good[:2])
    assert [m.weight for m in even.memory] == pytest.approx(3 * [1 / 3])
    assert even.text_share == 1


def test_without_training_lora_on_and_off_agree(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", Settings(steps=0)).fit(good[:4])
    rows = detector.rows(good)
    for row, other in (("adapted", "lora-off"), ("text", "zero-shot")):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(rows[row], rows[other])), row
    assert all(norm == 0 for norm in detector.delta_norms().values())


def test_rows_are_those_of_every_table(fitted, good, tiny_clip):
    assert list(fitted.rows(good)) == list(ROWS)


def test_without_shots_there_is_zero_shot_and_no_decision(tiny_clip, good):
    detector = Detector(tiny_clip, "plate")
    assert list(detector.rows(good)) == ["zero-shot"] and detector.threshold is None


def test_memory_knows_its_own_shots_and_not_a_stranger(fitted, good):
    strange = good[4:].clone()
    strange[:, :, 20:44, 20:44] = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(2))
    known, _ = fitted.rows(good[:1])["memory"]
    other, _ = fitted.rows(strange)["memory"]
    assert known.max() < 0.05 < other.max()
    row, column = divmod(int(other[0].flatten().argmax()), 64)
    assert 12 <= row < 52 and 12 <= column < 52, "the maximum lies where the picture was changed"


def test_one_shot_is_enough_for_memory_and_threshold(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", SMALL).fit(good[:1])
    assert detector.threshold > 0 and all((m.level > 0).all() for m in detector.memory)


def test_every_shot_is_remembered_in_four_directions(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", replace(SMALL, copies=2)).fit(good[:3])
    patches = [m.patches.shape[1] for m in detector.memory]
    assert patches == [3 * 2 * 4 * grid * grid for grid in (8, 4, 2)], "sizes 2, 1, 0.5"
    upside_down, _ = detector.rows(good[:1].flip(2, 3))["memory"]
    assert upside_down.max() < 0.05, "half a turn changes nothing"


def test_many_shots_leave_no_room_for_copies(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", SMALL)
    for room, expected in ((3, 3), (5, 3), (6, 6), (12, 12), (100, 24)):
        detector.settings = replace(SMALL, copies=2, remembered=room)
        shown, owners, turns = detector.copies_of(good[:3])
        assert len(shown) == len(owners) == expected and owners.tolist()[:3] == [0, 1, 2]
        assert turns == (4 if room >= 12 else 1)
        assert torch.equal(shown[-1], torch.rot90(shown[expected // turns - 1], turns - 1, (1, 2)))


def test_the_same_seed_gives_the_same_detector_to_the_last_digit(good):
    from conftest import TINY

    from minilora.clip import CLIP, CLIPConfig

    scores = []
    for _ in range(2):
        clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
        scores.append(Detector(clip, "plate", SMALL).fit(good[:4]).score(good)[0])
    assert torch.equal(*scores)


def test_a_saved_detector_scores_as_before(fitted, good, tmp_path):
    from conftest import TINY

    from minilora.clip import CLIP, CLIPConfig

    fitted.save(tmp_path, WEIGHTS)
    clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
    loaded = Detector.load(tmp_path, clip, WEIGHTS)
    assert loaded.threshold == fitted.threshold and loaded.settings == fitted.settings
    rows, again = fitted.rows(good), loaded.rows(good)
    for row in rows:                                            # the memory is stored in half
        assert torch.allclose(rows[row][0], again[row][0], atol=3e-2), row
    assert all(map(torch.equal, rows["text"], again["text"]))


def test_an_adapter_refuses_other_base_weights(fitted, tiny_clip, tmp_path):
    fitted.save(tmp_path, WEIGHTS)
    with pytest.raises(ValueError, match="fitted on tiny.*found other"):
        Detector.load(tmp_path, tiny_clip, Weights("other", None, "1" * 64))


@pytest.mark.parametrize("share", [1.5, -0.5, float("nan"), "1", None])
def test_a_share_of_the_text_map_that_is_none_is_refused(fitted, tmp_path, share):
    clip = CLIP(CLIPConfig(**TINY)).initialise(torch.Generator().manual_seed(0))
    fitted.save(tmp_path, WEIGHTS)
    saved = load_tensors(tmp_path / "adapter.pt")
    save_tensors(tmp_path / "adapter.pt", saved | {"text_share": share})
    with pytest.raises(ValueError, match="text_share.*expected a number from 0 to 1"):
        Detector.load(tmp_path, clip, WEIGHTS)


def test_the_adapter_file_holds_no_base_weights(fitted, tmp_path):
    fitted.save(tmp_path, WEIGHTS)
    assert (tmp_path / "adapter.pt").stat().st_size < 60_000


def test_lora_is_on_again_after_scoring(fitted, good):
    fitted.rows(good)
    assert all(layer.enabled for layer in lora_layers(fitted.clip.visual).values())
    with lora_off(fitted.clip.visual):
        assert not any(layer.enabled for layer in lora_layers(fitted.clip.visual).values())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_in_the_tower_decides_alike(fitted, good, precision):
    defective = good.clone()
    defective[:, :, 20:36, 20:36] = 0.9
    pictures = torch.cat([good, defective])
    _, exact = fitted.score(pictures)
    fitted.precision = precision
    maps, scores = fitted.score(pictures)
    assert maps.dtype == scores.dtype == torch.float32
    assert torch.equal(scores > fitted.threshold, exact > fitted.threshold)
    assert 0 < (scores - exact).abs().max() < 0.05 * fitted.threshold
    rows = fitted.rows(pictures)
    assert torch.equal(rows["adapted"][0], maps)
