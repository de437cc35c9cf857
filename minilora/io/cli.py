"""What all commands share: option parsing, one-line error messages, Ctrl-C, and a progress line.

Claim: a user needs the cause of an error and the remedy, not a traceback; a developer passes
--debug and gets the traceback as well.

Left out: colours, other languages.
"""
import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from minilora.io.files import WRITTEN
from minilora.io.transaction import RESUME_FILE, STAGING

USER_ERRORS = (ValueError, OSError)         # errors whose message is written for the user
INTERRUPTED_STATUS = 130                    # the exit status that a shell expects after Ctrl-C


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default value to each option's help, except for None and on/off switches."""

    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def option_parser(name: str, description: str, epilog: str | None = None
                  ) -> argparse.ArgumentParser:
    """The argparse parser of command `name`, with --debug.

    description: the command's docstring; its first line is shown.
    """
    p = argparse.ArgumentParser(prog=f"python -m {name}", description=description.split("\n")[0],
                                epilog=epilog, formatter_class=HelpFormatter)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def run_command(name: str, main: Callable[[], int | None], error_status: int = 1) -> NoReturn:
    """Run main() as the command `name`, print a user error in one line, and exit.

    error_status: exit status after an error.  --debug is removed from sys.argv; if it was given,
    an error shows its traceback.
    """
    debug = "--debug" in sys.argv[1:]
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"\n{name}: stopped; {written_files_message()}", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error_status)


def written_files_message() -> str:
    """The files that this process has completed, as the end of a sentence."""
    staged = [p for p in WRITTEN if p.parent.name.startswith(STAGING)]
    paths = list(dict.fromkeys(os.path.relpath(p) for p in WRITTEN if p not in staged))
    if any(p.name == RESUME_FILE for p in staged):
        return "run the same command again to continue"
    if not paths:
        return "no file was written yet"
    others = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"completely written: {', '.join(paths[-3:])}{others}"


class ProgressLine:
    """Loss, steps per second and time left.

    On a terminal one line is updated in place; elsewhere every 50th step prints a line.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        """done: number of steps that an earlier process finished; nothing is printed for them."""
        self.steps, self.done = steps, done
        self.begun, self.terminal = time.time(), sys.stdout.isatty()

    def __call__(self, step: int, loss: float) -> None:
        if step < self.done:
            return
        if self.terminal or (step + 1) % 50 == 0 or step + 1 == self.steps:
            rate = (step + 1 - self.done) / (time.time() - self.begun)
            start = "\r" if self.terminal else ""
            print(f"{start}step {step + 1:4d}/{self.steps}  loss {loss:.4f}  {rate:.1f} steps/s  "
                  f"{(self.steps - step - 1) / rate:4.0f} s left",
                  end="" if self.terminal else "\n", flush=True)
            if self.terminal and step + 1 == self.steps:
                print()


def demo() -> None:
    """Show the progress of 100 steps and the one-line message of an error."""
    line = ProgressLine(100)
    for step in range(100):
        line(step, 1 / (step + 1))

    def failing_main():
        raise FileNotFoundError("data folder /nowhere not found; correct the path")
    try:
        run_command("minilora.demo", failing_main)
    except SystemExit as stop:
        print(f"exit status {stop.code}")


if __name__ == "__main__":
    demo()
