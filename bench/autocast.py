"""Half precision in the tower when pictures are scored: changed decisions and time.

    python -m bench.autocast --class bottle cookie --data FOLDER

A detector is fitted in float32.  The same test pictures are scored in every precision, as
`predict --precision` does.  The table shows how many decisions differ from those in float32, the
largest difference of a score as a multiple of the threshold, image AUROC, and the time of eight
pictures; the precisions are timed in turn.
Left out: training in half precision (bench.memory has its memory and time).
"""
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import accuracy, measure
from bench.tables import write
from minilora.auroc import auroc
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.data.mvtec import few_shot, find_data, load_class
from minilora.data.samples import prepare_pictures
from minilora.detector import PRECISIONS, Detector
from minilora.runs.evaluation import SCORE_BATCH
from minilora.scenes import scene

HEADER = ("class", "precision", "pictures", "other decisions", "largest difference, thresholds",
          "image AUROC %", "time of float32's")


def scores_of(detector: Detector, pictures: list[Tensor], precision: str) -> Tensor:
    """Scores (N,) of N pictures (3, H, W), one at a time."""
    detector.precision = precision
    return torch.cat([detector.score(picture[None])[1] for picture in pictures])


def rows_of(detector: Detector, test: list[Tensor], labels: Tensor, rounds: int) -> dict[str, list]:
    """{precision: [changed decisions, largest difference, AUROC, ratio of times]}."""
    scores = {p: scores_of(detector, test, p) for p in PRECISIONS}
    times = measure.side_by_side(
        {p: partial(scores_of, detector, test[:SCORE_BATCH], p) for p in PRECISIONS}, rounds,
        detector.device)
    exact, threshold = scores["float32"], detector.threshold
    return {p: [int(((s > threshold) != (exact > threshold)).sum()),
                ((s - exact).abs().max() / threshold).item(), auroc(s, labels),
                measure.ratio(times[p], times["float32"])[0]] for p, s in scores.items()}


def main() -> None:
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.autocast", __doc__.split("\n")[0]
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.set_defaults(out=Path("runs/bench"), name="autocast", seeds=[1])
    options = p.parse_args()
    found, root = [], find_data(options.data)
    for name in options.names:
        folder = root or scene.write_class(options.out / "scenes", name).parent
        data = load_class(folder, name)
        clip, weights = load_clip(options.model, options.device)
        config = DetectorConfig(seed=options.seeds[0], steps=options.steps)
        detector = Detector(clip, name, config)
        shots = few_shot(data.train, options.shots, config.seed)
        detector.fit(prepare_pictures(shots, detector.prepare))
        labels = torch.tensor([s.label for s in data.test])
        test = prepare_pictures(data.test, detector.prepare)
        rows = rows_of(detector, test, labels, options.rounds)
        found += [(name, precision, len(labels), *row) for precision, row in rows.items()]
    lines = [[*map(str, row[:4]), f"{row[4]:.4f}", f"{100 * row[5]:.2f}", f"{row[6]:.2f}"]
             for row in found]
    head = [measure.conditions(options.device),
            f"{options.shots} shots, seed {options.seeds[0]}; weights {weights.name} (sha256 "
            f"{weights.sha256[:12]}…); fitted in float32, scored in each precision"]
    write(options.out, options.name, [("the same pictures in half precision", HEADER, lines)], head,
          (HEADER, found))


if __name__ == "__main__":
    main()
