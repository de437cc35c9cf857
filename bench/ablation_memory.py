"""Ablation variants of the memory: each one changes one step of the detector.

A variant is a change of the configuration or a subclass of `Detector`.  They are scored by the row
"memory", so nothing is trained.  Rejected variants stay here, outside the package.

Symbols: B pictures, P patches, W width.
Left out: training (ablation_training.py), scoring and the command (ablation.py).
"""
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from minilora.data.augmentation import augment
from minilora.data.images import to_patches
from minilora.detector import Detector
from minilora.memory_bank import MemoryBank
from minilora.synthetic.shapes import find_object


@dataclass(frozen=True)
class Variant:
    """Fields of `DetectorConfig` that differ from the default, and the class of the detector."""
    config: dict = field(default_factory=dict)
    detector: type = Detector


class SecondScale(Detector):
    """Mean of the maps at two scales: 1 and `factor`, both resized from the file's own pixels."""
    factor = 2.0

    def prepare(self, image):
        """The picture in the larger of both sizes."""
        return to_patches(image, round(self.resolution * max(1, self.factor)),
                          self.clip.visual.patch)

    def at(self, pixels, factor):
        """The same picture, its shorter side `factor` times the resolution."""
        patch, have = self.clip.visual.patch, min(pixels.shape[-2:])
        size = [max(1, round(side * factor * self.resolution / have / patch)) * patch
                for side in pixels.shape[-2:]]
        if size == list(pixels.shape[-2:]):
            return pixels
        return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)

    def encode(self, pixels, lora=True):
        one = super().encode(self.at(pixels, 1), lora)
        other = super().encode(self.at(pixels, self.factor), False)
        return one._replace(frozen_tokens=(one, other))

    def build_bank(self, seen, name):
        return tuple(super(SecondScale, self).build_bank([s.frozen_tokens[k] for s in seen], name)
                     for k in (0, 1))

    def distances(self, seen, name, bank):
        found = []
        for own, part in zip(bank, seen.frozen_tokens):
            grid = [side // self.clip.visual.patch for side in part.size]
            found.append(own.distances(part.frozen_tokens).unflatten(1, (1, *grid)))
        found[1] = F.interpolate(found[1], found[0].shape[2:], mode="bilinear", antialias=True)
        return ((found[0] + found[1]) / 2).flatten(1)


class HalfScale(SecondScale):
    factor = 0.5


class BrightnessCopies(Detector):
    """The memory also holds copies of the shots with changed brightness, contrast and gamma."""

    def rotated_copies(self, pictures):
        generator = torch.Generator().manual_seed(self.config.seed)
        changed = [augment(p[None], generator, rotations=False, flips=False, angle=2, shift=0.01)[0]
                 for p in pictures]
        return super().rotated_copies(pictures) + super().rotated_copies(changed)


class RotationsIfCloser(Detector):
    """Rotated copies are kept only if they bring the shots closer to each other."""

    def rotated_copies(self, pictures):
        def apart(copies):
            seen, far = [self.encode(p[None], False) for _, p in copies], 0
            for k, picture in enumerate(pictures):
                rest = [s for s, (image_id, _) in zip(seen, copies) if image_id != k]
                far += self.distances(self.encode(picture[None], False), "memory",
                                      self.build_bank(rest, "memory")).mean().item()
            return far
        rotated, plain = super().rotated_copies(pictures), list(enumerate(pictures))
        return rotated if len(pictures) > 1 and apart(rotated) < 0.95 * apart(plain) else plain


class NoRotations(Detector):
    """The memory holds the shots without rotated copies."""

    def rotated_copies(self, pictures):
        return list(enumerate(pictures))


class NoCoreset(Detector):
    """No coreset: the memory holds all patches."""

    def build_bank(self, seen, name):
        return MemoryBank(torch.cat([s.frozen_tokens[0] for s in seen]))


class SamePlace(NoRotations):
    """A patch is compared only with patches near the same place, of shots without rotations."""
    reach = 1 / 14                  # share of the sides

    def places(self, seen):
        """Row and column of each patch, (P, 2) in [0, 1]."""
        rows, columns = (side // self.clip.visual.patch for side in seen.size)
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows,
                              (torch.arange(columns) + 0.5) / columns, indexing="ij")
        return torch.stack([y, x], -1).flatten(0, 1)

    def build_bank(self, seen, name):
        tokens = torch.cat([s.frozen_tokens[0] for s in seen])
        return tokens, torch.cat([self.places(s) for s in seen])

    def distances(self, seen, name, bank):
        tokens, where = bank
        near = (self.places(seen)[:, None] - where).abs().amax(-1) <= self.reach + 1e-4
        return torch.stack([1 - (t @ tokens.T).where(near, -1.0).amax(1)
                            for t in seen.frozen_tokens])


class SamePlaceWide(SamePlace):
    reach = 3 / 14


class LocalScale(Detector):
    """Distances are divided by the nearest stored patch's own distance to the other photographs."""

    def build_bank(self, seen, name):
        tokens = torch.cat([s.frozen_tokens[0] for s in seen])
        image_id = torch.cat([torch.full((s.frozen_tokens.shape[1],), k)
                              for k, s in enumerate(seen)])
        keep = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:6000]
        tokens, image_id = tokens[keep], image_id[keep]
        scale = torch.cat([1 - (t @ tokens.T).masked_fill(k[:, None] == image_id, -1).amax(1)
                           for t, k in zip(tokens.split(500), image_id.split(500))]).clamp(max=1)
        return tokens, scale

    def distances(self, seen, name, bank):
        tokens, scale = bank
        best, number = (seen.frozen_tokens @ tokens.T).max(-1)
        return (1 - best) / (scale[number] + scale.mean())


class PrincipalComponents(Detector):
    """Residual after projection on the principal components of the good patches, in place of the
    distance to the nearest patch (SubspaceAD)."""
    kept = 0.99                     # share of the variance

    def build_bank(self, seen, name):
        tokens = torch.cat([s.frozen_tokens[0] for s in seen])
        variance, axes = torch.linalg.eigh((tokens - tokens.mean(0)).T.cov())
        share = variance.flip(0).cumsum(0) / variance.sum()
        return tokens.mean(0), axes.flip(1)[:, :int((share < self.kept).sum()) + 1]

    def distances(self, seen, name, bank):
        mean, axes = bank
        centred = seen.frozen_tokens - mean
        return (centred - centred @ axes @ axes.T).square().sum(-1)


class ForegroundOnly(Detector):
    """Patches of a plain background, as found by `find_object`, have distance 0."""

    def encode(self, pixels, lora=True):
        seen, there = super().encode(pixels, lora), []
        grid = [side // self.clip.visual.patch for side in seen.size]
        for picture in pixels:
            small = F.interpolate(picture[None], (224, 224), mode="bilinear", antialias=True)[0]
            cells, background = find_object(small.clamp(0, 1))
            cells = torch.ones_like(cells) if background is None else cells
            cells = F.adaptive_max_pool2d(cells[None].float(), grid)
            there.append(F.max_pool2d(cells, 3, 1, 1).flatten())
        return seen._replace(frozen_tokens=(seen.frozen_tokens, torch.stack(there)))

    def build_bank(self, seen, name):
        return super().build_bank([s._replace(frozen_tokens=s.frozen_tokens[0])
                                   for s in seen], name)

    def distances(self, seen, name, bank):
        return bank.distances(seen.frozen_tokens[0]) * seen.frozen_tokens[1]


class NeighbourMean(Detector):
    """Each patch is the mean of its 3 x 3 neighbourhood, as in PatchCore."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        rows = seen.size[0] // self.clip.visual.patch
        grid = seen.frozen_tokens.transpose(1, 2).unflatten(2, (rows, -1))  # (B, W, rows, columns)
        grid = F.avg_pool2d(grid, 3, 1, 1, count_include_pad=False)
        return seen._replace(frozen_tokens=F.normalize(grid.flatten(2).transpose(1, 2), dim=-1))


class Centred(Detector):
    """The mean of the shots' patches is subtracted from all patches before normalisation."""

    def build_bank(self, seen, name):
        mean = torch.cat([s.frozen_tokens[0] for s in seen]).mean(0)
        centred = [s._replace(frozen_tokens=F.normalize(s.frozen_tokens - mean, dim=-1))
                   for s in seen]
        return mean, super().build_bank(centred, name)

    def distances(self, seen, name, bank):
        mean, bank = bank
        return bank.distances(F.normalize(seen.frozen_tokens - mean, dim=-1))


class ThreeNearest(Detector):
    """Mean of the distances to the three nearest patches of the memory."""

    def distances(self, seen, name, bank):
        return torch.stack([1 - (t @ bank.tokens.T).topk(3).values.mean(1)
                            for t in seen.frozen_tokens])


class MeanOfStates(Detector):
    """The mean of the hidden states' tokens, in place of their concatenation."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        parts = seen.frozen_tokens.unflatten(-1, (len(self.memory_states), -1)).mean(-2)
        return seen._replace(frozen_tokens=F.normalize(parts, dim=-1))


MEMORY = {
    "plain": Variant(),
    "scales 1 and 2": Variant({}, SecondScale),
    "scales 1 and 0.5": Variant({}, HalfScale),
    "resolution 336": Variant({"resolution": 336}),
    "resolution 448": Variant({"resolution": 448}),
    "square": Variant({"square": True}),
    "copies with other brightness": Variant({}, BrightnessCopies),
    "no rotated copies": Variant({}, NoRotations),
    "rotated copies if shots get closer": Variant({}, RotationsIfCloser),
    "same place, one patch around": Variant({}, SamePlace),
    "same place, three patches around": Variant({}, SamePlaceWide),
    "local scale": Variant({}, LocalScale),
    "residual of PCA": Variant({}, PrincipalComponents),
    "foreground only": Variant({}, ForegroundOnly),
    "no coreset": Variant({}, NoCoreset),
    "mean of 3 x 3 patches": Variant({}, NeighbourMean),
    "tokens minus their mean": Variant({}, Centred),
    "three nearest": Variant({}, ThreeNearest),
    "mean of two states": Variant({}, MeanOfStates),
    "states 1, 3": Variant({"memory_states": (1, 3)}),
    "states 2, 3": Variant({"memory_states": (2, 3)}),
    "states 3, 4": Variant({"memory_states": (3, 4)}),
    "state 4": Variant({"memory_states": (4,)}),
    "sigma 2": Variant({"sigma": 2.0}),
    "sigma 8": Variant({"sigma": 8.0}),
    "maximum": Variant({"top_fraction": 0.0}),
    "top 1 %": Variant({"top_fraction": 0.01}),
}
