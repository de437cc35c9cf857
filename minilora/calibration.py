"""Calibration of a detector: memory scale, text weight and threshold, from the good pictures only.

    memory scale   median score of the good pictures, by memory alone
    text weight    maximum * (a_t - 1/2) / (a_m - 1/2), the fraction limited to [0, 1]
    threshold      upper limit of the scores of good pictures (anomaly_map.py)

Leave-one-out: every good picture is scored with a memory bank that does not contain it (a single
picture excepted).
Weight of the text map: decided from synthetic defects pasted into the good pictures.  a_t and a_m
are the image AUROC of the text map and of the memory on good pictures and pasted defects.

Claim: a text map that cannot separate even synthetic defects from good pictures of this product
should not change the score; one that separates them as well as the memory gets its full weight.
Left out: where in a picture the text map is right.
"""
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minilora import anomaly_map
from minilora.auroc import auroc
from minilora.features import Features
from minilora.io.progress import stage
from minilora.memory_bank import MemoryBank
from minilora.synthetic.pasting import paste_anywhere
from minilora.synthetic.sampling import choose

DEFECTS_PER_SHOT = 2                    # synthetic defects pasted into each good picture
MAX_FOLDS = 8                           # of leave-one-out: memory banks to build


class LeftOut(NamedTuple):
    """A good picture, and a memory bank that does not contain it."""
    bank: MemoryBank
    picture: Tensor                     # (3, H, W) in [0, 1]
    copies: list[Features]              # of the picture, unrotated, and then of its rotated copies


def folds(count: int, max_folds: int = MAX_FOLDS) -> list[range]:
    """Indices of the pictures left out together, per fold: one index, unless count > max_folds."""
    n_folds = min(count, max_folds)
    return [range(count)[k::n_folds] for k in range(n_folds)]


def leave_one_out(detector: Any, pictures: list[Tensor] | Tensor,
                  copies: list[tuple[int, Features]]) -> list[LeftOut]:
    """Every good picture with a memory bank built from the others.

    detector: a `Detector`;  copies: (index of the picture, `Features`) for every rotation.
    """
    left_out = []
    every_fold = folds(len(pictures))
    for fold in stage("calibration, memory banks", every_fold, len(every_fold)):
        others = [features for k, features in copies if k not in fold]
        others = others or [features for _, features in copies]     # a single picture has no others
        bank = detector.build_bank(others, "adapted")
        left_out += [LeftOut(bank, pictures[k], [features for i, features in copies if i == k])
                     for k in fold]
    return left_out


@torch.no_grad()
def calibrate(detector: Any, left_out: list[LeftOut]) -> None:
    """Sets memory_scale, text_weight and threshold of a `Detector`, in this order; then shot_maps
    and shot_scores, the leave-one-out result of each good picture, unrotated, in their order, and
    rotated_scores, those of the rotated copies.  The threshold is made of both."""
    def scores():                                       # of all copies, by the current settings
        return torch.cat([detector.map_and_score(features, "adapted", bank)[1]
                          for bank, _, copies in stage("calibration", left_out, len(left_out))
                          for features in copies])
    detector.memory_scale, detector.text_weight = 1.0, 0.0          # memory alone, unscaled
    detector.memory_scale = max(scores().median().item(), 1e-6)
    detector.text_weight = (detector.config.max_text_weight
                            * text_weight_fraction(detector, left_out))
    every = scores()
    detector.threshold = anomaly_map.threshold(every, detector.config.false_positive_rate)
    detector.rotated_scores = every.view(len(left_out), -1)[:, 1:].flatten().tolist()
    results = [detector.map_and_score(copies[0], "adapted", bank) for bank, _, copies in left_out]
    order = [k for fold in folds(len(left_out)) for k in fold]      # in which they were left out
    results = [result for _, result in sorted(zip(order, results), key=lambda pair: pair[0])]
    detector.shot_maps = [maps[0] for maps, _ in results]           # (H, W) each
    detector.shot_scores = [score.item() for _, score in results]


@torch.no_grad()
def text_weight_fraction(detector: Any, left_out: list[LeftOut]) -> float:
    """The fraction of the maximum text weight, in [0, 1]; see the module's docstring.

    detector: a `Detector` whose text weight is 0, so that its row "adapted" is the memory alone.
    """
    generator = torch.Generator().manual_seed(detector.config.seed)
    pictures = [picture.cpu() for _, picture, _ in left_out]
    scores, labels = {"memory": [], "text": []}, []
    rows = {"memory": "adapted", "text": "text"}
    pairs = stage("calibration, pasted defects", zip(left_out, pictures), len(pictures))
    for (bank, _, (good, *_)), picture in pairs:
        kinds = detector.config.defect_kinds
        defective = [paste_anywhere(picture, generator, choose(generator, kinds), pictures)[0]
                     for _ in range(DEFECTS_PER_SHOT)]
        for k, features in enumerate([good, *(detector.encode(p[None]) for p in defective)]):
            labels.append(k > 0)
            for part, row in rows.items():
                scores[part].append(detector.map_and_score(features, row, bank)[1])
    memory, text = (auroc(torch.cat(found), torch.tensor(labels)) for found in scores.values())
    return min(1.0, max(0.0, text - 0.5) / max(memory - 0.5, 1e-6))


def demo() -> None:
    """Stand-ins for a detector: the memory detects a dark patch; the text map may or may not."""
    from types import SimpleNamespace

    from minilora.config import DetectorConfig

    def stand_in(text_detects):
        def map_and_score(pixels, name, bank):
            darkest = (0.5 - pixels).amax().view(1)
            noise = pixels[0, 0, 0, :1]                     # independent of the defect
            return None, darkest if name == "adapted" or text_detects else noise
        return SimpleNamespace(config=DetectorConfig(), encode=lambda pixels: pixels,
                               map_and_score=map_and_score)
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.02 * torch.randn(8, 3, 64, 64, generator=generator)
    left_out = [LeftOut(None, picture, [picture[None]]) for picture in good]
    for text_detects in (True, False):
        fraction = text_weight_fraction(stand_in(text_detects), left_out)
        print(f"a text map that {'detects' if text_detects else 'does not detect'} synthetic "
              f"defects gets {fraction:.2f} of the maximum weight")


if __name__ == "__main__":
    demo()
