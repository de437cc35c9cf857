"""ResNet-18 written out: layers that only have to learn what is still missing.

    K. He et al. 2016, "Deep residual learning for image recognition", section 3 and table 1.

    y = relu(x + F(x))      eq. 1; where the shape changes, x passes a 1 x 1 convolution: eq. 2

Keys are those of torchvision, so `resnet18-f37072fd.pth` can be loaded; it is not to be downloaded
by this code.  Symbols: B images, R resolution, C classes, W channels.
Leaves out: bottlenecks and deeper ResNets (CLIP's own is another design).
"""
import torch
from torch import nn

from minilora.checkpoint.openai_layout import COUNTER, check_keys
from minilora.io.zip_reader import read_tensors

RESNET18_FEATURES = 512                     # features before the last layer
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around which x is led past."""

    def __init__(self, inside, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inside != width:
            self.downsample = nn.Sequential(nn.Conv2d(inside, width, 1, stride, bias=False),
                                            nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()              # (B, W, R / stride, R / stride)
        y = self.bn2(self.conv2(y))
        past = x if self.downsample is None else self.downsample(x)
        return (past + y).relu()                        # eqs. 1, 2


class ResNet18(nn.Module):
    """11 million numbers.  freeze: names of stages that stay as they are, statistics included."""

    def __init__(self, classes, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            inside, width = widths[stage - 1], widths[stage]
            blocks = BasicBlock(inside, width, 1 if stage == 1 else 2), BasicBlock(width, width, 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.dropout, self.fc, self.frozen = nn.Dropout(dropout), nn.Linear(RESNET18_FEATURES, classes), ()

    def stem(self, x):
        x = self.bn1(self.conv1(x)).relu()              # (B, 64, R / 2, R / 2)
        return nn.functional.max_pool2d(x, 3, 2, 1)     # (B, 64, R / 4, R / 4)

    def features(self, x):
        """x: (B, 3, R, R), normalised -> (B, 512)."""
        for stage in STAGES:
            with torch.set_grad_enabled(torch.is_grad_enabled() and stage not in self.frozen):
                x = getattr(self, stage)(x)             # in the end (B, 512, R / 32, R / 32)
        return x.mean((2, 3))                           # (B, 512)

    def forward(self, x):
        return self.fc(self.dropout(self.features(x)))  # (B, C)

    def freeze(self, *stages):
        """These stages, which come first, are not trained any more.  Returns self."""
        self.frozen = stages
        for module in self.frozen_modules():
            module.requires_grad_(False).eval()
        return self

    def frozen_modules(self):
        return [module for stage in self.frozen for module in
                ((self.conv1, self.bn1) if stage == "stem" else (getattr(self, stage),))]

    def train(self, mode=True):
        """As ever, but frozen batch norms keep the statistics that they have."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self


def load_backbone(net, path):
    """Weights of all but the last layer from a file of torchvision's keys.  Returns net.

    Raises CheckpointError (a ValueError) naming every key that does not fit.
    """
    state = {k: v for k, v in read_tensors(path).items()
             if not k.startswith("fc.") and not k.endswith(COUNTER)}
    own = {k: tuple(v.shape) for k, v in net.state_dict().items()
           if not k.startswith("fc.") and not k.endswith(COUNTER)}
    check_keys(state, own, "a ResNet-18")
    net.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return net


def demo():
    torch.manual_seed(0)                                # torch draws a layer's weights globally
    net = ResNet18(4).freeze("stem", "layer1", "layer2")
    total = sum(p.numel() for p in net.parameters())
    moving = sum(p.numel() for p in net.parameters() if p.requires_grad)
    print(f"{total:,} parameters, of which {moving:,} are trained after freezing two stages")
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for stage in STAGES:
        x = getattr(net, stage)(x)
        print(f"{stage:7s} {tuple(x.shape)}" + ("   frozen" if stage in net.frozen else ""))
    before = net.bn1.running_mean.clone()
    net.train()(torch.randn(2, 3, 128, 128))
    print("frozen statistics stay:", torch.equal(before, net.bn1.running_mean))


if __name__ == "__main__":
    demo()
