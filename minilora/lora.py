"""LoRA: a pretrained matrix stays frozen; a low-rank update next to it is trained.

    h = W x + b + (alpha / r) B A x        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
    Delta W = (alpha / r) B A              Language Models", eq. 3 and section 4.1
                                           Authors' code: https://github.com/microsoft/LoRA

W (d, k) is pretrained and frozen; A (r, k) and B (d, r) are trained: r (d + k) numbers in place of
d k. B starts at zero, so Delta W = 0 and training starts exactly at the pretrained model. After
training, Delta W can be added to W; the adapted model then costs nothing extra.

Symbols: k = in_features, d = out_features, r = rank, Delta W the update of W.
Differs: A is drawn Kaiming-uniform as in the authors' code and in peft; the paper says Gaussian.
The paper adapts mostly q and v (section 7.1); here all four projections are the default.
Left out: dropout on x; LoRA on embeddings, convolutions or the feed-forward layers; several
adapters at once; merging inside train() or eval() (only merge() merges); files
(checkpoint/peft_layout.py).
"""
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.io.demos import run_demo

TARGETS = ("q", "k", "v", "out")                        # the projections of MultiHeadAttention


class LoRALinear(nn.Linear):
    """nn.Linear with a low-rank update. A subclass, so `weight` and `bias` keep their names."""

    TRAINED = ("lora_A", "lora_B")                      # the parameters to train and to store

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float,
                 bias: bool = True, device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:
        max_rank = min(in_features, out_features)
        if not 1 <= rank <= max_rank:
            raise ValueError(f"LoRALinear: rank must be 1 to {max_rank} for a {out_features} x "
                             f"{in_features} matrix, found {rank}; 4 to 16 is usual")
        if not 0 < alpha < math.inf:
            raise ValueError(f"LoRALinear: alpha must be positive and finite, found {alpha}; "
                             f"alpha = rank gives a scale of 1")
        super().__init__(in_features, out_features, bias, device, dtype)
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        self.enabled = True                             # disable_lora() sets it to False
        self.requires_grad_(False)                      # section 4.1: W is frozen
        self.reset_lora()

    def reset_lora(self, generator: torch.Generator | None = None) -> None:
        """Draw A, on the generator's device, and set B = 0: the output is W x + b again."""
        device = self.weight.device if generator is None else generator.device
        bound = 1 / math.sqrt(self.in_features)         # Kaiming-uniform with a = sqrt(5)
        A = torch.empty(self.rank, self.in_features, device=device)
        A.uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(A.to(self.weight))                                   # (r, k)
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, self.rank))  # (d, r)

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int, alpha: float,
                    generator: torch.Generator | None = None) -> "LoRALinear":
        """A LoRA layer with the weight and bias tensors of an nn.Linear, which are then frozen."""
        layer = cls(linear.in_features, linear.out_features, rank, alpha,
                    bias=linear.bias is not None, device="meta")    # no memory, nothing drawn
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.requires_grad_(False)
        layer.reset_lora(generator)
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        h = F.linear(x, self.weight, self.bias)         # (..., d)  the pretrained layer
        if not self.enabled:
            return h
        low = F.linear(x, self.lora_A) * self.scale     # (..., r)  r is small, so scale here
        return h + F.linear(low, self.lora_B)           # (..., d)  eq. 3; B A is never formed

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        state = "on" if self.enabled else "off"
        return f"{super().extra_repr()}, r={self.rank}, alpha={self.alpha:g}, LoRA {state}"

    def delta_weight(self) -> Tensor:
        """Delta W = (alpha / r) B A, (d, k), whether enabled or not."""
        return self.scale * self.lora_B @ self.lora_A

    def merged(self) -> nn.Linear:
        """A frozen nn.Linear with weight W + Delta W."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        linear.weight = nn.Parameter((self.weight + self.delta_weight()).detach())
        linear.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return linear.requires_grad_(False).train(self.training)


def lora_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """All LoRA layers of a module: {dotted name: layer}, in the module's order."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LoRALinear)}


def add_lora(tower: nn.Module, targets: Sequence[str] = TARGETS,
             blocks: Iterable[int] | None = None, rank: int = 4, alpha: float = 8,
             generator: torch.Generator | None = None) -> list[str]:
    """Replace attention projections of a tower by LoRA layers in place; only A and B are trainable.

    tower: VisionTransformer or TextTransformer; targets: some of q, k, v, out; blocks: indices
    from 0, None for all. Returns the dotted names of the new layers.
    Raises ValueError, and replaces nothing, if a target or block is missing or has LoRA already.
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
        raise ValueError(f"add_lora: blocks must be numbers from 0 to {len(tower.blocks) - 1}, "
                         f"found {list(numbers)}; None takes all")
    new = {}                                            # all are made before the first is replaced
    for n in numbers:
        for target in (t for t in TARGETS if t in targets):
            name = f"blocks.{n}.attn.{target}"
            if isinstance(tower.get_submodule(name), LoRALinear):
                raise ValueError(f"add_lora: {name} has LoRA already; merge() the model first")
            new[name] = LoRALinear.from_linear(tower.get_submodule(name), rank, alpha, generator)
    replace_modules(tower, new)
    tower.requires_grad_(False)
    for layer in lora_layers(tower).values():           # also those of an earlier call
        for name in layer.TRAINED:
            getattr(layer, name).requires_grad_(True)
    return list(new)


def replace_modules(module: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Replace submodules by dotted name, in place."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)


def merge(module: nn.Module) -> nn.Module:
    """A copy without LoRA that computes the same: nn.Linear with W + Delta W. `module` is kept."""
    if isinstance(module, LoRALinear):
        return module.merged()
    plain = copy.deepcopy(module)
    replace_modules(plain, {name: layer.merged() for name, layer in lora_layers(plain).items()})
    return plain


@contextmanager
def disable_lora(module: nn.Module) -> Iterator[nn.Module]:
    """Disable LoRA; restore each flag on exit."""
    before = {layer: layer.enabled for layer in lora_layers(module).values()}
    try:
        for layer in before:
            layer.enabled = False
        yield module
    finally:                                            # also after an error
        for layer, enabled in before.items():
            layer.enabled = enabled


@torch.no_grad()
def delta_norms(module: nn.Module, relative: bool = False) -> dict[str, float]:
    """{layer name: Frobenius norm of Delta W}; relative: divided by the norm of W."""
    return {name: (layer.delta_weight().norm() / (layer.weight.norm() if relative else 1)).item()
            for name, layer in lora_layers(module).items()}


def demo() -> None:
    """A 64 x 96 matrix learns a change of rank 2 by an update of rank 2."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 64)
    for parameter in linear.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
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
    delta = layer.delta_weight()
    print(f"wanted |Delta W| {wanted.norm():.3f}, error {(delta - wanted).norm():.4f}, "
          f"rank {torch.linalg.matrix_rank(delta).item()}")
    print(f"merged against unmerged: {(merge(layer)(x) - layer(x)).abs().max():.1e}")
    with disable_lora(layer):
        print(f"disabled, it is the pretrained layer: {torch.equal(layer(x), linear(x))}")


# Exercise 1: Use rank=1 in demo(). Compare the error that remains with the singular values of
#             `wanted`. Which one is it close to?
# Exercise 2: Double alpha, then double rank and alpha. What happens to `scale` in each case?
# Exercise 3: From which rank on do A and B hold more numbers than the 64 x 96 matrix W?
if __name__ == "__main__":
    run_demo("lora", demo)
