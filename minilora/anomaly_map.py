"""From patch scores to an anomaly map, an image score and a threshold.

Claim: a patch is anomalous if it is more similar to "damaged" than to "flawless". These patch
scores, resized and smoothed, are the map. The image score is the mean of the map's highest pixels,
plus the score of the whole picture.

    Jeong et al. 2023, "WinCLIP", section 4 (text map; eq. 5 adds the score of the whole picture).
    The authors published no code; a reimplementation by others:
        https://github.com/zqhang/Accurate-WinCLIP-pytorch

Symbols: B pictures of H x W pixels, P patches, E embedding.
Left out: the memory map (memory_bank.py), weighting by neighbours, thresholds that need defective
pictures.
"""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.clip import similarity_logits
from minilora.io.demos import run_demo


def text_map(patches: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """Probability of "anomalous" for each patch, (B, P) in (0, 1).

    patches: (B, P, E);  text: (2, E), rows normal and anomalous;  scale: CLIP's exp(logit_scale).
    """
    return similarity_logits(patches, text, 1 / scale).softmax(-1)[..., 1]        # (B, P)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing in two passes, with the kernel exp(-t^2 / 2 sigma^2) cut at 4 sigma.

    maps: (B, H, W);  sigma: in pixels, 0 leaves the maps unchanged.  The border is reflected, so
    the kernel reaches at most as far as the shorter side of a map.
    """
    radius = min(math.ceil(4 * sigma), min(maps.shape[1:]) - 1)
    if radius < 1 or sigma < 0.1:               # neighbours would have a weight below 1e-21
        return maps
    t = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(maps[:, None], 4 * [radius], mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))           # vertically
    return F.conv2d(x, kernel.view(1, 1, 1, -1))[:, 0]  # horizontally


def to_pixels(patch_scores: Tensor, size: Sequence[int], sigma: float) -> Tensor:
    """Smoothed maps (B, H, W) of patch scores (B, P), which are numbered row by row.

    size: (H, W), each a multiple of the side of a patch, which is square;  sigma: in pixels.
    """
    rows = round(math.sqrt(patch_scores.shape[1] * size[0] / size[1]))      # P = rows * columns
    maps = patch_scores.unflatten(1, (1, rows, -1))                         # (B, 1, rows, columns)
    maps = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
    return gaussian_blur(maps[:, 0], sigma)


def top_mean(maps: Tensor, top_fraction: float) -> Tensor:
    """Mean of the highest `top_fraction` of a map's pixels: (B, H, W) -> (B,)."""
    flat = maps.flatten(1)                                                  # (B, H * W)
    count = max(1, int(top_fraction * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)


def image_score(maps: Tensor, top_fraction: float = 0.003,
                whole_image_score: float | Tensor = 0.0) -> Tensor:
    """Mean of the highest `top_fraction` of a map's pixels, plus `whole_image_score`.

    maps: (B, H, W);  whole_image_score: number or (B,), for example CLS's text score.
    Returns (B,).  The mean is less noisy than the maximum, and the fraction is small enough for a
    defect of the size of one patch (bench.ablation).
    Raises ValueError for NaN or inf: NaN > threshold is false, so it would pass as good.
    """
    scores = top_mean(maps, top_fraction) + whole_image_score               # (B,)
    if not scores.isfinite().all():
        raise ValueError(f"score {scores[~scores.isfinite()][0].item()} of a picture; expected a "
                         "finite number; the weights or the adapter are broken, fit again")
    return scores


def threshold(good_scores: Tensor, false_positive_rate: float = 0.05) -> float:
    """The score above which a picture is NG (not good), from scores (n,) of good pictures only.

        mean + t s sqrt(1 + 1 / n)              s: standard deviation of the n scores

    This is the upper limit of a prediction interval: the score of a new good picture lies above it
    with probability `false_positive_rate` (1e-4 at least).  t is the quantile of Student's t with
    n - 1 degrees of freedom.  The rule assumes scores that are independent and nearly normal;
    rotated copies of one photograph are not independent.  Other rules: bench/thresholds.py.
    """
    scores, count = good_scores.double(), len(good_scores)
    spread = scores.std() if count > 1 else torch.zeros(())
    t = student_quantile(false_positive_rate, count - 1)
    return (scores.mean() + t * spread * math.sqrt(1 + 1 / count)).item()


def student_quantile(tail: float, degrees_of_freedom: int) -> Tensor:
    """The value that Student's t exceeds with probability `tail`, to first order in 1 / degrees.

    Abramowitz & Stegun 26.7.5.  tail: clamped to 1e-4 .. 1 - 1e-4;  0 degrees count as 1.
    """
    clamped = torch.tensor(tail, dtype=torch.double).clamp(1e-4, 1 - 1e-4)
    normal = torch.special.ndtri(1 - clamped)
    return normal + (normal ** 3 + normal) / (4 * max(1, degrees_of_freedom))


def demo() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 32, generator=generator)
    patches = text[0] + 0.5 * torch.randn(1, 16, 32, generator=generator)
    patches[0, 5:7] = text[1] + 0.5 * torch.randn(2, 32, generator=generator)
    scores = text_map(patches, text, 10.0)
    print("probability of 'anomalous', 4 x 4 patches; 5 and 6 are similar to the text 'anomalous':")
    for row in scores.view(4, 4):
        print("   ", "  ".join(f"{p:.2f}" for p in row))
    for sigma in (1.0, 4.0, 8.0):
        score = image_score(to_pixels(scores, (64, 64), sigma)).item()
        print(f"map of 64 x 64, smoothed with sigma {sigma:.0f}: image score {score:.2f}")


# Exercise 1: Exchange the two rows of `text` in demo(). What happens to the probabilities?
# Exercise 2: Use top_fraction=1 in demo(). Does sigma still change the image score much? Why?
# Exercise 3: Which good scores give the higher threshold: 0, 1, 0, 1, or these four values 100
#             times? Which three factors of the formula decide?
if __name__ == "__main__":
    run_demo("anomaly_map", demo)
