"""The teacher's features of a picture, as targets for the image tower.

    a target    the teacher's feature vector at one position, scaled to length one, minus the mean,
                projected on its first principal components (PCA), divided by the root of the
                variance that they keep
    a patch     28 x 28 positions become four neighbours in each of 14 x 14 patches

Claim: the features of a layer with hundreds of channels vary mostly in few directions.  These are
enough to learn from, and small enough to store.

Symbols: B pictures, G patches per side, n neighbours per patch (1 or 4), C channels, D components,
M vectors.
Left out: the losses on the targets (pretrain/distillation.py); the pictures
(pretrain/photographs.py).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.pretrain.teacher import MobileNetV2

GRID, PATCH = 14, 16            # patches per side of a picture; pixels per side of a patch
# layer of the teacher -> (components kept per position, positions per side of a patch)
LAYERS = {9: (24, 2), 18: (32, 2), 30: (64, 1), 39: (96, 1)}
WHOLE, WHOLE_KEPT = 51, 128     # mean of this layer over positions: the whole picture


class Components:
    """Mean and principal components of unit vectors.

    mean: (C,);  axes: (C, D), divided by the root of the variance that they keep, so that targets
    have variance one;  kept: the share of the variance that they keep.
    """

    def __init__(self, vectors: Tensor, count: int) -> None:
        """vectors: (M, C), of any length;  count: number of components, D."""
        unit = F.normalize(vectors, dim=1).double()
        self.mean = unit.mean(0)
        variance, axes = torch.linalg.eigh((unit - self.mean).T.cov())          # ascending
        kept = variance[-count:].sum()
        axes = axes[:, -count:].flip(1)
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))               # (1, D)
        self.axes = axes * largest.sign() / kept.sqrt()    # eigh does not fix the sign
        self.kept = (kept / variance.sum()).item()
        self.mean, self.axes = self.mean.float(), self.axes.float()

    def project(self, vectors: Tensor) -> Tensor:
        """The targets of feature vectors: (..., C) -> (..., D)."""
        return (F.normalize(vectors, dim=-1) - self.mean) @ self.axes


def group_by_patch(features: Tensor, per_side: int,
                   grid: Sequence[int] = (GRID, GRID)) -> Tensor:
    """A layer's features by patch: (B, C, H, W) -> (B, rows, columns, n, C), n = per_side^2."""
    rows, columns = grid
    x = F.adaptive_avg_pool2d(features, (rows * per_side, columns * per_side)).permute(0, 2, 3, 1)
    x = x.unflatten(2, (columns, per_side)).unflatten(1, (rows, per_side))      # (B, G, 2, G, 2, C)
    return x.transpose(2, 3).flatten(3, 4)


def teacher_features(teacher: MobileNetV2, pictures: Tensor) -> dict[int, Tensor]:
    """{layer: (B, rows, columns, n, C)} and, for the whole pictures, {WHOLE: (B, C)}.

    pictures: uint8 (B, 3, H, W), both multiples of PATCH.
    """
    pixels = pictures.float().div(255).to(memory_format=torch.channels_last)
    outputs = teacher.layer_outputs(pixels, {*LAYERS, WHOLE})
    grid = [side // PATCH for side in pixels.shape[-2:]]
    layers = {n: group_by_patch(outputs[n], per_side, grid) for n, (_, per_side) in LAYERS.items()}
    return layers | {WHOLE: outputs[WHOLE].mean((2, 3))}


def fit_components(features: list[dict[int, Tensor]]) -> dict[int, Components]:
    """{layer: Components} from `teacher_features` of several batches, every third position."""
    return {n: Components(torch.cat([batch[n].flatten(0, -2)[::3 if n in LAYERS else 1]
                                     for batch in features]),
                          LAYERS[n][0] if n in LAYERS else WHOLE_KEPT) for n in features[0]}


def demo() -> None:
    """Features by patch, and the variance that some of their components keep."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 32, 28, 28, generator=generator)
    features += torch.linspace(0, 3, 32)[:, None, None]
    print(f"a layer {tuple(features.shape)} by patch: {tuple(group_by_patch(features, 2).shape)}")
    vectors = group_by_patch(features, 2).flatten(0, 3)
    for count in (4, 16, 32):
        part = Components(vectors, count)
        targets = part.project(vectors)
        print(f"{count:2d} components keep {part.kept:4.0%} of the variance; that of targets: "
              f"{targets.var(0).sum():.2f}")


if __name__ == "__main__":
    demo()
