"""How much the texts count beside the memory, asked of the good pictures alone.

    share = (a_t - 1/2) / (a_m - 1/2), from 0 to 1

Defects are pasted into the shots. a_t and a_m are the image AUROC by which the texts and the
memory, which does not hold the photograph, tell the pasted ones from the others.

Claim: texts that cannot tell even a pasted defect from a good picture of this product should not
be heard; those that tell it as well as the memory does count in full.
Leaves out: which places of a picture they are right about.
"""
import torch

from minilora.auroc import auroc
from minilora.synthetic.defects import paste_anywhere
from minilora.synthetic.sampling import choose

DEFECTS_PER_SHOT = 2                      # pasted defects a photograph


@torch.no_grad()
def text_share(detector, shots):
    """The share, a float in [0, 1].

    detector: as it is before its texts have any weight, so that "adapted" is the memory alone;
    shots: (memory without the photograph, picture (3, H, W) in [0, 1], what `encode` finds in its
    copies, of which the first is the photograph itself).
    """
    generator = torch.Generator().manual_seed(detector.config.seed)
    pictures = [picture.cpu() for _, picture, _ in shots]
    scores, labels = {"memory": [], "text": []}, []
    rows = {"memory": "adapted", "text": "text"}            # the former, while the weight is 0
    for (bank, _, (good, *_)), picture in zip(shots, pictures):
        pasted = [paste_anywhere(picture, generator, choose(generator, detector.config.defects),
                                 pictures)[0] for _ in range(DEFECTS_PER_SHOT)]
        for label, seen in enumerate([good, *(detector.encode(p[None]) for p in pasted)]):
            labels.append(label > 0)
            for what, row in rows.items():
                scores[what].append(detector.map_and_score(seen, row, bank)[1])
    memory, text = (auroc(torch.cat(found), torch.tensor(labels)) for found in scores.values())
    return min(1.0, max(0.0, text - 0.5) / max(memory - 0.5, 1e-6))


def demo():
    """Stand-ins for a detector: the memory sees a dark patch; the texts see it, or see nothing."""
    from types import SimpleNamespace

    from minilora.config import DetectorConfig

    def stand_in(texts_see):
        def map_and_score(pixels, name, bank):
            darkest = (0.5 - pixels).amax().view(1)
            noise = pixels[0, 0, 0, :1]                     # says nothing about a defect
            return None, darkest if name == "adapted" or texts_see else noise
        return SimpleNamespace(config=DetectorConfig(), encode=lambda pixels: pixels,
                               map_and_score=map_and_score)
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.02 * torch.randn(8, 3, 64, 64, generator=generator)
    shots = [(None, picture, [picture[None]]) for picture in good]
    for texts_see in (True, False):
        share = text_share(stand_in(texts_see), shots)
        print(f"texts that {'see' if texts_see else 'do not see'} defects count {share:.2f} of "
              "their full weight")


if __name__ == "__main__":
    demo()
