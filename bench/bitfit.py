"""BitFit: only the biases of the image tower are trained; all matrices stay frozen.

    h = W x + b        W frozen, b trained        Ben Zaken et al. 2022, "BitFit: Simple
                                                   Parameter-efficient Fine-tuning for
                                                   Transformer-based Masked Language-models"

Claim of the paper: a thousandth of the weights is enough.  Of memory this says little: the gradient
has to reach the biases of the first block, so it passes through every block.

Symbols: W width, n blocks.  Trained: (11 n + 2) W numbers: 11 W in a block (q, k, v, out: 4; the
feed-forward layer: 4 + 1; two layer norms: 2), and W of each layer norm before and after them.
Left out: training a part of the biases (section 3.2 of the paper: of q and of the middle layer).
"""
from torch import nn


def train_biases(visual: nn.Module) -> None:
    """Only the biases of a tower require a gradient, in place.  visual: VisionTransformer."""
    for name, parameter in visual.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
