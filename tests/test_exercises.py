"""Answers to the exercises at the end of the thirteen mechanisms: one test each.

A test's docstring quotes the exercise, its name states the answer, its assertions show it.
"""
import ast
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REPO

from minilora import (anomaly_map, attention, bpe, clip, clip_resnet, coop, lora, losses,
                      memory_bank, prompts, text, vit)
from minilora.auroc import auroc
from minilora.metrics.average_precision import average_precision

MODULES = ("bpe", "prompts", "attention", "vit", "clip_resnet", "text", "clip", "lora", "coop",
           "losses", "memory_bank", "anomaly_map", "auroc")
TOKENIZER = bpe.default_tokenizer()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run_demo(module, *changes):
    """Local variables of the module's demo(), after replacing parts of its source.

    changes: pairs (old, new) of strings; each old string must occur exactly once.
    """
    source = inspect.getsource(module.demo)
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
        source = source.replace(old, new)
    names = dict(vars(module))
    exec(source + "    return locals()\n", names)
    return names["demo"]()


def exercises():
    """{"module.py, exercise n": its text on one line}."""
    found = {}
    for module in MODULES:
        code = Path(REPO, "minilora", f"{module}.py").read_text("utf-8")
        for number, words in re.findall(r"^# Exercise (\d): (.*(?:\n#  .*)*)", code, re.MULTILINE):
            found[f"{module}.py, exercise {number}"] = " ".join(words.replace("\n#", " ").split())
    return found


def test_every_exercise_is_quoted_by_exactly_one_test():
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    docstrings = [" ".join((ast.get_docstring(node) or "").split()) for node in tree.body
                  if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert len(exercises()) >= 2 * len(MODULES)
    wrong = {name: words for name, words in exercises().items()
             if docstrings.count(f"{name}: {words}") != 1}
    assert wrong == {}
    assert len(docstrings) - 1 == len(exercises()), "no test answers an exercise that is gone"


# ---- bpe ----------------------------------------------------------------------------------------

def test_case_does_not_matter_but_token_15531_ends_a_word():
    """bpe.py, exercise 1: "flawless", "Flawless", "flawlessly": which of them contain token 15531,
    and why?"""
    assert TOKENIZER.vocab[15531] == b"flawless ", "with the end of a word"
    assert TOKENIZER.encode("flawless") == TOKENIZER.encode("Flawless") == [15531]
    assert 15531 not in TOKENIZER.encode("flawlessly")


def test_an_unknown_character_becomes_several_tokens_made_of_its_bytes():
    """bpe.py, exercise 2: Unicode got U+1FAC6 (a fingerprint) after CLIP was trained. Which ids
    does it have?"""
    ids = TOKENIZER.encode("\U0001fac6")
    assert ids == [558, 104, 484]
    assert b"".join(TOKENIZER.vocab[n] for n in ids) == "\U0001fac6 ".encode(), "four bytes"


def test_the_first_merge_has_three_occurrences_and_the_second_two():
    """bpe.py, exercise 3: Write down both merges of train_merges("low low lower", 2) before you run
    it."""
    # l+o occurs three times; afterwards lo+w</w> twice, and lo+w, w+e, e+r</w> once each.
    assert bpe.train_merges("low low lower", 2) == [("l", "o"), ("lo", "w</w>")]


# ---- prompts ------------------------------------------------------------------------------------

def test_the_longest_prompt_takes_17_of_77_tokens():
    """prompts.py, exercise 1: Tokenize all sentences about "metal_nut" (bpe.py). Do all fit into
    CLIP's 77 tokens?"""
    sentences = sum(prompts.prompt_ensemble("metal_nut"), [])
    lengths = [2 + len(TOKENIZER.encode(sentence)) for sentence in sentences]   # START and END
    assert len(sentences) == 242 and max(lengths) == 17
    assert TOKENIZER.tokenize(sentences).shape == (242, 77), "without truncate=True"


def test_an_underscore_would_be_a_token_of_its_own():
    """prompts.py, exercise 2: Encode "metal_nut" and "metal nut" (bpe.py). Why is the underscore
    replaced?"""
    with_it, without = TOKENIZER.encode("metal_nut"), TOKENIZER.encode("metal nut")
    assert [TOKENIZER.vocab[n] for n in with_it] == [b"metal ", b"_ ", b"nut "]
    assert without == [with_it[0], with_it[2]]


# ---- attention ----------------------------------------------------------------------------------

def test_only_the_last_token_sees_all_tokens_with_the_causal_mask_too():
    """attention.py, exercise 1: Remove causal=True from the first call in demo(). Which row stays
    as it was, and why?"""
    before = run_demo(attention)["weights"]
    after = run_demo(attention, ("[None, None], causal=True)", "[None, None])"))["weights"]
    changed = (after - before).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [True, True, True, False]


def test_large_queries_make_softmax_choose_a_single_token():
    """attention.py, exercise 2: Multiply q by 1000 in demo(). What do the rows of weights look like
    then, and why?"""
    # Differences of scores grow a thousandfold, and softmax becomes an argmax.
    found = run_demo(attention, ("attention(q, k, torch", "attention(1000 * q, k, torch"))
    assert (found["weights"].amax(dim=1) > 0.999).all()
    assert run_demo(attention)["weights"][1].amax() < 0.6


def test_a_block_does_not_know_the_order_of_its_tokens():
    """attention.py, exercise 3: Shuffle the 50 tokens of x in demo(). What happens to the output of
    the block?"""
    found = run_demo(attention)
    block, x, order = found["block"], found["x"], torch.randperm(50, generator=generator())
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=0, atol=1e-5)
    assert (block(x[:, order]) - block(x)).abs().max() > 1, "the same outputs in the new order"


# ---- vit ----------------------------------------------------------------------------------------

def test_a_picture_of_80_by_48_pixels_gives_16_tokens():
    """vit.py, exercise 1: How many tokens does demo()'s tower make of a picture of 80 x 48
    pixels?"""
    tokens = run_demo(vit)["vit"].embed(torch.zeros(1, 3, 80, 48))
    assert tokens.shape[1] == 1 + (80 // 16) * (48 // 16) == 16


def test_only_the_positions_tell_the_tower_where_a_patch_is():
    """vit.py, exercise 2: Exchange two patches of a picture. Does the result of encode_image
    change? Does it change if vit.positional_embedding is zero?"""
    tower = run_demo(vit)["vit"].requires_grad_(False)
    pixels = torch.randn(1, 3, 64, 64, generator=generator())
    exchanged = pixels.clone()
    exchanged[..., :16, :16] = pixels[..., 16:32, 32:48]
    exchanged[..., 16:32, 32:48] = pixels[..., :16, :16]

    def change():
        return (tower.encode_image(pixels) - tower.encode_image(exchanged)).abs().max()
    assert change() > 1e-3
    tower.positional_embedding.zero_()
    assert change() < 1e-5


# ---- clip_resnet --------------------------------------------------------------------------------

def test_attention_pooling_holds_39_percent_of_rn50():
    """clip_resnet.py, exercise 1: Which share of RN50's parameters belongs to the attention
    pooling, full.attnpool?"""
    full = run_demo(clip_resnet)["full"]
    pooling, total = (sum(p.numel() for p in m.parameters()) for m in (full.attnpool, full))
    assert pooling == 50 * 2048 + 3 * 2049 * 2048 + 2049 * 1024     # positions; q, k, v; output
    assert pooling / total == pytest.approx(0.386, abs=5e-4)


def test_a_frozen_batch_norm_folds_into_the_convolution_before_it():
    """clip_resnet.py, exercise 2: Fold bn1 into conv1: which weight and which bias make one
    convolution do both?"""
    found = run_demo(clip_resnet)
    conv, norm, pixels = found["net"].conv1, found["net"].bn1, found["pixels"]
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2, generator=generator())
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    folded = F.conv2d(pixels, conv.weight * scale[:, None, None, None],
                      norm.bias - norm.running_mean * scale, stride=2, padding=1)
    torch.testing.assert_close(folded, norm(conv(pixels)), rtol=0, atol=1e-5)


# ---- text ---------------------------------------------------------------------------------------

def test_position_1_has_seen_only_the_start_and_the_first_word():
    """text.py, exercise 1: Call encode_embeddings in demo() with eot = torch.tensor([1, 1]). Why do
    both texts get the same vector?"""
    found = run_demo(text, ("torch.tensor([4, 3])", "torch.tensor([1, 1])"))
    assert found["ids"][0, :2].tolist() == found["ids"][1, :2].tolist()
    assert torch.equal(found["embedded"][0], found["embedded"][1])
    assert not torch.allclose(*found["features"])


def test_a_causal_mask_shows_the_order_from_the_second_layer_on():
    """text.py, exercise 2: Set positional_embedding to zero and exchange the words 10 and 11 of the
    first text. Does its vector change? Does it change in a tower of one layer?"""
    # One layer: the end-of-text sees the same set of tokens. Two: word 11 has seen 10, or not.
    def change(layers):
        found = run_demo(text, ("layers=2", f"layers={layers}"))
        tower, ids = found["text"].requires_grad_(False), found["ids"]
        tower.positional_embedding.zero_()
        exchanged = ids.clone()
        exchanged[0, 1:3] = ids[0, 1:3].flip(0)
        return (tower.encode_text(exchanged) - tower.encode_text(ids))[0].abs().max()
    assert change(2) > 0.01
    assert change(1) < 1e-5


# ---- clip ---------------------------------------------------------------------------------------

def test_the_length_of_a_feature_changes_no_probability():
    """clip.py, exercise 1: Multiply the image features by 5 in demo(). Which printed probabilities
    change?"""
    longer = run_demo(clip, ("clip.similarity(clip.enc", "clip.similarity(5 * clip.enc"))
    torch.testing.assert_close(longer["logits"], run_demo(clip)["logits"])


def test_at_temperature_1_probabilities_differ_at_most_by_the_factor_e_squared():
    """clip.py, exercise 2: Set logit_scale to 0 (temperature 1). By which factor can two
    probabilities of a row differ at most, whatever the features are?"""
    # Cosines lie between -1 and 1, so two logits differ by 2 at most.
    model = run_demo(clip)["clip"].requires_grad_(False)
    model.logit_scale.zero_()
    image = torch.randn(50, 32, generator=generator())
    for texts in (torch.randn(20, 32, generator=generator(1)), torch.stack([image[0], -image[0]])):
        p = model.similarity(image, texts).softmax(-1)
        factor = (p.amax(1) / p.amin(1)).max().item()
        assert factor <= math.exp(2) * (1 + 1e-5)
    assert factor == pytest.approx(math.exp(2), rel=1e-5), "the last pair of texts is opposite"


def test_a_text_given_twice_counts_twice_in_the_softmax():
    """clip.py, exercise 3: Give the third text twice. What happens to the three probabilities of a
    picture?"""
    third = "[998, 8, 9, 10, 999]"
    before = run_demo(clip)["logits"].softmax(-1)
    after = run_demo(clip, (third, f"{third}, {third}"))["logits"].softmax(-1)
    assert torch.equal(after[:, 2], after[:, 3])
    torch.testing.assert_close(after[:, :3], before / (1 + before[:, 2:]))     # all become smaller


# ---- lora ---------------------------------------------------------------------------------------

def test_rank_1_learns_all_but_the_second_singular_value():
    """lora.py, exercise 1: Use rank=1 in demo(). Compare the error that remains with the singular
    values of `wanted`. Which one is it close to?"""
    # Eckart & Young 1936: no matrix of rank 1 is nearer than the second singular value. The loss
    # is measured on 256 random x, so training stops a little above it.
    found = run_demo(lora, ("rank=2", "rank=1"))
    error = (found["delta"] - found["wanted"]).norm().item()
    second = torch.linalg.svdvals(found["wanted"])[1].item()
    assert second - 1e-4 <= error < 1.1 * second
    found = run_demo(lora)
    assert (found["delta"] - found["wanted"]).norm() < 0.01 * second


def test_scale_is_alpha_over_rank():
    """lora.py, exercise 2: Double alpha, then double rank and alpha. What happens to `scale` in
    each case?"""
    scales = [lora.LoRALinear(96, 64, *pair).scale for pair in ((2, 4), (2, 8), (4, 8))]
    assert scales == [2, 4, 2]


def test_from_rank_39_on_lora_is_larger_than_the_matrix():
    """lora.py, exercise 3: From which rank on do A and B hold more numbers than the 64 x 96 matrix
    W?"""
    def trained(rank):
        layer = lora.LoRALinear(96, 64, rank, alpha=rank)
        return sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert next(r for r in range(1, 65) if trained(r) > 64 * 96) == 39     # r (64 + 96) > 64 * 96


# ---- coop ---------------------------------------------------------------------------------------

def test_five_other_tokens_leave_room_for_72_context_vectors():
    """coop.py, exercise 1: How large can n_ctx be for the class name "bottle"? Count the other
    tokens first."""
    # START, the state, "bottle", "." and END
    assert len(TOKENIZER.encode("damaged bottle.")) + 2 == 5
    coop.placeholder_prompts(TOKENIZER, "bottle", 72, "end", 77)
    with pytest.raises(ValueError, match="78 tokens"):
        coop.placeholder_prompts(TOKENIZER, "bottle", 73, "end", 77)


def test_a_shared_context_halves_the_numbers_and_the_state_words_still_differ():
    """coop.py, exercise 2: Use class_specific=False. How many numbers are trained, and why do the
    features of the two states still differ?"""
    learner = run_demo(coop, ('"bottle", generator', '"bottle", class_specific=False, generator')
                       )["learner"]
    assert sum(p.numel() for p in learner.parameters()) == 8 * 64
    assert (learner.embeddings[0] != learner.embeddings[1]).any(), "flawless, damaged"
    assert learner().prod(dim=0).sum() < 0.999, "their cosine"


# ---- losses -------------------------------------------------------------------------------------

def test_cross_entropy_prefers_the_share_of_defects_and_dice_a_larger_constant():
    """losses.py, exercise 1: Answer demo()'s mask with one constant p everywhere: 0.001, 0.01, 0.1
    or 0.5. Which p has the lowest cross-entropy, and which has the lowest dice loss?"""
    mask = run_demo(losses)["mask"]
    answers = {p: torch.full_like(mask, p) for p in (0.001, 0.01, 0.1, 0.5)}
    assert min(answers, key=lambda p: losses.focal_loss(answers[p], mask, gamma=0)) == 0.01
    assert min(answers, key=lambda p: losses.dice_loss(answers[p], mask)) == 0.1
    assert mask.mean() == pytest.approx(0.01)


def test_softmax_sees_only_differences_of_logits():
    """losses.py, exercise 2: Add 1000 to all logits in demo(). What happens to the cross-entropy?"""
    logits, right = run_demo(losses)["logits"], torch.tensor([1])
    assert losses.cross_entropy(logits + 1000, right) == losses.cross_entropy(logits, right)


def test_dice_of_nothing_and_nothing_is_zero_over_zero_without_smoothing():
    """losses.py, exercise 3: Compute dice_loss with smooth=0 for an empty map and an empty mask.
    What is wrong?"""
    empty = torch.zeros(1, 4, 4)
    assert losses.dice_loss(empty, empty, smooth=0).isnan()
    assert losses.dice_loss(empty, empty) == 0


# ---- memory_bank --------------------------------------------------------------------------------

def test_chance_keeps_0_8_rare_patches_and_the_coreset_more():
    """memory_bank.py, exercise 1: Keep 40 random patches in demo() in place of the coreset. How
    many patches of the rare kind do you expect?"""
    found = run_demo(memory_bank)
    tokens = torch.cat(found["pictures"])
    is_rare = (tokens @ found["kinds"].T).argmax(1) == 1
    draws = generator()
    kept = [is_rare[torch.randperm(400, generator=draws)[:40]].sum().item() for _ in range(2000)]
    assert is_rare.sum() == 8
    assert sum(kept) / 2000 == pytest.approx(40 * 8 / 400, abs=0.1)
    assert found["rare"] > 2 * 0.8


def test_patches_inside_the_bank_have_distance_zero_so_a_threshold_needs_other_pictures():
    """memory_bank.py, exercise 2: Build MemoryBank(torch.cat(pictures)) in demo(), without a
    coreset. Which distances do the patches of these pictures get? What does this mean for setting a
    threshold?"""
    # A threshold from these distances would be zero, and every new picture would be NG.
    found = run_demo(memory_bank)
    bank = memory_bank.MemoryBank(torch.cat(found["pictures"]))
    assert bank.distances(torch.stack(found["pictures"])).max() < 1e-6
    new = found["kinds"][0] + 0.05 * torch.randn(1, 50, 32, generator=generator(1))
    assert bank.distances(F.normalize(new, dim=-1)).min() > 0.01, "new good patches"


# ---- anomaly_map --------------------------------------------------------------------------------

def test_exchanged_texts_give_the_opposite_probabilities():
    """anomaly_map.py, exercise 1: Exchange the two rows of `text` in demo(). What happens to the
    probabilities?"""
    found = run_demo(anomaly_map)
    exchanged = anomaly_map.text_map(found["patches"], found["text"].flip(0), 10.0)
    torch.testing.assert_close(exchanged, 1 - found["scores"])


def test_smoothing_keeps_the_mean_of_a_map_and_lowers_its_peaks():
    """anomaly_map.py, exercise 2: Use top_fraction=1 in demo(). Does sigma still change the image
    score much? Why?"""
    scores = run_demo(anomaly_map)["scores"]

    def spread(top_fraction):
        maps = torch.cat([anomaly_map.to_pixels(scores, (64, 64), sigma) for sigma in (1, 4, 8)])
        found = anomaly_map.image_score(maps, top_fraction)
        return (found.max() / found.min()).item()
    assert spread(1) < 1.01                         # the mean; reflected borders move it a little
    assert spread(0.003) > 1.5


def test_few_scores_give_the_higher_threshold():
    """anomaly_map.py, exercise 3: Which good scores give the higher threshold: 0, 1, 0, 1, or these
    four values 100 times? Which three factors of the formula decide?"""
    few, many = torch.tensor([0.0, 1.0] * 2), torch.tensor([0.0, 1.0] * 200)
    assert anomaly_map.threshold(few) > anomaly_map.threshold(many)
    t_few, t_many = (anomaly_map.student_quantile(0.05, len(s) - 1) for s in (few, many))
    assert t_few > t_many and few.std() > many.std()
    assert math.sqrt(1 + 1 / len(few)) > math.sqrt(1 + 1 / len(many))
    assert few.mean() == many.mean()


# ---- auroc --------------------------------------------------------------------------------------

def test_auroc_changes_if_the_order_changes_or_ties_appear():
    """auroc.py, exercise 1: Replace the scores in demo() by their cubes, their negatives, or by
    round(score, -1). Which of the three can change the AUROC, and how?"""
    scores, labels = [20, 30, 52, 50, 60], [0, 0, 0, 1, 1]          # one pair of six swapped
    before = auroc(scores, labels)
    assert auroc([s ** 3 for s in scores], labels) == before == 5 / 6
    assert auroc([-s for s in scores], labels) == pytest.approx(1 - before)
    assert auroc([round(s, -1) for s in scores], labels) == 5.5 / 6, "52 and 50 are tied now"


def test_auroc_does_not_depend_on_the_share_of_defects_and_average_precision_does():
    """auroc.py, exercise 2: Give every good sample ten times. Does the AUROC change? Does the
    average precision (metrics/average_precision.py)?"""
    scores, labels = [20, 30, 52, 50, 60], [0, 0, 0, 1, 1]
    many, many_labels = 10 * scores[:3] + scores[3:], 10 * labels[:3] + labels[3:]
    assert auroc(many, many_labels) == auroc(scores, labels)
    assert average_precision(many, many_labels) < 0.75 * average_precision(scores, labels)
