"""Weights from where people have them: Hugging Face, open_clip, training checkpoints, the cache.

The judge is transformers.CLIPModel on random weights: whatever form the file has, our outputs are
those of the model that the weights were taken from.
"""
import json
import os

import pytest
import safetensors.torch
import torch

from bench.peers import drawn_transformers_model, our_keys
from minilora.checkpoint import hub_cache
from minilora.checkpoint.base_model import BaseModel, find_base
from minilora.checkpoint.hub_cache import cached_model, hub_folder
from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.published import find_path, find_weights
from minilora.checkpoint.recognise import recognise
from minilora.checkpoint.weights import describe_checkpoint, load_clip, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import sha256_of

transformers = pytest.importorskip("transformers")

# The towers of the list: their patch, resolution and widths of a head, with fewer heads and blocks.
SHAPES = {name: dict(embed=embed, resolution=resolution, vision_layers=2, vision_width=vision,
                     patch=patch, vocab=600, text_width=text, text_layers=2)
          for name, embed, resolution, vision, patch, text in (
    ("ViT-B/16", 64, 224, 192, 16, 128), ("ViT-B/32", 64, 224, 192, 32, 128),
    ("ViT-L/14", 96, 224, 256, 14, 192), ("ViT-L/14@336px", 96, 336, 256, 14, 192))}
TOLERANCE = 1e-5
HUB = "openai/clip-vit-base-patch16"


def peer_of(**changes):
    """transformers' CLIPModel with weights far enough from zero that every part matters."""
    return drawn_transformers_model(CLIPConfig(**{**SHAPES["ViT-B/32"], **changes}))


def official(peer, **changes):
    """The weights of a peer under OpenAI's names, by the table of the benchmarks."""
    clip = CLIP(CLIPConfig(**{**SHAPES["ViT-B/32"], **changes}))
    clip.load_state_dict(our_keys(peer.state_dict()))
    return {key: value.clone() for key, value in official_state_dict(clip).items()}


def assert_same_outputs(clip, peer):
    config = peer.config
    generator = torch.Generator().manual_seed(1)
    side, end = config.vision_config.image_size, config.text_config.vocab_size - 1
    pixels = torch.randn(2, 3, side, side, generator=generator)
    ids = torch.randint(1, end - 1, (3, 77), generator=generator)
    for row, length in enumerate((5, 77, 11)):
        ids[row, 0], ids[row, length - 1], ids[row, length:] = end - 1, end, 0
    with torch.no_grad():
        theirs = peer(input_ids=ids, pixel_values=pixels)
        image, text = clip.encode_image(pixels), clip.encode_text(ids)
        tokens = peer.vision_model(pixels, output_hidden_states=True).hidden_states[-1]
        ours = clip.visual.hidden_states(clip.visual.embed(pixels))[-1]
    for found, expected in (
            (image / image.norm(dim=-1, keepdim=True), theirs.image_embeds),
            (text / text.norm(dim=-1, keepdim=True), theirs.text_embeds),
            (clip.similarity(image, text), theirs.logits_per_image), (ours, tokens)):
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def peer():
    return peer_of()


@pytest.fixture(scope="module")
def gelu():
    return peer_of(activation="gelu")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty weights folders and an empty cache of the hub."""
    found = [tmp_path / "weights", tmp_path / "hub"]
    for folder in found:
        folder.mkdir()
    monkeypatch.setattr(paths, "weights_folders", lambda: found[:1])
    monkeypatch.setenv("HF_HUB_CACHE", str(found[1]))
    return found


def put_into_cache(hub, model, name=HUB, revision="57c216476eefef5ab752ec549e440a49ae4ae5f3"):
    """The cache as huggingface_hub leaves it: contents in blobs/, links in snapshots/."""
    folder = hub / f"models--{name.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text(revision)
    model.save_pretrained(folder / "new")
    for path in (folder / "new").iterdir():
        blob = folder / "blobs" / sha256_of(path)
        path.rename(blob)
        (folder / "snapshots" / revision / path.name).symlink_to(os.path.relpath(
            blob, folder / "snapshots" / revision))
    (folder / "new").rmdir()
    return folder / "snapshots" / revision


# ---- Hugging Face -------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_of_hugging_face_gives_the_outputs_of_transformers(name, tmp_path):
    peer = peer_of(**SHAPES[name])
    peer.save_pretrained(tmp_path / "model")
    clip, weights = load_clip(tmp_path / "model")
    assert_same_outputs(clip, peer)
    assert weights.name == "model/model.safetensors"
    assert weights.about == ("Hugging Face's names; activation quick_gelu (hidden_act in "
                             "config.json)")


@pytest.mark.slow
def test_a_full_size_vit_b_16_gives_the_outputs_of_transformers(tmp_path):
    full = dict(embed=512, resolution=224, vision_layers=12, vision_width=768, patch=16, vocab=600,
                text_width=512, text_layers=12)
    peer = peer_of(**full)
    peer.save_pretrained(tmp_path / "model")
    assert_same_outputs(load_clip(tmp_path / "model")[0], peer)


def test_a_file_of_hugging_face_uses_the_configuration_beside_it(gelu, tmp_path):
    gelu.save_pretrained(tmp_path)
    clip, weights = load_clip(tmp_path / "model.safetensors")
    assert clip.config.activation == "gelu" and "gelu (hidden_act" in weights.about
    assert_same_outputs(clip, gelu)


def test_pytorch_model_bin_is_read_and_position_ids_are_no_weights(gelu, tmp_path):
    state = gelu.state_dict() | {"vision_model.embeddings.position_ids": torch.arange(50)[None],
                                 "text_model.embeddings.position_ids": torch.arange(77)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    gelu.config.save_pretrained(tmp_path)
    assert_same_outputs(load_clip(tmp_path)[0], gelu)
    assert len(recognise(tmp_path / "pytorch_model.bin").ignored) == 2


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_heads_are_as_wide_as_the_configuration_says(activation, tmp_path):
    """ViT-H has heads of 80: 1280 / 16.  Two of them make a width of 160."""
    peer = peer_of(vision_width=160, head_width=80, text_width=160, text_head_width=80,
                   activation=activation)
    peer.save_pretrained(tmp_path)
    clip, weights = load_clip(tmp_path)
    assert clip.visual.blocks[0].attn.heads == clip.text.blocks[0].attn.heads == 2
    assert "heads 80 wide in the image tower, 80 in the text tower" in weights.about
    assert_same_outputs(clip, peer)


def test_hugging_faces_names_without_a_configuration_are_openais_models(peer, tmp_path):
    safetensors.torch.save_file(peer.state_dict(), tmp_path / "clip.safetensors")
    clip, weights = load_clip(tmp_path / "clip.safetensors")
    assert_same_outputs(clip, peer)
    assert "quick_gelu (as OpenAI's models there, because no config.json" in weights.about


def test_values_that_transformers_leaves_out_of_a_configuration_have_its_defaults(tmp_path):
    """save_pretrained may omit what equals the default: 12 and 8 heads, quick_gelu."""
    peer = peer_of(vision_width=768, text_width=512, vision_layers=1, text_layers=1)
    peer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    clip, _ = load_clip(tmp_path)
    assert clip.config.activation == "quick_gelu" and clip.config.head_width == 64
    assert_same_outputs(clip, peer)


@pytest.mark.parametrize("change, words", [
    ({"vision_config": {"hidden_act": "relu"}, "text_config": {"hidden_act": "relu"}},
     "expected quick_gelu or gelu in both towers, found relu; --activation can override it"),
    ({"vision_config": {"hidden_act": "gelu"}}, "found gelu and quick_gelu"),
    ({"vision_config": {"num_attention_heads": 7}}, "another model: vision_config .* 7 heads"),
    ({"vision_config": {"hidden_size": 768}}, "another model: vision_config has hidden_size 768"),
    ({"vision_config": {"num_attention_heads": "8"}}, "num_attention_heads: expected a whole"),
    ({"text_config": {"layer_norm_eps": 1e-6}}, "text_config.layer_norm_eps 1e-05, found 1e-06"),
    ({"text_config": []}, "config.json.text_config: expected")])
def test_a_configuration_of_another_network_is_refused_in_one_line(peer, tmp_path, change, words):
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for tower, values in change.items():
        config[tower] = config[tower] | values if values else values
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as error:
        load_clip(tmp_path)
    assert "\n" not in str(error.value)


def test_the_option_overrides_the_configuration_and_says_so(peer, gelu, tmp_path):
    gelu.save_pretrained(tmp_path)
    clip, weights = load_clip(tmp_path, activation="quick_gelu")
    assert clip.config.activation == "quick_gelu"
    assert "as --activation says, not gelu: hidden_act in config.json" in weights.about
    assert_same_outputs(clip, peer)                             # the same weights, the other act
    with pytest.raises(AssertionError):
        assert_same_outputs(clip, gelu)
    with pytest.raises(CheckpointError, match="expected quick_gelu or gelu, found 'tanh'"):
        load_clip(tmp_path, activation="tanh")


def test_one_tower_alone_and_missing_projections_are_named(peer, tmp_path):
    state = peer.state_dict()
    image = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_"))}
    safetensors.torch.save_file(image, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"only one tower of a CLIP, nothing under text_mod"):
        load_clip(tmp_path / "a.safetensors")
    del state["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="k_proj and v_proj of .*resblocks.1.*not three"):
        load_clip(tmp_path / "b.safetensors")


def test_a_model_in_several_files_is_refused_with_the_remedy(peer, tmp_path):
    peer.save_pretrained(tmp_path, max_shard_size="1MB")
    with pytest.raises(CheckpointError, match="several files .model.safetensors.index.json.*max_s"):
        load_clip(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder without weights; expected open_clip"):
        load_clip(tmp_path.parent)


# ---- open_clip ----------------------------------------------------------------------------------

def custom_text(state):
    """CustomTextCLIP's keys, with the mask that it keeps as a buffer."""
    towers = ("visual.", "logit_scale")
    renamed = {key if key.startswith(towers) else f"text.{key}": x for key, x in state.items()}
    return renamed | {"text.attn_mask": torch.full((77, 77), -torch.inf).triu(1)}


def open_clip_config(**model):
    return {"model_cfg": {"embed_dim": 64, "vision_cfg": {"layers": 2, "width": 192},
                          "text_cfg": {"width": 128, "heads": 2}} | model}


@pytest.mark.parametrize("form", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_open_clip_gives_the_outputs_of_the_same_model(form, file, gelu, tmp_path):
    state = official(gelu, activation="gelu")
    state = custom_text(state) if form == "CustomTextCLIP" else state
    save = safetensors.torch.save_file if file.endswith("safetensors") else torch.save
    save(state, tmp_path / file)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config()))
    clip, weights = load_clip(tmp_path)
    assert_same_outputs(clip, gelu)
    assert "gelu (quick_gelu is not set in open_clip_config.json)" in weights.about


def test_quick_gelu_and_head_width_come_from_open_clips_configuration(tmp_path):
    changes = dict(vision_width=160, head_width=80)
    peer = peer_of(**changes)
    safetensors.torch.save_file(official(peer, **changes), tmp_path / "open_clip_model.safetensors")
    config = open_clip_config(quick_gelu=True, vision_cfg={"width": 160, "head_width": 80})
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    clip, _ = load_clip(tmp_path)
    assert (clip.config.activation, clip.config.head_width) == ("quick_gelu", 80)
    assert_same_outputs(clip, peer)


@pytest.mark.parametrize("model, words", [
    (dict(text_cfg={"heads": 2, "no_causal_mask": True}), "text_cfg.no_causal_mask True is not"),
    (dict(vision_cfg={"pool_type": "avg"}), "vision_cfg.pool_type 'avg' is not computed here"),
    (dict(vision_cfg={"width": 768}), "another model: vision_cfg has the width 768, .* 192"),
    (dict(text_cfg={"heads": 3}), "3 heads in text_cfg, the weights have the width 128"),
    (dict(quick_gelu="yes"), "quick_gelu: expected true or false")])
def test_what_is_not_computed_here_is_refused_by_name(model, words, gelu, tmp_path):
    safetensors.torch.save_file(official(gelu), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(**model)))
    with pytest.raises(CheckpointError, match=words):
        load_clip(tmp_path)


@pytest.mark.parametrize("form", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("configured", [True, False])
def test_rn50_under_open_clips_names_gives_the_outputs_of_the_same_model(form, file, configured,
                                                                         tmp_path):
    """test_rn50_gives_the_features_of_openais_code binds the tower itself to OpenAI's outputs."""
    config = CLIPConfig(embed=64, resolution=64, vision_layers=(1, 2, 1, 1), vision_width=16,
                        patch=32, vocab=600, text_width=128, text_layers=2)
    own = CLIP(config).initialise(torch.Generator().manual_seed(0)).eval()
    state = official_state_dict(own) | {"visual.bn1.num_batches_tracked": torch.tensor(7)}
    state = {key: x.clone() for key, x in (custom_text(state) if form != "CLIP" else state).items()}
    (safetensors.torch.save_file if "safe" in file else torch.save)(state, tmp_path / file)
    if configured:
        vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}
        (tmp_path / "open_clip_config.json").write_text(
            json.dumps(open_clip_config(quick_gelu=True, vision_cfg=vision)))
    clip, weights = load_clip(tmp_path, activation=None if configured else "quick_gelu")
    assert clip.config == config and ("is set in open_clip" in weights.about) == configured
    pixels, ids = torch.randn(2, 3, 64, 64), torch.tensor([[598, 5, 6, 599], [598, 7, 599, 0]])
    assert torch.equal(clip.encode_image(pixels), own.encode_image(pixels))
    assert torch.equal(clip.encode_text(ids), own.encode_text(ids))


@pytest.mark.parametrize("name, form, activation", [
    ("vit_b_16-laion2b_e16.pt", "CLIP", "gelu"), ("open_clip_pytorch_model.bin", "CLIP", "gelu"),
    ("vit_b_32-quickgelu-laion400m_e32.pt", "CLIP", "quick_gelu"),
    ("epoch_32.pt", "CustomTextCLIP", "gelu"), ("clip.pt", "CLIP", "quick_gelu")])
def test_without_a_configuration_the_layout_and_the_name_decide(name, form, activation, gelu,
                                                                tmp_path):
    state = official(gelu)
    torch.save(custom_text(state) if form == "CustomTextCLIP" else state, tmp_path / name)
    clip, weights = load_clip(tmp_path / name)
    assert clip.config.activation == activation
    other = "quickgelu" if "quickgelu" in name else "--activation"
    assert other in weights.about


@pytest.mark.parametrize("mean, told", [([0.5] * 3, "mean [0.5, 0.5, 0.5]"),
                                        ([10**400] * 3, "mean [1000000"), ({}, "mean {}")])
def test_pictures_that_were_normalised_in_another_way_are_told(gelu, tmp_path, mean, told):
    """LAION's ViT-L/14 was trained on pictures of mean and std 0.5."""
    safetensors.torch.save_file(official(gelu), tmp_path / "open_clip_model.safetensors")
    config = open_clip_config() | {"preprocess_cfg": {"mean": mean, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert f"trained on pictures with {told}" in load_clip(tmp_path)[1].about


# ---- wrappers and prefixes ----------------------------------------------------------------------

@pytest.mark.parametrize("prefix", ["state_dict.", "model.", "module.", "_orig_mod.",
                                    "state_dict.module.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("layout", ["OpenAI", "Hugging Face", "CustomTextCLIP"])
def test_prefixes_of_training_loops_are_stripped_and_told(prefix, layout, peer, tmp_path):
    state = {"OpenAI": official(peer), "Hugging Face": peer.state_dict(),
             "CustomTextCLIP": custom_text(official(peer))}[layout]
    outer, _, inner = prefix.rpartition("state_dict.")
    content = {inner + key: value for key, value in state.items()}
    if outer or prefix.startswith("state_dict."):
        content = {"state_dict": content, "ema": {"visual.proj": torch.ones(2, 2)}}
    torch.save(content, tmp_path / "checkpoint.pt")
    clip, weights = load_clip(tmp_path / "checkpoint.pt", activation="quick_gelu")
    assert f"prefix {prefix} stripped" in weights.about
    assert_same_outputs(clip, peer)


def test_two_models_in_one_file_are_refused(peer, tmp_path):
    state = official(peer)
    torch.save({"model": state, "state_dict": state}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match="2 models, under model., state_dict.; save the one"):
        load_clip(tmp_path / "two.pt")
    torch.save({f"student.{key}": value for key, value in state.items()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="expected the key visual.conv1.weight.*student"):
        load_clip(tmp_path / "other.pt")


# ---- the cache of the hub -----------------------------------------------------------------------

def test_a_model_of_the_hubs_cache_is_found_by_both_its_names(folders, gelu):
    snapshot = put_into_cache(folders[1], gelu)
    for name in (HUB, "ViT-B/16"):
        clip, weights = load_clip(name)
        assert weights.name == f"{HUB} (Hugging Face)"
        assert weights.path == snapshot / "model.safetensors" and "config.json" in weights.about
        assert_same_outputs(clip, gelu)
    assert find_weights("ViT-B/16").sha256 == sha256_of(snapshot / "model.safetensors")
    with pytest.raises(CheckpointError, match="laion/CLIP-ViT-B-16: expected .* in the cache of H"):
        load_clip("laion/CLIP-ViT-B-16")
    with pytest.raises(CheckpointError, match="ViT-B-32.pt.* or openai/clip-vit-base-patch32 or "):
        load_clip("ViT-B/32")


def test_refs_main_decides_which_revision_is_used(folders, peer, gelu):
    new = put_into_cache(folders[1], gelu, revision="b" * 40)
    old = put_into_cache(folders[1], peer, revision="a" * 40)
    refs = old.parent.parent / "refs/main"
    assert find_path(HUB) == old / "model.safetensors"
    refs.write_text("b" * 40 + "\n")
    assert find_path(HUB) == new / "model.safetensors"
    refs.write_text("../../../elsewhere")
    with pytest.raises(CheckpointError, match="names the revision '../../../elsewhere', which is"):
        find_path(HUB)
    refs.unlink()
    with pytest.raises(CheckpointError, match="has 2 revisions and no refs/main"):
        find_path(HUB)


def test_a_changed_file_of_the_cache_does_not_keep_its_name(folders, peer):
    """A blob is named by its SHA-256."""
    path = put_into_cache(folders[1], peer) / "model.safetensors"
    blob = path.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert HUB not in load_clip(HUB)[1].name


def test_openais_own_file_is_preferred_to_the_cache(folders, peer):
    put_into_cache(folders[1], peer)
    torch.save(official(peer), folders[0] / "ViT-B-16.pt")
    assert find_path("ViT-B/16") == folders[0] / "ViT-B-16.pt"
    (folders[0] / "ViT-B-16.pt").rename(folders[0] / "moved.pt")
    save_official(official(peer), folders[0] / "ViT-B-16.safetensors")
    assert find_path("ViT-B/16") == folders[0] / "ViT-B-16.safetensors"


def test_timms_own_image_tower_is_not_taken_for_the_clip_beside_it(folders, gelu):
    folder = folders[1] / "models--timm--vit_base_patch16_clip_224.openai"
    snapshot = folder / "snapshots" / "977e3dd0"
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file({"cls_token": torch.ones(1)}, snapshot / "model.safetensors")
    with pytest.raises(CheckpointError, match="no weights found"):
        find_path("ViT-B/16")
    safetensors.torch.save_file(official(gelu), snapshot / "open_clip_model.safetensors")
    assert find_path("ViT-B/16") == snapshot / "open_clip_model.safetensors"


def test_openais_weights_of_open_clip_mean_quick_gelu_without_their_configuration(folders, peer):
    """open_clip fetches the file of weights alone, and knows by the model's name what it is."""
    folder = folders[1] / "models--timm--vit_base_patch16_clip_224.openai/snapshots/977e3dd0"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(official(peer), folder / "open_clip_model.safetensors")
    clip, weights = load_clip("ViT-B/16")
    assert weights.name == "timm/vit_base_patch16_clip_224.openai (Hugging Face)"
    assert 'quick_gelu (its name holds "openai")' in weights.about
    assert_same_outputs(clip, peer)
    folder.parent.parent.rename(folders[1] / "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K")
    assert load_clip("laion/CLIP-ViT-B-16-laion2B-s34B-b88K")[0].config.activation == "gelu"


def test_an_archive_of_openai_keeps_its_activation_beside_another_models_configuration(gelu, peer,
                                                                                      tmp_path):
    gelu.save_pretrained(tmp_path)
    sizes = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    torch.save(official(peer) | sizes, tmp_path / "ViT-B-32.pt")
    clip, weights = load_clip(tmp_path / "ViT-B-32.pt")
    assert "quick_gelu (OpenAI's archive)" in weights.about
    assert_same_outputs(clip, peer)


def test_the_folder_of_the_cache_follows_the_hubs_variables(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_folder() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert hub_folder() == tmp_path / "x/huggingface/hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "h"))
    assert hub_folder() == tmp_path / "h/hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "c"))
    assert hub_folder() == tmp_path / "c"


def test_without_a_home_folder_there_is_no_cache_and_no_error(monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_cache.os.path, "expanduser", lambda path: path)
    assert hub_folder() is None and cached_model(HUB) is None
    with pytest.raises(CheckpointError, match="cache of Hugging Face .no home folder."):
        find_path(HUB)


# ---- our own files, and found again --------------------------------------------------------------

@pytest.mark.parametrize("changes", [dict(activation="gelu"),
                                     dict(vision_width=160, head_width=80)])
def test_what_no_shape_tells_is_kept_in_our_own_files(changes, tmp_path):
    config = CLIPConfig(**{**SHAPES["ViT-B/32"], **changes})
    clip = CLIP(config).initialise(torch.Generator().manual_seed(0)).eval()
    save_official(clip, tmp_path / "own.safetensors", half=False)
    again, weights = load_clip(tmp_path / "own.safetensors")
    assert again.config == config and "(written by minilora)" in weights.about
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    assert torch.equal(clip.encode_image(pixels), again.encode_image(pixels))


def test_weights_are_never_saved_as_a_pickle(peer, tmp_path):
    for name in ("clip.pt", "clip.bin", "clip"):
        with pytest.raises(ValueError, match=f"{name}: weights are saved as safetensors; expected"):
            save_official(official(peer), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_model_given_by_a_relative_path_is_found_from_another_folder(peer, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save_official(official(peer), tmp_path / "a/mini-clip.safetensors")
    monkeypatch.chdir(tmp_path / "a")
    weights = load_clip("mini-clip.safetensors")[1]
    assert weights.path == tmp_path / "a/mini-clip.safetensors"
    assert weights.name == "mini-clip.safetensors"              # not the embedded model
    monkeypatch.chdir(tmp_path / "b")
    base = BaseModel(weights.name, weights.sha256, weights.path)
    assert find_base(base) == weights.path


def test_a_base_model_is_found_again_by_its_content(folders, peer, tmp_path):
    """The file at the stored path may be another one by now; the hash decides."""
    path = folders[0] / "ViT-B-16.safetensors"
    save_official(official(peer), path)
    digest = sha256_of(path)
    other = tmp_path / "ViT-B-16.safetensors"
    save_official(official(peer), other, half=False)
    assert find_base(BaseModel("ViT-B/16", digest, other)) == path
    assert find_base(BaseModel("anything", digest, other)) == path
    assert find_base(BaseModel("ViT-B/16", "0" * 64, other)) == other   # the caller says it
    other.unlink()
    path.unlink()
    with pytest.raises(CheckpointError, match="ViT-B/16 .sha256 .*neither there.*--model"):
        find_base(BaseModel("ViT-B/16", digest, other))


def test_the_description_tells_layout_activation_prefix_and_ignored_keys(gelu, tmp_path, capsys):
    state = {f"module.{key}": x for key, x in custom_text(official(gelu)).items()}
    torch.save({"state_dict": state, "steps": {"total": torch.tensor(7)}}, tmp_path / "epoch_3.pt")
    describe_checkpoint(tmp_path / "epoch_3.pt")
    out = capsys.readouterr().out
    for words in ("open_clip's names (CustomTextCLIP); activation gelu (",
                  "--activation quick_gelu",
                  "prefix state_dict.module. stripped", "ignored     2 keys", "steps.total",
                  "attn_mask", "activation='gelu'"):
        assert words in out
