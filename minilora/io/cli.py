"""What all commands share: option parsing, one-line error messages, Ctrl-C, exit statuses.

Claim: a user needs the cause of an error and the remedy, not a traceback; a developer passes
--debug and gets the traceback as well.  A script needs an exit status that it can trust:

    0     done (predict: every picture is OK)
    1     done, and something is wrong with what was looked at (predict: a picture is NG; fit with
          several classes: one of them failed)
    2     not done, or not all of it: a wrong option, an error, an output that was closed or full
    130   stopped by Ctrl-C

Left out: what a console can show (io/console.py), progress (io/progress.py), colours, other
languages.
"""
import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from minilora.io.console import complain, discard, prepare_console
from minilora.io.files import WRITTEN
from minilora.io.notes import take_notes
from minilora.io.paths import PACKAGE
from minilora.io.text import shown
from minilora.io.transaction import RESUME_FILE, STAGING

USER_ERRORS = (ValueError, OSError)         # errors whose message is written for the user
ERROR_STATUS, INTERRUPTED_STATUS = 2, 130   # 130: what a shell expects after Ctrl-C
MAX_MESSAGE = 2000                          # characters of an error message
MAX_COUNT, MAX_SEED = 2**31 - 1, 2**63 - 1


# ---- options ------------------------------------------------------------------------------------

class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default value to each option's help, except for None and on/off switches."""

    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the list of all options.

    An empty value is refused, except for options in `may_be_empty`: `--data "$FOLDER"` with an
    unset variable would otherwise mean something else than the user thinks.
    """
    may_be_empty: tuple[str, ...] = ()

    def parse_known_args(self, args: Sequence[str] | None = None,
                         namespace: argparse.Namespace | None = None
                         ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        for option, following in zip(args, [*args[1:], None]):
            name, equals, value = option.partition("=")
            if name.startswith("--") and name not in self.may_be_empty and "" in (
                    [value] if equals else [following]):
                self.error(f"argument {name}: expected a value, found ''")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        name = self.prog.removeprefix("python -m ")
        self.exit(ERROR_STATUS, f"{name}: {shown(message, MAX_MESSAGE)}; --help lists the "
                                "options\n")


def option_parser(name: str, description: str | None, epilog: str | None = None
                  ) -> argparse.ArgumentParser:
    """The argparse parser of command `name`, with --debug.

    description: the command's docstring, None under `python -OO`; its first line is shown.
    """
    first_line = (description or "").split("\n")[0]
    p = OneLineParser(prog=f"python -m {name}", description=first_line, epilog=epilog,
                      formatter_class=HelpFormatter)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def number_between(convert: Callable[[str], float], kind: str, low: float,
                   high: float) -> Callable[[str], float]:
    """A `type=` for argparse: convert(text), a number in [low, high]; NaN is refused."""
    def read(text):
        with contextlib.suppress(ValueError):
            if low <= (value := convert(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"expected {kind} from {low:,} to {high:,}, found "
                                         f"'{shown(text)}'")
    return read


def whole_number(low: int, high: int = MAX_COUNT) -> Callable[[str], int]:
    """A `type=` for argparse: a whole number in [low, high]."""
    return number_between(int, "a whole number", low, high)


def finite_number(low: float, high: float) -> Callable[[str], float]:
    """A `type=` for argparse: a number in [low, high], neither NaN nor infinite."""
    return number_between(float, "a number", low, high)


def positive_int(text: str) -> int:
    """A `type=` for argparse: a whole number of at least 1."""
    return whole_number(1)(text)


def whole(text: str) -> int:
    """A `type=` for argparse: a whole number of at least 0."""
    return whole_number(0)(text)


def seed_value(text: str) -> int:
    """A `type=` for argparse: a seed that every generator accepts, 0 to 2^63 - 1."""
    return whole_number(0, MAX_SEED)(text)


def checked_device(name: str) -> torch.device:
    """The torch device of this name.  Raises ValueError, which lists the devices, if it is not
    here."""
    if name == "cpu":
        return torch.device(name)
    found = ["cpu", *(["mps"] if torch.backends.mps.is_available() else [])]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if name not in found:
        raise ValueError(f"--device {shown(name)}: no such device here; this machine has "
                         f"{', '.join(found)}")
    return torch.device(name)


def device_name(text: str) -> str:
    """A `type=` for argparse: the name of a device that is here."""
    try:
        checked_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--device ")) from error
    return text


# ---- the command --------------------------------------------------------------------------------

def run_command(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run main() as the command `name`, print an error in one line, and exit.

    The exit status is what main returns (None: 0), or one of those in this module's docstring.
    --debug is removed from sys.argv; if it was given, an error shows its traceback.
    """
    debug = "--debug" in sys.argv[1:]
    sys.argv = [a for a in sys.argv if a != "--debug"]
    prepare_console(name)
    try:
        status = status_of(main)
        sys.stdout.flush()              # a full or closed output fails here, not after the end
    except KeyboardInterrupt:
        complain(f"\n{name}: stopped; {written_files_message()}")
        status = INTERRUPTED_STATUS
    except BrokenPipeError:             # the reader of a pipe, such as `head`, has ended
        complain(f"{name}: the output was closed before its end; {written_files_message()}")
        status = ERROR_STATUS
    except Exception as error:          # all: any other exit status has a meaning of its own
        complain(error_text(name, error, debug))
        status = ERROR_STATUS
    for line in take_notes():
        complain(f"{name}: {line}")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard(stream)
    sys.exit(status)


def status_of(main: Callable[[], int | None]) -> int:
    """The exit status that main() returns, or with which argparse ends it."""
    try:
        return main() or 0
    except SystemExit as stop:
        return stop.code or 0


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
    """A refused option, and the one-line messages of a user's error and of a bug."""
    try:
        finite_number(0, 10)("nan")
    except argparse.ArgumentTypeError as error:
        print(f"--rate nan: {error}")

    for error in (FileNotFoundError("data folder /nowhere not found; correct the path"),
                  TypeError("'NoneType' object is not iterable")):
        def failing_main(error=error):
            raise error
        try:
            run_command("minilora.demo", failing_main)
        except SystemExit as stop:
            print(f"exit status {stop.code}")


if __name__ == "__main__":
    demo()
