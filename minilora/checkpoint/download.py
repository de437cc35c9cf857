"""A large file over HTTP: with progress, resumed after a cut, and never under its name unverified.

Claim: three small habits make a download of hundreds of megabytes dependable.  Bytes go to
`<name>.part`; a second attempt asks only for what is missing (RFC 9110 section 14, "Range"); and
the file gets its name, in one step, only after its SHA-256 is the expected one.

Leaves out: parallel connections, mirrors, retries by itself (run the command again: it resumes),
two processes that fetch the same file at once (the hash would reject their mixture).
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
from pathlib import Path

from minilora.io.files import sha256_of

PIECE = 1 << 18                 # bytes read at a time: small enough for a lively progress line
SILENCE = 30                    # seconds without a byte after which the connection counts as cut


class DownloadError(OSError):
    """A download that did not finish; the message says why and whether trying again resumes it."""


def download_file(url, path, sha256):
    """Fetch `url` to `path` and return the path.  Raises DownloadError.

    sha256: 64 hex digits that the whole file must have; otherwise nothing is kept.
    A `<path>.part` left by an earlier attempt is continued.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        receive(url, part)
        found = sha256_of(part)
        if found != sha256:
            size = part.stat().st_size
            part.unlink()       # continuing it could never help
            raise DownloadError(f"{url} sent something else: expected sha256 {sha256}, found "
                                f"{found} over {size:,} bytes; nothing was kept, try again")
        os.replace(part, path)  # atomic: same folder
    except DownloadError:
        raise
    except OSError as error:    # the disk: full, read-only, no such folder
        raise DownloadError(f"cannot write {part}: {error.strerror or error}") from error
    return path


def receive(url, part):
    """Append to `part` what is missing of `url`.  Raises DownloadError if it stays incomplete."""
    have = part.stat().st_size if part.exists() else 0
    response = request(url, have)
    if response is None:                                        # nothing is missing
        return
    with response:
        if response.status == 206:                              # 206: the server continues
            start, total = content_range(response)
            if start != have:
                raise DownloadError(f"{url}: asked for bytes from {have}, got them from {start}; "
                                    f"delete {part} and try again")
        else:                                                   # 200: it starts again from 0
            have, total = 0, length_of(response)
        with open(part, "ab" if have else "wb") as file:
            progress = Progress(part.name.removesuffix(".part"), have, total)
            for piece in pieces(response):
                file.write(piece)
                have += len(piece)
                progress.show(have)
            file.flush()
            os.fsync(file.fileno())
            progress.show(have, last=True)
    if total is not None and have != total:
        raise DownloadError(f"{url}: {have:,} of {total:,} bytes arrived, then the connection "
                            "was cut; run the same command again to continue")


def pieces(response):
    """Yield bytes until the end or a cut; which of the two it was, the length tells."""
    try:
        while piece := response.read1(PIECE):                    # what is there, without waiting
            yield piece
    except (OSError, http.client.HTTPException):
        return


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and none from https to anything else."""

    max_redirections = 5

    def redirect_request(self, request, file, code, message, headers, target):
        if request.full_url.startswith("https:") and not target.startswith("https:"):
            raise DownloadError(f"{request.full_url} redirects to {target}, which anybody on the "
                                "way could change; not followed")
        return super().redirect_request(request, file, code, message, headers, target)


def request(url, have):
    """Open `url` from byte `have` on.  None if the server says that there is nothing after it."""
    headers = {"User-Agent": "minilora", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    host = url.split("/")[2]
    try:
        opener = urllib.request.build_opener(Redirects)         # proxies of the environment, too
        return opener.open(urllib.request.Request(url, headers=headers), timeout=SILENCE)
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:                      # range not satisfiable: all there
                return None
            raise DownloadError(f"{host} answers {error.code} {error.reason} for {url}") from error
    except (OSError, http.client.HTTPException) as error:       # no network, no name, no server
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"cannot reach {host}: {reason}") from error


def content_range(response):
    """(first byte, length of the whole file or None) from "Content-Range: bytes 10-99/100"."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if not match:
        raise DownloadError(f"the server continues with Content-Range {text!r}, which says nothing")
    start, total = match.groups()
    return int(start), None if total == "*" else int(total)


def length_of(response):
    """Content-Length as an integer, or None where the server does not say."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


class Progress:
    """One line that grows on a terminal; elsewhere a line for each tenth."""

    def __init__(self, name, start, total):
        self.name, self.start, self.total = name, start, total
        self.begun = self.shown = time.monotonic()
        self.tenth = 10 * start // total if total else 0

    def show(self, done, last=False):
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


class Shaky(http.server.BaseHTTPRequestHandler):
    """For the demo: a server of 1 MB that hangs up half-way unless asked to continue."""
    content = bytes(range(256)) * 4096

    def do_GET(self):
        asked = self.headers.get("Range")
        start = int(asked[len("bytes="):-1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            whole = len(self.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:] if asked else self.content[:len(self.content) // 2])

    def log_message(self, *args):
        pass


def demo():
    """A server on this machine hangs up half-way; the second attempt fetches the other half."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shaky) as server, \
            tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, path = f"http://127.0.0.1:{server.server_port}/weights.pt", Path(folder) / "weights.pt"
        original = Path(folder) / "original"
        original.write_bytes(Shaky.content)
        for _ in range(2):
            try:
                download_file(url, path, sha256_of(original))
            except DownloadError as error:
                print(error)
            print("weights.pt is there:", path.exists())
        server.shutdown()


if __name__ == "__main__":
    demo()
