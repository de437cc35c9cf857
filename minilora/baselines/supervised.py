"""Supervised classifiers with labelled defects: four training recipes, three losses.

    CNN                        30 epochs, Adam 1e-3, no augmentation
    CNN, augmented             the same with random rotations, flips, crops and brightness changes
    ResNet-18                  pretrained, early stages frozen, new last layer
    ResNet-18, dropout, cosine the same with dropout 0.5 and a cosine learning-rate schedule

Losses: cross-entropy; class-weighted cross-entropy; cross-entropy of compensated logits plus the
balanced contrastive loss (long_tail.py).
Symbols: B images, N pictures, C classes, R resolution.
Left out: early stopping, because there are no validation pictures.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.baselines import cnn, resnet18
from minilora.baselines.long_tail import (balanced_contrastive_loss, class_weights,
                                          compensated_logits)
from minilora.data.augmentation import augment
from minilora.data.images import normalise

CONTRASTIVE_WEIGHT = 0.5        # of the contrastive loss; the cross-entropy has weight 1
MAX_CROP = 0.1                  # largest crop at each edge, as a share of the side


@dataclass(frozen=True)
class SupervisedConfig:
    """Hyperparameters, chosen before any test."""
    network: str = "cnn"                # or "resnet18"
    augmented: bool = False
    dropout: float = 0.0                # before the last layer
    cosine: bool = False                # cosine learning-rate schedule instead of a constant rate
    loss: str = "plain"                 # or "weighted" or "contrastive"
    epochs: int = 30
    batch: int = 16
    rate: float = 1e-3
    resolution: int = 128


RECIPES = {"CNN": SupervisedConfig(), "CNN, augmented": SupervisedConfig(augmented=True),
           "ResNet-18": SupervisedConfig("resnet18", True),
           "ResNet-18, dropout, cosine": SupervisedConfig("resnet18", True, 0.5, True)}


def random_crops(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Crop each picture of a batch (B, 3, R, R) at its edges and resize it to R x R."""
    side = pixels.shape[-1]
    edges = (MAX_CROP * side * torch.rand(len(pixels), 4, generator=generator)).long().tolist()
    return torch.cat([F.interpolate(p[None, :, a:side - b, c:side - d], (side, side),
                                    mode="bilinear", align_corners=False)
                      for p, (a, b, c, d) in zip(pixels, edges)])


class Supervised:
    """A classifier of the kinds of defects; class 0 is "good"."""

    def __init__(self, recipe: SupervisedConfig, classes: int, seed: int = 1,
                 backbone_path: str | Path | None = None) -> None:
        """backbone_path: file of pretrained weights for the ResNet, or None."""
        self.recipe, self.resolution, self.seed = recipe, recipe.resolution, seed
        self.generator = torch.Generator().manual_seed(seed)
        module = {"cnn": cnn, "resnet18": resnet18}[recipe.network]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)             # torch.nn draws weights from the global generator
            net = module.SmallCNN(classes, recipe.dropout) if module is cnn else \
                module.ResNet18(classes, recipe.dropout)
            self.prototypes = nn.Parameter(torch.randn(classes, net.fc.in_features))
        if backbone_path and module is resnet18:
            resnet18.load_backbone(net, backbone_path).freeze("stem", "layer1", "layer2")
        self.net = net

    def trainable(self) -> int:
        """Number of trainable parameters of the network."""
        return sum(p.numel() for p in self.net.parameters() if p.requires_grad)

    def loss(self, batch: Tensor, targets: Tensor, counts: list[int]) -> Tensor:
        """batch: (B, 3, R, R) in [0, 1];  counts: training pictures of each class.  A scalar."""
        features = self.net.features(normalise(batch))
        logits = self.net.fc(self.net.dropout(features))
        if self.recipe.loss == "weighted":
            return F.cross_entropy(logits, targets, class_weights(counts))
        if self.recipe.loss == "contrastive":
            contrast = balanced_contrastive_loss(features, targets, self.prototypes).mean()
            classification = F.cross_entropy(compensated_logits(logits, counts), targets)
            return classification + CONTRASTIVE_WEIGHT * contrast
        return F.cross_entropy(logits, targets)

    def fit(self, pixels: Tensor, targets: Tensor,
            report: Callable[[int, float], None] = lambda epoch, loss: None) -> "Supervised":
        """Train.  Returns self.

        pixels: (N, 3, R, R) in [0, 1];  targets: (N,) class numbers, each class at least once;
        report(epoch, mean loss) is called after every epoch.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)        # dropout also draws from the global generator
            return self.train_epochs(pixels, targets, report)

    def train_epochs(self, pixels: Tensor, targets: Tensor,
                     report: Callable[[int, float], None]) -> "Supervised":
        """The training of `fit`, which seeds the global generator."""
        r, count = self.recipe, len(pixels)
        classes = self.net.fc.out_features
        counts = targets.bincount(minlength=classes).tolist()
        steps = r.epochs * math.ceil(count / r.batch)
        optimiser = torch.optim.Adam([*self.net.parameters(), self.prototypes], r.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        self.net.train()
        for epoch in range(r.epochs):
            losses = []
            for rows in torch.randperm(count, generator=self.generator).split(r.batch):
                if len(rows) == 1 and count > 1:        # batch norm needs two pictures
                    continue
                batch = pixels[rows]
                if r.augmented:
                    batch = random_crops(augment(batch, self.generator, angle=15), self.generator)
                loss = self.loss(batch, targets[rows], counts)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if r.cosine:
                    schedule.step()
                losses.append(loss.item())
            report(epoch, sum(losses) / len(losses))
        self.net.eval()
        return self

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """Probability of each class, (N, C).  pixels: (N, 3, R, R) in [0, 1]."""
        return torch.cat([self.net(normalise(part)).softmax(-1) for part in pixels.split(32)])


def demo() -> None:
    """Accuracy on discs, squares and a few crosses, for three losses."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 64)
    y, x = line[:, None], line
    shapes = torch.stack([y ** 2 + x ** 2 < 0.3, (y.abs() < 0.5) & (x.abs() < 0.5),
                          (y.abs() < 0.15) | (x.abs() < 0.15)]).float()
    targets = torch.tensor([0] * 24 + [1] * 6 + [2] * 2)
    test_targets = torch.arange(3).repeat_interleave(10)

    def draw(kinds):
        noise = 0.1 * torch.randn(len(kinds), 3, 64, 64, generator=generator)
        return (0.3 + 0.4 * shapes[kinds][:, None] + noise).clamp(0, 1)
    pixels, test_pixels = draw(targets), draw(test_targets)
    for loss in ("plain", "weighted", "contrastive"):
        config = SupervisedConfig(loss=loss, epochs=40, resolution=64)
        classifier = Supervised(config, 3).fit(pixels, targets)
        correct = classifier.probabilities(test_pixels).argmax(1) == test_targets
        print(f"{loss:12s} accuracy on discs, squares, crosses: "
              + "  ".join(f"{correct[test_targets == k].float().mean():.0%}" for k in range(3)))


if __name__ == "__main__":
    demo()
