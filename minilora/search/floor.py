"""The floor of a search: below it the answer is "nothing found".

    query, opposite = encode_query(clip, texts, without)        search/query.py
    floor = calibrate_floor(index, clip)                        once for an index, then cached
    answer = find_answer(index, floor, query, count, opposite=opposite)

Claim: CLIP's similarities only rank.  How high they are depends on the model, on the index and on
the moment: some frames are similar to every text.  Texts that have nothing to do with the index
(search/unrelated_texts.py) show what is reached by chance: an event needs a margin above that.

An event at a moment t is answered if the query's similarity w reaches

    w >= (peak + u) / 2 + log(ODDS) / s

    peak    what unrelated texts reach at their best moment of the whole index (median)
    u       what they reach at the moment t (mean)
    s       the model's logit scale.  In zero-shot classification (Radford et al. 2021) a similarity
            higher by log(ODDS) / s makes a text ODDS times as probable.

With --without, w is the similarity to the texts alone, without what is subtracted, and a second
condition joins: it must exceed the similarity to the excluded texts by log(OPPOSITE_ODDS) / s.
Both are stated as a floor of `Event.score`, so that scores and floors are numbers of one scale.

The rule is defined for an index of any size: with a single picture, `peak` and u are the median and
the mean of the same similarities.  It was chosen on the belts of seed 1 of bench.search.

What it cannot tell: a name that the model has never learned is as similar to the frames as an
unrelated text is, so nothing is found for it, whether or not the thing is there.  A product that
looks like one that is there (a washer, a button) is answered now and then.
Queries by picture have no floor: two pictures are far more similar than a picture and a text.

Symbols: M rows of a part, T moments of a file, E embedding, N texts.
Left out: other reference texts for other topics.
"""
import contextlib
import math
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.clip import CLIP
from minilora.io.files import check_file_size, digest_of, load_tensors, save_tensors
from minilora.io.notes import note
from minilora.io.paths import cache_folder
from minilora.io.progress import stage
from minilora.io.schema import Record, TensorOf, check
from minilora.io.temporary import remove_leftovers
from minilora.search.events import Event, smooth
from minilora.search.index import Index, products_with, similarity_to
from minilora.search.query import (EVENT_GAP, QUERY_TEMPLATES, SMOOTHING_WIDTH, Curves, events_in,
                                   find_curves, find_events, text_features)
from minilora.search.unrelated_texts import UNRELATED_TEXTS

ODDS, OPPOSITE_ODDS = 5.0, 100.0        # chosen on the belts of seed 1 of bench.search
BLOCK_ROWS = 4096                       # rows that are compared with all unrelated texts at once
NOT_KEPT = ("could not be kept, so that every query computes it again; make this folder writable, "
            "or set XDG_CACHE_HOME to another")
MAX_FLOOR_BYTES, MAX_SIMILARITY = 1 << 20, 1e6          # of a calibration in the cache


class Floor(NamedTuple):
    """What `calibrate_floor` found for one index and its model; symbols as in the docstring."""
    peak: float
    unrelated: Tensor           # (E,) mean feature of the unrelated texts, not normalised
    scale: float                # s


class Answer(NamedTuple):
    """What a query finds.  floors: {file: (T,)}, the floor at each moment of `curves`, or {}."""
    found: list[Event]          # at or above the floor, best first
    below: Event | None         # the best event, if none is answered
    curves: Curves
    floors: dict[str, Tensor]

    def floor_of(self, event: Event) -> float | None:
        """The floor at the peak of an event, comparable to its score; None without a floor."""
        if event.file not in self.floors:
            return None
        at = int(torch.searchsorted(self.curves[event.file][0], event.peak))
        return self.floors[event.file][at].item()


# ---- calibration --------------------------------------------------------------------------------

def calibrate_floor(index: Index, clip: CLIP) -> Floor | None:
    """The floor of an index, from the user's cache or computed now; None for an empty index.

    clip: the model of the index.
    """
    if not index.part_names():
        return None
    path, scale = floor_path(index), clip.logit_scale.exp().item()
    if (stored := load_floor(path, clip.config.embed)) is None:
        texts = torch.stack([text_features(clip, text) for text in
                             stage("unrelated texts", UNRELATED_TEXTS, len(UNRELATED_TEXTS))])
        stored = {"peaks": highest_similarities(index, texts), "unrelated": texts.mean(0)}
        try:
            store_floor(stored, path)
        except OSError:                             # a full disk, a cache that cannot be written
            note(NOT_KEPT, path)
    return Floor(stored["peaks"].median().item(), stored["unrelated"], scale)


def highest_similarities(index: Index, texts: Tensor) -> Tensor:
    """The highest smoothed similarity of each text (N, E) to a moment of the index, (N,).

    Rows are compared in blocks, so that memory does not grow with the length of a video.
    """
    pieces, peaks = {}, torch.full((len(texts),), -math.inf)
    for entry in index.entries.values():
        for name, first, last in entry.pieces:
            pieces.setdefault(name, []).append((first, last))
    for name in stage("parts of the index", pieces, len(pieces)):
        part = index.load_part(name)
        index.check_rows(name, len(part["times"]), max(last for _, last in pieces[name]))
        blocks = [(torch.tensor([first for first, last in pieces[name] if last - first == 1],
                                dtype=torch.long), 0.0)]                # pictures: all together
        blocks += [(rows, SMOOTHING_WIDTH) for first, last in pieces[name] if last - first > 1
                   for rows in torch.arange(first, last).split(BLOCK_ROWS)]
        for rows, width in blocks:
            if len(rows):
                values = products_with(texts.T)({"features": part["features"][rows]})
                values = smooth(part["times"][rows], values, width)
                peaks = torch.maximum(peaks, values.amax(0))
    return peaks


def floor_path(index: Index) -> Path | None:
    """File of the calibration in the user's cache; its name changes with content and model.

    None for a user without a cache.  A query writes nothing beside the index.
    """
    cache = cache_folder()
    content = digest_of([entry.pieces for entry in index.entries.values()],
                        [index.part_digest(name) for name in index.part_names()],
                        index.base.sha256, index.base.activation, UNRELATED_TEXTS,
                        QUERY_TEMPLATES, SMOOTHING_WIDTH)
    return cache and cache / "search" / f"{digest_of(str(index.folder.resolve()))}-{content}.floor"


def load_floor(path: Path | None, embed: int) -> dict[str, Tensor] | None:
    """{"peaks": (N,), "unrelated": (E,)} of `store_floor`; None if it is missing or damaged."""
    schema = Record({name: TensorOf((size,), largest=MAX_SIMILARITY) for name, size in
                     (("peaks", len(UNRELATED_TEXTS)), ("unrelated", embed))})
    with contextlib.suppress(ValueError, OSError):
        if path is not None:
            check_file_size(path, MAX_FLOOR_BYTES)
            return check(load_tensors(path), schema, str(path))
    return None


def store_floor(content: dict[str, Tensor], path: Path | None) -> None:
    """Write a calibration to the cache; older ones of the same index are deleted."""
    if path is None:
        return
    save_tensors(path, content)
    remove_leftovers(path.parent)
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*.floor"):
        if old != path:
            old.unlink(missing_ok=True)


# ---- the answer ---------------------------------------------------------------------------------

def find_answer(index: Index, floor: Floor | None, query: Tensor, count: int,
                width: float = SMOOTHING_WIDTH, gap: float = EVENT_GAP,
                files: Container[str] | None = None,
                window: tuple[float, float] | None = None,
                opposite: Tensor | None = None) -> Answer:
    """As `query.find_events`, without the events below the floor.  floor None: no floor.

    query, opposite: (E,), of `encode_query`;  window: as for `find_curves`.
    """
    if floor is None:
        found, curves = find_events(index, similarity_to(query), count, width, gap, files, None,
                                    window)
        return Answer(found, None, curves, {})
    others = [floor.unrelated] if opposite is None else [floor.unrelated, opposite]
    compared = find_curves(index, products_with(torch.stack(
        [F.normalize(query, dim=-1), *others], 1)), files, window)
    curves = {path: (times, values[:, 0]) for path, (times, values) in compared.items()}
    floors = {path: floor_curve(floor, smooth(times, values[:, 1:], width), query, opposite)
              for path, (times, values) in compared.items()}
    answer = Answer(events_in(curves, count, width, gap, floors=floors), None, curves, floors)
    above = [event for event in answer.found if event.score >= answer.floor_of(event)]
    below = answer.found[0] if answer.found and not above else None
    return answer._replace(found=above[:count], below=below)


def floor_curve(floor: Floor, similar: Tensor, query: Tensor,
                opposite: Tensor | None = None) -> Tensor:
    """The floor at each moment, (T,), on the scale of cosine similarities with `query` (E,).

    similar: (T, 1 or 2), smoothed products of the moments with `floor.unrelated` and `opposite`.
    A score is a cosine (w - o) / |query|, where w is the similarity to the texts and o the product
    with `opposite`, which is subtracted.  Solved for the score, the two conditions are

        (w - o) / |query| >= (least w - o) / |query|
        (w - o) / |query| >= (o / |opposite| + log(OPPOSITE_ODDS) / s - o) / |query|
    """
    least = (floor.peak + similar[:, 0]) / 2 + math.log(ODDS) / floor.scale
    if opposite is not None:
        excluded = similar[:, 1] / opposite.norm()
        least = torch.maximum(least, excluded + math.log(OPPOSITE_ODDS) / floor.scale)
        least = least - similar[:, 1]
    return least / query.norm()


def demo() -> None:
    """Two queries on a made-up index: one is similar to some frames, the other is not."""
    import tempfile

    from minilora.checkpoint.base_model import BaseModel
    from minilora.search.index_file import Entry
    nut, violin, frame = torch.eye(3)
    with tempfile.TemporaryDirectory() as folder:
        index = Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0})
        shown = torch.zeros(20, 1)
        shown[6:9] = 0.4
        rows = shown * nut + 0.2 * violin + (0.96 - shown ** 2).sqrt() * frame
        save_tensors(index.part_path("frames-0"), {
            "features": rows.half(), "times": torch.arange(20, dtype=torch.float64)})
        index.entries["belt.mp4"] = Entry("belt.mp4", 1, 1, [["frames-0", 0, 20]])
        floor = Floor(highest_similarities(index, violin[None]).item(), violin, 100.0)
        for name, query in (("a nut", nut), ("a violin", violin)):
            answer = find_answer(index, floor, query, 1)
            event = (answer.found or [answer.below])[0]
            print(f"{name}: {'found' if answer.found else 'nothing found'} (best {event.score:.2f} "
                  f"at {event.peak:.0f} s, floor {answer.floor_of(event):.2f})")


if __name__ == "__main__":
    demo()
