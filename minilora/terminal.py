"""What all commands share at the terminal: a progress line, and errors and Ctrl-C in one line.

Claim: a user is owed the cause and the remedy, not a traceback; whoever mends minilora passes
--debug and gets both.

Leaves out: colours, other languages.
"""
import sys
import time

EXPECTED = (ValueError, OSError)                        # raised with words for a user
STOPPED = 130                                           # what a shell expects after Ctrl-C


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
        print(f"\n{name}: stopped; every file that was written so far is whole", file=sys.stderr)
        sys.exit(STOPPED)
    except EXPECTED as error:
        if debug:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(failed)


class ProgressLine:
    """Loss, rate and time left; one growing line on a terminal, now and then a line elsewhere."""

    def __init__(self, steps):
        self.steps, self.begun, self.terminal = steps, time.time(), sys.stdout.isatty()

    def __call__(self, step, loss):
        if self.terminal or (step + 1) % 50 == 0 or step + 1 == self.steps:
            rate = (step + 1) / (time.time() - self.begun)
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
