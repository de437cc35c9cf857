"""CLIP's ResNet image tower: convolutions to the end, and attention for the last look.

    He et al. 2016, "Deep residual learning for image recognition", eq. 1 and the bottleneck.
    C. Radford et al. 2021, "Learning transferable visual models ...", section 2.4.

Three things differ from the ResNet of 2016 (C section 2.4):

    stem        three 3 x 3 convolutions and an average instead of one 7 x 7 and a maximum
    strides     an average before the 1 x 1 convolution that would otherwise skip pixels (Zhang
                2019, "Making convolutional networks shift-invariant again")
    pooling     attention in which the mean of all places asks (AttentionPool)

Symbols: B images, R resolution, G = R / 32 places a side, W width, E embedding.
Left out: training (batch norm uses the statistics of the file), LoRA and anomaly maps, which need
the tokens of a vision transformer.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.attention import MultiHeadAttention

EXPANSION = 4                   # a bottleneck leaves four times the width it works in
STRIDE = 32                     # of the whole tower


class FrozenNorm(nn.Module):
    """Batch norm with the statistics of the training that is over: one factor, one shift."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Bottleneck(nn.Module):
    """Narrow, look around, widen; x goes past (He et al., eq. 1)."""

    def __init__(self, inside, width, stride):
        super().__init__()
        outside = width * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), FrozenNorm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), FrozenNorm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outside, 1, bias=False), FrozenNorm(outside)
        self.stride, self.downsample = stride, None
        if stride > 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False),
                                            FrozenNorm(outside))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()                       # (B, W, R, R)
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(F.avg_pool2d(y, self.stride)))   # (B, 4 W, R / stride, R / stride)
        past = x if self.downsample is None else self.downsample(F.avg_pool2d(x, self.stride))
        return (past + y).relu()


class AttentionPool(nn.Module):
    """The mean of all places asks all places and itself; its answer is the picture's vector."""

    def __init__(self, grid, width, heads, embed):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(grid ** 2 + 1, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.c_proj = nn.Linear(width, width), nn.Linear(width, embed)
        self.heads = heads

    def forward(self, x):
        """x: (B, W, G, G) -> (B, E)."""
        x = x.flatten(2).transpose(1, 2)                         # (B, G * G, W)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        split = lambda t: MultiHeadAttention.split(self, t)      # (B, H, L, D)
        q, k, v = split(self.q_proj(x[:, :1])), split(self.k_proj(x)), split(self.v_proj(x))
        answer = F.scaled_dot_product_attention(q, k, v)         # (B, H, 1, D)
        return self.c_proj(answer.transpose(1, 2).flatten(2))[:, 0]


class ModifiedResNet(nn.Module):
    """layers: bottlenecks of each of the four stages, (3, 4, 6, 3) for RN50."""

    def __init__(self, resolution, width, layers, embed):
        super().__init__()
        self.patch, self.grid = STRIDE, resolution // STRIDE
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False), FrozenNorm(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = FrozenNorm(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), FrozenNorm(
            width)
        inside = width
        for stage, count in enumerate(layers):
            inner = width * 2 ** stage
            blocks = []
            for k in range(count):
                blocks.append(Bottleneck(inside, inner, 2 if stage and not k else 1))
                inside = inner * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(self.grid, inside, inside // 64, embed)
        self.initialise()

    @torch.no_grad()
    def initialise(self, generator=None):
        """Draws all weights afresh; statistics of batch norm stay 0 and 1."""
        for name, p in self.named_parameters():
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5, generator=generator)
            elif name.endswith("proj.bias"):
                p.zero_()

    def stages(self, pixels):
        """Planes after each of the four stages.  pixels: (B, 3, R, R), normalised."""
        x = self.bn1(self.conv1(pixels)).relu()                  # (B, W / 2, R / 2, R / 2)
        x = self.bn2(self.conv2(x)).relu()
        x = F.avg_pool2d(self.bn3(self.conv3(x)).relu(), 2)      # (B, W, R / 4, R / 4)
        out = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            out.append(x)                                        # the last: (B, 32 W, G, G)
        return out

    def encode_image(self, pixels):
        """One vector per picture.  pixels: (B, 3, R, R) -> (B, E).

        Raises ValueError for another resolution: the positions of the pooling are not resized.
        """
        expected = self.grid * STRIDE
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, expected, expected):
            raise ValueError(f"pixels: expected (B, 3, {expected}, {expected}), found "
                             f"{tuple(pixels.shape)}; resize the picture with clip_preprocess")
        return self.attnpool(self.stages(pixels)[-1])


def demo():
    generator = torch.Generator().manual_seed(0)
    net = ModifiedResNet(resolution=64, width=16, layers=(1, 1, 1, 1), embed=32)
    net.initialise(generator)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        for stage, plane in enumerate(net.stages(pixels), 1):
            print(f"stage {stage}: {tuple(plane.shape)}")
        print(f"after attention pooling: {tuple(net.encode_image(pixels).shape)}")
    with torch.device("meta"):
        full = ModifiedResNet(224, 64, (3, 4, 6, 3), 1024)
    print(f"RN50: {sum(p.numel() for p in full.parameters()):,} parameters")


if __name__ == "__main__":
    demo()
