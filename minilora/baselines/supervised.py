"""Four recipes of a typical homework, and three ways to bear a long tail: labels instead of CLIP.

    CNN                        30 epochs, Adam 1e-3, pictures as they are
    CNN, augmented             the same with turned, cropped, flipped and relit pictures
    ResNet-18                  pretrained, early stages frozen, a new head
    ResNet-18, dropout, cosine the same with dropout 0.5 and a rate that falls as a cosine

Losses: plain cross-entropy; with class weights; balanced contrast beside compensated logits.
Symbols: N pictures, C classes, R resolution.  Leaves out: early stopping (no validation pictures).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minilora.baselines import cnn, resnet18
from minilora.baselines.long_tail import balanced_contrast, class_weights, compensated
from minilora.data.images import augment, normalise

CONTRAST = 0.5                  # weight of the contrast beside the cross-entropy
CROP = 0.1                      # of the side at most, on each edge


@dataclass(frozen=True)
class SupervisedConfig:
    """What is chosen before any picture is seen.  loss: "plain", "weighted" or "contrastive"."""
    network: str = "cnn"
    augmented: bool = False
    dropout: float = 0.0
    cosine: bool = False
    loss: str = "plain"
    epochs: int = 30
    batch: int = 16
    rate: float = 1e-3
    resolution: int = 128


RECIPES = {"CNN": SupervisedConfig(), "CNN, augmented": SupervisedConfig(augmented=True),
           "ResNet-18": SupervisedConfig("resnet18", True),
           "ResNet-18, dropout, cosine": SupervisedConfig("resnet18", True, 0.5, True)}


def cropped(pixels, generator):
    """Each picture of a batch cut at its edges and brought back to its size."""
    side = pixels.shape[-1]
    edges = (CROP * side * torch.rand(len(pixels), 4, generator=generator)).long().tolist()
    return torch.cat([F.interpolate(p[None, :, a:side - b, c:side - d], (side, side),
                                    mode="bilinear", align_corners=False)
                      for p, (a, b, c, d) in zip(pixels, edges)])


class Supervised:
    """A classifier of kinds, "good" first.  start: file of weights for the ResNet, or None."""

    def __init__(self, recipe, classes, seed=1, start=None):
        self.recipe, self.resolution, self.seed = recipe, recipe.resolution, seed
        self.generator = torch.Generator().manual_seed(seed)
        make = {"cnn": cnn, "resnet18": resnet18}[recipe.network]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)                     # torch draws a layer's weights globally
            net = make.SmallCNN(classes, recipe.dropout) if make is cnn else \
                make.ResNet18(classes, recipe.dropout)
            self.prototypes = nn.Parameter(torch.randn(classes, make.CNN_FEATURES))
        if start and make is resnet18:
            resnet18.load_backbone(net, start).freeze("stem", "layer1", "layer2")
        self.net = net

    def trainable(self):
        return sum(p.numel() for p in self.net.parameters() if p.requires_grad)

    def loss(self, batch, targets, counts):
        """batch: (B, 3, R, R) in [0, 1];  counts: pictures of each class."""
        features = self.net.features(normalise(batch))
        logits = self.net.fc(self.net.dropout(features))
        if self.recipe.loss == "weighted":
            return F.cross_entropy(logits, targets, class_weights(counts))
        if self.recipe.loss == "contrastive":
            contrast = balanced_contrast(features, targets, self.prototypes).mean()
            return F.cross_entropy(compensated(logits, counts), targets) + CONTRAST * contrast
        return F.cross_entropy(logits, targets)

    def fit(self, pixels, targets, report=lambda epoch, loss: None):
        """pixels: (N, 3, R, R) in [0, 1];  targets: (N,), every class at least once."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)                # dropout, too, draws globally
            return self.learn(pixels, targets, report)

    def learn(self, pixels, targets, report):
        """The training itself."""
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
                if len(rows) == 1 and count > 1:        # batch norm needs two
                    continue
                batch = pixels[rows]
                if r.augmented:
                    batch = cropped(augment(batch, self.generator, angle=15), self.generator)
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
    def probabilities(self, pixels):
        """(N, C).  pixels: (N, 3, R, R) in [0, 1]."""
        return torch.cat([self.net(normalise(part)).softmax(-1) for part in pixels.split(32)])


def demo():
    """Discs, squares and a few crosses, by three losses."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 64)
    y, x = line[:, None], line
    shapes = torch.stack([y ** 2 + x ** 2 < 0.3, (y.abs() < 0.5) & (x.abs() < 0.5),
                          (y.abs() < 0.15) | (x.abs() < 0.15)]).float()
    targets = torch.tensor([0] * 24 + [1] * 6 + [2] * 2)
    new = torch.arange(3).repeat_interleave(10)

    def draw(kinds):
        noise = 0.1 * torch.randn(len(kinds), 3, 64, 64, generator=generator)
        return (0.3 + 0.4 * shapes[kinds][:, None] + noise).clamp(0, 1)
    pixels, others = draw(targets), draw(new)
    for loss in ("plain", "weighted", "contrastive"):
        judge = Supervised(SupervisedConfig(loss=loss, epochs=40, resolution=64), 3).fit(pixels, targets)
        right = judge.probabilities(others).argmax(1) == new
        print(f"{loss:12s} right on discs, squares, crosses: "
              + "  ".join(f"{right[new == k].float().mean():.0%}" for k in range(3)))


if __name__ == "__main__":
    demo()
