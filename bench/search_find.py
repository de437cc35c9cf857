"""Search in videos, part "find": how well events are found on drawn belts (search_belts.py).

Events are compared with three baselines: every frame is an event as long as a part is in view (a
user would have to know this length; frames closer than that to a higher one are left out), every
frame is an event as long as a frame, and random events.

Metrics: mean average precision (mAP) at several overlaps; R@1 at IoU 0.5 and 0.7, R@5, mean IoU of
the best event, F1 of the K best events (search/moment_metrics.py).  Without events: AUC, the area
under the ROC curve of single frames.
Left out: real videos; none with known events is at hand; queries for what is not there
(search_nothing.py).
"""
import statistics
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch

from bench import measure
from bench.accuracy import cell, spread
from bench.search_belts import (ALL_EVENTS, INDEX_RATE, KINDS, LINE_FAMILIES, MIXED_BELTS,
                                code_version, features_version, index_belts, picture_queries,
                                text_queries)
from minilora.checkpoint.weights import load_clip
from minilora.io.files import digest_of
from minilora.scenes.scene import UNSEEN_CLASSES
from minilora.search import events, moment_metrics
from minilora.search import query as search
from minilora.search.events import Event
from minilora.search.index import similarity_to

IN_VIEW = 2.5                   # seconds that a part of such a belt is in view
OVERLAPS = (0.3, 0.5, 0.7)
FIRST = (1, 5, 10)              # K of F1@K


# ---- baselines ----------------------------------------------------------------------------------

def frames_as_events(curves: dict, length: float, apart: float) -> list[Event]:
    """Events of `length` seconds around every frame that is the highest within `apart` seconds."""
    out = []
    for path, (times, values) in curves.items():
        taken = torch.zeros(len(times), dtype=torch.bool)
        for k in values.argsort(descending=True).tolist():
            if not taken[k]:
                taken |= (times - times[k]).abs() < apart
                moment = times[k].item()
                out.append(Event(path, moment - length / 2, moment + length / 2, moment,
                                 values[k].item()))
    return out


def random_events(curves: dict, generator: torch.Generator) -> list[Event]:
    """As many events as parts pass, of the same length, at random times with random scores."""
    out = []
    for path, (times, _) in curves.items():
        for start in ((times[-1] - IN_VIEW) * torch.rand(12, generator=generator)).tolist():
            out.append(Event(path, start, start + IN_VIEW, start,
                             torch.rand((), generator=generator).item()))
    return out


BASELINES = {
    "frames as long as a part": lambda curves, generator: frames_as_events(
        curves, IN_VIEW, IN_VIEW),
    "single frames": lambda curves, generator: frames_as_events(
        curves, 1 / INDEX_RATE, 1 / INDEX_RATE),
    "random": random_events}
METHODS = ("events", *BASELINES)


# ---- metrics ------------------------------------------------------------------------------------

def moment_figures(queries: moment_metrics.Answers) -> dict[str, float]:
    """{metric: value} of queries [(found, true)], shares from 0 to 1."""
    return {"mIoU": moment_metrics.mean_top_iou(queries),
            **{f"mAP {o}": events.mean_average_precision(queries, o) for o in OVERLAPS},
            **{f"R@1 {o}": moment_metrics.recall_at_one(queries, o) for o in OVERLAPS[1:]},
            "R@5 0.5": events.hit_at_k(queries, 5),
            **{f"F1@{k}": moment_metrics.f1_at_k(queries, k) for k in FIRST}}


def evaluate_seed(seed: int, threads: int, store: str) -> dict[str, dict]:
    """{kind: {method: {"seen" or "unseen": {metric: value}}}} of one seed."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    generator, scored = torch.Generator().manual_seed(seed), {}
    index, belt_of = index_belts(Path(store), clip.eval(), weights.sha256, seed)
    for query in [*text_queries(clip, belt_of), *picture_queries(clip, belt_of, seed)]:
        grouped, curves = search.find_events(index, similarity_to(query.asked.feature), ALL_EVENTS,
                                             files=set(query.files))
        single_frames = moment_metrics.frame_auroc(curves, query.true)
        finds = {"events": grouped, **{name: make(curves, generator)
                                       for name, make in BASELINES.items()}}
        for method, found in finds.items():
            group = scored.setdefault(query.kind, {}).setdefault(method, {}).setdefault(
                "unseen" if query.class_name in UNSEEN_CLASSES else "seen", [])
            group.append((found, query.true, single_frames))
    figures = lambda rows: {**moment_figures([row[:2] for row in rows]),
                            "AUC": statistics.mean(row[2] for row in rows)}
    return {kind: {method: {group: figures(rows) for group, rows in groups.items()}
                   for method, groups in methods.items()} for kind, methods in scored.items()}


# ---- tables -------------------------------------------------------------------------------------

RANKING = {"seen": ("mAP 0.3", "mAP 0.5", "mAP 0.7"), "unseen": ("mAP 0.5",)}
MOMENTS = {group: ("R@1 0.5", "R@1 0.7", "R@5 0.5", "mIoU", *(f"F1@{k}" for k in FIRST))
           for group in ("seen", "unseen")}


def group_table(title: str, cells: list[dict], columns: dict[str, tuple], both: str) -> tuple:
    """(title, header, rows): one row a method, mean and spread over seeds.

    cells: of each seed, {method: {group: {metric: value}}};  columns: {group: metrics};  both: a
    metric whose harmonic mean over seen and unseen products is the last column.
    """
    pairs = [(group, metric) for group, metrics in columns.items() for metric in metrics]
    header = ["", *(f"{group}: {metric}" if metric == columns[group][0] else metric
                    for group, metric in pairs), f"harmonic mean of {both}"]
    rows = [[method, *(spread([c[method][group][metric] for c in cells])
                       for group, metric in pairs),
             spread([events.harmonic_mean(*(c[method][group][both] for group in columns))
                     for c in cells])] for method in METHODS]
    return title, header, rows


def find_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head), mean and spread over the seeds."""
    store = options.out / "search"
    cells = [cell(store / f"find-{seed}.json",
                  digest_of("find", seed, load_clip()[1].sha256, features_version(),
                            code_version()), partial(
                      measure.fresh, evaluate_seed, seed, options.threads, str(store.resolve())))
             for seed in options.seeds]
    tables = []
    for kind in KINDS:
        of_kind = [c[kind] for c in cells]
        auc = ", ".join(f"{group} " + spread([c["events"][group]["AUC"] for c in of_kind])
                        for group in ("seen", "unseen"))
        tables += [group_table(f"{kind}; AUC of single frames: {auc}", of_kind, RANKING, "mAP 0.5"),
                   group_table(f"{kind}: the best events", of_kind, MOMENTS, "R@1 0.5")]
    return tables, [f"{MIXED_BELTS} belts with four products and {len(LINE_FAMILIES)} lines of "
                    f"60 s a seed, 12 parts each; index of {INDEX_RATE} frames a second",
                    "find: mAP, R@1 and R@5 (a correct event is the best, among the best five) at "
                    "the overlap (IoU) that is named; mIoU: mean overlap of the best event; F1@K: "
                    "harmonic mean of precision and recall of the K best events, IoU 0.5; AUC: "
                    "area under the ROC curve, frames inside an event against all others"]
