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
from minilora.defects import paste_anywhere
from minilora.draws import choose

TRIALS = 2                      # pasted defects a photograph


@torch.no_grad()
def text_share(detector, shots):
    """The share, a float in [0, 1].

    detector: as it is before its texts have any weight, so that "adapted" is the memory alone;
    shots: (memory without the photograph, picture (3, H, W) in [0, 1], what `encode` finds in its
    copies, of which the first is the photograph itself).
    """
    generator = torch.Generator().manual_seed(detector.settings.seed)
    pictures = [picture.cpu() for _, picture, _ in shots]
    scores, labels = {"memory": [], "text": []}, []
    rows = {"memory": "adapted", "text": "text"}            # the former, while the weight is 0
    for (bank, _, (good, *_)), picture in zip(shots, pictures):
        pasted = [paste_anywhere(picture, generator, choose(generator, detector.settings.defects),
                                 pictures)[0] for _ in range(TRIALS)]
        for label, seen in enumerate([good, *(detector.encode(p[None]) for p in pasted)]):
            labels.append(label > 0)
            for what, row in rows.items():
                scores[what].append(detector.row(seen, row, bank)[1])
    memory, text = (auroc(torch.cat(found), torch.tensor(labels)) for found in scores.values())
    return min(1.0, max(0.0, text - 0.5) / max(memory - 0.5, 1e-6))


def demo():
    """An untrained toy tower on noise: its texts know nothing, its memory something."""
    from minilora.clip import CLIP, CLIPConfig
    from minilora.detector import Detector
    from minilora.settings import Settings
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(4, 3, 64, 64, generator=generator).clamp(-1, 1)
    for steps in (0, 30):
        detector = Detector(clip, "plate", Settings(steps=steps, pool=32, batch=8, rank=2))
        detector.fit(good)
        print(f"after {steps:2d} steps of training the texts count "
              f"{detector.weight / detector.settings.text_weight:.2f} of their full weight")
        clip = CLIP(clip.config).initialise(generator)


if __name__ == "__main__":
    demo()
