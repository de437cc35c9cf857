"""The towers against transformers.CLIPModel, an independent implementation, on random weights.

In these small shapes no two sizes are equal, so a swapped or transposed matrix would fail. Biases
and norms differ from 0 and 1, so a forgotten one would change the result.
"""
import pytest
import torch

from bench.peers import drawn_transformers_model, our_keys, transformers_twin
from minilora.clip import CLIP, CLIPConfig

pytest.importorskip("transformers")

CONFIG = CLIPConfig(embed=48, resolution=64, vision_layers=3, vision_width=192, patch=16,
                    context=24, vocab=300, text_width=128, text_layers=4)
TOLERANCE = 1e-5                                         # a few float32 roundings of values to 10


@pytest.fixture(scope="module")
def pair():
    """(transformers' model, ours) with the same weights."""
    peer = drawn_transformers_model(CONFIG)
    ours = CLIP(CONFIG)
    ours.load_state_dict(our_keys(peer.state_dict()))
    return peer, ours.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    ids = torch.randint(1, 298, (3, 24), generator=generator)
    for row, length in enumerate((5, 24, 11)):
        ids[row, 0], ids[row, length - 1], ids[row, length:] = 298, 299, 0
    return pixels, ids


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_features_and_logits_agree_with_transformers(pair, inputs):
    (peer, ours), (pixels, ids) = pair, inputs
    theirs = peer(input_ids=ids, pixel_values=pixels)
    image, text = ours.encode_image(pixels), ours.encode_text(ids)
    close(torch.nn.functional.normalize(image, dim=-1), theirs.image_embeds)
    close(torch.nn.functional.normalize(text, dim=-1), theirs.text_embeds)
    close(ours.similarity(image, text), theirs.logits_per_image)


def test_every_token_after_every_image_block_agrees(pair, inputs):
    (peer, ours), (pixels, _) = pair, inputs
    theirs = peer.vision_model(pixels, output_hidden_states=True).hidden_states
    found = ours.visual.hidden_states(ours.visual.embed(pixels))
    assert len(found) == len(theirs) == 1 + CONFIG.vision_layers
    for a, b in zip(found, theirs):
        close(a, b)
    for n, tokens in zip((1, 3), ours.visual.patch_tokens(pixels, [0, 2])):
        close(tokens, theirs[n][:, 1:])


def test_every_token_after_every_text_block_agrees(pair, inputs):
    """Row 1 fills the whole context, so no token is cut off."""
    (peer, ours), (_, ids) = pair, inputs
    theirs = peer.text_model(ids, output_hidden_states=True).hidden_states
    found = []
    hooks = [block.register_forward_hook(lambda module, given, out: found.append(out))
             for block in ours.text.blocks]
    ours.encode_text(ids)
    for hook in hooks:
        hook.remove()
    assert len(found) == CONFIG.text_layers
    for a, b in zip(found, theirs[1:]):
        close(a, b)


@pytest.mark.parametrize("resolution", [48, 96, 160])
def test_other_resolutions_agree_with_interpolated_positions(pair, resolution):
    (peer, ours) = pair
    generator = torch.Generator().manual_seed(resolution)
    pixels = torch.randn(2, 3, resolution, resolution, generator=generator)
    theirs = peer.vision_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    found = ours.visual.hidden_states(ours.visual.embed(pixels))
    close(found[0], theirs.hidden_states[0])
    close(found[-1], theirs.hidden_states[-1])


def test_gradients_of_all_weights_agree_with_transformers(pair, inputs):
    """The backward pass agrees too, so training moves every weight as transformers would."""
    (peer, ours), (pixels, ids) = pair, inputs
    target = torch.tensor([2, 0])
    for model in pair:
        model.requires_grad_(True).zero_grad()
    loss = torch.nn.functional.cross_entropy
    loss(peer(input_ids=ids, pixel_values=pixels).logits_per_image, target).backward()
    loss(ours.similarity(ours.encode_image(pixels), ours.encode_text(ids)), target).backward()
    expected = our_keys({name: p.grad for name, p in peer.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    for model in pair:
        model.requires_grad_(False)
    assert expected.keys() == found.keys()
    for name in found:
        close(found[name], expected[name])


def test_the_transformers_model_of_the_benchmarks_has_our_weights(pair):
    _, ours = pair
    found, own = our_keys(transformers_twin(ours).state_dict()), ours.state_dict()
    assert found.keys() == own.keys() and all(torch.equal(found[k], own[k]) for k in own)
