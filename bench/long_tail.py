"""Long-tailed training: plain cross-entropy, class-balanced weights, balanced contrast.

    python -m bench.long_tail --data FOLDER --class bottle magnetic_tile --start resnet18-scenes.pt

With --start a ResNet-18 is trained from these weights, otherwise the small CNN.

Training pictures: GOOD good ones; of the kinds of defects, in the order of their names, a half, a
quarter, an eighth ... of the pictures for training, at least 2 (splits.split).  The test pictures
are those of bench.classroom.  Accuracy is given for head, middle and tail: the thirds of the kinds,
ordered by their number of training pictures.
Left out: other networks and losses.
"""
import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from bench import measure
from bench.accuracy import cell, spread
from bench.classroom import code_version
from bench.tables import write
from minilora.baselines.long_tail import group_by_frequency
from minilora.baselines.supervised import RECIPES, Supervised
from minilora.data import splits
from minilora.data.images import load_squares
from minilora.data.mvtec import load_class
from minilora.io.files import digest_of, sha256_of

GOOD, TAIL = 60, 0.5
LOSSES = {"plain": "cross-entropy", "weighted": "class-balanced weights",
          "contrastive": "balanced contrast"}
GROUPS = ("head", "middle", "tail")


def evaluate(root: str, name: str, seed: int, loss: str, start: str | None,
             threads: int) -> dict[str, list]:
    """{"counts", "kinds", "right": accuracy of each kind}.  Runs in a fresh process."""
    torch.set_num_threads(threads)
    chosen = splits.split(load_class(root, name), "all", seed, TAIL, GOOD)
    recipe = replace(RECIPES["ResNet-18" if start else "CNN, augmented"], loss=loss)
    classifier = Supervised(recipe, len(chosen.kinds), seed, start)
    classifier.fit(load_squares([s.path for s in chosen.train], recipe.resolution),
                   chosen.targets(chosen.train))
    found = classifier.probabilities(load_squares([s.path for s in chosen.test],
                                                  recipe.resolution))
    truth, predicted = chosen.targets(chosen.test), found.argmax(1)
    right = [(predicted[truth == k] == k).float().mean().item() for k in range(len(chosen.kinds))]
    return {"counts": chosen.counts(), "kinds": chosen.kinds, "right": right}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.long_tail",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder in MVTec AD's layout")
    p.add_argument("--class", dest="names", nargs="+", default=["bottle", "magnetic_tile"])
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--start", type=Path, help="weights of a ResNet-18; else the small CNN")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"))
    p.add_argument("--name", default="long-tail")
    return p


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    start = str(options.start) if options.start else None
    network, mark = ("ResNet-18", sha256_of(start)) if start else ("CNN", None)
    made, numbers = [], []
    for name in options.names:
        rows = []
        for loss, title in LOSSES.items():
            cells = []
            for seed in options.seeds:
                key = digest_of(name, seed, loss, mark, GOOD, TAIL, code_version())
                path = options.out / "long-tail" / f"{network}-{name}-{seed}-{loss}.json"
                cells.append(cell(path, key, lambda: measure.fresh(
                    evaluate, str(options.data), name, seed, loss, start, options.threads)))
            groups = group_by_frequency(cells[0]["counts"])
            shares = [[statistics.mean(c["right"][k] for k in groups[g]) for c in cells]
                      for g in GROUPS]
            balanced = [statistics.mean(c["right"]) for c in cells]
            rows.append([title, *map(spread, shares), spread(balanced)])
            numbers += [(name, title, seed, kind, count, f"{right:.6f}")
                        for seed, c in zip(options.seeds, cells)
                        for kind, count, right in zip(c["kinds"], c["counts"], c["right"])]
        counts = ", ".join(f"{k} {n}" for k, n in zip(cells[0]["kinds"], cells[0]["counts"]))
        made.append((f"{name}: {counts} pictures to learn from; right of each group, per cent",
                     ["loss", *GROUPS, "mean of the kinds"], rows))
    head = [measure.conditions(), f"{network}, augmented, 30 epochs"
            f"{f', from {options.start.name}' if start else ''}; seeds "
            f"{' '.join(map(str, options.seeds))}"]
    write(options.out, options.name, made, head,
          (("class", "loss", "seed", "kind", "pictures", "right"), numbers))


if __name__ == "__main__":
    main()
