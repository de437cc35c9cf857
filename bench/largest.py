"""The largest batch that fits on common GPUs: found by trying on a GPU, predicted without one.

On a GPU, torch may use as many bytes as the card has, minus those in use by the driver and other
programs; the bisection starts at the batch that formulas.py predicts.  On a CPU the table shows
this prediction and says "predicted".  Only the methods in TRIED are included.
Left out: pictures of other sizes.
"""
from argparse import Namespace
from collections.abc import Callable, Sequence

from bench import cost
from bench.cells import prediction
from bench.rows import Row
from bench.steps import FULL, PLAIN, REUSE
from bench.turns import GIB, NotMeasured, Turns

CARDS = {"4 GB": 4 * GIB, "12 GB (RTX 3060)": 12 * GIB, "16 GB (T4)": 16 * GIB}
TRIED = (FULL, "LoRA, all blocks", PLAIN, REUSE)
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


def by_formula(row: Row, card: int, options: Namespace) -> int | None:
    """The largest batch whose predicted total fits into the bytes of the card."""
    def parts(batch):
        return prediction(row.method, (batch, row.precision, row.checkpointing), options, "cuda")
    if parts(1) is None:
        return None
    return bisected(lambda batch: sum(parts(batch).values()) <= card)


def by_trying(row: Row, card: int, turns: Turns) -> str:
    """The largest batch for which two steps succeed, or why there is none."""
    if card > turns.capacity():
        return f"-- (this GPU: {turns.capacity() / GIB:.0f} GB)"
    def succeeds(batch):
        return turns.result(f"fits {card}", row.method, (batch, row.precision, row.checkpointing),
                            cost.fits, card)
    try:
        return str(bisected(succeeds, by_formula(row, card, turns.options) or 1))
    except NotMeasured as reason:
        return str(reason)


def tables(rows: Sequence[Row], turns: Turns, say: Callable[[str], None] = print) -> list[tuple]:
    """[(title, header, rows)], one column for each card; [] if no method in TRIED is among them."""
    made = []
    for row in (row for row in rows if row.method in TRIED):
        batches = [by_trying(row, card, turns) if turns.on_gpu
                   else str(by_formula(row, card, turns.options) or "--")
                   for card in CARDS.values()]
        say(f"largest batch: {row.name}: {', '.join(batches)}")
        made.append([row.name, row.precision, row.checkpointing, *batches])
    how = "found by trying" if turns.on_gpu else "predicted"
    title = f"largest batch that fits, {how}, pool of {turns.options.pool} included"
    return [(title, ("method", "precision", "checkpointing", *CARDS), made)] if made else []
