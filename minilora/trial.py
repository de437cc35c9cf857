"""Trial: which maps tell defects of a product, asked of its good pictures alone.

    e_s = 1 - a_s + FLOOR                       a_s: AUROC of the pixels of a picture, their mean
    w_s = 1 / e_s^2, divided by their sum       how much size s of the memory counts
    t = e_m / e_t, at most 1                    how much the text map counts, m: the whole memory

Defects are pasted into good pictures, and each is judged by a memory that does not hold its
photograph. a is the share of pairs (pasted pixel, other pixel) in the right order, so 1 - a is that
of errors: sizes are weighted as measurements are, by the inverse square of their error.

Claim: neither the memory nor the frozen tower with hand-written prompts was trained on pasted
defects, so how well they find them says what to trust: which size (a broken biscuit is told by the
reduced picture, bench.ablation), and texts less where the memory errs less than they do.

Symbols: C good pictures, R resolution, S sizes.
Leaves out: LoRA's map, which has been trained on such defects; trying other settings on them.
"""
from statistics import mean

import torch

from minilora.auroc import auroc
from minilora.defects import KINDS, paste_defect
from minilora.draws import choose

TRIALS = 16                     # pictures at most: more take longer
FLOOR = 0.02                    # no size is taken for free of errors


def pasted(pictures, kinds, generator):
    """A defect in each of the pictures.

    pictures: (C, 3, R, R) in [0, 1];  kinds: of defects.  Returns (pixels alike, masks (C, R, R)
    bool).
    """
    pairs = [paste_defect(picture, generator, choose(generator, kinds), others=pictures)
             for picture in pictures]
    pixels, masks = (torch.stack(column) for column in zip(*pairs))
    return pixels, masks > 0


def error(maps, masks):
    """Share of pairs of pixels in the wrong order, mean over the pictures, plus FLOOR.

    maps: (C, R, R);  masks: bool alike.  Pictures that are all good or all pasted have no pairs;
    1 if there is no other.
    """
    pairs = [(found, mask) for found, mask in zip(maps.cpu(), masks) if mask.any() > mask.all()]
    if not pairs:
        return 1.0
    right = mean(auroc(found.flatten(), mask.flatten().long()) for found, mask in pairs)
    return 1 - right + FLOOR


def weights(errors):
    """How much each of so many maps counts; the sum is 1."""
    each = [error ** -2 for error in errors]
    return [weight / sum(each) for weight in each]


def demo():
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.02 * torch.randn(4, 3, 64, 64, generator=generator)
    shown, masks = pasted(good, KINDS, generator)
    print(f"defects pasted into {len(good)} pictures cover {masks.float().mean():.1%} of them")
    for noise in (0.1, 0.5, 2.0):
        maps = [masks + x * torch.randn(masks.shape, generator=generator) for x in (0.5, noise)]
        one, other = (error(found, masks) for found in maps)
        print(f"errors {one:.3f} and {other:.3f}: weights "
              + " and ".join(f"{weight:.2f}" for weight in weights((one, other))))


if __name__ == "__main__":
    demo()
