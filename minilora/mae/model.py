"""Masked autoencoder: hide three quarters of the patches and learn to reconstruct them.

Claim: images are highly redundant, so a few hidden patches could be filled in from their
neighbours.  With most patches hidden, the reconstruction requires an understanding of the picture.
The encoder processes only the visible patches; hiding most of them therefore makes training cheap.

    K. He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.

    random_masking (patches.py)   uniform, without replacement          "Masking"
    encoder     only the visible patches, no mask tokens                "MAE encoder", figure 1
    decode      all patches; a learned mask token for each hidden one   "MAE decoder"
    loss        mean squared error on the hidden patches                "Reconstruction target"

The transformer blocks are those of CLIP's towers (attention.py) with the exact GELU.

    python -m minilora.mae --class bottle --probe --finetune      see mae/run.py; without options
                                                                  it runs the demo below

Symbols: B images, P patches, V visible patches, W width, D decoder width, R resolution, p patch.
Left out: the official training (400 to 1,600 epochs of ImageNet on many GPUs).
"""
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.attention import Block
from minilora.io.schema import Flag, Number, Record, Whole, check
from minilora.mae.patches import patchify, random_masking, sincos_positions, unpatchify

LAYER_NORM_EPS = 1e-6                      # of every layer norm, and of normalised pixels
MAE_SCHEMA = Record({
    **dict.fromkeys(("width", "heads", "resolution", "decoder_width", "decoder_heads"),
                    Whole(1, 16_384)), "patch": Whole(1, 1024), "layers": Whole(1, 200),
    "decoder_layers": Whole(1, 200), "mask_ratio": Number(0, 1), "normalise_pixels": Flag()})


@dataclass(frozen=True)
class MAEConfig:
    """Shapes of encoder and decoder, and what is masked."""
    width: int
    layers: int
    heads: int
    patch: int = 16
    resolution: int = 224
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75            # share of hidden patches
    normalise_pixels: bool = True       # each target patch by its own mean and standard deviation;
    #                                     gives better features (table 1d of the paper)

    def __post_init__(self) -> None:
        """Raises ValueError for sizes, a resolution or a mask ratio that are impossible."""
        check(asdict(self), MAE_SCHEMA, "MAEConfig")
        if self.resolution % self.patch:
            raise ValueError(f"MAEConfig.resolution {self.resolution}: expected a multiple of the "
                             f"patch ({self.patch}); choose the next multiple")
        if self.width % 4 or self.decoder_width % 4:        # of positions: see sincos_positions
            raise ValueError(f"MAEConfig.width {self.width} and {self.decoder_width}: expected "
                             "multiples of 4; choose the next multiple")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"MAEConfig.mask_ratio: expected between 0 and 1, found "
                             f"{self.mask_ratio}; the paper hides 0.75")


MAE_B_16 = MAEConfig(width=768, layers=12, heads=12)
MAE_L_16 = MAEConfig(width=1024, layers=24, heads=16)
MAE_H_14 = MAEConfig(width=1280, layers=32, heads=16, patch=14)
MAE_MINI = MAEConfig(width=192, layers=6, heads=3, decoder_width=96, decoder_layers=2,
                     decoder_heads=3)           # small enough to train on a CPU


def transformer_blocks(width: int, heads: int, layers: int) -> nn.ModuleList:
    """Transformer blocks with the exact GELU."""
    return nn.ModuleList(Block(width, heads, F.gelu, LAYER_NORM_EPS) for _ in range(layers))


class MAEEncoder(nn.Module):
    """A vision transformer that can process a subset of the patches."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.cls = nn.Parameter(torch.zeros(width))
        grid = config.resolution // config.patch
        self.register_buffer("positions", sincos_positions(width, grid))
        self.blocks = transformer_blocks(width, config.heads, config.layers)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Patch tokens with their positions added: (B, 3, R, R) -> (B, P, W)."""
        return self.embed(pixels).flatten(2).transpose(1, 2) + self.positions[1:]

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Put CLS before the patch tokens and apply all blocks: (B, V, W) -> (B, 1 + V, W)."""
        cls = (self.cls + self.positions[0]).expand(len(tokens), 1, -1)
        x = torch.cat([cls, tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """pixels: (B, 3, R, R);  visible: (B, V) patch indices, None for all.  (B, 1 + V, W)."""
        x = self.tokens(pixels)
        if visible is not None:
            x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
        return self.encode_tokens(x)


class MaskedAutoencoder(nn.Module):
    """Encoder, and a light decoder that is discarded after pretraining.

    narrow: embedding of encoder tokens in the decoder's width;  paint: prediction head (both names
    are keys in saved files).
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config, width = config, config.decoder_width
        self.encoder = MAEEncoder(config)
        self.narrow = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        grid = config.resolution // config.patch
        self.register_buffer("positions", sincos_positions(width, grid))
        self.blocks = transformer_blocks(width, config.decoder_heads, config.decoder_layers)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.paint = nn.Linear(width, config.patch ** 2 * 3)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> "MaskedAutoencoder":
        """Draw all weights at random.  Returns self.

        Differs: the official code uses Xavier's rule for all matrices; here as in CLIP.
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

    def decode(self, latent: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct all patches, (B, P, p * p * 3).

        latent: (B, 1 + V, W) from the encoder;  visible: (B, V) indices of its patches.
        """
        x = self.narrow(latent)                                             # (B, 1 + V, D)
        count = self.positions.shape[0] - 1
        patches = self.mask_token.expand(len(x), count, -1).to(x.dtype)     # (B, P, D)
        places = visible[..., None].expand(-1, -1, x.shape[-1])
        patches = patches.scatter(1, places, x[:, 1:])                      # visible ones in place
        x = torch.cat([x[:, :1], patches], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))[:, 1:]

    def patch_statistics(self, patches: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean and standard deviation of each patch, (B, P, 1); 0 and 1 for plain pixels."""
        if not self.config.normalise_pixels:
            return 0.0, 1.0
        return (patches.mean(-1, keepdim=True),
                (patches.var(-1, keepdim=True) + LAYER_NORM_EPS).sqrt())

    def target(self, pixels: Tensor) -> Tensor:
        """The reconstruction target, (B, P, p * p * 3)."""
        patches = patchify(pixels, self.config.patch)
        mean, deviation = self.patch_statistics(patches)
        return (patches - mean) / deviation

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstructed patches (B, P, p * p * 3), hidden (B, P)).

        pixels: (B, 3, R, R), normalised;  noise: (B, P) in [0, 1), see `random_masking`.
        """
        visible, hidden = random_masking(noise, self.config.mask_ratio)
        return self.decode(self.encoder(pixels, visible), visible), hidden

    def patch_errors(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(mean squared error of each patch (B, P), hidden (B, P))."""
        predicted, hidden = self(pixels, noise)
        return (predicted - self.target(pixels)).square().mean(-1), hidden

    def loss(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error on the hidden patches only, a scalar."""
        errors, hidden = self.patch_errors(pixels, noise)
        return errors[hidden].mean()

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Pictures (B, 3, R, R) whose hidden patches are replaced by their reconstruction.

        With normalise_pixels, mean and standard deviation are taken from the hidden patch itself:
        the model predicts only the pattern.
        """
        predicted, hidden = self(pixels, noise)
        patches = patchify(pixels, self.config.patch)
        mean, deviation = self.patch_statistics(patches)
        shown = torch.where(hidden[..., None], predicted * deviation + mean, patches)
        return unpatchify(shown, self.config.patch)


def demo() -> None:
    """Train on wave patterns; a region that breaks the pattern has a high reconstruction error."""
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
          f"{hidden[0].sum()} are reconstructed")
    print(f"loss on waves: {losses[0]:.3f} -> {losses[-1]:.3f} (predicting the mean gives 1)")
    broken = pictures[:1].clone()
    broken[:, :, 16:32, 16:32] = 1.5
    region = [18, 19, 26, 27]                                               # in a grid of 8 x 8
    noise[:, region] = 1                                                    # hides these patches
    for name, picture in (("intact", pictures[:1]), ("broken", broken)):
        error, _ = mae.patch_errors(picture, noise[:1])
        print(f"{name:6s} picture: error in the region {error[0, region].mean():.2f}")


if __name__ == "__main__":
    demo()
