"""What a command says at an early end: one line for an error, the files that are complete.

Claim: the line names the cause and the remedy; the traceback is for developers (--debug).

Left out: when it is said, and the exit status (io/cli.py).
"""
import os
import traceback
from pathlib import Path

from minilora.io.files import WRITTEN
from minilora.io.paths import PACKAGE
from minilora.io.text import shown
from minilora.io.transaction import RESUME_FILE, STAGING

USER_ERRORS = (ValueError, OSError)         # errors whose message is written for the user
MAX_MESSAGE = 2000                          # characters of an error message
ERROR_STATUS = 2                            # exit status after an error


def error_text(name: str, error: Exception, debug: bool) -> str:
    """What is said about an error: one line, or with `debug` the traceback."""
    if debug:
        lines = "".join(traceback.format_exception(error)).splitlines()
        return "\n".join(shown(line, MAX_MESSAGE) for line in lines)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        remedy = "; give the rights for it" if isinstance(error, PermissionError) else ""
        return f"{name}: {shown(error.filename, MAX_MESSAGE)}: {error.strerror}{remedy}"
    if isinstance(error, USER_ERRORS):
        return f"{name}: {shown(error, MAX_MESSAGE)}"
    frames = traceback.extract_tb(error.__traceback__)
    frame = [f for f in frames if Path(f.filename).is_relative_to(PACKAGE)][-1]
    words = " ".join(str(error).split())                # messages of torch have several lines
    return (f"{name}: unexpected {type(error).__name__}: {shown(words, MAX_MESSAGE)} "
            f"({Path(frame.filename).name}:{frame.lineno}); --debug shows the traceback")


def written_files_message() -> str:
    """The files that this process has completed, as the end of a sentence."""
    staged = [p for p in WRITTEN if any(part.startswith(STAGING) for part in p.parts)]
    paths = list(dict.fromkeys(path_from_here(p) for p in WRITTEN if p not in staged))
    if any(p.name == RESUME_FILE for p in staged):
        return "run the same command again to continue"
    if not paths:
        return "no file was written yet"
    others = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"completely written: {', '.join(map(shown, paths[-3:]))}{others}"


def path_from_here(path: Path) -> str:
    """The path relative to the working folder; as it is if that folder has been deleted."""
    try:
        return os.path.relpath(path)
    except OSError:
        return str(path)


def demo() -> None:
    """A user's error, and one of the system."""
    for error in (FileNotFoundError("data folder /nowhere not found; correct the path"),
                  PermissionError(13, "Permission denied", "a\nb.png")):
        print(error_text("minilora.fit", error, debug=False))
    print(written_files_message())


if __name__ == "__main__":
    demo()
