"""Search in videos, part "speed": drawing, decoding, encoding and indexing a video of ten minutes.

The time of indexing and its memory come from fresh processes (measure.py).
Left out: queries (search_frames.py), how well events are found (search_find.py).
"""
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch

from bench import measure
from minilora.checkpoint.base_model import base_of
from minilora.checkpoint.weights import load_clip
from minilora.data.frames import all_frames, sample_frames, save_video
from minilora.io.files import atomic_write
from minilora.scenes import belts
from minilora.search.index import Index
from minilora.search.indexing import FrameEncoder, update_index

PARTS_ON_BELT, VIDEO_RATE = 120, 25     # ten minutes; frames a second


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
