"""From a similarity at every moment to events in time, and how well they are found.

    smooth       mean over a window, so that one odd frame is no event
    events       a span that rises above `high` and has not yet fallen below `low` (hysteresis, as
                 in Canny's edges); spans closer than `gap` are one
    overlap      intersection over union of two spans
    mAP          average precision over queries, a found event counting if it overlaps an unclaimed
                 true one by enough (ActivityNet's protocol)

Symbols: T moments.  Leaves out: learned boundaries.
"""
from collections import namedtuple

import torch

Event = namedtuple("Event", "file start end peak score")        # seconds; score of the peak


def smooth(times, values, width):
    """Mean of all values within width / 2 seconds of each moment.  times ascending, (T,)."""
    if width <= 0 or len(values) < 3:
        return values
    total = torch.nn.functional.pad(values.double().cumsum(0), (1, 0))
    first = torch.searchsorted(times, times - width / 2 - 1e-9)
    last = torch.searchsorted(times, times + width / 2 + 1e-9, right=True)
    return ((total[last] - total[first]) / (last - first)).to(values.dtype)


def spans(values, high, low):
    """[(first, last)] of spans: every value at least low, and one at least high."""
    out, first, reached = [], None, False
    for k, value in enumerate([*values.tolist(), float("-inf")]):
        if value >= low:
            first = k if first is None else first
            reached = reached or value >= high
        elif first is not None:
            if reached:
                out.append((first, k - 1))
            first, reached = None, False
    return out


def events(file, times, values, high, low, width=0.0, gap=0.0):
    """[Event] of one file, in order of time.  A single frame is an event of no length."""
    if high < low:
        raise ValueError(f"events: high {high} below low {low}; expected high >= low")
    values = smooth(times, values, width)
    merged = []
    for first, last in spans(values, high, low):
        if merged and times[first] - times[merged[-1][1]] <= gap:
            merged[-1] = merged[-1][0], last
        else:
            merged.append((first, last))
    out = []
    for first, last in merged:
        peak = first + int(values[first:last + 1].argmax())
        out.append(Event(file, times[first].item(), times[last].item(), times[peak].item(),
                         values[peak].item()))
    return out


def levels(values, high=3.0, low=1.5):
    """(high, low) as similarities, from multiples of the usual spread above the usual value.

    The usual value is the median, the usual spread 1.4826 times the median of the distances to it:
    neither moves when few frames show what is looked for.
    """
    middle = values.median()
    spread = 1.4826 * (values - middle).abs().median().clamp(min=1e-6)
    return (middle + high * spread).item(), (middle + low * spread).item()


# ---- how well -----------------------------------------------------------------------------------

def overlap(a, b):
    """Intersection over union of two spans (start, end); 0 for spans without length."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    union = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, both) / union if union > 0 else 0.0


def average_precision(found, true, least=0.5):
    """Of one query: mean over the true events of the precision at which each is found.

    found: [Event];  true: [(file, start, end)];  least: overlap that counts.  Every true event can
    be found once; a second find of it is an error.  None if there is no true event.
    """
    if not true:
        return None
    claimed, right, total = set(), 0, 0.0
    for place, event in enumerate(sorted(found, key=lambda e: -e.score), 1):
        fits = [(overlap(event[1:3], t[1:3]), k) for k, t in enumerate(true)
                if t[0] == event.file and k not in claimed]
        best = max(fits, default=(0.0, None))
        if best[0] >= least:
            claimed.add(best[1])
            right += 1
            total += right / place
    return total / len(true)


def mean_average_precision(queries, least=0.5):
    """Mean over queries [(found, true)] that have a true event."""
    values = [v for v in (average_precision(f, t, least) for f, t in queries) if v is not None]
    if not values:
        raise ValueError("mAP: no query has a true event; it is undefined then")
    return sum(values) / len(values)


def top(queries, k, least=0.5):
    """Share of queries that have, among their best k, an event that overlaps a true one."""
    hits = 0
    for found, true in queries:
        best = sorted(found, key=lambda e: -e.score)[:k]
        hits += any(e.file == t[0] and overlap(e[1:3], t[1:3]) >= least for e in best for t in true)
    return hits / len(queries)


def harmonic_mean(seen, unseen):
    """Of two accuracies: high only if both are (Xian et al. 2018, generalised zero-shot)."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def demo():
    times = torch.arange(0, 30, 0.5, dtype=torch.float64)
    values = 0.1 * torch.sin(3 * times)
    for start, end in ((5, 8), (8.5, 10), (20, 23)):
        values = values + ((times >= start) & (times <= end)) * 0.8
    values[50] = 1.0                                    # one odd frame
    high, low = levels(values)
    for width, gap in ((0, 0), (1.5, 0), (1.5, 1)):
        found = events("belt.mp4", times, values, high, low, width, gap)
        print(f"window {width} s, gap {gap} s:",
              "  ".join(f"{e.start:.1f}-{e.end:.1f}" for e in found))
    true = [("belt.mp4", 5, 10), ("belt.mp4", 20, 23)]
    for least in (0.3, 0.5, 0.7):
        print(f"average precision at overlap {least}: {average_precision(found, true, least):.2f}")


if __name__ == "__main__":
    demo()
