"""Download a large file over HTTP: show progress, resume after an interruption, verify the hash.

Claim: three measures make a download of hundreds of megabytes dependable.  Bytes are written to
`<name>.part`; a second attempt requests only the missing bytes (RFC 9110 section 14, "Range"); and
the file is renamed to `<name>`, in one step, only if its SHA-256 is the expected one.

Left out: parallel connections, mirrors, automatic retries (run the command again: it resumes), two
processes that download the same file at once (the hash would reject the mixture).
"""
import http.client
import http.server
import os
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any

from minilora.io.files import sha256_of

CHUNK_BYTES = 1 << 18           # bytes read at a time; small, so that progress is shown often
TIMEOUT = 30                    # seconds without a byte after which the connection is given up


class DownloadError(OSError):
    """A download that failed; the message says why, and whether a second attempt can resume it."""


def download_file(url: str, path: str | Path, sha256: str) -> Path:
    """Download `url` to `path` and return the path.  Raises DownloadError.

    sha256: expected hash of the file, 64 hex digits; a file with another hash is deleted.
    A `<path>.part` from an earlier attempt is continued.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_missing(url, part)
        found = sha256_of(part)
        if found != sha256:
            size = part.stat().st_size
            part.unlink()       # more bytes would not correct it
            raise DownloadError(f"{url} sent another file: expected sha256 {sha256}, found "
                                f"{found} over {size:,} bytes; it was deleted, try again")
        os.replace(part, path)  # atomic: same folder
    except DownloadError:
        raise
    except OSError as error:    # the disk is full or read-only, or no such folder
        raise DownloadError(f"cannot write {part}: {error.strerror or error}") from error
    return path


def append_missing(url: str, part: Path) -> None:
    """Append the missing bytes of `url` to `part`.  DownloadError if it is still incomplete."""
    have = part.stat().st_size if part.exists() else 0
    response = open_url(url, have)
    if response is None:                                        # no byte is missing
        return
    with response:
        if response.status == 206:                              # 206 partial content
            start, total = content_range(response)
            if start != have:
                raise DownloadError(f"{url}: requested bytes from {have}, got them from {start}; "
                                    f"delete {part} and try again")
        else:                                                   # 200: the server starts at 0
            have, total = 0, content_length(response)
        with open(part, "ab" if have else "wb") as file:
            progress = DownloadProgress(part.name.removesuffix(".part"), have, total)
            for chunk in read_chunks(response):
                file.write(chunk)
                have += len(chunk)
                progress.show(have)
            file.flush()
            os.fsync(file.fileno())
            progress.show(have, last=True)
    if total is not None and have != total:
        raise DownloadError(f"{url}: {have:,} of {total:,} bytes arrived, then the connection "
                            "was cut; run the same command again to continue")


def read_chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield bytes until the end or until the connection breaks; the caller checks the length."""
    try:
        while chunk := response.read1(CHUNK_BYTES):             # what has arrived; no waiting
            yield chunk
    except (OSError, http.client.HTTPException):
        return


class SafeRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows at most five redirects, and none from https to another protocol."""

    max_redirections = 5

    def redirect_request(self, request: urllib.request.Request, file: IO[bytes], code: int,
                         message: str, headers: HTTPMessage, target: str
                         ) -> urllib.request.Request | None:
        """The request for the target of a redirect.  DownloadError if it would leave https."""
        if request.full_url.startswith("https:") and not target.startswith("https:"):
            raise DownloadError(f"{request.full_url} redirects to {target}, an unencrypted "
                                "address that others could tamper with; not followed")
        return super().redirect_request(request, file, code, message, headers, target)


def open_url(url: str, start: int) -> HTTPResponse | None:
    """Open `url` from byte `start` on.  None if the server says that no bytes follow."""
    headers = {"User-Agent": "minilora", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    host = url.split("/")[2]
    try:
        opener = urllib.request.build_opener(SafeRedirectHandler)   # with the usual proxies
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:                     # range not satisfiable: complete
                return None
            raise DownloadError(f"{host} answers {error.code} {error.reason} for {url}") from error
    except (OSError, http.client.HTTPException) as error:       # no network, host or server
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"cannot reach {host}: {reason}") from error


def content_range(response: HTTPResponse) -> tuple[int, int | None]:
    """(first byte, size of the file or None) from a header "Content-Range: bytes 10-99/100"."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if not match:
        raise DownloadError(f"the server sent Content-Range {text!r}, expected "
                            "bytes FIRST-LAST/SIZE; delete the .part file and try again")
    start, total = match.groups()
    return int(start), None if total == "*" else int(total)


def content_length(response: HTTPResponse) -> int | None:
    """The header Content-Length as an integer, or None if it is missing."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


class DownloadProgress:
    """On a terminal one line that is updated in place; elsewhere a line for each tenth."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        """start: bytes of an earlier attempt;  total: size of the file, if known."""
        self.name, self.start, self.total = name, start, total
        self.begun = self.shown = time.monotonic()
        self.tenth = 10 * start // total if total else 0

    def show(self, done: int, last: bool = False) -> None:
        """Print the progress if enough has changed.  done: bytes so far;  last: the final call."""
        now, live = time.monotonic(), sys.stdout.isatty()
        tenth = 10 * done // self.total if self.total else 0
        if not last and not (now - self.shown > 0.2 if live else tenth > self.tenth):
            return
        if last and not live and self.total and tenth == self.tenth:
            return                                              # this line has been printed
        self.shown, self.tenth = now, tenth
        rate = (done - self.start) / max(now - self.begun, 1e-6)
        line = f"{self.name}: {done / 1e6:.1f} MB"
        if self.total:
            left = (self.total - done) / max(rate, 1)
            line += f" of {self.total / 1e6:.1f} MB ({done / self.total:.0%}), {left:.0f} s left"
        line += f", {rate / 1e6:.1f} MB/s"
        print(f"\r{line:<78}" if live else line, end="\n" if last or not live else "", flush=True)


class FlakyHandler(http.server.BaseHTTPRequestHandler):
    """For the demo: sends half of 1 MB and closes the connection; answers a Range completely."""
    content = bytes(range(256)) * 4096

    def do_GET(self) -> None:
        """Send half of the content, or all from the requested byte on."""
        requested = self.headers.get("Range")
        start = int(requested[len("bytes="):-1]) if requested else 0
        self.send_response(206 if requested else 200)
        if requested:
            size = len(self.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        half = self.content[:len(self.content) // 2]
        self.wfile.write(self.content[start:] if requested else half)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


def demo() -> None:
    """A local server closes the connection half-way; the second attempt gets the other half."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FlakyHandler) as server, \
            tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, path = f"http://127.0.0.1:{server.server_port}/weights.pt", Path(folder) / "weights.pt"
        original = Path(folder) / "original"
        original.write_bytes(FlakyHandler.content)
        for _ in range(2):
            try:
                download_file(url, path, sha256_of(original))
            except DownloadError as error:
                print(error)
            print("weights.pt exists:", path.exists())
        server.shutdown()


if __name__ == "__main__":
    demo()
