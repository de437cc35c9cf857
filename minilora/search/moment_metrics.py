"""Metrics of moment retrieval beside mAP: how good the best event of a query is, and how many of
the first K are right.

    recall_at_one     R@1 at an IoU: share of queries whose best event overlaps a true one that far
    mean_top_iou      mean IoU of the best event with a true one ("mIoU"), 0 in the wrong file
    f1_at_k           harmonic mean of precision and recall of the K best events, mean over queries
    frame_auroc       area under the ROC curve of single frames: how well the similarity tells
                      frames inside a true event from the others; it needs no events
    answered          share of queries that find anything at all, and the events of each

Claim: mAP and R@1 are undefined where nothing is there.  There the first event is wrong, however
good its rank is, so a search that may answer "nothing found" is measured by what it answers for
queries without a true event (false alarms) and by what it then loses for the others (misses).

Sources: Gao et al. 2017 "TALL" (R@1 at an IoU); Yuan et al. 2019 (mean IoU).
Symbols: T moments of a file.  Left out: mAP (search/events.py).
"""
import torch
from torch import Tensor

from minilora.auroc import auroc
from minilora.search.events import Event, TrueEvent, harmonic_mean, hit_at_k, temporal_iou

Answers = list[tuple[list[Event], list[TrueEvent]]]     # of each query: found events, true events


def best_first(found: list[Event], count: int) -> list[Event]:
    """The `count` events with the highest scores, best first."""
    return sorted(found, key=lambda event: -event.score)[:count]


def recall_at_one(queries: Answers, min_iou: float = 0.5) -> float:
    """Share of queries whose best event has an IoU of at least `min_iou` with a true event.

    A query without an answer counts as wrong.
    """
    return hit_at_k(queries, 1, min_iou)


def mean_top_iou(queries: Answers) -> float:
    """Mean over queries of the highest IoU between the best event and a true event of its file.

    0 for a query without an answer.
    """
    return sum(max((temporal_iou(event[1:3], t[1:3]) for event in best_first(found, 1)
                    for t in true if t[0] == event.file), default=0.0)
               for found, true in queries) / len(queries)


def precision_and_recall(found: list[Event], true: list[TrueEvent], k: int,
                         min_iou: float = 0.5) -> tuple[float, float]:
    """Precision and recall of the k best events; fewer than k if fewer were found.

    An event is correct if its IoU with a true event reaches `min_iou`; every true event can be
    matched once.  (0, 0) without an event or without a true event.
    """
    best, free = best_first(found, k), set(range(len(true)))
    for event in best:
        overlap, match = max(((temporal_iou(event[1:3], true[j][1:3]), j) for j in free
                              if true[j][0] == event.file), default=(0.0, -1))
        if overlap >= min_iou:
            free.remove(match)
    correct = len(true) - len(free)
    return (correct / len(best), correct / len(true)) if best and true else (0.0, 0.0)


def f1_at_k(queries: Answers, k: int, min_iou: float = 0.5) -> float:
    """F1@k: mean over queries of the harmonic mean of precision and recall of the k best events."""
    return sum(harmonic_mean(*precision_and_recall(found, true, k, min_iou))
               for found, true in queries) / len(queries)


def frame_auroc(curves: dict[str, tuple[Tensor, Tensor]], true: list[TrueEvent]) -> float:
    """AUROC of single frames, those inside a true event against all others.

    curves: {file: (times (T,), similarities (T,))}.  A frame is inside from the start of an event
    until before its end.
    Raises ValueError if no frame, or every frame, is inside.
    """
    inside = []
    for path, (times, _) in curves.items():
        within = torch.zeros(len(times), dtype=torch.bool)
        for file, start, end in true:
            if file == path:
                within |= (times >= start) & (times < end)
        inside.append(within)
    return auroc(torch.cat([values for _, values in curves.values()]), torch.cat(inside))


def answered(found_by_query: list[list[Event]]) -> tuple[float, float]:
    """(share of queries with at least one event, mean number of events of a query).

    For queries whose object is absent both are errors, and should be 0; for the others, one minus
    the share is what a floor loses.
    """
    numbers = [len(found) for found in found_by_query]
    return sum(n > 0 for n in numbers) / len(numbers), sum(numbers) / len(numbers)


def lost_at(present: Tensor, absent: Tensor, share: float = 0.05) -> float:
    """Share of present queries that a threshold loses if it answers at most `share` of absent ones.

    present, absent: (N,), (M,) highest score of each query, or its distance from a floor.
    A query is answered above the threshold, so a score equal to it is lost.
    """
    threshold = absent.sort(descending=True).values[int(share * len(absent))]
    return (present <= threshold).float().mean().item()


def demo() -> None:
    """Two queries that are there and one that is not, without and with a floor."""
    queries = [([Event("a.mp4", 1, 5, 3, 0.30), Event("b.mp4", 0, 4, 2, 0.26)],
                [("a.mp4", 2, 6), ("b.mp4", 0, 4)]),
               ([Event("b.mp4", 0, 9, 4, 0.22)], [("a.mp4", 7, 9)])]
    absent = [[Event("a.mp4", 2, 6, 3, 0.20)]]
    for floor in (0.0, 0.21, 0.25):
        kept = lambda found: [event for event in found if event.score >= floor]
        shown = [(kept(found), true) for found, true in queries]
        print(f"floor {floor:.2f}: R@1 at IoU 0.5 {recall_at_one(shown):.2f}, top-1 IoU "
              f"{mean_top_iou(shown):.2f}, F1@2 {f1_at_k(shown, 2):.2f}, absent and answered "
              f"{answered([kept(found) for found in absent])[0]:.0%}, present and lost "
              f"{1 - answered([found for found, _ in shown])[0]:.0%}")


if __name__ == "__main__":
    demo()
