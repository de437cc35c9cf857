"""Deep SVDD: map all good pictures close to one point; a picture far from that point is anomalous.

    Ruff et al. 2018, "Deep one-class classification", eq. 4 (one class, without soft boundary).

    minimise  mean ||f(x) - c||² + weight decay,      score = ||f(x) - c||²

The centre c is the mean of f over the good pictures before training.  f has no bias terms: with
them, f could become the constant c (propositions 1 and 2).  f starts as the encoder of a trained
autoencoder (section 3.3).
Symbols: B images, K shots.  Left out: maps; there is one score for the whole picture.
"""
from dataclasses import replace

import torch
from torch import Tensor, nn

from minilora.baselines.autoencoder import RESOLUTION, Autoencoder, repeated_indices, toy_discs
from minilora.data.augmentation import augment
from minilora.training_steps import TrainConfig, run_training

TRAIN_CONFIG = TrainConfig(200, 8, 3e-4)
PRETRAIN_RATE = 2e-3                    # learning rate of the autoencoder
CENTRE_EPS = 0.1                        # smallest |c_i|, as in the authors' code; else f = 0 fits


class DeepSVDD:
    """Anomaly detector: fit to good pictures, then score others."""

    resolution = RESOLUTION

    def __init__(self, train_config: TrainConfig = TRAIN_CONFIG, seed: int = 1) -> None:
        self.train_config = train_config
        self.autoencoder = Autoencoder(replace(train_config, rate=PRETRAIN_RATE), seed, bias=False)
        self.encoder, self.generator = self.autoencoder.encoder, self.autoencoder.generator

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return list(self.encoder.parameters())

    def fit(self, pictures: Tensor) -> "DeepSVDD":
        """Train on good pictures (K, 3, 128, 128) in [0, 1].  Returns self."""
        self.autoencoder.fit(pictures)
        indices = repeated_indices(pictures, self.train_config.batch)
        with torch.no_grad():
            centre = self.encoder(pictures).mean(0)
        near_zero = centre.abs() < CENTRE_EPS
        self.centre = torch.where(near_zero, CENTRE_EPS * torch.where(centre < 0, -1.0, 1.0),
                                  centre)

        def loss_of(rows):
            batch = augment(pictures[indices[rows]], self.generator)
            return (self.encoder(batch) - self.centre).square().sum(1).mean()

        self.losses = run_training(loss_of, self.parameters(), len(indices), self.train_config,
                                   self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[None, Tensor]:
        """(no maps, image scores (B,)).  pixels: (B, 3, 128, 128) in [0, 1]."""
        return None, (self.encoder(pixels) - self.centre).square().sum(1)


def demo() -> None:
    """Train on eight discs; score a new one with and without a dark spot."""
    good, defective = toy_discs()
    detector = DeepSVDD(TrainConfig(60, 8, 3e-4)).fit(good[:8])
    print(f"mean squared distance to the centre {detector.losses[0]:.3f} -> "
          f"{detector.losses[-1]:.3f}")
    for name, picture in (("good", good[8:]), ("defective", defective)):
        print(f"{name:10s} score {detector.score(picture)[1].item():.3f}")


if __name__ == "__main__":
    demo()
