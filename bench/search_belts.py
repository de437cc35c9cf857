"""Belts and queries of the parts "find" and "nothing" of bench.search, and their stored features.

Each seed draws new belts (minilora/scenes/belts.py): MIXED_BELTS with four products each, searched
by name and by another picture of a product, and one belt for every family in LINE_FAMILIES,
searched for damaged parts.  gear and mesh are unseen: the embedded model was trained on neither
their pictures nor their names.

Drawing and encoding the belts of a seed takes minutes, answering queries takes seconds.  So the
index is kept (`stored_index`), and a change of how queries are answered does not draw again.

Left out: real videos; none with known events is at hand.
"""
import inspect
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from bench import measure
from minilora.checkpoint.base_model import BaseModel
from minilora.clip import CLIP
from minilora.data.frames import save_video
from minilora.io.files import atomic_write, digest_of
from minilora.scenes import belts
from minilora.scenes.scene import draw, seed_for
from minilora.search import query as search
from minilora.search.events import TrueEvent
from minilora.search.index import Index
from minilora.search.indexing import FrameEncoder, update_index

MIXED_BELTS = 12
LINE_FAMILIES = ("bottle", "nut", "cookie", "button", "board", "knob", "washer", "cable",
                 "gear", "gear", "mesh", "mesh")
INDEX_RATE, VIDEO_RATE = 4, 8   # frames a second in the index, and in the videos
ALL_EVENTS = 10_000             # more than an index has peaks
ANSWERING = "events", "index", "moment_metrics", "query"       # modules of minilora/search
FLOOR = "floor", "unrelated_texts"                      # those that decide what is answered
KINDS = ("by name", "by picture", "damaged, by name", "damaged part")


class Asked(NamedTuple):
    """What is asked.  feature: (E,);  opposite: (E,), of what must not be visible, or None."""
    feature: Tensor
    opposite: Tensor | None = None


class Query(NamedTuple):
    """A query whose object is there.  kind: of KINDS;  files: to search;  true: its events."""
    kind: str
    class_name: str
    asked: Asked
    files: list[str]
    true: list[TrueEvent]


# ---- stored indexes -----------------------------------------------------------------------------

def sources(*names: str) -> str:
    """Digest of modules of minilora, given like "search/events"."""
    folder = measure.REPO / "minilora"
    return digest_of(*[(folder / f"{name}.py").read_text("utf-8") for name in names])


def features_version() -> str:
    """Digest of the code that decides the features of a drawn belt."""
    scenes = [f"scenes/{name}" for name in ("belts", "flaws", "materials", "outlines", "scene")]
    return digest_of(sources(*scenes, "data/frames", "data/images"),
                     inspect.getsource(FrameEncoder))


def code_version(*more: str) -> str:
    """Digest of the code that decides the numbers for given features.

    more: modules of minilora/search beside ANSWERING.
    """
    here = [(measure.REPO / "bench" / name).read_text("utf-8") for name in (
        *(f"search_{part}.py" for part in ("belts", "find", "nothing", "words")),
        "absent_queries.txt")]
    return digest_of(sources(*(f"search/{name}" for name in (*ANSWERING, *more))), *here)


def stored_index(folder: Path, rate: float, clip: CLIP, sha256: str,
                 make_files: Callable[[Path], Iterable[Path]]) -> Index:
    """The index in `folder`; if there is none, it is made first.

    make_files: writes the pictures or videos into the folder that it is given, which is deleted
    after indexing, and returns their paths.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Index(Path(temporary, "index"), BaseModel("bench", sha256),
                         {"rate": float(rate), "change": 0.0})
            failed = update_index(made, make_files(Path(temporary)), FrameEncoder(clip))
            if failed:
                raise RuntimeError(f"expected every file to be read again, these failed: {failed}")
            os.rename(made.folder, folder)
    return Index.open(folder)


def part_of(index: Index, files: Iterable[str], folder: Path) -> Index:
    """A new index in `folder` with some files of another one."""
    part = Index(folder, index.base, index.sampling)
    part.entries = {path: index.entries[path] for path in files}
    part.part_path("").parent.mkdir(parents=True)
    for name in part.part_names():
        os.link(index.part_path(name), part.part_path(name))
    part.write()
    return Index.open(folder)


# ---- belts and queries --------------------------------------------------------------------------

def planned_belts(seed: int) -> list[belts.Belt]:
    """The belts of one seed, the mixed ones first."""
    return [*(belts.mixed_belt(k, seed=seed) for k in range(MIXED_BELTS)),
            *(belts.product_belt(k, family, seed=seed) for k, family in enumerate(LINE_FAMILIES))]


def index_belts(store: Path, clip: CLIP, sha256: str,
                seed: int) -> tuple[Index, dict[str, belts.Belt]]:
    """(Index, {path: Belt}) of the belts of one seed, written to video files and read again.

    store: folder for the index; one that is there with the same belts is opened.
    """
    plans = planned_belts(seed)

    def write_videos(folder):
        for k, belt in enumerate(plans):
            path = folder / f"belt-{k:02d}.mp4"
            with atomic_write(path) as file:
                save_video(file, belt.frames(VIDEO_RATE), VIDEO_RATE)
            yield path
    mark = digest_of(seed, sha256, features_version(), MIXED_BELTS, LINE_FAMILIES, INDEX_RATE,
                     VIDEO_RATE)
    index = stored_index(store / f"belts-{seed}-{mark[:12]}", INDEX_RATE, clip, sha256,
                         write_videos)
    return index, dict(zip(sorted(index.entries), plans, strict=True))


def true_events(belt_of: dict[str, belts.Belt], files: Iterable[str],
                fits: Callable[[belts.Pass], bool]) -> list[TrueEvent]:
    """(file, start, end) of the parts that fit, in these files."""
    return [(path, p.start, p.end) for path in files for p in belt_of[path].passes() if fits(p)]


def shown_classes(belt_of: dict[str, belts.Belt], files: Iterable[str]) -> list[str]:
    """Names of the products that pass in these files."""
    return sorted({p.class_name for path in files for p in belt_of[path].passes()})


def text_query(clip: CLIP, texts: list[str], without: Iterable[str] = ()) -> Asked:
    """A query by texts, as the command asks it.  without: what must not be visible."""
    return Asked(*search.encode_query(clip, texts, without))


def text_queries(clip: CLIP, belt_of: dict[str, belts.Belt]) -> list[Query]:
    """The queries by text of one seed: products by name, damage by two names."""
    mixed, lines = list(belt_of)[:MIXED_BELTS], list(belt_of)[MIXED_BELTS:]
    out = [Query("by name", name, text_query(clip, [f"a {name}"]), mixed,
                 true_events(belt_of, mixed, lambda part, name=name: part.class_name == name))
           for name in shown_classes(belt_of, mixed)]
    for path in lines:
        name, = shown_classes(belt_of, [path])
        for kind, thing in (("damaged, by name", name), ("damaged part", "part")):
            asked = text_query(clip, [f"a damaged {thing}"], [f"a flawless {thing}"])
            out.append(Query(kind, name, asked, [path],
                             true_events(belt_of, [path], lambda part: part.flaw)))
    return out


def picture_queries(clip: CLIP, belt_of: dict[str, belts.Belt], seed: int) -> list[Query]:
    """Another picture of each product of each mixed belt; true: where this product passes."""
    encoder, mixed, out = FrameEncoder(clip), list(belt_of)[:MIXED_BELTS], []
    for path in mixed:
        for name in shown_classes(belt_of, [path]):
            style = next(s.style for s in belt_of[path].slots if s.style.family == name)
            other = draw(style, seed_for("asked", seed, name)).picture      # from another camera
            picture = Image.fromarray((other * 255).byte().permute(1, 2, 0).numpy())
            out.append(Query("by picture", name, Asked(encoder.encode([picture])[0].float()), mixed,
                             true_events(belt_of, [path], lambda part: part.class_name == name)))
    return out
