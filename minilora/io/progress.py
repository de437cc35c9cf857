"""A progress line: which stage, how much of it is done, how fast, and the time left.

Claim: a user who waits needs to know for how long.  On a terminal one line is updated in place; in
a file that would be one endless line, so there every 50th step, and in a stage every ten seconds,
prints a line of its own.

    ProgressLine    the steps of a training, with their loss, on stdout
    stage           any loop: `for picture in stage("scoring", pictures, len(pictures))`

A stage is shown on stderr, since programs read stdout, and only while a command runs (io/cli.py):
the functions of minilora print nothing when they are called from Python.

Left out: bars, colours, several lines at once.
"""
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

EVERY_STEPS, EVERY_SECONDS = 50, 10     # between two lines where there is no terminal
Each = TypeVar("Each")

_streams: list[IO[str]] = []            # the last one shows the stages; none: they are not shown
_in_place: list["ProgressLine"] = []    # the line that a terminal shows at the moment


def per_second(count: float, seconds: float) -> float:
    """A rate; infinite where the clock has not moved on."""
    return count / seconds if seconds > 0 else math.inf


def time_left(seconds: float) -> str:
    """Seconds, or minutes if there are many: "  12 s left"."""
    return f"{seconds:4.0f} s left" if seconds < 600 else f"{seconds / 60:4.0f} min left"


class ProgressLine:
    """Count, loss if there is one, steps per second and time left."""

    def __init__(self, steps: int, done: int = 0, name: str = "step",
                 stream: IO[str] | None = None, every: int = EVERY_STEPS) -> None:
        """done: number of steps that an earlier process finished; nothing is printed for them;
        every: where there is no terminal, each step with such a number prints a line."""
        self.steps, self.done, self.name, self.every = steps, done, name, every
        self.stream = sys.stdout if stream is None else stream
        self.begun = self.printed = time.time()
        self.terminal = self.stream is not None and self.stream.isatty()
        self.started = False                            # the first step of a training is done
        self.width = 0                                  # of the text that a terminal shows

    def __call__(self, step: int, loss: float | None = None) -> None:
        """To be called after each step; they are counted from 0."""
        count, now, training = step + 1, time.time(), loss is not None
        if step < self.done:
            return
        if training and not self.started:               # what comes before it is no step
            self.started, self.begun, self.printed, self.done = True, now, now, count
        last = training and count == self.steps         # stays on a terminal
        due = count > self.done if self.terminal else (
            count % self.every == 0 or now - self.printed >= EVERY_SECONDS)
        if due or last:
            self.printed = now
            self.show(self.text(count, now, loss))
        if self.terminal and last:
            self.width = 0
            self.write("\n")

    def text(self, count: int, now: float, loss: float | None) -> str:
        """What the line says."""
        rate = per_second(count - self.done, now - self.begun)
        middle = f"{rate:.1f}/s" if loss is None else f"loss {loss:.4f}  {rate:.1f} steps/s"
        left = (self.steps - count) / max(rate, 1e-9)
        return f"{self.name} {count:4d}/{self.steps}  {middle}  {time_left(left)}"

    def show(self, text: str) -> None:
        """Print the line, on a terminal in the place of the one before."""
        self.write(f"\r{text:{self.width}s}" if self.terminal else f"{text}\n")
        self.width = len(text)
        _in_place[:] = [self]

    def erase(self) -> None:
        """Remove the line from a terminal."""
        if self.terminal and self.width:
            self.write(f"\r{'':{self.width}s}\r")
            self.width = 0
        _in_place.clear()

    def write(self, text: str) -> None:
        """Print a text without a line end of its own."""
        print(text, end="", file=self.stream, flush=True)


@contextlib.contextmanager
def stages_on(stream: IO[str] | None) -> Iterator[None]:
    """Show the stages inside the block on this stream."""
    _streams.append(stream)
    try:
        yield
    finally:
        _streams.pop()


def stage(name: str, items: Iterable[Each], total: int,
          size: Callable[[Each], int] = lambda item: 1) -> Iterator[Each]:
    """The items of a loop, while a line shows how many are done: "scoring  48/120  12.3/s ...".

    total: number of items, or sum of their sizes.  On a terminal the line disappears at the end.
    """
    if not _streams or _streams[-1] is None:
        yield from items
        return
    line, done = ProgressLine(total, name=name, stream=_streams[-1], every=sys.maxsize), 0
    try:
        for item in items:
            yield item
            done += size(item)
            with contextlib.suppress(OSError):          # a closed stderr does not end the work
                line(done - 1)
    finally:
        with contextlib.suppress(OSError):
            line.erase()


def stage_steps(name: str, steps: int) -> Callable[[int, float], None]:
    """`report` of a training that is a stage: called with each step and its loss."""
    if not _streams or _streams[-1] is None:
        return lambda step, loss: None
    return ProgressLine(steps, name=name, stream=_streams[-1])


def print_line(text: str) -> None:
    """Print a line on stdout; a progress line on the terminal makes room for it."""
    for line in list(_in_place):
        line.erase()
    print(text, flush=True)


def demo() -> None:
    """Show the progress of 100 steps, and of one step on a clock that stands still."""
    line = ProgressLine(100)
    for step in range(100):
        line(step, 1 / (step + 1))
    print(f"5 steps in 2 s: {per_second(5, 2)} per second; in 0 s: {per_second(5, 0)}")
    with stages_on(sys.stderr):
        print("sum", sum(stage("adding", range(5), 5)))


if __name__ == "__main__":
    demo()
