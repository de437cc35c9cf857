"""From patch scores to an anomaly map, a picture's score and a decision.

Claim: a patch is suspicious if it is nearer to "damaged" than to "flawless"; smoothed to pixels
such scores are a map, and a picture is as bad as its worst per cent.

    Jeong et al. 2023, "WinCLIP", section 4 (text map; the memory beside it is in memory.py).

Symbols: B images, P = G² patches, E embedding, R resolution.
Leaves out: weighting by neighbours, thresholds that need defective pictures.
"""

import math

import torch
import torch.nn.functional as F

from minilora.losses import similarity_logits


def text_map(patches, text, scale):
    """Probability of "anomalous" per patch.

    patches: (B, P, E);  text: (2, E), rows normal and anomalous;  scale: CLIP's exp(logit_scale).
    Returns (B, P) in (0, 1).
    """
    return similarity_logits(patches, text, 1 / scale).softmax(-1)[..., 1]        # (B, P)


def gaussian(maps, sigma):
    """Gaussian smoothing, written out: two passes with a kernel exp(-t² / 2 sigma²) cut at 4 sigma.

    maps: (B, R, R);  sigma in pixels.  The border is reflected.
    """
    radius = max(1, math.ceil(4 * sigma))
    t = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(maps[:, None], 4 * [radius], mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))           # down
    return F.conv2d(x, kernel.view(1, 1, 1, -1))[:, 0]  # across


def to_pixels(patch_scores, resolution, sigma):
    """(B, P) on a square grid -> smoothed map (B, R, R)."""
    side = math.isqrt(patch_scores.shape[1])
    maps = patch_scores.unflatten(1, (1, side, side))                             # (B, 1, G, G)
    maps = F.interpolate(maps, (resolution, resolution), mode="bilinear", align_corners=False)
    return gaussian(maps[:, 0], sigma)


def image_score(maps, top=0.003):
    """Mean of the highest `top` share of a map's pixels.  (B, R, R) -> (B,).

    Less noisy than the maximum; small enough for a defect of a patch's size (bench.ablation).
    Raises ValueError for NaN or inf: compared with a threshold, NaN would pass as good.
    """
    flat = maps.flatten(1)
    scores = flat.topk(max(1, int(top * flat.shape[1])), dim=1).values.mean(1)
    if not scores.isfinite().all():
        raise ValueError(f"score {scores[~scores.isfinite()][0].item()} of a picture; expected a "
                         "finite number; the weights or the adapter are broken, fit again")
    return scores


def threshold(good_scores, false_positive_rate=0.05):
    """The score above which a picture is NG, from scores of good pictures alone.

    good_scores: (n,).  The empirical quantile, interpolated: of many good pictures the stated share
    lies above it; of 20 or fewer, it lies between the two highest.
    """
    return torch.quantile(good_scores.double(), 1 - false_positive_rate).item()


def demo():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 32, generator=generator)
    patches = text[0] + 0.5 * torch.randn(1, 16, 32, generator=generator)
    patches[0, 5:7] = text[1] + 0.5 * torch.randn(2, 32, generator=generator)
    scores = text_map(patches, text, 10.0)
    print("probability of 'anomalous', 4 x 4 patches; 5 and 6 look like the text 'anomalous':")
    for row in scores.view(4, 4):
        print("   ", "  ".join(f"{p:.2f}" for p in row))
    for sigma in (1.0, 4.0, 8.0):
        score = image_score(to_pixels(scores, 64, sigma)).item()
        print(f"map of 64 x 64, smoothed with sigma {sigma:.0f}: image score {score:.2f}")
    print(f"threshold from 8 good scores: {threshold(torch.rand(8, generator=generator)):.2f}")


if __name__ == "__main__":
    demo()
