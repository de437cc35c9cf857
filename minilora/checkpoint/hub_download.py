"""The second source of published weights: a safetensors file of the Hugging Face hub.

    https://huggingface.co/openai/clip-vit-base-patch16/resolve/main/model.safetensors

Claim: OpenAI's address contains the file's SHA-256, so no server can exchange the file.  The hub
announces the SHA-256 in its answer, X-Linked-Etag, as its own clients use it: that finds a damaged
download, but not a server that lies.  So the command then reads the file as a CLIP, and every run
reports its SHA-256.

    https://github.com/huggingface/huggingface_hub (file_download.py, get_hf_file_metadata)
Untested against the live files: the tests use a local server that answers in the same form.
Left out: private models, tokens, other revisions than main.
"""
import http.server
import re
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, NamedTuple

from minilora.checkpoint.download import download_file
from minilora.checkpoint.http_limits import (TIMEOUT, DownloadError, LimitedHTTPHandler,
                                             LimitedHTTPSHandler, SafeRedirectHandler)
from minilora.io.text import shown

HUB_ADDRESS = "https://huggingface.co/{repo}/resolve/main/model.safetensors"


class HubFile(NamedTuple):
    """A file of the hub with the weights of a published model."""
    repo: str
    megabytes: int                      # 4 bytes for each parameter

    def url(self) -> str:
        """The address of the newest version."""
        return HUB_ADDRESS.format(repo=self.repo)


# openai/clip-vit-large-patch14-336 has no safetensors file, and RN50 is not there.
HUB_FILES = {"ViT-B/16": HubFile("openai/clip-vit-base-patch16", 599),
             "ViT-B/32": HubFile("openai/clip-vit-base-patch32", 605),
             "ViT-L/14": HubFile("openai/clip-vit-large-patch14", 1711)}


class StopAtFileHandler(SafeRedirectHandler):
    """Follows redirects to the answer that announces the file, and not to the file itself."""

    def redirect_request(self, request: urllib.request.Request, file: IO[bytes], code: int,
                         message: str, headers: HTTPMessage, target: str
                         ) -> urllib.request.Request | None:
        """The next request, or None (urllib then raises HTTPError) if this is the answer."""
        if "X-Linked-Etag" in headers:
            return None
        return super().redirect_request(request, file, code, message, headers, target)


def announced_file(url: str) -> tuple[str, int | None]:
    """(SHA-256, size in bytes or None) that the hub announces for a file.  Raises DownloadError."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "minilora"})
    opener = urllib.request.build_opener(StopAtFileHandler, LimitedHTTPHandler,
                                         LimitedHTTPSHandler)
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        if "X-Linked-Etag" not in error.headers:
            raise DownloadError(f"{url} answers {error.code} {shown(error.reason)}") from error
        headers = error.headers
    except DownloadError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"cannot reach {url}: {shown(reason)}") from error
    tag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    digest = tag.removeprefix("W/").strip('"')
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise DownloadError(f"{url} announces no SHA-256, but the tag {shown(tag, 80)!r}; nothing "
                            "was downloaded")
    size = headers.get("X-Linked-Size", "")
    return digest, int(size) if re.fullmatch("[0-9]{1,18}", size) else None


def download_from_hub(name: str, path: Path) -> Path:
    """Download the weights of a published model from the hub to `path`.  Raises DownloadError.

    The digest comes from the same server, so the caller has to read the file as a CLIP.
    """
    url = HUB_FILES[name].url()
    sha256, size = announced_file(url)
    return download_file(url, path, sha256, size)


def demo() -> None:
    """The announcement of a local server in the hub's form."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(302)
            self.send_header("Location", "/the-file")
            self.send_header("X-Linked-Etag", f'"{"ab" * 32}"')
            self.send_header("X-Linked-Size", "598641023")
            self.end_headers()

        def log_message(self, *arguments):
            pass
    for name, file in HUB_FILES.items():
        print(f"{name}: {file.url()}, {file.megabytes} MB")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            print(*announced_file(f"http://127.0.0.1:{server.server_port}/model.safetensors"))
        except DownloadError as error:          # a proxy without an exception for this machine
            print(error, file=sys.stderr)
        server.shutdown()


if __name__ == "__main__":
    demo()
