"""Open an address over HTTP so that no server can keep the program busy without end.

Claim: the server decides when its bytes come, how many come, and what its headers say.  A limit for
each single wait is not enough: a server that sends one byte every 29 seconds never exceeds 30.  So
there are three limits: TIMEOUT for a wait, HEADER_SECONDS for everything up to the end of the
headers, and in the body each MIN_BYTES must arrive within SLOW_SECONDS.

Text of the server is shown with its control characters escaped (`io/text.py`).
Left out: a limit for the name server, which the operating system asks.
"""
import http.client
import io
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit

from minilora.io.text import shown

CHUNK_BYTES = 1 << 18           # bytes read at a time; small, so that progress is shown often
TIMEOUT = 30                    # seconds without a byte after which the connection is given up
HEADER_SECONDS = 60             # from the request to the end of the headers
MIN_BYTES, SLOW_SECONDS = 1 << 16, 60       # about 1 kB a second


class DownloadError(OSError):
    """A download that failed; the message says why, and whether a second attempt can resume it."""


class ConnectionLost(DownloadError):
    """The connection broke or was given up; the message says which, as the end of a sentence."""


class TimedReader(io.RawIOBase):
    """The bytes of a socket, until `deadline` (of time.monotonic)."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        """raw: reads from `sock`."""
        self.raw, self.sock, self.deadline = raw, sock, time.monotonic() + HEADER_SECONDS

    def readable(self) -> bool:
        """True; io.BufferedReader asks."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Fill the start of `buffer`; returns the number of bytes.  TimeoutError at the deadline.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server is too slow")
        self.sock.settimeout(min(TIMEOUT, left))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        """Close the socket's reader too."""
        self.raw.close()
        super().close()


class LimitedResponse(HTTPResponse):
    """An HTTPResponse that reads through a TimedReader, headers included."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.reader = TimedReader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self.reader)


class LimitedConnections:
    """For handlers of urllib: their connections answer with a LimitedResponse."""

    def do_open(self, connect: Any, request: urllib.request.Request,
                **options: Any) -> HTTPResponse:
        """Send the request.  connect: makes the connection from a host."""
        def limited(*arguments, **settings):
            connection = connect(*arguments, **settings)
            connection.response_class = LimitedResponse
            return connection
        return super().do_open(limited, request, **options)


class LimitedHTTPHandler(LimitedConnections, urllib.request.HTTPHandler):
    """http:"""


class LimitedHTTPSHandler(LimitedConnections, urllib.request.HTTPSHandler):
    """https:"""


class SafeRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows at most five redirects, to http: and https: only, and none from https to http."""

    max_redirections = 5

    def redirect_request(self, request: urllib.request.Request, file: IO[bytes], code: int,
                         message: str, headers: HTTPMessage, target: str
                         ) -> urllib.request.Request | None:
        """The request for the target of a redirect.  DownloadError if it would leave https."""
        allowed = ("https",) if urlsplit(request.full_url).scheme == "https" else ("https", "http")
        if urlsplit(target).scheme not in allowed:
            raise DownloadError(f"{shown(request.full_url)} redirects to {shown(target)}, expected "
                                "https: others could tamper with anything else; not followed")
        file.close()                    # urllib would read the body of this answer to its end
        return super().redirect_request(request, file, code, message, headers, target)


def open_url(url: str, start: int) -> LimitedResponse | None:
    """Open `url` from byte `start` on.  None if the server says that no bytes follow."""
    headers = {"User-Agent": "minilora", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    host = urlsplit(url).netloc
    try:                                                        # with the usual proxies
        opener = urllib.request.build_opener(SafeRedirectHandler, LimitedHTTPHandler,
                                             LimitedHTTPSHandler)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:                         # range not satisfiable: complete
            return None
        raise DownloadError(f"{host} answers {error.code} {shown(error.reason)} for {url}"
                            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:   # no network, no such host,
        reason = getattr(error, "reason", None) or error                # or no valid address
        raise DownloadError(f"cannot reach {host}: {shown(reason) or type(error).__name__}"
                            ) from error


def read_chunks(response: LimitedResponse) -> Iterator[bytes]:
    """Yield the bytes of the body.  ConnectionLost if it breaks or is too slow."""
    arrived = MIN_BYTES
    try:
        while True:
            if arrived >= MIN_BYTES:
                arrived, response.reader.deadline = 0, time.monotonic() + SLOW_SECONDS
            chunk = response.read1(CHUNK_BYTES)                 # what has arrived; no waiting
            if not chunk:
                return
            arrived += len(chunk)
            yield chunk
    except TimeoutError as error:
        raise ConnectionLost("the server was too slow") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionLost("the connection was cut") from error


def content_range(response: HTTPResponse) -> tuple[int, int | None]:
    """(first byte, size of the file or None) from a header "Content-Range: bytes 10-99/100"."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", text.strip())
    if not match:
        raise DownloadError(f"the server sent Content-Range '{shown(text)}', expected "
                            "bytes FIRST-LAST/SIZE; delete the .part file and try again")
    start, total = match.groups()
    return int(start), None if total == "*" else int(total)


def content_length(response: HTTPResponse) -> int | None:
    """The header Content-Length as an integer, or None if it is missing or no number."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def demo() -> None:
    """A socket that sends one byte every 0.1 seconds is given up after 0.35 seconds."""
    import threading
    here, there = socket.socketpair()

    def drip():
        for byte in b"HTTP/1.1 200":
            there.send(bytes([byte]))
            time.sleep(0.1)
    thread = threading.Thread(target=drip)
    thread.start()
    reader = TimedReader(here.makefile("rb", buffering=0), here)
    reader.deadline = time.monotonic() + 0.35
    buffer, received = bytearray(1), b""
    try:
        while reader.readinto(buffer):
            received += buffer
    except TimeoutError as error:
        print(f"received {received.decode()}, then: {error or 'timed out'}")
    thread.join()
    reader.close()
    here.close()
    there.close()
    try:
        open_url("http://127.0.0.1:9/weights", 0)
    except DownloadError as error:
        print(error)


if __name__ == "__main__":
    demo()
