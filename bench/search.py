"""Search in videos: how well events are found, and how fast.

    python -m bench.search --part find      drawn belts (minilora/scenes/belts.py): mAP, top-k, AUC
    python -m bench.search --part order     what came first: recurrent cells against a mean
    python -m bench.search --part speed     drawing, decoding, encoding, indexing ten minutes
    python -m bench.search --part query     a thousand to a million frames, whole product and faiss

Each seed draws new belts: MIXED with four products each, asked for by name and by another picture
of a product, and one line for every family in LINES, asked for what is damaged.  gear and mesh are
unseen: the embedded model was trained on neither their pictures nor their names.  Two rivals
without grouping: every frame is an event as long as a part is in view (which a user would have to
know; a frame less than that beside a better one is left out), or as long as a frame; and chance.

Leaves out: real videos, of which none with known events is at hand.
"""
import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from bench import measure
from bench.accuracy import cell, spread
from bench.tables import write_parts
from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.data.frames import all_frames, sampled, save_video
from minilora.io.files import digest_of, load_tensors, save_tensors, whole_file
from minilora.scenes import belts
from minilora.scenes.scene import UNSEEN_CLASSES, draw, seed_for
from minilora.search import events
from minilora.search import query as search
from minilora.search.events import Event
from minilora.search.faiss_index import build, files_near
from minilora.search.index import Entry, Index, likeness
from minilora.search.indexing import FrameEncoder, update
from minilora.search.recurrent import RECURRENT_CELLS, SequenceClassifier

MIXED = 12
LINES = ("bottle", "nut", "cookie", "button", "board", "knob", "washer", "cable",
         "gear", "gear", "mesh", "mesh")
RATE, DRAWN = 4, 8              # frames a second in the index, and in the videos
IN_VIEW = 2.5                   # seconds, of a part of such belts
OVERLAPS = (0.3, 0.5, 0.7)
KINDS = ("by name", "by picture", "damaged, by name", "damaged part")


# ---- what is found ------------------------------------------------------------------------------

def drawn_index(folder, clip, sha256, seed):
    """(Index, {path: Belt}) of one seed's belts, through real video files."""
    made = {}
    plans = [belts.mixed_belt(k, seed=seed) for k in range(MIXED)]
    plans += [belts.product_belt(k, family, seed=seed) for k, family in enumerate(LINES)]
    for k, belt in enumerate(plans):
        path = folder / f"belt-{k:02d}.mp4"
        with whole_file(path) as file:
            save_video(file, belt.frames(DRAWN), DRAWN)
        made[str(path.resolve())] = belt
    index = Index(folder / "index", "bench", sha256, {"rate": float(RATE), "change": 0.0})
    failed = update(index, made, FrameEncoder(clip))
    if failed:
        raise RuntimeError(f"belts were not read again: {failed}")
    return index, made


def asked(clip, made, seed):
    """[(kind, noun, query, files to search, [(file, start, end)])]."""
    text = partial(search.query_features, clip)
    mixed, lines = list(made)[:MIXED], list(made)[MIXED:]
    true = lambda path, fits: [(path, p.start, p.end) for p in made[path].passes() if fits(p)]
    out = []
    for class_name in sorted({p.class_name for path in mixed for p in made[path].passes()}):
        found = [t for path in mixed for t in true(path, lambda p: p.class_name == class_name)]
        out.append(("by name", class_name, text([f"a {class_name}"]), mixed, found))
    encoder = FrameEncoder(clip)
    for path in mixed:
        for class_name in sorted({p.class_name for p in made[path].passes()}):
            style = next(s.style for s in made[path].slots if s.style.family == class_name)
            other = draw(style, seed_for("asked", seed, class_name)).picture      # from another camera
            picture = Image.fromarray((other * 255).byte().permute(1, 2, 0).numpy())
            out.append(("by picture", class_name, encoder.pictures([picture])[0].float(), mixed,
                        true(path, lambda p: p.class_name == class_name)))
    for path in lines:
        class_name, bad = made[path].passes()[0].class_name, true(path, lambda p: p.flaw)
        for kind, name in (("damaged, by name", class_name), ("damaged part", "part")):
            query = text([f"a damaged {name}"], [f"a flawless {name}"])
            out.append((kind, class_name, query, [path], bad))
    return out


def frames_as_events(curves, length, apart):
    """[Event]: every frame that is the best within `apart` seconds, as long as `length`."""
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


def at_random(curves, generator):
    """[Event]: as many spans as parts pass, of the right length, anywhere, in any order."""
    out = []
    for path, (times, _) in curves.items():
        for start in ((times[-1] - IN_VIEW) * torch.rand(12, generator=generator)).tolist():
            out.append(Event(path, start, start + IN_VIEW, start,
                             torch.rand((), generator=generator).item()))
    return out


def frame_auroc(curves, true):
    """How well single frames are told: AUROC of being within a true event."""
    inside = [(times[:, None] >= torch.tensor([t[1] for t in true if t[0] == path])).logical_and(
        times[:, None] <= torch.tensor([t[2] for t in true if t[0] == path])).any(1)
        for path, (times, _) in curves.items()]
    return auroc(torch.cat([v for _, v in curves.values()]), torch.cat(inside))


RIVALS = {"frames as long as a part": lambda curves, generator: frames_as_events(
              curves, IN_VIEW, IN_VIEW),
          "single frames": lambda curves, generator: frames_as_events(curves, 1 / RATE, 1 / RATE),
          "random": at_random}
METHODS = ("events", *RIVALS)


def found_in(seed, threads):
    """{kind: {method: {"seen" or "unseen": [mAP .3, .5, .7, top-1, top-5, AUROC]}}}."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    generator, judged = torch.Generator().manual_seed(seed), {}
    with tempfile.TemporaryDirectory() as folder:
        index, made = drawn_index(Path(folder), clip.eval(), weights.sha256, seed)
        for kind, class_name, query, files, true in asked(clip, made, seed):
            hills, curves = search.find(index, likeness(query), 10_000, files=set(files))
            told = frame_auroc(curves, true)
            finds = {"events": hills, **{name: make(curves, generator)
                                         for name, make in RIVALS.items()}}
            for method, found in finds.items():
                group = judged.setdefault(kind, {}).setdefault(method, {}).setdefault(
                    "unseen" if class_name in UNSEEN_CLASSES else "seen", [])
                group.append((found, true, told))
    figures = lambda rows: [*(events.mean_average_precision([r[:2] for r in rows], o)
                              for o in OVERLAPS),
                            *(events.hit_at_k([r[:2] for r in rows], k) for k in (1, 5)),
                            statistics.mean(r[2] for r in rows)]
    return {kind: {method: {group: figures(rows) for group, rows in groups.items()}
                   for method, groups in methods.items()} for kind, methods in judged.items()}


def find_tables(options):
    cells = [cell(options.out / "search" / f"find-{seed}.json",
                  digest_of("find", seed, code_version()), partial(
                      measure.fresh, found_in, seed, options.threads)) for seed in options.seeds]
    header = ["", "seen: mAP 0.3", "0.5", "0.7", "top-1", "top-5", "unseen: mAP 0.5", "top-1",
              "top-5", "harmonic mean of mAP 0.5", "of top-1"]
    made = []
    for kind in KINDS:
        rows = []
        for method in METHODS:
            seen, unseen = ([c[kind][method][g] for c in cells] for g in ("seen", "unseen"))
            both = lambda k: [events.harmonic_mean(s[k], u[k]) for s, u in zip(seen, unseen)]
            rows.append([method, *(spread([s[k] for s in seen]) for k in range(5)),
                         *(spread([u[k] for u in unseen]) for k in (1, 3, 4)),
                         spread(both(1)), spread(both(3))])
        single = [spread([c[kind]["events"][g][5] for c in cells]) for g in ("seen", "unseen")]
        made.append((f"{kind}; AUROC of single frames: seen {single[0]}, unseen {single[1]}",
                     header, rows))
    return made, [f"{MIXED} belts with four products and {len(LINES)} lines of 60 s a seed, 12 "
                  f"parts each; index of {RATE} frames a second; an event counts from an overlap "
                  "of 0.5 for top-k"]


def code_version():
    """Fingerprint of what decides which events are found."""
    folder = measure.REPO / "minilora"
    return digest_of(*[(folder / f"{name}.py").read_text() for name in
                       ("scenes/belts", "search/events", "search/index", "search/indexing", "search/query",
                        "data/frames")])


# ---- what came first ----------------------------------------------------------------------------

ORDERS = ("defect, then removal", "removal, then defect", "two defects in a row",
          "two defects, a good part between")
SLOTS, PERIOD, LEARNED, NEW = 7, 2.0, 80, 30        # belts of each order


def family_of(generator):
    """The first thing drawn of an ordered belt."""
    return belts.choose(generator, belts.SEEN)


def ordered_belt(order, number):
    """A Belt on which two things happen, in a certain order."""
    generator = seed_for("order", order, number)
    style = belts.random_style(generator, family_of(generator))
    plan = [belts.Slot(style) for _ in range(SLOTS)]
    bad = lambda: belts.Slot(style, belts.any_flaw(generator))
    gone = belts.Slot(style, removed=True)
    apart = 1 if order == 2 else 2
    first = int(torch.randint(1, SLOTS - apart, (), generator=generator))
    plan[first] = gone if order == 1 else bad()
    plan[first + apart] = gone if order == 0 else bad()
    return belts.Belt(plan, generator, period=PERIOD)


def sequences(threads):
    """Features of all belts, written once: {"features" (N, T, E), "orders" (N,)}."""
    torch.set_num_threads(threads)
    encoder, rows, orders = FrameEncoder(load_clip()[0].eval()), [], []
    for number in range(LEARNED + NEW):
        for order in range(len(ORDERS)):
            pictures = [f.picture for f in ordered_belt(order, number).frames(RATE)]
            rows.append(encoder.pictures(pictures))
            orders.append(order)
    return {"features": torch.stack(rows), "orders": torch.tensor(orders)}


def kept_sequences(options):
    """`sequences`, from a file if it is there."""
    key = digest_of(code_version(), LEARNED, NEW, SLOTS, PERIOD)
    path = options.out / "search" / f"order-{key}.pt"
    if not path.exists():
        save_tensors(path, sequences(options.threads))
    return load_tensors(path)


def curves(kept):
    """What a search makes of the features, (N, T, 4): how much more like a damaged part than like a
    flawless one, like a flawless one, like a part, like the frame before; each curve against its
    own median and spread, so that products become alike."""
    clip, features = load_clip()[0], kept["features"].float()
    class_names = [family_of(seed_for("order", order, number)) for number in range(LEARNED + NEW)
             for order in range(len(ORDERS))]
    texts = {class_name: torch.stack([search.text_features(clip, text.format(class_name)) for text in
                                ("a damaged {}", "a flawless {}", "a {}")]) for class_name in set(class_names)}
    like = torch.einsum("nte,nke->ntk", features, torch.stack([texts[class_name] for class_name in class_names]))
    still = F.pad((features[:, 1:] * features[:, :-1]).sum(-1), (1, 0), value=1.0)
    four = torch.stack([like[..., 0] - like[..., 1], like[..., 1], like[..., 2], still], dim=-1)
    away = four - four.median(1, keepdim=True).values
    usual = away.abs().median(1, keepdim=True).values + 1e-4
    return (away / usual).clamp(-8, 8)


def learned_order(kind, features, orders, seed, epochs=60, batch=32):
    """Share of each order that is told on new belts, [float].  features: (N, T, F)."""
    generator = torch.Generator().manual_seed(seed)
    cut = LEARNED * len(ORDERS)
    mean, spread_ = features[:cut].mean((0, 1)), features[:cut].std((0, 1))
    features = (features - mean) / spread_
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)                         # nn.Linear draws its weights globally
        net = SequenceClassifier(kind, features.shape[-1], 64, len(ORDERS), generator)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(cut, generator=generator).split(batch):
            loss = F.cross_entropy(net(features[rows]), orders[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
    with torch.no_grad():
        right = net(features[cut:]).argmax(1) == orders[cut:]
    return [right[orders[cut:] == k].float().mean().item() for k in range(len(ORDERS))]


def order_tables(options):
    torch.set_num_threads(options.threads)
    kept, made = kept_sequences(options), []
    for what, rows_of in (("four curves of a search", curves(kept)),
                          ("features of frames", kept["features"].float())):
        rows = []
        for kind in (*RECURRENT_CELLS, "mean"):
            shares = [learned_order(kind, rows_of, kept["orders"], seed) for seed in options.seeds]
            rows.append([kind if kind in RECURRENT_CELLS else "mean over time",
                         *(spread([s[k] for s in shares]) for k in range(len(ORDERS))),
                         spread([statistics.mean(s) for s in shares])])
        made.append((f"order of events told from {what}, per cent of {NEW} new belts each",
                     ["", *ORDERS, "mean"], rows))
    return made, [f"order: {SLOTS} parts a belt, {LEARNED} belts of each order to learn from, "
                  f"{RATE} frames a second; last state of a recurrent cell, 64 wide"]


# ---- how fast -----------------------------------------------------------------------------------

LONG, VIDEO_RATE = 120, 25      # parts on a long belt: ten minutes; frames a second


def indexed(path, folder, threads):
    """{"seconds", "bytes" of memory, "on disk"} of indexing a video at 1 frame a second."""
    torch.set_num_threads(threads)
    clip, weights = load_clip()
    index = Index(folder, weights.name, weights.sha256, {"rate": 1.0, "change": 0.0})
    begun = time.perf_counter()
    used = measure.peak(lambda: update(index, [path], FrameEncoder(clip.eval())))["allocated"]
    seconds = time.perf_counter() - begun
    size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return {"seconds": seconds, "memory": used, "disk": size, "rows": sum(
        e.rows() for e in index.entries.values())}


def speed_tables(options):
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "belt.mp4"
        belt = belts.mixed_belt(0, slots=LONG)
        begun = time.perf_counter()
        with whole_file(path) as file:
            save_video(file, belt.frames(VIDEO_RATE), VIDEO_RATE)
        drawn = time.perf_counter() - begun
        runs = [measure.fresh(indexed, str(path), str(Path(folder) / f"i{k}"), options.threads)
                for k in range(options.rounds)]
        frames = [f for f in sampled(all_frames(path), 1.0) if f.picture]
        encoder = FrameEncoder(load_clip()[0].eval())
        works = {"decoding alone": lambda: [f.picture for f in sampled(all_frames(path), 1.0)],
                 "encoding alone": lambda: [encoder.pictures([f.picture for f in frames[k:k + 32]])
                                            for k in range(0, len(frames), 32)]}
        times = {"index": [r["seconds"] for r in runs],
                 **measure.side_by_side(works, options.rounds)}
    rows = [[name, f"{statistics.median(t):.1f}", f"{min(t):.1f} to {max(t):.1f}",
             f"{len(frames) / statistics.median(t):.0f}",
             f"{belt.seconds * VIDEO_RATE / statistics.median(t):,.0f}"]
            for name, t in times.items()]
    disk = runs[0]["disk"] * 3600 / belt.seconds
    said = (f"{belt.seconds / 60:.0f} minutes of {VIDEO_RATE} frames a second: drawn and written "
            f"in {drawn:.0f} s, indexed at 1 frame a second in "
            f"{statistics.median(times['index']):.1f} s, "
            f"{max(r['memory'] for r in runs) / 1e6:,.0f} MB above what the process held; "
            f"{disk / 1e6:.2f} MB of index an hour, {runs[0]['rows']} rows")
    return [("indexing a video of 224 x 224 pixels, embedded model",
             ["", "s", "lowest to highest", "frames kept, a second", "frames decoded, a second"],
             rows)], [said]


# ---- how many frames ----------------------------------------------------------------------------

WIDTH, HOUR, SCENE = 512, 3600, 60          # features; rows of a file, and of a scene in it


def synthetic(folder, count):
    """An Index of `count` rows: files of an hour, each of scenes that look like one another."""
    index, generator = Index(folder, "made up", "0" * 64, {}), torch.Generator().manual_seed(0)
    (folder / "parts").mkdir()
    for k, first in enumerate(range(0, count, HOUR)):
        rows = min(HOUR, count - first)
        scenes = torch.randn(-(-rows // SCENE), WIDTH, generator=generator)
        rows_of = scenes.repeat_interleave(SCENE, 0)[:rows]
        rows_of = rows_of + 0.5 * torch.randn(rows_of.shape, generator=generator)
        save_tensors(index.part(f"frames-{k}"), {
            "features": F.normalize(rows_of, dim=-1).half(),
            "times": torch.arange(rows, dtype=torch.float64)})
        index.entries[f"{k}.mp4"] = Entry(f"{k}.mp4", 1, 1, [[f"frames-{k}", 0, rows]])
    index.write()
    return index


def asked_of(folder, fast, rounds, threads):
    """{"seconds": [..], "memory", "build", "right": share of queries whose best event is the true
    best}: queries like one row of the index each, the index opened anew every time."""
    torch.set_num_threads(threads)
    index = Index.open(folder)
    wanted = [index.load(name)["features"][17].float() + 0.02 * torch.randn(
        WIDTH, generator=torch.Generator().manual_seed(k))
        for k, name in enumerate((index.parts() * rounds)[:rounds])]
    begun = time.perf_counter()
    if fast:
        build(index)
    built, found, times = time.perf_counter() - begun, [], []

    def ask(query):
        opened = Index.open(folder)
        files = files_near(opened, query) if fast else None
        found.append(search.find(opened, likeness(query), 10, files=files)[0][0])
    ask(wanted[0])                                              # unmeasured
    before = measure.resident()
    Path("/proc/self/clear_refs").write_text("5")
    for query in wanted:
        times.append(measure.seconds(lambda: ask(query)))
    memory = measure.resident("VmHWM") - before
    return {"seconds": times, "memory": memory, "build": built, "found": found[1:]}


def query_tables(options):
    rows = []
    for count in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            synthetic(Path(folder), count)
            disk = sum(p.stat().st_size for p in Path(folder).rglob("*.pt"))
            whole, fast = (measure.fresh(asked_of, folder, way, options.rounds, options.threads)
                           for way in (False, True))
        same = statistics.mean(a == b for a, b in zip(whole["found"], fast["found"]))
        rows.append([f"{count:,}", f"{disk / 1e6:,.0f}", *(
            f"{1000 * statistics.median(w['seconds']):,.0f}" for w in (whole, fast)), *(
            f"{w['memory'] / 1e6:,.0f}" for w in (whole, fast)), f"{fast['build']:.1f}",
            f"{same:.0%}"])
    return [(f"a query, features of {WIDTH} numbers, files of {HOUR} frames",
             ["frames", "MB on disk", "whole product, ms", "faiss, ms", "whole product, MB",
              "faiss, MB", "faiss, s to build once", "same best event"], rows)], [
        "faiss: the curves of the files that hold the 200 nearest frames; index opened anew each "
        "time, files in the system's cache, python and torch already running"]


PARTS = {"find": find_tables, "order": order_tables, "speed": speed_tables, "query": query_tables}


def parser():
    p = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    p.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4],
                   help="seed 1 is what smoothing and floor were chosen on")
    p.add_argument("--frames", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"))
    p.add_argument("--name", default="search")
    return p


def main():
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    _, weights = load_clip()
    write_parts(options, PARTS, [
        measure.conditions(), f"{weights.name} (sha256 {weights.sha256[:12]}…), seeds "
        f"{' '.join(map(str, options.seeds))}"])


if __name__ == "__main__":
    main()
