"""AUPRO: how much of each defect is found, every defect counting the same, however small.

    PRO(t) = mean over regions C of |{p in C: s_p >= t}| / |C|
    AUPRO  = 1 / limit * integral of PRO over the false-positive rate, from 0 to limit

Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV, section 5.2; limit 0.3. Pixel
AUROC is the same integral with every defective pixel counting the same, so a large defect hides
small ones. Hence no curve of overlaps is needed: give each pixel the weight 1 / (regions * |C|) and
integrate the weighted true-positive rate, exactly, ties as straight lines.

Connected regions (8 neighbours) by hooking and pointer jumping, Shiloach & Vishkin 1982: every
pixel starts as its own root; roots of touching pixels hook onto the smaller one, then every pixel
jumps to its root's root until nothing moves. The number of roots at least halves in each round.

Symbols: N pictures, H x W pixels, M marked pixels, n good pixels.
Left out: regions under a minimal size, other limits by default, saturated thresholds.
"""
import torch

from minilora.auroc import ascending


def touching(masks):
    """Pairs of marked pixels that touch, as numbers into masks[masks]: two int64 tensors."""
    number = masks.flatten().cumsum(0).view(masks.shape) - 1            # (N, H, W)
    pairs = []
    for here, there in (((..., slice(None, -1)), (..., slice(1, None))),                # right
                        ((..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))),
                        ((..., slice(None, -1), slice(None, -1)),               # lower right
                         (..., slice(1, None), slice(1, None))),
                        ((..., slice(None, -1), slice(1, None)),                        # lower left
                         (..., slice(1, None), slice(None, -1)))):
        both = masks[here] & masks[there]
        pairs.append(torch.stack([number[here][both], number[there][both]]))
    return torch.cat(pairs, dim=1)                                      # (2, edges)


def connected_regions(masks):
    """Which region each marked pixel belongs to.

    masks: bool (N, H, W).  Returns int64 (M,), in the order of masks[masks]: regions are numbered
    from 0 through all pictures, in the order of their first pixels.
    """
    first, second = touching(masks)
    root = torch.arange(int(masks.sum()), device=masks.device)
    while True:
        a, b = root[first], root[second]
        if torch.equal(a, b):
            return root.unique(return_inverse=True)[1]
        root = root.scatter_reduce(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(root, root[root]):
            root = root[root]


def aupro(maps, masks, limit=0.3):
    """Area under the per-region overlap up to a false-positive rate, over limit; float in [0, 1].

    maps: N of (H, W), scores, higher = more anomalous;  masks: N of bool (H, W); pictures may
    differ in size.  A random map gives limit / 2.  Raises ValueError for differing shapes, NaN, or
    if no or every pixel is marked.
    """
    sizes, others = ([tuple(m.shape) for m in column] for column in (maps, masks))
    if sizes != others or {len(size) for size in sizes} != {2}:
        raise ValueError(f"aupro: maps and masks must both be N of (H, W), found {sizes[:3]} and "
                         f"{others[:3]}; resize the masks to the maps")
    if not 0 < limit <= 1:
        raise ValueError(f"aupro: limit must be in (0, 1], found {limit}; 0.3 is usual")
    marked = torch.cat([mask.flatten().bool() for mask in masks])
    scores = torch.cat([found.flatten() for found in maps])
    if not marked.any() or marked.all():
        raise ValueError("aupro: needs marked and unmarked pixels, found only one kind; it is "
                         "undefined then, report it as missing")
    if scores.isnan().any():
        raise ValueError("aupro: maps hold NaN; look for the step that made it")
    region, count = [], 0
    for mask in masks:
        if mask.any():
            region.append(count + connected_regions(mask[None].bool()))
            count = int(region[-1].max()) + 1
    region = torch.cat(region)                                          # (M,)
    weight = 1 / region.bincount()[region].double()                     # (M,) 1 / |C|
    return weighted_area(scores[marked], weight / count, scores[~marked], limit)


def weighted_area(defective, weight, good, limit):
    """Integral of the weight that scores t or more over the share of good that does, over limit.

    defective, weight: (M,);  good: (n,).  The curve runs straight from tie to tie.
    """
    defective, order = defective.sort()
    above = torch.cat([weight.new_zeros(1), weight[order].flip(0).cumsum(0)])   # of the k highest
    total, good = len(good), ascending(good).flip(0)
    needed = min(total, int(limit * total) + 1)
    ties = torch.searchsorted(-good[needed:], -good[needed - 1], right=True)    # of the last one
    value, count = good[:needed + ties].unique_consecutive(return_counts=True)  # highest first
    end = count.cumsum(0).double() / total                                      # rate after a tie
    start = end - count.double() / total                                        # and before it
    before = above[len(defective) - torch.searchsorted(defective, value, right=True)]
    after = above[len(defective) - torch.searchsorted(defective, value)]
    share = ((limit - start) / (end - start)).clamp(0, 1)                       # of the last step
    height = before + share * (after - before) / 2
    return ((end - start) * share * height).sum().item() / limit


def demo():
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 4:36, 4:36] = True
    masks[0, 50:54, 50:54] = True
    for k in range(8):
        masks[0, 40 + k, 30 - k] = True                                 # touches at corners only
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
                       ("small ones found, large one half", small)):
        print(f"{name:33s} AUPRO {aupro(maps, masks):.3f}   pixel AUROC {auroc(maps, masks):.3f}")


if __name__ == "__main__":
    demo()
