"""Memory of good patches: a patch is suspicious if it looks like no patch of the good pictures.

    distance   d(p) = ½ (1 - cos) to the nearest remembered patch n(p)
    looseness  l(n) = distance from n to the nearest patch of the other photographs
    score      d(p) / (l(n(p)) + s L), L the mean of l, s = SLACK

all of it twice, each in its own unit, and mixed:

    anywhere   n(p) is looked for in the whole of every picture
    nearby     n(p) is looked for around p's own place: background where a piece has broken off is
               known, but not there
    place      how much nearby counts, 2 a - 1, or 0 if that is less: a is the share of patches of
               good pictures that find their nearest in other photographs nearby

Claim: where good pictures differ from one another (a label at any angle, grain of wood), a distance
means less than where they agree; dividing by the looseness says so (Breunig et al. 2000, "LOF",
with a single neighbour).  And good pictures say by themselves whether a place means anything: in
pictures of bottles nearly every patch has its like at the same place, in those of a texture few do.
Pictures are looked at in several sizes, one memory each; `trial.py` says how much each counts.

    Roth et al. 2022, "PatchCore": a memory of patches of the middle layers, section 3.
    Defard et al. 2021, "PaDiM": every place of a picture has a memory of its own.
    Damm et al. 2025, "AnomalyDINO": transformer patches as they are, turned copies of few shots.

Differs from PatchCore: no averaging over neighbouring patches, which blurs what a transformer's
patch of 16 pixels has already seen whole; no coreset, K shots are few.
Symbols: N good pictures and copies, B images, P patches, V of them around a place, W width,
M = N P patches remembered; a first axis of 2 is anywhere, nearby.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

REACH = 1 / 7           # of the side: how far "nearby" goes each way
SLACK = 1.0             # keeps a patch that all shots share exactly from judging too sharply


def around(places, device="cpu"):
    """Numbers of the patches around each of P = G * G places, (P, V).

    A square that reaches REACH of the side each way; over the border the outermost ones are taken
    again, which changes no maximum.
    """
    side = max(1, math.isqrt(places))
    reach = max(1, round(REACH * side))
    steps = torch.arange(-reach, reach + 1, device=device)
    place = torch.arange(places, device=device)
    rows = (place[:, None] // side + steps).clamp(0, side - 1)              # (P, 2 reach + 1)
    columns = (place[:, None] % side + steps).clamp(0, side - 1)
    return (rows[:, :, None] * side + columns[:, None, :]).flatten(1)


def nearest_twice(unit, memory, window, block=2**22):
    """The nearest patch anywhere, and the nearest around the same place, from one matrix product.

    unit: (B, P, W), memory: (M, W) of whole pictures, both of length one;  window: (P, V).
    Returns (distance ½(1 - cosine) in [0, 1], its number), both (2, B, P).  One product gives at
    most `block` cosines, so that the peak is the same whatever the number of pictures, and small
    enough for a cache.
    """
    count, places = unit.shape[:2]
    rows, found = max(1, block // len(memory)), []
    place = torch.arange(places, device=unit.device).repeat(count)
    for part, own in zip(unit.flatten(0, 1).split(rows), place.split(rows)):
        cosine = part @ memory.T                                            # (rows, M)
        spots = window[own]                                                 # (rows, V)
        near = cosine.unflatten(1, (-1, places))                            # (rows, N, P)
        near = near.gather(2, spots[:, None].expand(-1, near.shape[1], -1)).flatten(1)
        best, number = cosine.max(1)
        close, k = near.max(1)                                              # k counts N V
        spot = spots.gather(1, (k % spots.shape[1])[:, None])[:, 0]
        number = torch.stack([number, k // spots.shape[1] * places + spot])
        found.append((torch.stack([best, close]), number))
    cosine, number = (torch.cat(column, 1).unflatten(1, (count, places)) for column in zip(*found))
    return (0.5 * (1 - cosine)).clamp(min=0), number


def leave_one_out(unit, owners, memory, remembered, window):
    """What the patches of a photograph look like to a memory that does not hold it.

    unit: (B, P, W), memory: (N, P, W), of length one;  owners (B,), remembered (N,): int, the
    photograph behind each;  window: (P, V).  Returns (distance, number) as `nearest_twice`.
    """
    count, places = unit.shape[:2]
    distance = torch.empty(2, count, places, dtype=unit.dtype, device=unit.device)
    number = torch.empty(distance.shape, dtype=torch.long, device=unit.device)
    for owner in owners.unique():
        own, others = owners == owner, (remembered != owner).nonzero()[:, 0].to(unit.device)
        distance[:, own], place = nearest_twice(unit[own], memory[others].flatten(0, 1), window)
        number[:, own] = others[place // places] * places + place % places
    return distance, number


@dataclass
class Memory:
    """Patches of good pictures at one scale.

    patches: (layers, M, W) of unit length after subtraction of mean (layers, 1, 1, W), the patch
    that all good pictures have in common;  loose: (2, layers, M), see above;  places: P;
    level: (2,), mean of the highest 2 % of the scores of a good picture that the memory does not
    hold, the unit of `score`;  place: share of the second way, see above;  left_out: (N / turns, P)
    scores of the good pictures so seen, not stored;  weight: how much this size counts.
    """

    patches: torch.Tensor
    mean: torch.Tensor
    loose: torch.Tensor
    places: int
    level: torch.Tensor
    place: float
    left_out: "torch.Tensor | None" = None
    weight: float = 1.0

    @classmethod
    def of(cls, tokens, owners, turns=1, nearby=1.0, weight=1.0):
        """tokens: (layers, N, P, W) of good pictures;  owners: (N,), the photograph behind each.

        turns: 4 if the second, third and fourth quarter are the first, turned by 90, 180 and 270
        degrees.  A turned patch is as loose as it was before, so only the first are looked up.
        nearby: a factor on how much the place counts.
        """
        mean = tokens.mean((1, 2), keepdim=True)
        count, places = tokens.shape[1] // turns, tokens.shape[2]
        unit, window = F.normalize(tokens - mean, dim=-1), around(places, tokens.device)
        distance, number = (torch.stack(x, 1) for x in                      # (2, layers, count, P)
                            zip(*(leave_one_out(u[:count], owners[:count], u, owners, window)
                                  for u in unit)))
        side = math.isqrt(places)
        loose = distance.unflatten(3, (side, side)) if turns > 1 else distance
        loose = torch.cat([torch.rot90(loose, k, (3, 4)) if k else loose for k in range(turns)], 2)
        alike = (distance[0] >= distance[1] - 1e-6).float().mean().item()
        place = nearby * max(0.0, 2 * alike - 1)
        memory = cls(unit.flatten(1, 2), mean, loose.flatten(2), places, torch.ones(2), place,
                     weight=weight)
        left_out = memory.tolerant(distance, number)                        # (2, count, P)
        top = left_out.topk(max(1, places // 50), dim=2).values
        memory.level = top.mean((1, 2)).clamp(min=1e-6)
        memory.left_out = memory.mixed(left_out)
        return memory

    def tolerant(self, distance, number):
        """Distances over looseness, the mean over the layers.  (2, layers, B, P) twice ->
        (2, B, P)."""
        slack = SLACK * self.loose.mean(2).clamp(min=1e-6)                  # (2, layers)
        loose = self.loose.gather(2, number.flatten(2)).view(number.shape)
        return (distance / (loose + slack[..., None, None])).mean(1)

    def mixed(self, scores):
        """Both ways in their units: (2, B, P) -> (B, P)."""
        anywhere, nearby = scores / self.level.to(scores)[:, None, None]
        return torch.lerp(anywhere, nearby, self.place)

    def score(self, tokens, owners=None, remembered=None):
        """(layers, B, P, W) -> (B, P); about 1 where a good picture is oddest.

        owners (B,), remembered (N,): the photograph behind each picture and each of the memory's,
        if a picture must not be compared with its own photograph.
        """
        unit, window = F.normalize(tokens - self.mean, dim=-1), around(self.places, tokens.device)

        def look_up(patches, memory):
            if owners is None:
                return nearest_twice(patches, memory, window)
            return leave_one_out(patches, owners, memory.unflatten(0, (-1, self.places)),
                                 remembered, window)
        distance, number = (torch.stack(x, 1) for x in zip(*map(look_up, unit, self.patches)))
        return self.mixed(self.tolerant(distance, number))

    def state(self):
        """What is stored: half precision halves the file."""
        return {"patches": self.patches.half(), "mean": self.mean, "loose": self.loose,
                "places": self.places, "level": self.level, "place": self.place,
                "weight": self.weight}

    @classmethod
    def from_state(cls, state, shape, device="cpu"):
        """What `state` gave.  shape: (layers, W) that it must have.  Raises ValueError if not."""
        patches, mean, loose, level = (state[key].float().to(device) for key in
                                       ("patches", "mean", "loose", "level"))
        (layers, width), places, place = shape, state["places"], state["place"]
        weight = state["weight"]
        fits = (patches.ndim == 3 and 0 < patches.shape[1] and patches.shape[::2] == shape
                and mean.shape == (layers, 1, 1, width) and level.shape == (2,)
                and loose.shape == (2, *patches.shape[:2])
                and type(places) is int and 0 < places and patches.shape[1] % places == 0
                and all(type(x) is float and 0 <= x <= 1 for x in (place, weight)))
        if (not fits or not all(x.isfinite().all() for x in (patches, mean, loose, level))
                or (level <= 0).any()):
            raise ValueError(f"memory.pt: expected finite patches ({layers}, M, {width}), found "
                             f"{tuple(patches.shape)} with mean {tuple(mean.shape)}; fit again")
        return cls(patches, mean, loose, places, level, place, weight=weight)


def demo():
    """Eight good pictures of 16 patches; patch 3 is never twice the same, patch 5 always is."""
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(1, 16, 32, generator=generator) + 0.2 * torch.randn(
        9, 16, 32, generator=generator)
    good[:, 3] = good[:, 3] + 0.6 * torch.randn(9, 32, generator=generator)
    memory = Memory.of(good[None, :8], torch.arange(8))
    loose = memory.loose[0].view(8, 16).mean(0)
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
