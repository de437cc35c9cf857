"""Another threshold than the fitted one, and what each choice would do.

Claim: a lower threshold finds more defects and causes more false alarms.  Only the user knows what
each of them costs.  So a table shows for each threshold how many of the good pictures would be NG
(leave-one-out), and how many of the pictures that were scored.

Symbols: K shots.
Left out: the rule from a false-positive rate to a threshold (anomaly_map.py), how many defects are
missed, which nobody knows without labels.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from minilora import anomaly_map

RATES = (0.01, 0.05, 0.1, 0.2)          # false-positive rates in the table


class Choice(NamedTuple):
    """A threshold and what it would do."""
    words: str
    threshold: float
    good_ng: int                        # of the K good pictures
    scored_ng: int                      # of the pictures that were scored
    used: bool                          # whether this threshold makes the decisions


def threshold_at(detector: Any, rate: float) -> float:
    """The threshold of a fitted `Detector` for a false-positive rate, by the rule of the fit.

    Raises ValueError for a detector that was fitted without shots.
    """
    scores = [*detector.shot_scores, *detector.rotated_scores]
    if not scores:
        raise ValueError("the run keeps no scores of good pictures, because it was fitted without "
                         "shots; give --threshold, or fit with --shots 4 or more")
    return anomaly_map.threshold(torch.tensor(scores), rate)


def override_threshold(detector: Any, threshold: float | None, rate: float | None) -> None:
    """Sets the threshold of a `Detector` to a given one, or to that of a given rate."""
    if threshold is not None:
        detector.threshold = threshold
    elif rate is not None:
        detector.threshold = threshold_at(detector, rate)


def threshold_choices(detector: Any, scores: Sequence[float],
                      rate: float | None = None) -> list[Choice]:
    """What thresholds would do, the highest first: those of RATES, the fitted and the used one.

    scores: of the pictures that were scored;  rate: of the threshold in use, if it was given.
    """
    fitted = detector.config.false_positive_rate
    found = {}
    if detector.shot_scores:
        for each in {*RATES, fitted, *([] if rate is None else [rate])}:
            words = f"{100 * each:g} %, fitted" if each == fitted else f"{100 * each:g} %"
            found[threshold_at(detector, each)] = words + (", given" if each == rate else "")
    own = detector.threshold
    near = min(found, key=lambda value: abs(value - own), default=None)
    if near is not None and abs(near - own) <= 1e-6 * max(1.0, abs(own)):
        found = {own if value == near else value: words for value, words in found.items()}
    else:
        found[own] = "given"
    return [Choice(words, value, sum(s > value for s in detector.shot_scores),
                   sum(s > value for s in scores), value == own)
            for value, words in sorted(found.items(), reverse=True)]


def demo() -> None:
    """Ten good pictures, and five of which two are defective: what four rates would do."""
    from types import SimpleNamespace

    from minilora.config import DetectorConfig
    good = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    detector = SimpleNamespace(shot_scores=good[:10], rotated_scores=good[10:],
                               config=DetectorConfig(), threshold=0.0)
    override_threshold(detector, None, 0.05)
    for choice in threshold_choices(detector, [0.1, -0.3, 1.2, 1.9, 6.0]):
        print(f"{choice.words:12s} threshold {choice.threshold:.3f}: {choice.good_ng} of 10 good, "
              f"{choice.scored_ng} of 5 scored NG{'  <- used' if choice.used else ''}")


if __name__ == "__main__":
    demo()
