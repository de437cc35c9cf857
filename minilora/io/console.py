"""Printing that cannot fail: consoles without some characters, and outputs that are closed.

Claim: a console shows what it can; characters that it lacks are written as escapes such as \\u0394.
A closed output loses what is printed there, never the files of a command or its exit status.

Left out: what is printed (io/cli.py, io/text.py).
"""
import contextlib
import os
import sys
from typing import IO


def prepare_console(name: str) -> None:
    """Make printing safe: no character fails, and a closed stdin, stdout or stderr is replaced.

    Otherwise the next file that is opened would get the number of a closed one (0, 1 or 2), and
    what is printed would go into that file.
    """
    closed = [s for s in ("stdin", "stdout", "stderr") if getattr(sys, s) is None]
    for stream in closed:
        mode = "r" if stream == "stdin" else "w"
        setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))
    escape_unknown_characters()
    if "stdout" in closed:
        complain(f"{name}: stdout is closed, so nothing is printed there; files are written")


def escape_unknown_characters() -> None:
    """From here on, a character that stdout or stderr lacks is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):              # not if a test has replaced it
            stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Print to stderr, if that is possible: a failure of it must not hide the exit status."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def discard(stream: IO[str]) -> None:
    """Drop what this stream still holds, because its reader has ended or its disk is full."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def demo() -> None:
    """A console that knows ASCII only."""
    import io
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    stream.write("|\u0394W| is small")
    stream.flush()
    print(stream.buffer.getvalue().decode())


if __name__ == "__main__":
    demo()
