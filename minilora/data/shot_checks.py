"""Check the shots before the fit: one warning, of one line, for each problem.

Claim: everything that the shots show counts as good.  A defect among them is never found again, and
a blurred or overexposed shot moves the threshold for all others.  So each shot is compared with the
median of the others; "far" is more than FAR median absolute deviations, and more than a floor:

    patches      distance of its worst patches to those of the other shots: twice the median
    sharpness    mean absolute Laplacian / standard deviation: below half the median
    light        mean brightness, by 0.08;  white pixels, by 5 % of the picture
    size         of the object, by a tenth, where it covers enough of the picture
    shape        width / height, by 5 %;  same picture: mean difference of pixels below 0.004

The patches are CLIP's, without LoRA, so a weak model overlooks weak defects.  A warning never stops
a fit.  What all shots have in common (all of them dark) is not noticed.
Symbols: K shots, P patches, W width.  Left out: the cause of a difference.
"""
import statistics
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from minilora.data.framing import measure_framing
from minilora.io.text import shown

FAR = 6                             # median absolute deviations
FEW_SHOTS = 4                       # with fewer, the threshold is a guess and nothing is compared
WORST_SHARE = 0.02                  # of the patches; their mean distance is compared
MOST_COMPARED = 24                  # other shots with which the patches of one are compared
MOST_PAIRS = 64                     # shots among which duplicates are searched
MOST_LINES = 12
LEAST_OBJECT = 0.3                  # object_size below this is noise
SAME_PICTURE = 0.004                # mean difference of pixels; saved again as JPEG: 0.003
WHITE = 0.99                        # a pixel with all colours above


def shot_warnings(names: Sequence[str], pictures: Sequence[Tensor],
                  tokens: Sequence[Tensor] = ()) -> list[str]:
    """Warnings about K shots, one line each.

    names: how they are called;  pictures: (3, H, W) in [0, 1] each;  tokens: patch features (P, W)
    of each, of length one.
    """
    lines = []
    if len(pictures) < FEW_SHOTS:
        lines.append(f"only {len(pictures)} good pictures: the threshold is a guess; give at least "
                     f"{FEW_SHOTS}, better 8")
    else:
        measures = [shot_measurements(picture) for picture in pictures]
        lines += [line for k, name in enumerate(names)
                  for line in picture_warnings(shown(name), measures, k)]
        distances = distances_to_others(tokens)
        for k, distance in enumerate(distances):
            if (middle := median_if_far(distances, k, 1.0)) and distance > middle:
                lines.append(f"{shown(names[k])}: differs from the others ({distance / middle:.1f} "
                             "times as far as usual); a defect, or another product?")
    lines += [f"{shown(names[a])} and {shown(names[b])}: the same picture twice"
              for a, b in same_pictures(pictures)]
    rest = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"and {rest} more like these"] if rest > 0 else lines


def picture_warnings(name: str, measures: list[dict[str, float]], k: int) -> list[str]:
    """What is unusual about shot k by simple measurements."""
    columns = {key: [m[key] for m in measures] for key in measures[0]}
    values, lines = measures[k], []
    middle = median_if_far(columns["detail"], k, 0.5)
    if middle is not None and values["detail"] < middle:
        lines.append("blurred; photograph it again")
    middle = median_if_far(columns["white"], k, 0, 0.05)
    if middle is not None and values["white"] > middle:
        lines.append(f"{values['white']:.0%} of it is white, of the others {middle:.0%}; "
                     "overexposed?")
    elif middle := median_if_far(columns["light"], k, 0, 0.08):
        word = "brighter" if values["light"] > middle else "darker"
        lines.append(f"{word} than the others (mean {values['light']:.2f}, they {middle:.2f}); "
                     "same light for all?")
    if (middle := median_if_far(columns["object_size"], k, 0.1)) and middle > LEAST_OBJECT:
        change = values["object_size"] / middle - 1
        word = "larger" if change > 0 else "smaller"
        lines.append(f"object {abs(change):.0%} {word} than on the others; same distance for all?")
    if middle := median_if_far(columns["aspect"], k, 0.05):
        lines.append(f"width / height is {values['aspect']:.2f}, on the others {middle:.2f}; "
                     "turned or cropped?")
    return [f"{name}: {line}" for line in lines]


def shot_measurements(picture: Tensor) -> dict[str, float]:
    """{measure: value} of a picture (3, H, W) in [0, 1]."""
    picture = picture.float().cpu()
    grey = picture.mean(0)                                              # (H, W)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] \
        - grey[1:-1, 2:]
    return measure_framing(picture) | {
        "light": grey.mean().item(),
        "detail": (laplacian.abs().mean() / grey.std().clamp(min=1e-3)).item(),
        "white": (picture.amin(0) >= WHITE).float().mean().item()}


def median_if_far(values: Sequence[float], k: int, share: float,
                  least: float = 0.0) -> float | None:
    """The median of the other values if value k is far from it, else None.

    Far: by more than FAR median absolute deviations, `share` of the median, and `least`.
    """
    others = [*values[:k], *values[k + 1:]]
    middle = statistics.median(others)
    spread = statistics.median(abs(value - middle) for value in others)
    far = abs(values[k] - middle) > max(FAR * spread, share * abs(middle), least, 1e-6)
    return middle if far else None


@torch.no_grad()
def distances_to_others(tokens: Sequence[Tensor]) -> list[float]:
    """Per shot the mean cosine distance of its worst patches to the nearest patch of other shots.

    tokens: (P, W) per shot.  With many shots each is compared with MOST_COMPARED of the others.
    """
    distances = []
    for k, own in enumerate(tokens):
        others = [*tokens[k + 1:], *tokens[:k]]
        others = others[::-(-len(others) // MOST_COMPARED)]             # evenly from all of them
        nearest = torch.stack([1 - (own @ other.T).amax(1) for other in others]).amin(0)    # (P,)
        distances.append(nearest.topk(max(1, round(WORST_SHARE * len(own)))).values.mean().item())
    return distances


def same_pictures(pictures: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Pairs of indices of pictures that are the same, perhaps saved again."""
    return [(a, b) for a, b in combinations(range(min(len(pictures), MOST_PAIRS)), 2)
            if is_same_picture(pictures[a], pictures[b])]


def is_same_picture(one: Tensor, other: Tensor, most: float = SAME_PICTURE) -> bool:
    """Whether two pictures (3, H, W) in [0, 1] differ by less than `most` on average."""
    return one.shape == other.shape and (one - other).abs().mean().item() < most


def demo() -> None:
    """Six good shots, one of them blurred, one overexposed and one twice."""
    generator = torch.Generator().manual_seed(0)
    good = [0.5 + 0.1 * torch.randn(3, 64, 64, generator=generator) for _ in range(6)]
    pictures = [picture.clamp(0, 1) for picture in good] + [good[0].clamp(0, 1)]
    pictures[1] = torch.nn.functional.avg_pool2d(pictures[1], 9, 1, 4)
    pictures[2] = (2 * pictures[2]).clamp(0, 1)
    for line in shot_warnings([f"{k}.jpg" for k in range(7)], pictures):
        print(line)
    print(*shot_warnings(["0.jpg"], pictures[:1]))


if __name__ == "__main__":
    demo()
