"""Ablation: one variant at a time, compared with the default or with the plain memory.

    python -m bench.ablation --data FOLDER --variants memory

Scored on the even-numbered test pictures of photographs and scenes.  Defaults may be chosen on
these; the odd-numbered pictures are for the results.  Cells are stored as in accuracy.py.  Variants
of the memory (ablation_memory.py) are scored by the row "memory", without training; the others
(ablation_training.py) by the row "adapted".

A variant passes if it raises the mean image AUROC of all classes by GAIN points and no class loses
more than LOSS points.  Only variants that pass belong in minilora.
Left out: combinations of variants.
"""
import statistics
import time
from argparse import Namespace
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from bench import accuracy
from bench.ablation_memory import MEMORY, Variant
from bench.ablation_training import LORA, PARTS
from bench.tables import write
from minilora import __version__
from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data.mvtec import Dataset, Sample, few_shot, find_data, load_class
from minilora.data.samples import load_masks, prepare_pictures
from minilora.rows import ROWS
from minilora.io.files import digest_of
from minilora.report import results
from minilora.scenes import scene

GAIN, LOSS = 0.5, 1.0           # points of image AUROC: of the mean, of the worst class
GROUPS = {"memory": MEMORY, "parts": PARTS, "lora": LORA}


def evaluate_memory(variant: Variant, config: DetectorConfig, data: Dataset,
                    options: Namespace) -> dict[str, float]:
    """Metrics of the row "memory": without training and texts."""
    detector = variant.detector(load_clip(options.model, options.device)[0], data.name, config)
    shots = prepare_pictures(few_shot(data.train, options.shots, config.seed), detector.prepare)
    with torch.no_grad():
        bank = detector.build_bank([detector.encode(p[None], lora=False)
                                    for _, p in detector.rotated_copies(shots)], "memory")
        found = [detector.map_and_score(detector.encode(p[None], lora=False), "memory", bank)
                 for p in prepare_pictures(data.test[::2], detector.prepare)]
    return two_metrics([m[0] for m, _ in found], torch.cat([s for _, s in found]), data.test[::2])


def evaluate_adapted(variant: Variant, config: DetectorConfig, data: Dataset,
                     options: Namespace) -> dict[str, float]:
    """Metrics of the row "adapted", and with a prefix those of "lora-off" and "text"."""
    detector = variant.detector(load_clip(options.model, options.device)[0], data.name, config)
    patched = getattr(variant.detector, "patched", {})
    with patch.multiple("minilora.train", **patched) if patched else nullcontext():
        detector.fit(prepare_pictures(few_shot(data.train, options.shots, config.seed),
                                      detector.prepare))
    names, maps, scores = ("adapted", "lora-off", "text"), {}, {}
    with torch.no_grad():
        for picture in prepare_pictures(data.test[::2], detector.prepare):
            seen = {lora: detector.encode(picture[None], lora) for lora in (True, False)}
            for name in names:
                found = detector.map_and_score(seen[ROWS[name].lora], name)
                maps.setdefault(name, []).append(found[0][0])
                scores.setdefault(name, []).append(found[1])
    out = {}
    for name in names:
        metrics = two_metrics(maps[name], torch.cat(scores[name]), data.test[::2])
        out |= {("" if name == "adapted" else f"{name} ") + k: v for k, v in metrics.items()}
    return out


def two_metrics(maps: list[Tensor], scores: Tensor, samples: list[Sample]) -> dict[str, float]:
    """AUROC of pictures and of pixels only; the other metrics take too long."""
    labels = torch.tensor([s.label for s in samples])
    masks = load_masks(samples, [tuple(m.shape) for m in maps])
    pixels = auroc(*(torch.cat([m.flatten() for m in column]) for column in (maps, masks)))
    return {"image_auroc": auroc(scores, labels), "pixel_auroc": pixels}


def classes(root: Path, options: Namespace) -> dict[str, Dataset]:
    """{name in the table: `Dataset`}: photographs, then scenes with names such as "drawn gear"."""
    found = {name: load_class(root, name) for name in options.names}
    for name in options.scenes:
        drawn = scene.write_class(options.out / "scenes", name)
        found[f"drawn {name}"] = load_class(drawn.parent, name)
    return found


def verdicts(found: dict, names: Iterable[str]) -> tuple:
    """Difference of each variant from the first one, in points of image AUROC, mean over seeds.

    found: {(variant, class): [metrics of each seed]}.  Returns (title, header, rows of text).
    """
    variants = list(dict.fromkeys(variant for variant, _ in found))
    value = {key: 100 * statistics.mean(m["image_auroc"] for m in seeds)
             for key, seeds in found.items()}
    lines = []
    for variant in variants[1:]:
        gain = {name: value[variant, name] - value[variants[0], name] for name in names}
        drawn = [g for name, g in gain.items() if name.startswith("drawn ")]
        real = [g for name, g in gain.items() if not name.startswith("drawn ")]
        mean, worst = statistics.mean(gain.values()), min(gain, key=gain.get)
        passes = mean >= GAIN and gain[worst] >= -LOSS
        lines.append([variant, *(f"{statistics.mean(part):+.1f}" if part else "--"
                               for part in (real, drawn, list(gain.values()))),
                      f"{gain[worst]:+.1f} {worst}", "yes" if passes else "no"])
    return (f"difference from {variants[0]}, points of image AUROC",
            ["variant", "photographs", "scenes", "all", "worst class", "passes"], lines)


def main() -> None:
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.ablation", __doc__.split("\n")[0]
    p.add_argument("--variants", "--levers", default="memory", choices=list(GROUPS),
                   help="group of variants")
    p.add_argument("--only", nargs="+", 
                   help="some variants of the group; the first is the reference")
    p.add_argument("--scenes", nargs="*", default=list(scene.CLASSES), help="drawn classes")
    p.set_defaults(name="ablation", names=["bottle", "cookie", "magnetic_tile", "commutator"])
    options = p.parse_args()
    _, weights = load_clip(options.model)
    root = find_data(options.data)
    if root is None:
        p.error("--data: expected a folder in MVTec AD's layout")
    found, data = {}, classes(root, options)
    compute = evaluate_memory if options.variants == "memory" else evaluate_adapted
    for label in options.only or GROUPS[options.variants]:
        variant = GROUPS[options.variants][label]
        for name, pictures in data.items():
            for seed in options.seeds:
                config = replace(DetectorConfig(seed=seed, steps=options.steps), **variant.config)
                mark = digest_of(compute.__name__, weights.sha256, name, len(pictures.test),
                                 options.shots, label, asdict(config), __version__)
                path = options.out / "cells" / f"even-{name.replace(' ', '-')}-{mark}.json"
                rows = accuracy.cell(path, mark, compute, variant, config, pictures, options)
                found.setdefault((label, name), []).append(rows)
                print(f"{name:18s} seed {seed}  {label:32s} "
                      f"{results.percent(rows['image_auroc'])} "
                      f"{results.percent(rows['pixel_auroc'])}", flush=True)
    row = "memory" if compute is evaluate_memory else "adapted"
    head = [f"row {row} on the even-numbered pictures; {options.shots} shots, seeds "
            f"{' '.join(map(str, options.seeds))}; weights {weights.name} "
            f"(sha256 {weights.sha256[:12]}…); minilora {__version__}; {time.strftime('%Y-%m-%d')}"]
    made = [verdicts(found, data), *accuracy.tables(found, list(data))]
    write(options.out, options.name, made, head, accuracy.numbers(found))


if __name__ == "__main__":
    main()
