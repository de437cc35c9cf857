"""PatchCore's memory bank: a patch is anomalous if no patch of the good pictures is similar to it.

    1. M    = the patch features of all good pictures                      section 3.1, eq. 4
    2. M_C  = l features of M, a coreset, chosen one after the other:      section 3.2, eq. 5 and
              m_i = argmax_{m in M}  min_{n in M_C} ||psi(m) - psi(n)||    algorithm 1
    3. distance of a patch m_test = min_{n in M_C} (1 - cos(m_test, n))    section 3.3, eq. 6

    Roth et al. 2022, "Towards total recall in industrial anomaly detection" (PatchCore).
    Authors' code: https://github.com/amazon-science/patchcore-inspection

Claim: most of the thousands of good patches look alike. A few that lie far from each other, chosen
greedily, represent them all, and a small bank is searched quickly.
Differs: no average over neighbouring patches (it costs three points of image AUROC,
bench.ablation); cosine distance in place of Euclidean; no reweighting of the score (eq. 7). The
detector concatenates late, adapted features with those of middle layers.

Symbols: N patches in M, l patches in M_C, psi a random linear projection, B pictures, P patches of
one picture, W width of a feature.
Left out: the place of a patch in its picture.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.demos import run_demo
from minilora.io.schema import Record, TensorOf, check

CORESET_SHARE = 0.1             # l / N, the share of the patches that a bank keeps at most
MAX_BYTES = 10_000_000          # and the limit of its size on disk, in half precision
PROJECTION_DIM = 64             # output dimensions of psi
MAX_COORDINATE = 1.01           # of a feature of length one, rounded to half precision


def patch_descriptors(hidden: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """Patch features: tokens of some layers, each normalised, concatenated.

    hidden: list of (B, 1+P, W), CLS first;  layers: indices into it.
    Returns (B, P, len(layers) W), of length one.
    """
    parts = [F.normalize(hidden[n][:, 1:].float(), dim=-1) for n in layers]
    return torch.cat(parts, -1) / len(parts) ** 0.5


def coreset(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Step 2, greedily: the indices of `count` of the features (N, W), the first one at random.

    psi approximately keeps distances and makes them cheaper to compute (section 3.2).
    """
    if count >= len(features):
        return torch.arange(len(features))
    psi = torch.randn(features.shape[1], PROJECTION_DIM, generator=generator).to(features)
    points = features @ psi                                                 # (N, 64)
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    to_nearest = torch.full((len(points),), torch.inf, device=points.device)    # squared, to M_C
    while len(chosen) < count:
        last = points[chosen[-1]]
        to_nearest = torch.minimum(to_nearest, (points - last).square().sum(1))
        chosen.append(int(to_nearest.argmax()))
    return torch.tensor(chosen)


@dataclass
class MemoryBank:
    """The coreset M_C.

    tokens: (l, W), features of good patches, each of length one;  sources: (l, 2), where each comes
    from: number of the picture given to `build`, and number of its patch.
    """

    tokens: Tensor
    sources: Tensor | None = None       # None: not known

    def __repr__(self) -> str:
        known = self.sources is not None
        origin = f" of {len(self.sources[:, 0].unique())} pictures" if known else ""
        return f"MemoryBank({len(self.tokens)} patches{origin}, width {self.tokens.shape[1]})"

    @classmethod
    def build(cls, features: list[Tensor], generator: torch.Generator) -> "MemoryBank":
        """Steps 1 and 2.  features: the patch features (P, W) of each good picture."""
        tokens = torch.cat(features)                                        # M, (N, W)
        most = MAX_BYTES // (2 * tokens.shape[1])
        count = max(1, min(most, round(CORESET_SHARE * len(tokens))))       # l
        keep = coreset(tokens, count, generator)
        sources = torch.cat([torch.stack([torch.full((len(f),), k), torch.arange(len(f))], 1)
                             for k, f in enumerate(features)])
        return cls(tokens[keep].half().float(), sources[keep].int())    # rounded as it is stored

    def distances(self, tokens: Tensor) -> Tensor:
        """Step 3: cosine distance of each patch to the nearest one in the bank, in [0, 2].

        tokens: (B, P, W), of length one.  Returns (B, P).
        """
        # One picture after the other, because (B, P, l) cosines at once would need much memory.
        return torch.stack([1 - (picture @ self.tokens.T).amax(1) for picture in tokens]).clamp(0)

    def truncated(self, width: int) -> "MemoryBank":
        """A bank of the same patches with only the first `width` numbers of each feature.

        The features are normalised again.  In the detector these numbers come from frozen layers.
        """
        return MemoryBank(F.normalize(self.tokens[:, :width], dim=-1), self.sources)

    def state(self) -> dict[str, Tensor]:
        """The bank for a file; half precision halves its size."""
        return {"tokens": self.tokens.half(), "sources": self.sources}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], width: int,
                   device: torch.device | str = "cpu") -> "MemoryBank":
        """The bank from its `state`.  Raises SchemaError (a ValueError) for anything else."""
        tokens = TensorOf(((1, MAX_BYTES), width), torch.float16, largest=MAX_COORDINATE)
        check(state, Record({"tokens": tokens, "sources": TensorOf((None, 2), torch.int32)}),
              "memory")
        check(state["sources"], TensorOf((len(state["tokens"]), 2), torch.int32), "memory.sources")
        return cls(state["tokens"].float().to(device), state["sources"])


def demo() -> None:
    """Good patches of two kinds, one of them rare: the coreset keeps some of both."""
    generator = torch.Generator().manual_seed(0)
    kinds = F.normalize(torch.randn(2, 32, generator=generator), dim=-1)
    pictures = [F.normalize(kinds[(torch.arange(50) == k).long()]
                            + 0.05 * torch.randn(50, 32, generator=generator), dim=-1)
                for k in range(8)]                              # picture k: patch k is rare
    bank = MemoryBank.build(pictures, generator)
    rare = ((bank.tokens @ kinds.T).argmax(1) == 1).sum()
    print(f"kept {len(bank.tokens)} of {8 * 50} patches, {rare} of them of the rare kind "
          f"({8 / 400:.0%} of all patches)")
    random = F.normalize(torch.randn(1, 1, 32, generator=generator), dim=-1)
    for name, tokens in (("a good patch", pictures[0][None, :1]), ("a random one", random)):
        print(f"{name:13s} distance {bank.distances(tokens).item():.3f}")


# Exercise 1: Keep 40 random patches in demo() in place of the coreset. How many patches of the rare
#             kind do you expect?
# Exercise 2: Build MemoryBank(torch.cat(pictures)) in demo(), without a coreset. Which distances do
#             the patches of these pictures get? What does this mean for setting a threshold?
if __name__ == "__main__":
    run_demo("memory_bank", demo)
