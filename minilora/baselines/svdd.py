"""Deep SVDD: a network that brings all good pictures to one point; what lies far from it is odd.

    Ruff et al. 2018, "Deep one-class classification", eq. 4 (one class, soft boundary left out).

    min  mean ||f(x) - c||^2 + decay,   score = ||f(x) - c||^2

The centre c is the mean of f over the good pictures before training, and f has no bias terms: else
"always c" would be learned at once (propositions 1 and 2).  f starts as an autoencoder's encoder
(section 3.3).  Symbols: B images.  Leaves out: maps (there is one score for a whole picture).
"""
from dataclasses import replace

import torch

from minilora.baselines.autoencoder import RESOLUTION, Autoencoder, discs, repeated_rows
from minilora.data.images import augment
from minilora.training_steps import TrainConfig, run_training

TRAIN_CONFIG = TrainConfig(200, 8, 3e-4)
PRETRAIN_RATE = 2e-3                    # rate of the autoencoder before
CENTRE_EPS = 0.1                       # a centre too near 0 could be met by f = 0; as in the authors' code


class DeepSVDD:
    """Fit to good pictures (K, 3, 128, 128) in [0, 1], score others."""

    resolution = RESOLUTION

    def __init__(self, recipe=TRAIN_CONFIG, seed=1):
        self.recipe = recipe
        self.start = Autoencoder(replace(recipe, rate=PRETRAIN_RATE), seed, bias=False)
        self.encoder, self.generator = self.start.encoder, self.start.generator

    def parameters(self):
        return list(self.encoder.parameters())

    def fit(self, pictures):
        self.start.fit(pictures)
        rows_of = repeated_rows(pictures, self.recipe.batch)
        with torch.no_grad():
            centre = self.encoder(pictures).mean(0)
        near = centre.abs() < CENTRE_EPS
        self.centre = torch.where(near, CENTRE_EPS * torch.where(centre < 0, -1.0, 1.0), centre)

        def loss_of(rows):
            batch = augment(pictures[rows_of[rows]], self.generator)
            return (self.encoder(batch) - self.centre).square().sum(1).mean()

        self.losses = run_training(loss_of, self.parameters(), len(rows_of), self.recipe, self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels):
        """(None, scores (B,))."""
        return None, (self.encoder(pixels) - self.centre).square().sum(1)


def demo():
    good, bad = discs()
    judge = DeepSVDD(TrainConfig(60, 8, 3e-4)).fit(good[:8])
    print(f"mean distance to the centre {judge.losses[0]:.3f} -> {judge.losses[-1]:.3f}")
    for name, picture in (("good", good[8:]), ("defective", bad)):
        print(f"{name:10s} score {judge.score(picture)[1].item():.3f}")


if __name__ == "__main__":
    demo()
