"""What a teacher sees in pictures, as targets for a tower that is to see the same.

    a target    the teacher's inner result at each place, of length one, minus the mean, projected
                on its first principal components (PCA), over the root of the variance they keep
    a place     28 x 28 results become four neighbours of each of 14 x 14 patches

Claim: most of what a layer of hundreds of channels says varies in few directions; these are enough
to learn from, and small enough to keep.

Symbols: B pictures, G patches a side, n neighbours a patch (1 or 4), C channels, D components.
Leaves out: what a loss makes of the targets (pretrain/distillation.py); where pictures come from (pretrain/photographs.py).
"""
import torch
import torch.nn.functional as F

GRID, PATCH = 14, 16            # patches a side, and their side in pixels
# layer of the teacher -> (components kept a place, places a patch and side)
LAYERS = {9: (24, 2), 18: (32, 2), 30: (64, 1), 39: (96, 1)}
WHOLE, WHOLE_KEPT = 51, 128     # mean of this layer over places: the picture as a whole


class Components:
    """Mean and principal components of unit vectors.

    mean: (C,);  axes: (C, D), over the root of the variance they keep, so that targets have
    variance one;  kept: their share of all variance.
    """

    def __init__(self, vectors, count):
        """vectors: (M, C) of any length."""
        unit = F.normalize(vectors, dim=1).double()
        self.mean = unit.mean(0)
        variance, axes = torch.linalg.eigh((unit - self.mean).T.cov())          # ascending
        kept = variance[-count:].sum()
        axes = axes[:, -count:].flip(1)
        most = axes.gather(0, axes.abs().argmax(0, keepdim=True))               # (1, D)
        self.axes = axes * most.sign() / kept.sqrt()    # eigh leaves the sign open
        self.kept = (kept / variance.sum()).item()
        self.mean, self.axes = self.mean.float(), self.axes.float()

    def project(self, vectors):
        """(..., C) -> (..., D)."""
        return (F.normalize(vectors, dim=-1) - self.mean) @ self.axes


def places_of(results, places, grid=(GRID, GRID)):
    """Results of a layer by patch: (B, C, H, W) -> (B, *grid, n, C), n = places^2 neighbours."""
    rows, columns = grid
    x = F.adaptive_avg_pool2d(results, (rows * places, columns * places)).permute(0, 2, 3, 1)
    x = x.unflatten(2, (columns, places)).unflatten(1, (rows, places))          # (B, G, 2, G, 2, C)
    return x.transpose(2, 3).flatten(3, 4)


def teach(teacher, pictures):
    """{layer: (B, rows, columns, n, C)} and, of the whole pictures, {WHOLE: (B, C)}.

    pictures: uint8 (B, 3, H, W), both multiples of PATCH.
    """
    pixels = pictures.float().div(255).to(memory_format=torch.channels_last)
    inner, grid = teacher.inner(pixels, {*LAYERS, WHOLE}), [s // PATCH for s in pixels.shape[-2:]]
    found = {n: places_of(inner[n], places, grid) for n, (_, places) in LAYERS.items()}
    return found | {WHOLE: inner[WHOLE].mean((2, 3))}


def components_of(seen):
    """{layer: Components} from what `teach` found in several batches; of places every third."""
    return {n: Components(torch.cat([s[n].flatten(0, -2)[::3 if n in LAYERS else 1] for s in seen]),
                          LAYERS[n][0] if n in LAYERS else WHOLE_KEPT) for n in seen[0]}


def demo():
    generator = torch.Generator().manual_seed(0)
    results = torch.randn(2, 32, 28, 28, generator=generator)
    results += torch.linspace(0, 3, 32)[:, None, None]
    print(f"a layer {tuple(results.shape)} by patch: {tuple(places_of(results, 2).shape)}")
    vectors = places_of(results, 2).flatten(0, 3)
    for count in (4, 16, 32):
        part = Components(vectors, count)
        targets = part.project(vectors)
        print(f"{count:2d} components keep {part.kept:4.0%} of the variance; the targets' own: "
              f"{targets.var(0).sum():.2f}")


if __name__ == "__main__":
    demo()
