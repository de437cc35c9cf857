"""A running `minilora serve` for tests: in a thread, on a free port."""
import http.client
import io
import json
import threading
from contextlib import contextmanager
from urllib.parse import quote

from PIL import Image

from minilora.serve import run


@contextmanager
def serving(folder, *options):
    """A server of a run folder; `lines` are what it prints."""
    lines = []
    parsed = run.parser().parse_args([str(folder), "--port", "0", "--device", "cpu", *options])
    server = run.start_server(parsed, lines.append)
    server.lines = lines
    server.say = lines.append
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.ending = True        # as Ctrl-C does: connections that wait get no answer any more
        server.shutdown()
        server.server_close()
        thread.join()


def send(server, method, path, body=None, headers=(), token=True):
    """(status, headers, content) of one request.  token: True for the right one, or a text."""
    query = f"?token={server.access.token}" if token is True else token
    connection = http.client.HTTPConnection("127.0.0.1", server.access.port, timeout=60)
    connection.request(method, path + query, body, dict(headers))
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, content


def upload(server, content, name="a.png", headers=()):
    """(status, answer) of one picture."""
    status, _, reply = send(server, "POST", "/score", content,
                            {"X-File-Name": quote(name), **dict(headers)})
    return status, json.loads(reply)


def encoded(picture, kind="PNG", **options):
    """A PIL picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise():
    """A picture like none of the good ones."""
    return Image.effect_noise((64, 64), 120).convert("RGB")
