"""Refuse weights that no training can have produced: NaN, infinite, all equal, or vanishing.

Claim: a damaged or forged file can have all keys and shapes and still hold nothing.  A model made
from it scores every picture alike, without an error.  The smallest and the largest number of a
tensor are enough to see that, and one pass over the file finds both.

    smallest or largest is NaN or inf         a diverged training, flipped bits
    a matrix whose numbers are all equal      zeros or a placeholder; no initialisation does that
    the largest below the smallest normal     subnormal numbers: they vanish in the first product
    a variance of batch norm below 0          its square root is NaN
    logit_scale outside 0 .. ln 100           Radford et al. 2021, section 2.5, clips it there

Vectors may be constant: a fresh LayerNorm has weights 1 and biases 0.
Left out: whether the weights are any good.
"""
import math

import torch
from torch import Tensor

from minilora.io.checkpoint_error import CheckpointError
from minilora.io.text import shown

MAX_LOGIT_SCALE = math.log(100)         # section 2.5: logits are scaled by at most 100
ROUNDING = 0.01                         # ln 100 rounded to float16 is 0.0003 too large


def check_values(tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError, with the key's name, for values that no trained model has.

    tensors: key -> floating-point tensor of any precision, under the names of the file.
    """
    for key, value in tensors.items():
        reason = wrong_values(key, value) if value.is_floating_point() and value.numel() else ""
        if reason:
            raise CheckpointError(f"{shown(key)} {reason}; the file is damaged, or its training "
                                  "diverged; use another file")


def wrong_values(key: str, value: Tensor) -> str:
    """What is wrong with the values of one tensor, as the end of a sentence; "" if nothing is."""
    if value.element_size() == 1:                               # float8: torch has no aminmax
        value = value.float()
    low, high = (float(limit) for limit in torch.aminmax(value.detach()))
    largest = max(abs(low), abs(high))
    if not largest <= torch.finfo(torch.float32).max:           # NaN too
        return "holds NaN or inf"
    if value.ndim > 1 and low == high and value.numel() > 1:
        return f"holds {value.numel():,} times the number {low:g}, which no training leaves"
    tiny = torch.finfo(value.dtype if value.ndim > 1 else torch.float32).tiny
    if 0 < largest < tiny:
        return f"holds only subnormal numbers, up to {largest:.2g}, which vanish in a product"
    if key.endswith("running_var") and low < 0:
        return f"is a variance, but holds {low:g}"
    if key.endswith("logit_scale") and not 0 <= low <= high <= MAX_LOGIT_SCALE + ROUNDING:
        return f"is {high if high > 0 else low:g}, expected 0 to ln 100 = {MAX_LOGIT_SCALE:.3f}"
    return ""


def demo() -> None:
    """One trained-looking matrix, and five that are refused."""
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(4, 8, generator=generator)
    broken = good.clone()
    broken[2, 3] = math.nan
    for key, value in (("proj", good), ("ln_1.bias", torch.zeros(8)), ("proj", broken),
                       ("proj", torch.zeros(4, 8)), ("proj", good * 1e-40),
                       ("bn1.running_var", -good[0]), ("logit_scale", torch.tensor(4.7))):
        print(f"{key:16} {wrong_values(key, value) or 'accepted'}")


if __name__ == "__main__":
    demo()
