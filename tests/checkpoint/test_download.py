"""Downloads are resumed, verified, and renamed only when complete.  The server is local."""
import http.server
import random
import socket
import threading
import time
import urllib.request

import pytest

from minilora.checkpoint import download as module
from minilora.checkpoint.download import DownloadError, DownloadProgress, download_file
from minilora.io.files import sha256_of

CONTENT = bytes(range(256)) * 4000                              # 1,024,000 bytes
PATH = "/clip/weights.pt"


class Server(http.server.BaseHTTPRequestHandler):
    """A test sets its behaviour: `cut` closes after so many bytes, `ranges` supports Range."""

    def do_GET(self):
        self.server.requested.append(self.headers.get("Range"))
        if self.path.startswith("/round/"):
            self.send_response(302)
            self.send_header("Location", f"/round/{self.path.count('x') * 'x'}x")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", PATH)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if not self.path.endswith(PATH):                        # a proxy gets the whole address
            return self.send_error(404)
        start = 0
        if self.headers.get("Range") and self.server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            first = start + self.server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) if self.server.cut is None else start + self.server.cut
        self.wfile.write(CONTENT[start:end])
        if self.server.hangs:
            self.wfile.flush()
            time.sleep(self.server.hangs)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.cut, server.ranges, server.says_length, server.shift = None, True, True, 0
        server.hangs = 0
        server.requested, server.url = [], f"http://127.0.0.1:{server.server_port}{PATH}"
        server.handle_error = lambda *_: None                   # a client that closes early is fine
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def right(tmp_path):
    """The SHA-256 of the server's file."""
    (tmp_path / "original").write_bytes(CONTENT)
    digest = sha256_of(tmp_path / "original")
    (tmp_path / "original").unlink()
    return digest


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_arrives_complete_and_shows_its_progress(server, right, tmp_path, capsys):
    path = download_file(server.url, tmp_path / "new" / "weights.pt", right)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["weights.pt"]
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 11 and "(100%)" in lines[-1] and "MB/s" in lines[-1]


def test_an_interrupted_download_continues_where_it_stopped(server, right, tmp_path):
    server.cut = 300_000
    path = tmp_path / "weights.pt"
    for arrived in (300_000, 600_000, 900_000):
        with pytest.raises(DownloadError, match=f"{arrived:,} of 1,024,000 bytes.*to continue"):
            download_file(server.url, path, right)
        assert names(tmp_path) == ["weights.pt.part"]
    server.cut = None
    download_file(server.url, path, right)
    assert server.requested == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["weights.pt"]


def test_a_server_without_range_support_sends_the_file_again(server, right, tmp_path):
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    download_file(server.url, tmp_path / "weights.pt", right)
    assert server.requested == ["bytes=1000-"]
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT


def test_a_complete_part_is_only_renamed(server, right, tmp_path):
    """The process died between the last byte and the renaming."""
    (tmp_path / "weights.pt.part").write_bytes(CONTENT)
    download_file(server.url, tmp_path / "weights.pt", right)
    assert names(tmp_path) == ["weights.pt"]


def test_a_server_that_continues_at_the_wrong_byte_is_refused(server, right, tmp_path):
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])
    server.shift = 5
    with pytest.raises(DownloadError, match="requested bytes from 1000, got them from 1005"):
        download_file(server.url, tmp_path / "weights.pt", right)
    assert (tmp_path / "weights.pt.part").read_bytes() == CONTENT[:1000]


def test_wrong_content_is_deleted_and_the_earlier_file_stays(server, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"the old one")
    with pytest.raises(DownloadError, match="sha256 0000.*found [0-9a-f]{64} over 1,024,000"):
        download_file(server.url, path, "0" * 64)
    assert path.read_bytes() == b"the old one" and names(tmp_path) == ["weights.pt"]


def test_a_part_of_another_file_is_found_by_its_hash_and_deleted(server, right, tmp_path):
    (tmp_path / "weights.pt.part").write_bytes(b"x" * 1000)     # of some other file
    with pytest.raises(DownloadError, match="it was deleted, try again"):
        download_file(server.url, tmp_path / "weights.pt", right)
    download_file(server.url, tmp_path / "weights.pt", right)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT


def test_without_a_length_the_hash_decides_whether_it_is_complete(server, right, tmp_path, capsys):
    server.says_length = False
    download_file(server.url, tmp_path / "weights.pt", right)
    assert "1.0 MB, " in capsys.readouterr().out
    server.cut = 10
    with pytest.raises(DownloadError, match="over 10 bytes"):
        download_file(server.url, tmp_path / "other.pt", right)


def test_a_missing_address_reports_the_servers_answer(server, right, tmp_path):
    with pytest.raises(DownloadError, match="127.0.0.1:[0-9]+ answers 404 Not Found for http"):
        download_file(server.url + "x", tmp_path / "weights.pt", right)
    assert names(tmp_path) == []


def test_an_unreachable_server_is_named(right, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:                               # a port without a server
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=f"cannot reach 127.0.0.1:{port}: .*refused"):
        download_file(f"http://127.0.0.1:{port}{PATH}", tmp_path / "weights.pt", right)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(server, right, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write .*file.weights.pt.part"):
        download_file(server.url, tmp_path / "file" / "weights.pt", right)


def test_progress_is_one_line_on_a_terminal_and_ten_in_a_log(capsys, monkeypatch):
    def shown():
        progress = DownloadProgress("weights.pt", 0, 1000)
        for done in range(1, 1001):
            progress.show(done)
        progress.show(1000, last=True)
        return capsys.readouterr().out
    log = shown().splitlines()
    assert len(log) == 10 and "(10%)" in log[0] and "(100%)" in log[-1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    live = shown()
    assert live.startswith("\r") and live.count("\n") == 1 and live.endswith("\n")


@pytest.mark.parametrize("seed", range(5))
def test_interruptions_at_random_bytes_never_give_an_incomplete_file(server, right, tmp_path, seed):
    """However often the connection breaks, each attempt continues and the last one completes."""
    draw = random.Random(seed)
    for _ in range(200):
        server.cut = draw.randrange(1, 300_000)
        try:
            download_file(server.url, tmp_path / "weights.pt", right)
            break
        except DownloadError as error:
            assert "cut" in str(error) and names(tmp_path) == ["weights.pt.part"]
    assert names(tmp_path) == ["weights.pt"] and (tmp_path / "weights.pt").read_bytes() == CONTENT


def test_a_silent_server_times_out_and_received_bytes_stay(server, right, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.cut, server.hangs = 300_000, 1.0
    with pytest.raises(DownloadError, match="300,000 of 1,024,000 bytes arrived"):
        download_file(server.url, tmp_path / "weights.pt", right)
    assert (tmp_path / "weights.pt.part").stat().st_size == 300_000


def test_a_redirect_is_followed_but_not_a_loop(server, right, tmp_path):
    there = server.url.removesuffix(PATH)
    assert download_file(f"{there}/moved", tmp_path / "a.pt", right).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="127.0.0.1:.* answers 302"):
        download_file(f"{there}/round/", tmp_path / "b.pt", right)
    assert names(tmp_path) == ["a.pt"] and len(server.requested) <= 10


def test_a_redirect_never_leaves_https():
    request = urllib.request.Request("https://example.org/a.pt")
    handler = module.SafeRedirectHandler()
    with pytest.raises(DownloadError, match="redirects to http://example.org/a.pt.*not followed"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a.pt")
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://b.org/a.pt")


def test_the_proxy_of_the_environment_is_used(server, right, tmp_path, monkeypatch):
    """The host does not exist; the request goes to the proxy, which answers."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix(PATH))
    monkeypatch.setenv("no_proxy", "")
    download_file(f"http://no-such-host.invalid{PATH}", tmp_path / "weights.pt", right)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT
