"""Search in videos, parts "speed" and "query": how long indexing a video and one query take.

    speed    drawing, decoding, encoding and indexing a video of ten minutes
    query    an index of a thousand to a million frames: exhaustive search (the query is compared
             with every frame) against faiss (only files that hold its nearest frames)

Times of indexing and of queries, and all memory, come from fresh processes (measure.py).
Left out: how well events are found (search_find.py).
"""
import os
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from bench import measure
from minilora.checkpoint.base_model import BaseModel, base_of
from minilora.checkpoint.weights import load_clip
from minilora.data.frames import all_frames, sample_frames, save_video
from minilora.io.files import atomic_write, save_tensors
from minilora.scenes import belts
from minilora.search import query as search
from minilora.search.faiss_index import build_inverted_index, nearest_files
from minilora.search.index import Entry, Index, similarity_to
from minilora.search.indexing import FrameEncoder, update_index

PARTS_ON_BELT, VIDEO_RATE = 120, 25     # ten minutes; frames a second
FEATURES = 512                          # numbers of one frame
FILE_ROWS, SCENE_ROWS = 3600, 60        # frames of a file, and of a scene in it


# ---- indexing -----------------------------------------------------------------------------------

def time_indexing(path: str, folder: str, threads: int) -> dict[str, float]:
    """{"seconds", "memory" and "disk" in bytes, "rows"} of indexing a video at 1 frame a second."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    index = Index(folder, base_of(weights, clip.config), {"rate": 1.0, "change": 0.0})
    begun = time.perf_counter()
    used = measure.peak(lambda: update_index(index, [path], FrameEncoder(clip.eval())))["allocated"]
    seconds = time.perf_counter() - begun
    size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return {"seconds": seconds, "memory": used, "disk": size, "rows": sum(
        e.rows() for e in index.entries.values())}


def speed_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head) of part "speed"."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "belt.mp4"
        belt = belts.mixed_belt(0, slots=PARTS_ON_BELT)
        begun = time.perf_counter()
        with atomic_write(path) as file:
            save_video(file, belt.frames(VIDEO_RATE), VIDEO_RATE)
        drawn = time.perf_counter() - begun
        runs = [measure.fresh(time_indexing, str(path), str(Path(folder) / f"i{k}"),
                              options.threads) for k in range(options.rounds)]
        frames = [f for f in sample_frames(all_frames(path), 1.0) if f.picture]
        encoder = FrameEncoder(load_clip()[0].eval())
        works = {"decoding alone": lambda: [f.picture
                                            for f in sample_frames(all_frames(path), 1.0)],
                 "encoding alone": lambda: [encoder.encode([f.picture for f in frames[k:k + 32]])
                                            for k in range(0, len(frames), 32)]}
        times = {"index": [r["seconds"] for r in runs],
                 **measure.side_by_side(works, options.rounds)}
    rows = [[name, f"{statistics.median(t):.1f}", f"{min(t):.1f} to {max(t):.1f}",
             f"{len(frames) / statistics.median(t):.0f}",
             f"{belt.seconds * VIDEO_RATE / statistics.median(t):,.0f}"]
            for name, t in times.items()]
    disk = runs[0]["disk"] * 3600 / belt.seconds
    line = (f"{belt.seconds / 60:.0f} minutes of {VIDEO_RATE} frames a second: drawn and written "
            f"in {drawn:.0f} s, indexed at 1 frame a second in "
            f"{statistics.median(times['index']):.1f} s, "
            f"{max(r['memory'] for r in runs) / 1e6:,.0f} MB above what the process held; "
            f"{disk / 1e6:.2f} MB of index an hour, {runs[0]['rows']} rows")
    return [("indexing a video of 224 x 224 pixels, embedded model",
             ["", "s", "lowest to highest", "frames kept, a second", "frames decoded, a second"],
             rows)], [line]


# ---- queries ------------------------------------------------------------------------------------

def synthetic_index(folder: Path, count: int) -> Index:
    """An Index of `count` random frames: files of an hour, in scenes of similar frames."""
    index = Index(folder, BaseModel("made up", "0" * 64), {})
    generator = torch.Generator().manual_seed(0)
    (folder / "parts").mkdir()
    for k, first in enumerate(range(0, count, FILE_ROWS)):
        rows = min(FILE_ROWS, count - first)
        scenes = torch.randn(-(-rows // SCENE_ROWS), FEATURES, generator=generator)
        features = scenes.repeat_interleave(SCENE_ROWS, 0)[:rows]
        features = features + 0.5 * torch.randn(features.shape, generator=generator)
        save_tensors(index.part_path(f"frames-{k}"), {
            "features": F.normalize(features, dim=-1).half(),
            "times": torch.arange(rows, dtype=torch.float64)})
        index.entries[f"{k}.mp4"] = Entry(f"{k}.mp4", 1, 1, [[f"frames-{k}", 0, rows]])
    index.write()
    return index


def time_queries(folder: str, fast: bool, rounds: int, threads: int) -> dict:
    """{"seconds": of each query, "memory": bytes, "build": seconds, "found": best event of each}.

    Each query resembles one frame of the index, which is opened anew for every query.
    fast: by faiss, else exhaustive.
    """
    torch.set_num_threads(threads)
    index = Index.open(folder)
    queries = [index.load_part(name)["features"][17].float() + 0.02 * torch.randn(
        FEATURES, generator=torch.Generator().manual_seed(k))
        for k, name in enumerate((index.part_names() * rounds)[:rounds])]
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):    # for the inverted lists
        return timed(index, queries, fast)


def timed(index: Index, queries: list[torch.Tensor], fast: bool) -> dict:
    """What `time_queries` returns."""
    begun = time.perf_counter()
    if fast:
        build_inverted_index(index)
    built, found, times = time.perf_counter() - begun, [], []

    def search_once(query):
        opened = Index.open(index.folder)
        files = nearest_files(opened, query) if fast else None
        found.append(search.find_events(opened, similarity_to(query), 10, files=files)[0][0])
    search_once(queries[0])                                     # unmeasured
    before = measure.resident()
    Path("/proc/self/clear_refs").write_text("5")               # VmHWM := VmRSS
    for query in queries:
        times.append(measure.seconds(lambda: search_once(query)))
    memory = measure.resident("VmHWM") - before
    return {"seconds": times, "memory": memory, "build": built, "found": found[1:]}


def query_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head) of part "query"."""
    rows = []
    for count in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            synthetic_index(Path(folder), count)
            disk = sum(p.stat().st_size for p in Path(folder).rglob("*.safetensors"))
            whole, fast = (measure.fresh(time_queries, folder, way, options.rounds, options.threads)
                           for way in (False, True))
        same = statistics.mean(a == b for a, b in zip(whole["found"], fast["found"]))
        rows.append([f"{count:,}", f"{disk / 1e6:,.0f}", *(
            f"{1000 * statistics.median(w['seconds']):,.0f}" for w in (whole, fast)), *(
            f"{w['memory'] / 1e6:,.0f}" for w in (whole, fast)), f"{fast['build']:.1f}",
            f"{same:.0%}"])
    return [(f"a query, features of {FEATURES} numbers, files of {FILE_ROWS} frames",
             ["frames", "MB on disk", "exhaustive, ms", "faiss, ms", "exhaustive, MB", "faiss, MB",
              "faiss, s to build once", "same best event"], rows)], [
        "faiss: the curves of the files that hold the 200 nearest frames; index opened anew each "
        "time, files in the system's cache, python and torch already running"]
