"""Convolutional autoencoder: what it cannot reconstruct from a small code is anomalous.

    Bergmann et al. 2019, "MVTec AD", section 4 (the baseline with squared error).

    picture -> code of 128 numbers -> picture;  map = squared reconstruction error, smoothed

Symbols: B images, K shots, R resolution.
Left out: structural similarity as a loss; variational and adversarial autoencoders.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.anomaly_map import gaussian_blur, image_score
from minilora.data.augmentation import augment
from minilora.training_steps import TrainConfig, run_training

RESOLUTION, CODE_SIZE = 128, 128
WIDTHS = (3, 32, 64, 96, 128)                           # channels before and after each convolution
TRAIN_CONFIG = TrainConfig(300, 8, 2e-3)


class ConvEncoder(nn.Module):
    """(B, 3, 128, 128) -> (B, CODE_SIZE).

    bias: Deep SVDD needs an encoder without bias terms (svdd.py).
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=bias)
                                   for a, b in zip(WIDTHS, WIDTHS[1:]))
        self.fc = nn.Linear(WIDTHS[-1] * 8 * 8, CODE_SIZE, bias=bias)

    def feature_map(self, x: Tensor) -> Tensor:
        """Output of the last convolution, (B, 128, 8, 8)."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)              # each halves the side
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.feature_map(x).flatten(1))


class ConvDecoder(nn.Module):
    """(B, CODE_SIZE) -> (B, 3, 128, 128) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CODE_SIZE, WIDTHS[-1] * 8 * 8)
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1)
                                   for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))

    def forward(self, code: Tensor) -> Tensor:
        x = self.fc(code).unflatten(1, (WIDTHS[-1], 8, 8))
        for conv in self.convs:
            x = conv(F.leaky_relu(x, 0.1))              # each doubles the side
        return x.sigmoid()


def repeated_indices(pictures: Tensor, count: int) -> Tensor:
    """Indices 0 .. K-1 of the pictures, repeated until there are at least `count`."""
    return torch.arange(max(len(pictures), count)) % len(pictures)


class Autoencoder:
    """Anomaly detector: fit to good pictures, then score others."""

    resolution = RESOLUTION

    def __init__(self, train_config: TrainConfig = TRAIN_CONFIG, seed: int = 1,
                 bias: bool = True) -> None:
        self.train_config, self.generator = train_config, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)             # torch.nn draws weights from the global generator
            self.encoder, self.decoder = ConvEncoder(bias), ConvDecoder()

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def fit(self, pictures: Tensor) -> "Autoencoder":
        """Train on good pictures (K, 3, 128, 128) in [0, 1].  Returns self."""
        indices = repeated_indices(pictures, self.train_config.batch)

        def loss_of(rows):
            batch = augment(pictures[indices[rows]], self.generator)
            return F.mse_loss(self.decoder(self.encoder(batch)), batch)

        self.losses = run_training(loss_of, self.parameters(), len(indices), self.train_config,
                                   self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, 128, 128) and image scores (B,).  pixels: (B, 3, 128, 128) in [0, 1]."""
        reconstruction = self.decoder(self.encoder(pixels))
        error = (reconstruction - pixels).square().mean(1)
        maps = gaussian_blur(error, 4 * RESOLUTION / 224)
        return maps, image_score(maps)


def toy_discs() -> tuple[Tensor, Tensor]:
    """Toy pictures for demos and tests: 9 good discs, and the last one with a dark spot."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, RESOLUTION)
    disc = 0.2 + 0.5 * (line[:, None] ** 2 + line ** 2 < 0.5).float()
    noise = torch.randn(9, 3, RESOLUTION, RESOLUTION, generator=generator)
    good = (disc + 0.02 * noise).clamp(0, 1)
    defective = good[8:].clone()
    defective[:, :, 56:72, 56:72] = 0.05
    return good, defective


def demo() -> None:
    """Train on eight discs; score a new one with and without a dark spot."""
    good, defective = toy_discs()
    detector = Autoencoder(TrainConfig(60, 8, 2e-3)).fit(good[:8])
    print(f"{sum(p.numel() for p in detector.parameters()):,} parameters, "
          f"loss {detector.losses[0]:.4f} -> {detector.losses[-1]:.4f}")
    for name, picture in (("good", good[8:]), ("defective", defective)):
        print(f"{name:10s} score {detector.score(picture)[1].item():.4f}")


if __name__ == "__main__":
    demo()
