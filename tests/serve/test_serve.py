"""`minilora serve`: who gets an answer, what is refused, and what never stops it."""
import contextlib
import csv
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from conftest import REPO
from PIL import Image
from serving import encoded, noise, send, serving, upload

from minilora.data.decoding import read_image
from minilora.detector import Detector
from minilora.prediction.picture import predict_picture
from minilora.serve import answer, uploads
from minilora.serve import server as serve_server
from minilora.serve.access import Access, is_own_name
from minilora.serve.history import MAX_ENTRIES, History
from minilora.serve.run import main, own_address, parser, run_serve

PATHS = (("GET", "/"), ("GET", "/history"), ("GET", "/history.csv"), ("POST", "/score"))


@pytest.fixture(scope="module")
def gear(gear_run):
    """A running server of the tiny model."""
    with serving(gear_run[0]) as server:
        yield server


@pytest.fixture
def good(gear_run):
    """The bytes of a picture that the detector was fitted to."""
    return (gear_run[1] / "train" / "good" / "000.png").read_bytes()


# ---- who gets an answer -------------------------------------------------------------------------

@pytest.mark.parametrize("method, path", PATHS)
@pytest.mark.parametrize("token", ["", "?token=", "?token=wrong", "?other=1&token=x"])
def test_no_address_answers_without_the_token(gear, good, method, path, token):
    before = gear.history.count
    status, _, content = send(gear, method, path, good if method == "POST" else None, token=token)
    assert status == 403 and b"the token is missing or wrong" in content
    assert gear.history.count == before


@pytest.mark.parametrize("method, path", PATHS)
def test_every_address_answers_with_the_token(gear, good, method, path):
    assert send(gear, method, path, good if method == "POST" else None)[0] == 200


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:{}", 200), ("localhost:{}", 200), ("LOCALHOST:{}", 200), ("evil.example:{}", 403),
    ("127.0.0.1.evil.example:{}", 403), ("127.0.0.1", 403), ("127.0.0.1:1", 403), ("", 403),
    ("10.0.0.1:{}", 403), ("[", 403), ("127.0.0.1:{}/x", 403), ("a@127.0.0.1:{}", 403)])
def test_only_names_of_this_computer_are_served(gear, host, status):
    """A stranger's name for 127.0.0.1 (DNS rebinding) shows in the header Host."""
    headers = {"Host": host.format(gear.access.port)}
    assert send(gear, "GET", "/", headers=headers)[0] == status


@pytest.mark.parametrize("origin, status", [
    ("http://127.0.0.1:{}", 200), ("http://evil.example", 403), ("null", 403),
    ("https://127.0.0.1:{}", 403), ("http://127.0.0.1:1", 403)])
def test_other_pages_cannot_send_pictures(gear, good, origin, status):
    headers = {"Origin": origin.format(gear.access.port)}
    assert send(gear, "POST", "/score", good, headers)[0] == status


def test_a_server_for_the_network_is_reached_by_number_and_not_by_a_strangers_name():
    everywhere = Access("0.0.0.0", 8000, "secret")
    assert is_own_name("192.168.1.7:8000", everywhere) and is_own_name("[::1]:8000", everywhere)
    assert not is_own_name("evil.example:8000", everywhere)
    assert not is_own_name("192.168.1.7:8000", Access("127.0.0.1", 8000, "secret"))
    assert is_own_name("plant", Access("plant", 80, "secret"))          # port 80 is not written


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/../../etc/passwd", 404), ("GET", "/etc/passwd", 404), ("GET", "/score", 404),
    ("GET", "/%2e%2e/x", 404), ("GET", "/history.csv/", 404), ("POST", "/", 404),
    ("POST", "/history", 404), ("PUT", "/score", 501), ("DELETE", "/", 501), ("OPTIONS", "/", 501),
    ("HEAD", "/", 501), ("TRACE", "/", 501)])
def test_there_are_four_addresses_and_two_methods(gear, method, path, status):
    assert send(gear, method, path)[0] == status


def test_replies_keep_the_browser_from_loading_sharing_or_storing_anything(gear):
    for method, path in (*PATHS, ("GET", "/none"), ("PUT", "/")):
        _, headers, _ = send(gear, method, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in headers if name.startswith("Access-Control")]
        assert headers["Server"] == "minilora"


def test_each_page_has_its_own_nonce_and_no_token_is_in_it(gear):
    pages = [send(gear, "GET", "/")[2].decode() for _ in range(2)]
    assert pages[0] != pages[1] and gear.access.token not in pages[0]


def test_the_token_is_printed_once_and_never_again(gear, good):
    upload(gear, good)
    send(gear, "GET", "/", token="?token=guess")
    assert sum(gear.access.token in line for line in gear.lines) == 1


# ---- uploads ------------------------------------------------------------------------------------

def test_an_upload_over_the_limit_is_refused_in_json_before_it_is_read(gear_run, good):
    with serving(gear_run[0], "--max-megabytes", "0.05") as server:
        status, reply = upload(server, bytes(20_000_000), "big.png")    # more than buffers hold
        assert status == 413 and reply["entry"]["decision"] is None
        assert "20.0 MB; expected at most 0.05 MB" in reply["entry"]["error"]
        assert upload(server, good)[1]["entry"]["decision"] == "OK"
        assert [entry["file"] for entry in server.history.entries()] == ["big.png", "a.png"]


@pytest.mark.parametrize("length", [None, "", "-1", "1e3", "9" * 30, "\u0663"])
def test_an_upload_needs_its_length(gear, length):
    with socket.create_connection(("127.0.0.1", gear.access.port), 30) as connection:
        head = (f"POST /score?token={gear.access.token} HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{gear.access.port}\r\n")
        head += "" if length is None else f"Content-Length: {length}\r\n"
        connection.sendall(f"{head}\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        assert b" 411 " in connection.makefile("rb").readline()


def test_a_form_is_refused_with_the_way_that_works(gear):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, reply = upload(gear, b"--x", headers=headers)
    assert status == 415 and "found a form" in reply["entry"]["error"]
    assert "--data-binary" in reply["entry"]["error"]


def test_an_upload_that_stops_is_refused(gear, good):
    with socket.create_connection(("127.0.0.1", gear.access.port), 30) as connection:
        connection.sendall((f"POST /score?token={gear.access.token} HTTP/1.1\r\nContent-Length: "
                            f"{len(good)}\r\nHost: 127.0.0.1:{gear.access.port}\r\n\r\n").encode())
        connection.sendall(good[:100])
        connection.shutdown(socket.SHUT_WR)
        reply = connection.makefile("rb").read()
    assert b" 400 " in reply.splitlines()[0] and b"stopped after 100 of" in reply


def drip(connection, data):
    """Sends a byte at a time until the other side ends."""
    with contextlib.suppress(OSError):
        for k in range(len(data)):
            connection.sendall(data[k:k + 1])
            time.sleep(0.05)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_request_that_comes_byte_by_byte_is_given_up(gear, monkeypatch, part):
    monkeypatch.setattr(serve_server, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(uploads, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(uploads, "DISCARD_SECONDS", 0.4)
    head = (f"POST /score?token={gear.access.token} HTTP/1.1\r\nContent-Length: 2000\r\n"
            f"Host: 127.0.0.1:{gear.access.port}\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", gear.access.port), 30) as connection:
        if part == "body":
            connection.sendall(head)
        sender = threading.Thread(target=drip, args=(connection, head if part == "head"
                                                     else bytes(2000)))
        sender.start()
        reply = connection.makefile("rb").read()
        connection.close()
        sender.join()
    assert reply == b"" if part == "head" else b" 408 " in reply.splitlines()[0]


def test_connections_beyond_the_limit_are_closed_and_the_page_works_afterwards(gear):
    with contextlib.ExitStack() as stack:
        for _ in range(serve_server.MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", gear.access.port)))
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            send(gear, "GET", "/")
    for _ in range(100):                            # the closed ones are noticed one by one
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):
            assert send(gear, "GET", "/")[0] == 200
            return
        time.sleep(0.05)
    pytest.fail("no connection became free")


def test_names_are_one_printable_line_and_no_formula(gear):
    name = 'a\n<b>"\u202egnp.exe'
    entry = upload(gear, b"none", name)[1]["entry"]
    assert entry["file"] == 'a\\n<b>"\\u202egnp.exe' and gear.lines[-1].isprintable()
    upload(gear, encoded(noise()), "=cmd()|' /C calc'!A0")
    assert len(upload(gear, b"none", "x" * 5000)[1]["entry"]["file"]) == 200
    _, headers, content = send(gear, "GET", "/history.csv")
    assert "attachment" in headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert rows[-2]["file"] == "'=cmd()|' /C calc'!A0" and rows[-2]["decision"] == "NG"
    assert rows[-3]["error"] and rows[-3]["decision"] == ""


# ---- pictures -----------------------------------------------------------------------------------

def bomb():
    """A PNG of a few bytes that claims to hold 900 megapixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0,
                                                              0))
            + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content, words", [
    (b"plain text", "not a picture"), (b"", "not a picture"), (bomb(), "900.0 megapixels"),
    (encoded(noise())[:2000], "cannot read picture"),
    (encoded(Image.new("RGB", (1, 20000))), "cut it into shorter pictures")],
    ids=["text", "empty", "bomb", "cut off", "long"])
def test_what_cannot_be_scored_is_listed_with_its_reason_and_the_next_is_scored(
        gear, good, content, words):
    status, reply = upload(gear, content, "odd.png")
    assert status == 200 and words in reply["entry"]["error"]
    assert gear.history.entries()[-1]["file"] == "odd.png"
    assert upload(gear, good)[1]["entry"]["decision"] == "OK"


def test_an_unexpected_error_is_listed_and_the_next_is_scored(gear, good, monkeypatch):
    with monkeypatch.context() as patch:
        def no_memory(*_):
            raise RuntimeError("CUDA out of memory")
        patch.setattr(answer, "predict_or_error", no_memory)
        assert "CUDA out of memory" in upload(gear, good)[1]["entry"]["error"]
    assert upload(gear, good)[1]["entry"]["decision"] == "OK"


def test_an_upload_gets_the_score_of_the_same_file_in_predict(gear, gear_run, tmp_path):
    picture = noise()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257)
    detector = Detector.open(gear_run[0])
    for content in (encoded(picture), encoded(picture.resize((96, 64)), "JPEG", exif=exif),
                    encoded(picture.convert("CMYK"), "JPEG"), encoded(deep),
                    encoded(picture.convert("RGBA")), encoded(picture.convert("P"), "GIF"),
                    encoded(picture, "TIFF"), encoded(picture, "WEBP")):
        path = tmp_path / "picture"
        path.write_bytes(content)
        expected = predict_picture(detector, path, read_image(path)).prediction
        entry = upload(gear, content)[1]["entry"]
        assert (entry["score"], entry["decision"]) == (expected["score"], expected["decision"])


def test_notes_about_a_file_are_remarks_of_its_picture(gear):
    pages = [noise(), noise()]
    content = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert "only the first page" in upload(gear, content, "two.tif")[1]["remarks"][-1]
    assert "first page" not in " ".join(upload(gear, encoded(noise()))[1]["remarks"])


def test_pictures_that_arrive_together_are_scored_one_after_the_other(gear, good, monkeypatch):
    inside, most, replies = [], [], []
    def counted(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return score_upload(*arguments)
    score_upload = serve_server.score_upload
    monkeypatch.setattr(serve_server, "score_upload", counted)
    threads = [threading.Thread(target=lambda: replies.append(upload(gear, good)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply["entry"]["decision"] for _, reply in replies] == 4 * ["OK"]
    assert max(most) == 1


def test_the_history_keeps_the_newest_entries_and_small_pictures():
    history = History()
    prediction = {"file": "a.png", "decision": "OK", "score": 1.0, "threshold": 2.0}
    picture = Image.effect_noise((1000, 800), 100)
    for k in range(MAX_ENTRIES + 3):
        history.add(prediction | {"file": f"{k}.png"}, picture if k > MAX_ENTRIES else None)
    files = [entry["file"] for entry in history.entries()]
    assert len(files) == MAX_ENTRIES and files[-1] == f"{MAX_ENTRIES + 2}.png"
    assert history.count == MAX_ENTRIES + 3 and len(history.entries()[-1]["thumbnail"]) < 8000


# ---- the command --------------------------------------------------------------------------------

def test_only_this_computer_unless_another_host_is_given(gear, gear_run):
    assert gear.server_address[0] == "127.0.0.1" and "WARNING" not in "".join(gear.lines)
    with serving(gear_run[0], "--host", "0.0.0.0") as server:
        text = "\n".join(server.lines)
        assert "WARNING: --host 0.0.0.0: every device" in text and "unencrypted" in text
        assert f"http://{own_address()}:{server.access.port}/?token=" in text


def test_a_port_in_use_and_a_foreign_host_are_refused_with_the_remedy(gear, gear_run):
    port = str(gear.access.port)
    with (pytest.raises(ValueError, match="in use by another program.*--port 0"),
          serving(gear_run[0], "--port", port)):
        pass
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with (pytest.raises(ValueError, match=f"cannot listen on {host}.*--host"),
              serving(gear_run[0], "--host", host)):
            pass


def test_ctrl_c_ends_with_one_line(gear_run, monkeypatch):
    lines, servers = [], []
    def interrupted(self):
        servers.append(self)
        raise KeyboardInterrupt
    monkeypatch.setattr(serve_server.PictureServer, "serve_forever", interrupted)
    assert run_serve(parser().parse_args([str(gear_run[0]), "--port", "0"]), lines.append) == 0
    assert lines[-1] == "\nstopped: 0 pictures; the page's history has ended"
    assert servers[0].ending


def test_pictures_that_wait_at_the_end_are_not_scored(gear_run, good):
    """Else Ctrl-C would wait for up to fifteen of them, and their lines would follow its own."""
    refused = []
    def send_one():
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):
            upload(server, good)
            return
        refused.append(1)
    with serving(gear_run[0]) as server:
        with server.scoring:
            threads = [threading.Thread(target=send_one) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)                                 # until they wait
            server.ending = True
        for thread in threads:
            thread.join()
        assert len(refused) == 3 and server.history.count == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_ends_cleanly_and_has_written_nothing(gear_run, good, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-m", "minilora.serve", str(gear_run[0]), "--port", "0"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment)
    try:
        while not (line := process.stdout.readline()).startswith("open"):
            assert line, process.stderr.read()
        address = line.split()[1].removeprefix("http://")
        host, _, query = address.partition("/?")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("POST", f"/score?{query}", good)
        assert json.loads(connection.getresponse().read())["entry"]["decision"] == "OK"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and errors == ""
    assert printed.splitlines()[-1] == "stopped: 1 picture; the page's history has ended"
    assert list(tmp_path.iterdir()) == [temporary] and list(temporary.iterdir()) == []


def test_a_given_threshold_or_rate_decides(gear_run):
    def noise_with(*options):
        with serving(gear_run[0], *options) as server:
            return upload(server, encoded(noise()))[1]["entry"]
    assert (entry := noise_with("--threshold", "9999"))["decision"] == "OK"
    assert entry["threshold"] == 9999
    assert noise_with("--fpr", "0.01")["threshold"] > noise_with("--fpr", "0.5")["threshold"]
    with (pytest.raises(ValueError, match="exclude each other"),
          serving(gear_run[0], "--fpr", "0.01", "--threshold", "1")):
        pass


def test_a_run_that_is_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minilora serve", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="not found; give the folder that"):
        main()
