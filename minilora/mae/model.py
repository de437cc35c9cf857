"""Masked autoencoder: hide three patches of four, and learn what a picture is by painting them in.

Claim: a picture says the same thing several times over, so a puzzle of a few patches can be solved
only by who has understood it; and since the encoder sees the visible patches alone, hiding most of
them makes training cheap.

    M. He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.

    random_masking      each picture its own patches, uniform, without replacement      "Masking"
    encode              visible patches alone, no mask tokens              "MAE encoder", figure 1
    decode              all of them, a learned token where one is hidden            "MAE decoder"
    loss                mean squared error on hidden patches        "Reconstruction target"

The blocks are those of CLIP's tower (attention.py) with the exact GELU.

    python -m minilora.mae --class bottle --probe --finetune      see mae/run.py; without an option
                                                                  a demonstration

Symbols: B images, P patches, V of them visible, W width, D decoder width, R resolution, p patch.
Leaves out: the official training recipe (400 to 1,600 epochs of ImageNet on many GPUs).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minilora.attention import Block

LAYER_NORM_EPS = 1e-6                      # of every layer norm, and of normalised pixels


@dataclass(frozen=True)
class MAEConfig:
    """Shapes of encoder and decoder; mask_ratio: share of hidden patches; normalise_pixels: each
    patch of the target by its own mean and deviation (table 1d of the paper: better features)."""
    width: int
    layers: int
    heads: int
    patch: int = 16
    resolution: int = 224
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    normalise_pixels: bool = True

    def __post_init__(self):
        if self.resolution % self.patch:
            raise ValueError(f"MAEConfig.resolution {self.resolution}: expected a multiple of the "
                             f"patch ({self.patch}); choose the next multiple")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"MAEConfig.mask_ratio: expected between 0 and 1, found "
                             f"{self.mask_ratio}; the paper hides 0.75")


MAE_B_16 = MAEConfig(width=768, layers=12, heads=12)
MAE_L_16 = MAEConfig(width=1024, layers=24, heads=16)
MAE_H_14 = MAEConfig(width=1280, layers=32, heads=16, patch=14)
MAE_MINI = MAEConfig(width=192, layers=6, heads=3, decoder_width=96, decoder_layers=2,
                     decoder_heads=3)           # small enough to train on a CPU


def patchify(pixels, patch):
    """(B, 3, R, R) -> (B, P, p * p * 3): rows of patches, in each pixel after pixel, RGB last."""
    grid = pixels.shape[-1] // patch
    x = pixels.unflatten(3, (grid, patch)).unflatten(2, (grid, patch))     # (B, 3, G, p, G, p)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)            # (B, P, p * p * 3)


def unpatchify(patches, patch):
    """The inverse of `patchify`."""
    grid = math.isqrt(patches.shape[1])
    x = patches.unflatten(1, (grid, grid)).unflatten(3, (patch, patch, 3))  # (B, G, G, p, p, 3)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)             # (B, 3, R, R)


def random_masking(noise, ratio):
    """Which patches stay visible: those of the lowest noise.

    noise: (B, P) uniform random numbers.  Returns (visible (B, V) numbers of patches, hidden (B, P)
    bool); V = P (1 - ratio), rounded down, at least 1.
    """
    keep = max(1, int(noise.shape[1] * (1 - ratio)))
    visible = noise.argsort(dim=1)[:, :keep]                                # (B, V)
    hidden = torch.ones(noise.shape, dtype=torch.bool, device=noise.device)
    return visible, hidden.scatter(1, visible, False)


def sine_cosine(width, grid):
    """Fixed positions on a plane, (1 + G * G, W): sine and cosine of the column in the first half
    of the channels, of the row in the second; zeros for CLS."""
    omega = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * omega       # (G, W / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)                  # (G, W / 2)
    columns, rows = waves.repeat(grid, 1), waves.repeat_interleave(grid, 0)
    table = torch.cat([columns, rows], dim=1)                               # (G * G, W)
    return torch.cat([torch.zeros(1, width), table.float()])


def tower(width, heads, layers):
    """Blocks with the exact GELU."""
    return nn.ModuleList(Block(width, heads, F.gelu, LAYER_NORM_EPS) for _ in range(layers))


class MAEEncoder(nn.Module):
    """A vision transformer that can leave patches out."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.cls = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sine_cosine(width, config.resolution // config.patch))
        self.blocks = tower(width, config.heads, config.layers)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def tokens(self, pixels):
        """(B, 3, R, R) -> (B, P, W), positions added."""
        return self.embed(pixels).flatten(2).transpose(1, 2) + self.positions[1:]

    def blocks_of(self, tokens):
        """CLS before any patches, then all blocks: (B, V, W) -> (B, 1 + V, W)."""
        cls = (self.cls + self.positions[0]).expand(len(tokens), 1, -1)
        x = torch.cat([cls, tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, pixels, visible=None):
        """pixels: (B, 3, R, R), visible: (B, V) or None for all.  Returns (B, 1 + V, W)."""
        x = self.tokens(pixels)
        if visible is not None:
            x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
        return self.blocks_of(x)


class MaskedAutoencoder(nn.Module):
    """Encoder, and a light decoder that is thrown away after pretraining."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.decoder_width
        self.encoder = MAEEncoder(config)
        self.narrow = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sine_cosine(width, config.resolution // config.patch))
        self.blocks = tower(width, config.decoder_heads, config.decoder_layers)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.paint = nn.Linear(width, config.patch ** 2 * 3)

    @torch.no_grad()
    def initialise(self, generator=None):
        """Draws every weight afresh.  Returns self.

        Differs: the official code draws all matrices by Xavier's rule; here blocks start as CLIP's.
        """
        for part, kernel in ((self.encoder, self.encoder.embed), (self, self.narrow)):
            kernel.weight.normal_(0, kernel.weight[0].numel() ** -0.5, generator=generator)
            kernel.bias.zero_()
            for block in part.blocks:
                block.initialise(len(part.blocks), generator)
            part.norm.reset_parameters()
        self.encoder.cls.normal_(0, 0.02, generator=generator)
        self.mask_token.normal_(0, 0.02, generator=generator)
        self.paint.weight.normal_(0, self.paint.in_features ** -0.5, generator=generator)
        self.paint.bias.zero_()
        return self

    def decode(self, latent, visible):
        """latent: (B, 1 + V, W) of the encoder.  Returns painted patches (B, P, p * p * 3)."""
        x = self.narrow(latent)                                             # (B, 1 + V, D)
        count = self.positions.shape[0] - 1
        canvas = self.mask_token.expand(len(x), count, -1).to(x.dtype)      # (B, P, D)
        places = visible[..., None].expand(-1, -1, x.shape[-1])
        canvas = canvas.scatter(1, places, x[:, 1:])                        # each back to its place
        x = torch.cat([x[:, :1], canvas], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))[:, 1:]

    def units(self, patches):
        """Mean and deviation of each patch, (B, P, 1); 0 and 1 where pixels are left plain."""
        if not self.config.normalise_pixels:
            return 0.0, 1.0
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + LAYER_NORM_EPS).sqrt()

    def target(self, pixels):
        """What is to be painted, (B, P, p * p * 3)."""
        patches = patchify(pixels, self.config.patch)
        mean, deviation = self.units(patches)
        return (patches - mean) / deviation

    def forward(self, pixels, noise):
        """(painted patches (B, P, p * p * 3), hidden (B, P)).

        pixels: (B, 3, R, R), normalised;  noise: (B, P) in [0, 1), see `random_masking`.
        """
        visible, hidden = random_masking(noise, self.config.mask_ratio)
        return self.decode(self.encoder(pixels, visible), visible), hidden

    def errors(self, pixels, noise):
        """Squared error of each patch (B, P), and which were hidden (B, P)."""
        painted, hidden = self(pixels, noise)
        return (painted - self.target(pixels)).square().mean(-1), hidden

    def loss(self, pixels, noise):
        """Mean squared error on hidden patches only.  A scalar."""
        errors, hidden = self.errors(pixels, noise)
        return errors[hidden].mean()

    @torch.no_grad()
    def expected(self, pixels, noise):
        """Pictures (B, 3, R, R) with their hidden patches painted in.

        Where pixels are normalised patch by patch, mean and deviation are borrowed from the hidden
        patch: what is shown is the pattern alone.
        """
        painted, hidden = self(pixels, noise)
        patches = patchify(pixels, self.config.patch)
        mean, deviation = self.units(patches)
        painted = torch.where(hidden[..., None], painted * deviation + mean, patches)
        return unpatchify(painted, self.config.patch)


def demo():
    generator = torch.Generator().manual_seed(0)
    config = MAEConfig(width=64, layers=2, heads=2, patch=8, resolution=64, decoder_width=32,
                       decoder_layers=1, decoder_heads=2)
    mae = MaskedAutoencoder(config).initialise(generator)
    line = torch.linspace(0, 6, 64)
    waves = torch.stack([torch.sin(line + k) for k in range(16)])           # (16, 64)
    pictures = (waves[:, None, :, None] + waves[:, None, None, :]).expand(-1, 3, -1, -1)
    optimiser = torch.optim.AdamW(mae.parameters(), 2e-3)
    losses = []
    for _ in range(150):
        loss = mae.loss(pictures, torch.rand(16, 64, generator=generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    noise = torch.rand(16, 64, generator=generator)
    visible, hidden = random_masking(noise, 0.75)
    print(f"of {hidden.shape[1]} patches {visible.shape[1]} are encoded, "
          f"{hidden[0].sum()} are painted in")
    print(f"error on hidden patches, waves: {losses[0]:.3f} -> {losses[-1]:.3f} (1: the mean)")
    broken = pictures[:1].clone()
    broken[:, :, 16:32, 16:32] = 1.5
    place = [18, 19, 26, 27]                                                # of 8 rows of 8
    noise[:, place] = 1                                                     # so they are hidden
    for name, picture in (("whole", pictures[:1]), ("broken", broken)):
        error, _ = mae.errors(picture, noise[:1])
        print(f"{name:6s} error there: {error[0, place].mean():.2f}")


if __name__ == "__main__":
    demo()
