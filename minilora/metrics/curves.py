"""Points of the ROC curve and of the precision-recall curve.

Claim: both curves are the same counts, one pair (TP, FP) for every threshold, divided by other
totals; a threshold between two neighbouring scores changes no count.

Symbols: TP, FP: defective and good pictures that score a threshold or more.
Left out: areas under the curves (auroc.py, metrics/average_precision.py), charts (charts/plots.py).
"""
from collections.abc import Iterator, Sequence


def roc_points(scores: Sequence[float], labels: Sequence[int]) -> list[tuple[float, float]]:
    """[(false-positive rate, true-positive rate)], one point for every distinct score.

    labels: 0 good, 1 defective.
    """
    return [(fp / max(1, good), tp / max(1, bad))
            for tp, fp, bad, good in threshold_counts(scores, labels)]


def precision_recall_points(scores: Sequence[float],
                            labels: Sequence[int]) -> list[tuple[float, float]]:
    """[(recall, precision)], one point for every distinct score.  labels: 0 or 1."""
    return [(tp / max(1, bad), tp / (tp + fp) if tp + fp else 1.0)
            for tp, fp, bad, good in threshold_counts(scores, labels)]


def threshold_counts(scores: Sequence[float],
                     labels: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """(TP, FP, defective, good) for every threshold, from above all scores to the lowest."""
    pairs = sorted(zip(scores, labels), reverse=True)
    bad = sum(label for _, label in pairs)
    tp = fp = 0
    yield 0, 0, bad, len(pairs) - bad
    for k, (score, label) in enumerate(pairs):
        tp, fp = tp + label, fp + 1 - label
        if k + 1 == len(pairs) or pairs[k + 1][0] != score:
            yield tp, fp, bad, len(pairs) - bad


def demo() -> None:
    """Points of both curves for six pictures, two of them with the same score."""
    scores, labels = [0.9, 0.8, 0.7, 0.7, 0.3, 0.1], [1, 1, 0, 1, 0, 0]
    print("ROC:", " ".join(f"({x:.2f}, {y:.2f})" for x, y in roc_points(scores, labels)))
    print("PR: ", " ".join(f"({x:.2f}, {y:.2f})"
                           for x, y in precision_recall_points(scores, labels)))


if __name__ == "__main__":
    demo()
