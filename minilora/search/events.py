"""Temporal localisation: from a similarity curve over time to events, and metrics for them.

    smooth               moving average over time, so that a single outlier frame is not an event
    localise_events      peaks of the curve, highest first.  An event extends from its peak to both
                         sides, to where the curve falls below the middle between the peak and the
                         baseline.  It is hysteresis with two thresholds, as for Canny's edges, but
                         every peak has a threshold of its own, because the similarities of two
                         texts have different heights.  A dip shorter than `gap` is bridged.
    temporal_iou         intersection over union of two time intervals
    mean_average_precision   mean over queries; a predicted event is correct if its IoU with a true
                         event that is not matched yet reaches a threshold (ActivityNet's protocol)
    hit_at_k             share of queries with a correct event among the first k (recall at k)

Symbols: T moments.  Left out: learned event boundaries.
"""
from typing import NamedTuple

import torch
from torch import Tensor

TrueEvent = tuple[str, float, float]            # file, start, end


class Event(NamedTuple):
    """A predicted event; times in seconds."""
    file: str
    start: float                # onset
    end: float
    peak: float                 # time of the highest similarity
    score: float                # similarity at the peak


def smooth(times: Tensor, values: Tensor, width: float) -> Tensor:
    """Moving average: the mean of all values within width / 2 seconds of each moment.

    times: (T,) ascending seconds;  values: (T,), or (T, K) for K curves.  Returns the same shape.
    """
    if width <= 0 or len(values) < 3:
        return values
    total = torch.cat([torch.zeros_like(values[:1], dtype=torch.double), values.double().cumsum(0)])
    first = torch.searchsorted(times, times - width / 2 - 1e-9)
    last = torch.searchsorted(times, times + width / 2 + 1e-9, right=True)
    count = (last - first).view(-1, *[1] * (values.ndim - 1))
    return ((total[last] - total[first]) / count).to(values.dtype)


def localise_events(file: str, times: Tensor, values: Tensor, width: float = 0.0, gap: float = 0.0,
                    count: int = 10, baseline: float | None = None,
                    floor: Tensor | None = None) -> list[Event]:
    """The `count` events of one file with the highest peaks, highest first.

    times: (T,) ascending seconds;  values: (T,) similarities;  width: window of `smooth`, seconds;
    gap: seconds;  baseline: similarity where there is no event, None: the first quartile of values;
    floor: (T,), an event whose peak is below it is returned as well, but does not count.
    The highest moment that belongs to no event yet is the next peak.  The event extends to both
    sides while the curve stays above the middle between peak and baseline; a dip of at most `gap`
    seconds does not end it.  The falling flanks of an event cannot contain another event.
    """
    values = smooth(times, values, width)
    baseline = values.float().quantile(0.25).item() if baseline is None else baseline
    enough = torch.ones(len(values), dtype=torch.bool) if floor is None else values >= floor
    free, events, counted = torch.ones(len(values), dtype=torch.bool), [], 0
    while counted < count and (not events or (free & enough).any()):
        peak = int(values.masked_fill(~free, float("-inf")).argmax())
        height = values[peak].item()
        if not free[peak] or height <= baseline:
            break
        level = (height + baseline) / 2
        first, left = event_boundary(times, values, free, peak, -1, level, gap)
        last, right = event_boundary(times, values, free, peak, 1, level, gap)
        free[left:right + 1] = False
        counted += int(enough[peak])
        events.append(Event(file, times[first].item(), times[last].item(), times[peak].item(),
                            height))
    return events


def event_boundary(times: Tensor, values: Tensor, free: Tensor, peak: int, step: int, level: float,
                   gap: float) -> tuple[int, int]:
    """(last moment of the event, end of its falling flank) on one side of the peak.

    free: (T,) bool, True for moments of no event yet;  step: -1 for the left side, 1 for the right
    side;  level: the event lasts while the curve is at least this high.
    """
    available = lambda k: 0 <= k < len(values) and free[k]
    end = k = peak
    while available(k + step):
        k += step
        if values[k] >= level:
            end = k
        elif abs(times[k] - times[end]) > gap:
            break
    flank = end
    while available(flank + step) and values[flank + step] <= values[flank]:
        flank += step
    return end, flank


# ---- metrics ------------------------------------------------------------------------------------

def temporal_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals (start, end); 0 for intervals without length."""
    intersection = min(a[1], b[1]) - max(a[0], b[0])
    union = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, intersection) / union if union > 0 else 0.0


def event_average_precision(found: list[Event], true: list[TrueEvent],
                            min_iou: float = 0.5) -> float | None:
    """Average precision of one query: mean over the true events of the precision at their rank.

    found: predicted events, in any order;  min_iou: IoU from which a prediction is correct.
    Every true event can be matched once; a second prediction of it is a false positive.
    Returns a number in [0, 1], or None if there is no true event.
    """
    if not true:
        return None
    matched, correct, total = set(), 0, 0.0
    for rank, event in enumerate(sorted(found, key=lambda e: -e.score), 1):
        candidates = [(temporal_iou(event[1:3], t[1:3]), k) for k, t in enumerate(true)
                      if t[0] == event.file and k not in matched]
        best = max(candidates, default=(0.0, None))
        if best[0] >= min_iou:
            matched.add(best[1])
            correct += 1
            total += correct / rank
    return total / len(true)


def mean_average_precision(queries: list[tuple[list[Event], list[TrueEvent]]],
                           min_iou: float = 0.5) -> float:
    """Mean of `event_average_precision` over queries (found, true) that have a true event.

    Raises ValueError if no query has one.
    """
    precisions = [event_average_precision(found, true, min_iou) for found, true in queries]
    precisions = [p for p in precisions if p is not None]
    if not precisions:
        raise ValueError("mAP is undefined: found no query with a true event; give at least one")
    return sum(precisions) / len(precisions)


def hit_at_k(queries: list[tuple[list[Event], list[TrueEvent]]], k: int,
             min_iou: float = 0.5) -> float:
    """Share of queries with a correct event among the k best predictions."""
    hits = 0
    for found, true in queries:
        best = sorted(found, key=lambda e: -e.score)[:k]
        hits += any(e.file == t[0] and temporal_iou(e[1:3], t[1:3]) >= min_iou
                    for e in best for t in true)
    return hits / len(queries)


def harmonic_mean(seen: float, unseen: float) -> float:
    """Harmonic mean: high only if both are (Xian et al. 2018, generalised zero-shot learning)."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def demo() -> None:
    """A curve with three events and one outlier frame, with and without smoothing and gap."""
    times = torch.arange(0, 30, 0.5, dtype=torch.float64)
    values = 0.1 * torch.sin(3 * times)
    for start, end in ((5, 8), (9, 10), (20, 23)):
        values = values + ((times >= start) & (times <= end)) * 0.8
    values[50] = 1.0                                    # the outlier frame
    for width, gap in ((0, 0), (0, 1.5), (1, 1.5)):
        found = localise_events("belt.mp4", times, values, width, gap, 3)
        print(f"window {width} s, gap {gap} s:",
              "  ".join(f"{e.start:.1f}-{e.end:.1f}" for e in found))
    true = [("belt.mp4", 5, 10), ("belt.mp4", 20, 23)]
    for min_iou in (0.3, 0.5, 0.7):
        print(f"average precision at IoU {min_iou}: "
              f"{event_average_precision(found, true, min_iou):.2f}")


if __name__ == "__main__":
    demo()
