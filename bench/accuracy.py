"""Accuracy of minilora and of published methods, with the same tower, pictures and seeds.

    python -m bench.accuracy --class bottle cable --shots 8 --seeds 1 2 3
    python -m bench.accuracy --class bottle --data FOLDER --methods minilora winclip

Each cell (class, shots, seed, method) of the results is stored in a small file.  A stored cell with
the same weights, data, configuration and version is not computed again.  The tables show mean ±
standard deviation over the seeds for each class, then the mean over classes.
Left out: timings (other modules of bench), choosing defaults by these numbers.
"""
import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from bench.accuracy_tables import METRICS, numbers, spread, tables  # noqa: F401, for others
from bench.extra_methods import EXTRA
from bench.recipes import HEADER, recipes
from bench.tables import write
from minilora import __version__
from minilora.baselines.anomalyclip import AnomalyCLIP
from minilora.baselines.anomalydino import AnomalyDINO
from minilora.baselines.finetuned import CoOp, FullFineTuning, LinearProbe
from minilora.baselines.patchcore import PatchCore
from minilora.baselines.winclip import WinCLIP
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.data.images import load_squares, read_image, to_patches
from minilora.data.mvtec import Dataset, Sample, few_shot, find_data, load_class
from minilora.data.samples import load_masks, prepare_pictures
from minilora.detector import Detector
from minilora.io.cli import device_name
from minilora.io.files import digest_of, write_json
from minilora.report import results
from minilora.runs.evaluation import SCORE_BATCH, score_pictures
from minilora.scenes import scene

TRAINED = {"coop": CoOp, "full fine-tuning": FullFineTuning, "linear probe": LinearProbe} | EXTRA
UNTRAINED = {"patchcore": "PatchCore", "anomalydino": "AnomalyDINO's recipe"}    # method: row
METHODS = ("minilora", "winclip", "anomalyclip", *UNTRAINED, *TRAINED)


def squares(samples: list[Sample], resolution: int) -> Tensor:
    """Whole pictures as squares, (N, 3, R, R) in [0, 1]: for WinCLIP, AnomalyCLIP, TRAINED."""
    return load_squares([s.path for s in samples], resolution)


def joined(parts: list[tuple]) -> tuple[Tensor, ...]:
    """[(maps, scores) of each batch] -> (maps, scores) of all pictures."""
    return tuple(torch.cat(column) for column in zip(*parts))


def in_batches(score: Callable, pictures: Tensor) -> tuple[Tensor, ...]:
    """(maps, scores) of all pictures, scored batch by batch."""
    return joined([score(part) for part in pictures.split(SCORE_BATCH)])


def nearest_patches(method: str, clip: CLIP, shots: list[Sample], test: list[Sample],
                    resolution: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """(maps, scores) of a method of UNTRAINED; pictures keep their aspect ratio, as minilora's."""
    def prepared(samples):
        return (to_patches(read_image(s.path), resolution, clip.visual.patch) for s in samples)
    bank = PatchCore(clip, seed) if method == "patchcore" else AnomalyDINO(clip)
    bank.fit(prepared(shots))
    found = [bank.score(picture[None]) for picture in prepared(test)]
    return [maps[0] for maps, _ in found], torch.cat([scores for _, scores in found])


def other_products(name: str, resolution: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Test pictures and masks of every embedded class except `name`: AnomalyCLIP trains on them."""
    samples = []
    for other in scene.CLASSES:
        if other != name:
            root = scene.write_class(folder, other).parent
            samples += load_class(root, other).test
    sizes = [(resolution, resolution)] * len(samples)
    return squares(samples, resolution), torch.stack(load_masks(samples, sizes))


def maps_and_scores(method: str, data: Dataset, shots: int | str, config: DetectorConfig,
                    model: str | None, device: str, folder: Path) -> tuple[dict, float | None]:
    """({row: (maps, scores)} on all test pictures of one class, threshold or None)."""
    clip, _ = load_clip(model, device)
    chosen = few_shot(data.train, shots, config.seed)
    if method == "minilora":
        detector = Detector(clip, data.name, config)
        if chosen:
            detector.fit(prepare_pictures(chosen, detector.prepare))
        parts = (prepare_pictures(data.test[k:k + SCORE_BATCH], detector.prepare)
                 for k in range(0, len(data.test), SCORE_BATCH))
        return score_pictures(detector, parts), detector.threshold
    resolution = config.resolution or clip.config.resolution
    if method in UNTRAINED:
        return {UNTRAINED[method]: nearest_patches(method, clip, chosen, data.test, resolution,
                                                   config.seed)} if chosen else {}, None
    test = squares(data.test, resolution)
    good = squares(chosen, resolution) if chosen else None
    if method == "winclip":
        windows = WinCLIP(clip, data.name, resolution)
        if chosen:
            windows.fit(good)
        parts = [windows.rows(part) for part in test.split(SCORE_BATCH)]
        return {row: joined([part[row] for part in parts]) for row in parts[0]}, None
    if method == "anomalyclip":
        agnostic = AnomalyCLIP(clip, resolution, seed=config.seed)
        agnostic.fit(*other_products(data.name, resolution, folder))
        return {"AnomalyCLIP": in_batches(agnostic.score, test)}, None
    if not chosen:
        return {}, None
    trained = TRAINED[method](clip, data.name, config).fit(good)
    return {method: in_batches(trained.score, test)}, None


def compute(method: str, data: Dataset, config: DetectorConfig,
            options: argparse.Namespace) -> dict[str, dict]:
    """{row: metrics} of one method on all test pictures of one class."""
    rows, threshold = maps_and_scores(method, data, options.shots, config, options.model,
                                      options.device, options.out / "scenes")
    found = with_metrics(rows, data.test)
    if threshold is not None:
        found["adapted"] |= decisions(rows["adapted"][1], data.test, threshold)
    return found


def decisions(scores: Tensor, samples: list[Sample], threshold: float) -> dict[str, float]:
    """The shares of good and of defective pictures that the threshold calls NG."""
    count = results.decision_metrics(scores, [s.label for s in samples], threshold)
    return {"false_alarms": count["false_alarms"] / max(1, count["good"]),
            "detected": count["found"] / max(1, count["defective"])}


def with_metrics(rows: dict, samples: list[Sample]) -> dict[str, dict]:
    """{row: (maps, scores)} -> {row: metrics}."""
    if not rows:
        return {}
    sizes = [tuple(m.shape) for m in next(iter(rows.values()))[0]]
    labels, masks = torch.tensor([s.label for s in samples]), load_masks(samples, sizes)
    return {row: results.row_metrics(s, m, labels, masks) for row, (m, s) in rows.items()}


def cell(path: Path, fingerprint: str, compute: Callable, *arguments):
    """Result of one cell: read from its file, or computed by compute(*arguments) and stored.

    fingerprint: a stored cell with another one is computed again.
    """
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["fingerprint"] == fingerprint:
            return kept["rows"]
    begun = time.time()
    rows = compute(*arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"fingerprint": fingerprint, "seconds": time.time() - begun, "rows": rows})
    return rows


def used_config(method: str, config: DetectorConfig) -> dict:
    """The fields of the configuration that a method uses; the rest of the configuration of WinCLIP,
    AnomalyCLIP, PatchCore and AnomalyDINO is fixed in their modules."""
    if method in ("winclip", "anomalyclip", *UNTRAINED):
        used = {"resolution": config.resolution, "seed": config.seed}
        return used | ({"aspect": "kept"} if method in UNTRAINED else {})
    return asdict(config)


def collect(options: argparse.Namespace, say: Callable[[str], None] = print):
    """({(row, class): [metrics of each seed]}, weights), computing the cells that are not stored.

    The metrics include the seed and the file names of the shots.
    """
    _, weights = load_clip(options.model)
    root, found = find_data(options.data), {}
    for name in options.names:
        if root is None:
            data = load_class(scene.write_class(options.out / "scenes", name).parent, name)
        else:
            data = load_class(root, name)
        source = "scenes" if root is None else "pictures"
        for seed in options.seeds:
            config = DetectorConfig(seed=seed, steps=options.steps, resolution=options.resolution)
            for method in options.methods:
                fingerprint = digest_of(weights.sha256, source, name, len(data.test),
                                        options.shots, method, used_config(method, config),
                                        __version__)
                path = (options.out / "cells" / f"{source}-{name}-{options.shots}shot-seed{seed}-"
                                                f"{method.replace(' ', '-')}.json")
                rows = cell(path, fingerprint, compute, method, data, config, options)
                shots = " ".join(s.path.name for s in few_shot(data.train, options.shots, seed))
                for row, metrics in rows.items():
                    found.setdefault((row, name), []).append(
                        {"seed": seed, **metrics, "shots": shots})
                    say(f"{name:14s} seed {seed}  {row:20s} "
                        + "  ".join(f"{label} {results.percent(metrics[key]).strip()}"
                                    for key, label in METRICS.items()))
    return found, weights


def publish(found: dict, head: list[str], options: argparse.Namespace,
            more: Sequence[tuple] = ()) -> None:
    """Writes NAME.txt, .md and .csv and prints the first.  more: wide tables, only for .md."""
    drawn = find_data(options.data) is None
    made = tables(found, options.names, scene.UNSEEN_CLASSES if drawn else ())
    write(options.out, options.name, made, head, numbers(found), more)


def shots_of(text: str) -> int | str:
    """--shots: a number, or "all"."""
    return text if text == "all" else int(text)


def parser(shots: int | tuple = 8) -> argparse.ArgumentParser:
    """Options that several commands of bench share.  shots: the default, one or several."""
    p = argparse.ArgumentParser(prog="python -m bench.accuracy",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--class", dest="names", nargs="+", default=list(scene.CLASSES))
    p.add_argument("--shots", type=shots_of, default=shots,
                   nargs=None if isinstance(shots, int) else "+",
                   help="good pictures to learn from: a number, or all")
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--data", help="folder in MVTec AD's layout; else $MINILORA_DATA, data/mvtec, "
                                  "or the embedded scenes")
    p.add_argument("--model", help="official name or checkpoint file; else the embedded mini-clip")
    p.add_argument("--steps", type=int, default=DetectorConfig().steps)
    p.add_argument("--resolution", type=int, default=0, help="0: the model's own")
    p.add_argument("--device", default="auto", type=device_name)
    p.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="folder of the cells")
    p.add_argument("--name", default="accuracy", help="of the tables: NAME.txt, .md, .csv")
    return p


def main() -> None:
    p = parser()
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = p.parse_args()
    found, weights = collect(options, lambda line: print(line, flush=True))
    where = "pictures in MVTec AD's layout" if find_data(options.data) else "embedded scenes"
    head = [f"{where}; {options.shots} shots, seeds {' '.join(map(str, options.seeds))}; weights "
            f"{weights.name} (sha256 {weights.sha256[:12]}…); minilora {__version__}, torch "
            f"{torch.__version__}; {options.device}, {torch.get_num_threads()} threads; "
            f"{time.strftime('%Y-%m-%d')}; the threshold aims at "
            f"{DetectorConfig().false_positive_rate:.0%} false alarms"]
    publish(found, head, options, [("what each method was trained with", HEADER, recipes())])


if __name__ == "__main__":
    main()
