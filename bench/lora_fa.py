"""LoRA-FA: LoRA whose matrix A stays frozen at its random start; only B is trained.

    h = W x + b + (alpha / r) B A x        W, A frozen, B trained
                                           Zhang et al. 2023, "LoRA-FA: Memory-efficient Low-rank
                                           Adaptation", arXiv 2308.03303, section 3

The gradient of A needs x, which has k numbers a token.  The gradient of B needs only A x, which has
r.  So autograd need not keep x for the layer.  It saves memory where nothing else keeps x: in
CLIP's blocks that is the one input that q, k and v share.

Symbols: as in minilora/lora.py.
Left out: the paper's rescaling of B's gradient (peft has it: create_lorafa_optimizer); here AdamW
trains all methods.  A could be drawn again from its seed; it is stored in the file, as peft does.
"""
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from minilora.lora import add_lora, lora_layers


def add_lora_fa(visual: nn.Module, targets: Sequence[str], blocks: Iterable[int], rank: int,
                alpha: float, generator: torch.Generator | None = None) -> None:
    """`add_lora`, then A is frozen.  visual: VisionTransformer, changed in place."""
    add_lora(visual, targets, blocks, rank, alpha, generator)
    for layer in lora_layers(visual).values():
        layer.lora_A.requires_grad_(False)
