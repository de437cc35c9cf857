"""From a similarity at every moment to events in time, and how well they are found.

    smooth       mean over a window, so that one odd frame is no event
    events       hills of the curve, highest first: each begins at its peak and ends where the curve
                 has fallen half-way to the floor (two thresholds, as in Canny's edges, but of each
                 hill its own, since similarities of two texts have different heights); a dip that
                 is shorter than `gap` does not end it
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


def events(file, times, values, width=0.0, gap=0.0, count=10, floor=None):
    """The `count` highest hills of one file's curve as [Event], highest first.

    times: (T,) ascending seconds;  values: (T,) similarities.  From the highest moment that is
    still free, an event goes both ways while the curve stays above the middle between peak and
    floor; where it dips below for at most `gap` seconds, it goes on.  Its flanks belong to it, so
    that no second event is found on them.  floor: what the curve is where nothing is to be seen;
    None: the value that a quarter of the moments stay below.
    """
    values = smooth(times, values, width)
    floor = values.float().quantile(0.25).item() if floor is None else floor
    free, found = torch.ones(len(values), dtype=torch.bool), []
    while len(found) < count:
        peak = int(values.masked_fill(~free, float("-inf")).argmax())
        height = values[peak].item()
        if not free[peak] or height <= floor:
            break
        (first, left), (last, right) = (reach(times, values, free, peak, step,
                                              (height + floor) / 2, gap) for step in (-1, 1))
        free[left:right + 1] = False
        found.append(Event(file, times[first].item(), times[last].item(), times[peak].item(),
                           height))
    return found


def reach(times, values, free, peak, step, level, gap):
    """(end of the event, foot of its flank) to one side: step -1 or 1."""
    inside = lambda k: 0 <= k < len(values) and free[k]
    end = k = peak
    while inside(k + step):
        k += step
        if values[k] >= level:
            end = k
        elif abs(times[k] - times[end]) > gap:
            break
    foot = end
    while inside(foot + step) and values[foot + step] <= values[foot]:
        foot += step
    return end, foot


# ---- how well -----------------------------------------------------------------------------------

def overlap(a, b):
    """Intersection over union of two spans (start, end); 0 for spans without length."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    union = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, both) / union if union > 0 else 0.0


def event_average_precision(found, true, least=0.5):
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
    values = [v for v in (event_average_precision(f, t, least) for f, t in queries) if v is not None]
    if not values:
        raise ValueError("mAP: no query has a true event; it is undefined then")
    return sum(values) / len(values)


def hit_at_k(queries, k, least=0.5):
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
    for start, end in ((5, 8), (9, 10), (20, 23)):
        values = values + ((times >= start) & (times <= end)) * 0.8
    values[50] = 1.0                                    # one odd frame
    for width, gap in ((0, 0), (0, 1.5), (1, 1.5)):
        found = events("belt.mp4", times, values, width, gap, 3)
        print(f"window {width} s, gap {gap} s:",
              "  ".join(f"{e.start:.1f}-{e.end:.1f}" for e in found))
    true = [("belt.mp4", 5, 10), ("belt.mp4", 20, 23)]
    for least in (0.3, 0.5, 0.7):
        print(f"average precision at overlap {least}: {event_average_precision(found, true, least):.2f}")


if __name__ == "__main__":
    demo()
