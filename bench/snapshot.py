"""Allocated bytes over time, from the record that torch's CUDA allocator keeps of itself.

    recorded             runs some work and returns the allocator's record of it
    allocated_over_time  the record as a curve, which `charts.line_plot` can draw
    thinned              the same curve with fewer points

The record has a list of events for each GPU: "alloc", "free_completed" and others.  The curve is
their running sum.  Their time is that of the program, which runs ahead of the GPU.
Left out: which line of code allocated what (torch.cuda.memory._dump_snapshot and
pytorch.org/memory_viz).
"""
from collections.abc import Callable

import torch

CHANGE = {"alloc": 1, "free_completed": -1}     # other events do not change what is in use
MOST_EVENTS, POINTS = 1_000_000, 300            # events kept; points of a curve


def recorded(work: Callable[[], object], device: str) -> dict:
    """The allocator's record of work(): {"segments", "device_traces"}."""
    memory = torch.cuda.memory
    memory._record_memory_history(context=None, stacks="python", max_entries=MOST_EVENTS)
    try:
        work()
        torch.cuda.synchronize(device)
        return memory._snapshot()
    finally:
        memory._record_memory_history(enabled=None)     # also forgets the events


def allocated_over_time(record: dict, number: int = 0) -> list[tuple[float, int]]:
    """[(milliseconds, bytes above those at the start)] after each event of GPU `number`."""
    curve, level, begun = [], 0, None
    for event in record["device_traces"][number]:
        if event["action"] in CHANGE:
            begun = event["time_us"] if begun is None else begun
            level += CHANGE[event["action"]] * event["size"]
            curve.append(((event["time_us"] - begun) / 1000, level))
    return curve


def thinned(curve: list[tuple[float, int]], points: int = POINTS) -> list[tuple[float, int]]:
    """At most `points` points: the highest one in each of as many equal stretches of time."""
    highest, end = {}, (curve[-1][0] if curve else 0) or 1
    for time, value in curve:
        stretch = min(points - 1, int(points * time / end))
        if value >= highest.get(stretch, (0, -1))[1]:
            highest[stretch] = time, value
    return [highest[stretch] for stretch in sorted(highest)]
