"""The main job for one product: adapt, judge its test pictures, write a run folder.

    fit.py     options from the command line
    here       data, detector, table, folder
    runs/run_all.py    several products, one after another or spread over processes

Test pictures are used for the table alone: nothing in a run is chosen by them.
Symbols: N pictures of H x W pixels.  Leaves out: judging loose pictures (predict.py).
"""
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import torch

from minilora import __version__
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data import own_and_visa
from minilora.data.images import read_image, read_mask
from minilora.data.mvtec import few_shot, find_data
from minilora.detector import ROWS, Detector
from minilora.io.cli import ProgressLine
from minilora.io.files import digest_of, sha256_of, write_json
from minilora.io.prefetch import prefetch
from minilora.io.resume import ResumePoint
from minilora.io.transaction import RESUME, settle, whole_folder
from minilora.report import html, results
from minilora.scenes import scene
from minilora.train import group_by_shape

SCORE_BATCH = 8                      # pictures that go through the tower together
EMBEDDED_DATA = "embedded scenes (drawn)"
EXPLAINED = {name: row.explained for name, row in ROWS.items()}
RUN_FILES = ("adapter.pt", "memory.pt", "metrics.json", "scores.csv", "maps", "report.html")


def open_data(options):
    """(Dataset, name of the data).  Without a data folder the embedded scenes are drawn."""
    if options.good:
        return own_and_visa.own_pictures(options.good, options.test, options.name), "own pictures"
    root = find_data(options.data)
    if root is not None:
        return own_and_visa.open_class(root, options.name), own_and_visa.layout_of(root)
    folder = scene.write_class(options.scenes, options.name)
    return own_and_visa.open_class(folder.parent, options.name), EMBEDDED_DATA


def prepare_pictures(samples, prepare):
    """N of (3, H, W) in [0, 1].  prepare: of a `Detector`."""
    return [prepare(read_image(s.path)) for s in samples]


def load_masks(samples, sizes):
    """N of (H, W) bool, empty masks for good pictures; None if a defective one has no mask.

    sizes: (H, W) of each.
    """
    if any(s.label != 0 and s.mask_path is None for s in samples):
        return None
    return [read_mask(s.mask_path, size) if s.label else torch.zeros(*size, dtype=torch.bool)
            for s, size in zip(samples, sizes)]


def score_pictures(detector, batches):
    """Maps and image scores of every row.  Returns {row: (N maps (H, W), scores (N,))}.

    batches: lists of pictures (3, H, W), SCORE_BATCH of them each; those of one shape go together.
    """
    maps, scores = {}, {}
    for pictures in batches:
        found = [None] * len(pictures)
        for group in group_by_shape(pictures):
            rows = detector.rows(torch.stack([pictures[k] for k in group]))
            for n, k in enumerate(group):
                found[k] = {row: (m[n], s[n]) for row, (m, s) in rows.items()}
        for row in found[0]:
            maps.setdefault(row, []).extend(each[row][0] for each in found)
            scores.setdefault(row, []).extend(each[row][1] for each in found)
    return {row: (maps[row], torch.stack(scores[row])) for row in maps}


def peak_memory(device):
    """Bytes: of the device if it is a GPU, else of this process (None on Windows)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if platform.system() == "Windows":
        return None
    import resource  # Unix alone has it
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_introduction(detector, weights, data, data_name, options, say):
    """The first lines: which weights, which data, which device, how much is trained."""
    trained, total = detector.parameters()
    config, blocks = detector.config, range(len(detector.clip.visual.blocks))[-detector.last:]
    where = f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"
    small = ", a small model, for trying things out" if weights.name == "mini-clip" else ""
    say(f"weights  {weights.name}{small}  (sha256 {weights.sha256[:12]}…)")
    new = data_name == EMBEDDED_DATA and data.name in scene.UNSEEN_CLASSES
    say(f"data     {data_name}: {data.root}, class {data.name}, {len(data.train)} good pictures, "
        f"{len(data.test)} to judge{'; a class never in pretraining' if new else ''}")
    say(f"device   {options.device}, {torch.get_num_threads()} threads, resolution "
        f"{detector.resolution}")
    say(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}): LoRA "
        f"r={config.rank} on {','.join(config.targets)} of {where}, "
        f"{detector.prompts.context.shape[1]} context vectors a prompt")


def fingerprint(config, weights, data, options):
    """What a run depends on, as 16 hexadecimal digits: a run with the same need not be repeated."""
    files = [(str(path), s.label, path.stat().st_size, path.stat().st_mtime_ns)
             for s in data.train + data.test for path in (s.path, s.mask_path) if path]
    return digest_of(__version__, asdict(config), weights.sha256, data.name, options.class_name,
                     options.shots, options.device, files)


def training_fingerprint(config, weights, shots, class_name, device):
    """The same of a training alone, to the last bit: its pictures, and what rounds."""
    return digest_of(__version__, asdict(config), weights.sha256, class_name, device,
                     [sha256_of(s.path) for s in shots], torch.__version__,
                     torch.get_num_threads())


def finished_metrics(folder, mark):
    """The metrics of a run folder that was written with this fingerprint, else None."""
    try:
        kept = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):       # not there, or not what a run wrote
        return None
    whole = isinstance(kept, dict) and kept.get("fingerprint") == mark and type(
        kept.get("class")) is str and isinstance(kept.get("rows", {}), dict)
    return kept if whole else None


def run_class(options, say=print, again=True):
    """The whole job.  Returns the content of metrics.json.

    again: whether to do it once more if the folder holds a finished run with the same fingerprint.
    """
    begun = time.time()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: no such device here; use --device cpu")
    clip, weights = load_clip(options.model, options.device)
    data, data_name = open_data(options)
    config = options.config
    mark = fingerprint(config, weights, data, options)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder")
    settle(options.out)
    kept = None if again else finished_metrics(options.out, mark)
    if kept:
        say(f"finished {options.out}, nothing has changed since; --force repeats it")
        return kept
    detector = Detector(clip, options.class_name or data.name, config)
    with whole_folder(options.out, "fit", earlier=RUN_FILES) as staging:
        if (options.out / "metrics.json").exists():
            say(f"replaces the earlier run in {options.out}")
        print_introduction(detector, weights, data, data_name, options, say)
        shots = few_shot(data.train, options.shots, options.config.seed)
        resume = ResumePoint(staging / RESUME, training_fingerprint(
            config, weights, shots, detector.class_name, options.device), options.save_every)
        done = len(kept["losses"]) if (kept := resume.saved()) else 0
        if done:
            say(f"goes on at step {done}, where the same training was stopped")
        if shots:
            detector.fit(prepare_pictures(shots, detector.prepare),
                         ProgressLine(config.steps, done), resume)
        detector.save(staging, weights)
        metrics = run_metadata(detector, weights, data, data_name, options) | {
            "fingerprint": mark, "drawn": [os.path.relpath(s.path, data.root) for s in shots]}
        metrics = write_run_results(staging, detector, data.test, metrics, begun, options, say)
    if not data.test and shots:
        say(f"threshold {detector.threshold:.3f}, from {len(shots)} good pictures; next: "
            f"python -m minilora.predict {options.out} PICTURES")
    norms = list(metrics["delta_norms"].values())
    say(f"LoRA     |ΔW| {min(norms):.3f} to {max(norms):.3f} over {len(norms)} projections")
    say(f"written  {options.out}  ({metrics['seconds']:.0f} s, peak memory "
        f"{(metrics['peak_memory_bytes'] or 0) / 2**20:,.0f} MB)")
    return metrics


def write_run_results(folder, detector, samples, metrics, begun, options, say):
    """Judges the test pictures, if there are any; writes all that a run leaves beside the detector.

    metrics: what `describe` says.  Returns them with the results.
    """
    if samples:
        scores, results, panels = evaluate(detector, samples, folder)
        metrics = metrics | results
        print_results(metrics, say)
    metrics |= {"seconds": time.time() - begun, "peak_memory_bytes": peak_memory(options.device)}
    write_json(folder / "metrics.json", metrics)
    if samples:
        html.write_page(folder / "report.html", metrics, EXPLAINED, scores, samples, panels,
                        options.command)
    return metrics


def print_results(metrics, say):
    """The table, and what the threshold achieves."""
    if any(value is not None for row in metrics["rows"].values() for value in row.values()):
        say(results.text_table(metrics["rows"], EXPLAINED))
        best = list(metrics["rows"])[-1]
        say(f"image AUROC of each kind of defect against the good pictures, row {best}:")
        drawn = metrics["data"]["name"] == EMBEDDED_DATA
        for kind, value in metrics["kinds"].items():
            new = "   never in pretraining" if drawn and kind == scene.UNSEEN_FLAW else ""
            say(f"  {kind:20s} {results.percent(value)}{new}")
    counts = metrics["decisions"]
    if counts and counts["unlabelled"]:
        say(f"threshold {metrics['threshold']:.3f}: {counts['called']} of {counts['unlabelled']} "
            "pictures NG")
    elif counts:
        say("threshold {threshold:.3f}: {found} of {defective} defective pictures NG, "
            "{false_alarms} of {good} good ones too".format(**metrics, **counts))


def run_metadata(detector, weights, data, data_name, options):
    """What metrics.json says of a run beside its results."""
    trained, total = detector.parameters()
    return {"version": __version__, "class": data.name, "shots": options.shots,
            "seed": options.config.seed, "model": {"name": weights.name, "sha256": weights.sha256},
            "data": {"name": data_name, "root": str(data.root)}, "device": options.device,
            "resolution": detector.resolution, "trainable_parameters": trained,
            "total_parameters": total, "threshold": detector.threshold,
            "losses": detector.losses, "delta_norms": detector.delta_norms()}


def evaluate(detector, samples, out):
    """Judges test pictures, writes scores and maps.  Returns ({row: scores}, metrics, panels).

    Pictures of unknown label (None) are judged like the others; metrics count the others alone.
    """
    parts = [samples[k:k + SCORE_BATCH] for k in range(0, len(samples), SCORE_BATCH)]
    pictures = []                                           # shown beside their maps, later

    def load(part):
        loaded = prepare_pictures(part, detector.prepare)
        pictures.extend(loaded)
        return loaded

    rows = score_pictures(detector, prefetch(load, parts))
    masks = load_masks(samples, [picture.shape[1:] for picture in pictures])
    maps, scores = rows.get("adapted", rows["zero-shot"])
    results.write_scores(out / "scores.csv", samples, scores, detector.threshold)
    panels = results.write_maps(out / "maps", samples, pictures, masks, maps, scores,
                               detector.threshold)
    known = [k for k, s in enumerate(samples) if s.label is not None]
    labels = torch.tensor([samples[k].label for k in known])
    masks = None if masks is None else [masks[k] for k in known]
    with ThreadPoolExecutor(2) as threads:                  # sorting runs on one core each
        measured = threads.map(lambda m, s: results.row_metrics(s[known], [m[k] for k in known],
                                                               labels, masks),
                               *zip(*rows.values()))
        metrics = {"rows": dict(zip(rows, measured))}
    metrics["kinds"] = results.kind_metrics(scores[known], [samples[k].kind for k in known])
    metrics["decisions"] = results.decision_metrics(scores, [s.label for s in samples],
                                                   detector.threshold)
    return {row: s.tolist() for row, (_, s) in rows.items()}, metrics, panels


def demo():
    """The whole job on six small pictures with an untrained tower."""
    import tempfile
    from pathlib import Path
    from types import SimpleNamespace

    from minilora.checkpoint.weights import save_official
    from minilora.clip import CLIP, CLIPConfig
    with tempfile.TemporaryDirectory() as folder:
        root, weights = Path(folder), Path(folder) / "toy.pt"
        clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                               text_width=64, text_layers=1))
        save_official(clip.initialise(torch.Generator().manual_seed(0)), weights)
        scene.write_class(root, "gear", good=3, test_good=2, defective=1, resolution=64)
        options = SimpleNamespace(          # what fit.py makes of the command line
            name="gear", shots=2, data=folder, good=None, test=None, class_name=None,
            model=str(weights), device="cpu", out=root / "run", save_every=10.0, command="demo",
            config=DetectorConfig(steps=2))
        run_class(options, say=lambda line: None)
        print("a run folder:", ", ".join(sorted(p.name for p in options.out.iterdir())))
        same = run_class(options, say=lambda line: print(line.replace(folder, "…")), again=False)
        print(f"threshold {same['threshold']:.3f}, fingerprint {same['fingerprint']}")


if __name__ == "__main__":
    demo()
