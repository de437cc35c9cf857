"""Rules for the threshold: the false alarms and the share of defective pictures found by each.

    python -m bench.thresholds --data FOLDER --shots 4 8 16

A rule computes the threshold from the scores of the K good pictures, each scored by a memory that
does not contain it: once as they are, once with the four rotations that the memory holds.  It is
evaluated on the test pictures by two numbers: false alarms, and the share of defective pictures
found, relative to the share found at exactly 5 % false alarms.  Cells are stored as in accuracy.py.
Left out: thresholds from defective pictures, which are not available in practice.
"""
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from bench import accuracy
from bench.tables import write
from minilora import __version__, anomaly_map
from minilora.calibration import leave_one_out
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data.mvtec import Dataset, few_shot, find_data, load_class
from minilora.data.samples import prepare_pictures
from minilora.detector import Detector
from minilora.io.files import digest_of

TARGET = 0.05                                   # share of false alarms


def robust_limit(scores: Tensor) -> float:
    """`anomaly_map.threshold` with median and 1.4826 times the median deviation, which are robust
    against a single unusual shot (Leys et al. 2013, "Detecting outliers")."""
    count, middle = len(scores), scores.median()
    spread = 1.4826 * (scores - middle).abs().median()
    student = anomaly_map.student_quantile(TARGET, count - 1)
    return (middle + student * spread * (1 + 1 / count) ** 0.5).item()


def extreme_value(scores: Tensor) -> float:
    """The 95 % quantile of a Gumbel distribution with the scores' mean and deviation."""
    beta = scores.std() * 6 ** 0.5 / torch.pi
    mode = scores.mean() - 0.5772 * beta
    return (mode - beta * torch.log(-torch.log(torch.tensor(1 - TARGET)))).item()


def times_the_level(factor: float) -> Callable[[Tensor], float]:
    """A rule: `factor` times the median."""
    return lambda scores: factor * scores.median().item()


RULES = {"mean and deviation": anomaly_map.threshold,
         "median and median deviation": robust_limit,
         "95 % quantile": lambda scores: scores.quantile(1 - TARGET).item(),
         "highest": lambda scores: scores.max().item(),
         "extreme value": extreme_value,
         **{f"{factor} times the level": times_the_level(factor) for factor in (1.1, 1.2, 1.3)}}


def compute(data: Dataset, shots: int, config: DetectorConfig,
            options: Namespace) -> dict[str, list]:
    """{"alone", "turned": scores of the shots, "scores", "labels": of all test pictures}."""
    detector = Detector(load_clip(options.model, options.device)[0], data.name, config)
    pictures = prepare_pictures(few_shot(data.train, shots, config.seed), detector.prepare)
    detector.fit(pictures)

    @torch.no_grad()
    def score(picture, bank=None):
        return detector.map_and_score(detector.encode(picture[None]), "adapted", bank)[1].item()
    with torch.no_grad():
        copies = [(k, detector.encode(p[None])) for k, p in detector.rotated_copies(pictures)]
        alone = leave_one_out(detector, pictures, copies)
    return {"alone": [score(picture, bank) for bank, picture, _ in alone],
            "turned": [detector.map_and_score(seen, "adapted", bank)[1].item()
                       for bank, _, copies in alone for seen in copies],
            "scores": [score(p) for p in prepare_pictures(data.test, detector.prepare)],
            "labels": [s.label for s in data.test]}


def evaluate(threshold: float, scores: Tensor, labels: Tensor) -> list[float]:
    """[false alarms, share found, share found at exactly 5 % false alarms]."""
    good, bad = scores[labels == 0], scores[labels > 0]
    best = good.quantile(1 - TARGET, interpolation="higher")
    return [(part > limit).double().mean().item()
            for part, limit in ((good, threshold), (bad, threshold), (bad, best))]


def table(cells: dict, shots: int, names: list[str], part: str, pictures: slice) -> tuple:
    """((title, header, rows of text), rows of the CSV file).

    cells: {(class, shots): [scores of each seed]};  part: "alone" (shots as they are) or "turned"
    (with their rotations);  pictures: which test pictures.
    """
    lines, numbers = [], []
    for label, rule in RULES.items():
        alarms, found = {}, {}
        for name in names:
            for cell in cells[name, shots]:
                limit = rule(torch.tensor(cell[part]))
                values = evaluate(limit, *(torch.tensor(cell[key])[pictures]
                                           for key in ("scores", "labels")))
                alarms.setdefault(name, []).append(values[0])
                found.setdefault(name, []).append(values[1] / max(values[2], 1e-9))
                numbers.append((label, part, shots, name, *(f"{v:.6f}" for v in values)))
        mean = [statistics.mean(statistics.mean(v) for v in column.values())
                for column in (alarms, found)]
        lines.append([label, *(f"{100 * statistics.mean(alarms[n]):.1f} / "
                               f"{statistics.mean(found[n]):.2f}" for n in names),
                      f"{100 * mean[0]:.1f} / {mean[1]:.2f}"])
    title = (f"{shots} shots, shots {'as they are' if part == 'alone' else 'turned'}: false alarms "
             "in per cent / found, of what is found at 5 % false alarms")
    return (title, ["rule", *names, "mean"], lines), numbers


def main() -> None:
    p = accuracy.parser(shots=(4, 8, 16))
    p.prog, p.description = "python -m bench.thresholds", __doc__.split("\n")[0]
    p.add_argument("--pictures", choices=("all", "even", "odd"), default="even")
    p.set_defaults(name="thresholds", names=["bottle", "cookie", "magnetic_tile", "commutator"])
    options = p.parse_args()
    _, weights = load_clip(options.model)
    root, cells = find_data(options.data), {}
    if root is None:
        p.error("--data: expected a folder in MVTec AD's layout")
    for shots in options.shots:
        for name in options.names:
            data = load_class(root, name)
            for seed in options.seeds:
                config = DetectorConfig(seed=seed, steps=options.steps)
                mark = digest_of("thresholds", weights.sha256, name, len(data.test), shots,
                                 asdict(config), __version__)
                path = options.out / "cells" / f"threshold-{name}-{shots}shot-seed{seed}.json"
                rows = accuracy.cell(path, mark, compute, data, shots, config, options)
                cells.setdefault((name, shots), []).append(rows)
                print(f"{name} {shots} shots, seed {seed}", flush=True)
    pictures = {"all": slice(None), "even": slice(0, None, 2),
                "odd": slice(1, None, 2)}[options.pictures]
    made, numbers = [], []
    for shots in options.shots:
        for part in ("alone", "turned"):
            one, rows = table(cells, shots, options.names, part, pictures)
            made, numbers = [*made, one], numbers + rows
    head = [f"{options.pictures} test pictures; seeds {' '.join(map(str, options.seeds))}; weights "
            f"{weights.name} (sha256 {weights.sha256[:12]}…); minilora {__version__}; "
            f"{time.strftime('%Y-%m-%d')}"]
    write(options.out, options.name, made, head, (
        ("rule", "shots", "number", "class", "false_alarms", "found", "found_at_5_percent"),
        numbers))


if __name__ == "__main__":
    main()
