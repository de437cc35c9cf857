"""What all commands share at the terminal: options, a progress line, errors and Ctrl-C in one line.

Claim: a user is owed the cause and the remedy, not a traceback; whoever mends minilora passes
--debug and gets both.

Leaves out: colours, other languages.
"""
import argparse
import os
import sys
import time

from minilora.io.files import WRITTEN
from minilora.io.transaction import RESUME, STAGING

EXPECTED = (ValueError, OSError)                        # raised with words for a user
STOPPED = 130                                           # what a shell expects after Ctrl-C


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where it says something: not None, not that a switch is off."""

    def _get_help_string(self, action):
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def option_parser(name, description, epilog=None):
    """An argparse parser for the command `name`, with --debug; description: its docstring."""
    p = argparse.ArgumentParser(prog=f"python -m {name}", description=description.split("\n")[0],
                                epilog=epilog, formatter_class=HelpFormatter)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def command(name, main, failed=1):
    """Runs main() as the command `name`, and exits.

    failed: exit status after an error.  With --debug among the arguments, which is taken out of
    them here, errors keep their traceback.
    """
    debug = "--debug" in sys.argv[1:]
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"\n{name}: stopped; {saved()}", file=sys.stderr)
        sys.exit(STOPPED)
    except EXPECTED as error:
        if debug:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(failed)


def saved():
    """Which files of this process are in place, in words."""
    staged = [p for p in WRITTEN if p.parent.name.startswith(STAGING)]
    paths = list(dict.fromkeys(os.path.relpath(p) for p in WRITTEN if p not in staged))
    if any(p.name == RESUME for p in staged):
        return "the same command goes on from where it was"
    if not paths:
        return "nothing had been written yet"
    others = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"written, and whole: {', '.join(paths[-3:])}{others}"


class ProgressLine:
    """Loss, rate and time left; one growing line on a terminal, now and then a line elsewhere."""

    def __init__(self, steps, done=0):
        """done: steps of an earlier process, which are told of again but took no time here."""
        self.steps, self.done = steps, done
        self.begun, self.terminal = time.time(), sys.stdout.isatty()

    def __call__(self, step, loss):
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


def demo():
    line = ProgressLine(100)
    for step in range(100):
        line(step, 1 / (step + 1))

    def careless():
        raise FileNotFoundError("data folder /nowhere not found; correct the path")
    try:
        command("minilora.demo", careless)
    except SystemExit as stop:
        print(f"exit status {stop.code}")


if __name__ == "__main__":
    demo()
