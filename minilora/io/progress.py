"""A progress line: loss, steps per second and time left.

Claim: a user who waits needs to know for how long.  On a terminal one line is updated in place; in
a file that would be one endless line, so there every 50th step prints a line of its own.

Left out: bars, colours, several lines at once.
"""
import math
import sys
import time


def per_second(count: float, seconds: float) -> float:
    """A rate; infinite where the clock has not moved on."""
    return count / seconds if seconds > 0 else math.inf


class ProgressLine:
    """Loss, steps per second and time left.

    On a terminal one line is updated in place; elsewhere every 50th step prints a line.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        """done: number of steps that an earlier process finished; nothing is printed for them."""
        self.steps, self.done = steps, done
        self.begun = time.time()
        self.terminal = sys.stdout is not None and sys.stdout.isatty()

    def __call__(self, step: int, loss: float) -> None:
        if step < self.done:
            return
        if self.terminal or (step + 1) % 50 == 0 or step + 1 == self.steps:
            rate = per_second(step + 1 - self.done, time.time() - self.begun)
            start = "\r" if self.terminal else ""
            print(f"{start}step {step + 1:4d}/{self.steps}  loss {loss:.4f}  {rate:.1f} steps/s  "
                  f"{(self.steps - step - 1) / rate:4.0f} s left",
                  end="" if self.terminal else "\n", flush=True)
            if self.terminal and step + 1 == self.steps:
                print()


def demo() -> None:
    """Show the progress of 100 steps, and of one step on a clock that stands still."""
    line = ProgressLine(100)
    for step in range(100):
        line(step, 1 / (step + 1))
    print(f"5 steps in 2 s: {per_second(5, 2)} per second; in 0 s: {per_second(5, 0)}")


if __name__ == "__main__":
    demo()
