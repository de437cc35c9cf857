"""Answer a query: from a text or an example picture to the events of an index that match it best.

Claim: CLIP puts features of frames and of texts into one space (Radford et al. 2021).  The
similarity between a text and the frames of a video therefore has a peak where the video shows what
the text describes; search/events.py turns peaks into events.  Scores only rank the content of an
index.  Whether the object occurs in it at all is decided by search/floor.py.

"A without B" subtracts half of the similarity to B from the similarity to A, because CLIP itself
does not understand "without".  A text that ends in ":NUMBER" has this weight, others have 1.

Symbols: E embedding, T moments of a file, K values of each.
Left out: the command (search/run.py), approximate search (search/faiss_index.py).
"""
import re
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.bpe import CONTEXT, default_tokenizer
from minilora.clip import CLIP
from minilora.data.decoding import read_image
from minilora.io.cli import shell_command
from minilora.io.regular_file import open_regular
from minilora.io.text import shown
from minilora.search.events import Event, localise_events
from minilora.search.index import Index, contains_text, similarity_to
from minilora.search.index_file import Entry
from minilora.search.indexing import FrameEncoder

QUERY_TEMPLATES = ("{}.", "a photo of {}.", "a close-up photo of {}.")
SEPARATOR = " without "                 # in a query: "a gear without a cable"
NEGATIVE_WEIGHT = 0.5                   # of the texts after "without", times their own weight
WEIGHTED = re.compile(r"(.*):([+-]?(?:\d+\.?\d*|\.\d+))", re.DOTALL)
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0   # beyond, rounding errors decide
MIN_LENGTH = 1e-3                       # of a query after the subtraction
SMOOTHING_WIDTH, EVENT_GAP = 1.0, 0.5   # seconds, for `localise_events`; chosen with bench.search

Curves = dict[str, tuple[Tensor, Tensor]]               # {file: (times (T,), similarities (T,))}
Weighted = list[tuple[str, float]]                      # texts and their weights


def text_and_weight(text: str) -> tuple[str, float]:
    """("a gear", 0.5) from "a gear:0.5"; without ":NUMBER" at the end the weight is 1.

    A text that itself ends like that needs a weight: "a ratio of 4:3:1".
    Raises ValueError for a weight outside MIN_WEIGHT to MAX_WEIGHT.
    """
    found = WEIGHTED.fullmatch(text.strip())
    if not found:
        return text, 1.0
    weight = float(found[2])
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise ValueError(f"'{shown(text, 60)}': expected a weight from {MIN_WEIGHT:g} to "
                         f"{MAX_WEIGHT:g} after the colon, found {shown(found[2], 30)}; what must "
                         "not be visible is given with --without")
    return found[1], weight


def wanted_and_unwanted(texts: Iterable[str], without: Iterable[str]) -> tuple[Weighted, Weighted]:
    """The texts to find and those to avoid, with weights.  "a without b" is one of each."""
    wanted, unwanted = [], list(without)
    for text in texts:
        first, *others = text.split(SEPARATOR)
        wanted.append(first)
        unwanted += others
    return [*map(text_and_weight, wanted)], [*map(text_and_weight, unwanted)]


def check_query(texts: Iterable[str] = (), without: Iterable[str] = (),
                like: Iterable[str | Path] = (), reads: str | None = None) -> None:
    """Raise ValueError or OSError, before any work, for a query that cannot be answered.

    Such are a text that is empty or has more tokens than the text tower reads, a weight that is
    not positive, and a picture that is missing.  reads: text in the pictures; with it nothing else
    may be searched for.
    """
    texts, without, like = list(texts), list(without), list(like)
    if reads is not None:
        contains_text(reads)
        if texts or without or like:
            raise ValueError("--reads finds text in the pictures and takes no other query; give "
                             "either --reads or texts and --like")
        return
    if not texts and not like:
        raise ValueError('nothing to look for; give a text, for example "a damaged gear", or '
                         "--like PICTURE")
    for text, _ in sum(wanted_and_unwanted(texts, without), []):
        if not text.strip():
            raise ValueError('an empty text finds nothing; give a text, for example "a damaged '
                             'gear"')
        tokens = max(len(default_tokenizer().encode(t.format(text))) for t in QUERY_TEMPLATES) + 2
        if tokens > CONTEXT:
            raise ValueError(f"'{shown(text, 60)}' has {tokens} tokens with 'a close-up photo of', "
                             f"the model reads at most {CONTEXT}; give a shorter text")
    for path in like:
        open_regular(path).close()


def text_features(clip: CLIP, text: str) -> Tensor:
    """Feature of a text, (E,) of length one: the mean over QUERY_TEMPLATES."""
    ids = default_tokenizer().tokenize([t.format(text) for t in QUERY_TEMPLATES])
    with torch.no_grad():
        features = F.normalize(clip.encode_text(ids.to(clip.logit_scale.device)), dim=-1)
    return F.normalize(features.mean(0), dim=-1).float().cpu()


def query_features(clip: CLIP, texts: Iterable[str] = (), without: Iterable[str] = (),
                   like: Iterable[str | Path] = (), bits: int = 0) -> Tensor:
    """The query (E,): mean feature of texts and pictures, minus the texts after "without".

    like: paths of pictures, each of weight 1;  bits: as in `read_image`.
    Raises ValueError as `check_query` does.
    """
    return encode_query(clip, texts, without, like, bits)[0]


def weighted_sum(clip: CLIP, texts: Weighted) -> Tensor:
    """Sum of the features of texts times their weights, (E,)."""
    return torch.stack([weight * text_features(clip, text) for text, weight in texts]).sum(0)


def encode_query(clip: CLIP, texts: Iterable[str] = (), without: Iterable[str] = (),
                 like: Iterable[str | Path] = (), bits: int = 0) -> tuple[Tensor, Tensor | None]:
    """(query of `query_features`, what was subtracted from a vector of length one or None).

    Raises ValueError as `check_query` does, and if nothing remains after the subtraction.
    """
    texts, without, like = list(texts), list(without), list(like)
    check_query(texts, without, like)
    wanted, unwanted = wanted_and_unwanted(texts, without)
    positive = [weight * text_features(clip, text) for text, weight in wanted]
    if like:
        positive += FrameEncoder(clip).encode([read_image(path, bits) for path in like]).float()
    query = F.normalize(torch.stack(positive).mean(0), dim=-1)
    if not unwanted:
        return query, None
    opposite = NEGATIVE_WEIGHT * weighted_sum(clip, unwanted)
    if (query - opposite).norm() < MIN_LENGTH:
        raise ValueError("the texts after --without cancel what is searched for: expected other "
                         "texts, found the same; give others, or smaller weights")
    return query - opposite, opposite


def find_curves(index: Index, score_part: Callable[[dict], Tensor],
                files: Container[str] | None = None,
                window: tuple[float, float] | None = None) -> Curves:
    """{file: (times (T,), values (T,) or (T, K))} of an index.  score_part, files: as for
    `Index.curves`.

    window: only moments from, to (seconds).  It has no meaning for a file with a single frame, such
    as a picture, so these are left out then.
    Raises ValueError if the index holds no frame.
    """
    curves = {path: (times, values) for path, times, values in index.curves(score_part, files)}
    if not curves:
        raise ValueError(f"{shown(index.folder)} holds no frame; add files with "
                         + shell_command("search", "index", "PATHS", "--out", index.folder))
    if window is None:
        return curves
    inside = {path: (times >= window[0]) & (times <= window[1])
              for path, (times, _) in curves.items() if len(times) > 1}
    return {path: (curves[path][0][keep], curves[path][1][keep])
            for path, keep in inside.items() if keep.any()}


def events_in(curves: Curves, count: int, width: float, gap: float,
              baseline: float | None = None,
              floors: Mapping[str, Tensor] = MappingProxyType({})) -> list[Event]:
    """The events of all files, best first, at most `count` of each; options of `localise_events`.

    floors: {file: (T,)}; events below them are returned as well, but do not count.

    A file whose curve has no peak gives one event without length, at its best frame.
    """
    events = []
    for path, (times, values) in curves.items():
        best = int(values.argmax())
        moment = times[best].item()
        best_frame = Event(path, moment, moment, moment, values[best].item())
        events += localise_events(path, times, values, width, gap, count, baseline,
                                  floors.get(path)) or [best_frame]
    return sorted(events, key=lambda event: -event.score)


def find_events(index: Index, score_part: Callable[[dict], Tensor], count: int,
                width: float = SMOOTHING_WIDTH, gap: float = EVENT_GAP,
                files: Container[str] | None = None, baseline: float | None = None,
                window: tuple[float, float] | None = None) -> tuple[list[Event], Curves]:
    """The best `count` events, best first, and the curves of all compared files.

    score_part, files, window: as for `find_curves`;  width, gap, baseline: as for `events_in`.
    """
    curves = find_curves(index, score_part, files, window)
    return events_in(curves, count, width, gap, baseline)[:count], curves


def find_text(index: Index, text: str, count: int, gap: float = EVENT_GAP,
              window: tuple[float, float] | None = None) -> tuple[list[Event], Curves]:
    """As `find_events`, for frames that contain a text.  A file without it gives no event.

    Raises ValueError if the index was made without OCR.
    """
    if not index.ocr:
        raise ValueError(f"{shown(index.folder)} was made without --ocr; make a new index with it")
    events, curves = find_events(index, contains_text(text), count, 0.0, gap, None, 0.0, window)
    return [event for event in events if event.score > 0], curves


def demo() -> None:
    """Rank two videos of made-up features: a part that matches the query enters and leaves."""
    import tempfile

    from minilora.checkpoint.base_model import BaseModel
    from minilora.io.files import save_tensors
    query, other = torch.eye(2)
    with tempfile.TemporaryDirectory() as folder:
        index = Index(folder, BaseModel("made up", "0" * 64), {"rate": 1.0, "change": 0.0})
        for name, similarity in (("one", 0.3), ("two", 0.4)):
            weight = torch.full((20,), 0.2) + 0.01 * torch.sin(5 * torch.arange(20.0))
            weight[6:9] += similarity
            features = weight[:, None] * query + (1 - weight[:, None] ** 2).sqrt() * other
            save_tensors(index.part_path(f"frames-{name}"), {
                "features": features.half(), "times": torch.arange(20, dtype=torch.float64)})
            index.entries[f"{name}.mp4"] = Entry(f"{name}.mp4", 1, 1, [[f"frames-{name}", 0, 20]])
        events, _ = find_events(index, similarity_to(query), 2)
        for event in events:
            print(f"{event.file}: {event.start:.0f} to {event.end:.0f} s, score {event.score:.2f}")


if __name__ == "__main__":
    demo()
