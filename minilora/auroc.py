"""AUROC: the probability that a defective sample scores higher than a good one.

    AUROC = P(s+ > s-) + 1/2 P(s+ = s-)                Hanley & McNeil 1982, Radiology 143, 29-36

This is the Mann-Whitney statistic U / (n m) over all pairs of a good and a defective sample. It
depends on the order of the scores only, so any real scale is welcome: nothing is squashed to
[0, 1], and +-inf are ordinary first and last places. All pairs would be O(n m); two sorts and two
searches count the same in O((n + m) log(n + m)). The count is an integer and stays one until the
last division, so the result is the correctly rounded fraction and not a sum of rounded parts.

Symbols: n good samples (label 0), m defective ones (label 1), U pairs in the right order.
Left out: the curve itself, partial areas, sample weights, more than two classes.
"""
import numpy as np
import torch


def ascending(values):
    """Sorted copy of (N,), any real dtype without NaN.

    On the CPU numpy sorts: torch's sort always carries the places along too, which nobody needs.
    """
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:  # which numpy does not know
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values


def twice_the_wins(low, high):
    """2 U: pairs with low[i] < high[j] count two, ties one. Both sorted, (n,) and (m,); int."""
    if len(low) < len(high):                            # look the shorter one up in the longer one:
        return 2 * len(low) * len(high) - twice_the_wins(high, low)     # less to search
    below = torch.searchsorted(low, high).sum()                         # strictly below
    upto = torch.searchsorted(low, high, right=True).sum()              # below or equal
    return below.item() + upto.item()                   # int64: exact up to 2^63 pairs


def checked(scores, labels):
    """Flat scores (N,) of a sortable dtype and a bool mask (N,) of the defective; or ValueError."""
    scores, labels = (x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))
                      for x in (scores, labels))        # numpy keeps a list of floats in float64
    if scores.shape != labels.shape:
        raise ValueError(f"auroc: scores and labels must have the same shape, found "
                         f"{tuple(scores.shape)} and {tuple(labels.shape)}; one label per score")
    scores, labels = scores.flatten(), labels.flatten().to(scores.device)
    if not scores.is_floating_point():
        scores = scores.long()                          # complex raises here, integers stay exact
    elif scores.dtype.itemsize < 4:
        scores = scores.float()                         # float16 and bfloat16 widen without loss
    if scores.isnan().any():
        raise ValueError(f"auroc: scores must be real numbers or +-inf, found "
                         f"{int(scores.isnan().sum())} NaN among {len(scores)}; a NaN has no rank, "
                         f"look for the step that made it")
    positive = labels == 1
    if not (positive | (labels == 0)).all():
        raise ValueError(f"auroc: labels must be 0 (good) or 1 (defective), found values from "
                         f"{labels.min().item()} to {labels.max().item()}; binarise them first")
    return scores, positive


def auroc(scores, labels):
    """Area under the ROC curve of scores against binary labels, exact, as a Python float in [0, 1].

    scores: any shape, float or integer, higher = more anomalous; +-inf allowed, any device.
    labels: same shape, bool or numbers 0 (good) and 1 (defective).
    Raises ValueError for NaN scores, other labels, differing shapes, or if a class is missing.
    """
    scores, positive = checked(scores, labels)
    pos, neg = ascending(scores[positive]), ascending(scores[~positive])    # (m,), (n,)
    if len(pos) == 0 or len(neg) == 0:
        raise ValueError(f"auroc: needs both classes, found {len(neg)} good and {len(pos)} "
                         f"defective samples; AUROC is undefined then, report it as missing")
    return twice_the_wins(neg, pos) / (2 * len(neg) * len(pos))     # integers: one rounding


def demo():
    """Order is all that counts."""
    labels = [0, 0, 0, 1, 1]
    for what, scores in (("separated, scores 20 to 60", [20, 30, 35, 50, 60]),
                         ("one pair of six swapped", [20, 30, 52, 50, 60]),
                         ("one pair tied: one half", [20, 30, 50, 50, 60]),
                         ("all scores equal: chance", [7, 7, 7, 7, 7]),
                         ("infinite scores rank too", [-float("inf"), 0, 1, 2, float("inf")])):
        print(f"{what:28} {auroc(scores, labels):.6f}")
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(1_000_000, generator=generator) < 0.1
    noise = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    print(f"{'a million, one sigma apart':28} {auroc(noise + many, many):.6f}   theory 0.760250")
    try:
        auroc([1.0, float("nan")], [0, 1])
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    demo()
