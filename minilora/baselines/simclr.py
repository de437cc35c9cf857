"""SimCLR: two views of one picture belong together; then distance to good pictures' features.

    Chen et al. 2020, "A simple framework for contrastive learning of visual representations", eq. 1
    (NT-Xent, "normalised temperature-scaled cross-entropy") and algorithm 1.

    score   distance of the picture's features to the nearest of the good ones
    map     the same for each cell of the last plane of features

Contrast needs many pictures; on a few shots it can learn little but what its views hide.  That is
what the comparison is to show.  Symbols: N pictures of a batch, D features.
Leaves out: large batches, colour jitter beyond brightness, contrast and gamma.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.anomaly_map import to_pixels
from minilora.baselines.autoencoder import CODE, RESOLUTION, ConvEncoder, discs, repeated_rows
from minilora.data.images import augment
from minilora.training_steps import TrainConfig, run_training

NT_XENT_TEMPERATURE = 0.2
TRAIN_CONFIG = TrainConfig(300, 16, 1e-3)


def nt_xent(one, two, temperature=NT_XENT_TEMPERATURE):
    """Eq. 1, mean over both views of every picture.  one, two: (N, D) of any length."""
    z = F.normalize(torch.cat([one, two]), dim=-1)                          # (2N, D)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(one))          # k <-> k + N
    return F.cross_entropy(logits, partner)


def simclr_view(pixels, generator):
    """A picture turned, moved and relit more than a detector's training would."""
    return augment(pixels, generator, angle=20, shift=0.1, brightness=0.3, contrast=0.3, gamma=0.3)


def away(features, good):
    """Half of 1 - cosine to the nearest of the good ones.  (..., D), (M, D) -> (...)."""
    return 0.5 * (1 - (features @ good.T).amax(-1))


class SimCLR:
    """Fit to good pictures (K, 3, 128, 128) in [0, 1], score others."""

    resolution = RESOLUTION

    def __init__(self, recipe=TRAIN_CONFIG, seed=1):
        self.recipe, self.generator = recipe, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)                     # torch draws a layer's weights globally
            self.encoder = ConvEncoder()
            self.projection = nn.Sequential(nn.ReLU(), nn.Linear(CODE, 64))  # thrown away later

    def parameters(self):
        return [*self.encoder.parameters(), *self.projection.parameters()]

    def fit(self, pictures):
        rows_of = repeated_rows(pictures, self.recipe.batch)

        def loss_of(rows):
            batch = pictures[rows_of[rows].unique()]    # a picture is no negative of itself
            one, two = (self.projection(self.encoder(simclr_view(batch, self.generator)))
                        for _ in range(2))
            return nt_xent(one, two)

        self.losses = run_training(loss_of, self.parameters(), len(rows_of), self.recipe, self.generator)
        with torch.no_grad():
            copies = torch.cat([pictures] + [augment(pictures, self.generator) for _ in range(3)])
            whole, cells = zip(*[self.features(part) for part in copies.split(32)])
        self.whole, self.cells = torch.cat(whole), torch.cat(cells).flatten(0, 1)
        return self

    def features(self, pixels):
        """Of whole pictures (B, D) and of their cells (B, 64, D), of length one."""
        plane = self.encoder.plane(pixels)
        whole = self.encoder.fc(plane.flatten(1))
        return F.normalize(whole, dim=-1), F.normalize(plane.flatten(2).transpose(1, 2), dim=-1)

    @torch.no_grad()
    def score(self, pixels):
        """Maps (B, R, R) and scores (B,)."""
        whole, cells = self.features(pixels)
        maps = to_pixels(away(cells, self.cells), (RESOLUTION, RESOLUTION), 4 * RESOLUTION / 224)
        return maps, away(whole, self.whole)


def demo():
    good, bad = discs()
    judge = SimCLR(TrainConfig(40, 16, 1e-3)).fit(good[:8])
    print(f"loss {judge.losses[0]:.2f} -> {judge.losses[-1]:.2f}")
    for name, picture in (("good", good[8:]), ("defective", bad)):
        print(f"{name:10s} score {judge.score(picture)[1].item():.4f}")


if __name__ == "__main__":
    demo()
