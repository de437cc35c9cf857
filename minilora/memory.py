"""Memory of good patches: a patch is suspicious if it looks like no patch of the good pictures.

    distance   d(p) = ½ (1 - cos) to the nearest remembered patch n(p)
    looseness  l(n) = distance from n to the nearest patch of the other photographs
    score      d(p) / (l(n(p)) + s L), L the mean of l, s = SLACK

Claim: where good pictures differ from one another (a label at any angle, grain of wood), a distance
means less than where they agree; dividing by the looseness says so (Breunig et al. 2000, "LOF",
with a single neighbour).

    Roth et al. 2022, "PatchCore": a memory of patches of the middle layers, section 3.
    Damm et al. 2025, "AnomalyDINO": transformer patches as they are, turned copies of few shots.

Differs from PatchCore: no averaging over neighbouring patches, which blurs what a transformer's
patch of 16 pixels has already seen whole; no coreset, K shots are few.
Symbols: N good pictures and copies, B images, P patches, W width, M = N P patches remembered.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SLACK = 1.0             # keeps a patch that all shots share exactly from judging too sharply


def nearest(unit, memory, block=2**22):
    """The nearest patch of the memory: (distance ½(1 - cosine) in [0, 1], its number).

    unit: (..., W), memory: (M, W), both of length one.  Returns (...) twice.  One matrix product
    gives at most `block` cosines, so that the peak is the same whatever the number of pictures, and
    small enough for a cache.
    """
    rows = max(1, block // len(memory))
    found = [(part @ memory.T).max(1) for part in unit.flatten(0, -2).split(rows)]
    best, number = (torch.cat(column).view(unit.shape[:-1]) for column in zip(*found))
    return (0.5 * (1 - best)).clamp(min=0), number


def leave_one_out(unit, owners, count):
    """What the patches of a photograph look like to a memory that does not hold it.

    unit: (N, P, W) of length one;  owners: (N,) int, the photograph behind a copy;  count: how many
    of them, from the first on, are looked up.
    Returns (distance, number) of the nearest patch of another photograph, (count, P) each.
    """
    distance = torch.empty(count, unit.shape[1], dtype=unit.dtype, device=unit.device)
    number = torch.empty(distance.shape, dtype=torch.long, device=unit.device)
    for owner in owners[:count].unique():
        own, others = owners[:count] == owner, (owners != owner).nonzero()[:, 0].to(unit.device)
        distance[own], place = nearest(unit[:count][own], unit[others].flatten(0, 1))
        number[own] = others[place // unit.shape[1]] * unit.shape[1] + place % unit.shape[1]
    return distance, number


@dataclass
class Memory:
    """Patches of good pictures at one scale.

    patches: (layers, M, W) of unit length after subtraction of mean (layers, 1, 1, W), the patch
    that all good pictures have in common;  loose: (layers, M), see above;  level: mean of the
    highest 2 % of the scores of a good picture that the memory does not hold, the unit of `score`;
    left_out: (N / turns, P) scores of the good pictures so seen, not stored.
    """

    patches: torch.Tensor
    mean: torch.Tensor
    loose: torch.Tensor
    level: float = 1.0
    left_out: "torch.Tensor | None" = None

    @classmethod
    def of(cls, tokens, owners, turns=1):
        """tokens: (layers, N, P, W) of good pictures;  owners: (N,), the photograph behind each.

        turns: 4 if the second, third and fourth quarter are the first, turned by 90, 180 and 270
        degrees.  A turned patch is as loose as it was before, so only the first are looked up.
        """
        mean, count = tokens.mean((1, 2), keepdim=True), tokens.shape[1] // turns
        unit = F.normalize(tokens - mean, dim=-1)
        distance, number = (torch.stack(x) for x in
                            zip(*(leave_one_out(u, owners, count) for u in unit)))
        side = math.isqrt(unit.shape[2])
        loose = distance.unflatten(2, (side, side)) if turns > 1 else distance
        loose = torch.cat([torch.rot90(loose, k, (2, 3)) if k else loose for k in range(turns)], 1)
        memory = cls(unit.flatten(1, 2), mean, loose.flatten(1))
        memory.left_out = memory.tolerant(distance, number)                      # (count, P)
        top = memory.left_out.topk(max(1, unit.shape[2] // 50), dim=1).values
        memory.level = top.mean().clamp(min=1e-6).item()
        return memory

    def tolerant(self, distance, number):
        """Distances over looseness, the mean over the layers.  (layers, B, P) twice -> (B, P)."""
        slack = SLACK * self.loose.mean(1).clamp(min=1e-6)
        return torch.stack([d / (loose[n] + s) for d, n, loose, s
                            in zip(distance, number, self.loose, slack)]).mean(0)

    def score(self, tokens):
        """(layers, B, P, W) -> (B, P); about 1 where a good picture is oddest."""
        unit = F.normalize(tokens - self.mean, dim=-1)
        distance, number = (torch.stack(x) for x in zip(*map(nearest, unit, self.patches)))
        return self.tolerant(distance, number) / self.level

    def state(self):
        """What is stored: half precision halves the file."""
        return {"patches": self.patches.half(), "mean": self.mean, "loose": self.loose,
                "level": self.level}

    @classmethod
    def from_state(cls, state, shape, device="cpu"):
        """What `state` gave.  shape: (layers, W) that it must have.  Raises ValueError if not."""
        patches, mean, loose = (state[key].float().to(device) for key in ("patches", "mean",
                                                                         "loose"))
        layers, width = shape
        fits = (patches.ndim == 3 and 0 < patches.shape[1] and patches.shape[::2] == shape
                and mean.shape == (layers, 1, 1, width) and loose.shape == patches.shape[:2])
        numbers = (patches, mean, loose, torch.tensor(state["level"]))
        if not fits or not all(x.isfinite().all() for x in numbers) or state["level"] <= 0:
            raise ValueError(f"memory.pt: expected finite patches ({layers}, M, {width}), found "
                             f"{tuple(patches.shape)} with mean {tuple(mean.shape)}; fit again")
        return cls(patches, mean, loose, state["level"])


def demo():
    """Eight good pictures of 16 patches; patch 3 is never twice the same, patch 5 always is."""
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(1, 16, 32, generator=generator) + 0.2 * torch.randn(
        9, 16, 32, generator=generator)
    good[:, 3] = good[:, 3] + 0.6 * torch.randn(9, 32, generator=generator)
    memory = Memory.of(good[None, :8], torch.arange(8))
    loose = memory.loose.view(8, 16).mean(0)
    print(f"looseness of patch 3: {loose[3]:.3f}, of patch 5: {loose[5]:.3f}")
    print("a ninth picture, as it is and with these two patches replaced:")
    for name, changed in (("good", ()), ("both odd", (3, 5))):
        picture = good[8:].clone()
        for patch in changed:
            picture[:, patch] = picture[:, patch] + 0.6 * torch.randn(32, generator=generator)
        score = memory.score(picture[None])[0]
        print(f"{name:9s} score of patch 3: {score[3]:.2f}, of patch 5: {score[5]:.2f}, "
              f"highest elsewhere {score[6:].max():.2f}")


if __name__ == "__main__":
    demo()
