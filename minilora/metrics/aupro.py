"""AUPRO: how much of each defect is found; every defect has the same weight, however small it is.

    PRO(t) = mean over regions C of |{p in C: s_p >= t}| / |C|
    AUPRO  = 1 / limit * integral of PRO over the false-positive rate, from 0 to limit

Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV, section 5.2; limit 0.3. Pixel
AUROC is the same integral (limit 1) in which every defective pixel has the same weight, so a large
defect hides small ones. Hence AUPRO needs no separate curve of overlaps: each pixel gets the weight
1 / (number of regions * |C|), and the weighted true-positive rate is integrated exactly; where
scores are equal, the curve is a straight line.

Connected regions (8 neighbours) by hooking and pointer jumping, Shiloach & Vishkin 1982: every
pixel starts as its own root. Roots of neighbouring pixels are hooked onto the smaller one, then
every pixel jumps to the root of its root until nothing changes. Each round hooks many roots, so a
few rounds are enough, even for a spiral.

Symbols: N pictures of H x W pixels, M marked pixels, n good pixels.
Left out: a minimal size of regions, other limits by default, saturated thresholds.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from minilora.auroc import ascending


def neighbour_pairs(masks: Tensor) -> Tensor:
    """All pairs of neighbouring marked pixels, int64 (2, number of pairs).

    masks: bool (N, H, W).  A pixel is given by its index into masks[masks].
    """
    number = masks.flatten().cumsum(0).view(masks.shape) - 1            # (N, H, W)
    pairs = []
    for here, there in (((..., slice(None, -1)), (..., slice(1, None))),                # right
                        ((..., slice(None, -1), slice(None)),                           # below
                         (..., slice(1, None), slice(None))),
                        ((..., slice(None, -1), slice(None, -1)),               # lower right
                         (..., slice(1, None), slice(1, None))),
                        ((..., slice(None, -1), slice(1, None)),                        # lower left
                         (..., slice(1, None), slice(None, -1)))):
        both = masks[here] & masks[there]
        pairs.append(torch.stack([number[here][both], number[there][both]]))
    return torch.cat(pairs, dim=1)                                      # (2, pairs)


def connected_regions(masks: Tensor) -> Tensor:
    """The number of the region to which each marked pixel belongs.

    masks: bool (N, H, W).  Returns int64 (M,), in the order of masks[masks].  Regions of all
    pictures are numbered from 0, in the order of their first pixels.
    """
    return joined(int(masks.sum()), *neighbour_pairs(masks))


def joined(count: int, first: Tensor, second: Tensor) -> Tensor:
    """The number of the group of each of `count` things, int64 (count,), if first[k] and second[k]
    belong together.  Groups are numbered from 0, in the order of their first members."""
    root = torch.arange(count, device=first.device)
    while True:
        a, b = root[first], root[second]
        if torch.equal(a, b):
            return root.unique(return_inverse=True)[1]
        root = root.scatter_reduce(0, torch.maximum(a, b), torch.minimum(a, b), "amin")  # hooking
        while not torch.equal(root, root[root]):                                # pointer jumping
            root = root[root]


def aupro(maps: Tensor | Sequence[Tensor], masks: Tensor | Sequence[Tensor],
          limit: float = 0.3) -> float:
    """Area under the per-region overlap up to the false-positive rate `limit`, divided by `limit`.

    maps: N scores (H, W), higher = more anomalous;  masks: N bool (H, W); pictures may differ in
    size.  Returns a number in [0, 1]; a random map gives limit / 2.  Raises ValueError for
    differing shapes, for NaN, and if no pixel or every pixel is marked.
    """
    map_sizes, mask_sizes = ([tuple(m.shape) for m in column] for column in (maps, masks))
    if map_sizes != mask_sizes or {len(size) for size in map_sizes} != {2}:
        raise ValueError(f"aupro: maps and masks must both be N of (H, W), found {map_sizes[:3]} "
                         f"and {mask_sizes[:3]}; resize the masks to the maps")
    if not 0 < limit <= 1:
        raise ValueError(f"aupro: limit must be in (0, 1], found {limit}; 0.3 is usual")
    marked = torch.cat([mask.flatten().bool() for mask in masks])
    scores = torch.cat([m.flatten() for m in maps])
    if not marked.any() or marked.all():
        raise ValueError("aupro: needs marked and unmarked pixels, found only one kind; AUPRO is "
                         "undefined then, report it as missing")
    if scores.isnan().any():
        raise ValueError("aupro: maps must not hold NaN, found some; look for the step that made "
                         "them")
    region, count = [], 0
    for mask in masks:
        if mask.any():
            region.append(count + connected_regions(mask[None].bool()))
            count = int(region[-1].max()) + 1
    region = torch.cat(region)                                          # (M,)
    weight = 1 / region.bincount()[region].double()                     # (M,) 1 / |C|
    return weighted_area(scores[marked], weight / count, scores[~marked], limit)


def weighted_area(defective: Tensor, weight: Tensor, good: Tensor, limit: float) -> float:
    """Area under the weighted true-positive rate up to false-positive rate `limit`, over `limit`.

    defective, good: scores (M,) and (n,) of defective and good pixels;  weight: (M,), sum 1.
    The curve is a straight line between one score and the next, as for ties in AUROC.
    """
    defective, order = defective.sort()
    above = torch.cat([weight.new_zeros(1), weight[order].flip(0).cumsum(0)])   # k highest, summed
    total, good = len(good), ascending(good).flip(0)
    needed = min(total, int(limit * total) + 1)
    ties = torch.searchsorted(-good[needed:], -good[needed - 1], right=True)   # with the last one
    value, count = good[:needed + ties].unique_consecutive(return_counts=True)  # highest first
    end = count.cumsum(0).double() / total              # false-positive rate with this value
    start = end - count.double() / total                # and without it
    before = above[len(defective) - torch.searchsorted(defective, value, right=True)]
    after = above[len(defective) - torch.searchsorted(defective, value)]
    share = ((limit - start) / (end - start)).clamp(0, 1)               # below 1 in the last step
    height = before + share * (after - before) / 2
    return ((end - start) * share * height).sum().item() / limit


def demo() -> None:
    """Regions of a mask, and AUPRO next to pixel AUROC for three maps."""
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 4:36, 4:36] = True
    masks[0, 50:54, 50:54] = True
    for k in range(8):
        masks[0, 40 + k, 30 - k] = True                                 # neighbours at corners only
    regions = connected_regions(masks)
    print(f"regions found: {regions.max() + 1}, pixels in each: {regions.bincount().tolist()}")
    from minilora.auroc import auroc
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 64, 64, generator=generator)
    large, small = noise.clone(), noise.clone()
    large[0, 4:36, 4:36] += 1
    small[masks] += 1
    small[0, 4:36, 4:36] -= 0.5
    for name, maps in (("random map", noise), ("large defect found", large),
                       ("small ones found, large one partly", small)):
        print(f"{name:34s} AUPRO {aupro(maps, masks):.3f}   pixel AUROC {auroc(maps, masks):.3f}")


if __name__ == "__main__":
    demo()
