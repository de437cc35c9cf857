"""The second source: what the hub announces is what must arrive."""
import hashlib
import http.server
import threading

import pytest
import torch

from minilora.checkpoint import hub_download
from minilora.checkpoint.hub_download import announced_file
from minilora.checkpoint.http_limits import DownloadError
from minilora.checkpoint.openai_layout import empty_clip
from minilora.checkpoint.download_published import download_official
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP, VIT_B_16, VIT_B_32, VIT_L_14, CLIPConfig
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError

CONFIG = CLIPConfig(embed=32, resolution=64, vision_layers=1, vision_width=64, patch=16, vocab=100,
                    text_width=64, text_layers=1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local server that answers as the hub does; its content and its tag can be changed."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = tmp_path / "source.safetensors"
    save_official(CLIP(CONFIG).initialise(torch.Generator().manual_seed(0)), path)

    class Hub(http.server.BaseHTTPRequestHandler):
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        redirect = "/cdn"

        def do_HEAD(self):
            if self.path == "/cdn":
                raise AssertionError("the announcement is in the first answer")
            self.send_response(302)
            self.send_header("Location", self.redirect)
            if self.tag:
                self.send_header("X-Linked-Etag", self.tag)
                self.send_header("X-Linked-Size", str(len(self.content)))
            self.end_headers()

        def do_GET(self):
            if self.path == "/cdn":
                self.send_response(200)
                self.send_header("Content-Length", str(len(self.content)))
                self.end_headers()
                self.wfile.write(self.content)
            else:
                self.do_HEAD()

        def log_message(self, *arguments):
            pass

    monkeypatch.setattr(paths, "weights_folders", lambda: [tmp_path / "weights"])
    monkeypatch.setattr(paths, "download_folder", lambda: tmp_path / "weights")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        monkeypatch.setattr(hub_download, "HUB_ADDRESS",
                            f"http://127.0.0.1:{server.server_port}/{{repo}}/model.safetensors")
        Hub.url = f"http://127.0.0.1:{server.server_port}/model.safetensors"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield Hub
        server.shutdown()


def test_the_second_source_is_downloaded_and_found_under_the_models_name(hub, tmp_path):
    path = download_official("ViT-B/16", source="huggingface")
    assert path == tmp_path / "weights/ViT-B-16.safetensors"
    weights = load_clip("ViT-B/16")[1]
    assert (weights.name, weights.path) == ("ViT-B-16.safetensors", path)
    assert announced_file(hub.url) == (weights.sha256, len(hub.content))


def test_a_file_that_is_not_the_announced_one_is_not_kept(hub, tmp_path):
    hub.content = bytes([hub.content[0] ^ 1]) + hub.content[1:]
    with pytest.raises(CheckpointError, match="sent another file: expected sha256"):
        download_official("ViT-B/16", source="huggingface")
    assert not (tmp_path / "weights/ViT-B-16.safetensors").exists()


@pytest.mark.parametrize("tag", ['"not-a-hash"', '"d41d8cd98f00b204e9800998ecf8427e"', "x\x1b[2J"])
def test_a_server_that_announces_no_hash_is_not_trusted(hub, tag):
    hub.tag = tag
    with pytest.raises(DownloadError, match="announces no SHA-256.*nothing was") as error:
        announced_file(hub.url)
    assert str(error.value).isprintable()


def test_without_an_announcement_a_redirect_in_circles_ends(hub):
    hub.tag, hub.redirect = "", "/model.safetensors"
    with pytest.raises(DownloadError, match="answers 302|redirect"):
        announced_file(hub.url)


def test_what_the_hub_does_not_have_is_said(hub):
    with pytest.raises(CheckpointError, match="RN50 could not be downloaded: the hub has no safet"):
        download_official("RN50", source="huggingface")


@pytest.mark.parametrize("name, config", [("ViT-B/16", VIT_B_16), ("ViT-B/32", VIT_B_32),
                                          ("ViT-L/14", VIT_L_14)])
def test_the_stated_sizes_are_four_bytes_for_each_parameter(name, config):
    count = sum(p.numel() for p in empty_clip(config).parameters())
    assert abs(4 * count / 1e6 - hub_download.HUB_FILES[name].megabytes) <= 1
