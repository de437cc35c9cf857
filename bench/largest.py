"""The largest batch that fits on common GPUs: found by trying, or predicted where there is none.

On a GPU a fresh process may take as many bytes as the card in question has, less what driver and
others take; the search starts at what formulas.py predicts.  On a CPU there is only that, and the
table says "predicted".  Of the LoRAs the main ones alone are looked at.
Leaves out: pictures of other sizes.
"""
import itertools

from bench import cost
from bench.cells import is_measured, kept, prediction
from bench.steps import MAIN, METHODS

GIB = 2**30
CARDS = {"4 GB": 4 * GIB, "12 GB (RTX 3060)": 12 * GIB, "16 GB (T4)": 16 * GIB}
MOST = 4096                     # nobody trains on larger batches of pictures


def bisected(succeeds, guess=1, most=MOST):
    """The largest batch up to `most` for which succeeds(batch), 0 if none; it must be monotone.

    Steps away from the guess double, so that a good one costs few tries.
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


def by_formula(name, precision, checkpointing, card, options):
    """Whether the predicted total stays below the card's bytes, for a batch."""
    def succeeds(batch):
        parts = prediction(name, (batch, precision, checkpointing), options, "cuda")
        return sum(parts.values()) <= card
    return succeeds


def by_trying(name, precision, checkpointing, card, options):
    """The same on the GPU itself, each time in a fresh process."""
    return lambda batch: kept(options, f"fits {card}", name, (batch, precision, checkpointing),
                              cost.fits, card)


def largest(name, precision, checkpointing, card, options):
    """Batch for one card: predicted on a CPU, found on a GPU."""
    asked = name, precision, checkpointing, card, options
    guess = bisected(by_formula(*asked))
    return guess if options.device == "cpu" else bisected(by_trying(*asked), guess)


def table(options, say=print):
    """(title, header, rows): a row a method and way to compute, a column a card."""
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
