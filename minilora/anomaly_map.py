"""From patch scores to an anomaly map, a picture's score and a decision.

Claim: a patch is suspicious if it is nearer to "damaged" than to "flawless"; smoothed to pixels
such scores are a map, and a picture is as bad as its worst pixels, and as the whole of it looks.

    Jeong et al. 2023, "WinCLIP", section 4 (text map; whole picture, eq. 5; the memory beside it is
    in memory_bank.py).

Symbols: B images of H x W pixels, P patches, E embedding.
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


def gaussian_blur(maps, sigma):
    """Gaussian smoothing, written out: two passes with a kernel exp(-t² / 2 sigma²) cut at 4 sigma.

    maps: (B, H, W);  sigma in pixels, 0 leaves the maps as they are.  The border is reflected, so
    the kernel reaches no farther than a map's shorter side.
    """
    radius = min(math.ceil(4 * sigma), min(maps.shape[1:]) - 1)
    if radius < 1 or sigma < 0.1:               # neighbours would get less than 1e-21
        return maps
    t = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(maps[:, None], 4 * [radius], mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))           # down
    return F.conv2d(x, kernel.view(1, 1, 1, -1))[:, 0]  # across


def to_pixels(patch_scores, size, sigma):
    """(B, P), row by row, -> smoothed map (B, H, W).  size: (H, W), whole numbers of patches."""
    rows = round(math.sqrt(patch_scores.shape[1] * size[0] / size[1]))      # patches are square
    maps = patch_scores.unflatten(1, (1, rows, -1))                         # (B, 1, rows, columns)
    maps = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
    return gaussian_blur(maps[:, 0], sigma)


def image_score(maps, top_fraction=0.003, picture=0.0):
    """Mean of the highest `top_fraction` of a map's pixels, plus `picture`.  (B, H, W) -> (B,).

    Less noisy than the maximum; small enough for a defect of a patch's size (bench.ablation).
    picture: (B,), what the whole picture adds.
    Raises ValueError for NaN or inf: compared with a threshold, NaN would pass as good.
    """
    flat = maps.flatten(1)
    scores = flat.topk(max(1, int(top_fraction * flat.shape[1])), dim=1).values.mean(1) + picture
    if not scores.isfinite().all():
        raise ValueError(f"score {scores[~scores.isfinite()][0].item()} of a picture; expected a "
                         "finite number; the weights or the adapter are broken, fit again")
    return scores


def threshold(good_scores, false_positive_rate=0.05):
    """The score above which a picture is NG, from scores of good pictures alone.

        mean + t s sqrt(1 + 1 / n)              s: deviation of the n scores

    good_scores: (n,).  The upper limit of a prediction: a new good score lies above it with the
    stated rate (at least 1 in 10,000), if scores are about normal and independent; turned copies of
    one photograph are less than that.  t is Student's with n - 1 degrees of freedom.  Other rules
    are compared in bench/thresholds.py.
    """
    scores, count = good_scores.double(), len(good_scores)
    spread = scores.std() if count > 1 else torch.zeros(())
    student = student_quantile(false_positive_rate, count - 1)
    return (scores.mean() + student * spread * math.sqrt(1 + 1 / count)).item()


def student_quantile(tail, freedom):
    """What a share `tail` of Student's t exceeds, by the first term of its expansion in 1 / freedom
    (Abramowitz & Stegun 26.7.5).  tail: kept from 1e-4 to 1 - 1e-4;  freedom: 0 counts as 1."""
    tail = torch.tensor(tail, dtype=torch.double).clamp(1e-4, 1 - 1e-4)
    normal = torch.special.ndtri(1 - tail)
    return normal + (normal ** 3 + normal) / (4 * max(1, freedom))


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
        score = image_score(to_pixels(scores, (64, 64), sigma)).item()
        print(f"map of 64 x 64, smoothed with sigma {sigma:.0f}: image score {score:.2f}")


if __name__ == "__main__":
    demo()
