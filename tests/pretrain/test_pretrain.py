"""Pretraining: captions and losses, views of pictures, schedule, resuming, reading ahead."""

import argparse
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from photographs import write_photographs, write_teacher

from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.data.images import normalise
from minilora.io.resume import ResumePoint
from minilora.pretrain import batches, captions, held_out, objective, schedule, step_inputs
from minilora.pretrain import train as pretrain
from minilora.pretrain.captions import (CAPTION_KINDS, CLASS_NAMES, DAMAGED, NORMAL, PASTED,
                                        UNMENTIONED)

TINY = CLIPConfig(embed=16, resolution=224, vision_layers=2, vision_width=64, patch=16,
                  text_width=64, text_layers=1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_a_view_takes_the_positions_it_has_in_the_whole_picture(generator):
    clip = CLIP(TINY).initialise(generator)
    pictures = torch.randint(0, 256, (1, 3, 224, 224), generator=generator, dtype=torch.uint8)
    patch_ids = torch.arange(196).view(1, 14, 14)
    whole = clip.visual.embed(normalise(pictures))
    view = batches.embed_view(clip.visual, normalise(pictures), patch_ids)
    assert torch.allclose(view, whole, atol=1e-5)
    window = pictures[:, :, 32:144, 16:128]  # patch rows 2-8, columns 1-7
    part = batches.embed_view(clip.visual, normalise(window), patch_ids[:, 2:9, 1:8])
    same = whole[:, 1:].unflatten(1, (14, 14))[:, 2:9, 1:8].flatten(1, 2)
    assert torch.allclose(part[:, 1:], same, atol=1e-5)


def test_a_half_size_view_is_embedded_like_a_small_picture(generator):
    clip = CLIP(TINY).initialise(generator)
    small = torch.rand(2, 3, 112, 112, generator=generator)
    view = batches.embed_view(clip.visual, small, torch.full((2, 7, 7), -1))
    assert torch.allclose(view, clip.visual.embed(small), atol=1e-5)


def test_a_view_cuts_picture_and_mask_at_the_same_place(generator):
    coverage = torch.rand(16, 14, 14, generator=generator)
    grey = (coverage.repeat_interleave(16, 1).repeat_interleave(16, 2) * 255).byte()
    pictures = grey[:, None].repeat(1, 3, 1, 1)
    cut, covered, patch_ids = batches.crop_views(pictures, coverage, generator, 7)
    assert cut.shape == (16, 3, 112, 112)
    assert (patch_ids[:, 0, 0] < 0).any() and (patch_ids[:, 0, 0] >= 0).any(), "both kinds of view"
    mean = F.avg_pool2d(cut[:, 0].float(), 16) / 255
    assert (mean - covered).abs().max() < 0.01


def test_a_window_of_a_flipped_picture_gets_the_patch_ids_after_the_flip(generator):
    coverage = torch.rand(32, 14, 14, generator=generator)
    black = torch.zeros(32, 3, 224, 224).byte()
    _, covered, patch_ids = batches.crop_views(black, coverage, generator, 7)
    flips, seen = list(itertools.product((False, True), repeat=3)), set()
    for whole, window, ids in zip(coverage, covered, patch_ids):
        if ids[0, 0] >= 0:
            fits = [t for t in flips
                    if torch.equal(batches.flip_and_transpose(whole, t).flatten()[ids], window)]
            assert len(fits) == 1
            seen.update(fits)
    assert len(seen) > 4, "most of the eight combinations occur"


def test_a_caption_states_facts_of_its_scene(generator):
    tokenizer = default_tokenizer()
    facts = [CLASS_NAMES.index("nut"), 2, 0, CAPTION_KINDS.index("scratch")]
    for _ in range(50):
        own, other, (mentioned, wrong) = captions.caption(facts, generator, tokenizer)
        assert mentioned[3] in (DAMAGED, CAPTION_KINDS.index("scratch")) and wrong[3] == NORMAL
        assert mentioned[:3] == wrong[:3], "the hard negative differs only in the state"
        assert ("nut" in own) == (mentioned[0] != UNMENTIONED)
        assert ("blue" in own) == (mentioned[1] != UNMENTIONED)


def test_a_text_that_is_also_true_is_not_a_negative():
    nut, gear, scratch, stain = 2, 3, 0, 1
    facts = torch.tensor([[nut, 5, 1, scratch], [gear, 5, 1, NORMAL]])
    mentioned = torch.tensor([
        [nut, UNMENTIONED, UNMENTIONED, DAMAGED],  # "a damaged nut"
        [UNMENTIONED, 5, UNMENTIONED, NORMAL],     # "a flawless brown object"
        [nut, 5, 1, stain]])                       # "a brown iron nut with a stain"
    true = captions.matching_captions(facts, mentioned)
    assert true.tolist() == [[True, False, False], [False, True, False]]


def test_contrast_is_cross_entropy_in_both_directions_without_other_true_texts(generator):
    image, own, other = (F.normalize(torch.randn(3, 8, generator=generator), dim=-1)
                         for _ in range(3))
    true = torch.zeros(3, 6, dtype=torch.bool)
    logits = 5 * image @ torch.cat([own, other]).T
    target = torch.arange(3)
    plain = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :3].T, target)) / 2
    assert torch.allclose(captions.contrastive_loss(image, own, other, 5, true), plain)
    true[0, 1] = true[0, 0] = True  # text 1 is also true of picture 0, besides its own
    weights = logits.exp()
    first = -math.log(weights[0, 0] / (weights[0].sum() - weights[0, 1]))
    rest = [-math.log(weights[k, k] / weights[k].sum()) for k in (1, 2)]
    columns = [weights[:, 0].sum(), weights[1:, 1].sum(), weights[:, 2].sum()]
    back = [-math.log(weights[k, k] / columns[k]) for k in range(3)]
    expected = (first + sum(rest)) / 6 + sum(back) / 6
    loss = captions.contrastive_loss(image, own, other, 5, true)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_localisation_loss_is_small_if_patches_fit_the_text_of_their_state():
    normal, damaged = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    coverage = torch.tensor([[0.0, 1.0, 0.05, 0.0]])
    right = torch.tensor([[[1.0, 0], [0, 1], [0, 1], [1, 0]]])
    assert captions.localisation_loss(right, normal, damaged, 20.0, coverage) < 1e-6
    assert captions.localisation_loss(right.flip(-1), normal, damaged, 20.0, coverage) > 10
    touched = right.clone()
    touched[0, 2] = torch.tensor([1.0, 0.0])  # a patch with little of the defect is ignored
    assert captions.localisation_loss(touched, normal, damaged, 20.0, coverage) < 1e-6


def test_the_learning_rate_rises_stays_constant_and_falls_to_zero():
    rates = [schedule.learning_rate(k, 1000, 1.0) for k in range(1000)]
    assert rates[0] == 0.01 and rates[99:701] == [1.0] * 602
    assert rates[850] == pytest.approx(0.5) and rates[-1] < 0.004


def test_before_the_decay_no_step_depends_on_the_number_of_steps():
    """So a training can be made longer while it runs."""
    short, long = ([schedule.learning_rate(k, steps, 1.0) for k in range(700)]
                   for steps in (1000, 2000))
    assert short == long
    assert not any(schedule.shows_whole_pictures(k, 1000, 0.1) for k in range(900))
    assert all(schedule.shows_whole_pictures(k, 1000, 0.1) for k in range(900, 1000))


def test_the_caption_of_a_photograph_states_its_class_name_or_its_state(generator):
    class_names, tokenizer = CLASS_NAMES + ["sea horse"], default_tokenizer()
    facts = torch.tensor([[len(CLASS_NAMES), UNMENTIONED, UNMENTIONED, state]
                          for state in (NORMAL, PASTED) * 20]
                         + [[UNMENTIONED, UNMENTIONED, UNMENTIONED, NORMAL]] * 10)
    own, other, flawless, damaged, mentioned = objective.captions_of(
        facts, generator, tokenizer, class_names, len(facts))
    silent = [k for k in range(50) if mentioned[k, 3] == UNMENTIONED]
    assert 10 < len(silent) < 30
    assert max(silent) < 40, "without a class name, the caption states the state"
    assert all("sea horse" in own[k] for k in silent)
    for k, fact in enumerate(facts.tolist()):
        true, false = (flawless, damaged) if fact[3] == NORMAL else (damaged, flawless)
        assert other[k] == false[k] and (k in silent or own[k] == true[k])
    pasted = [text for text, fact in zip(damaged, facts.tolist()) if fact[3] == PASTED]
    assert not any(word in text for text in pasted for word in ("scratch", "bent", "cracked"))


def test_another_picture_of_the_same_class_is_not_a_negative():
    kind = len(CLASS_NAMES)
    facts = torch.tensor([[kind, -1, -1, NORMAL], [kind, -1, -1, PASTED],
                          [kind + 1, -1, -1, NORMAL]])
    mentioned = torch.tensor([[kind, -1, -1, UNMENTIONED],          # "a photo of a sea horse"
                              [kind, -1, -1, DAMAGED],
                              [UNMENTIONED, -1, -1, CAPTION_KINDS.index("crack")]])
    assert captions.matching_captions(facts, mentioned).tolist() == [
        [True, False, False], [True, True, True], [False, False, False]]


def options(tmp_path, name, *words, **changes):
    small = dict(batch=8, fresh=2, buffer=64, steps=4, workers=0, dtype="float32", save_steps=2,
                 measure_every=0, layers=2, width=64, out=str(tmp_path / name))
    return argparse.Namespace(**(vars(pretrain.parser().parse_args(words)) | small | changes))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(pretrain, "MINI", TINY)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Options of a training with photographs, whose targets are stored."""
    folder = tmp_path_factory.mktemp("pretraining")
    words = ("--photos", str(write_photographs(folder / "photos", each=8)), "--teacher",
             str(write_teacher(folder / "teacher.npz")), "--crops", "1",
             "--views", str(folder / "views"))
    step_inputs.open_photographs(options(folder, "none", *words), lambda line: None)
    return words


def silent(line):
    """Ignore a line of progress."""


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(),
                                                 two.state_dict().values()))


@pytest.mark.parametrize("with_photographs", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, tiny, photographs,
                                                        with_photographs):
    words = photographs if with_photographs else ()
    whole, log = pretrain.pretrain(options(tmp_path, "whole", *words), silent)
    point = ResumePoint(tmp_path / "point", "mark", every=0)
    pretrain.pretrain(options(tmp_path, "parts", *words, stop=3), silent, point)  # leaves step 2's
    parts, again = pretrain.pretrain(options(tmp_path, "parts", *words), silent, point)
    assert [row["loss"] for row in log] == [row["loss"] for row in again]
    assert equal(whole, parts)
    other, _ = pretrain.pretrain(options(tmp_path, "parts", *words, seed=2, steps=2), silent,
                                 ResumePoint(point.path, "of seed 2"))
    assert not equal(other, parts), "the resume point of another training is not used"


def test_the_log_holds_every_loss_and_every_evaluation(tmp_path, tiny, photographs, monkeypatch):
    monkeypatch.setattr(held_out, "FIRST_HELD_OUT", 500)
    words = options(tmp_path, "a", *photographs, steps=2, measure_every=1)
    _, log = pretrain.pretrain(words, silent)
    assert {*objective.LOSSES, "names", "photo_auroc", "accuracy", "auroc", "explained9",
            "explained18", "explained30", "explained39", "explained51"} <= set(log[-1])
    total = sum(weight * log[0][name] for name, weight in zip(objective.LOSSES, (1, 2, 10, 1, 5)))
    assert log[0]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", objective.LOSSES)
def test_every_loss_can_be_switched_off(tmp_path, tiny, photographs, name):
    others = {other: 0.0 for other in objective.LOSSES if other != name}
    nothing, _ = pretrain.pretrain(options(tmp_path, "a", *photographs, steps=2, rate=0.1,
                                           **{**others, name: 0.0}), silent)
    words = options(tmp_path, "a", *photographs, steps=2, rate=0.1, **others)
    alone, log = pretrain.pretrain(words, silent)
    assert not equal(nothing, alone)
    assert log[0]["loss"] == pytest.approx(log[0][name] * getattr(options(tmp_path, "a"), name))


@pytest.mark.parametrize("name, rate", [("dense", 3e-3), ("relation", 3e-3)])
def test_the_tower_learns_to_predict_the_teacher(tmp_path, tiny, photographs, name, rate):
    alone = {other: 0.0 for other in objective.LOSSES if other != name}
    _, log = pretrain.pretrain(options(tmp_path, "a", *photographs, steps=40, rate=rate, batch=16,
                                       photo_share=1.0, **alone), silent)
    first, last = (sum(row[name] for row in part) / 5 for part in (log[:5], log[-5:]))
    assert last < 0.92 * first


def test_a_batch_of_whole_pictures_is_a_quarter_as_large(tmp_path):
    """Whole pictures have four times the patches.  Without photographs the batch stays the same."""
    class Batches:
        def batch(self, size, generator):
            return size

    words = options(tmp_path, "a", batch=192, photo_share=0.75)
    sizes = [step_inputs.draw_batches(Batches(), photographs, full, None, words)
             for photographs in (Batches(), None) for full in (False, True)]
    assert sizes == [(48, 144), (12, 36), (192, None), (192, None)]
    words.photo_share = 1.0
    assert step_inputs.draw_batches(Batches(), Batches(), False, None, words) == (None, 192)


def test_steps_do_not_depend_on_how_many_processes_read_ahead(tmp_path, tiny, photographs):
    words = {"live": True, "full": 1.0, "fresh": 0, "batch": 16, "views": str(tmp_path / "views")}
    (one, log), (two, again) = (
        pretrain.pretrain(options(tmp_path, "a", *photographs, **{**words, "ahead": count}), silent)
        for count in (1, 2))
    assert [row["loss"] for row in log] == [row["loss"] for row in again] and equal(one, two)
    drawn, _ = pretrain.pretrain(options(tmp_path, "a", *photographs, **words, ahead=1, workers=1),
                                 silent)
    assert equal(one, drawn), "scenes drawn when needed equal those drawn before the first step"


def test_training_on_pictures_of_many_aspect_ratios(tmp_path, tiny, photographs, monkeypatch):
    words = {"live": True, "full": 1.0, "fresh": 0, "batch": 16, "views": str(tmp_path / "views")}
    seen, kept = [], pretrain.losses_of

    def losses_of(clip, heads, step, *others):
        seen.append(tuple(step["pictures"].shape[-2:]))
        assert step["coverage"].shape[1] == seen[-1][0] * seen[-1][1] // 256
        return kept(clip, heads, step, *others)
    monkeypatch.setattr(pretrain, "losses_of", losses_of)
    monkeypatch.setattr(step_inputs, "GRIDS", ((6, 12), (12, 6), (9, 9)))
    pretrain.pretrain(options(tmp_path, "a", *photographs, **words, grids=True, steps=6), silent)
    assert set(seen) == {(96, 192), (192, 96), (144, 144)}


def test_a_scene_resized_to_another_aspect_ratio_keeps_its_defect_in_place(generator):
    coverage = torch.zeros(1, 14, 14)
    coverage[0, 7:, :7] = 1
    picture = (255 * coverage).byte().repeat_interleave(16, 1).repeat_interleave(16, 2)
    picture = picture[:, None].expand(-1, 3, -1, -1)
    pictures, covered = objective.resize_scenes(picture, coverage, (7, 28))
    assert pictures.shape == (1, 3, 112, 448) and covered.shape == (1, 7, 28)
    mean = F.avg_pool2d(pictures[:, 0].float(), 16) / 255
    assert (mean - covered).abs().mean() < 0.05


@pytest.mark.parametrize("words, missing", [({"ahead": 2}, "--fresh 0"),
                                            ({"grids": True}, "--live"),
                                            ({"minutes": 1.0, "full": 0.5}, "--full 0 or 1"),
                                            ({"live": True, "full": 0.5}, "--full 1")])
def test_the_error_for_contradicting_options_names_the_remedy(tmp_path, tiny, photographs, words,
                                                              missing):
    with pytest.raises(ValueError, match=missing):
        pretrain.pretrain(options(tmp_path, "a", *photographs, **words), silent)


def test_with_minutes_the_number_of_steps_is_adjusted_until_the_rate_falls(tmp_path):
    words = options(tmp_path, "a", minutes=2.0, steps=100_000)
    assert schedule.fitting_steps(words, 150, 15) == 100_000, "changes only every hundred steps"
    assert schedule.fitting_steps(words, 200, 20) == 1200, "ten steps a second"
    words.steps = 1200
    assert schedule.fitting_steps(words, 800, 60) == 1600
    assert schedule.fitting_steps(words, 900, 60) == 1200, "the rate already falls"


def test_photographs_without_a_teacher_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--photos needs --teacher"):
        pretrain.pretrain(options(tmp_path, "a", "--photos", str(tmp_path)), silent)
