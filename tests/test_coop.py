"""Learned prompts, Zhou et al. 2022 (CoOp), and the ensemble of hand-written prompts."""
import pytest
import torch
import torch.nn.functional as F

from minilora.bpe import END, default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.coop import POSITIONS, PromptLearner, ensemble_features, placeholder_prompts
from minilora.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, prompt_ensemble
from minilora.text import end_of_text_positions

TINY = CLIPConfig(embed=24, resolution=32, vision_layers=1, vision_width=64, patch=16,
                  text_width=64, text_layers=2)
TOKENIZER = default_tokenizer()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clip():
    model = CLIP(TINY).initialise(generator())
    model.text.positional_embedding.data.mul_(10)       # so that the order of words matters
    return model


def learner(clip, class_name="bottle", **options):
    return PromptLearner(clip, TOKENIZER, class_name, **{"generator": generator(1), **options})


def features_of(clip, *texts):
    with torch.no_grad():
        return F.normalize(clip.encode_text(TOKENIZER.tokenize(list(texts))), dim=-1)


def test_the_ensemble_crosses_seven_normal_and_four_anomalous_states_with_all_templates():
    normal, anomalous = prompt_ensemble("metal_nut")
    assert len(NORMAL_STATES) == 7 and len(ANOMALOUS_STATES) == 4
    assert len(set(normal)) == 7 * len(TEMPLATES) and len(set(anomalous)) == 4 * len(TEMPLATES)
    assert "a photo of a flawless metal nut." in normal
    assert "a photo of the metal nut with damage for visual inspection." in anomalous
    assert not set(normal) & set(anomalous)


def test_ensemble_features_are_the_direction_of_the_mean_direction(clip):
    found = ensemble_features(clip, TOKENIZER, "bottle")
    assert found.shape == (2, 24) and not found.requires_grad
    for row, sentences in zip(found, prompt_ensemble("bottle")):
        mean = features_of(clip, *reversed(sentences)).mean(dim=0)
        # 1e-6: float32, summed in another order
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("position, sentence", [
    ("end", "a photo of a {} bottle."),
    ("middle", "a photo {} bottle of a."),
    ("front", "{} bottle a photo of a."),
])
@pytest.mark.parametrize("class_specific", [False, True])
def test_a_context_started_from_words_is_that_sentence(clip, position, sentence, class_specific):
    # eqs. 2 and 3: before training, vectors that are word embeddings make an ordinary prompt
    found = learner(clip, n_ctx=4, init="a photo of a", position=position,
                    class_specific=class_specific)()
    expected = features_of(clip, sentence.format("flawless"), sentence.format("damaged"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_an_odd_context_puts_the_shorter_half_first(clip):
    found = learner(clip, n_ctx=3, init="photo of a", position="middle")()
    expected = features_of(clip, "photo flawless bottle of a.", "photo damaged bottle of a.")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("class_name", ["bottle", "metal_nut", "X ray of x", "zipper-2", "a.b",
                                        "naïve"])
@pytest.mark.parametrize("position", POSITIONS)
def test_any_class_name_keeps_its_own_tokens(clip, class_name, position):
    ids, slots = placeholder_prompts(TOKENIZER, class_name, 5, position, 77)
    for row, places, state in zip(ids, slots, ("flawless", "damaged")):
        rest = [n for place, n in enumerate(row.tolist()) if place not in places.tolist()]
        sentence = TOKENIZER.tokenize(f"{state} {class_name.replace('_', ' ')}.", 77)[0].tolist()
        assert rest == sentence[:len(rest)]


def test_pooling_is_at_the_end_of_text_of_each_placeholder(clip):
    prompts = learner(clip, "metal nut", n_ctx=6)
    # before the end: START, 6 X, state, metal, nut, full stop
    lengths = [1 + 6 + len(TOKENIZER.encode(f"{s} metal nut.")) for s in ("flawless", "damaged")]
    assert prompts.eot.tolist() == lengths


def test_pooling_is_at_the_last_end_of_text_if_a_class_name_contains_one(clip):
    ids = TOKENIZER.tokenize(["a<|endoftext|>b", "a"])
    assert (ids == END).sum(dim=1).tolist() == [2, 1]
    assert end_of_text_positions(ids, END).tolist() == [4, 2]
    torch.testing.assert_close(
        learner(clip, "a<|endoftext|>b", n_ctx=2, init="photo of")()[1:],
        features_of(clip, "photo of damaged a<|endoftext|>b."), atol=1e-6, rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("class_specific", [False, True])
def test_features_have_length_one_and_only_the_context_gets_a_gradient(position, class_specific):
    clip = CLIP(TINY).initialise(generator())
    prompts = learner(clip, position=position, class_specific=class_specific)
    found = prompts()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))
    (found @ torch.randn(24, 1, generator=generator(2))).sum().backward()
    assert (prompts.context.grad.abs().sum(dim=-1) > 0).all()   # every vector of every state
    assert all(p.grad is None for p in clip.parameters())
    assert [n for n, p in prompts.named_parameters() if p.requires_grad] == ["context"]


def test_training_moves_the_features_and_no_weight_of_the_tower():
    clip = CLIP(TINY).initialise(generator())
    before = {name: p.clone() for name, p in clip.named_parameters()}
    prompts = learner(clip, n_ctx=4)
    wanted = F.normalize(torch.randn(2, 24, generator=generator(3)), dim=-1)
    optimizer = torch.optim.Adam(prompts.parameters(), lr=0.02)
    for _ in range(40):
        loss = (1 - (prompts() * wanted).sum(dim=-1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5                                   # from about 2: cosines near 0
    assert all(torch.equal(p, before[name]) for name, p in clip.named_parameters())


def test_each_state_has_its_own_context_unless_it_is_shared(clip):
    own, shared = learner(clip), learner(clip, class_specific=False)
    assert own.context.shape == (2, 8, 64) and shared.context.shape == (1, 8, 64)
    own()[0].sum().backward()
    assert own.context.grad[0].abs().max() > 0 == own.context.grad[1].abs().max()
    shared()[0].sum().backward()
    assert shared.context.grad.abs().max() > 0


def test_a_random_context_has_standard_deviation_002_and_comes_from_the_generator(clip):
    # section 4.1
    first, same = learner(clip, n_ctx=60), learner(clip, n_ctx=60, init="random")
    assert first.context.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(first.context, same.context)
    assert not torch.equal(first.context[0], first.context[1])
    other = learner(clip, n_ctx=60, generator=generator(5))
    assert not torch.equal(first.context, other.context)


def test_the_learner_saves_its_context_and_not_the_tower(clip):
    prompts, fresh = learner(clip), learner(clip, generator=generator(6))
    assert list(prompts.state_dict()) == ["context"]
    assert sum(p.numel() for p in prompts.parameters()) == 2 * 8 * 64
    fresh.load_state_dict(prompts.state_dict())
    assert torch.equal(fresh(), prompts())


def test_each_state_starts_from_its_own_copy_of_the_initial_words(clip):
    table = clip.text.token_embedding.weight
    before = table.clone()
    prompts = learner(clip, n_ctx=4, init="a photo of a")
    prompts.context.data[0].fill_(7)
    assert torch.equal(table, before)
    assert torch.equal(prompts.context[1], before[TOKENIZER.encode("a photo of a")])


@pytest.mark.parametrize("options, words", [
    ({"position": "back"}, "end, middle, front, found 'back'"),
    ({"n_ctx": 0}, "at least 1, found 0"),
    ({"init": "a photo of a"}, "must be 8 ordinary tokens, found 4; pass n_ctx=4"),
    ({"n_ctx": 3, "init": "a <|endoftext|> of"}, "ordinary tokens"),
    ({"n_ctx": 3, "init": "<|startoftext|> a of"}, "ordinary tokens"),
    ({"n_ctx": 80}, "expected at most 77"),
    ({"class_name": "bottâ€", "position": "front"}, "whole words, found 'bottâ€'"),  # not words
])
def test_options_that_make_no_prompt_are_refused_with_the_reason(clip, options, words):
    with pytest.raises(ValueError, match=words):
        learner(clip, **options)
