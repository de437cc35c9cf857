"""Download a large file over HTTP: show progress, resume after an interruption, verify the hash.

Claim: four measures make a download of hundreds of megabytes dependable.  Bytes are written to
`<name>.part`; a second attempt requests only the missing bytes (RFC 9110 section 14, "Range"); only
one process writes to a part; and the file is renamed to `<name>`, in one step, only if the SHA-256
of the open file is the expected one.  A file of this name with another SHA-256 may be
the user's: it is not replaced.

checkpoint/part_file.py keeps other writers away; checkpoint/http_limits.py limits what a server
can do.
Left out: parallel connections, mirrors, automatic retries (run the command again: it resumes).
"""
import http.server
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from minilora.checkpoint.http_limits import (ConnectionLost, DownloadError, LimitedResponse,
                                             content_length, content_range, open_url, read_chunks)
from minilora.checkpoint.part_file import PartFile, open_part, refuse_other_kinds
from minilora.io.files import sha256_of
from minilora.io.regular_file import NotRegularFileError
from minilora.io.text import shown

MAX_DOWNLOAD = 20 << 30            # of a file whose size is not known: more than any published CLIP


def download_file(url: str, path: str | Path, sha256: str, size: int | None = None) -> Path:
    """Download `url` to `path` and return the path.  Raises DownloadError.

    sha256: expected hash of the file, 64 hex digits; a file with another hash is deleted;
    size: expected number of bytes, if known.  A `<path>.part` of an earlier attempt is continued.
    Nothing is requested if there is a file at `path`: it has this hash, or DownloadError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_there(path, sha256):
            return path
        with open_part(path.with_name(f"{path.name}.part")) as part:
            if is_there(path, sha256):                          # by another process, just now
                return path
            append_missing(url, part, size)
            found, have = part.sha256(), part.size()
            if found != sha256:
                part.file.truncate(0)                           # more bytes would not correct it
                raise DownloadError(f"{url} sent another file: expected sha256 {sha256}, found "
                                    f"{found} over {have:,} bytes; it was deleted, try again")
            is_there(path, sha256)                              # raises if another file is
            part.rename(path)
    except DownloadError:
        raise
    except NotRegularFileError as error:
        raise DownloadError(f"{error}; remove it, or give another folder") from error
    except OSError as error:    # the disk is full or read-only, or no such folder
        raise DownloadError(f"cannot write {path}.part: {error.strerror or error}") from error
    return path


def is_there(path: Path, sha256: str) -> bool:
    """Whether the file is there.  DownloadError if another one is, NotRegularFileError if no file.
    """
    refuse_other_kinds(path)
    if not path.exists():
        return False
    if sha256_of(path) != sha256:
        raise DownloadError(f"{shown(path)} is there with another sha256; it was not replaced: "
                            "move it away, or give another folder")
    return True


def append_missing(url: str, part: PartFile, size: int | None = None) -> None:
    """Append the missing bytes of `url` to `part`.  DownloadError if it is still incomplete.

    size: expected number of bytes of the whole, if known.
    """
    have = part.size()
    response = open_url(url, have)
    if response is None:                                        # no byte is missing
        return
    with response:
        if response.status == 206:                              # 206 partial content
            start, total = content_range(response)
            if start != have:
                raise DownloadError(f"{url}: requested bytes from {have}, got them from {start}; "
                                    f"delete {part.path} and try again")
        else:                                                   # 200: the server starts at 0
            have, total = 0, content_length(response)
        if size is not None and total not in (None, size):      # before a byte is overwritten
            raise DownloadError(f"{url}: expected a file of {size:,} bytes, the server announces "
                                f"{total:,}")
        total = size if total is None else total
        have, reason = receive(response, part, have, total)
    if reason or total not in (None, have):
        whole = "" if total is None else f" of {total:,}"
        raise DownloadError(f"{url}: {have:,}{whole} bytes arrived, then "
                            f"{reason or 'the connection was cut'}; run the same command again to "
                            "continue")


def receive(response: LimitedResponse, part: PartFile, have: int,
            total: int | None) -> tuple[int, str]:
    """Write the body of a response behind the first `have` bytes of the part.

    Returns (bytes of the part, why they are not all).  DownloadError if they are more than `total`.
    """
    progress = DownloadProgress(part.name, have, total)
    most, reason = MAX_DOWNLOAD if total is None else total, ""
    part.file.truncate(have)
    part.file.seek(have)
    try:
        for chunk in read_chunks(response):
            have += len(chunk)
            if have > most:
                part.file.truncate(0)
                raise DownloadError(f"the server sends more than {most:,} bytes; what had arrived "
                                    "was deleted")
            part.file.write(chunk)
            progress.show(have)
    except ConnectionLost as error:
        reason = str(error)
    progress.show(have, last=True)
    return have, reason


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
