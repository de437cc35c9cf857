"""A small convolutional network, as in an introductory course: convolution, pooling, repeated.

    Y. LeCun et al. 1998, "Gradient-based learning applied to document recognition" (LeNet-5).

Differs: three colour channels; ReLU and max pooling instead of tanh and average pooling; a third
convolution; global average pooling at the end, so that any resolution from 32 pixels on works.
Symbols: B images, R resolution, C classes.
Left out: normalisation layers, residual connections (resnet18.py).
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CNN_FEATURES = 64                      # features before the last layer


class SmallCNN(nn.Module):
    """About 33,000 parameters."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, CNN_FEATURES, 3, padding=1)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(CNN_FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """x: (B, 3, R, R), normalised -> (B, 64)."""
        x = F.max_pool2d(self.conv1(x).relu(), 4)       # (B, 16, R / 4, R / 4)
        x = F.max_pool2d(self.conv2(x).relu(), 4)       # (B, 32, R / 16, R / 16)
        x = self.conv3(x).relu()                        # (B, 64, R / 16, R / 16)
        return x.mean((2, 3))                           # (B, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.features(x)))  # (B, C)


def demo() -> None:
    """Classify horizontal and vertical stripes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)                        # torch.nn draws weights from the global generator
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
    correct = (net(pictures[12:]).argmax(1) == targets[12:]).float().mean()
    print(f"accuracy on four new pictures: {correct:.0%}")


if __name__ == "__main__":
    demo()
