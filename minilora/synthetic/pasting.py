"""Pastes a synthetic defect into a good picture and marks the pixels that visibly changed.

    new = alpha * content + (1 - alpha) * old         alpha, content: synthetic/defects.py

Claim: the mask is exact. It holds the pixels that changed visibly, and small gaps between them
inside the region. If too little has changed to be seen, another defect is drawn.

In grey pictures the content becomes grey; otherwise colour alone would reveal the defect.

Symbols: R resolution, K other pictures, H x W pixels.
Left out: Poisson blending (Schlueter et al. 2022), more than one defect per picture.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.io.threads import one_thread
from minilora.synthetic.defects import DEFECT_FUNCTIONS, DEFECT_KINDS, DefectContext
from minilora.synthetic.sampling import choose
from minilora.synthetic.shapes import dilate, find_object, perlin_noise

MIN_VISIBLE_CHANGE = 10 / 255   # a pixel changes visibly if one of its channels changes by more
MIN_CHANGED_SHARE = 0.0008      # share of the picture that a defect must visibly change
MAX_ATTEMPTS = 8                # after so many invisible defects, a stain is pasted


def change_mask(new: Tensor, old: Tensor, alpha: Tensor) -> Tensor:
    """The mask, bool (R, R): pixels that changed visibly, and gaps of up to about 2 % of the side.

    new, old: (3, R, R);  alpha: (R, R), outside of which no gap is closed.
    """
    visible = (new - old).abs().amax(0) > MIN_VISIBLE_CHANGE
    reach = max(1, visible.shape[-1] // 100)                # 2 at 224
    closed = ~dilate(~dilate(visible, reach), reach)        # dilated, then eroded
    return (closed & (alpha > 0)) | visible


def paste_defect(pixels: Tensor, generator: torch.Generator, kind: str | None = None,
                 others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One defect, pasted into a good picture.

    pixels: (3, R, R) float in [0, 1], not changed;  kind: one of DEFECT_KINDS, drawn if None;
    others: (K, 3, R, R), more good pictures as a source of material.
    Returns the new pixels, float32 (3, R, R), and the mask, bool (R, R), true where they visibly
    changed; it is never empty.  A kind that changes nothing visible (warping a flat surface) is
    replaced by a stain.  Computed on the CPU.  Raises ValueError for another shape, range or kind.
    """
    _check(pixels, kind, others)
    with one_thread():
        return _paste(pixels, generator, kind, others)


def _paste(pixels, generator, kind, others):
    device, pixels = pixels.device, pixels.detach().float().cpu()
    others = None if others is None else others.float().cpu()
    cells, background = find_object(pixels)
    context = DefectContext(pixels, generator, others, cells, background)
    grey = (pixels.amax(0) - pixels.amin(0)).max() < 0.02
    for _ in range(MAX_ATTEMPTS):
        alpha, content = DEFECT_FUNCTIONS[kind or choose(generator, DEFECT_KINDS)](context)
        new, mask = _blend(pixels, alpha, content, grey)
        if mask.float().mean() >= MIN_CHANGED_SHARE:
            return new.to(device), mask.to(device)
    alpha = context.region("blob", centre=context.centre(), area=context.area(0.01))
    opposite = (pixels.mean((1, 2), keepdim=True) < 0.5).float()
    new, mask = _blend(pixels, alpha, opposite.expand_as(pixels), grey)
    return new.to(device), mask.to(device)


def paste_anywhere(pixels: Tensor, generator: torch.Generator, kind: str | None,
                   others: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """`paste_defect` for a picture that need not be square.

    The defect is pasted into the largest square that fits, at a random place.
    pixels: (3, H, W);  others: pictures (3, H, W); squares are cut from them and resized to the
    same size.  Returns the new pixels (3, H, W) and the mask, bool (H, W).
    """
    side, mask = min(pixels.shape[1:]), torch.zeros(pixels.shape[1:], dtype=torch.bool)
    squares = torch.stack([
        other if other.shape == (3, side, side) else
        F.interpolate(other[_random_square(other, generator)][None], (side, side), mode="area")[0]
        for other in others])
    square = _random_square(pixels, generator)
    pixels = pixels.clone()
    pixels[square], mask[square[1:]] = paste_defect(pixels[square], generator, kind, squares)
    return pixels, mask


def _random_square(pixels, generator):
    """Three slices: the largest square of a picture (3, H, W), at a random place.

    For a square picture no random number is drawn.
    """
    side = min(pixels.shape[1:])
    return slice(None), *(slice(start, start + side) for start in (
        int(torch.randint(length - side + 1, (), generator=generator)) if length > side else 0
        for length in pixels.shape[1:]))


def _blend(old, alpha, content, grey):
    """The formula of the module's docstring, and the mask of the pixels that it changed."""
    if grey:
        content = content.mean(0, keepdim=True)
    new = torch.where(alpha > 0, (old + alpha * (content - old)).clamp(0, 1), old)
    return new, change_mask(new, old, alpha)


def _check(pixels, kind, others):
    """Raises ValueError for arguments that paste_defect does not accept."""
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise ValueError(f"paste_defect takes one picture (3, R, R), found {tuple(pixels.shape)}; "
                         "make it square with to_square, or call paste_anywhere")
    if not (pixels.is_floating_point() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"paste_defect takes floats in [0, 1], found {pixels.dtype} from "
                         f"{pixels.min():g} to {pixels.max():g}; paste before normalising")
    if others is not None and others.shape[1:] != pixels.shape:
        raise ValueError(f"others must be pictures of the same size, (K, 3, {pixels.shape[1]}, "
                         f"{pixels.shape[2]}), found {tuple(others.shape)}; resize them")
    if kind is not None and kind not in DEFECT_FUNCTIONS:
        raise ValueError(f"unknown kind of defect {kind!r}; expected one of "
                         f"{', '.join(DEFECT_KINDS)}")


def demo() -> None:
    """Size of the masks, and how strong the change inside them is, on a noisy disc."""
    g = torch.Generator().manual_seed(0)
    side = torch.linspace(-1, 1, 112)
    disc = (side[:, None] ** 2 + side ** 2 < 0.6).float() * 0.4
    picture = (0.3 + disc + 0.1 * perlin_noise(112, 28, g)).expand(3, -1, -1)
    print("kind       mask, % of the picture      mean change in it   on the object")
    for kind in DEFECT_KINDS:
        drawn = [paste_defect(picture, g, kind) for _ in range(10)]
        area = sorted(100 * mask.float().mean().item() for _, mask in drawn)
        change = sum((new - picture).abs().amax(0)[mask].mean().item() for new, mask in drawn) / 10
        on = sum(disc[mask].mean().item() / 0.4 for _, mask in drawn) / 10
        print(f"{kind:10} {area[0]:5.2f} to {area[-1]:5.2f}, median {area[5]:5.2f} {change:11.2f}"
              f" {on:17.0%}")


if __name__ == "__main__":
    demo()
