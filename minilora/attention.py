"""Multi-head attention written out, QuickGELU, and the residual block of both CLIP towers.

Claim: every token has a query q, a key k and a value v. Its output is the mean of all values,
weighted by how well its query matches each key. Every other part of a transformer works on one
token at a time.

    A. Vaswani et al. 2017, "Attention is all you need", eq. 1 and section 3.2.2.
    G. Hendrycks & Gimpel 2016, "Gaussian error linear units", section 2 (the sigmoid form).
    V. Dosovitskiy et al. 2021, "An image is worth 16x16 words", eqs. 2 and 3 (the pre-norm block).
    S. Li et al. 2023, "CLIP Surgery", section on consistent self-attention (v in place of q and k).
    Authors' code: https://github.com/openai/CLIP (clip/model.py); S:
        https://github.com/xmed-lab/CLIP_Surgery

Symbols: B images (or prompts), L tokens, W width, H heads, D = W / H the width of one head.
Left out: dropout (CLIP has none), padding masks (CLIP pads after the end-of-text, where the causal
mask already hides the padding), key-value caches (nothing is generated).
Differs from A and from OpenAI's code: q, k, v and out are four separate `nn.Linear`, not one fused
matrix, so that LoRA can replace any of them.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.io.demos import run_demo


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, written out for reading.

    q, k, v: (B, H, L, D) of one floating dtype.  Returns (B, H, L, D).
    causal: token i sees only the tokens 0..i.
    The towers call `fused_attention`, which computes the same formula in one kernel.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])    # (B, H, L, L)  A eq. 1
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)           # exp(-inf) = 0: no weight
    return scores.softmax(dim=-1) @ v                            # (B, H, L, D)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """`attention` by torch's fused kernel, which never stores the whole (L, L) matrix.

    Exception: training in bfloat16 on a CPU uses the formula above, because there the backward
    pass of the kernel takes several times as long (torch 2.13).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        return attention(q, k, v, causal)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the fast approximation of GELU that CLIP uses (G section 2).

    Any shape and floating dtype.  It differs from F.gelu by up to 0.02, so trained weights need
    the function they were trained with.  With z = 1.702 x it equals silu(z) / 1.702, where silu(z)
    is z sigmoid(z).  F.silu stores one tensor for the backward pass; the product would store two.
    """
    return F.silu(1.702 * x).div_(1.702)     # in place: silu's gradient needs its input only


# What CLIPs are trained with: OpenAI's with the first, most of open_clip's with the exact GELU.
# No shape in a file tells which (checkpoint/recognise.py).
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class MultiHeadAttention(nn.Module):
    """H attentions in parallel, each on its own D = W / H channels (A section 3.2.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention width {width} is not divisible by {heads} heads; "
                             "choose heads = width // 64 as CLIP does")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False, query: Tensor | None = None) -> Tensor:
        """Attention over the tokens x (B, L, W), returns (B, L, W).

        query: tokens (B, n, W) that give q in place of x; then the result is (B, n, W).
        """
        query = x if query is None else query
        q, k, v = self.split(self.q(query)), self.split(self.k(x)), self.split(self.v(x))
        return self.out(self.join(fused_attention(q, k, v, causal)))

    def value_value(self, x: Tensor) -> Tensor:
        """Attention that compares values with values: v in place of q and k (S).

        x: (B, L, W) -> (B, L, W).  A token then attends most to itself and to similar tokens, so
        its output describes its own place.  q and k of the last blocks were trained to fill CLS;
        with them, the output of a patch says little about its own place.
        """
        v = self.split(self.v(x))                                # (B, H, L, D)
        return self.out(self.join(fused_attention(v, v, v)))

    def split(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, H, L, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """(B, H, L, D) -> (B, L, W), the inverse of split."""
        return x.transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """The feed-forward layer of a block: to four times the width, the activation, and back."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor] = quick_gelu) -> None:
        super().__init__()
        self.activation = activation
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, W) -> (B, L, W)."""
        x = self.activation(self.c_fc(x))                        # (B, L, 4W)
        return self.c_proj(x)                                    # (B, L, W)


class Block(nn.Module):
    """One residual block: LayerNorm before attention and before the feed-forward layer (pre-norm).

    activation, eps: CLIP's by default; the towers in mae/model.py use others.
    """

    def __init__(self, width: int, heads: int,
                 activation: Callable[[Tensor], Tensor] = quick_gelu, eps: float = 1e-5) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = MultiHeadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, activation)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """x: (B, L, W) -> (B, L, W)."""
        x = x + self.attn(self.ln_1(x), causal)                  # V eq. 2
        return x + self.mlp(self.ln_2(x))                        # V eq. 3

    def cls_only(self, x: Tensor) -> Tensor:
        """Only CLS of the output of `forward`, (B, L, W) -> (B, 1, W), at a fraction of the cost.

        After the last block only CLS is used.  So the other tokens give keys and values, and no
        output is computed for them.
        """
        y = self.ln_1(x)
        # Copied, because a strided slice may select a kernel that rounds differently.
        query = y[:, :1].contiguous()                            # (B, 1, W)
        cls = x[:, :1] + self.attn(y, query=query)
        return cls + self.mlp(self.ln_2(cls))

    @torch.no_grad()
    def initialise(self, layers: int, generator: torch.Generator | None = None) -> None:
        """Draw new weights for a block of a tower with `layers` blocks; biases start at 0.

        Each block adds two projections to the residual stream.  Their standard deviation is divided
        by sqrt(2 layers), so that all 2 layers additions together have the variance of one (as in
        GPT-2 and OpenAI's CLIP).
        """
        width = self.ln_1.weight.numel()
        residual = (2 * layers * width) ** -0.5
        stds = ((self.attn.q, width ** -0.5), (self.attn.k, width ** -0.5),
                (self.attn.v, width ** -0.5), (self.attn.out, residual),
                (self.mlp.c_fc, (2 * width) ** -0.5), (self.mlp.c_proj, residual))
        for linear, std in stds:
            linear.weight.normal_(0, std, generator=generator)
            linear.bias.zero_()
        self.ln_1.reset_parameters()
        self.ln_2.reset_parameters()


def demo() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8, generator=generator)    # each (1, 1, 4, 8)
    weights = attention(q, k, torch.eye(4)[None, None], causal=True)[0, 0]
    print("attention weights of 4 tokens, causal (with V = identity the output is the weights):")
    for row in weights:
        print("   ", "  ".join(f"{w:.3f}" for w in row), f"   sum {row.sum():.3f}")
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    print(f"written out against fused: {(attention(q, k, v, causal=True) - fused).abs().max():.1e}")
    block = Block(128, heads=2)
    block.initialise(layers=12, generator=generator)
    x = torch.randn(1, 50, 128, generator=generator)
    attn = block.attn
    for name, a, b in (("q and k", attn.q, attn.k), ("v and v", attn.v, attn.v)):
        own = (a(x) @ b(x).transpose(-2, -1))[0].argmax(-1) == torch.arange(50)
        print(f"{name}: {own.float().mean():.0%} of 50 tokens attend most to themselves")
    count = sum(p.numel() for p in block.parameters())
    print(f"block of width 128: {count:,} parameters (12 W^2 + 13 W)")


# Exercise 1: Remove causal=True from the first call in demo(). Which row stays as it was, and why?
# Exercise 2: Multiply q by 1000 in demo(). What do the rows of weights look like then, and why?
# Exercise 3: Shuffle the 50 tokens of x in demo(). What happens to the output of the block?
if __name__ == "__main__":
    run_demo("attention", demo)
