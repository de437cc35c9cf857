"""Downloads are resumed, verified, and renamed only when complete.  The server is local."""
import errno
import http.server
import io
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import REPO

from minilora.checkpoint import download, http_limits
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


def test_wrong_content_is_deleted(server, tmp_path):
    with pytest.raises(DownloadError, match="sha256 0000.*found [0-9a-f]{64} over 1,024,000"):
        download_file(server.url, tmp_path / "weights.pt", "0" * 64)
    assert names(tmp_path) == []


def test_a_users_file_of_this_name_is_not_replaced(server, right, tmp_path, monkeypatch):
    """Neither before the request nor if it appears during it."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"trained for weeks")
    with pytest.raises(DownloadError, match="weights.pt is there with another sha256; it was not"):
        download_file(server.url, path, right)
    assert server.requested == [] and names(tmp_path) == ["weights.pt"]
    path.unlink()
    receive = download.receive
    monkeypatch.setattr(download, "receive", lambda *given: (path.write_bytes(b"trained"),
                                                             receive(*given))[1])
    with pytest.raises(DownloadError, match="weights.pt is there with another sha256"):
        download_file(server.url, path, right)
    assert path.read_bytes() == b"trained"
    assert (tmp_path / "weights.pt.part").read_bytes() == CONTENT


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
    monkeypatch.setattr(http_limits, "TIMEOUT", 0.2)
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
    handler = http_limits.SafeRedirectHandler()
    with pytest.raises(DownloadError, match="redirects to http://example.org/a.pt.*not followed"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a.pt")
    answer = io.BytesIO(b"a page that says where it moved")
    assert handler.redirect_request(request, answer, 302, "Found", {}, "https://b.org/a.pt")


def test_the_proxy_of_the_environment_is_used(server, right, tmp_path, monkeypatch):
    """The host does not exist; the request goes to the proxy, which answers."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix(PATH))
    monkeypatch.setenv("no_proxy", "")
    download_file(f"http://no-such-host.invalid{PATH}", tmp_path / "weights.pt", right)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT


# ---- servers that are slow, endless or hostile --------------------------------------------------

class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers with what the test gives: a list of byte strings, and seconds between them."""

    def do_GET(self):
        pieces, wait = self.server.answer
        for piece in pieces():
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:                                     # the client has given up
                return
            time.sleep(wait)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def hostile(monkeypatch):
    """Starts a server that sends pieces; returns its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

        def start(pieces, wait=0.0):
            server.answer = pieces if callable(pieces) else lambda: iter(pieces), wait
            return f"http://127.0.0.1:{server.server_port}{PATH}"
        yield start
        server.shutdown()


def endless(piece, first=b"HTTP/1.1 200 OK\r\n\r\n"):
    def pieces():
        yield first
        while True:
            yield piece
    return pieces


SLOW = {"status line": endless(b"1", b"HTTP/1.1 200 "),
        "headers": endless(b"a", b"HTTP/1.1 200 OK\r\nX: "),
        "many answers 100": endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"")}


@pytest.mark.parametrize("kind", SLOW)
def test_headers_that_never_end_are_given_up(hostile, right, tmp_path, monkeypatch, kind):
    """One byte every 20 ms never exceeds the limit of a single wait."""
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 0.4)
    begun = time.monotonic()
    with pytest.raises(DownloadError, match="cannot reach 127.0.0.1:[0-9]+: .*(slow|timed out)"):
        download_file(hostile(SLOW[kind], 0.02), tmp_path / "weights.pt", right)
    assert time.monotonic() - begun < 5 and names(tmp_path) == []


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nContent-Length: 1024000\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"])
def test_a_body_that_drips_is_given_up_and_what_arrived_stays(hostile, right, tmp_path, monkeypatch,
                                                              first):
    monkeypatch.setattr(http_limits, "SLOW_SECONDS", 0.4)
    begun = time.monotonic()
    with pytest.raises(DownloadError, match="arrived, then the server was too slow; run the same"):
        download_file(hostile(endless(b"x", first), 0.02), tmp_path / "weights.pt", right)
    assert time.monotonic() - begun < 5
    chunked = b"chunked" in first                               # of a chunk no byte has arrived
    assert names(tmp_path) == ([] if chunked else ["weights.pt.part"])


def test_a_body_without_end_stops_at_the_expected_size(hostile, right, tmp_path):
    url = hostile(endless(b"x" * 65_536))
    with pytest.raises(DownloadError, match="sends more than 1,024,000 bytes"):
        download_file(url, tmp_path / "weights.pt", right, size=len(CONTENT))
    assert names(tmp_path) == []


def test_a_body_without_end_and_without_a_size_stops_at_the_cap(hostile, right, tmp_path,
                                                                monkeypatch):
    monkeypatch.setattr(download, "MAX_DOWNLOAD", 500_000)
    with pytest.raises(DownloadError, match="sends more than 500,000 bytes"):
        download_file(hostile(endless(b"x" * 65_536)), tmp_path / "weights.pt", right)
    assert names(tmp_path) == []


def test_another_announced_size_is_refused_before_a_byte_is_overwritten(server, right, tmp_path):
    part = tmp_path / "weights.pt.part"
    part.write_bytes(CONTENT[:1000])
    for server.ranges in (True, False):
        with pytest.raises(DownloadError, match="expected a file of 2,000,000 bytes, the server "
                                                "announces 1,024,000"):
            download_file(server.url, tmp_path / "weights.pt", right, size=2_000_000)
    assert part.read_bytes() == CONTENT[:1000]
    download_file(server.url, tmp_path / "weights.pt", right, size=len(CONTENT))


def test_the_end_of_the_body_is_not_the_end_of_the_file_if_the_size_is_known(hostile, tmp_path,
                                                                            right):
    url = hostile([b"HTTP/1.1 200 OK\r\n\r\n", CONTENT[:5000]])
    with pytest.raises(DownloadError, match="5,000 of 1,024,000 bytes arrived"):
        download_file(url, tmp_path / "weights.pt", right, size=len(CONTENT))
    assert (tmp_path / "weights.pt.part").read_bytes() == CONTENT[:5000]


def test_text_of_the_server_is_escaped_and_cut(hostile, right, tmp_path):
    reason = b"\x1b[2JOK\xc2\x85" + b"x" * 5000
    (tmp_path / "weights.pt.part").write_bytes(b"x")
    bad_range = b"HTTP/1.1 206 OK\r\nContent-Range: \x1b[31mbytes " + b"9" * 9000 + b"-2/1\r\n\r\n"
    for answer in (b"HTTP/1.1 404 " + reason + b"\r\n\r\n", bad_range,
                   b"HTTP/1.1 302 Found\r\nLocation: gopher://a/" + b"\x1b" * 900 + b"\r\n\r\n",
                   b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", b"\x1b[2J\n" * 9000):
        with pytest.raises(DownloadError) as caught:
            download_file(hostile([answer]), tmp_path / "weights.pt", right)
        text = str(caught.value)
        assert text.isprintable() and len(text) < 600, text


@pytest.mark.parametrize("length", [b"\xb2", b"-5", b"9" * 5000, b"1e3", b"12 12"])
def test_a_length_that_is_no_number_is_ignored(hostile, right, tmp_path, length):
    url = hostile([b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n", CONTENT])
    assert download_file(url, tmp_path / "a.pt", right).read_bytes() == CONTENT


def test_the_body_of_a_redirect_is_not_read(hostile, right, tmp_path, monkeypatch):
    """It may have no end; urllib alone would read all of it into memory."""
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 2)
    seen = []

    def pieces():
        seen.append(1)
        if len(seen) > 1:
            yield b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT
            return
        yield from endless(b"x" * 65_536, b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n")()
    begun = time.monotonic()
    assert download_file(hostile(pieces), tmp_path / "a.pt", right).read_bytes() == CONTENT
    assert time.monotonic() - begun < 1.5


# ---- several processes, and what may lie in the place of a part ---------------------------------

def without_locks(monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("locks", [True, False])
def test_60_races_of_two_downloads_never_leave_a_wrong_file(server, right, tmp_path, monkeypatch,
                                                            locks):
    """Starting together or apart, with a part or without: the final file is the right one."""
    if not locks:
        without_locks(monkeypatch)
    draw, finished = random.Random(0), 0
    for race in range(60):
        path = tmp_path / str(race) / "weights.pt"
        path.parent.mkdir()
        if race % 3 == 1:
            Path(f"{path}.part").write_bytes(CONTENT[:draw.randrange(1, 900_000)])
        server.cut = draw.choice([None, None, 400_000])
        outcomes, unexpected = [], []

        def attempt(delay):
            time.sleep(delay)
            try:
                outcomes.append(download_file(server.url, path, right))
            except Exception as error:          # in a thread it would be lost
                unexpected.extend([] if isinstance(error, DownloadError) and re.search(
                    "written by another process|was cut", str(error)) else [error])
        threads = [threading.Thread(target=attempt, args=(draw.uniform(0, 0.01),))
                   for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not unexpected
        if outcomes:
            finished += 1
            assert path.read_bytes() == CONTENT
        assert path.exists() == bool(outcomes)
        assert set(names(path.parent)) <= {"weights.pt", "weights.pt.part"}
        server.cut = None
        download_file(server.url, path, right)
        assert path.read_bytes() == CONTENT
    assert finished > 30


def test_two_processes_never_write_to_one_part(server, right, tmp_path):
    """The second one is refused while the first is busy; a killed one leaves its bytes."""
    server.cut, server.hangs, path = 300_000, 20, tmp_path / "weights.pt"
    code = ("import sys; from minilora.checkpoint.download import download_file; "
            "download_file(*sys.argv[1:])")
    first = subprocess.Popen([sys.executable, "-c", code, server.url, str(path), right],
                             cwd=REPO, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if (part := tmp_path / "weights.pt.part").exists() and server.requested:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    with pytest.raises(DownloadError, match="part is being written by another process"):
        download_file(server.url, path, right)
    first.kill()
    first.wait()
    server.cut, server.hangs = None, 0
    have = part.stat().st_size
    download_file(server.url, path, right)
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["weights.pt"]
    assert server.requested[-1] == (f"bytes={have}-" if have else None)


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("kind", ["a link", "a named pipe", "a folder"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pt.part"])
def test_only_a_regular_file_is_opened_or_replaced(server, right, tmp_path, monkeypatch, kind, name,
                                                   locks):
    if not locks:
        without_locks(monkeypatch)
    victim, here = tmp_path / "victim", tmp_path / "here"
    victim.write_bytes(b"of somebody else")
    here.mkdir()
    {"a link": lambda: (here / name).symlink_to(victim), "a folder": (here / name).mkdir,
     "a named pipe": lambda: os.mkfifo(here / name)}[kind]()
    with pytest.raises(DownloadError, match=f"{name} is {kind}, expected a regular file"):
        download_file(server.url, here / "weights.pt", right)
    assert victim.read_bytes() == b"of somebody else" and names(here) == [name]


def test_without_locks_parts_of_killed_processes_are_removed(server, right, tmp_path, monkeypatch):
    """Only old ones, and only parts of the same file."""
    without_locks(monkeypatch)
    abandoned, young, other = (tmp_path / f"{name}.{'0' * 31}{k}.part" for k, name in enumerate(
        ("weights.pt", "weights.pt", "others.pt")))
    for path in (abandoned, young, other):
        path.write_bytes(b"x")
    for path in (abandoned, other):
        os.utime(path, (1e9, 1e9))
    download_file(server.url, tmp_path / "weights.pt", right)
    assert not abandoned.exists() and young.exists() and other.exists()


def test_a_full_disk_is_named_and_the_part_stays(server, right, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="cannot write .*weights.pt.part: No space left"):
        download_file(server.url, tmp_path / "weights.pt", right)
    assert names(tmp_path) == ["weights.pt.part"]
