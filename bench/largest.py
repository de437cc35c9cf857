"""The largest batch that fits on common GPUs: found by trying on a GPU, predicted without one.

On a GPU, torch may use as many bytes as the card has, minus those in use by the driver and other
programs.  The bisection starts at the batch that formulas.py predicts; what the formula misses on
one card (the driver, fragmentation) is added on the next.  It ends when a batch fails that is at
most EXACT larger, because each try of a large batch takes seconds.  Rows in float32 without
checkpointing come first: their tries are the shortest.  On a CPU the table shows the prediction
and says "predicted".  Only the methods in TRIED are included.
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
EXACT = 1 / 32                  # share of the batch within which the limit is found by trying
NOMINAL = 1.1                   # a card "of 16 GB" may report up to this factor less


def bisected(succeeds: Callable[[int], bool], guess: int = 1, most: int = MOST,
             exact: float = 0) -> int:
    """The largest batch up to `most` for which succeeds(batch) is true, 0 if there is none.

    succeeds: true up to some batch, false above it;  guess: where the search starts.  Steps away
    from the guess double, so a good guess needs few tries;  exact: the search ends when the
    smallest batch that failed is larger than the result by at most this share of it, or by one.
    """
    low, high, step = 0, most + 1, max(1, guess // 32)
    trial = min(max(1, guess), most)
    while low < trial < high:
        if succeeds(trial):
            low, trial = trial, trial + step
        else:
            high, trial = trial, trial - step
        step *= 2
    while high - low > max(1, exact * low):
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


def by_trying(row: Row, turns: Turns) -> list[str]:
    """For each card the largest batch for which two steps succeed, or why there is none."""
    def case(batch):
        return batch, row.precision, row.checkpointing

    found, missed = [], 0           # missed: bytes that the formula did not predict
    for card in CARDS.values():
        if card > NOMINAL * turns.capacity():
            found.append(f"-- (this GPU: {turns.capacity() / GIB:.0f} GB)")
            continue
        guess = by_formula(row, card - missed, turns.options) or 1
        try:
            batch = bisected(lambda batch: turns.result(
                f"fits {card}", row.method, case(batch), cost.fits, card), guess, exact=EXACT)
        except NotMeasured as reason:
            found.append(str(reason))
            continue
        found.append(str(batch))
        missed = card - sum(prediction(row.method, case(batch), turns.options, "cuda").values())
    return found


def tables(rows: Sequence[Row], turns: Turns, say: Callable[[str], None] = print) -> list[tuple]:
    """[(title, header, rows)], one column for each card; [] if no method in TRIED is among them."""
    made = []
    chosen = [row for row in rows if row.method in TRIED]
    if turns.on_gpu:
        chosen.sort(key=lambda row: (row.precision, row.checkpointing) != ("float32", "off"))
    for row in chosen:
        batches = by_trying(row, turns) if turns.on_gpu else [
            str(by_formula(row, card, turns.options) or "--") for card in CARDS.values()]
        say(f"largest batch: {row.name}: {', '.join(batches)}")
        made.append([row.name, row.precision, row.checkpointing, *batches])
    how = f"found by trying, to within {EXACT:.0%}" if turns.on_gpu else "predicted"
    title = f"largest batch that fits, {how}, pool of {turns.options.pool} included"
    return [(title, ("method", "precision", "checkpointing", *CARDS), made)] if made else []
