"""The towers against transformers.CLIPModel, an independent implementation, on random weights.

Small shapes in which no two sizes are equal, so that a swapped or transposed matrix cannot hide,
and biases and norms away from 0 and 1, so that none of them can be forgotten.
"""
import pytest
import torch

from minilora.clip import CLIP, CLIPConfig

transformers = pytest.importorskip("transformers")

CONFIG = CLIPConfig(embed=48, resolution=64, vision_layers=3, vision_width=192, patch=16,
                    context=24, vocab=300, text_width=128, text_layers=4)
TOLERANCE = 1e-5                                         # a few float32 roundings of values to 10


@pytest.fixture(scope="module")
def pair():
    """(transformers' model, ours) with the same weights."""
    c = CONFIG
    peer = transformers.CLIPModel(transformers.CLIPConfig(
        projection_dim=c.embed,
        text_config=dict(hidden_size=c.text_width, intermediate_size=4 * c.text_width,
                         num_attention_heads=c.text_width // 64, num_hidden_layers=c.text_layers,
                         max_position_embeddings=c.context, vocab_size=c.vocab,
                         hidden_act="quick_gelu", bos_token_id=298, eos_token_id=299,
                         pad_token_id=0),
        vision_config=dict(hidden_size=c.vision_width, intermediate_size=4 * c.vision_width,
                           num_attention_heads=c.vision_width // 64,
                           num_hidden_layers=c.vision_layers, image_size=c.resolution,
                           patch_size=c.patch, hidden_act="quick_gelu"))).eval()
    generator = torch.Generator().manual_seed(0)
    for name, p in peer.named_parameters():
        norm = "norm" in name or "layrnorm" in name
        scale = p.shape[-1] ** -0.5 if p.ndim == 2 and "embedding" not in name else 0.2
        start = 1. if norm and name.endswith("weight") else 0.
        p.data = start + scale * torch.randn(p.shape, generator=generator)
    peer.logit_scale.data.fill_(2.)
    ours = CLIP(c)
    ours.load_state_dict(our_keys(peer.state_dict()))
    return peer.requires_grad_(False), ours.requires_grad_(False)


RENAMED = {
    "vision_model.": "visual.", "text_model.": "text.", "encoder.layers.": "blocks.",
    "embeddings.patch_embedding": "conv1", "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding", "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post", "final_layer_norm": "ln_final", "layer_norm": "ln_",
    "self_attn.": "attn.", "_proj.": ".", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def our_keys(state):
    """transformers' keys -> ours.  Their projections are (E, W) linears, ours (W, E) matrices."""
    out = {"visual.proj": state["visual_projection.weight"].T,
           "text.text_projection": state["text_projection.weight"].T}
    for key, tensor in state.items():
        if "_projection" not in key and "position_ids" not in key:
            for theirs, name in RENAMED.items():
                key = key.replace(theirs, name)
            out[key] = tensor
    return out


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
    for n, tokens in zip((1, 3), ours.visual.patch_tokens(pixels, [1, 3])):
        close(tokens, theirs[n][:, 1:])


def test_every_token_after_every_text_block_agrees(pair, inputs):
    """Row 1 fills the whole context, so that nothing is cut off."""
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
    """The backward pass too: what is trained here moves as it would there."""
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
