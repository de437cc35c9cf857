"""Masked autoencoder against the paper's description, transformers, and the official layout."""
import dataclasses
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import load_tensors, save_tensors
from minilora.mae import checkpoint as mae_checkpoint
from minilora.mae.model import (MAE_B_16, MAE_H_14, MAE_L_16, MAEConfig, MAEEncoder,
                                MaskedAutoencoder)
from minilora.mae.patches import patchify, random_masking, sincos_positions, unpatchify

SMALL = MAEConfig(width=128, layers=3, heads=2, patch=8, resolution=48, decoder_width=64,
                  decoder_layers=2, decoder_heads=2)
PICTURES = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
NOISE = torch.rand(3, 36, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mae():
    return MaskedAutoencoder(SMALL).initialise(torch.Generator().manual_seed(0))


def peer(ours, normalise_pixels):
    """The model of transformers with the same weights."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    c = ours.config
    theirs = ViTMAEForPreTraining(ViTMAEConfig(
        hidden_size=c.width, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        intermediate_size=4 * c.width, image_size=c.resolution, patch_size=c.patch,
        decoder_hidden_size=c.decoder_width, decoder_num_hidden_layers=c.decoder_layers,
        decoder_num_attention_heads=c.decoder_heads, decoder_intermediate_size=4 * c.decoder_width,
        layer_norm_eps=1e-6, norm_pix_loss=normalise_pixels))
    own, state = ours.state_dict(), theirs.state_dict()
    names = {"cls": "vit.embeddings.cls_token",
             "embed": "vit.embeddings.patch_embeddings.projection",
             "positions": "vit.embeddings.position_embeddings", "norm": "vit.layernorm"}
    block = {"ln_1": "layernorm_before", "ln_2": "layernorm_after", "mlp.c_fc": "mlp.fc1",
             "mlp.c_proj": "mlp.fc2", "attn.q": "attention.q_proj", "attn.k": "attention.k_proj",
             "attn.v": "attention.v_proj", "attn.out": "attention.o_proj"}
    rest = {"mask_token": "decoder.mask_token", "positions": "decoder.decoder_pos_embed",
            "narrow": "decoder.decoder_embed", "norm": "decoder.decoder_norm",
            "paint": "decoder.decoder_pred"}
    for name, value in own.items():
        encoder, short = name.startswith("encoder."), name.removeprefix("encoder.")
        module, _, kind = short.rpartition(".")
        if short.startswith("blocks."):
            number, part = module.removeprefix("blocks.").split(".", 1)
            tower = "vit.layers" if encoder else "decoder.decoder_layers"
            key = f"{tower}.{number}.{block[part]}.{kind}"
        else:
            table = names if encoder else rest
            key = table[short] if short in table else f"{table[module]}.{kind}"
        state[key] = value.reshape(state[key].shape)
    theirs.load_state_dict(state)
    return theirs.eval()


@pytest.mark.parametrize("normalise_pixels", [True, False])
def test_loss_and_reconstruction_equal_those_of_transformers(mae, normalise_pixels):
    ours = MaskedAutoencoder(dataclasses.replace(SMALL, normalise_pixels=normalise_pixels))
    ours.load_state_dict(mae.state_dict())
    with torch.no_grad():
        theirs = peer(ours, normalise_pixels)(PICTURES, noise=NOISE)
        predicted, hidden = ours(PICTURES, NOISE)
        loss = ours.loss(PICTURES, NOISE)
    assert torch.equal(hidden, theirs.mask.bool())
    assert (predicted - theirs.logits).abs().max() < 1e-5
    assert abs(loss - theirs.loss) < 1e-5


def test_position_embeddings_equal_those_of_transformers():
    """Columns use the first half of the channels, as in the official weights."""
    from transformers.models.vit_mae import modeling_vit_mae as theirs
    for width in (32, 64):
        table = theirs.build_2d_sinusoidal_position_embedding(7, 7, width, cls_token=True)
        table = torch.cat([table[:, width // 2:], table[:, :width // 2]], dim=1)    # as they do
        assert (sincos_positions(width, 7) - table).abs().max() < 1e-6


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_unpatchify_inverts_patchify(grid, patch, count):
    pixels = torch.arange(count * 3 * (grid * patch) ** 2.0).view(count, 3, grid * patch, -1)
    patches = patchify(pixels, patch)
    assert patches.shape == (count, grid * grid, patch * patch * 3)
    assert torch.equal(unpatchify(patches, patch), pixels)
    assert torch.equal(patches[0, 0].view(patch, patch, 3).permute(2, 0, 1),
                       pixels[0, :, :patch, :patch])


@given(st.integers(4, 100), st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_a_mask_hides_the_stated_share_of_each_picture_without_replacement(patches, ratio):
    noise = torch.rand(5, patches, generator=torch.Generator().manual_seed(patches))
    visible, hidden = random_masking(noise, ratio)
    keep = max(1, int(patches * (1 - ratio)))
    assert visible.shape == (5, keep) and (hidden.sum(1) == patches - keep).all()
    assert all(len(set(row.tolist())) == keep for row in visible)
    assert not hidden.gather(1, visible).any()


def test_masks_are_uniform_and_differ_between_pictures():
    noise = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    _, hidden = random_masking(noise, 0.75)
    assert (hidden.float().mean(0) - 0.75).abs().max() < 0.03, "all positions alike"
    assert len({tuple(row) for row in hidden[:50].tolist()}) > 40


def test_hidden_patches_do_not_reach_the_encoder(mae):
    """Section 3: the encoder processes visible patches only; changing hidden ones has no effect."""
    visible, hidden = random_masking(NOISE, 0.75)
    changed = torch.where(hidden[..., None], torch.randn(3, 36, 192), patchify(PICTURES, 8))
    with torch.no_grad():
        one, two = (mae.encoder(p, visible) for p in (PICTURES, unpatchify(changed, 8)))
    assert one.shape == (3, 1 + 9, 128)
    assert torch.equal(one, two)


def test_visible_patches_do_not_count_in_the_loss(mae):
    predicted, hidden = mae(PICTURES, NOISE)
    target = mae.target(PICTURES)
    predicted.retain_grad()
    (predicted - target).square().mean(-1)[hidden].mean().backward()
    assert predicted.grad[hidden].abs().sum() > 0
    assert not predicted.grad[~hidden].any()
    by_hand = ((predicted - target).square().mean(-1) * hidden).sum() / hidden.sum()
    assert torch.allclose(mae.loss(PICTURES, NOISE), by_hand)


def test_training_learns_a_pattern(mae):
    line = torch.arange(48) // 4 % 2
    checks = (line[:, None] ^ line).float().expand(4, 3, -1, -1)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(mae.parameters(), 1e-3)
    for _ in range(60):
        loss = mae.loss(checks, torch.rand(4, 36, generator=generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2, "predicting the mean of every patch gives 1"


def test_the_official_layout_is_read(mae, tmp_path):
    path = tmp_path / "mae_visualize_vit.pth"
    torch.save({"model": OrderedDict(mae_checkpoint.official_state(mae))}, path)
    again = mae_checkpoint.load_mae(path)
    assert again.config == SMALL
    with torch.no_grad():
        assert torch.equal(again(PICTURES, NOISE)[0], mae.eval()(PICTURES, NOISE)[0])


def test_a_file_without_decoder_is_read_as_an_encoder(mae, tmp_path):
    state = {k: v for k, v in mae_checkpoint.official_state(mae).items()
             if "decoder" not in k and k != "mask_token"}
    torch.save({"model": state}, tmp_path / "mae_pretrain_vit.pth")
    encoder = mae_checkpoint.load_mae(tmp_path / "mae_pretrain_vit.pth")
    assert isinstance(encoder, MAEEncoder)
    with torch.no_grad():
        assert torch.equal(encoder(PICTURES), mae.eval().encoder(PICTURES))


def test_official_keys_are_those_of_the_repository():
    """From models_mae.py of the official repository."""
    with torch.device("meta"):
        state = mae_checkpoint.official_state(MaskedAutoencoder(MAE_B_16))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["cls_token"] == shapes["mask_token"][:2] + (768,) == (1, 1, 768)
    assert shapes["pos_embed"] == (1, 197, 768) and shapes["decoder_pos_embed"] == (1, 197, 512)
    assert shapes["patch_embed.proj.weight"] == (768, 3, 16, 16)
    assert shapes["blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["decoder_blocks.7.mlp.fc1.bias"] == (2048,)
    assert shapes["decoder_pred.weight"] == (768, 512)
    assert len([k for k in shapes if k.startswith("blocks.")]) == 12 * 12


@pytest.mark.parametrize("config, millions", [(MAE_B_16, 85.6), (MAE_L_16, 303.1),
                                              (MAE_H_14, 630.4)])
def test_the_three_sizes_have_the_usual_numbers_of_parameters(config, millions):
    """ViT without a head: 86, 303 and 631 million with their position tables."""
    with torch.device("meta"):
        encoder = MAEEncoder(config)
        state = mae_checkpoint.official_state(MaskedAutoencoder(config))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)
    assert mae_checkpoint.config_from_official(state) == config


def test_keys_that_do_not_fit_are_named(mae, tmp_path):
    state = mae_checkpoint.official_state(mae)
    for change, text in (({"norm.weight": None}, "missing: norm.weight"),
                         ({"head.weight": torch.zeros(2, 2)}, "not expected: head.weight"),
                         ({"decoder_norm.bias": torch.zeros(3)}, "decoder_norm.bias")):
        wrong = {k: v for k, v in (state | change).items() if v is not None}
        torch.save({"model": wrong}, tmp_path / "wrong.pth")
        with pytest.raises(CheckpointError, match=text):
            mae_checkpoint.load_mae(tmp_path / "wrong.pth")
    torch.save({"config": {"width": 64}, "state": {"a": torch.zeros(1)}}, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match="ours.pt: expected a masked autoencoder"):
        mae_checkpoint.load_mae(tmp_path / "ours.pt")


@pytest.mark.parametrize("numbers", [{"mask_ratio": 1.0}, {"mask_ratio": 0.0}, {"resolution": 50}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="MAEConfig"):
        dataclasses.replace(SMALL, **numbers)


def test_a_saved_model_comes_back_and_any_other_content_is_refused_in_one_line(tmp_path):
    mae = MaskedAutoencoder(SMALL).initialise(torch.Generator().manual_seed(0))
    path = tmp_path / "mae.safetensors"
    mae_checkpoint.save_mae(mae, path)
    again = mae_checkpoint.load_mae(path)
    assert again.config == SMALL
    assert all(map(torch.equal, mae.state_dict().values(), again.state_dict().values()))
    content = load_tensors(path)
    config, state = content["config"], content["state"]
    for change in ({"config": config | {"width": 64.0}}, {"config": config | {"layers": 10**9}},
                   {"config": config | {"patch": 0}}, {"config": {}}, {"state": []},
                   {"config": config | {"heads": 3}}, {"config": config | {"mask_ratio": "0.75"}},
                   {"state": state | {"mask_token": torch.zeros(3)}}, {"more": 1},
                   {"state": state | {"norm.weight": state["norm.weight"] * float("nan")}},
                   {"state": state | {"norm.weight": state["norm.weight"].double()}},
                   {"state": {k: v for k, v in state.items() if k != "mask_token"}}):
        save_tensors(path, content | change)
        with pytest.raises(ValueError, match="mae.safetensors.*[:;]") as refused:
            mae_checkpoint.load_mae(path)
        assert "\n" not in str(refused.value)


def test_a_file_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    mae = MaskedAutoencoder(SMALL)
    torch.save({"config": dataclasses.asdict(SMALL), "state": mae.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="expected a masked autoencoder.* must be made again"):
        mae_checkpoint.load_mae(tmp_path / "a.pt")
