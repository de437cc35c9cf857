"""Transfer to labels: a linear probe, fine-tuning end to end, and segmentation.

    probe      train a linear layer on frozen features (He et al. 2022, section 4.3, "linear
               probing")
    finetune   train the same layer together with the whole encoder ("fine-tuning")
    segment    train a linear layer on each patch token to predict whether it is defective (a
               minimal version of section 5, "transfer learning", which uses UperNet)

Differs: one AdamW schedule for all three; features are standardised with the statistics of the
training pictures (like the paper's batch norm without scale); no mixup, no layer-wise decay.
Symbols: N pictures, C classes, P patches, W width, R resolution.
Left out: hyperparameter search; nothing is chosen by test pictures.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.data.augmentation import augment
from minilora.data.images import normalise
from minilora.io.progress import stage, stage_steps
from minilora.mae.model import MAEConfig, MAEEncoder, MaskedAutoencoder
from minilora.train import MIN_COVERAGE
from minilora.training_steps import TrainConfig, run_training

ENCODE_BATCH = 32                       # pictures per forward pass without gradients
PROBE_CONFIG = TrainConfig(300, 64, 1e-2)
FINETUNE_CONFIG = TrainConfig(150, 16, 3e-4)
SEGMENT_CONFIG = TrainConfig(300, 1024, 1e-2)


class LinearHead(nn.Module):
    """A linear layer on standardised features; its weights start at zero."""

    def __init__(self, features: Tensor, classes: int) -> None:
        """features: (N, W); only their mean and standard deviation are used."""
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("deviation", features.std(0) + 1e-6)
        self.layer = nn.Linear(features.shape[-1], classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., W) -> logits (..., C)."""
        return self.layer((features - self.mean) / self.deviation)


def mean_pooled(encoder: MAEEncoder, pixels: Tensor) -> Tensor:
    """Mean of the patch tokens, (B, W).  CLS is not used, since it has no pretraining target."""
    return encoder(normalise(pixels))[:, 1:].mean(1)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Apply a function to batches of pictures and concatenate the results."""
    return torch.cat([function(part) for part in stage("encoding", pixels.split(ENCODE_BATCH),
                                                       len(pixels), len)])


def probe(encoder: MAEEncoder, pixels: Tensor, targets: Tensor, classes: int,
          generator: torch.Generator) -> LinearHead:
    """Train a `LinearHead` on frozen features.

    pixels: (N, 3, R, R) in [0, 1];  targets: (N,) class numbers.
    """
    features = in_batches(lambda p: mean_pooled(encoder, p), pixels)
    head = LinearHead(features, classes)
    run_training(lambda rows: F.cross_entropy(head(features[rows]), targets[rows]),
                 list(head.parameters()), len(features), PROBE_CONFIG, generator)
    return head


def finetune(encoder: MAEEncoder, pixels: Tensor, targets: Tensor, classes: int,
             generator: torch.Generator) -> LinearHead:
    """Train head and encoder on augmented pictures.  Returns the head; changes the encoder.

    pixels: (N, 3, R, R) in [0, 1];  targets: (N,) class numbers.
    """
    head = LinearHead(in_batches(lambda p: mean_pooled(encoder, p), pixels), classes)

    def loss_of(rows):
        batch = augment(pixels[rows], generator)
        return F.cross_entropy(head(mean_pooled(encoder, batch)), targets[rows])

    run_training(loss_of, [*head.parameters(), *encoder.parameters()], len(pixels),
                 FINETUNE_CONFIG, generator, stage_steps("fine-tuning", FINETUNE_CONFIG.steps))
    return head


@torch.no_grad()
def class_probabilities(encoder: MAEEncoder, head: LinearHead, pixels: Tensor) -> Tensor:
    """Probability of each class, (N, C).  pixels: (N, 3, R, R) in [0, 1]."""
    return in_batches(lambda p: head(mean_pooled(encoder, p)).softmax(-1), pixels)


def segment(encoder: MAEEncoder, pixels: Tensor, masks: Tensor,
            generator: torch.Generator) -> LinearHead:
    """Train a `LinearHead` on frozen patch tokens to predict defective patches.

    pixels: (N, 3, R, R) in [0, 1];  masks: (N, R, R) bool, True for defective pixels.
    """
    tokens = in_batches(lambda p: encoder(normalise(p))[:, 1:], pixels)             # (N, P, W)
    side = round(tokens.shape[1] ** 0.5)
    share = F.adaptive_avg_pool2d(masks.float()[:, None], side).flatten(1)          # (N, P)
    tokens, target = tokens.flatten(0, 1), (share > MIN_COVERAGE).float().flatten()
    head = LinearHead(tokens, 1)
    weight = (1 - target.mean()) / target.mean().clamp(min=1e-6)    # defective patches are few
    run_training(lambda rows: F.binary_cross_entropy_with_logits(
        head(tokens[rows])[:, 0], target[rows], pos_weight=weight), list(head.parameters()),
        len(tokens), SEGMENT_CONFIG, generator)
    return head


@torch.no_grad()
def patch_probability(encoder: MAEEncoder, head: LinearHead, pixels: Tensor) -> Tensor:
    """Probability that each patch is defective, (N, P).  pixels: (N, 3, R, R) in [0, 1]."""
    return in_batches(lambda p: head(encoder(normalise(p))[:, 1:])[..., 0].sigmoid(), pixels)


def demo() -> None:
    """A probe and fine-tuning of an untrained encoder classify pictures with a light square."""
    generator = torch.Generator().manual_seed(0)
    config = MAEConfig(width=64, layers=2, heads=1, patch=8, resolution=32, decoder_width=32,
                       decoder_layers=1, decoder_heads=1)
    mae = MaskedAutoencoder(config).initialise(generator)
    pixels = 0.5 + 0.1 * torch.randn(48, 3, 32, 32, generator=generator)
    targets = torch.arange(48) % 2
    pixels[targets == 1, :, 8:16, 8:16] += 0.2
    for name, train in (("probe", probe), ("fine-tuned", finetune)):
        head = train(mae.encoder, pixels[:32].clamp(0, 1), targets[:32], 2, generator)
        predicted = class_probabilities(mae.encoder, head, pixels[32:].clamp(0, 1)).argmax(1)
        print(f"{name:10s} accuracy on 16 new pictures: "
              f"{(predicted == targets[32:]).float().mean():.0%}")


if __name__ == "__main__":
    demo()
