"""Evaluation on test pictures: maps, scores and metrics of every row, and how many pictures are NG.

Test pictures are used for the result table only; nothing in a run is chosen by them.
Symbols: N pictures of H x W pixels.
Left out: how the results are printed and shown (runs/run_report.py, report/).
"""
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.data.images import group_by_shape
from minilora.data.mvtec import Sample
from minilora.data.samples import load_masks, prepare_pictures
from minilora.detector import Detector
from minilora.io.prefetch import prefetch
from minilora.io.progress import stage
from minilora.report import results
from minilora.report.panels import map_scale, write_maps

SCORE_BATCH = 8                      # pictures that go through the tower together


def score_pictures(detector: Detector,
                   batches: Iterable[list[Tensor]]) -> dict[str, tuple[list[Tensor], Tensor]]:
    """Maps and scores of every row: {row: (N maps (H, W), scores (N,))}.

    batches: lists of pictures (3, H, W); those of a list that have the same shape are scored
    together.
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


def evaluate(detector: Detector, samples: list[Sample],
             out: Path) -> tuple[dict[str, list[float]], dict[str, Any], list[Path]]:
    """Scores the test pictures; writes scores.csv and maps/ into the folder `out`.

    Returns ({row: scores}, metrics, files of the panels).  Pictures without a label (None) are
    scored like the others, but metrics are computed without them.
    """
    parts = [samples[k:k + SCORE_BATCH] for k in range(0, len(samples), SCORE_BATCH)]
    pictures = []                                           # kept for the panels

    def load(part):
        loaded = prepare_pictures(part, detector.prepare, detector.read)
        pictures.extend(loaded)
        return loaded

    rows = score_pictures(detector, stage("scoring", prefetch(load, parts), len(samples), len))
    masks = load_masks(samples, [picture.shape[1:] for picture in pictures])
    maps, scores = rows.get("adapted", rows["zero-shot"])
    results.write_scores(out / "scores.csv", samples, scores, detector.threshold)
    panels = write_maps(out / "maps", samples, pictures, masks, maps, scores, detector.threshold)
    known = [k for k, s in enumerate(samples) if s.label is not None]
    labels = torch.tensor([samples[k].label for k in known])
    masks = None if masks is None else [masks[k] for k in known]
    with ThreadPoolExecutor(2) as threads:                  # two rows at once: a sort uses one core
        measured = threads.map(lambda m, s: results.row_metrics(s[known], [m[k] for k in known],
                                                                labels, masks),
                               *zip(*rows.values()))
        metrics = {"rows": dict(zip(rows, stage("metrics", measured, len(rows))))}
    metrics["kinds"] = results.kind_metrics(scores[known], [samples[k].kind for k in known])
    metrics["decisions"] = results.decision_metrics(scores, [s.label for s in samples],
                                                    detector.threshold)
    metrics["map_scale"] = list(map_scale(maps))
    return {row: s.tolist() for row, (_, s) in rows.items()}, metrics, panels


def demo() -> None:
    """An untrained tower scores pictures of two shapes; each gets a map of its own shape."""
    from minilora.toy_detector import toy_clip
    generator = torch.Generator().manual_seed(0)
    clip = toy_clip(generator)
    pictures = [torch.rand(3, 64, width, generator=generator) for width in (64, 96, 64)]
    for row, (maps, scores) in score_pictures(Detector(clip, "plate"), [pictures]).items():
        print(f"row {row}: maps {[tuple(m.shape) for m in maps]}, "
              f"scores {[round(s, 3) for s in scores.tolist()]}")


if __name__ == "__main__":
    demo()
