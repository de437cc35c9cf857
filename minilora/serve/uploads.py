"""Read an uploaded picture: at most so many bytes, in at most so much time, never from a file.

Claim: an upload has an announced length (Content-Length) or it is refused; one that is too long is
refused before a byte of it is read.  A connection that sends one byte every ten seconds would
occupy the server for ever, so the whole request has a deadline (`TimedReader`), not each byte.
If the server closed a connection while the browser is still sending, the browser would report a
broken connection and not the reason.  So after a refusal the rest is read and thrown away.

Left out: forms (multipart): the page sends the bytes of the file as they are.
"""
import contextlib
import io
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import IO
from urllib.parse import unquote

from minilora.checkpoint.http_limits import TimedReader
from minilora.io.text import shown
from minilora.serve.access import RequestRefused

HEAD_SECONDS = 10                   # until the headers of a request have arrived
SLOWEST = 50_000                    # bytes per second of an upload that is still waited for
DISCARD_SECONDS = 30                # how long the rest of a refused upload is read
NAME_HEADER = "X-File-Name"         # percent-encoded, because headers are ASCII


def read_upload(headers: Mapping[str, str], file: IO[bytes], clock: TimedReader,
                max_bytes: int) -> bytes:
    """The body of a request.  Raises RequestRefused for a form, or if it has no length, is too
    long, or stops.

    clock: what `file` reads from; its deadline is set by the announced length.
    """
    if headers.get("Content-Type", "").lower().startswith("multipart/"):
        raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "found a form (multipart), "
                             "expected the bytes of a picture; curl sends them with "
                             "--data-binary @picture.jpg")
    length = headers.get("Content-Length", "")
    if not (length.isdecimal() and len(length) < 19):
        raise RequestRefused(HTTPStatus.LENGTH_REQUIRED, "an upload needs its length in bytes; "
                             "expected the header Content-Length")
    size = int(length)
    if size > max_bytes:
        raise RequestRefused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has {size / 1e6:,.1f} MB; expected at "
            f"most {max_bytes / 1e6:g} MB; reduce it, or start minilora serve with "
            "--max-megabytes")
    clock.deadline = time.monotonic() + HEAD_SECONDS + size / SLOWEST
    try:
        content = file.read(size)
    except TimeoutError as error:
        raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "the upload took too long; send it "
                             "again") from error
    if len(content) < size:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"the upload stopped after {len(content):,} "
                             f"of {size:,} bytes; send it again")
    return content


def upload_name(headers: Mapping[str, str]) -> str:
    """The name that the browser gives to the file: one printable line, never used as a path."""
    return shown(unquote(headers.get(NAME_HEADER, ""), errors="replace")) or "picture"


def discard_rest(connection: socket.socket, seconds: float = DISCARD_SECONDS) -> None:
    """Ends our side of a connection, then reads until the other side ends, or time is up."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):                      # it is closed, or too slow
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(2**16):
                return


def demo() -> None:
    """A picture's name, an upload that fits, and three that are refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"picture")
        theirs.shutdown(socket.SHUT_WR)
        clock = TimedReader(ours.makefile("rb", 0), ours)
        file = io.BufferedReader(clock)
        print(upload_name({NAME_HEADER: "gear%0aOK%20%E2%80%AEgnp.exe"}))
        for length in ("7", "", "100000000", "50"):
            try:
                print(read_upload({"Content-Length": length}, file, clock, 10**6))
            except RequestRefused as refusal:
                print(f"{refusal.status.value}: {refusal}")


if __name__ == "__main__":
    demo()
