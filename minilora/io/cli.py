"""What all commands share: options, one-line error messages, Ctrl-C, exit statuses.

Claim: a user needs the cause of an error and the remedy, not a traceback; a developer passes
--debug and gets the traceback as well.  A script needs an exit status that it can trust:

    0     done (predict: every picture is OK)
    1     done, and something is wrong with what was looked at (predict: a picture is NG; fit with
          several classes: one of them failed; search query: nothing was found)
    2     not done, or not all of it: a wrong option, an error, an output that was closed or full
    130   stopped by Ctrl-C

Left out: the help (io/parser.py), the messages (io/error_text.py), what a console can show
(io/console.py), progress (io/progress.py), colours, other languages.
"""
import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from minilora.io.called_as import called_as
from minilora.io.console import complain, discard, prepare_console
from minilora.io.error_text import ERROR_STATUS, MAX_MESSAGE, error_text, written_files_message
from minilora.io.notes import take_notes
from minilora.io.parser import OneLineParser
from minilora.io.progress import stages_on
from minilora.io.text import shown

INTERRUPTED_STATUS = 130                    # what a shell expects after Ctrl-C
MAX_COUNT, MAX_SEED = 2**31 - 1, 2**63 - 1


# ---- options ------------------------------------------------------------------------------------

def option_parser(name: str, description: str | None, example: str = "",
                  epilog: str | None = None) -> OneLineParser:
    """The parser of command `name` ("minilora.fit"), with --help, --version and --debug.

    description: the command's docstring, None under `python -OO`; its first line is shown;
    example: the arguments of the example, a command that can be run.  Common options are added
    with `parser.add_argument`, rare ones with `parser.rare.add_argument`; one short line each.
    """
    return OneLineParser(called_as(name), (description or "").split("\n")[0], example, epilog)


def number_between(convert: Callable[[str], float], kind: str, low: float,
                   high: float) -> Callable[[str], float]:
    """A `type=` for argparse: convert(text), a number in [low, high]; NaN is refused."""
    low, high = (int(limit) if limit == int(limit) else limit for limit in (low, high))
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


def non_negative_int(text: str) -> int:
    """A `type=` for argparse: a whole number of at least 0."""
    return whole_number(0)(text)


def seed_value(text: str) -> int:
    """A `type=` for argparse: a seed that every generator accepts, 0 to 2^63 - 1."""
    return whole_number(0, MAX_SEED)(text)


def checked_device(name: str) -> torch.device:
    """The torch device of this name; "auto" is the fastest one.  Raises ValueError, which lists
    the devices, if it is not here."""
    found = ["cpu", *(["mps"] if torch.backends.mps.is_available() else [])]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if d in found))
    if name not in found:
        raise ValueError(f"--device {shown(name)}: no such device here; this machine has "
                         f"{', '.join(found)}")
    return torch.device(name)


def device_name(text: str) -> str:
    """A `type=` for argparse: the name of a device that is here, or "auto"."""
    try:
        return str(checked_device(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--device ")) from error


def device_text(name: str) -> str:
    """A device for the first lines of a command: "cpu (no GPU found), 2 threads"."""
    fastest = checked_device("auto").type
    if name.startswith("cuda"):
        return f"{name} ({torch.cuda.get_device_name(name)})"
    if name == fastest != "cpu":
        return f"{name} (the fastest here)"
    why = "no GPU found" if fastest == "cpu" else f"chosen with --device; {fastest} is here as well"
    return f"{name} ({why}), {torch.get_num_threads()} threads"


def shell_command(name: str, *arguments: str | Path) -> str:
    """A command of minilora as it can be pasted into a shell: "minilora predict 'runs/my nut'".

    name: "predict";  the form is that of `called_as`.
    """
    return " ".join([called_as(f"minilora.{name}"),
                     *(shlex.quote(shown(argument, MAX_MESSAGE)) for argument in arguments)])


# ---- the command --------------------------------------------------------------------------------

def run_command(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run main() as the command `name`, print an error in one line, and exit.

    The exit status is what main returns (None: 0), or one of those in this module's docstring.
    --debug is removed from sys.argv; if it was given, an error shows its traceback.
    """
    name = called_as(name).removeprefix("python -m ")
    debug = "--debug" in sys.argv[1:]
    sys.argv = [a for a in sys.argv if a != "--debug"]
    prepare_console(name)
    try:
        with stages_on(sys.stderr):
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
