"""The largest batch that fits on common GPUs: found by trying on a GPU, predicted without one.

On a GPU a fresh process may use as many bytes as the card has, minus those in use by the driver and
other programs; the bisection starts at the batch that formulas.py predicts.  On a CPU the table
shows this prediction and says "predicted".  Of the LoRA methods only those in MAIN are included.
Left out: pictures of other sizes.
"""
import itertools
from argparse import Namespace
from collections.abc import Callable

from bench import cost
from bench.cells import is_measured, measured_once, prediction
from bench.steps import MAIN, METHODS

GIB = 2**30
CARDS = {"4 GB": 4 * GIB, "12 GB (RTX 3060)": 12 * GIB, "16 GB (T4)": 16 * GIB}
MOST = 4096                     # larger batches of pictures are not used in practice


def bisected(succeeds: Callable[[int], bool], guess: int = 1, most: int = MOST) -> int:
    """The largest batch up to `most` for which succeeds(batch) is true, 0 if there is none.

    succeeds: true up to some batch, false above it;  guess: where the search starts.  Steps away
    from the guess double, so a good guess needs few tries.
    """
    low, high, step = 0, most + 1, max(1, guess // 32)
    trial = min(max(1, guess), most)
    while low < trial < high:
        if succeeds(trial):
            low, trial = trial, trial + step
        else:
            high, trial = trial, trial - step
        step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if succeeds(middle) else (low, middle)
    return low


def by_formula(name: str, precision: str, checkpointing: str, card: int,
               options: Namespace) -> Callable[[int], bool]:
    """Function of a batch: does the predicted total fit into the bytes of the card?"""
    def succeeds(batch):
        parts = prediction(name, (batch, precision, checkpointing), options, "cuda")
        return sum(parts.values()) <= card
    return succeeds


def by_trying(name: str, precision: str, checkpointing: str, card: int,
              options: Namespace) -> Callable[[int], bool]:
    """The same, tried on the GPU, each time in a fresh process."""
    return lambda batch: measured_once(options, f"fits {card}", name,
                                       (batch, precision, checkpointing), cost.fits, card)


def largest(name: str, precision: str, checkpointing: str, card: int, options: Namespace) -> int:
    """Largest batch for one card: predicted on a CPU, found by trying on a GPU."""
    condition = name, precision, checkpointing, card, options
    guess = bisected(by_formula(*condition))
    return guess if options.device == "cpu" else bisected(by_trying(*condition), guess)


def table(options: Namespace, say: Callable[[str], None] = print) -> tuple:
    """(title, header, rows): one row for each method and condition, one column for each card."""
    rows, main = [], [m for m in options.methods if METHODS[m].kind != "lora" or m in MAIN]
    for case in itertools.product(options.precision, options.checkpointing):
        for name in main:
            if not is_measured(name, (0, *case)):
                continue
            batches = [largest(name, *case, card, options) for card in CARDS.values()]
            say(f"largest batch: {name}, {case[0]}, checkpointing {case[1]}: {batches}")
            rows.append([name, *case, *map(str, batches)])
    how = "predicted" if options.device == "cpu" else "found by trying"
    return (f"largest batch that fits, {how}, pool of {options.pool} included",
            ("method", "precision", "checkpointing", *CARDS), rows)
