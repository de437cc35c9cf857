"""From a request to a reply: the server behind `minilora serve`, standard library only.

    GET  /              the page              GET  /history       its pictures so far, JSON
    POST /score         one picture, JSON     GET  /history.csv   the same as a file

Claim: there are four addresses and no other, so no request names a file.  One picture is scored at
a time, at most MAX_CONNECTIONS requests wait, and nothing that a browser sends can stop the server:
what fails is answered with its reason, or its connection is closed.

Left out: connections that are kept open (each request has its own), https.
"""
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_urlsafe
from typing import Any

from minilora.checkpoint.http_limits import TimedReader
from minilora.detector import Detector
from minilora.io.console import complain
from minilora.io.error_text import error_text
from minilora.prediction.picture import empty_prediction, prediction_line
from minilora.serve.access import Access, RequestRefused, check_access, safe_headers
from minilora.serve.answer import page_answer, score_upload
from minilora.serve.history import History
from minilora.serve.page import PageFacts, serve_page
from minilora.serve.uploads import HEAD_SECONDS, discard_rest, read_upload, upload_name

MAX_CONNECTIONS = 16
REPLY_SECONDS = 30                  # until a reply has been taken
HTML, JSON, CSV, TEXT = (f"{kind}; charset=utf-8" for kind in (
    "text/html", "application/json", "text/csv", "text/plain"))
Reply = tuple[HTTPStatus, str, str]     # status, content type, content


class PictureServer(ThreadingHTTPServer):
    """Listens at host:port; port 0 is a free one.  Raises OSError if that is impossible.

    facts: what the page says about the run;  max_bytes: of an upload;  say: prints one line for
    each picture.
    """
    daemon_threads = True
    allow_reuse_address = os.name != "nt"   # on Windows it would share a port that is in use
    request_queue_size = MAX_CONNECTIONS
    ending = False                          # True: pictures that wait are not scored any more

    def __init__(self, detector: Detector, facts: PageFacts, host: str, port: int, max_bytes: int,
                 say: Callable[[str], None] = lambda line: None) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], RequestHandler)
        self.detector, self.facts, self.max_bytes, self.say = detector, facts, max_bytes, say
        self.access = Access(host, self.server_address[1], token_urlsafe(24))
        self.history, self.scoring = History(), threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def server_bind(self) -> None:
        """Without the look-up of the computer's name in HTTPServer, which may take seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:                               # the browser tries again, or says that it is refused
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # OSError: the browser has gone away
            complain(error_text("minilora serve", error, debug=False))

    def score(self, name: str, content: bytes) -> dict[str, Any]:
        """Scores one picture, keeps it in the history.  Returns what the page shows."""
        with self.scoring:
            if self.ending:
                raise ConnectionAbortedError("minilora serve has been stopped")
            prediction, scored, notes = score_upload(self.detector, name, content)
            self.say(prediction_line(prediction))
            entry = self.history.add(prediction, scored and scored.overlay)
            return page_answer(self.detector, entry, scored, notes)

    def refuse(self, name: str, reason: str) -> dict[str, Any]:
        """Like `score`, for a picture that was not taken."""
        prediction = empty_prediction(name, self.detector.threshold) | {"error": reason}
        self.say(prediction_line(prediction))
        return {"entry": self.history.add(prediction, None), "remarks": []}


class RequestHandler(BaseHTTPRequestHandler):
    """One request on its own connection (HTTP/1.0)."""
    server: PictureServer

    def setup(self) -> None:
        super().setup()
        self.clock = TimedReader(self.rfile.detach(), self.connection)
        self.clock.deadline = time.monotonic() + HEAD_SECONDS
        self.rfile = io.BufferedReader(self.clock)
        self.refused = False

    def do_GET(self) -> None:
        self.respond({"/": self.page, "/history": self.history, "/history.csv": self.history_csv})

    def do_POST(self) -> None:
        self.respond({"/score": self.score})

    def respond(self, routes: dict[str, Callable[[], Reply]]) -> None:
        """Replies with what the route of the path returns, or with the reason of a refusal."""
        self.nonce = token_urlsafe(16)
        try:
            path = check_access(self.server.access, self.command, self.path, self.headers)
            if path not in routes:
                raise RequestRefused(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            reply = routes[path]()
        except RequestRefused as refusal:
            reply = refusal.status, TEXT, f"{refusal}\n"
        self.send(*reply)

    def page(self) -> Reply:
        return HTTPStatus.OK, HTML, serve_page(self.server.facts, self.nonce)

    def history(self) -> Reply:
        return HTTPStatus.OK, JSON, json.dumps(self.server.history.entries())

    def history_csv(self) -> Reply:
        return HTTPStatus.OK, CSV, self.server.history.csv()

    def score(self) -> Reply:
        status, name = HTTPStatus.OK, upload_name(self.headers)
        try:
            content = read_upload(self.headers, self.rfile, self.clock, self.server.max_bytes)
            answer = self.server.score(name, content)
        except RequestRefused as refusal:
            status, answer = refusal.status, self.server.refuse(name, str(refusal))
        return status, JSON, json.dumps(answer)

    def send(self, status: HTTPStatus, kind: str, content: str) -> None:
        """Sends a whole reply."""
        data, self.refused = content.encode(), status >= HTTPStatus.BAD_REQUEST
        headers = {"Content-Type": kind, "Content-Length": str(len(data)),
                   **safe_headers(getattr(self, "nonce", ""))}
        if kind == CSV:
            headers["Content-Disposition"] = 'attachment; filename="minilora-history.csv"'
        self.connection.settimeout(REPLY_SECONDS)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of http.server, for what is no request or has another method: a text like the others."""
        self.close_connection = True
        self.send(HTTPStatus(code), TEXT, f"{HTTPStatus(code).phrase}\n")

    def finish(self) -> None:
        super().finish()
        if self.refused:                    # its picture may still be on its way
            discard_rest(self.connection)

    def version_string(self) -> str:
        return "minilora"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: http.server would print addresses, and the token with them."""


def demo() -> None:
    """A page is asked for with the token and without it; no picture is scored."""
    import urllib.error
    import urllib.request
    from types import SimpleNamespace
    facts = PageFacts("plate", "runs/plate", 8, 1.2, 20, "")
    server = PictureServer(SimpleNamespace(threshold=1.2), facts, "127.0.0.1", 0, 10**6)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    with server:
        address = server.access.address("127.0.0.1")
        with open_url(address) as reply:
            print(reply.status, reply.headers["Content-Type"], f"{len(reply.read()):,} bytes")
        try:
            open_url(address.partition("?")[0])
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode().strip())
        server.shutdown()


if __name__ == "__main__":
    demo()
