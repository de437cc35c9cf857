"""The two towers against OpenAI's own code, and what each of their functions promises.

Reference outputs were computed with OpenAI's model code on weights drawn from a seed, so full-size
parity needs no download.  Those of the tiny model are in tests/fixtures; those of the two full-size
models are in the shared folder.
"""
import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPO, shared_path

from minilora.bpe import END
from minilora.checkpoint.openai_layout import clip_from_state_dict
from minilora.clip import CLIP, VIT_B_16, VIT_L_14, CLIPConfig, similarity_logits
from minilora.text import TextTransformer
from minilora.vit import VisionTransformer

TOLERANCE = 2e-5     # float32 against float64 of the reference code itself differs by about 2e-6


def load_seeded():
    path = REPO / "tests/fixtures/seeded_weights.py"
    spec = importlib.util.spec_from_file_location("seeded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn():
    """The last state dict drawn; the two full-size models share all but two of their tensors."""
    return {}


@pytest.fixture(scope="module", params=["TINY", "ViT_B_16", "ViT_B_32"])
def golden(request, drawn):
    """(CLIP with seeded weights, its pictures, OpenAI's outputs)."""
    name = request.param
    path = REPO / "tests/fixtures/clip_tiny.npz" if name == "TINY" else \
        shared_path(f"golden/clip_{name.lower()}.npz")
    seeded = load_seeded()
    configuration = getattr(seeded, name)
    shapes = seeded.shapes(configuration)
    for key in [key for key in drawn if drawn[key].shape != shapes.get(key)]:
        del drawn[key]                                   # values depend on key and shape alone
    drawn.update(seeded.seeded_tensors({k: v for k, v in shapes.items() if k not in drawn}))
    clip = clip_from_state_dict(drawn).requires_grad_(False)
    reference = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    return clip, seeded.seeded_images(configuration["resolution"]), reference


@pytest.fixture(scope="module")
def tiny():
    """A small model with weights far enough from zero that every part matters."""
    seeded = load_seeded()
    clip = clip_from_state_dict(seeded.seeded_state_dict(seeded.TINY)).requires_grad_(False)
    return clip, seeded.seeded_images(64)


def close(found, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# ---- parity with OpenAI's code ------------------------------------------------------------------

def test_every_image_block_agrees_with_openai(golden):
    clip, images, reference = golden
    hidden = clip.visual.hidden_states(clip.visual.embed(images[:1]))
    assert len(hidden) == 1 + len(reference["vision_block_cls"])
    for found, expected in zip(hidden[1:], reference["vision_block_cls"]):
        close(found[0, 0], expected)
    every = max(1, hidden[-1].shape[1] // 8)
    close(hidden[-1][0, ::every], reference["vision_last_block_tokens"])


def test_every_text_block_agrees_with_openai(golden):
    clip, _, reference = golden
    found = []
    hooks = [block.register_forward_hook(lambda module, given, out: found.append(out[0, 0]))
             for block in clip.text.blocks]
    clip.encode_text(reference["tokens"][:1])
    for hook in hooks:
        hook.remove()
    close(torch.stack(found), reference["text_block_sot"])


def test_features_and_logits_agree_with_openai(golden):
    clip, images, reference = golden
    image, text = clip.encode_image(images), clip.encode_text(reference["tokens"])
    close(image, reference["image_features"])
    close(text, reference["text_features"])
    # Logits are cosines times 100, and so are their rounding errors: the float32 logits of OpenAI's
    # code for the tiny model differ by 2.5e-5 from its float64 ones.
    close(clip.similarity(image, text), reference["logits_per_image"], 3 * TOLERANCE)


# ---- image tower --------------------------------------------------------------------------------

def test_patch_tokens_count_blocks_from_zero_and_leave_cls_out(tiny):
    clip, images = tiny
    hidden = clip.visual.hidden_states(clip.visual.embed(images))
    third, first = clip.visual.patch_tokens(images, [2, 0])
    assert torch.equal(first, hidden[1][:, 1:]) and torch.equal(third, hidden[3][:, 1:])
    for blocks in ([3], [0, -1]):
        with pytest.raises(ValueError, match="from 0 to 2"):
            clip.visual.patch_tokens(images, blocks)


def test_patches_are_numbered_row_by_row(tiny):
    """Painting the patch in row 1, column 2 of a 4 x 4 grid changes token 1 + 1 * 4 + 2 alone."""
    clip, images = tiny
    painted = images.clone()
    painted[:, :, 16:32, 32:48] = 0
    changed = (clip.visual.embed(painted) != clip.visual.embed(images)).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [7]


def test_patches_of_a_rectangle_are_numbered_row_by_row_too(tiny):
    """In a 2 x 6 grid, the patch in row 1, column 2 is token 1 + 1 * 6 + 2."""
    clip, images = tiny
    pixels = torch.cat([images, images], 3)[:, :, :32, :96]
    painted = pixels.clone()
    painted[:, :, 16:32, 32:48] = 0
    changed = (clip.visual.embed(painted) != clip.visual.embed(pixels)).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [9]
    assert clip.visual.encode_image(pixels).shape == (len(images), 32)


def test_dropped_patches_have_no_effect(tiny):
    """Masked pretraining keeps a subset of the tokens; the others must not reach the blocks."""
    clip, images = tiny
    painted = images.clone()
    painted[:, :, :, 32:48] = 0                          # column 2: tokens 3, 7, 11 and 15
    keep = [0, 1, 4, 9, 16]
    kept = [clip.visual.embed(pixels)[:, keep] for pixels in (images, painted)]
    pooled = [clip.visual.pool(clip.visual.hidden_states(x)[-1]) for x in kept]
    assert torch.equal(*pooled)
    assert (pooled[0] - clip.encode_image(images)).abs().max() > 0.01


def test_the_order_of_tokens_does_not_matter_once_positions_are_added(tiny):
    clip, images = tiny
    x = clip.visual.embed(images)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)) + 1
    shuffled = x[:, torch.cat([torch.tensor([0]), order])]
    close(clip.visual.pool(clip.visual.hidden_states(shuffled)[-1]), clip.encode_image(images))


def test_positions_at_the_native_resolution_are_the_trained_table_bit_for_bit(tiny):
    clip, _ = tiny
    assert clip.visual.positions(4, 4) is clip.visual.positional_embedding


def keys_bicubic(table, size):
    """Bicubic resizing along the first axis, from Keys 1981: the cubic kernel with a = -3/4, sample
    centres at (i + 1/2) n / size - 1/2, the border repeated.  table: (n, ...) numpy float64."""
    n, a = len(table), -0.75
    out = []
    for centre in (np.arange(size) + 0.5) * n / size - 0.5:
        row = 0
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - tap)
            weight = (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1 if t <= 1 else \
                a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a
            row = row + weight * table[min(max(tap, 0), n - 1)]
        out.append(row)
    return np.stack(out)


@pytest.mark.parametrize("rows, columns", [(2, 2), (3, 3), (5, 5), (7, 7), (15, 15), (4, 6), (6, 4),
                                           (1, 9), (7, 4)])
def test_positions_of_other_grids_are_bicubic_and_cls_keeps_its_own(tiny, rows, columns):
    clip, _ = tiny
    table = clip.visual.positional_embedding.double().numpy()
    picture = table[1:].reshape(4, 4, -1)
    resized = keys_bicubic(keys_bicubic(picture, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
    found = clip.visual.positions(rows, columns)
    assert torch.equal(found[0], clip.visual.positional_embedding[0])
    close(found[1:].double(), torch.from_numpy(resized.reshape(rows * columns, -1)), 1e-6)
    pixels = torch.zeros(1, 3, 16 * rows, 16 * columns)
    assert clip.visual.text_patches(pixels).shape == (1, rows * columns, 32)


def test_a_resized_grid_keeps_rows_and_columns_apart(tiny):
    """A table that only counts rows still only counts rows after resizing."""
    clip, _ = tiny
    vit = VisionTransformer(64, 16, 64, 1, 8)
    rows = torch.arange(4.)[:, None].expand(4, 4).reshape(16, 1).expand(16, 64)
    vit.positional_embedding.data[1:] = rows
    resized = vit.positions(8, 5)[1:].reshape(8, 5, 64)
    close(resized, resized[:, :1].expand(8, 5, 64), 1e-6)
    assert (resized[1:, 0, 0] > resized[:-1, 0, 0]).all()


@pytest.mark.parametrize("n_blocks", [None, 1, 2, 3])
def test_value_value_path_adds_attention_of_the_ordinary_states_and_skips_the_mlp(tiny, n_blocks):
    """CLIP Surgery's dual paths, written with indices; the default is the last third, 1 of 3."""
    clip, images = tiny
    vit = clip.visual
    hidden = vit.hidden_states(vit.embed(images))
    start = 3 - (n_blocks or 1)
    y = hidden[start]
    for n in range(start + 1, 4):
        block = vit.blocks[n - 1]
        v = block.attn.split(block.attn.v(block.ln_1(hidden[n - 1])))
        weights = (v @ v.transpose(-2, -1) / 8).softmax(-1)      # sqrt(64) = 8
        y = y + block.attn.out(block.attn.join(weights @ v))
    close(vit.value_value(hidden, n_blocks), (vit.ln_post(y) @ vit.proj)[:, 1:])
    if n_blocks is None:
        assert torch.equal(vit.text_patches(images), vit.value_value(hidden))


def test_value_value_path_leaves_the_ordinary_states_as_they_are(tiny):
    clip, images = tiny
    hidden = clip.visual.hidden_states(clip.visual.embed(images))
    before = [x.clone() for x in hidden]
    clip.visual.value_value(hidden, n_blocks=3)
    assert all(torch.equal(a, b) for a, b in zip(hidden, before))


@pytest.mark.parametrize("n_blocks", [0, 4, -1])
def test_value_value_path_refuses_more_blocks_than_there_are(tiny, n_blocks):
    clip, images = tiny
    with pytest.raises(ValueError, match=f"1 to 3 blocks, found {n_blocks}"):
        clip.visual.value_value([None] * 4, n_blocks)


@pytest.mark.parametrize("pixels, message", [
    (torch.zeros(3, 64, 64), r"found \(3, 64, 64\).*pixels\[None\]"),
    (torch.zeros(1, 1, 64, 64), "RGB"),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8; divide by 255"),
    (torch.zeros(1, 3, 72, 72), r"multiples of the patch \(16\).*for example to 64 x 64"),
    (torch.zeros(1, 3, 64, 100), r"multiples of the patch \(16\).*for example to 64 x 96"),
    (torch.zeros(1, 3, 5, 64), r"multiples of the patch \(16\).*for example to 16 x 64"),
    (torch.zeros(1, 3, 0, 0), "multiples of the patch"),
    (torch.zeros(1, 3, 64, 0), "multiples of the patch"),
])
def test_pixels_of_another_form_are_refused_with_the_remedy(tiny, pixels, message):
    with pytest.raises(ValueError, match=message):
        tiny[0].encode_image(pixels)


# ---- text tower ---------------------------------------------------------------------------------

@pytest.fixture
def text():
    """Vocabulary 100, so that the end-of-text is 99."""
    torch.manual_seed(0)
    text = TextTransformer(context=20, vocab=100, width=64, layers=2, embed=32)
    return text.requires_grad_(False)


def test_end_of_text_is_the_highest_id():
    assert END == VIT_B_16.vocab - 1 == VIT_L_14.vocab - 1


def test_padding_behind_the_end_of_text_changes_nothing(text):
    ids = torch.tensor([[98, 1, 2, 99, 0, 0, 0], [98, 1, 2, 3, 4, 99, 0]])
    other = torch.tensor([[98, 1, 2, 99, 5, 6, 7], [98, 1, 2, 3, 4, 99, 8]])
    assert torch.equal(text.encode_text(ids), text.encode_text(other))
    assert torch.equal(text.encode_text(ids), text.encode_text(ids.int()))


def test_tokens_behind_the_last_end_of_text_are_cut_off_without_effect(text):
    """The blocks compute 6 of 20 tokens, and the result equals that of all 20."""
    ids = torch.zeros(2, 20, dtype=torch.long)
    ids[0, :4] = torch.tensor([98, 1, 2, 99])
    ids[1, :6] = torch.tensor([98, 1, 2, 3, 4, 99])
    seen = []
    hook = text.blocks[0].register_forward_hook(
        lambda module, given, out: seen.append(out.shape[1]))
    found = text.encode_text(ids)
    text.encode_embeddings(text.token_embedding(ids), torch.tensor([3, 5]))
    hook.remove()
    x = text.token_embedding(ids) + text.positional_embedding
    for block in text.blocks:
        x = block(x, causal=True)
    whole = text.ln_final(x[[0, 1], [3, 5]]) @ text.text_projection
    assert seen == [6, 6]
    close(found, whole, 5e-6)                            # other sizes, other order of summation


def test_the_last_end_of_text_of_a_row_is_where_the_vector_is_taken(text):
    """A text that contains the words <|endoftext|> is still read to its end."""
    ids = torch.tensor([[98, 1, 99, 2, 99, 0]])
    other = torch.tensor([[98, 1, 99, 3, 99, 0]])
    assert (text.encode_text(ids) - text.encode_text(other)).abs().max() > 0.01


def test_token_embeddings_give_the_same_vector_as_token_ids(text):
    ids = torch.tensor([[98, 1, 2, 99, 0, 0], [98, 1, 2, 3, 4, 99]])
    x = text.token_embedding(ids)
    assert torch.equal(text.encode_embeddings(x, torch.tensor([3, 5])), text.encode_text(ids))


def test_gradient_of_a_text_reaches_the_embeddings_up_to_its_end_only(text):
    x = text.token_embedding(torch.tensor([[98, 1, 2, 99, 0, 0], [98, 1, 2, 3, 4, 99]]))
    x.requires_grad_()
    text.encode_embeddings(x, torch.tensor([3, 5])).square().sum().backward()
    reached = x.grad.abs().sum(dim=-1) > 0
    assert reached.tolist() == [[True] * 4 + [False] * 2, [True] * 6]


def test_texts_without_an_end_or_beyond_the_context_are_refused(text):
    with pytest.raises(ValueError, match="row 1 has no end-of-text token .99.*tokenize"):
        text.encode_text(torch.tensor([[98, 1, 99], [98, 1, 2]]))
    with pytest.raises(ValueError, match=r"expected \(N, L\), found \(3,\)"):
        text.encode_text(torch.tensor([98, 1, 99]))
    with pytest.raises(ValueError, match="context 20.*found 20 to 20"):
        text.encode_embeddings(torch.zeros(1, 21, 64), torch.tensor([20]))
    with pytest.raises(ValueError, match="expected 0 to 4 .*found 5 to 5"):
        text.encode_embeddings(torch.zeros(1, 5, 64), torch.tensor([5]))
    with pytest.raises(ValueError, match="found -1 to 2"):
        text.encode_embeddings(torch.zeros(2, 5, 64), torch.tensor([-1, 2]))


def test_ids_outside_the_token_table_are_refused_with_the_cause(text):
    """The tokenizer has 49,408 ids; weights with a smaller table belong to another one."""
    with pytest.raises(ValueError, match="found 49407, .*a table of 100 tokens, smaller than the"):
        text.encode_text(torch.tensor([[49406, 1, 2, 49407]]))


# ---- both ---------------------------------------------------------------------------------------

def small(seed=0):
    config = CLIPConfig(embed=32, resolution=32, vision_layers=2, vision_width=64, patch=16,
                        vocab=100, text_width=64, text_layers=2)
    return CLIP(config).initialise(torch.Generator().manual_seed(seed))


def test_vit_b_16_has_the_published_number_of_parameters():
    with torch.device("meta"):
        clip = CLIP(VIT_B_16)
    assert sum(p.numel() for p in clip.parameters()) == 149_620_737
    assert sum(p.numel() for p in clip.visual.parameters()) == 86_192_640


def test_a_fresh_model_is_reproducible_from_its_seed():
    torch.manual_seed(1)
    a = small(seed=3)
    torch.manual_seed(2)
    b, c = small(seed=3), small(seed=4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.visual.proj, c.visual.proj)
    assert not torch.equal(a.text.blocks[1].mlp.c_fc.weight, c.text.blocks[1].mlp.c_fc.weight)
    assert all(p.isfinite().all() for p in a.parameters())


def test_a_fresh_model_starts_at_the_temperature_of_the_paper():
    """CLIP section 2.5: the equivalent of 0.07."""
    clip = small()
    assert clip.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    clip.logit_scale.data.fill_(0)
    assert clip.initialise().logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_every_weight_of_a_fresh_model_takes_part_in_the_contrastive_loss():
    """Training cannot move a weight whose gradient is zero.  For key biases it is always zero (see
    test_the_key_bias_has_no_effect), and for ids and positions that do not occur."""
    clip = small()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[98, i, i + 10, 99] for i in range(4)])
    logits = clip.similarity(clip.encode_image(pixels), clip.encode_text(ids))
    F.cross_entropy(logits, torch.arange(4)).backward()
    still = [name for name, p in clip.named_parameters() if not p.grad.abs().max() > 1e-7]
    assert [name for name in still if not name.endswith("attn.k.bias")] == []


def test_similarity_is_the_cosine_whatever_the_lengths():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 7, 16, generator=generator, dtype=torch.float64)
    text = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    logits = similarity_logits(features, text, temperature=0.07)
    cosine = F.cosine_similarity(features[:, :, None], text, dim=-1)
    torch.testing.assert_close(logits, cosine / 0.07)
    torch.testing.assert_close(similarity_logits(3 * features, text / 9, 0.07), logits)


def test_a_learned_temperature_gets_a_gradient():
    temperature = torch.tensor(0.07, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(n, 4, generator=generator) for n in (1, 2))
    similarity_logits(image, text, temperature).sum().backward()
    assert temperature.grad.abs() > 0


def test_similarity_is_the_cosine_at_the_temperature_of_the_model():
    clip = small()
    images = torch.tensor([[3., 0.], [1., 1.]])
    texts = torch.tensor([[5., 0.], [0., 0.1], [-1., -1.]])
    half = 0.5 ** 0.5
    expected = torch.tensor([[1, 0, -half], [half, half, -1]]) / 0.07
    close(clip.similarity(images, texts), expected, 1e-5)


def test_the_same_weights_give_other_features_with_another_activation_or_head_width():
    """So a file must say both: its shapes are the same."""
    sizes = dict(embed=32, resolution=32, vision_layers=2, vision_width=128, patch=16, vocab=100,
                 text_width=128, text_layers=2)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[98, 1, 2, 99]])
    clips = [CLIP(CLIPConfig(**sizes, **change)).initialise(torch.Generator().manual_seed(0))
             for change in ({}, dict(activation="gelu"), dict(head_width=32, text_head_width=32))]
    with torch.no_grad():
        images, texts = zip(*((c.encode_image(pixels), c.encode_text(ids)) for c in clips))
    for plain, *others in (images, texts):
        assert all((other - plain).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize("change, message", [
    (dict(vision_width=100), "vision_width.*multiple of 64.*found 100"),
    (dict(text_width=0), "text_width.*multiple of 64.*found 0"),
    (dict(resolution=100), r"patch \(16\), found 100"),
    (dict(head_width=48), "vision_width: expected a multiple of 48, .*one head, found 64"),
    (dict(text_head_width=0), "text_width: expected a multiple of 0"),
    (dict(activation="relu"), "activation: expected quick_gelu or gelu, found 'relu'"),
])
def test_a_configuration_that_cannot_be_built_is_refused(change, message):
    sizes = dict(embed=32, resolution=32, vision_layers=1, vision_width=64, patch=16)
    with pytest.raises(ValueError, match=message):
        CLIPConfig(**{**sizes, **change})


def test_bfloat16_autocast_keeps_the_residual_stream_in_float32(tiny):
    """Matrix products in bfloat16 (8 bits of mantissa), sums and LayerNorm in float32: features
    stay within a few per cent."""
    clip, images = tiny
    ids = torch.tensor([[49406, 320, 1125, END]])
    seen = []
    hook = clip.visual.blocks[1].ln_2.register_forward_hook(
        lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = clip.encode_image(images), clip.encode_text(ids), clip.visual.text_patches(images)
        hidden = clip.visual.hidden_states(clip.visual.embed(images))
    hook.remove()
    assert set(seen) == {(torch.float32, torch.float32)}
    assert all(x.dtype == torch.float32 for x in hidden)
    full = clip.encode_image(images), clip.encode_text(ids), clip.visual.text_patches(images)
    for a, b in zip(half, full):
        assert (a.float() - b).norm() < 0.03 * b.norm()


def test_training_under_bfloat16_autocast_has_finite_gradients():
    clip = small()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = clip.encode_image(pixels)
        text = clip.encode_text(torch.tensor([[98, i, 99] for i in range(4)]))
        loss = F.cross_entropy(clip.similarity(image, text), torch.arange(4))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in clip.parameters())
