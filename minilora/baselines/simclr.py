"""SimCLR: contrastive learning on good pictures, then distance to their features as the score.

    Chen et al. 2020, "A simple framework for contrastive learning of visual representations", eq. 1
    (NT-Xent, "normalised temperature-scaled cross-entropy") and algorithm 1.

    loss    two augmented views of one picture are a positive pair, all other pairs are negative
    score   distance from the picture's feature to the nearest feature of a good picture
    map     the same for each cell of the last feature map

Contrastive learning needs many pictures.  From a few shots it learns little more than invariance to
the augmentations; the comparison shows this.
Symbols: B images, K shots, N pictures of a batch, M stored features, D features, R resolution.
Left out: large batches; colour jitter beyond brightness, contrast and gamma.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.anomaly_map import to_pixels
from minilora.baselines.autoencoder import (CODE_SIZE, RESOLUTION, ConvEncoder, repeated_indices,
                                            toy_discs)
from minilora.data.augmentation import augment
from minilora.training_steps import TrainConfig, run_training

NT_XENT_TEMPERATURE = 0.2
TRAIN_CONFIG = TrainConfig(300, 16, 1e-3)


def nt_xent(one: Tensor, two: Tensor, temperature: float = NT_XENT_TEMPERATURE) -> Tensor:
    """Eq. 1, the mean over both views of every picture.

    one, two: (N, D), features of the two views, not normalised.  Returns a scalar.
    """
    z = F.normalize(torch.cat([one, two]), dim=-1)                          # (2N, D)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(one))         # k <-> k + N
    return F.cross_entropy(logits, positive)


def simclr_view(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One view: pictures (B, 3, R, R), augmented more strongly than for the other methods."""
    return augment(pixels, generator, angle=20, shift=0.1, brightness=0.3, contrast=0.3, gamma=0.3)


def nearest_distance(features: Tensor, good: Tensor) -> Tensor:
    """½ (1 - cosine) to the nearest good feature.  (..., D), (M, D), length one -> (...)."""
    return 0.5 * (1 - (features @ good.T).amax(-1))


class SimCLR:
    """Anomaly detector: fit to good pictures, then score others."""

    resolution = RESOLUTION

    def __init__(self, train_config: TrainConfig = TRAIN_CONFIG, seed: int = 1) -> None:
        self.train_config, self.generator = train_config, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)             # torch.nn draws weights from the global generator
            self.encoder = ConvEncoder()
            self.projection = nn.Sequential(nn.ReLU(), nn.Linear(CODE_SIZE, 64))  # training only

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [*self.encoder.parameters(), *self.projection.parameters()]

    def fit(self, pictures: Tensor) -> "SimCLR":
        """Train on good pictures (K, 3, 128, 128) in [0, 1] and store their features.

        Returns self.
        """
        indices = repeated_indices(pictures, self.train_config.batch)

        def loss_of(rows):
            batch = pictures[indices[rows].unique()]    # copies would be negatives of each other
            one, two = (self.projection(self.encoder(simclr_view(batch, self.generator)))
                        for _ in range(2))
            return nt_xent(one, two)

        self.losses = run_training(loss_of, self.parameters(), len(indices), self.train_config,
                                   self.generator)
        with torch.no_grad():
            copies = torch.cat([pictures] + [augment(pictures, self.generator) for _ in range(3)])
            images, cells = zip(*[self.features(part) for part in copies.split(32)])
        self.good_images, self.good_cells = torch.cat(images), torch.cat(cells).flatten(0, 1)
        return self

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the images (B, D) and of the 8 x 8 cells (B, 64, D), each of length one."""
        feature_map = self.encoder.feature_map(pixels)
        images = self.encoder.fc(feature_map.flatten(1))
        cells = feature_map.flatten(2).transpose(1, 2)
        return F.normalize(images, dim=-1), F.normalize(cells, dim=-1)

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, 128, 128) and image scores (B,).  pixels: (B, 3, 128, 128) in [0, 1]."""
        images, cells = self.features(pixels)
        maps = to_pixels(nearest_distance(cells, self.good_cells), (RESOLUTION, RESOLUTION),
                         4 * RESOLUTION / 224)
        return maps, nearest_distance(images, self.good_images)


def demo() -> None:
    """Train on eight discs; score a new one with and without a dark spot."""
    good, defective = toy_discs()
    detector = SimCLR(TrainConfig(40, 16, 1e-3)).fit(good[:8])
    print(f"loss {detector.losses[0]:.2f} -> {detector.losses[-1]:.2f}")
    for name, picture in (("good", good[8:]), ("defective", defective)):
        print(f"{name:10s} score {detector.score(picture)[1].item():.4f}")


if __name__ == "__main__":
    demo()
