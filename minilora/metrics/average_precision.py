"""Average precision and the best F1: what AUROC hides when defects are rare.

    AP  = sum over thresholds t of (R_t - R_prev) P_t            Davis & Goadrich 2006, ICML
    F1  = 2 P R / (P + R) = 2 TP / (TP + FP + m)                 its maximum over all thresholds

Recall changes only where the threshold passes a defective sample. So AP is the mean, over the
defective samples, of the precision at their own scores, and the best F1 is reached at one of them.
Two sorts and two searches are enough, ties included.

Symbols: n good and m defective samples; TP, FP: defective and good samples that score t or more;
P = TP / (TP + FP) precision, R = TP / m recall.
Left out: the curve itself, interpolated precision (it is too optimistic), the threshold of the best
F1 (it cannot be chosen without labels).
"""
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from minilora.auroc import ascending, checked_scores


def precision_at_defects(scores: Tensor | ArrayLike,
                         labels: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    """(TP, FP) at the score of every defective sample, int64 (m,) each."""
    scores, positive = checked_scores(scores, labels)
    if not positive.any():
        raise ValueError(f"precision: needs a defective sample, found none among {len(scores)}; "
                         "precision is undefined then, report it as missing")
    pos, neg = ascending(scores[positive]), ascending(scores[~positive])
    return len(pos) - torch.searchsorted(pos, pos), len(neg) - torch.searchsorted(neg, pos)


def average_precision(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Average precision in (0, 1]; scores in random order give about m / (n + m).

    scores: any shape, higher = more anomalous, +-inf allowed;  labels: same shape, 0 or 1.
    Raises ValueError for NaN, other labels, differing shapes, or no defective sample.
    """
    tp, fp = precision_at_defects(scores, labels)
    return (tp / (tp + fp).double()).mean().item()


def f1_max(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """The highest F1 over all thresholds, in (0, 1].  Arguments and errors as in average_precision.

    It is an upper bound: without labels nobody can choose the best threshold.
    """
    tp, fp = precision_at_defects(scores, labels)
    return (2 * tp / (tp + fp + len(tp)).double()).max().item()


def demo() -> None:
    """AUROC, AP and best F1 of the same distributions, for rarer and rarer defects."""
    from minilora.auroc import auroc
    generator = torch.Generator().manual_seed(0)
    print("means one standard deviation apart; precision falls with rarer defects, AUROC does not:")
    for share in (0.5, 0.1, 0.01):
        labels = torch.rand(100_000, generator=generator) < share
        scores = torch.randn(100_000, generator=generator) + labels
        print(f"{share:4.0%} defective: AUROC {auroc(scores, labels):.3f}, "
              f"AP {average_precision(scores, labels):.3f}, F1-max {f1_max(scores, labels):.3f}")


if __name__ == "__main__":
    demo()
