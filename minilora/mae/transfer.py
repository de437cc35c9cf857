"""From a pretrained encoder to labels: a linear probe, fine-tuning end to end, and segmentation.

    probe      one linear layer on frozen features (He et al. 2022, section 4.3, "linear probing")
    finetune   the same layer, and the whole encoder below it moves, too ("fine-tuning")
    segment    one linear layer on each patch token: is there a defect? (a least version of 5,
               "transfer learning", where they use UperNet)

Differs: AdamW with one rise and fall of the rate for all, features standardised by the training
pictures (their batch norm without scale), no mixup, no layer-wise decay.
Symbols: N pictures, C classes, P patches, W width.  Leaves out: choosing anything on the test part.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.data.images import augment, normalise
from minilora.train import MIN_COVERAGE
from minilora.training_steps import TrainConfig, run_training

ENCODE_BATCH = 32                       # pictures that go through the encoder together


PROBE, FINETUNE, SEGMENT = TrainConfig(300, 64, 1e-2), TrainConfig(150, 16, 3e-4), TrainConfig(300, 1024, 1e-2)


class Linear(nn.Module):
    """One linear layer on standardised features, which starts from nothing."""

    def __init__(self, features, classes):
        """features: (N, W), for their mean and deviation alone."""
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("deviation", features.std(0) + 1e-6)
        self.layer = nn.Linear(features.shape[-1], classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, features):
        return self.layer((features - self.mean) / self.deviation)


def pooled(encoder, pixels):
    """Mean of the patch tokens, (B, W): better than CLS, which no loss has ever asked for."""
    return encoder(normalise(pixels))[:, 1:].mean(1)


@torch.no_grad()
def in_parts(function, pixels):
    return torch.cat([function(part) for part in pixels.split(ENCODE_BATCH)])


def probe(encoder, pixels, targets, classes, generator):
    """A `Linear` that tells classes by frozen features.  pixels: (N, 3, R, R) in [0, 1]."""
    features = in_parts(lambda p: pooled(encoder, p), pixels)
    head = Linear(features, classes)
    run_training(lambda rows: F.cross_entropy(head(features[rows]), targets[rows]),
            list(head.parameters()), len(features), PROBE, generator)
    return head


def finetune(encoder, pixels, targets, classes, generator):
    """Head and encoder, which is changed in place, on turned and relit pictures.  Returns head."""
    head = Linear(in_parts(lambda p: pooled(encoder, p), pixels), classes)

    def loss_of(rows):
        batch = augment(pixels[rows], generator)
        return F.cross_entropy(head(pooled(encoder, batch)), targets[rows])

    run_training(loss_of, [*head.parameters(), *encoder.parameters()], len(pixels), FINETUNE, generator)
    return head


@torch.no_grad()
def classify(encoder, head, pixels):
    """Probabilities, (N, C)."""
    return in_parts(lambda p: head(pooled(encoder, p)).softmax(-1), pixels)


def segment(encoder, pixels, masks, generator):
    """A `Linear` on patch tokens.  masks: bool (N, R, R)."""
    tokens = in_parts(lambda p: encoder(normalise(p))[:, 1:], pixels)               # (N, P, W)
    side = round(tokens.shape[1] ** 0.5)
    share = F.adaptive_avg_pool2d(masks.float()[:, None], side).flatten(1)          # (N, P)
    tokens, target = tokens.flatten(0, 1), (share > MIN_COVERAGE).float().flatten()
    head = Linear(tokens, 1)
    weight = (1 - target.mean()) / target.mean().clamp(min=1e-6)                    # few are marked
    run_training(lambda rows: F.binary_cross_entropy_with_logits(
        head(tokens[rows])[:, 0], target[rows], pos_weight=weight), list(head.parameters()),
        len(tokens), SEGMENT, generator)
    return head


@torch.no_grad()
def patch_probability(encoder, head, pixels):
    """Probability of a defect in each patch, (N, P)."""
    return in_parts(lambda p: head(encoder(normalise(p))[:, 1:])[..., 0].sigmoid(), pixels)


def demo():
    """Light and dark squares, told apart by a probe and by fine-tuning of an untrained encoder."""
    from minilora.mae.model import MAEConfig, MaskedAutoencoder
    generator = torch.Generator().manual_seed(0)
    config = MAEConfig(width=64, layers=2, heads=1, patch=8, resolution=32, decoder_width=32,
                       decoder_layers=1, decoder_heads=1)
    mae = MaskedAutoencoder(config).initialise(generator)
    pixels = 0.5 + 0.1 * torch.randn(48, 3, 32, 32, generator=generator)
    targets = torch.arange(48) % 2
    pixels[targets == 1, :, 8:16, 8:16] += 0.2
    for name, train in (("probe", probe), ("fine-tuned", finetune)):
        head = train(mae.encoder, pixels[:32].clamp(0, 1), targets[:32], 2, generator)
        found = classify(mae.encoder, head, pixels[32:].clamp(0, 1)).argmax(1)
        print(f"{name:10s} right on {(found == targets[32:]).float().mean():.0%} of 16 new ones")


if __name__ == "__main__":
    demo()
