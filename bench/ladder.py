"""Ladder side-tuning: a small network beside the frozen tower reads its hidden states.

    s_n = block_n(g_n D_n h_n + (1 - g_n) s_(n-1))      Sung et al. 2022, "LST: Ladder Side-Tuning
    g_n = sigmoid(a_n / T),  T = 0.1                    for Parameter and Memory Efficient Transfer
                                                        Learning", section 3.2

The tower is frozen and never part of the graph: no gradient passes through it.  The side network
has one block for each block of the tower, of width w = W / 8, and as many heads.  Here its output
is projected to the space of the texts and added to the patch features of the value-value path.
This projection starts at zero, so training starts exactly at the pretrained model.

Symbols: h_n (B, L, W) the state that enters block n, s_n (B, L, w), D_n the projection down, a_n
trained, W width, w = W / reduction, E embedding, n blocks.
Trained: n (12 w^2 + 13 w + W w + w + 1) + w E + E numbers.
Differs: the paper starts the side network from pruned weights of the tower, and its last layer
sees only the side network.  Here it starts at random, and the frozen features stay in the sum.  CLS
is not changed, because the text map does not use it.
Left out: dropping layers of the side network (section 3.3).
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minilora.attention import Block
from minilora.vit import VisionTransformer

REDUCTION, TEMPERATURE = 8, 0.1                         # of the paper and its code


class SideNetwork(nn.Module):
    """One small block beside each block of the tower, on the CPU, with new weights."""

    def __init__(self, visual: VisionTransformer, reduction: int = REDUCTION,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        (width, embed), layers = visual.proj.shape, len(visual.blocks)
        small, heads = width // reduction, visual.blocks[0].attn.heads
        self.down = nn.ModuleList(nn.Linear(width, small) for _ in range(layers))
        self.blocks = nn.ModuleList(Block(small, heads) for _ in range(layers))
        self.gates = nn.Parameter(torch.zeros(layers))              # a_n: both inputs count half
        self.up = nn.Linear(small, embed)
        for down, block in zip(self.down, self.blocks):
            nn.init.normal_(down.weight, 0, width ** -0.5, generator)
            nn.init.zeros_(down.bias)
            block.initialise(layers, generator)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """hidden: the states (B, L, W) that enter the tower's blocks -> (B, L, E)."""
        side = 0.0
        for state, down, block, g in zip(hidden, self.down, self.blocks,
                                         torch.sigmoid(self.gates / TEMPERATURE)):
            side = block(g * down(state) + (1 - g) * side)          # (B, L, w)
        return self.up(side)


def add_side_network(visual: VisionTransformer, generator: torch.Generator | None = None) -> None:
    """Freezes a tower and adds the output of a side network to its patch features, in place."""
    visual.requires_grad_(False)
    side = SideNetwork(visual, generator=generator).to(visual.proj.device)
    frozen = visual.value_value

    def value_value(hidden: Sequence[Tensor], n_blocks: int | None = None) -> Tensor:
        return frozen(hidden, n_blocks) + side(hidden)[:, 1:]       # (B, P, E)
    visual.side, visual.value_value = side, value_value
