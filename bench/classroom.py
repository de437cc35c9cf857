"""The classroom: minilora and older or other methods of defect detection, on the same pictures.

    python -m bench.classroom --data FOLDER --start resnet18-scenes.pt

Every method is scored on all good test pictures and on the half of the defective pictures that no
method may learn from (minilora/data/splits.py; the seed draws it).  A method without labels learns
from K good pictures; one with labels from as many good as defective pictures.  Each cell (class,
seed, method) runs in a fresh process and is stored in a small file.
Columns: trainable parameters, seconds of the fit including reading, peak of memory above its
value before the fit, number of pictures and of defect labels used.
Left out: choosing anything by the pictures that are scored.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure
from bench.accuracy import cell, spread
from bench.tables import write
from minilora import __version__
from minilora.baselines.autoencoder import Autoencoder
from minilora.baselines.simclr import SimCLR
from minilora.baselines.supervised import RECIPES, Supervised
from minilora.baselines.svdd import DeepSVDD
from minilora.checkpoint.published import Weights
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data import splits
from minilora.data.images import load_squares, normalise
from minilora.data.mvtec import Dataset, Sample, few_shot, load_class
from minilora.data.samples import load_masks
from minilora.detector import Detector
from minilora.io.files import digest_of, sha256_of
from minilora.mae.detector import MaskedReconstruction
from minilora.report import results

ALONE = {"autoencoder": Autoencoder, "Deep SVDD": DeepSVDD, "SimCLR": SimCLR,
         "masked autoencoder": MaskedReconstruction}
FEW = 4                         # labels of each kind of defect; the alternative is all labels
WITHOUT = ("minilora, 4 shots", "minilora, 8 shots", "one-class SVM on CLIP", *ALONE)
WITH = tuple(f"{name}, {n} labels" for n in (FEW, "all") for name in RECIPES)
COLUMNS = ("image_auroc", "pixel_auroc", "accuracy", "balanced", "kinds")
TITLES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "accuracy": "OK/NG right",
          "balanced": "the same, balanced", "kinds": "kind right"}
USED = ("trainable", "seconds", "peak MB", "pictures", "labels")


class OneClassSVM:
    """scikit-learn's one-class SVM on frozen features of CLIP's image tower."""

    def __init__(self, seed):
        from sklearn.svm import OneClassSVM as Machine
        self.clip = load_clip()[0].requires_grad_(False)
        self.machine, self.resolution = Machine(nu=0.1), self.clip.config.resolution

    @torch.no_grad()
    def features(self, pixels):
        found = [self.clip.encode_image(normalise(part)) for part in pixels.split(16)]
        return F.normalize(torch.cat(found), dim=-1).numpy()

    def fit(self, pictures):
        self.machine.fit(self.features(pictures))
        return self

    def score(self, pixels):
        return None, -torch.from_numpy(self.machine.score_samples(self.features(pixels))).float()


def unlabelled(method: str, data: Dataset, seed: int) -> tuple:
    """(method without labels, before its fit; its good pictures; trainable parameters)."""
    shots = 4 if method == "minilora, 4 shots" else 8
    chosen = few_shot(data.train, shots, seed)
    if method.startswith("minilora"):
        made = Detector(load_clip()[0], data.name, DetectorConfig(seed=seed))
        return made, chosen, made.parameters()[0]
    if method in ALONE:
        made = ALONE[method](seed=seed)
        return made, chosen, sum(p.numel() for p in made.parameters())
    return OneClassSVM(seed), chosen, 0


def evaluate(method: str, root: str, name: str, seed: int, start: str | None,
             threads: int) -> dict:
    """All results of one cell, a dict.  Runs in a fresh process."""
    torch.set_num_threads(threads)
    data = load_class(root, name)
    split = splits.split(data, "all", seed)
    truth = split.targets(split.test)
    before, begun = measure.resident(), time.time()
    Path("/proc/self/clear_refs").write_text("5")                   # VmHWM := VmRSS
    if method in WITHOUT:
        made, chosen, trainable = unlabelled(method, data, seed)
        made.fit(load_squares([s.path for s in chosen], made.resolution))
        used = {"pictures": len(chosen), "labels": 0}
        seconds = time.time() - begun
        maps, scores = maps_and_scores(made, split.test)
        threshold, right = getattr(made, "threshold", None), {}
        decisions = None if threshold is None else scores > threshold
    else:
        recipe, count = method.removesuffix(" labels").rsplit(", ", 1)
        learned = splits.split(data, FEW if count == str(FEW) else "all", seed)
        made = Supervised(RECIPES[recipe], len(split.kinds), seed, start)
        pixels = load_squares([s.path for s in learned.train], made.resolution)
        made.fit(pixels, learned.targets(learned.train))
        trainable, seconds = made.trainable(), time.time() - begun
        odds = made.probabilities(load_squares([s.path for s in split.test], made.resolution))
        maps, scores, decisions = None, 1 - odds[:, 0], odds.argmax(1) > 0
        used = {"pictures": len(learned.train), "labels": sum(s.label for s in learned.train)}
        right = {"kinds": (odds.argmax(1) == truth).float().mean().item(),
                 "confusion": confusion(odds.argmax(1), truth, len(split.kinds))}
    bad = truth > 0
    masks = None if maps is None else load_masks(split.test, [m.shape for m in maps])
    found = results.row_metrics(scores, maps, bad, masks)
    if decisions is not None:
        right |= {"accuracy": (decisions == bad).float().mean().item(), "balanced": (
            decisions[bad].float().mean() + (~decisions[~bad]).float().mean()).item() / 2}
    peak = (measure.resident("VmHWM") - before) / 1e6
    return {**{k: found[k] for k in ("image_auroc", "pixel_auroc")}, **right, **used,
            "trainable": trainable, "seconds": seconds, "peak MB": peak, "kinds of": split.kinds,
            "judged": len(truth)}


def maps_and_scores(made, samples: list[Sample]) -> tuple[Tensor | None, Tensor]:
    """(maps at 224 pixels or None, scores) of a fitted method without labels."""
    pixels = load_squares([s.path for s in samples], made.resolution)
    with torch.no_grad():
        maps, scores = zip(*[made.score(part) for part in pixels.split(8)])
    if maps[0] is None:
        return None, torch.cat(scores)
    whole = F.interpolate(torch.cat(maps)[:, None], (224, 224), mode="bilinear")[:, 0]
    return whole, torch.cat(scores)


def confusion(found: Tensor, truth: Tensor, classes: int) -> list[list[int]]:
    """[[number of pictures of kind i that were classified as kind j]]."""
    pairs = truth * classes + found
    return pairs.bincount(minlength=classes ** 2).view(classes, classes).tolist()


def collect(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict, Weights]:
    """({(method, class): [cell of each seed]}, weights of the embedded model)."""
    start = str(options.start) if options.start else None
    mark = sha256_of(start) if start else None
    _, weights = load_clip()
    found = {}
    for name in options.names:
        for seed in options.seeds:
            for method in options.methods:
                key = digest_of(name, seed, method, weights.sha256, mark, __version__,
                                code_version())
                path = options.out / "classroom" / f"{name}-{seed}-{method.replace(' ', '-')}.json"
                row = cell(path, key, partial(measure.fresh, evaluate, method, str(options.data),
                                              name, seed, start, options.threads))
                found.setdefault((method, name), []).append(row)
                say(f"{name:14s} seed {seed}  {method:34s} image AUROC "
                    f"{results.percent(row['image_auroc'])}  {row['seconds']:.0f} s")
    return found, weights


def code_version() -> str:
    """Fingerprint of the code of the methods."""
    folder = measure.REPO / "minilora"
    names = ("data/splits", "mae/model", "mae/patches", "mae/detector", "train", "training_steps",
             "memory_bank", "calibration", "features", "detector")
    parts = [*sorted(folder.glob("baselines/*.py")), *(folder / f"{name}.py" for name in names)]
    return digest_of(*[p.read_text() for p in parts])


def tables(found: dict, options: argparse.Namespace) -> list[tuple]:
    """A table for each metric, one of the resources used, a confusion matrix for each method."""
    out = []
    for column in COLUMNS:
        rows = []
        for method in options.methods:
            values = [[row.get(column) for row in found[method, name]] for name in options.names]
            if any(v is not None for seeds in values for v in seeds):
                means = [statistics.mean(seeds) for seeds in values if None not in seeds]
                rows.append([method, *map(spread, values),
                             spread([statistics.mean(means)]) if means else "--"])
        out.append((f"{TITLES[column]}, per cent", ["method", *options.names, "mean"], rows))
    rows = []
    for method in options.methods:
        cells = [row for name in options.names for row in found[method, name]]
        middle = {key: statistics.median(row[key] for row in cells) for key in USED}
        rows.append([method, f"{middle['trainable']:,.0f}", f"{middle['seconds']:.1f}",
                     f"{middle['peak MB']:,.0f}", f"{middle['pictures']:.0f}",
                     f"{middle['labels']:.0f}"])
    out.append(("what it took, medians", ["method", *USED], rows))
    return out + confusions(found, options)


def confusions(found: dict, options: argparse.Namespace) -> list[tuple]:
    """Confusion matrices of the methods with all labels, summed over the seeds."""
    out = []
    for name in options.names:
        for method in options.methods:
            cells = [row for row in found[method, name] if "confusion" in row]
            if not cells or not method.endswith("all labels"):
                continue
            kinds = cells[0]["kinds of"]
            total = [[sum(c["confusion"][i][j] for c in cells) for j in range(len(kinds))]
                     for i in range(len(kinds))]
            out.append((f"{name}: {method}, rows: what it is, columns: what it was called",
                        ["", *kinds], [[k, *map(str, row)] for k, row in zip(kinds, total)]))
    return out


def numbers(found: dict) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file: one row for each class and method, mean over the seeds."""
    header = ("method", "class", *COLUMNS, *USED, "seeds")
    rows = []
    for (method, name), cells in found.items():
        values = []
        for key in (*COLUMNS, *USED):
            known = [row[key] for row in cells if row.get(key) is not None]
            values.append(f"{statistics.mean(known):.6g}" if known else "")
        rows.append((method, name, *values, len(cells)))
    return header, rows


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.classroom",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder in MVTec AD's layout")
    p.add_argument("--class", dest="names", nargs="+",
                   default=["bottle", "cookie", "magnetic_tile"])
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--methods", nargs="+", default=[*WITHOUT, *WITH], metavar="NAME",
                   help=f"some of: {'; '.join([*WITHOUT, *WITH])}")
    p.add_argument("--start", type=Path, help="weights of a ResNet-18: torchvision's, or those of "
                                              "minilora.baselines.scene_pretraining")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"))
    p.add_argument("--name", default="classroom")
    return p


def main() -> None:
    options = parser().parse_args()
    found, weights = collect(options, lambda line: print(line, flush=True))
    torch.set_num_threads(options.threads)
    head = [measure.conditions(packages=("sklearn",)),
            f"seeds {' '.join(map(str, options.seeds))}; weights of minilora and the SVM: "
            f"{weights.name} (sha256 {weights.sha256[:12]}…); of the ResNet: "
            f"{options.start.name if options.start else 'none, it starts from random numbers'}"]
    write(options.out, options.name, tables(found, options), head, numbers(found))


if __name__ == "__main__":
    main()
