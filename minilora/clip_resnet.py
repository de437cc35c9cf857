"""CLIP's ResNet image tower: convolutions, and attention pooling at the end.

    He et al. 2016, "Deep residual learning for image recognition", eq. 1 and the bottleneck.
    C. Radford et al. 2021, "Learning transferable visual models ..." (CLIP), section 2.4.
    Authors' code: https://github.com/openai/CLIP (clip/model.py)

Claim (C): three changes make the ResNet of 2016 a good image tower:

    stem        three 3 x 3 convolutions and average pooling, not one 7 x 7 and max pooling
    strides     average pooling instead: a 1 x 1 convolution with a stride skips pixels
                (Zhang 2019, "Making convolutional networks shift-invariant again")
    pooling     attention with the mean over all positions as its query (AttentionPool)

Symbols: B images, R resolution, S side of a feature map, G = R / 32 side of the last one, W width
after the stem (of a bottleneck: its inner width), C = 32 W channels of the last map, E embedding.
Left out: training (batch norm uses the stored statistics); LoRA and anomaly maps, which need the
tokens of a vision transformer.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.attention import MultiHeadAttention
from minilora.io.demos import run_demo

EXPANSION = 4                   # output channels of a bottleneck, in multiples of its inner width
STRIDE = 32                     # of the whole tower: pixels per position of the last map


class FrozenBatchNorm(nn.Module):
    """Batch norm with the stored statistics of a finished training: one scale, one shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, rows, columns), returns the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Bottleneck(nn.Module):
    """1 x 1 convolution to `width` channels, 3 x 3, 1 x 1 to 4 width; x is added (He eq. 1)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm(out_channels)
        self.stride, self.downsample = stride, None
        if stride > 1 or in_channels != out_channels:   # else x can be added as it is
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False),
                                            FrozenBatchNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, S, S) -> (B, 4 W, S / stride, S / stride)."""
        y = self.bn1(self.conv1(x)).relu()                       # (B, W, S, S)
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(F.avg_pool2d(y, self.stride)))   # (B, 4 W, S / stride, S / stride)
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(F.avg_pool2d(x, self.stride))
        return (shortcut + y).relu()


class AttentionPool(nn.Module):
    """Attention pooling: the mean over all positions is the query; keys are mean and positions."""

    def __init__(self, grid: int, width: int, heads: int, embed: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(grid ** 2 + 1, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.c_proj = nn.Linear(width, width), nn.Linear(width, embed)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, G, G) -> (B, E)."""
        x = x.flatten(2).transpose(1, 2)                         # (B, G * G, C)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        # x: (B, 1 + G * G, C), the mean first.  `split` reads only self.heads.
        split = lambda t: MultiHeadAttention.split(self, t)      # (B, H, L, D)
        q, k, v = split(self.q_proj(x[:, :1])), split(self.k_proj(x)), split(self.v_proj(x))
        pooled = F.scaled_dot_product_attention(q, k, v)         # (B, H, 1, D)
        return self.c_proj(pooled.transpose(1, 2).flatten(2))[:, 0]


class ModifiedResNet(nn.Module):
    """The whole tower.  layers: bottlenecks in each of the four stages, (3, 4, 6, 3) for RN50."""

    def __init__(self, resolution: int, width: int, layers: tuple[int, ...], embed: int) -> None:
        super().__init__()
        half = width // 2
        self.patch, self.grid = STRIDE, resolution // STRIDE
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = FrozenBatchNorm(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = FrozenBatchNorm(width)
        channels = width
        for stage, count in enumerate(layers):
            inner = width * 2 ** stage
            blocks = []
            for k in range(count):
                blocks.append(Bottleneck(channels, inner, 2 if stage and not k else 1))
                channels = inner * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(self.grid, channels, channels // 64, embed)
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights; the statistics of batch norm stay 0 and 1."""
        for name, p in self.named_parameters():
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5, generator=generator)
            elif name.endswith("proj.bias"):
                p.zero_()

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps after each of the four stages.  pixels: (B, 3, R, R), normalised."""
        x = self.bn1(self.conv1(pixels)).relu()                  # (B, W / 2, R / 2, R / 2)
        x = self.bn2(self.conv2(x)).relu()
        x = F.avg_pool2d(self.bn3(self.conv3(x)).relu(), 2)      # (B, W, R / 4, R / 4)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)                                   # the last: (B, 32 W, G, G)
        return features

    def encode_image(self, pixels: Tensor) -> Tensor:
        """One vector per picture.  pixels: (B, 3, R, R) -> (B, E).

        Raises ValueError for another resolution: its positional embeddings are not resized.
        """
        expected = self.grid * STRIDE
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, expected, expected):
            raise ValueError(f"pixels: expected (B, 3, {expected}, {expected}), found "
                             f"{tuple(pixels.shape)}; resize the picture with clip_preprocess")
        return self.attnpool(self.stages(pixels)[-1])


def demo() -> None:
    generator = torch.Generator().manual_seed(0)
    net = ModifiedResNet(resolution=64, width=16, layers=(1, 1, 1, 1), embed=32)
    net.initialise(generator)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        for number, features in enumerate(net.stages(pixels), 1):
            print(f"stage {number}: {tuple(features.shape)}")
        print(f"after attention pooling: {tuple(net.encode_image(pixels).shape)}")
    with torch.device("meta"):                                   # shapes only, no memory
        full = ModifiedResNet(224, 64, (3, 4, 6, 3), 1024)
    print(f"RN50: {sum(p.numel() for p in full.parameters()):,} parameters")


# Exercise 1: Which share of RN50's parameters belongs to the attention pooling, full.attnpool?
# Exercise 2: Fold bn1 into conv1: which weight and which bias make one convolution do both?
if __name__ == "__main__":
    run_demo("clip_resnet", demo)
