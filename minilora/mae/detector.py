"""Masked reconstruction as a detector: what is painted in otherwise than it is, was not expected.

    He et al. 2022, "Masked autoencoders are scalable vision learners": the model (mae/model.py).
    Zavrtanik et al. 2021, "Reconstruction by inpainting for visual anomaly detection" (RIAD): the
    map, errors over several complementary masks.

Differs: targets are plain pixels, since a patch divided by its own deviation makes noise of flat
ones; trained from scratch on the good pictures at hand.
Symbols: B images, K shots, P patches, R resolution.  Leaves out: errors in gradients or features.
"""
from dataclasses import replace

import torch

from minilora.anomaly_map import image_score, to_pixels
from minilora.data.images import augment, normalise
from minilora.mae.model import MAE_MINI, MaskedAutoencoder
from minilora.training_steps import TrainConfig, run_training

ROUNDS = 2                      # partitions of the patches into quarters; each is visible once
TRAIN_CONFIG = TrainConfig(400, 8, 1e-3)


def train_mae(mae, pictures, recipe, generator, report=lambda step, loss: None, resume=None):
    """Masked training on turned and relit pictures.  pictures: (K, 3, R, R) in [0, 1].

    Fewer pictures than a batch are shown several times in it, each under its own mask.  Returns the
    losses.
    """
    grid = mae.config.resolution // mae.config.patch
    rows_of = torch.arange(max(len(pictures), recipe.batch)) % len(pictures)

    def loss_of(rows):
        batch = normalise(augment(pictures[rows_of[rows]], generator))
        noise = torch.rand(len(batch), grid * grid, generator=generator)
        return mae.loss(batch.to(mae.mask_token.device), noise.to(mae.mask_token.device))

    return run_training(loss_of, list(mae.parameters()), len(rows_of), recipe, generator, report,
                   resume)


@torch.no_grad()
def reconstruction_errors(mae, pixels, rounds=ROUNDS, seed=0):
    """Mean squared error of each patch over the masks that hide it, (B, P).

    pixels: (B, 3, R, R) in [0, 1].  In a round the patches are dealt into as many parts as fit, and
    one part after the other is what is visible.
    """
    config, generator = mae.config, torch.Generator().manual_seed(seed)
    count = (config.resolution // config.patch) ** 2
    parts = max(2, round(1 / (1 - config.mask_ratio)))
    errors, times = torch.zeros(len(pixels), count), torch.zeros(len(pixels), count)
    pixels = normalise(pixels)
    for _ in range(rounds):
        order = torch.rand(len(pixels), count, generator=generator).argsort(1)
        for part in range(parts):
            noise = order.roll(part * count // parts, dims=1).argsort(1).to(pixels)
            found, hidden = mae(pixels, noise)
            error = (found - mae.target(pixels)).square().mean(-1)
            errors += torch.where(hidden, error, 0).cpu()
            times += hidden.cpu()
    return errors / times.clamp(min=1)


def map_and_score(mae, pixels, part=16):
    """Maps (B, R, R) and scores (B,) of pictures (B, 3, R, R) in [0, 1], `part` at a time."""
    side = mae.config.resolution
    errors = torch.cat([reconstruction_errors(mae, some) for some in pixels.split(part)])
    maps = to_pixels(errors, (side, side), 4 * side / 224)
    return maps, image_score(maps)


class MaskedReconstruction:
    """Fit to good pictures, score others."""

    def __init__(self, config=MAE_MINI, recipe=TRAIN_CONFIG, seed=1):
        self.generator = torch.Generator().manual_seed(seed)
        config = replace(config, normalise_pixels=False)
        self.model, self.recipe = MaskedAutoencoder(config).initialise(self.generator), recipe
        self.resolution = config.resolution

    def parameters(self):
        return list(self.model.parameters())

    def fit(self, pictures):
        self.losses = train_mae(self.model, pictures, self.recipe, self.generator)
        self.model.eval()
        return self

    def score(self, pixels):
        """Maps (B, R, R) and scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        return map_and_score(self.model, pixels)


def demo():
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(0, 12, 64)
    good = (0.5 + 0.2 * torch.sin(line[:, None] + line) + 0.02 * torch.randn(
        9, 3, 64, 64, generator=generator)).clamp(0, 1)
    bad = good[8:].clone()
    bad[:, :, 24:40, 24:40] = 0.9
    config = replace(MAE_MINI, width=64, heads=1, layers=2, patch=8, resolution=64,
                     decoder_width=32, decoder_layers=1, decoder_heads=1)
    judge = MaskedReconstruction(config, TrainConfig(120, 8, 1e-3)).fit(good[:8])
    print(f"loss {judge.losses[0]:.3f} -> {judge.losses[-1]:.3f}")
    for name, picture in (("good", good[8:]), ("defective", bad)):
        maps, score = judge.score(picture)
        print(f"{name:10s} score {score.item():.3f}, "
              f"map at the spot {maps[0, 28:36, 28:36].mean():.3f}")


if __name__ == "__main__":
    demo()
