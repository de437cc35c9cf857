"""AUROC: the probability that a defective sample has a higher score than a good one.

    AUROC = P(s+ > s-) + 1/2 P(s+ = s-)        Hanley & McNeil 1982, "The meaning and use of the
                                               area under a ROC curve", Radiology 143, 29-36
    Reference code: roc_auc_score of https://github.com/scikit-learn/scikit-learn

Claim: this is the Mann-Whitney statistic U / (n m) over all pairs of a good and a defective sample.
It depends only on the order of the scores, so scores may have any real scale, and +-inf are simply
the first and the last place. Comparing all pairs costs O(n m); sorting and searching gives the same
count in O((n + m) log(n + m)). The count stays an integer until the final division, so the result
is the correctly rounded fraction, not a sum of rounded parts.

Symbols: n good samples (label 0), m defective ones (label 1), U pairs in the right order.
Left out: the curve itself, partial areas, sample weights, more than two classes.
"""
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from minilora.io.demos import run_demo


def ascending(values: Tensor) -> Tensor:
    """Sorted copy of (N,), any real dtype without NaN.

    On the CPU numpy sorts, because torch's sort also computes the permutation, which is not needed.
    """
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:  # numpy has no bfloat16
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values


def twice_mann_whitney_u(low: Tensor, high: Tensor) -> int:
    """2 U: two per pair with low[i] < high[j], one per tie.  Both sorted, (n,) and (m,)."""
    if len(low) < len(high):                    # fewer searches: look up the shorter in the longer
        return 2 * len(low) * len(high) - twice_mann_whitney_u(high, low)
    below = torch.searchsorted(low, high).sum()                         # strictly below
    upto = torch.searchsorted(low, high, right=True).sum()              # below or equal
    return below.item() + upto.item()           # int64: exact up to 2^63 pairs


def real_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Real numbers as a tensor; a numpy array may have any byte order and strides."""
    is_tensor = isinstance(values, Tensor)
    values = values.detach() if is_tensor else np.asarray(values)   # list of floats -> float64
    dtype = values.dtype
    is_real = not dtype.is_complex if is_tensor else dtype.kind in "biuf" and dtype.itemsize <= 8
    if not is_real:
        raise ValueError(f"auroc: scores and labels must be real numbers of at most 64 bits, found "
                         f"{dtype}; convert them first")
    if is_tensor:
        return values
    # A copy, because torch takes native, contiguous, writable memory only
    return torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C"))


def checked_scores(scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    """Flat scores (N,) of a sortable dtype, mask (N,) of defective samples; or ValueError."""
    scores, labels = real_tensor(scores), real_tensor(labels)
    if scores.shape != labels.shape:
        raise ValueError(f"auroc: scores and labels must have the same shape, found "
                         f"{tuple(scores.shape)} and {tuple(labels.shape)}; one label per score")
    scores, labels = scores.flatten(), labels.flatten().to(scores.device)
    if not scores.is_floating_point():
        unsigned = scores.dtype == torch.uint64         # shifted by 2^63 it fits, in the same order
        scores = scores.view(torch.int64) ^ -2**63 if unsigned else scores.long()
    elif scores.dtype.itemsize < 4:
        scores = scores.float()                         # exact for float16 and bfloat16
    if scores.isnan().any():
        raise ValueError(f"auroc: scores must be real numbers or +-inf, found "
                         f"{int(scores.isnan().sum())} NaN among {len(scores)}; a NaN has no rank, "
                         f"look for the step that made it")
    labels = labels if labels.is_floating_point() else labels.long()
    positive = labels == 1
    if not (positive | (labels == 0)).all():
        raise ValueError(f"auroc: labels must be 0 (good) or 1 (defective), found values from "
                         f"{labels.min().item()} to {labels.max().item()}; binarise them first")
    return scores, positive


def auroc(scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """Area under the ROC curve of scores and binary labels, exact, in [0, 1].

    scores: any shape, float or integer, higher = more anomalous; +-inf allowed, any device.
    labels: same shape, bool or numbers 0 (good) and 1 (defective).
    Raises ValueError for NaN scores, other labels, different shapes, or if a class is missing.
    """
    scores, positive = checked_scores(scores, labels)
    pos, neg = ascending(scores[positive]), ascending(scores[~positive])    # (m,), (n,)
    if len(pos) == 0 or len(neg) == 0:
        raise ValueError(f"auroc: needs both classes, found {len(neg)} good and {len(pos)} "
                         f"defective samples; AUROC is undefined then, report it as missing")
    return twice_mann_whitney_u(neg, pos) / (2 * len(neg) * len(pos))   # integers: one rounding


def demo() -> None:
    """AUROC depends only on the order of the scores."""
    labels = [0, 0, 0, 1, 1]
    for name, scores in (("separated, scores 20 to 60", [20, 30, 35, 50, 60]),
                         ("one pair of six swapped", [20, 30, 52, 50, 60]),
                         ("one pair tied: one half", [20, 30, 50, 50, 60]),
                         ("all scores equal: chance", [7, 7, 7, 7, 7]),
                         ("infinite scores rank too", [-float("inf"), 0, 1, 2, float("inf")])):
        print(f"{name:28} {auroc(scores, labels):.6f}")
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(1_000_000, generator=generator) < 0.1
    noise = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    print(f"{'a million, one sigma apart':28} {auroc(noise + many, many):.6f}   theory 0.760250")
    try:
        auroc([1.0, float("nan")], [0, 1])
    except ValueError as error:
        print(error)


# Exercise 1: Replace the scores in demo() by their cubes, their negatives, or by round(score, -1).
#             Which of the three can change the AUROC, and how?
# Exercise 2: Give every good sample ten times. Does the AUROC change? Does the average precision
#             (metrics/average_precision.py)?
if __name__ == "__main__":
    run_demo("auroc", demo)
