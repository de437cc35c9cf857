"""Search in videos, part "find": how well events are found on drawn belts.

Each seed draws new belts (minilora/scenes/belts.py): MIXED_BELTS with four products each, searched
by name and by another picture of a product, and one belt for every family in LINE_FAMILIES,
searched for damaged parts.  gear and mesh are unseen: the embedded model was trained on neither
their pictures nor their names.

Events are compared with three baselines: every frame is an event as long as a part is in view (a
user would have to know this length; frames closer than that to a higher one are left out), every
frame is an event as long as a frame, and random events.

Metrics: mean average precision (mAP) at several overlaps, top-k, AUROC of single frames.
Left out: real videos; none with known events is at hand.
"""
import statistics
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from bench import measure
from bench.accuracy import cell, spread
from minilora.auroc import auroc
from minilora.checkpoint.base_model import BaseModel
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.data.frames import save_video
from minilora.io.files import atomic_write, digest_of
from minilora.scenes import belts
from minilora.scenes.scene import UNSEEN_CLASSES, draw, seed_for
from minilora.search import events
from minilora.search import query as search
from minilora.search.events import Event
from minilora.search.index import Index, similarity_to
from minilora.search.indexing import FrameEncoder, update_index

MIXED_BELTS = 12
LINE_FAMILIES = ("bottle", "nut", "cookie", "button", "board", "knob", "washer", "cable",
                 "gear", "gear", "mesh", "mesh")
INDEX_RATE, VIDEO_RATE = 4, 8   # frames a second in the index, and in the videos
IN_VIEW = 2.5                   # seconds that a part of such a belt is in view
OVERLAPS = (0.3, 0.5, 0.7)
KINDS = ("by name", "by picture", "damaged, by name", "damaged part")


def code_version() -> str:
    """Fingerprint of the code that decides which events are found."""
    folder = measure.REPO / "minilora"
    return digest_of(*[(folder / f"{name}.py").read_text() for name in
                       ("scenes/belts", "search/events", "search/index", "search/indexing",
                        "search/query", "data/frames")])


# ---- belts and queries --------------------------------------------------------------------------

def index_belts(folder: Path, clip: CLIP, sha256: str,
                seed: int) -> tuple[Index, dict[str, belts.Belt]]:
    """(Index, {path: Belt}) of the belts of one seed, written to video files and read again."""
    belt_of = {}
    plans = [belts.mixed_belt(k, seed=seed) for k in range(MIXED_BELTS)]
    plans += [belts.product_belt(k, family, seed=seed) for k, family in enumerate(LINE_FAMILIES)]
    for k, belt in enumerate(plans):
        path = folder / f"belt-{k:02d}.mp4"
        with atomic_write(path) as file:
            save_video(file, belt.frames(VIDEO_RATE), VIDEO_RATE)
        belt_of[str(path.resolve())] = belt
    index = Index(folder / "index", BaseModel("bench", sha256),
                  {"rate": float(INDEX_RATE), "change": 0.0})
    failed = update_index(index, belt_of, FrameEncoder(clip))
    if failed:
        raise RuntimeError(f"belts: expected every video to be read again, these failed: {failed}")
    return index, belt_of


def labelled_queries(clip: CLIP, belt_of: dict[str, belts.Belt], seed: int) -> list[tuple]:
    """[(kind, class name, query, files to search, true events [(file, start, end)])]."""
    text = partial(search.query_features, clip)
    mixed, lines = list(belt_of)[:MIXED_BELTS], list(belt_of)[MIXED_BELTS:]
    true = lambda path, fits: [(path, p.start, p.end) for p in belt_of[path].passes() if fits(p)]
    out = []
    for class_name in sorted({p.class_name for path in mixed for p in belt_of[path].passes()}):
        found = [t for path in mixed for t in true(path, lambda p: p.class_name == class_name)]
        out.append(("by name", class_name, text([f"a {class_name}"]), mixed, found))
    encoder = FrameEncoder(clip)
    for path in mixed:
        for class_name in sorted({p.class_name for p in belt_of[path].passes()}):
            style = next(s.style for s in belt_of[path].slots if s.style.family == class_name)
            other = draw(style, seed_for("asked", seed, class_name)).picture   # from another camera
            picture = Image.fromarray((other * 255).byte().permute(1, 2, 0).numpy())
            out.append(("by picture", class_name, encoder.encode([picture])[0].float(), mixed,
                        true(path, lambda p: p.class_name == class_name)))
    for path in lines:
        class_name, bad = belt_of[path].passes()[0].class_name, true(path, lambda p: p.flaw)
        for kind, name in (("damaged, by name", class_name), ("damaged part", "part")):
            query = text([f"a damaged {name}"], [f"a flawless {name}"])
            out.append((kind, class_name, query, [path], bad))
    return out


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

def frame_auroc(curves: dict, true: list) -> float:
    """AUROC of single frames: does the value tell frames inside a true event from the others?"""
    inside = [(times[:, None] >= torch.tensor([t[1] for t in true if t[0] == path])).logical_and(
        times[:, None] <= torch.tensor([t[2] for t in true if t[0] == path])).any(1)
        for path, (times, _) in curves.items()]
    return auroc(torch.cat([v for _, v in curves.values()]), torch.cat(inside))


def evaluate_seed(seed: int, threads: int) -> dict[str, dict]:
    """{kind: {method: {"seen" or "unseen": [mAP at 0.3, 0.5, 0.7, top-1, top-5, AUROC]}}}."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    generator, scored = torch.Generator().manual_seed(seed), {}
    with tempfile.TemporaryDirectory() as folder:
        index, belt_of = index_belts(Path(folder), clip.eval(), weights.sha256, seed)
        for kind, class_name, query, files, true in labelled_queries(clip, belt_of, seed):
            grouped, curves = search.find_events(index, similarity_to(query), 10_000,
                                                 files=set(files))
            single_frames = frame_auroc(curves, true)
            finds = {"events": grouped, **{name: make(curves, generator)
                                           for name, make in BASELINES.items()}}
            for method, found in finds.items():
                group = scored.setdefault(kind, {}).setdefault(method, {}).setdefault(
                    "unseen" if class_name in UNSEEN_CLASSES else "seen", [])
                group.append((found, true, single_frames))
    figures = lambda rows: [*(events.mean_average_precision([r[:2] for r in rows], o)
                              for o in OVERLAPS),
                            *(events.hit_at_k([r[:2] for r in rows], k) for k in (1, 5)),
                            statistics.mean(r[2] for r in rows)]
    return {kind: {method: {group: figures(rows) for group, rows in groups.items()}
                   for method, groups in methods.items()} for kind, methods in scored.items()}


def find_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head), mean and spread over the seeds."""
    cells = [cell(options.out / "search" / f"find-{seed}.json",
                  digest_of("find", seed, code_version()), partial(
                      measure.fresh, evaluate_seed, seed, options.threads))
             for seed in options.seeds]
    header = ["", "seen: mAP 0.3", "0.5", "0.7", "top-1", "top-5", "unseen: mAP 0.5", "top-1",
              "top-5", "harmonic mean of mAP 0.5", "of top-1"]
    tables = []
    for kind in KINDS:
        rows = []
        for method in METHODS:
            seen, unseen = ([c[kind][method][g] for c in cells] for g in ("seen", "unseen"))
            both = lambda k: [events.harmonic_mean(s[k], u[k]) for s, u in zip(seen, unseen)]
            rows.append([method, *(spread([s[k] for s in seen]) for k in range(5)),
                         *(spread([u[k] for u in unseen]) for k in (1, 3, 4)),
                         spread(both(1)), spread(both(3))])
        single = [spread([c[kind]["events"][g][5] for c in cells]) for g in ("seen", "unseen")]
        tables.append((f"{kind}; AUROC of single frames: seen {single[0]}, unseen {single[1]}",
                       header, rows))
    return tables, [f"{MIXED_BELTS} belts with four products and {len(LINE_FAMILIES)} lines of "
                    f"60 s a seed, 12 parts each; index of {INDEX_RATE} frames a second; an event "
                    "counts from an overlap of 0.5 for top-k"]
