"""A plain convolutional network, as courses begin with: convolve, pool, and again.

    Y. LeCun et al. 1998, "Gradient-based learning applied to document recognition" (LeNet-5).

Differs: three colours, ReLU and maximum pooling instead of tanh and averages, a third convolution,
and a mean over what is left of the plane, so that any resolution from 32 pixels on will do.
Symbols: B images, R resolution, C classes.  Leaves out: normalisation layers, residuals (resnet18).
"""
import torch
import torch.nn.functional as F
from torch import nn

CNN_FEATURES = 64                      # features before the last layer


class SmallCNN(nn.Module):
    """About 40,000 numbers."""

    def __init__(self, classes, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, CNN_FEATURES, 3, padding=1)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(CNN_FEATURES, classes)

    def features(self, x):
        """x: (B, 3, R, R), normalised -> (B, 64)."""
        x = F.max_pool2d(self.conv1(x).relu(), 4)       # (B, 16, R / 4, R / 4)
        x = F.max_pool2d(self.conv2(x).relu(), 4)       # (B, 32, R / 16, R / 16)
        x = self.conv3(x).relu()                        # (B, 64, R / 16, R / 16)
        return x.mean((2, 3))                           # (B, 64)

    def forward(self, x):
        return self.fc(self.dropout(self.features(x)))  # (B, C)


def demo():
    """Horizontal against vertical stripes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)                                # torch draws a layer's weights globally
    stripes = torch.sin(torch.arange(64.0)).expand(64, 64)
    pictures = torch.stack([stripes, stripes.T] * 8)[:, None].repeat(1, 3, 1, 1)
    pictures = pictures + torch.randn(16, 3, 64, 64, generator=generator)
    targets = torch.arange(16) % 2
    net = SmallCNN(2)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(60):
        loss = F.cross_entropy(net(pictures[:12]), targets[:12])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, loss {loss.item():.4f}")
    right = (net(pictures[12:]).argmax(1) == targets[12:]).float().mean()
    print(f"right on {right:.0%} of four new pictures")


if __name__ == "__main__":
    demo()
