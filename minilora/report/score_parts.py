"""How the parts of the method add up to the score of one picture.

    patch score = distance to the nearest good patch / memory_scale     memory map
                + text_weight * P("damaged" for the patch)              text map
    map         = patch scores, resized to pixels and smoothed
    score       = mean of the map's highest pixels
                + image_weight * text_weight * P("damaged" for the whole picture)

Claim: resizing, smoothing and the mean are linear.  So the mean of the highest pixels is the mean
of the memory map plus the mean of the text map, both taken at the same pixels, and the score is
exactly the sum of three numbers.

Symbols: H x W pixels, P patches.
Left out: rows other than the one that decides; why a patch is far from the good ones
(report/nearest_patch.py).
"""
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minilora.anomaly_map import text_map, to_pixels
from minilora.features import Features
from minilora.report.explain_parts import heading, heat_figure, picture_row
from minilora.report.html import Markup, plain_table
from minilora.rows import ROWS


class ScoreParts(NamedTuple):
    """The three summands of a score and the maps they come from."""
    memory: float
    text: float
    whole: float
    memory_map: Tensor                      # (H, W)
    text_map: Tensor                        # (H, W)


@torch.no_grad()
def score_parts(detector: Any, features: Features, name: str) -> ScoreParts:
    """The parts of the score of one picture.  features: of this picture;  name: of the row."""
    row, sigma = ROWS[name], detector.config.sigma * min(features.size) / 224
    scale = detector.clip.logit_scale.exp()
    text = (detector.text_features if row.prompts == "learned" else
            detector.prompt_ensemble_features)
    weight = detector.text_weight if row.memory else 1.0
    damaged = weight * text_map(features.text_patches, text, scale)                 # (1, P)
    distances = (detector.distances(features, name, detector.banks[name]) / detector.memory_scale
                 if row.memory else torch.zeros_like(damaged))
    maps = [to_pixels(part.cpu(), features.size, sigma)[0] for part in (distances, damaged)]
    together = (maps[0] + maps[1]).flatten()
    highest = together.topk(max(1, int(detector.config.top_fraction * len(together)))).indices
    whole = detector.config.image_weight * weight * text_map(features.image[:, None], text, scale)
    return ScoreParts(*(part.flatten()[highest].mean().item() for part in maps), whole.item(),
                      *maps)


def rounded_parts(parts: list[float], total: float, digits: int = 3) -> list[str]:
    """The parts as texts that add up to the rounded total: what rounding leaves over, at most a
    few units of the last digit, goes to the largest part."""
    unit = 10 ** digits
    whole = [round(part * unit) for part in parts]
    whole[max(range(len(parts)), key=lambda k: abs(parts[k]))] += round(total * unit) - sum(whole)
    return [f"{number / unit:.{digits}f}" for number in whole]


def score_part(detector: Any, features: Features, name: str, score: float) -> str:
    """Part of the page: the sum as a table, and the maps of its parts on one colour scale.

    name: of the row that decides;  score: its score of the picture.
    """
    parts = score_parts(detector, features, name)
    config, weight = detector.config, detector.text_weight if ROWS[name].memory else 1.0
    memory, text, whole = rounded_parts(list(parts[:3]), score)
    percent = f"{100 * config.top_fraction:g} %"
    rows = [("memory map", "distance to the nearest good patch, divided by "
             f"{detector.memory_scale:.3f}, the median of good pictures; mean of the highest "
             f"{percent} of the pixels", "memory_bank.py, calibration.py", memory)
            ] * ROWS[name].memory + [
            ("text map", f"{weight:.3f} times the probability that a patch is “damaged”, at the "
             "same pixels", "anomaly_map.py, coop.py", text),
            ("whole picture", f"{config.image_weight:g} times {weight:.3f} times the probability "
             "that the whole picture is “damaged”", "anomaly_map.py", whole),
            (Markup("<b>score</b>"), "the sum", "detector.py", Markup(f"<b>{score:.3f}</b>"))]
    if detector.threshold is not None:
        rows.append(("threshold", "a new good picture lies above it in about "
                     f"{100 * config.false_positive_rate:g} % of cases; from the good pictures "
                     "only", "anomaly_map.py, calibration.py", f"{detector.threshold:.3f}"))
    total = parts.memory_map + parts.text_map
    low, high = min(0.0, total.min().item()), total.max().item()
    maps = [("memory map", parts.memory_map)] * ROWS[name].memory + [
        ("text map", parts.text_map), ("their sum: the anomaly map", total)]
    return (heading(1, "How the parts add up to the score", "detector.py", "A high score means: "
                    "unlike the good pictures, or like the text “damaged”.")
            + plain_table(("part", "what it is", "module", "value"), rows, (0, 1, 2))
            + picture_row([heat_figure(values, words, low, high) for words, values in maps]))


def demo() -> None:
    """A toy detector: the parts of the score of a picture with a spot, and their sum."""
    from minilora.toy_detector import toy_detector, with_spot
    detector, good = toy_detector()
    with torch.no_grad():
        features = detector.encode(with_spot(good[:1]))
        score = detector.map_and_score(features, "adapted")[1].item()
    parts = score_parts(detector, features, "adapted")
    print(f"memory {parts.memory:.6f} + text {parts.text:.6f} + whole {parts.whole:.6f} = "
          f"{sum(parts[:3]):.6f}, score {score:.6f}")
    print("rounded:", " + ".join(rounded_parts(list(parts[:3]), score)), f"= {score:.3f}")


if __name__ == "__main__":
    demo()
