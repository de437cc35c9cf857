"""From an official archive to a CLIP: names, shapes, precision, and errors that name the cause."""
import copy
import http.server
import json
import re
import subprocess
import sys
import threading

import numpy as np
import official_archive
import pytest
import safetensors.torch
import torch
from conftest import REPO, shared_path

from minilora.attention import MultiHeadAttention
from minilora.checkpoint import weights as module
from minilora.checkpoint.download_published import download_official
from minilora.checkpoint.openai_layout import (clip_from_state_dict, empty_clip, official_shapes,
                                               official_state_dict, our_parameters)
from minilora.checkpoint.published import OFFICIAL, Weights, find_weights
from minilora.checkpoint.weight_shapes import config_from_state_dict
from minilora.checkpoint.weights import (describe_checkpoint, load_clip, read_state_dict,
                                         save_official)
from minilora.clip import CLIP, VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336, CLIPConfig
from minilora.detector import Detector
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import sha256_of

SMALL = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=128, patch=16,
                   vocab=100, text_width=64, text_layers=1)


@pytest.fixture(scope="module")
def clip():
    return CLIP(SMALL).initialise(torch.Generator().manual_seed(0))


@pytest.fixture
def state(clip):
    return {key: value.clone() for key, value in official_state_dict(clip).items()}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two empty folders that are searched for weights, in this order."""
    found = [tmp_path / "weights", tmp_path / "cache"]
    for folder in found:
        folder.mkdir()
    monkeypatch.setattr(paths, "weights_folders", lambda: found)
    monkeypatch.setattr(paths, "download_folder", lambda: found[0])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return found


# ---- layout ------------------------------------------------------------------------------------

@pytest.mark.parametrize("config", [VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336, SMALL])
def test_the_configuration_can_be_inferred_from_the_shapes(config):
    shapes = official_shapes(empty_clip(config))
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert config_from_state_dict(state) == config


def test_names_and_shapes_equal_those_of_the_official_files(seeded):
    for ours, theirs in ((VIT_B_16, seeded.ViT_B_16), (VIT_B_32, seeded.ViT_B_32)):
        assert official_shapes(empty_clip(ours)) == {
            key: tuple(shape) for key, shape in seeded.shapes(theirs).items()}


def test_vit_b_16_has_as_many_parameters_as_published():
    clip = empty_clip(VIT_B_16)
    assert sum(p.numel() for p in clip.parameters()) == 149_620_737
    assert sum(p.numel() for p in clip.visual.parameters()) == 86_192_640


def test_the_fused_projection_splits_into_q_k_and_v_as_torch_splits_it():
    """The same weights in nn.MultiheadAttention, which keeps them fused, and in ours."""
    torch.manual_seed(0)
    fused, ours = torch.nn.MultiheadAttention(128, 2, batch_first=True), MultiHeadAttention(128, 2)
    torch.nn.init.normal_(fused.in_proj_bias)                   # they start as zeros
    prefix, parts = "visual.transformer.resblocks.0.attn.", {}
    for key, tensor in fused.state_dict().items():
        for name, part in our_parameters(prefix + key, tensor):
            parts[name.removeprefix("visual.blocks.0.attn.")] = part
    ours.load_state_dict(parts)
    x = torch.randn(2, 5, 128)
    expected, _ = fused(x, x, x, need_weights=False)
    assert (ours(x) - expected).abs().max() < 1e-6              # float32 rounding over 128 terms


def test_converting_to_our_names_and_back_gives_every_weight_bit_for_bit(clip, state):
    again = clip_from_state_dict(state)
    assert again.config == SMALL and not again.training
    for (name, a), (_, b) in zip(clip.state_dict().items(), again.state_dict().items()):
        assert torch.equal(a, b), name
    back = official_state_dict(again)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_each_weight_of_a_loaded_model_has_its_own_memory(state):
    """Training or saving one weight cannot change or include the source, or q through k and v."""
    clip = clip_from_state_dict(state)
    before = copy.deepcopy(clip.state_dict())
    for tensor in state.values():
        tensor.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), clip.state_dict().values()))
    for name, parameter in clip.named_parameters():
        assert parameter.is_leaf and parameter.requires_grad and not parameter.is_meta, name
        assert parameter.is_contiguous() and parameter.dtype == torch.float32, name
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel(), name
    assert not any(buffer.is_meta for buffer in clip.buffers())


def test_loading_does_not_change_the_number_of_threads(state):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        clip_from_state_dict(state)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_every_wrong_key_is_listed(state):
    del state["ln_final.bias"]
    state["visual.extra"] = torch.zeros(1)
    state["visual.class_embedding"] = torch.zeros(128, dtype=torch.int8)
    state["visual.ln_pre.bias"] = torch.zeros(127)
    with pytest.raises(CheckpointError, match="sizes: 4; use a complete") as error:
        clip_from_state_dict(state)
    assert str(error.value).split("unchanged file: ")[1].split("; ") == [
        "missing: ln_final.bias (64,)",
        "not expected: visual.extra",
        "visual.class_embedding: expected floating point (128,), found torch.int8 (128,)",
        "visual.ln_pre.bias: expected floating point (128,), found torch.float32 (127,)"]


@pytest.mark.parametrize("key, shape, words", [
    ("visual.conv1.weight", (128, 3, 16), "visual.conv1.weight: expected 4 dimensions"),
    ("visual.conv1.weight", (96, 3, 16, 16), "no CLIP with a ViT has these shapes.*vision_width"),
    ("visual.conv1.weight", (128, 3, 16, 8), "visual.conv1.weight: expected .*3, 16, 16.*3, 16, 8"),
    ("visual.positional_embedding", (18, 128), "a square number of rows, found 18"),
    ("visual.positional_embedding", (0, 128), "a square number of rows, found 0")])
def test_shapes_that_no_clip_has_are_named(state, key, shape, words):
    with pytest.raises(CheckpointError, match=words):
        clip_from_state_dict({**state, key: torch.zeros(shape)})


def test_other_dictionaries_are_not_accepted_as_clip_weights():
    with pytest.raises(CheckpointError, match="expected the key visual.conv1.weight, found 1 "):
        clip_from_state_dict({"vision_model.embeddings.class_embedding": torch.zeros(128)})


def test_a_missing_block_is_not_accepted_as_a_shallower_model(state):
    first = "visual.transformer.resblocks.0."
    kept = {key: value for key, value in state.items() if not key.startswith(first)}
    with pytest.raises(CheckpointError, match=re.escape(f"missing: {first}ln_1.weight (128,)")):
        clip_from_state_dict(kept)


def test_a_model_with_more_parameters_than_a_clip_has_no_official_form(clip):
    adapted = copy.deepcopy(clip)
    adapted.visual.blocks[0].attn.q.lora_A = torch.nn.Parameter(torch.zeros(4, 128))
    with pytest.raises(CheckpointError, match="not expected: .*lora_A"):
        official_state_dict(adapted)


@pytest.fixture
def resnet():
    """A CLIP with a small ResNet, its weights under the official keys."""
    config = CLIPConfig(embed=32, resolution=64, vision_layers=(1, 2, 1, 1), vision_width=16,
                        patch=32, context=16, vocab=600, text_width=64, text_layers=1)
    return CLIP(config).initialise(torch.Generator().manual_seed(0)).eval()


def test_a_resnet_is_recognised_by_its_keys(resnet):
    state = official_state_dict(resnet)
    assert {"visual.attnpool.q_proj.weight", "visual.layer2.0.downsample.1.running_mean",
            "visual.bn3.running_var", "transformer.resblocks.0.attn.in_proj_weight"} <= set(state)
    counters = {"visual.bn1.num_batches_tracked": torch.tensor(7)}      # as in official files
    again = clip_from_state_dict(state | counters)
    assert again.config == resnet.config
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.encode_image(pixels), resnet.encode_image(pixels))


def test_a_missing_key_of_a_resnet_is_named(resnet):
    state = official_state_dict(resnet)
    del state["visual.layer3.0.bn2.running_var"]
    with pytest.raises(CheckpointError, match="missing: visual.layer3.0.bn2.running_var"):
        clip_from_state_dict(state)


def test_a_resnet_cannot_be_a_detector(resnet):
    with pytest.raises(ValueError, match="is a ResNet, but .* need a vision transformer"):
        Detector(resnet, "plate")


# ---- archives ----------------------------------------------------------------------------------

def test_an_official_archive_becomes_a_float32_clip(tmp_path, clip, state):
    """Matrices were rounded to float16 in the archive, norms and embeddings were not."""
    official_archive.write_archive(state, tmp_path / "clip.pt")
    loaded, weights = load_clip(tmp_path / "clip.pt")
    assert weights == Weights("clip.pt", tmp_path / "clip.pt", sha256_of(tmp_path / "clip.pt"))
    for (name, ours), (_, original) in zip(loaded.named_parameters(), clip.named_parameters()):
        half = "blocks" in name and ".ln_" not in name or "proj" in name or "conv1" in name
        expected = original.half().float() if half else original
        assert torch.equal(ours, expected), name


def test_an_archive_gives_the_features_of_openais_own_code(tmp_path, seeded):
    """The reference weights are exact in float16, so nothing is lost in the archive."""
    golden = np.load(shared_path("golden/clip_tiny.npz"))
    path = tmp_path / "tiny.pt"
    official_archive.write_archive(seeded.seeded_state_dict(seeded.TINY), path, location="cuda:0")
    clip, _ = load_clip(str(path))
    with torch.no_grad():
        image = clip.encode_image(seeded.seeded_images(64))
        text = clip.encode_text(torch.from_numpy(golden["tokens"]).long())
    assert np.abs(image.numpy() - golden["image_features"]).max() <= 2e-5
    assert np.abs(text.numpy() - golden["text_features"]).max() <= 2e-5


def test_rn50_gives_the_features_of_openais_code(tmp_path, seeded):
    """OpenAI's outputs for seeded weights of full size, loaded from a file of the official form."""
    golden = np.load(shared_path("golden/clip_rn50.npz"))
    shapes = json.loads(shared_path("golden/rn50_shapes.json").read_text())
    state = {key: value.float() for key, value in seeded.seeded_tensors(shapes).items()}
    state.setdefault("token_embedding.weight", torch.eye(600, 512))
    torch.save(state, tmp_path / "RN50.pt")
    clip, weights = load_clip(tmp_path / "RN50.pt")
    assert clip.config.vision_layers == (3, 4, 6, 3) and weights.name.startswith("RN50.pt, not")
    pixels = seeded.seeded_images(224)
    with torch.no_grad():
        image, planes = clip.encode_image(pixels), clip.visual.stages(pixels)
    assert np.abs(image.numpy() - golden["image_features"]).max() <= 5e-5
    for stage, plane in enumerate(planes, 1):
        assert np.abs(plane[0].mean((1, 2)).numpy() - golden[f"layer{stage}_mean"]).max() <= 5e-5


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path, clip, state):
    path = tmp_path / "clip.pt"
    torch.save(state, path)
    loaded, _ = load_clip(path)
    with open(path, "r+b") as file:                             # in place, not by renaming
        file.write(b"\xff" * path.stat().st_size)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), clip.parameters()))


MEASURE = """
import sys
import minilora.checkpoint.weights
def kilobytes(field):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
open("/proc/self/clear_refs", "w").write("5")                   # resets the peak after imports
before = kilobytes("VmRSS")
clip, weights = minilora.checkpoint.weights.load_clip(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_full_size_vit_b_16_loads_within_a_memory_limit(tmp_path):
    """0.35 GB of records and 0.6 GB of float32, once each; random weights would add 0.6 GB."""
    shapes = official_shapes(empty_clip(VIT_B_16))
    row = torch.linspace(0, 1, 3072)                            # not constant, which is refused
    state = {key: row[:s[-1]].expand(s) if s else torch.tensor(4.6) for key, s in shapes.items()}
    official_archive.write_archive(state, tmp_path / "full.pt")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / "full.pt")], cwd=REPO,
                          capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1.3e9


# ---- saving ------------------------------------------------------------------------------------

def test_saving_keeps_official_keys_and_converts_every_tensor_to_float16(tmp_path, clip, state):
    save_official(clip, tmp_path / "clip.safetensors")
    saved = safetensors.torch.load_file(tmp_path / "clip.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[key], state[key].half()) for key in state)
    path = tmp_path / "full.safetensors"
    save_official({**state, "vocab_size": torch.tensor(100)}, path, half=False)
    again, _ = load_clip(path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), clip.parameters()))


def test_a_model_that_could_not_be_loaded_again_is_not_saved(tmp_path, clip, state):
    path = tmp_path / "clip.safetensors"
    state["visual.ln_pre.bias"] = torch.full((128,), 7e4)       # float16 ends at 65504
    with pytest.raises(CheckpointError, match="visual.ln_pre.bias and 0 others.*infinite or NaN"):
        save_official(state, path)
    with pytest.raises(CheckpointError, match="not expected: more"):
        save_official({**state, "more": torch.zeros(1)}, path)
    assert not path.exists()


# ---- finding and fetching ----------------------------------------------------------------------

def test_without_a_name_the_published_model_is_preferred_to_the_bundled_one(folders, clip):
    save_official(clip, folders[0] / "mini-clip.safetensors")
    assert find_weights().name == "mini-clip" == find_weights("mini-clip").name
    torch.save(official_state_dict(clip), folders[1] / "ViT-B-16.pt")
    assert find_weights().path == folders[1] / "ViT-B-16.pt"
    assert find_weights("mini-clip").path == folders[0] / "mini-clip.safetensors"
    assert load_clip()[1] == find_weights()


def test_a_file_is_reported_as_published_only_with_its_hash(folders, clip, monkeypatch, tmp_path):
    path = folders[0] / "ViT-B-16.pt"
    torch.save(official_state_dict(clip), path)
    assert find_weights("ViT-B/16").name == "ViT-B-16.pt, not the published ViT-B/16"
    monkeypatch.setitem(OFFICIAL, "ViT-B/16", OFFICIAL["ViT-B/16"]._replace(sha256=sha256_of(path)))
    assert find_weights("ViT-B/16").name == "ViT-B/16"
    path.rename(tmp_path / "renamed.pt")
    assert find_weights(tmp_path / "renamed.pt").name == "ViT-B/16"


def test_other_files_are_refused_before_hashing(tmp_path):
    (tmp_path / "page.pt").write_bytes(b"<html>")
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "page.pt", "is a web page")):
        with pytest.raises(CheckpointError, match=words):
            find_weights(path)


def test_without_any_weights_the_error_names_the_folders_and_the_commands(folders):
    with pytest.raises(CheckpointError) as error:
        load_clip()
    for words in ("ViT-B-16.pt or ", " or mini-clip.pt", str(folders[0]), str(folders[1]),
                  "minilora.checkpoint --download ViT-B/16", "minilora.pretrain"):
        assert words in str(error.value)


@pytest.mark.parametrize("name, words", [
    ("RN101", "RN101: expected a file or folder of weights, one of ViT-B/16, .*RN50, mini-clip"),
    ("ViT-B/8", "ViT-B/8: expected .*one of ViT-B/16, .*mini-clip, or owner/name .*; found none"),
    ("no/such.pt", "no/such.pt: expected a file or folder of weights, one of")])
def test_an_error_for_an_unknown_name_lists_the_known_ones(name, words):
    for ask in (load_clip, find_weights, download_official):
        with pytest.raises(CheckpointError, match=words):
            ask(name)


def test_addresses_contain_the_hash_and_weights_readme_lists_them():
    text = (REPO / "weights" / "README.md").read_text()
    for name, official in OFFICIAL.items():
        assert re.fullmatch("[0-9a-f]{64}", official.sha256)
        assert official.url == ("https://openaipublic.azureedge.net/clip/models/"
                                f"{official.sha256}/{official.file}")
        for part in (f"| {name} |", official.file, official.sha256):
            assert part in text


@pytest.fixture
def published(tmp_path, clip, monkeypatch):
    """ViT-B/16's entry, replaced by a small file on a local server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(official_state_dict(clip), folder / "ViT-B-16.pt")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        official = OFFICIAL["ViT-B/16"]._replace(
            sha256=sha256_of(folder / "ViT-B-16.pt"),
            url=f"http://127.0.0.1:{server.server_port}/ViT-B-16.pt")
        monkeypatch.setitem(OFFICIAL, "ViT-B/16", official)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield official
        server.shutdown()


def test_a_published_model_is_downloaded_only_when_requested_by_name(folders, published, capsys):
    with pytest.raises(CheckpointError, match="no weights"):
        load_clip()
    with pytest.raises(CheckpointError, match="expected ViT-B-16.pt or ViT-B-16.safetensors in"):
        find_weights("ViT-B/16")
    with pytest.raises(CheckpointError, match="minilora.checkpoint --download ViT-B/16"):
        load_clip("ViT-B/16")
    assert list(folders[0].iterdir()) == []
    _, weights = load_clip("ViT-B/16", download=True)
    assert weights == Weights("ViT-B/16", folders[0] / "ViT-B-16.pt", published.sha256)
    assert "100%" in capsys.readouterr().out
    load_clip("ViT-B/16", download=True)
    assert capsys.readouterr().out == ""                        # the second time the file exists


def test_another_file_of_the_published_name_is_not_replaced_by_a_download(folders, published):
    """It may be a user's own; after it was moved away the download works."""
    path = folders[0] / "ViT-B-16.pt"
    path.write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(CheckpointError, match="is cut off or damaged"):
        load_clip("ViT-B/16", download=True)
    with pytest.raises(CheckpointError, match="another sha256 and was not replaced; move it away"):
        download_official("ViT-B/16")
    assert path.read_bytes() == b"PK\x03\x04 half of it"
    path.rename(folders[0] / "mine.pt")
    assert sha256_of(download_official("ViT-B/16")) == published.sha256


def test_offline_the_error_says_where_to_put_which_file(folders, published, monkeypatch):
    gone = published._replace(url=published.url.rsplit(":", 1)[0] + ":9/ViT-B-16.pt")
    monkeypatch.setitem(OFFICIAL, "ViT-B/16", gone)
    with pytest.raises(CheckpointError) as error:
        load_clip("ViT-B/16", download=True)
    text = str(error.value)
    assert text.startswith("ViT-B/16 could not be downloaded: cannot reach 127.0.0.1:9: ")
    assert f"; by hand: save {gone.url} as {folders[0] / 'ViT-B-16.pt'}; second source: python " \
           "-m minilora.checkpoint --download ViT-B/16 --source huggingface (https://hugg" in text
    assert "\n" not in text


# ---- the command -------------------------------------------------------------------------------

def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["checkpoint", *map(str, arguments)])
    module.main()


def test_the_command_prints_what_is_inside(tmp_path, state, monkeypatch, capsys):
    official_archive.write_archive(state, tmp_path / "clip.pt")
    run(monkeypatch, tmp_path / "clip.pt")
    out = capsys.readouterr().out
    for words in (f"{tmp_path / 'clip.pt'}: clip.pt", sha256_of(tmp_path / "clip.pt"),
                  f"{len(state) + 3}: ", "3 int64", "float16", "CLIPConfig(embed=32, resolution=64",
                  "temperature 1 = ", f"{sum(value.numel() for value in state.values()):,}"):
        assert words in out


def test_the_command_downloads_into_a_folder(tmp_path, published, monkeypatch, capsys):
    run(monkeypatch, "--download", "ViT-B/16", "--folder", tmp_path / "here")
    assert "ViT-B-16.pt is there and has the right sha256" in capsys.readouterr().out
    assert sha256_of(tmp_path / "here" / "ViT-B-16.pt") == published.sha256


def test_the_command_reports_mistakes_in_one_line_without_a_traceback(tmp_path):
    (tmp_path / "page.pt").write_bytes(b"<html>")
    for arguments in ([tmp_path / "page.pt"], [tmp_path / "absent.pt"], ["--download", "RN101"]):
        done = subprocess.run([sys.executable, "-m", "minilora.checkpoint", *map(str, arguments)],
                              cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert re.match("minilora.checkpoint: .*(web page|absent.pt|RN101)", done.stderr)


def test_the_content_of_an_unusable_file_is_shown_before_the_error(tmp_path, capsys):
    torch.save({"some.weight": torch.zeros(2).half()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not the weights of a CLIP .*1 others .some.weight"):
        describe_checkpoint(tmp_path / "other.pt")
    assert "keys        1: 1 float16" in capsys.readouterr().out
    assert read_state_dict(tmp_path / "other.pt")["some.weight"].shape == (2,)
