"""Search in videos, part "query": an index of ten thousand to two million frames, with and without
faiss.

The features are drawn, not encoded from pictures; files have an hour of frames.  Two kinds:

    clustered    scenes of 60 similar frames (mean cosine 0.8), as in a video
    random       every frame on its own: no cluster helps the inverted file

and two kinds of query, each made from one frame of the index and noise:

    picture      cosine 0.9 with its frame, like another picture of the same thing
    text         cosine 0.3 with its frame, like a text in CLIP's space

Writing, building, the floor and queries run in fresh processes.  "cold" is the first query of a
process: opening the index and importing faiss are in it, python and torch are already there.
Left out: the model (loading it, encoding the query); a disk that the system has not cached.
"""
import os
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from bench import measure
from minilora.checkpoint.base_model import BaseModel
from minilora.io.files import save_tensors
from minilora.search import query as search
from minilora.search.faiss_index import import_faiss, nearest_files, open_inverted_indexes
from minilora.search.floor import highest_similarities
from minilora.search.index import Entry, Index, similarity_to
from minilora.search.unrelated_texts import UNRELATED_TEXTS

FEATURES = 512                          # numbers of one frame, as from ViT-B/16
FILE_ROWS, SCENE_ROWS = 3600, 60        # frames of a file, and of a scene in it
KINDS = ("clustered", "random")
COSINES = {"picture": 0.9, "text": 0.3}             # of a query and the frame it was made from
SHARE_QUERIES = 100                     # for the share of best frames that faiss finds


# ---- the index ----------------------------------------------------------------------------------

def drawn_parts(count: int, kind: str) -> Iterator[dict[str, torch.Tensor]]:
    """Parts of `count` frames in all, each the frames of one file."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, count, FILE_ROWS):
        rows = min(FILE_ROWS, count - first)
        features = torch.randn(rows, FEATURES, generator=generator)
        if kind == "clustered":
            scenes = torch.randn(-(-rows // SCENE_ROWS), FEATURES, generator=generator)
            features = scenes.repeat_interleave(SCENE_ROWS, 0)[:rows] + 0.5 * features
        yield {"features": F.normalize(features, dim=-1).half(),
               "times": torch.arange(rows, dtype=torch.float64)}


def write_drawn_index(folder: str, count: int, kind: str, threads: int) -> float:
    """Seconds of writing an index of `count` drawn frames, without drawing them."""
    torch.set_num_threads(threads)
    index = Index(folder, BaseModel("made up", "0" * 64), {})
    seconds = measure.seconds(index.write)
    for k, part in enumerate(drawn_parts(count, kind)):
        seconds += measure.seconds(lambda: save_tensors(index.part_path(f"frames-{k}"), part))
        index.entries[f"{k}.mp4"] = Entry(f"{k}.mp4", 1, 1, [
            [f"frames-{k}", 0, len(part["times"])]])
    return seconds + measure.seconds(index.write)


def drawn_queries(index: Index, count: int, cosine: float) -> torch.Tensor:
    """Queries (count, FEATURES) with this cosine, on average, to frame 17 of parts in turn."""
    names, generator = index.part_names(), torch.Generator().manual_seed(1)
    noise = F.normalize(torch.randn(count, FEATURES, generator=generator), dim=-1)
    chosen = [names[k * len(names) // count if len(names) > count else k % len(names)]
              for k in range(count)]
    frames = torch.stack([index.load_part(name)["features"][17].float() for name in chosen])
    return cosine * frames + (1 - cosine ** 2) ** 0.5 * noise


# ---- in fresh processes -------------------------------------------------------------------------

def time_building(folder: str, threads: int) -> dict[str, float]:
    """{"seconds", "memory": bytes above those with faiss imported, "process": peak, "disk"}."""
    torch.set_num_threads(threads)
    import_faiss()
    index = Index.open(folder)

    def build():
        for _, inverted in open_inverted_indexes(index):
            del inverted                                        # as after its search
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):    # for the inverted lists
        used = []
        seconds = measure.seconds(lambda: used.append(measure.peak(build)["allocated"]))
    return {"seconds": seconds, "memory": used[0], "process": measure.resident("VmHWM"),
            "disk": size_of(folder, "*.faiss")}


def time_floor(folder: str, threads: int) -> dict[str, float]:
    """{"seconds", "memory": bytes} of comparing all frames with as many texts as the floor does."""
    torch.set_num_threads(threads)
    texts = F.normalize(torch.randn(len(UNRELATED_TEXTS), FEATURES), dim=-1)
    index, used = Index.open(folder), []
    seconds = measure.seconds(lambda: used.append(
        measure.peak(lambda: highest_similarities(index, texts))["allocated"]))
    return {"seconds": seconds, "memory": used[0]}


def size_of(folder: str, pattern: str) -> int:
    """Bytes of the files in a folder and those below it."""
    return sum(path.stat().st_size for path in Path(folder).rglob(pattern))


def time_queries(folder: str, fast: bool, cosine: float, rounds: int, threads: int) -> dict:
    """{"cold": seconds of the first query, "warm": [seconds of the others], "memory": bytes above
    the process before, "process": peak, "found": best event of each}.

    The index is opened anew for every query.  fast: by faiss, else exhaustive.
    """
    torch.set_num_threads(threads)
    queries, found = drawn_queries(Index.open(folder), rounds + 1, cosine), []

    def search_once(query):
        index = Index.open(folder)
        files = nearest_files(index, query) if fast else None
        found.append(search.find_events(index, similarity_to(query), 10, files=files)[0][0])
    before = measure.resident()
    Path("/proc/self/clear_refs").write_text("5")               # VmHWM := VmRSS
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):    # for the inverted lists
        cold, *warm = [measure.seconds(lambda: search_once(query)) for query in queries]
    peak = measure.resident("VmHWM")
    return {"cold": cold, "warm": warm, "memory": peak - before, "process": peak, "found": found}


def share_found(folder: str, cosine: float, queries: int, threads: int) -> float:
    """Share of queries for which faiss finds the file of the best frame of all.

    The curve of a file that is found is exact.  So the best event is then that of the exhaustive
    search.
    """
    torch.set_num_threads(threads)
    index = Index.open(folder)
    drawn = drawn_queries(index, queries, cosine)
    best, files = torch.full((queries,), -torch.inf), [""] * queries
    for entry in index.entries.values():                        # each has one part
        highest = (index.load_part(entry.pieces[0][0])["features"].float() @ drawn.T).amax(0)
        for k in (highest > best).nonzero().flatten().tolist():
            best[k], files[k] = highest[k], entry.path
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
        return statistics.mean(file in nearest_files(index, query)
                               for file, query in zip(files, drawn))


# ---- the tables ---------------------------------------------------------------------------------

def query_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head) of part "query"."""
    building, queries = [], []
    for count, kind in [(count, kind) for count in options.frames for kind in KINDS]:
        with tempfile.TemporaryDirectory() as folder:
            written = measure.fresh(write_drawn_index, folder, count, kind, options.threads)
            disk = size_of(folder, "*")
            built = measure.fresh(time_building, folder, options.threads)
            floor = measure.fresh(time_floor, folder, options.threads)
            building.append([f"{count:,}", kind, f"{disk / 1e6:,.0f}", f"{written:.1f}",
                             f"{built['disk'] / 1e6:,.0f}", f"{built['seconds']:.1f}",
                             f"{built['memory'] / 1e6:,.0f}", f"{built['process'] / 1e6:,.0f}",
                             f"{floor['seconds']:.1f}", f"{floor['memory'] / 1e6:,.0f}"])
            queries += [[f"{count:,}", kind, *query_row(folder, like, options)]
                        for like in COSINES]
    return [(f"making an index, features of {FEATURES} numbers in half precision",
             ["frames", "features", "index on disk, MB", "written, s", "faiss on disk, MB",
              "built, s", "memory, MB", "whole process, MB", "floor, s", "memory, MB"], building),
            ("one query: the best ten events",
             ["frames", "features", "query like a", "exhaustive, ms", "memory, MB", "faiss, ms",
              "cold, ms", "memory, MB", "whole process, MB", "best frame found"], queries)], [
        f"features are drawn, not encoded from pictures: {FEATURES} numbers a frame (the embedded "
        f"model has 128), files of {FILE_ROWS:,} frames; clustered: scenes of {SCENE_ROWS} similar "
        "frames",
        "memory: peak of the resident memory above that before the work; whole process: with "
        "python, torch and faiss; without the model, which is not loaded here",
        f"floor: all frames are compared with {len(UNRELATED_TEXTS)} unrelated texts, once for an "
        "index; the result is kept in the user's cache",
        f"cold: first query of a process, with the import of faiss; ms: median of {options.rounds} "
        "later ones, the index opened anew each time; all files in the system's cache",
        f"best frame found: share of {SHARE_QUERIES} queries for which faiss finds the file of the "
        "best frame; the event is then that of the exhaustive search"]


def query_row(folder: str, like: str, options: Namespace) -> list[str]:
    """The cells of one query in the second table, from "query like a" on."""
    whole, fast = (measure.fresh(time_queries, folder, way, COSINES[like], options.rounds,
                                 options.threads) for way in (False, True))
    share = measure.fresh(share_found, folder, COSINES[like], SHARE_QUERIES, options.threads)
    milliseconds = [f"{1000 * seconds:,.0f}" for seconds in (
        statistics.median(whole["warm"]), statistics.median(fast["warm"]), fast["cold"])]
    return [like, milliseconds[0], f"{whole['memory'] / 1e6:,.0f}", *milliseconds[1:],
            f"{fast['memory'] / 1e6:,.0f}", f"{fast['process'] / 1e6:,.0f}", f"{share:.0%}"]
