"""The detector: what is trained and what is frozen, rows, memory, threshold, files."""
import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from PIL import Image

from minilora import anomaly_map
from minilora.anomaly_map import image_score
from minilora.calibration import folds
from minilora.checkpoint.weights import Weights, load_clip
from minilora.clip import CLIP, CLIPConfig
from minilora.config import LIMITS, SETTING_SCHEMAS, DetectorConfig
from minilora.data.images import normalise
from minilora.detector import Detector
from minilora.features import default_memory_states
from minilora.io.files import load_tensors, save_tensors
from minilora.io.safetensors import is_safetensors
from minilora.lora import disable_lora, lora_layers
from minilora.memory_bank import CORESET_SHARE
from minilora.rows import ROWS
from minilora.train import adaptation_loss, frozen_states, synthetic_batches, training_pool

SMALL = DetectorConfig(steps=6, batch=4, n_train_images=8, rank=2, alpha=2)
WEIGHTS = Weights("tiny", None, "0" * 64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def discs(count, height=64, width=64, seed=0):
    """Pictures of a disc on a plain ground, (count, 3, height, width)."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height) * height / 64,
                          torch.linspace(-1, 1, width) * width / 64, indexing="ij")
    disc = (y**2 + x**2 < 0.5).float() * 0.5 + 0.25
    noise = torch.randn(count, 3, height, width, generator=seeded(seed))
    return (disc + 0.02 * noise).clamp(0, 1)


def fresh_clip(**changes):
    return CLIP(CLIPConfig(**TINY | changes)).initialise(seeded())


def disturb(detector, std):
    """Draws every B of LoRA at random, as a stand-in for a longer training."""
    for k, layer in enumerate(lora_layers(detector.clip.visual).values()):
        torch.nn.init.normal_(layer.lora_B, std=std, generator=seeded(k))


@pytest.fixture
def good():
    return discs(5)


@pytest.fixture
def full_text_weight(monkeypatch):
    """The text map gets its maximum weight, although the text features are untrained."""
    monkeypatch.setattr("minilora.calibration.text_weight_fraction", lambda detector, left_out: 1.0)


@pytest.fixture
def fitted(tiny_clip, good, full_text_weight):
    return Detector(tiny_clip, "plate", SMALL).fit(good[:4])


# ---- which blocks -------------------------------------------------------------------------------

@pytest.mark.parametrize("layers, adapted, states", [
    (5, 1, (2, 4)), (12, 4, (6, 8)), (24, 8, (12, 16)),                # mini-clip, ViT-B, ViT-L
    (12, 1, (6, 9)), (12, 8, (4,)), (3, 1, (1, 2)), (3, 2, (1,)), (2, 1, (1,))])
def test_the_memory_uses_states_at_half_and_three_quarters_of_the_depth_before_lora(
        layers, adapted, states):
    assert default_memory_states(layers, layers - adapted) == states
    assert max(states) <= layers - adapted


@pytest.mark.parametrize("layers, blocks, adapted", [(3, 0, 1), (5, 0, 1), (12, 0, 4), (24, 0, 8),
                                                     (5, 2, 2), (5, 4, 4)])
def test_lora_is_in_the_last_third_of_the_blocks_or_in_the_last_n(layers, blocks, adapted):
    detector = Detector(fresh_clip(vision_layers=layers), "plate", replace(SMALL, blocks=blocks))
    found = {int(name.split(".")[1]) for name in lora_layers(detector.clip.visual)}
    assert detector.n_adapted_blocks == adapted and found == set(range(layers - adapted, layers))
    assert len(lora_layers(detector.clip.visual)) == 4 * adapted, "q, k, v, out of each"


@pytest.mark.parametrize("config, message", [
    (DetectorConfig(memory_states=(3,)), r"memory_states \(3,\): expected numbers up to 2"),
    (DetectorConfig(memory_states=(1, 99)), r"memory_states \(1, 99\): expected numbers up to 2"),
    (DetectorConfig(memory_states=(2,), blocks=2), "up to 1, the input of the first block with"),
    (DetectorConfig(blocks=50), "blocks must be numbers from 0 to 2")])
def test_states_after_lora_and_blocks_that_do_not_exist_are_refused(tiny_clip, config, message):
    with pytest.raises(ValueError, match=message):
        Detector(tiny_clip, "plate", config)


# ---- training -----------------------------------------------------------------------------------

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
    assert detector.count_parameters()[0] == lora + 2 * 4 * 64  # two prompts, four words each


def trained_tensors(detector):
    """{name: parameter}: A and B of every adapted projection, and the context."""
    found = {f"{name}.{part}": getattr(layer, part) for part in ("lora_A", "lora_B")
             for name, layer in lora_layers(detector.clip.visual).items()}
    return found | {"context": detector.prompts.context}


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_trained_tensor_moves_the_score(tiny_clip, good, blocks, full_text_weight):
    """The score of a picture changes if any trained tensor changes."""
    detector = Detector(tiny_clip, "plate", replace(SMALL, blocks=blocks)).fit(good[:3])
    disturb(detector, 0.1)
    tensors = trained_tensors(detector)
    assert len(tensors) == 2 * 4 * blocks + 1

    def score():
        with torch.no_grad():
            detector.text_features = detector.prompts()
        return detector.score(good[4:])[1]
    before = score()
    for name, tensor in tensors.items():
        kept = tensor.detach().clone()
        tensor.data += kept.std() * torch.randn(tensor.shape, generator=seeded())
        assert (score() - before).abs() > 1e-6, f"{name} has no effect"
        tensor.data.copy_(kept)
    assert torch.equal(score(), before)


def gradients(detector, pictures):
    """{name: gradient} of every trained tensor in the first step of a training."""
    clip, layers = detector.clip, len(detector.clip.visual.blocks)
    adapted, config = detector.n_adapted_blocks, detector.config
    entering, coverage = training_pool(clip.visual, pictures, adapted, config, seeded())
    loss = adaptation_loss(clip, detector.prompts, torch.stack(entering), torch.stack(coverage),
                           layers - adapted, config.loss_weights, adapted)
    tensors = trained_tensors(detector)
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values()))))


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_trained_tensor_has_a_gradient(tiny_clip, good, blocks):
    """In the first step A has no gradient, because B is zero (LoRA, section 4.1); later it has."""
    detector = Detector(tiny_clip, "plate", replace(SMALL, blocks=blocks))
    for name, gradient in gradients(detector, good[:3]).items():
        assert gradient.any() != name.endswith("lora_A"), name
    disturb(detector, 0.02)
    for name, gradient in gradients(detector, good[:3]).items():
        assert gradient.isfinite().all() and gradient.abs().max() > 1e-8, name


@pytest.mark.parametrize("layers, last", [(3, 1), (12, 4)])
def test_training_on_the_pool_equals_training_on_the_pictures(layers, last, good):
    """The frozen blocks are computed once; the gradient is the same as from pixels."""
    clip = fresh_clip(vision_layers=layers)
    visual, detector = clip.visual, Detector(clip, "plate", SMALL)
    trained = [p for p in visual.parameters() if p.requires_grad] + [detector.prompts.context]
    disturb(detector, 0.02)
    coverage = torch.zeros(4, 16)
    coverage[0, 5] = 1
    assert detector.n_adapted_blocks == last
    pooled = frozen_states(visual, good[:4], layers - last)[-1]
    pixels = visual.embed(normalise(good[:4]))
    one, two = (adaptation_loss(clip, detector.prompts, entering, coverage, first, (1, 0.5, 0.1),
                                last)
                for entering, first in ((pooled, layers - last), (pixels, 0)))
    assert one.item() == pytest.approx(two.item(), abs=1e-6)
    for a, b in zip(*(torch.autograd.grad(loss, trained) for loss in (one, two))):
        assert torch.allclose(a, b, atol=1e-6) and a.abs().max() > 0


def test_the_pool_is_the_input_of_the_first_adapted_block(tiny_clip, good):
    """For every picture: (1+P, W), and the defective share of each patch (P,)."""
    detector = Detector(tiny_clip, "plate", SMALL)
    entering, coverage = training_pool(tiny_clip.visual, good[:3], 1, SMALL, seeded())
    assert [x.shape for x in entering] == SMALL.n_train_images * [(17, 64)]
    assert [x.shape for x in coverage] == SMALL.n_train_images * [(16,)]
    marked = [bool(share.any()) for share in coverage]
    assert sum(marked) == SMALL.n_train_images // 2, "half of the pictures have a defect"
    again, _ = training_pool(tiny_clip.visual, good[:3], 1, SMALL, seeded())
    assert all(map(torch.equal, entering, again)) and detector.n_adapted_blocks == 1


def test_every_photograph_is_shown_with_defects_and_without():
    """For any batch size; otherwise the network could learn to recognise the photograph."""
    colours = ((0.8, 0.2, 0.2), (0.2, 0.8, 0.2), (0.2, 0.2, 0.8), (0.8, 0.8, 0.2))
    plain = [torch.tensor(colour)[:, None, None].expand(3, 64, 64) for colour in colours]
    seen = {}
    config = replace(SMALL, n_train_images=64, batch=4)
    for pixels, masks in synthetic_batches(plain, config, seeded()):
        for picture, mask in zip(pixels, masks):
            colour = tuple((picture.flatten(1).median(1).values > 0.5).tolist())
            seen.setdefault(colour, []).append(bool(mask.any()))
    assert len(seen) == 4 and all(2 < sum(damaged) < 14 for damaged in seen.values())


# ---- rows ---------------------------------------------------------------------------------------

def test_rows_are_those_of_every_table(fitted, good):
    assert list(fitted.rows(good)) == list(ROWS)


def test_without_shots_there_is_zero_shot_and_no_decision(tiny_clip, good):
    detector = Detector(tiny_clip, "plate")
    assert list(detector.rows(good)) == ["zero-shot"] and detector.threshold is None


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_a_score_is_that_of_the_row_adapted_to_the_last_digit(fitted, size):
    pictures = discs(3, *size, seed=1)
    disturb(fitted, 0.1)
    assert fitted.precision == "float32"
    assert all(map(torch.equal, fitted.score(pictures), fitted.rows(pictures)["adapted"]))


def test_without_shots_a_score_is_that_of_the_row_zero_shot(tiny_clip, good):
    detector = Detector(tiny_clip, "plate")
    assert all(map(torch.equal, detector.score(good), detector.rows(good)["zero-shot"]))


def test_the_unadapted_rows_do_not_depend_on_lora(fitted, good):
    rows = fitted.rows(good)
    disturb(fitted, 1.0)
    moved = fitted.rows(good)
    for row in ("zero-shot", "memory", "lora-off"):
        assert all(map(torch.equal, rows[row], moved[row])), row
    for row in ("text", "adapted"):
        assert not torch.allclose(rows[row][0], moved[row][0], atol=1e-3), row
        assert not torch.allclose(rows[row][1], moved[row][1], atol=1e-3), row


def test_without_training_lora_on_and_off_agree(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", DetectorConfig(steps=0)).fit(good[:4])
    rows = detector.rows(good)
    for row, other in (("adapted", "lora-off"), ("text", "zero-shot")):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(rows[row], rows[other])), row
    assert all(norm == 0 for norm in detector.delta_norms().values())


def test_a_map_is_the_memory_map_over_its_scale_plus_the_weighted_text_map(fitted, good):
    """Steps 2 to 4 of the module's docstring; smoothing is linear."""
    disturb(fitted, 0.1)
    seen = fitted.encode(good)
    scale = fitted.clip.logit_scale.exp()
    text = anomaly_map.text_map(seen.text_patches, fitted.text_features, scale)
    both = torch.cat([seen.frozen_tokens, F.normalize(seen.text_patches, dim=-1)], -1) / 2 ** 0.5
    memory = fitted.banks["adapted"].distances(both) / fitted.memory_scale
    expected = anomaly_map.to_pixels(memory + fitted.text_weight * text, (64, 64),
                                     fitted.config.sigma * 64 / 224)
    assert torch.allclose(fitted.score(good)[0], expected, atol=1e-6)


def test_the_memory_compares_frozen_tokens_and_adapted_patches_alike(fitted, good):
    """Both are of length one, so the cosine of both together is the mean of their cosines."""
    seen, other = fitted.encode(good[:1]), fitted.encode(good[4:])
    tokens = [fitted.bank_features(s, "adapted")[0] for s in (seen, other)]
    parts = [torch.cosine_similarity(a[0], b[0], dim=-1)
             for a, b in ((seen.frozen_tokens, other.frozen_tokens),
                          (seen.text_patches, other.text_patches))]
    assert torch.allclose((tokens[0] * tokens[1]).sum(-1), (parts[0] + parts[1]) / 2, atol=1e-5)
    assert torch.equal(fitted.bank_features(seen, "memory"), seen.frozen_tokens), "no adaptation"
    both, frozen = (fitted.banks[name].tokens for name in ("adapted", "memory"))
    assert torch.allclose(frozen.norm(dim=-1), torch.ones(len(frozen)), atol=1e-6)
    same = both[:, :frozen.shape[1]] * 2 ** 0.5
    assert torch.allclose(frozen, same, atol=1e-3), "the same patches"


def test_the_whole_picture_adds_its_probability_to_the_score_and_nothing_to_the_map(fitted, good):
    """The feature is that of `encode_image` of the adapted tower; the weight is the map's."""
    disturb(fitted, 0.1)
    clip = fitted.clip
    with torch.no_grad():
        logits = clip.similarity(clip.encode_image(normalise(good)), fitted.text_features)
        whole = logits.softmax(-1)[:, 1]
    maps, scores = fitted.score(good)
    top = image_score(maps, fitted.config.top_fraction)
    added = fitted.config.image_weight * fitted.text_weight * whole
    assert torch.allclose(scores - top, added, atol=1e-5) and (whole > 1e-4).all()
    memory, alone = fitted.rows(good)["memory"]
    assert torch.equal(alone, image_score(memory, fitted.config.top_fraction)), "a row without text"


def test_a_pixel_is_suspicious_where_the_map_alone_would_make_the_picture_ng(fitted, good):
    maps, scores = fitted.score(good)
    flat = fitted.pixel_threshold(maps, scores)[:, None, None].expand_as(maps)
    whole = scores - image_score(maps, fitted.config.top_fraction)
    assert torch.allclose(image_score(flat, fitted.config.top_fraction, whole),
                          torch.full((len(good),), fitted.threshold), atol=1e-5)


def test_lora_is_on_again_after_scoring(fitted, good):
    fitted.rows(good)
    assert all(layer.enabled for layer in lora_layers(fitted.clip.visual).values())
    with disable_lora(fitted.clip.visual):
        assert not any(layer.enabled for layer in lora_layers(fitted.clip.visual).values())


# ---- memory, memory scale, text weight and threshold --------------------------------------------

def test_the_memory_map_is_low_for_the_shots_and_high_for_a_changed_picture(fitted, good):
    strange = good[4:].clone()
    strange[:, :, 20:44, 20:44] = torch.rand(3, 24, 24, generator=seeded(2))
    known, _ = fitted.rows(good[:1])["memory"]
    other, _ = fitted.rows(strange)["memory"]
    assert 2 * known.max() < other.max()
    row, column = divmod(int(other[0].flatten().argmax()), 64)
    assert 12 <= row < 52 and 12 <= column < 52, "the maximum lies where the picture was changed"


@pytest.mark.parametrize("rotations", [True, False])
def test_the_memory_holds_every_shot_in_four_rotations_if_they_are_on(tiny_clip, good, rotations):
    detector = Detector(tiny_clip, "plate", replace(SMALL, steps=0, rotations=rotations))
    copies = detector.rotated_copies(good[:3])
    assert [number for number, _ in copies] == (4 if rotations else 1) * [0, 1, 2]
    for k, (number, picture) in enumerate(copies):
        assert torch.equal(picture, torch.rot90(good[number], k // 3, (1, 2)))
    detector.fit(good[:3])
    assert set(detector.banks) == {"memory", "lora-off", "adapted"}
    for bank in detector.banks.values():
        assert len(bank.tokens) == round(CORESET_SHARE * 16 * len(copies))


def test_the_memory_without_lora_does_not_depend_on_training(good):
    """But what LoRA has learned is in the memory of the row "adapted"."""
    before, after = (Detector(fresh_clip(), "plate", replace(SMALL, steps=s)).fit(good[:3]).banks
                     for s in (0, 3))
    assert torch.equal(before["lora-off"].tokens, after["lora-off"].tokens)
    assert before["adapted"].tokens.shape == after["adapted"].tokens.shape
    assert not torch.equal(before["adapted"].tokens, after["adapted"].tokens)


@torch.no_grad()
def left_out(detector, pictures):
    """Scores of the shots and their rotated copies, each by a memory without the copies of that
    shot."""
    scores, copies = [], detector.rotated_copies(pictures)
    for k in range(len(pictures)):
        others = [detector.encode(p[None]) for n, p in copies if n != k]
        bank = detector.build_bank(others, "adapted")
        scores += [detector.map_and_score(detector.encode(p[None]), "adapted", bank)[1]
                   for n, p in copies if n == k]
    return torch.cat(scores)


def test_one_is_the_median_memory_score_of_a_good_picture_outside_the_memory(fitted, good):
    fitted.text_weight = 0.0
    apart = left_out(fitted, good[:4])
    assert apart.median().item() == pytest.approx(1, rel=1e-5)
    inside = fitted.score(good[:4])[1]
    outside = apart[::4]
    assert (inside <= outside + 1e-5).all() and (inside < outside - 1e-3).any()


def test_the_threshold_is_that_of_the_shots_each_without_its_own_copies(fitted, good):
    expected = anomaly_map.threshold(left_out(fitted, good[:4]), SMALL.false_positive_rate)
    assert fitted.threshold == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count, parts", [(1, 1), (2, 2), (8, 8), (20, 8)])
def test_at_most_eight_memories_are_made_to_leave_photographs_out(count, parts):
    found = folds(count)
    assert len(found) == parts and sorted(k for part in found for k in part) == list(range(count))


def test_the_text_weight_is_the_calibrated_fraction_of_its_maximum(tiny_clip, good, monkeypatch):
    monkeypatch.setattr("minilora.calibration.text_weight_fraction",
                        lambda detector, left_out: 0.25)
    detector = Detector(tiny_clip, "plate", SMALL).fit(good[:2])
    assert detector.text_weight == 0.25 * SMALL.max_text_weight


def test_one_shot_is_enough_for_memory_and_threshold(tiny_clip, good):
    detector = Detector(tiny_clip, "plate", SMALL).fit(good[:1])
    assert detector.threshold > 0 and detector.memory_scale > 0


@pytest.mark.parametrize("count", [2, 3])
def test_the_same_photograph_several_times_is_no_error(tiny_clip, good, count):
    """The coreset may take all patches from one of them; they are the same in the others."""
    detector = Detector(tiny_clip, "plate", SMALL).fit(good[:1].repeat(count, 1, 1, 1))
    assert detector.score(good)[1].isfinite().all()


def test_building_the_memory_twice_changes_nothing(fitted, good):
    before = fitted.memory_scale, fitted.text_weight, fitted.threshold
    fitted.build_memory(good[:4])
    after = fitted.memory_scale, fitted.text_weight, fitted.threshold
    assert after == pytest.approx(before, rel=1e-5)


# ---- pictures that are no squares ----------------------------------------------------------------

@pytest.mark.parametrize("square, size", [(False, (64, 112)), (True, (64, 64))])
def test_a_picture_keeps_its_aspect_unless_a_square_is_asked_for(tiny_clip, square, size):
    detector = Detector(tiny_clip, "plate", replace(SMALL, square=square))
    assert detector.prepare(Image.new("RGB", (350, 200))).shape == (3, *size)
    assert not DetectorConfig().square


@pytest.mark.parametrize("shapes", [[(64, 96)], [(64, 96), (96, 64)], [(64, 64), (64, 96)]])
def test_pictures_of_any_shapes_can_be_learned_together_and_scored(tiny_clip, shapes):
    """The memory bank also holds the rotated shots, so shapes are mixed in any case."""
    pictures = [picture for shape in shapes for picture in discs(2, *shape)]
    detector = Detector(tiny_clip, "plate", SMALL).fit(pictures)
    assert len(detector.losses) == 6 and torch.tensor(detector.losses).isfinite().all()
    for height, width in ((64, 96), (96, 64), (64, 64), (48, 160)):
        new = discs(2, height, width, seed=1)
        for row, (maps, scores) in detector.rows(new).items():
            assert maps.shape == (2, height, width) and scores.shape == (2,), row
            assert maps.isfinite().all() and scores.isfinite().all(), row


def test_a_rotated_picture_is_as_good_as_before(tiny_clip):
    """If the memory keeps all patches, a shot and its rotations have distance zero."""
    wide = discs(2, 64, 96)
    detector = Detector(tiny_clip, "plate", replace(SMALL, steps=0)).fit(wide)
    shown = [detector.encode(torch.rot90(wide[:1], turn, (2, 3))) for turn in range(4)]
    everything = [detector.encode(p[None], lora=False) for _, p in detector.rotated_copies(wide)]
    tokens = torch.cat([seen.frozen_tokens[0] for seen in everything])
    for seen in shown:
        assert (1 - (seen.frozen_tokens[0] @ tokens.T).amax(1)).abs().max() < 1e-5
        assert seen.size in ((64, 96), (96, 64))


@pytest.mark.parametrize("tall", [False, True])
def test_a_very_long_picture_is_encoded_strip_by_strip(fitted, tall):
    """A change at one end has no effect at the other; inside a strip, features are the strip's."""
    long = discs(1, 64, 640)
    changed = long.clone()
    changed[..., 16:32, 16:32] = 1.0
    if tall:
        long, changed = long.transpose(2, 3), changed.transpose(2, 3)
    (maps, scores), (other, _) = fitted.score(long), fitted.score(changed)
    assert maps.shape == long.shape[:1] + long.shape[2:] and scores.isfinite().all()
    ends = [m[0].T if tall else m[0] for m in (maps, other)]
    assert not torch.equal(ends[0][:, :64], ends[1][:, :64])
    assert torch.equal(ends[0][:, 400:], ends[1][:, 400:])
    strips = [long[..., part, :] if tall else long[..., part]
              for part in (slice(0, 256), slice(384, 640))]             # the first and the last
    seen = [fitted.encode(picture) for picture in (*strips, long)]
    for name in ("frozen_tokens", "text_patches"):
        grid = [getattr(s, name).unflatten(1, (s.size[0] // 16, -1))[0] for s in seen]
        first, last, whole = (g.transpose(0, 1) if tall else g for g in grid)   # (4, columns, W)
        assert whole.shape[:2] == (4, 40)
        torch.testing.assert_close(whole[:, :12], first[:, :12])
        torch.testing.assert_close(whole[:, -12:], last[:, -12:])


def test_very_long_pictures_can_be_learned(tiny_clip):
    detector = Detector(tiny_clip, "plate", SMALL).fit(list(discs(3, 64, 400)))
    assert len(detector.losses) == 6 and detector.threshold > 0


# ---- limits -------------------------------------------------------------------------------------

ENDS = [(name, end) for name in ("sigma", "max_text_weight", "image_weight", "top_fraction",
                                 "false_positive_rate", "angle") for end in LIMITS[name]]
SMALLEST = [(name, LIMITS[name][0]) for name in ("steps", "batch", "n_train_images", "rate", "rank",
                                                 "alpha", "blocks")]
LARGE = [("steps", 1), ("steps", 40), ("batch", 4096), ("n_train_images", 40), ("rate", 0.1),
         ("rank", 64), ("alpha", 64), ("blocks", 2), ("resolution", 16), ("resolution", 96),
         ("memory_states", (1,)), ("memory_states", (1, 2)), ("memory_states", (2, 2)),
         ("targets", ("q",)), ("targets", ("k", "out")), ("loss_weights", (1.0, 0.0, 0.0)),
         ("rotations", False), ("square", True), ("seed", 0), ("context", "x")]


@pytest.mark.parametrize("name, value", ENDS + SMALLEST + LARGE)
def test_every_hyperparameter_within_its_limits_gives_finite_scores(tiny_clip, name, value):
    """At both limits; where the upper one would take long, at a large value."""
    detector = Detector(tiny_clip, "plate", replace(SMALL, steps=2, **{name: value})
                        if name != "steps" else replace(SMALL, steps=value))
    pictures = [detector.prepare(Image.fromarray((255 * p).byte().permute(1, 2, 0).numpy()))
                for p in discs(4, 64, 96)]
    detector.fit(pictures[:3])
    for row, (maps, scores) in detector.rows(pictures[3][None]).items():
        assert maps.isfinite().all() and scores.isfinite().all(), row
    assert all(map(torch.isfinite, torch.tensor([detector.threshold, detector.memory_scale,
                                                 detector.text_weight])))


@pytest.mark.parametrize("name, value", [("rate", 10), ("alpha", 1e6)])
def test_a_training_that_blows_up_gives_finite_scores_or_says_so(tiny_clip, good, name, value):
    detector = Detector(tiny_clip, "plate", replace(SMALL, **{name: value}))
    try:
        detector.fit(good[:3])
    except ValueError as error:
        assert "lower the rate" in str(error) or "holds NaN" in str(error)
    else:
        assert detector.score(good)[1].isfinite().all()


# ---- again, and stored --------------------------------------------------------------------------

def test_the_same_seed_gives_the_same_detector_to_the_last_digit(good):
    scores = [Detector(fresh_clip(), "plate", SMALL).fit(good[:4]).score(good)[0]
              for _ in range(2)]
    assert torch.equal(*scores)


def test_a_saved_detector_scores_exactly_as_before(fitted, good, tmp_path):
    """The bank was rounded to half precision before anything was computed with it."""
    fitted.save(tmp_path, WEIGHTS)
    loaded = Detector.load(tmp_path, fresh_clip(), WEIGHTS)
    assert loaded.config == fitted.config
    for name in ("threshold", "memory_scale", "text_weight"):
        assert getattr(loaded, name) == getattr(fitted, name), name
    for pictures in (good, discs(2, 64, 96, seed=1)):
        rows, again = fitted.rows(pictures), loaded.rows(pictures)
        assert list(rows) == list(ROWS)
        assert list(again) == [row for row in ROWS if row != "lora-off"], "has a memory of its own"
        for row in again:
            assert all(map(torch.equal, rows[row], again[row])), row


def test_an_adapter_refuses_other_base_weights(fitted, tiny_clip, tmp_path):
    fitted.save(tmp_path, WEIGHTS)
    with pytest.raises(ValueError, match="was made with tiny.*found other"):
        Detector.load(tmp_path, tiny_clip, Weights("other", None, "1" * 64))


def rewritten(folder, change):
    """Replaces values in detector.safetensors; the file is valid and has the right digest."""
    path = folder / "detector.safetensors"
    save_tensors(path, load_tensors(path) | change)


@pytest.mark.parametrize("name, values", [
    ("memory_scale", (0.0, -1.0, float("nan"), float("inf"), "1", None, True)),
    ("text_weight", (-0.5, float("nan"), float("inf"), "1", None, [1.0])),
    ("threshold", ("high", [1.0], float("nan"), False)),
    ("class_name", (1, None, "x" * 2000, ["plate"]))])
def test_a_number_or_text_of_another_kind_is_refused_by_name(fitted, tmp_path, name, values):
    fitted.save(tmp_path, WEIGHTS)
    saved = load_tensors(tmp_path / "detector.safetensors")
    for value in (*values, torch.tensor(1.0), torch.ones(1, dtype=torch.bool)):
        rewritten(tmp_path, saved | {name: value})
        with pytest.raises(ValueError, match=rf"detector.safetensors.{name}: expected .*, found"):
            Detector.load(tmp_path, fresh_clip(), WEIGHTS)


@pytest.mark.parametrize("name", ["text_features", "context"])
@pytest.mark.parametrize("change", [
    lambda x: x.bool(), lambda x: x.long(), lambda x: x.double(), lambda x: x[:1],
    lambda x: x[..., :-1], lambda x: x * float("nan"), lambda x: x * 1e30, lambda x: x.tolist()])
def test_text_features_or_contexts_of_another_kind_are_refused_by_name(fitted, tmp_path, name,
                                                                      change):
    fitted.save(tmp_path, WEIGHTS)
    rewritten(tmp_path, {name: change(load_tensors(tmp_path / "detector.safetensors")[name])})
    with pytest.raises(ValueError, match=rf"{name}: expected .*, found"):
        Detector.load(tmp_path, fresh_clip(), WEIGHTS)


@pytest.mark.parametrize("name, value", [
    ("resolution", 64.5), ("resolution", 10**6), ("sigma", []), ("sigma", "4"), ("steps", True),
    ("memory_states", [1.5]), ("memory_states", 1), ("targets", ["w"]), ("targets", "q"),
    ("square", 1), ("loss_weights", [1.0]), ("context", 7), ("defect_kinds", [""]),
    ("seed", 2**70), ("colour", 3)])
def test_a_setting_of_another_kind_is_refused_by_name(fitted, tmp_path, name, value):
    fitted.save(tmp_path, WEIGHTS)
    config = load_tensors(tmp_path / "detector.safetensors")["config"]
    rewritten(tmp_path, {"config": config | {name: value}})
    with pytest.raises(ValueError, match=rf"config(.{name})?.*: expected .*, found"):
        Detector.load(tmp_path, fresh_clip(), WEIGHTS)


def test_every_setting_has_a_type_and_limits():
    assert SETTING_SCHEMAS.keys() == vars(DetectorConfig()).keys()
    with pytest.raises(ValueError, match="rank: expected a whole number from 1 to .*, found 2.0"):
        DetectorConfig(rank=2.0)


@pytest.mark.parametrize("version", [8, 10, None, torch.ones(3), "9", 9.0, True, "\x1b[2J" * 10**5])
def test_a_run_of_another_version_is_refused_in_one_short_line(fitted, tmp_path, version):
    fitted.save(tmp_path, WEIGHTS)
    assert load_tensors(tmp_path / "detector.safetensors")["version"] == 9
    rewritten(tmp_path, {"version": version})
    with pytest.raises(ValueError, match="expected format 9, found .*; fit again") as refused:
        Detector.load(tmp_path, fresh_clip(), WEIGHTS)
    text = str(refused.value).replace(str(tmp_path), "")
    assert text.isprintable() and len(text) < 200


def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "adapter.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="made by an earlier version.*fit again"):
        Detector.open(tmp_path)


def test_files_of_different_runs_are_not_mixed(tiny_clip, fitted, good, tmp_path):
    """A flipped bit, another run's memory or adapter, or a missing file: none goes unnoticed."""
    fitted.save(tmp_path / "a", WEIGHTS)
    Detector(fresh_clip(), "plate", replace(SMALL, seed=2)).fit(good[:4]).save(tmp_path / "b",
                                                                              WEIGHTS)
    for name in ("memory.safetensors", "adapter_model.safetensors", "adapter_config.json"):
        path = tmp_path / "a" / name
        before = path.read_bytes()
        other = (tmp_path / "b" / name).read_bytes()
        flipped = before[:-50] + bytes([before[-50] ^ 1]) + before[-49:]
        for content in (flipped, *([other] if other != before else [])):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{name} is not the file"):
                Detector.load(tmp_path / "a", fresh_clip(), WEIGHTS)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} not found"):
            Detector.load(tmp_path / "a", fresh_clip(), WEIGHTS)
        path.write_bytes(before)
    Detector.load(tmp_path / "a", fresh_clip(), WEIGHTS)


def test_a_run_without_shots_is_saved_without_a_memory(tiny_clip, good, tmp_path):
    detector = Detector(tiny_clip, "plate", SMALL)
    detector.save(tmp_path, WEIGHTS)
    again = Detector.load(tmp_path, fresh_clip(), WEIGHTS)
    assert again.threshold is None and not (tmp_path / "memory.safetensors").exists()
    assert all(map(torch.equal, again.score(good), detector.score(good)))


def test_a_link_in_a_run_folder_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "a", WEIGHTS)
    (tmp_path / "a" / "memory.safetensors").rename(tmp_path / "m")
    (tmp_path / "a" / "memory.safetensors").symlink_to(tmp_path / "m")
    with pytest.raises(ValueError, match="memory.safetensors is a link"):
        Detector.load(tmp_path / "a", fresh_clip(), WEIGHTS)


def test_a_token_table_smaller_than_the_tokenizer_is_refused():
    with pytest.raises(ValueError, match="the token table has 300 rows"):
        Detector(fresh_clip(vocab=300), "plate", SMALL)


def test_the_activation_of_the_base_weights_is_kept(fitted, tmp_path):
    fitted.save(tmp_path, WEIGHTS)
    with pytest.raises(ValueError, match="made with activation quick_gelu, found gelu"):
        Detector.load(tmp_path, fresh_clip(activation="gelu"), WEIGHTS)


def test_base_weights_are_found_from_another_folder(tiny_weights, good, tmp_path, monkeypatch):
    """Even if they were given by a relative path."""
    monkeypatch.chdir(tiny_weights.parent)
    clip, weights = load_clip(tiny_weights.name)
    Detector(clip, "plate", SMALL).fit(good[:3]).save(tmp_path / "run", weights)
    monkeypatch.chdir(tmp_path)
    assert Detector.open("run").threshold > 0


@pytest.mark.parametrize("name", ["ViT-L/14", "other"])
def test_a_run_whose_base_weights_are_not_here_starts_no_download(fitted, tmp_path, monkeypatch,
                                                                  name):
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: 1 / 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    fitted.save(tmp_path, Weights(name, tmp_path / "gone.safetensors", "0" * 64))
    with pytest.raises(ValueError, match="--model"):
        Detector.open(tmp_path)


def test_the_files_of_a_run_hold_no_base_weights(fitted, tmp_path):
    fitted.save(tmp_path, WEIGHTS)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.pop("memory.safetensors") < 100_000 and sum(sizes.values()) < 60_000
    assert all(is_safetensors(path) for path in tmp_path.glob("*.safetensors"))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}, "no pickle"


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
