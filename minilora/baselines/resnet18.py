"""ResNet-18 written out: each block learns a residual that is added to its input.

    K. He et al. 2016, "Deep residual learning for image recognition", section 3 and table 1.

    y = relu(x + F(x))      eq. 1; where the shape changes, a 1 x 1 convolution projects x: eq. 2

The keys are torchvision's, so `resnet18-f37072fd.pth` can be loaded; it is not downloaded here.
Symbols: B images, R resolution, C classes, W channels.
Left out: bottleneck blocks and deeper ResNets (CLIP's own ResNet is in clip_resnet.py).
"""
from pathlib import Path

import torch
from torch import Tensor, nn

from minilora.checkpoint.weight_shapes import check_keys
from minilora.checkpoint.weights import read_state_dict

RESNET18_FEATURES = 512                     # features before the last layer
BATCH_COUNTER = ".num_batches_tracked"       # of batch norm; not a weight
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False),
                                            nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()              # (B, W, R / stride, R / stride)
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return (shortcut + y).relu()                    # eqs. 1, 2


class ResNet18(nn.Module):
    """11 million parameters; stages can be frozen."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            in_width, width = widths[stage - 1], widths[stage]
            blocks = (BasicBlock(in_width, width, 1 if stage == 1 else 2),
                      BasicBlock(width, width, 1))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(RESNET18_FEATURES, classes)
        self.frozen: tuple[str, ...] = ()

    def stem(self, x: Tensor) -> Tensor:
        """The layers before the first stage of blocks: (B, 3, R, R) -> (B, 64, R / 4, R / 4)."""
        x = self.bn1(self.conv1(x)).relu()              # (B, 64, R / 2, R / 2)
        return nn.functional.max_pool2d(x, 3, 2, 1)     # (B, 64, R / 4, R / 4)

    def features(self, x: Tensor) -> Tensor:
        """x: (B, 3, R, R), normalised -> (B, 512)."""
        for stage in STAGES:
            with torch.set_grad_enabled(torch.is_grad_enabled() and stage not in self.frozen):
                x = getattr(self, stage)(x)             # at last (B, 512, R / 32, R / 32)
        return x.mean((2, 3))                           # (B, 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.features(x)))  # (B, C)

    def freeze(self, *stages: str) -> "ResNet18":
        """Stop training these stages, which must be the first ones.  Returns self."""
        self.frozen = stages
        for module in self.frozen_modules():
            module.requires_grad_(False).eval()
        return self

    def frozen_modules(self) -> list[nn.Module]:
        """The modules of the frozen stages."""
        return [module for stage in self.frozen for module in
                ((self.conv1, self.bn1) if stage == "stem" else (getattr(self, stage),))]

    def train(self, mode: bool = True) -> "ResNet18":
        """As nn.Module.train, but batch norms of frozen stages keep their statistics."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self


def load_backbone(net: ResNet18, path: str | Path) -> ResNet18:
    """Load all weights except those of the last layer from a file with torchvision's keys.

    Returns net.  Raises CheckpointError (a ValueError) that lists every key that does not fit.
    """
    state = {k: v for k, v in read_state_dict(path).items()
             if not k.startswith("fc.") and not k.endswith(BATCH_COUNTER)}
    own = {k: tuple(v.shape) for k, v in net.state_dict().items()
           if not k.startswith("fc.") and not k.endswith(BATCH_COUNTER)}
    check_keys(state, own, "a ResNet-18")
    net.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return net


def demo() -> None:
    """Output shape of each stage; frozen stages keep their statistics."""
    torch.manual_seed(0)                        # torch.nn draws weights from the global generator
    net = ResNet18(4).freeze("stem", "layer1", "layer2")
    total = sum(p.numel() for p in net.parameters())
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    print(f"{total:,} parameters, {trainable:,} of them trainable after freezing three stages")
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for stage in STAGES:
        x = getattr(net, stage)(x)
        print(f"{stage:7s} {tuple(x.shape)}" + ("   frozen" if stage in net.frozen else ""))
    before = net.bn1.running_mean.clone()
    net.train()(torch.randn(2, 3, 128, 128))
    print("frozen statistics do not change:", torch.equal(before, net.bn1.running_mean))


if __name__ == "__main__":
    demo()
