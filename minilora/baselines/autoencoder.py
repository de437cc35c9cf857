"""Convolutional autoencoder: what cannot be drawn again from a few numbers is odd.

    Bergmann et al. 2019, "MVTec AD", section 4 (the baseline with squared error).

    picture -> 128 numbers -> picture;  map = squared error, smoothed

Symbols: B images, R resolution, N numbers of the bottleneck.
Leaves out: structural similarity as a loss, variational and adversarial kinds.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.anomaly_map import gaussian_blur, image_score
from minilora.data.images import augment
from minilora.training_steps import TrainConfig, run_training

RESOLUTION, CODE = 128, 128
WIDTHS = (3, 32, 64, 96, 128)
TRAIN_CONFIG = TrainConfig(300, 8, 2e-3)


class ConvEncoder(nn.Module):
    """(B, 3, 128, 128) -> (B, CODE).  bias: without, no constant can be learned (svdd.py)."""

    def __init__(self, bias=True):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=bias)
                                   for a, b in zip(WIDTHS, WIDTHS[1:]))
        self.fc = nn.Linear(WIDTHS[-1] * 8 * 8, CODE, bias=bias)

    def plane(self, x):
        """The last plane of features, (B, 128, 8, 8)."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)              # each halves the side
        return x

    def forward(self, x):
        return self.fc(self.plane(x).flatten(1))


class ConvDecoder(nn.Module):
    """(B, CODE) -> (B, 3, 128, 128) in (0, 1)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(CODE, WIDTHS[-1] * 8 * 8)
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1)
                                   for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))

    def forward(self, code):
        x = self.fc(code).unflatten(1, (WIDTHS[-1], 8, 8))
        for conv in self.convs:
            x = conv(F.leaky_relu(x, 0.1))              # each doubles the side
        return x.sigmoid()


def repeated_rows(pictures, count):
    """Numbers of pictures so that at least `count` can be drawn: a few are shown several times."""
    return torch.arange(max(len(pictures), count)) % len(pictures)


class Autoencoder:
    """Fit to good pictures (K, 3, 128, 128) in [0, 1], score others."""

    resolution = RESOLUTION

    def __init__(self, recipe=TRAIN_CONFIG, seed=1, bias=True):
        self.recipe, self.generator = recipe, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)                     # torch draws a layer's weights globally
            self.encoder, self.decoder = ConvEncoder(bias), ConvDecoder()

    def parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def fit(self, pictures):
        rows_of = repeated_rows(pictures, self.recipe.batch)

        def loss_of(rows):
            batch = augment(pictures[rows_of[rows]], self.generator)
            return F.mse_loss(self.decoder(self.encoder(batch)), batch)

        self.losses = run_training(loss_of, self.parameters(), len(rows_of), self.recipe, self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels):
        """Maps (B, R, R) and scores (B,)."""
        again = self.decoder(self.encoder(pixels))
        maps = gaussian_blur((again - pixels).square().mean(1), 4 * RESOLUTION / 224)
        return maps, image_score(maps)


def discs():
    """Toy pictures for demonstrations: 9 good discs, and the last of them with a dark spot."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, RESOLUTION)
    disc = 0.2 + 0.5 * (line[:, None] ** 2 + line ** 2 < 0.5).float()
    noise = torch.randn(9, 3, RESOLUTION, RESOLUTION, generator=generator)
    good = (disc + 0.02 * noise).clamp(0, 1)
    bad = good[8:].clone()
    bad[:, :, 56:72, 56:72] = 0.05
    return good, bad


def demo():
    good, bad = discs()
    judge = Autoencoder(TrainConfig(60, 8, 2e-3)).fit(good[:8])
    print(f"{sum(p.numel() for p in judge.parameters()):,} parameters, "
          f"error {judge.losses[0]:.4f} -> {judge.losses[-1]:.4f}")
    for name, picture in (("good", good[8:]), ("defective", bad)):
        print(f"{name:10s} score {judge.score(picture)[1].item():.4f}")


if __name__ == "__main__":
    demo()
