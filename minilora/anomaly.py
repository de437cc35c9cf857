"""From patch features to an anomaly map, a score and a decision.

Claim: a patch is suspicious if it looks like no patch of the good pictures (memory map), or if it
is nearer to "damaged" than to "flawless" (text map); the two err in different places, so their sum
is better.

    Roth et al. 2022, "PatchCore" (memory of patches, neighbourhood averaging), section 3.
    Jeong et al. 2023, "WinCLIP", section 4 (text map, and a memory beside it).

Symbols: B images, P = G² patches, W width, E embedding, R resolution, M patches in the memory.
Leaves out: coreset subsampling (K shots are few enough), weighting of scores by neighbours.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from minilora.losses import similarity_logits


def text_map(patches, text, scale):
    """Probability of "anomalous" per patch.

    patches: (B, P, E);  text: (2, E), rows normal and anomalous;  scale: CLIP's exp(logit_scale).
    Returns (B, P) in (0, 1).
    """
    return similarity_logits(patches, text, 1 / scale).softmax(-1)[..., 1]        # (B, P)


def neighbourhood(tokens, size=3):
    """Each patch becomes the mean of the size x size patches around it (PatchCore, eq. 2).

    tokens: (B, P, W) on a square grid.  At the border the mean is over what is there.
    """
    side = math.isqrt(tokens.shape[1])
    picture = tokens.transpose(1, 2).unflatten(2, (side, side))                   # (B, W, G, G)
    picture = F.avg_pool2d(picture, size, 1, size // 2, count_include_pad=False)
    return picture.flatten(2).transpose(1, 2)                                     # (B, P, W)


def nearest(tokens, memory, rows=4096):
    """Distance ½(1 - cosine) to the nearest patch of the memory, in [0, 1].

    tokens: (..., W);  memory: (M, W) of unit length.  Returns (...).  One matrix product for every
    `rows` patches, so that the peak is rows * M numbers whatever the number of pictures.
    """
    flat = F.normalize(tokens, dim=-1).flatten(0, -2)
    best = torch.cat([(part @ memory.T).amax(1) for part in flat.split(rows)])
    return (0.5 * (1 - best)).clamp(min=0).view(tokens.shape[:-1])


def leave_one_out(tokens, owners):
    """For each patch of the good pictures, the distance to the nearest patch of the other pictures.

    tokens: (B, P, W);  owners: (B,) int, which photograph a (rotated) picture comes from.
    Returns (B, P): what a good picture looks like to a memory that does not hold it.
    """
    unit = F.normalize(tokens, dim=-1)
    out = torch.empty(tokens.shape[:2], device=tokens.device)
    for owner in owners.unique():
        others = unit[owners != owner].flatten(0, 1)
        out[owners == owner] = nearest(tokens[owners == owner], others)
    return out


@dataclass
class Memory:
    """Patches of good pictures at one scale, and how far good patches are from one another.

    patches: (layers, M, W) of unit length after subtraction of mean (layers, 1, 1, W), the patch
    that all good pictures have in common;  level: mean of the highest 2 % of the patch distances
    of a good picture that the memory does not hold, the unit of its distances;  left_out: (N, P) distances of the good pictures, not
    stored.
    """

    patches: torch.Tensor
    mean: torch.Tensor
    level: float
    left_out: "torch.Tensor | None" = None

    @classmethod
    def of(cls, tokens, owners):
        """tokens: (layers, N, P, W) of good pictures;  owners: (N,), the photograph behind each."""
        mean = tokens.mean((1, 2), keepdim=True)
        centred = tokens - mean
        left_out = torch.stack([leave_one_out(t, owners) for t in centred]).mean(0)  # (N, P)
        top = left_out.topk(max(1, left_out.shape[1] // 50), dim=1).values
        return cls(F.normalize(centred, dim=-1).flatten(1, 2), mean, top.mean().item(), left_out)

    def distance(self, tokens):
        """(layers, B, P, W) -> (B, P), the mean over the layers."""
        centred = tokens - self.mean
        return torch.stack([nearest(t, m) for t, m in zip(centred, self.patches)]).mean(0)

    def state(self):
        """What is stored: half precision halves the file and moves distances by less than 1e-3."""
        return {"patches": self.patches.half(), "mean": self.mean, "level": self.level}

    @classmethod
    def from_state(cls, state, device="cpu"):
        return cls(state["patches"].float().to(device), state["mean"].to(device), state["level"])


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


def image_score(maps, top=0.01):
    """Mean of the highest `top` share of a map's pixels.  (B, R, R) -> (B,)."""
    flat = maps.flatten(1)
    return flat.topk(max(1, int(top * flat.shape[1])), dim=1).values.mean(1)


def threshold(good_scores, false_positive_rate=0.05):
    """The score above which a picture is NG, from scores of good pictures alone.

    good_scores: (n,).  The empirical quantile, interpolated: of many good pictures the stated share
    lies above it; of 20 or fewer, it lies between the two highest.
    """
    return torch.quantile(good_scores.double(), 1 - false_positive_rate).item()


def demo():
    generator = torch.Generator().manual_seed(0)
    good = (torch.randn(8, 16, 32, generator=generator) * 0.2
            + torch.randn(1, 16, 32, generator=generator))
    bad = good[:1].clone()
    bad[0, 5] = torch.randn(32, generator=generator)
    memory = F.normalize(good[1:].flatten(0, 1), dim=-1)
    print("memory of 7 good pictures, 16 patches each; patch 5 of a test picture is replaced")
    for name, tokens in (("good", good[:1]), ("defective", bad)):
        distance = nearest(tokens, memory)
        score = image_score(to_pixels(distance, 64, 2.0)).item()
        print(f"{name:9s} distance of patch 5: {distance[0, 5]:.3f}   image score {score:.3f}")


if __name__ == "__main__":
    demo()
