"""Anomaly detection by masked reconstruction: a defect is reconstructed with a high error.

    He et al. 2022, "Masked autoencoders are scalable vision learners": the model (mae/model.py).
    Zavrtanik et al. 2021, "Reconstruction by inpainting for visual anomaly detection" (RIAD): the
    map, the reconstruction error over several complementary masks.

A model that was trained on good pictures reconstructs hidden patches as they look in good pictures.

Differs: targets are plain pixels, since a flat patch that is divided by its own standard deviation
turns into noise; trained from scratch on the good pictures of one product.
Symbols: B images, K shots, P patches, R resolution.  Left out: errors in gradients or features.
"""
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from minilora.anomaly_map import image_score, to_pixels
from minilora.data.augmentation import augment
from minilora.data.images import normalise
from minilora.io.progress import stage
from minilora.io.resume import ResumePoint
from minilora.mae.model import MAE_MINI, MAEConfig, MaskedAutoencoder
from minilora.training_steps import TrainConfig, run_training

N_PARTITIONS = 2                # random partitions of the patches into visible parts
TRAIN_CONFIG = TrainConfig(400, 8, 1e-3)


def train_mae(mae: MaskedAutoencoder, pictures: Tensor, train_config: TrainConfig,
              generator: torch.Generator,
              report: Callable[[int, float], None] = lambda step, loss: None,
              resume: ResumePoint | None = None) -> list[float]:
    """Train on masked, augmented pictures (K, 3, R, R) in [0, 1].  Returns the losses.

    If there are fewer pictures than a batch holds, each occurs several times in a batch, with a
    different mask each time.
    """
    grid = mae.config.resolution // mae.config.patch
    indices = torch.arange(max(len(pictures), train_config.batch)) % len(pictures)

    def loss_of(rows):
        batch = normalise(augment(pictures[indices[rows]], generator))
        noise = torch.rand(len(batch), grid * grid, generator=generator)
        return mae.loss(batch.to(mae.mask_token.device), noise.to(mae.mask_token.device))

    return run_training(loss_of, list(mae.parameters()), len(indices), train_config, generator,
                        report, resume)


@torch.no_grad()
def reconstruction_errors(mae: MaskedAutoencoder, pixels: Tensor, partitions: int = N_PARTITIONS,
                          seed: int = 0) -> Tensor:
    """Mean squared error of each patch, averaged over the masks that hide it, (B, P).

    pixels: (B, 3, R, R) in [0, 1].  Each partition divides the patches at random into equal parts,
    four at a mask ratio of 0.75; in turn, one part is visible and the others are hidden.
    """
    config, generator = mae.config, torch.Generator().manual_seed(seed)
    count = (config.resolution // config.patch) ** 2
    parts = max(2, round(1 / (1 - config.mask_ratio)))
    errors, times = torch.zeros(len(pixels), count), torch.zeros(len(pixels), count)
    pixels = normalise(pixels)
    for _ in range(partitions):
        order = torch.rand(len(pixels), count, generator=generator).argsort(1)
        for part in range(parts):
            noise = order.roll(part * count // parts, dims=1).argsort(1).to(pixels)
            predicted, hidden = mae(pixels, noise)
            error = (predicted - mae.target(pixels)).square().mean(-1)
            errors += torch.where(hidden, error, 0).cpu()
            times += hidden.cpu()
    return errors / times.clamp(min=1)


def anomaly_maps_and_scores(mae: MaskedAutoencoder, pixels: Tensor,
                            batch: int = 16) -> tuple[Tensor, Tensor]:
    """Anomaly maps (B, R, R) and image scores (B,) of pictures (B, 3, R, R) in [0, 1].

    batch: pictures per forward pass.
    """
    side = mae.config.resolution
    errors = torch.cat([reconstruction_errors(mae, part)
                        for part in stage("scoring", pixels.split(batch), len(pixels), len)])
    maps = to_pixels(errors, (side, side), 4 * side / 224)
    return maps, image_score(maps)


class MaskedReconstruction:
    """Anomaly detector: fit to good pictures, then score others."""

    def __init__(self, config: MAEConfig = MAE_MINI, train_config: TrainConfig = TRAIN_CONFIG,
                 seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        config = replace(config, normalise_pixels=False)
        self.model = MaskedAutoencoder(config).initialise(self.generator)
        self.train_config = train_config
        self.resolution = config.resolution

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return list(self.model.parameters())

    def fit(self, pictures: Tensor) -> "MaskedReconstruction":
        """Train on good pictures (K, 3, R, R) in [0, 1].  Returns self."""
        self.losses = train_mae(self.model, pictures, self.train_config, self.generator)
        self.model.eval()
        return self

    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, R, R) and image scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        return anomaly_maps_and_scores(self.model, pixels)


def demo() -> None:
    """Train on eight good pictures; score a good one and one with a bright square."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(0, 12, 64)
    good = (0.5 + 0.2 * torch.sin(line[:, None] + line) + 0.02 * torch.randn(
        9, 3, 64, 64, generator=generator)).clamp(0, 1)
    defective = good[8:].clone()
    defective[:, :, 24:40, 24:40] = 0.9
    config = replace(MAE_MINI, width=64, heads=1, layers=2, patch=8, resolution=64,
                     decoder_width=32, decoder_layers=1, decoder_heads=1)
    detector = MaskedReconstruction(config, TrainConfig(120, 8, 1e-3)).fit(good[:8])
    print(f"loss {detector.losses[0]:.3f} -> {detector.losses[-1]:.3f}")
    for name, picture in (("good", good[8:]), ("defective", defective)):
        maps, score = detector.score(picture)
        print(f"{name:10s} score {score.item():.3f}, "
              f"map at the place of the defect {maps[0, 28:36, 28:36].mean():.3f}")


if __name__ == "__main__":
    demo()
