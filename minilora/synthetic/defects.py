"""Pseudo-defects: what may go wrong, pasted into good pictures, with masks of what changed.

Good pictures alone do not say what a defect is. Pasted ones give a target to train on: not the
defects to come, but a sense for what does not belong. Nine kinds, each with a wide spread:

    cutpaste   a piece of good material in the wrong place   CutPaste, Li et al. 2021
    scar       the same, long, thin and turned               CutPaste-Scar, ibid.
    perlin     a foreign texture where noise is high         DRAEM, Zavrtanik et al. 2021
    stain      a spot with a soft edge; a shadow or a gleam
    crack      a wandering line, dark or bright, maybe with a lit rim
    missing    the background shows through, or a hole
    shatter    facets, each lit its own way
    warp       the surface pushed aside or twisted
    texture    fine structure lost, or roughness gained

    new = alpha * content + (1 - alpha) * old         alpha: a region (synthetic/shapes.py) times an opacity

The mask is exact: the pixels that visibly changed, with pinholes closed, inside the region. A paste
that cannot be seen is drawn again. In grey pictures defects are grey; where there is an object on a
background, most defects lie on the object. Differs from CutPaste: half of the patches are no
rectangles. Differs from DRAEM: textures are made (synthetic/textures.py), not downloaded. Leaves out: Poisson
blending (Schlueter et al. 2022), lighting models.

Symbols: R resolution, K other pictures.
"""
import math
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F

from minilora.synthetic.sampling import chance, choose, log_uniform, one_thread, uniform
from minilora.synthetic.shapes import (crack_shape, find_object, perlin_noise, pick_place, region,
                                       rim_of)
from minilora.synthetic.textures import TEXTURES, Source, facets, flat, jitter, moved

MIN_VISIBLE_CHANGE = 10 / 255              # a pixel that changes by no more in any channel looks the same
MIN_CHANGED_SHARE = 0.0008                  # share of the picture that a defect must visibly change
AREA = (0.002, 0.15)            # share of the picture that a region covers, log-uniform
TRIES = 8


@dataclass(frozen=True)
class DefectContext(Source):
    """A picture, and where in it the object is."""
    cells: "torch.Tensor | None" = None         # bool (28, 28), see regions.find_object
    background: "torch.Tensor | None" = None    # (3, R, R) without it; None: it fills the frame

    def place(self, cells=None):
        """A point of these cells; by default on the object nine times out of ten, else anywhere."""
        if cells is None:
            cells = self.cells if chance(self.generator, 0.9) else torch.ones_like(self.cells)
        return pick_place(cells, self.resolution, self.generator)

    def size(self, low=AREA[0], high=AREA[1]):
        """An area in pixels, log-uniform between two shares of the picture."""
        return log_uniform(self.generator, low, high) * self.resolution ** 2

    def region(self, *shapes, place=None, area=None, stretch=(1, 3), soft=1.0):
        """alpha (R, R) of one of these shapes."""
        g = self.generator
        return region(choose(g, shapes), self.resolution, place or self.place(),
                      area or self.size(), g, log_uniform(g, *stretch), soft=soft)


def cutpaste(scene):
    """A patch from elsewhere."""
    return scene.region("bar", "bar", "blob", "shard", "cloud"), moved(scene)


def scar(scene):
    """A strip from elsewhere, or of one colour."""
    alpha = scene.region("bar", area=scene.size(0.002, 0.02), stretch=(5, 25))
    content = choose(scene.generator, (moved, moved, flat))(scene)
    return alpha, jitter(content, scene.generator, 0.2)


def perlin(scene):
    """DRAEM's blend of a texture, with its opacity; ours is log-uniform, so more are faint."""
    g = scene.generator
    return scene.region("cloud") * log_uniform(g, 0.2, 1), choose(g, TEXTURES)(scene)


def paste_stain(scene):
    """A spot of some colour, perhaps with a darker rim; or a larger one, only lit differently."""
    g = scene.generator
    light = chance(g, 0.4)
    area = scene.size(high=0.3 if light else AREA[1])
    soft = max(1, math.sqrt(area) * log_uniform(g, 0.03, 0.6))
    alpha = scene.region("disc", "blob", "blob", "cloud", area=area, soft=soft)
    if light:
        return alpha, scene.pixels * log_uniform(g, 0.4, 2.2)
    if chance(g, 0.3):
        alpha = alpha * (1.3 - alpha)
    return alpha * log_uniform(g, 0.25, 1), flat(scene)


def paste_line(scene):
    """A crack or a scratch: a gap, a shadow or a gleam along a random walk."""
    g, size = scene.generator, scene.resolution
    place, wander = scene.place(), 0.02 if chance(g, 0.3) else uniform(g, 0.1, 0.4)
    length, width = log_uniform(g, 0.1, 0.9) * size, log_uniform(g, 0.006, 0.035) * size
    alpha = crack_shape(size, place, length, width, g, wander)
    if wander > 0.1 and chance(g, 0.4):                     # a branch
        alpha = torch.maximum(alpha, crack_shape(size, place, length / 2, width / 2, g, wander))
    if scene.background is not None and chance(g, 0.3):     # a gap
        content = scene.background
    elif chance(g, 0.6):
        content = scene.pixels * uniform(g, 0, 0.6)
    else:
        content = scene.pixels + (1 - scene.pixels) * uniform(g, 0.3, 1)
    if chance(g, 0.4):                                      # one of its sides catches the light
        lit = torch.roll(alpha, choose(g, ((1, 1), (1, -1), (-1, 0), (0, 1))), (0, 1))
        content = torch.where(lit > alpha, scene.pixels + uniform(g, 0.1, 0.3), content)
        alpha = torch.maximum(alpha, lit)
    return alpha * log_uniform(g, 0.4, 1), content


def missing(scene):
    """A piece broken off, often at the object's rim; without a background, a hole."""
    g = scene.generator
    grain = 0.02 * torch.randn(scene.resolution, scene.resolution, generator=g)
    if scene.background is not None and chance(g, 0.7):
        place = scene.place(rim_of(scene.cells) if chance(g, 0.6) else scene.cells)
        shows = (scene.pixels - scene.background).abs().amax(0) > 0.1
        alpha = scene.region("shard", "blob", "cloud", place=place) * _grow(shows, 1)
        return alpha, scene.background + grain
    hole = uniform(g, 0, 0.25) if chance(g, 0.7) else uniform(g, 0.75, 1)
    rest = uniform(g, 0, 0.3)                               # of the old structure
    return scene.region("shard", "blob", "cloud"), rest * scene.pixels + (1 - rest) * hole + grain


def shatter(scene):
    """Facets as large as the region they fill."""
    area, place = scene.size(), scene.place()
    alpha = scene.region("shard", "cloud", "blob", place=place, area=area)
    return alpha, facets(scene, place, math.sqrt(area))


def warp(scene):
    """Every point of a disc is taken from beside it or turned; the middle moves farthest."""
    g, size, area = scene.generator, scene.resolution, scene.size()
    place, radius = scene.place(), math.sqrt(area / math.pi)
    alpha = scene.region("disc", place=place, area=area, stretch=(1, 2), soft=radius)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 2, indexing="ij")
    turn, push = uniform(g, -1.5, 1.5) * alpha, radius * torch.randn(2, generator=g) * 0.5
    cos, sin, v, u = turn.cos(), turn.sin(), y - place[0], x - place[1]
    grid = torch.stack([place[1] + cos * u - sin * v + push[1] * alpha,
                        place[0] + sin * u + cos * v + push[0] * alpha], -1)    # (R, R, 2), x first
    content = F.grid_sample(scene.pixels[None], ((2 * grid + 1) / size - 1)[None],
                            padding_mode="reflection", align_corners=False)[0]
    return (alpha > 0).float(), content


def texture(scene):
    """Polished, blurred, or roughened."""
    g, size = scene.generator, scene.resolution
    alpha = scene.region("blob", "cloud", "bar", area=scene.size(0.01))
    if chance(g, 0.5):
        coarse = max(2, round(size / log_uniform(g, 3, 12)))
        small = F.interpolate(scene.pixels[None], (coarse, coarse), mode="area")
        return alpha, F.interpolate(small, (size, size), mode="bilinear")[0]
    cells = choose(g, (None, 64, 100, (4, 96), (96, 4), (16, 96), (96, 16)))    # pairs: streaks
    grain = perlin_noise(size, cells, g) * 2 if cells else torch.randn(size, size, generator=g)
    return alpha, scene.pixels + log_uniform(g, 0.05, 0.25) * grain


MAKERS = {"cutpaste": cutpaste, "scar": scar, "perlin": perlin, "stain": paste_stain,
          "crack": paste_line, "missing": missing, "shatter": shatter, "warp": warp,
          "texture": texture}
DEFECT_KINDS = tuple(MAKERS)


def changed(new, old, alpha):
    """The mask, bool (R, R): what differs visibly, and gaps of up to about 2 % of the side."""
    seen = (new - old).abs().amax(0) > MIN_VISIBLE_CHANGE
    reach = max(1, seen.shape[-1] // 100)                   # 2 at 224
    closed = ~_grow(~_grow(seen, reach), reach)             # dilated, then eroded
    return (closed & (alpha > 0)) | seen


def _grow(mask, reach):
    """Every true pixel becomes a square of 2 reach + 1: a maximum filter, ten times as quick."""
    for dim, pad in enumerate(((0, 0, reach, reach), (reach, reach))):
        padded = F.pad(mask, pad)
        mask = reduce(torch.logical_or, (padded.narrow(dim, k, mask.shape[dim])
                                         for k in range(2 * reach + 1)))
    return mask


def paste_defect(pixels, generator, kind=None, others=None):
    """One defect, pasted into a good picture.

    pixels: (3, R, R) float in [0, 1], left as it is; kind: one of KINDS, drawn if None; others:
    (K, 3, R, R), more good pictures to take foreign material from.  Returns the new pixels and the
    mask, bool (R, R), true where they visibly changed, never empty. A kind that has nothing to work
    on (a flat surface cannot be warped) gives way to a stain.
    Work is done on the CPU in float32. Raises ValueError for another shape, range or kind.
    """
    _check(pixels, kind, others)
    with one_thread():
        return _paste(pixels, generator, kind, others)


def _paste(pixels, generator, kind, others):
    home, pixels = pixels.device, pixels.detach().float().cpu()
    others = None if others is None else others.float().cpu()
    cells, background = find_object(pixels)
    scene = DefectContext(pixels, generator, others, cells, background)
    grey = (pixels.amax(0) - pixels.amin(0)).max() < 0.02
    for _ in range(TRIES):
        alpha, content = MAKERS[kind or choose(generator, DEFECT_KINDS)](scene)
        new, mask = _blend(pixels, alpha, content, grey)
        if mask.float().mean() >= MIN_CHANGED_SHARE:
            return new.to(home), mask.to(home)
    alpha = scene.region("blob", place=scene.place(), area=scene.size(0.01))
    opposite = (pixels.mean((1, 2), keepdim=True) < 0.5).float()
    new, mask = _blend(pixels, alpha, opposite.expand_as(pixels), grey)
    return new.to(home), mask.to(home)


def paste_anywhere(pixels, generator, kind, others):
    """`paste_defect` for a picture (3, H, W) of any sides: into a square of it, as large as fits.

    others: a sequence of (3, H, W), of which squares as large are cut or reduced.
    """
    side, mask = min(pixels.shape[1:]), torch.zeros(pixels.shape[1:], dtype=torch.bool)
    squares = torch.stack([
        other if other.shape == (3, side, side) else
        F.interpolate(other[_window(other, generator)][None], (side, side), mode="area")[0]
        for other in others])
    window = _window(pixels, generator)
    pixels = pixels.clone()
    pixels[window], mask[window[1:]] = paste_defect(pixels[window], generator, kind, squares)
    return pixels, mask


def _window(pixels, generator):
    """The largest square of a picture (3, H, W), somewhere, as three slices; nothing is drawn for
    one that is square already."""
    side = min(pixels.shape[1:])
    return slice(None), *(slice(at, at + side) for at in (
        int(torch.randint(length - side + 1, (), generator=generator)) if length > side else 0
        for length in pixels.shape[1:]))


def _blend(old, alpha, content, grey):
    """The formula of the module's docstring, and the mask of what it changed."""
    if grey:
        content = content.mean(0, keepdim=True)
    new = torch.where(alpha > 0, (old + alpha * (content - old)).clamp(0, 1), old)
    return new, changed(new, old, alpha)


def _check(pixels, kind, others):
    """Raises ValueError for what paste_defect cannot take."""
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise ValueError(f"paste_defect takes one picture (3, R, R), found {tuple(pixels.shape)}; "
                         "make it square by data.to_square")
    if not (pixels.is_floating_point() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"paste_defect takes floats in [0, 1], found {pixels.dtype} from "
                         f"{pixels.min():g} to {pixels.max():g}; paste before normalising")
    if others is not None and others.shape[1:] != pixels.shape:
        raise ValueError(f"others must be pictures like the first, (K, 3, {pixels.shape[1]}, "
                         f"{pixels.shape[2]}), found {tuple(others.shape)}")
    if kind is not None and kind not in MAKERS:
        raise ValueError(f"unknown kind of defect {kind!r}; expected one of {', '.join(DEFECT_KINDS)}")


def demo():
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
