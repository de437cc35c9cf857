"""Search in videos, part "nothing": false alarms when nothing is there, and what a floor loses.

The floor of a search (minilora/search/floor.py) is calibrated on each index.  Here every query has
an index of its own on the same drawn belts (search_belts.py):

    present     a product by its name in all mixed belts; damage in the belt of one product
    absent      a product by its name in the mixed belts on which it does not pass; damage of
                another product in the belt of one product; nonsense and things of no belt
                (absent_queries.txt) in all mixed belts

Metrics: share of absent queries that are answered, and events of each; share of present queries
that are lost; R@1 with and without the floor.  How well any floor of this form could do follows
from the margin of a query, the highest difference between an event's score and its floor: the AUC
of margins, absent against present, and what is lost if 5 % of absent queries are answered.
Left out: queries by picture, for which there is no floor.
"""
import os
import statistics
import tempfile
from argparse import Namespace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from bench import measure
from bench.accuracy import cell, spread
from bench.search_belts import (ALL_EVENTS, FLOOR, LINE_FAMILIES, MIXED_BELTS, Asked, Query,
                                code_version, features_version, index_belts, part_of,
                                shown_classes, text_queries, text_query)
from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.io.files import digest_of
from minilora.scenes.scene import UNSEEN_CLASSES
from minilora.search import floor, moment_metrics
from minilora.search.events import Event
from minilora.search.floor import Floor, find_answer
from minilora.search.index import Index
from minilora.search.query import text_features

TEXTS = measure.REPO / "bench" / "absent_queries.txt"


def seen_or_not(class_name: str) -> str:
    """Whether the embedded model was trained on a product and its name."""
    return "unseen" if class_name in UNSEEN_CLASSES else "seen"


def absent_texts() -> dict[str, list[str]]:
    """{"nonsense", "things": texts} of absent_queries.txt."""
    groups, group = {}, ""
    for line in TEXTS.read_text("utf-8").splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line and not line.startswith("#"):
            groups.setdefault(group, []).append(line)
    return groups


remembered_features = lru_cache(None)(text_features)    # of each text, for many indexes


def floor_of(index: Index, clip: CLIP) -> Floor | None:
    """The floor of an index, computed now; the user's cache is not used."""
    with (tempfile.TemporaryDirectory() as empty,
          mock.patch.dict(os.environ, XDG_CACHE_HOME=empty),
          mock.patch.object(floor, "text_features", remembered_features)):
        return floor.calibrate_floor(index, clip)


class Outcome(NamedTuple):
    """What one query finds.  margin: the highest difference between a score and its floor."""
    everything: list[Event]
    answered: list[Event]
    margin: float


def outcome_of(index: Index, lowest: Floor | None, asked: Asked) -> Outcome:
    """The events of a query without and with a floor."""
    everything = find_answer(index, None, asked.feature, ALL_EVENTS).found
    answer = find_answer(index, lowest, asked.feature, ALL_EVENTS, opposite=asked.opposite)
    return Outcome(everything, answer.found,
                   max(event.score - (answer.floor_of(event) or 0.0) for event in everything))


class Places:
    """Indexes of some of the belts, each with its own floor; made when first used."""

    def __init__(self, whole: Index, clip: CLIP, folder: Path) -> None:
        self.whole, self.clip, self.folder = whole, clip, folder
        self.made: dict[tuple, tuple] = {}

    def search(self, files: list[str], asked: Asked) -> Outcome:
        """What a query finds in these files."""
        key = tuple(files)
        if key not in self.made:
            part = part_of(self.whole, files, self.folder / f"part-{len(self.made)}")
            self.made[key] = part, floor_of(part, self.clip)
        return outcome_of(*self.made[key], asked)


def present_figures(places: Places, queries: list[Query]) -> dict[str, dict]:
    """{"kind, seen or unseen": {"lost", "R@1", "R@1, floor", "margins"}}."""
    rows = {}
    for query in queries:
        rows.setdefault(f"{query.kind}, {seen_or_not(query.class_name)}", []).append(
            (places.search(query.files, query.asked), query.true))
    return {name: {
        "lost": 1 - moment_metrics.answered([o.answered for o, _ in found])[0],
        "R@1": moment_metrics.recall_at_one([(o.everything, true) for o, true in found]),
        "R@1, floor": moment_metrics.recall_at_one([(o.answered, true) for o, true in found]),
        "margins": [o.margin for o, _ in found]} for name, found in rows.items()}


def absent_figures(places: Places, belt_of: dict, clip: CLIP) -> dict[str, dict]:
    """{kind of absent queries: {"answered", "events", "margins"}}."""
    mixed, lines = list(belt_of)[:MIXED_BELTS], list(belt_of)[MIXED_BELTS:]
    rows = {}
    for name in shown_classes(belt_of, mixed):
        without = [path for path in mixed if name not in shown_classes(belt_of, [path])]
        rows.setdefault(f"a product of other belts, {seen_or_not(name)}", []).append(
            places.search(without, text_query(clip, [f"a {name}"])))
    damaged = {name: text_query(clip, [f"a damaged {name}"], [f"a flawless {name}"])
               for name in sorted(set(LINE_FAMILIES))}
    for path in lines:
        for name in sorted(damaged.keys() - shown_classes(belt_of, [path])):
            rows.setdefault(f"damage of another product, {seen_or_not(name)}", []).append(
                places.search([path], damaged[name]))
    for group, texts in absent_texts().items():
        rows[group] = [places.search(mixed, text_query(clip, [text])) for text in texts]
    return {name: {**dict(zip(("answered", "events"),
                              moment_metrics.answered([o.answered for o in found]))),
                   "margins": [o.margin for o in found]} for name, found in rows.items()}


def evaluate_nothing(seed: int, threads: int, store: str) -> dict[str, dict]:
    """{"present", "absent": the figures of one seed}."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    index, belt_of = index_belts(Path(store), clip.eval(), weights.sha256, seed)
    with tempfile.TemporaryDirectory(dir=store) as temporary:
        places = Places(index, clip, Path(temporary))
        return {"present": present_figures(places, text_queries(clip, belt_of)),
                "absent": absent_figures(places, belt_of, clip)}


def against(present: list[float], absent: list[float]) -> list[str]:
    """AUC of margins, and what is lost if 5 % of absent queries are answered, as per cent."""
    low, high = torch.tensor(absent), torch.tensor(present)
    labels = torch.arange(len(absent) + len(present)) >= len(absent)
    return [f"{100 * auroc(torch.cat([low, high]), labels):.1f}",
            f"{100 * moment_metrics.lost_at(high, low):.1f}"]


def nothing_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head), mean and spread over the seeds; margins of all seeds."""
    store = options.out / "search"
    cells = [cell(store / f"nothing-{seed}.json", digest_of(
        "nothing", seed, load_clip()[1].sha256, features_version(),
        code_version(*FLOOR)), partial(
            measure.fresh, evaluate_nothing, seed, options.threads, str(store.resolve())))
        for seed in options.seeds]
    margins = lambda side, name: [m for c in cells for m in c[side][name]["margins"]]
    column = lambda side, name, figure: spread([c[side][name][figure] for c in cells])
    present = [[name, str(len(margins("present", name))), *(
        column("present", name, figure) for figure in ("lost", "R@1", "R@1, floor"))]
        for name in cells[0]["present"]]
    absent = []
    for name in cells[0]["absent"]:
        there = "damaged, by name, seen" if name.startswith("damage") else "by name, seen"
        events = statistics.mean(c["absent"][name]["events"] for c in cells)
        absent.append([name, str(len(margins("absent", name))), column("absent", name, "answered"),
                       f"{events:.2f}", there,
                       *against(margins("present", there), margins("absent", name))])
    return [("present queries: lost by the floor",
             ["", "queries", "lost", "R@1 without a floor", "R@1 with the floor"], present),
            ("absent queries: answered in spite of the floor",
             ["", "queries", "answered", "events of a query", "against present queries", "AUC",
              "lost if 5 % were answered"], absent)], [
        "nothing: per cent of queries; without a floor every query is answered; AUC: how well the "
        "highest difference between score and floor tells present queries from absent ones"]
