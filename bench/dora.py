"""DoRA: a matrix is split into a magnitude and a direction; LoRA changes the direction.

    V = W + (alpha / r) B A                direction: each row divided by its norm |V|
    h = m * (V x) / |V| + b                Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank
                                           Adaptation", eq. 5

m (d,) starts as the norms of the rows of W, and B at zero, so training starts at the pretrained
layer.  A, B and m are trained: r (d + k) + d numbers.  The gradient treats |V| as a constant
(section 4.3), which saves memory.  The result before the multiplication by m / |V| has to be kept
for the gradient of m: d numbers a token that LoRA does not keep.

Symbols: as in minilora/lora.py; |V| (d,) norms of the rows, one of each output.
Differs: the paper's formula takes the norm of each column of W; its authors' code and peft take one
of each output, as here.
Left out: dropout; merging (`merged` of LoRALinear does it, from `delta_weight`).
"""
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.lora import LoRALinear, add_lora, lora_layers, replace_modules


class DoRALinear(LoRALinear):
    """A LoRA layer with a trained magnitude of each output."""

    TRAINED = ("lora_A", "lora_B", "magnitude")

    def reset_lora(self, generator: torch.Generator | None = None) -> None:
        """A random, B = 0, and the magnitude of the pretrained rows."""
        super().reset_lora(generator)
        self.magnitude = nn.Parameter(self.weight.detach().norm(dim=1))          # m (d,)

    def gain(self) -> Tensor:
        """m / |V|, (d,).  No gradient passes through |V|."""
        with torch.no_grad():
            norm = (self.weight + super().delta_weight()).norm(dim=1)
        return self.magnitude / norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        if not self.enabled:
            return F.linear(x, self.weight, self.bias)
        low = F.linear(x, self.lora_A) * self.scale                              # (..., r)
        h = F.linear(x, self.weight) + F.linear(low, self.lora_B)                # (..., d)  V x
        h = h * self.gain().to(h.dtype)                                          # eq. 5
        return h if self.bias is None else h + self.bias.to(h.dtype)

    def delta_weight(self) -> Tensor:
        """The change of W, (d, k): m V / |V| - W."""
        return self.gain()[:, None] * (self.weight + super().delta_weight()) - self.weight


def add_dora(visual: nn.Module, targets: Sequence[str], blocks: Iterable[int], rank: int,
             alpha: float, generator: torch.Generator | None = None) -> None:
    """`add_lora`, then each new layer becomes a DoRA layer.  visual: VisionTransformer, changed in
    place."""
    add_lora(visual, targets, blocks, rank, alpha)
    replace_modules(visual, {name: DoRALinear.from_linear(layer, rank, alpha, generator)
                             for name, layer in lora_layers(visual).items()})
    for layer in lora_layers(visual).values():
        for name in layer.TRAINED:
            getattr(layer, name).requires_grad_(True)
