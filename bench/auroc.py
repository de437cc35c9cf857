"""AUROC of minilora, scikit-learn and torchmetrics: the same value; what time and memory it takes.

    python -m bench.auroc
    python -m bench.auroc --counts 10000 1000000 --rounds 9

All three get the same float32 scores in [0, 1] (torchmetrics applies a sigmoid to scores outside)
and the same boolean labels.  scikit-learn gets numpy arrays that share the tensors' memory.  The
times of one row are taken in turn in one fresh process; each library's peak of memory above its
inputs is taken in a fresh process of its own.  Values that differ by more than TOLERANCE raise an
error.
Left out: GPUs, float64, other metrics.
"""
import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from bench import measure
from bench.tables import write
from minilora.auroc import auroc

COUNTS, SHARES, LEVELS = (10**4, 10**6, 10**7), (0.02, 0.5), (0, 1000)
TOLERANCE = 1e-6        # torchmetrics sums areas in float32
MB = 1e6


def torchmetrics_auroc(scores: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import binary_auroc
    return binary_auroc(scores, labels, thresholds=None).item()


def sklearn_auroc(scores: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(labels.numpy(), scores.numpy()))


RIVALS = {"minilora": auroc, "torchmetrics": torchmetrics_auroc, "scikit-learn": sklearn_auroc}


def inputs(count: int, share: float, levels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores (N,) float32 in [0, 1] and labels (N,) bool; positives have higher scores on average.

    share: of positives;  levels: number of different scores, 0: no rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, generator=generator) < share
    scores = torch.randn(count, generator=generator).add_(labels).sigmoid_()
    return (scores * (levels - 1)).round_() / (levels - 1) if levels else scores, labels


def times(count: int, share: float, levels: int, rounds: int) -> dict[str, dict]:
    """{"seconds": {rival: [of each round]}, "values": {rival: AUROC}}."""
    data = inputs(count, share, levels)
    values = {name: rival(*data) for name, rival in RIVALS.items()}
    seconds = measure.side_by_side({name: lambda rival=rival: rival(*data)
                                    for name, rival in RIVALS.items()}, rounds)
    return {"seconds": seconds, "values": values}


def peak_of(name: str, count: int, share: float, levels: int) -> int:
    """Peak of memory above scores and labels, in bytes."""
    RIVALS[name](*inputs(100, share, levels))                   # loads what the library needs
    data = inputs(count, share, levels)
    return measure.peak(lambda: RIVALS[name](*data))["allocated"]


def cell(count: int, share: float, levels: int, rounds: int) -> dict:
    """The measurements of one row.  Raises ValueError if the libraries do not agree."""
    found = measure.fresh(times, count, share, levels, rounds)
    values = found["values"]
    if max(values.values()) - min(values.values()) > TOLERANCE:
        raise ValueError(f"{count} scores: expected one AUROC to {TOLERANCE}, found {values}")
    peaks = {name: measure.fresh(peak_of, name, count, share, levels, returning=True)
             for name in RIVALS}
    return {"count": count, "share": share, "levels": levels, "values": values, "peaks": peaks,
            "seconds": found["seconds"]}


def tables(cells: list[dict]) -> list[tuple]:
    """[(title, header, rows)], all text."""
    ours, *others = RIVALS
    time_header, peak_header = ([*("scores", "positives", "different scores"), f"{ours}, {unit}"]
                                for unit in ("ms", "MB"))
    for name in others:
        time_header += [f"{name}, ms", "ratio (lowest to highest)"]
        peak_header += [f"{name}, MB", "ratio"]
    time_rows, peak_rows = [], []
    for c in cells:
        what = [f"{c['count']:,}", f"{c['share']:.0%}", f"{c['levels'] or 'all'}"]
        median = {name: statistics.median(s) for name, s in c["seconds"].items()}
        time_row, peak_row = ([*what, f"{1e3 * median[ours]:.3g}"],
                              [*what, f"{c['peaks'][ours] / MB:.1f}"])
        for name in others:
            middle, low, high = measure.ratio(c["seconds"][ours], c["seconds"][name])
            time_row += [f"{1e3 * median[name]:.3g}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
            peak_row += [f"{c['peaks'][name] / MB:.1f}", peak_ratio(c["peaks"], ours, name)]
        time_rows.append(time_row)
        peak_rows.append(peak_row)
    return [("time", time_header, time_rows),
            ("peak memory above the inputs", peak_header, peak_rows)]


def peak_ratio(peaks: dict[str, int], ours: str, theirs: str) -> str:
    """Ratio of two peaks; "--" below a megabyte, where memory pages dominate the measurement."""
    return f"{peaks[ours] / peaks[theirs]:.2f}" if min(peaks.values()) > MB else "--"


def numbers(cells: list[dict]) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file, one row for each round."""
    rows = [(c["count"], c["share"], c["levels"], name, round_, f"{seconds:.6f}",
             c["peaks"][name], repr(c["values"][name]))
            for c in cells for name in RIVALS
            for round_, seconds in enumerate(c["seconds"][name], 1)]
    return ("scores", "positives", "levels", "rival", "round", "seconds", "peak_bytes",
            "auroc"), rows


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m bench.auroc", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--counts", type=int, nargs="+", default=list(COUNTS),
                   help="numbers of scores")
    p.add_argument("--shares", type=float, nargs="+", default=list(SHARES),
                   help="shares of positives")
    p.add_argument("--levels", type=int, nargs="+", default=list(LEVELS),
                   help="numbers of different scores; 0: no rounding")
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--out", type=Path, default=Path("runs/auroc"))
    p.add_argument("--name", default="auroc", help="of the tables: NAME.txt, .md, .csv")
    o = p.parse_args()
    cells = [cell(count, share, levels, o.rounds)
             for count in o.counts for share in o.shares for levels in o.levels]
    head = [measure.conditions(packages=("torchmetrics", "sklearn", "numpy"))
            + f"; {o.rounds} rounds; the ratio is minilora over the other"]
    write(o.out, o.name, tables(cells), head, numbers(cells))


if __name__ == "__main__":
    main()
