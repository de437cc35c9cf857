"""LoRA: a frozen matrix learns through a low-rank detour beside it.

    h = W x + b + (alpha / r) B A x        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
    Delta W = (alpha / r) B A              Language Models", eq. 3 and section 4.1

W (d, k) is pretrained and frozen; A (r, k) and B (d, r) are trained: r (d + k) numbers in place of
d k. B starts at zero, so Delta W = 0 and training starts at the pretrained model exactly.
After training Delta W can be added to W, and the adapted model costs nothing extra.

Symbols: k = in_features, d = out_features, r = rank, Delta W what the adaptation changed.
Differs: A is drawn Kaiming-uniform as in the authors' code and in peft; the paper says Gaussian.
The paper adapts q and v mostly (section 7.1); here the default is all four.
Left out: dropout on x, LoRA on embeddings, convolutions or the feed-forward layers, several
adapters at once, merging by itself in train() or eval(): merge() is called, or nothing is merged;
saving (checkpoint/adapter.py).
"""
import copy
import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

TARGETS = ("q", "k", "v", "out")                        # the projections of MultiHeadAttention


class LoRALinear(nn.Linear):
    """nn.Linear with a low-rank detour. A subclass, so `weight` and `bias` keep their names."""

    def __init__(self, in_features, out_features, rank, alpha, bias=True, device=None, dtype=None):
        most = min(in_features, out_features)
        if not 1 <= rank <= most:
            raise ValueError(f"LoRALinear: rank must be 1 to {most} for a {out_features} x "
                             f"{in_features} matrix, found {rank}; 4 to 16 is usual")
        if not 0 < alpha < math.inf:
            raise ValueError(f"LoRALinear: alpha must be positive and finite, found {alpha}; "
                             f"alpha = rank gives a scale of 1")
        super().__init__(in_features, out_features, bias, device, dtype)
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        self.enabled = True                             # disable_lora() switches the detour off
        self.requires_grad_(False)                      # section 4.1: W is frozen
        self.reset_lora()

    def reset_lora(self, generator=None):
        """Draw A, set B = 0: the layer is the pretrained one again. generator: any device."""
        where = self.weight.device if generator is None else generator.device
        bound = 1 / math.sqrt(self.in_features)         # Kaiming-uniform with a = sqrt(5)
        A = torch.empty(self.rank, self.in_features, device=where)
        A.uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(A.to(self.weight))                                   # (r, k)
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, self.rank))  # (d, r)

    @classmethod
    def from_linear(cls, linear, rank, alpha, generator=None):
        """The LoRA layer around a given nn.Linear: same weight and bias tensors, now frozen."""
        layer = cls(linear.in_features, linear.out_features, rank, alpha,
                    bias=linear.bias is not None, device="meta")    # no memory, nothing drawn
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.requires_grad_(False)
        layer.reset_lora(generator)
        return layer.train(linear.training)

    def forward(self, x):
        """(..., k) -> (..., d)."""
        h = F.linear(x, self.weight, self.bias)         # (..., d)  what was pretrained
        if not self.enabled:
            return h
        low = F.linear(x, self.lora_A) * self.scale     # (..., r)  scaled where it is smallest
        return h + F.linear(low, self.lora_B)           # (..., d)  eq. 3; B A is never formed

    def delta_weight(self):
        """Delta W = (alpha / r) B A, (d, k), whether enabled or not."""
        return self.scale * self.lora_B @ self.lora_A

    def merged(self):
        """A plain nn.Linear with weight W + Delta W; frozen."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        linear.weight = nn.Parameter((self.weight + self.delta_weight()).detach())
        linear.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return linear.requires_grad_(False).train(self.training)


def lora_layers(module):
    """All LoRA layers inside a module: {dotted name: layer}, in the module's order."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LoRALinear)}


def add_lora(tower, targets=TARGETS, blocks=None, rank=4, alpha=8, generator=None):
    """Replace attention projections by LoRA layers in place; freeze all of tower but A and B.

    tower: VisionTransformer or TextTransformer; targets: some of q, k, v, out; blocks: numbers
    counted from 0, None for all. Returns the dotted names of the new layers.
    Raises ValueError, with nothing replaced, for what the tower does not have or has already.
    """
    wrong = [t for t in targets if t not in TARGETS]
    if wrong or not targets:
        raise ValueError(f"add_lora: targets must be some of {', '.join(TARGETS)}, found "
                         f"{', '.join(map(repr, wrong)) or 'none'}; pass them as a tuple")
    if not hasattr(tower, "blocks"):
        raise ValueError(f"add_lora: expected a tower with blocks, found {type(tower).__name__}; "
                         f"pass clip.visual or clip.text")
    numbers = range(len(tower.blocks)) if blocks is None else sorted(set(blocks))
    if not numbers or numbers[0] < 0 or numbers[-1] >= len(tower.blocks):
        raise ValueError(f"add_lora: blocks must be numbers from 0 to {len(tower.blocks) - 1}, found "
                         f"{list(numbers)}; None takes all")
    new = {}                                            # all are made before any is put in place
    for n in numbers:
        for target in (t for t in TARGETS if t in targets):
            name = f"blocks.{n}.attn.{target}"
            if isinstance(tower.get_submodule(name), LoRALinear):
                raise ValueError(f"add_lora: {name} has LoRA already; merge() the model first")
            new[name] = LoRALinear.from_linear(tower.get_submodule(name), rank, alpha, generator)
    replace_modules(tower, new)
    tower.requires_grad_(False)
    for layer in lora_layers(tower).values():           # of an earlier call too
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    return list(new)


def replace_modules(module, layers):
    """Replace submodules by dotted name, in place."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)


def merge(module):
    """A copy without LoRA that computes the same: nn.Linear with W + Delta W. module is kept."""
    if isinstance(module, LoRALinear):
        return module.merged()
    plain = copy.deepcopy(module)
    replace_modules(plain, {name: layer.merged() for name, layer in lora_layers(plain).items()})
    return plain


@contextmanager
def disable_lora(module):
    """Within the block the module is the pretrained one; each layer's state comes back after it."""
    before = {layer: layer.enabled for layer in lora_layers(module).values()}
    try:
        for layer in before:
            layer.enabled = False
        yield module
    finally:                                            # on errors too
        for layer, enabled in before.items():
            layer.enabled = enabled


@torch.no_grad()
def delta_norms(module, relative=False):
    """How much was learned where: {name: Frobenius norm of Delta W}; relative: over that of W."""
    return {name: (layer.delta_weight().norm() / (layer.weight.norm() if relative else 1)).item()
            for name, layer in lora_layers(module).items()}


def demo():
    """A 64 x 96 matrix learns a rank-2 change through a rank-2 detour."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 64)
    linear.weight.data.normal_(0, 0.1, generator=generator)
    x = torch.randn(256, 96, generator=generator)
    wanted = torch.randn(64, 2, generator=generator) @ torch.randn(2, 96, generator=generator) / 50
    target = (linear(x) + x @ wanted.T).detach()
    layer = LoRALinear.from_linear(linear, rank=2, alpha=4, generator=generator)
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    print(f"trained {trained} of {64 * 96 + 64} numbers: A {tuple(layer.lora_A.shape)}, "
          f"B {tuple(layer.lora_B.shape)}")
    print(f"starts as the pretrained layer: {torch.equal(layer(x), linear(x))}")
    optimizer = torch.optim.Adam([layer.lora_A, layer.lora_B], lr=0.01)
    for step in range(201):
        loss = F.mse_loss(layer(x), target)
        if step % 100 == 0:
            print(f"step {step:3}  loss {loss:.6f}  |Delta W| {delta_norms(layer)['']:.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"wanted |Delta W| {wanted.norm():.3f}, error {(layer.delta_weight() - wanted).norm():.4f}, "
          f"rank {torch.linalg.matrix_rank(layer.delta_weight()).item()}")
    print(f"merged against unmerged: {(merge(layer)(x) - layer(x)).abs().max():.1e}")
    with disable_lora(layer):
        print(f"switched off it is the pretrained layer: {torch.equal(layer(x), linear(x))}")


if __name__ == "__main__":
    demo()
