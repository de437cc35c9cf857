"""Trial: which size of the memory tells defects, asked of good pictures alone.

    w_s = 1 / (1 - a_s + FLOOR)^2, divided by their sum       a_s: AUROC of the pixels at size s

Defects are pasted into good pictures, and each is judged by a memory that does not hold its
photograph. a_s is the share of pairs (pasted pixel, other pixel) in the right order, so 1 - a_s is
the share of errors: sizes are weighted as measurements are, by the inverse square of their error.

Claim: nothing in the memory was trained on pasted defects, so how well it finds them says which
sizes matter for a product: small parts of a board need the enlarged picture, a broken biscuit the
reduced one. Text maps cannot be weighed so: LoRA has been trained on such defects.

Symbols: C good pictures, R resolution, S sizes.
Leaves out: trying other settings on pasted defects (they are not what a factory finds).
"""
import torch

from minilora.auroc import auroc
from minilora.defects import KINDS, paste_defect
from minilora.draws import choose

TRIALS = 16                     # pictures at most: more take longer and change little
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


def weights(maps, masks):
    """How much each size counts, S floats with sum 1.  maps: S tensors (C, R, R);  masks: bool."""
    if not masks.any() or masks.all():
        return [1 / len(maps)] * len(maps)
    flat = masks.flatten().long()
    each = [(1 - auroc(found.cpu().flatten(), flat) + FLOOR) ** -2 for found in maps]
    return [weight / sum(each) for weight in each]


def demo():
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.02 * torch.randn(4, 3, 64, 64, generator=generator)
    shown, masks = pasted(good, KINDS, generator)
    print(f"defects pasted into {len(good)} pictures cover {masks.float().mean():.1%} of them")
    for noise in (0.1, 0.5, 2.0):
        maps = [masks + x * torch.randn(masks.shape, generator=generator) for x in (0.5, noise)]
        one, other = (auroc(found.flatten(), masks.flatten().long()) for found in maps)
        print(f"AUROC {one:.3f} and {other:.3f}: weights "
              + " and ".join(f"{weight:.2f}" for weight in weights(maps, masks)))


if __name__ == "__main__":
    demo()
