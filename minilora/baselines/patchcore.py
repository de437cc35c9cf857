"""Plain PatchCore on CLIP's image tower: a memory bank of good patches, and nothing is trained.

    Roth et al. 2022, "Towards total recall in industrial anomaly detection", CVPR.
    Authors' code: https://github.com/amazon-science/patchcore-inspection

    features     two middle hidden states; each patch becomes the mean over    section 3.1,
                 itself and its eight neighbours; both are concatenated        eqs. 1 to 3
    coreset      10 % of the good patches, chosen greedily                     section 3.2, eq. 5
    distance     Euclidean, to the nearest patch of the coreset                section 3.3, eq. 6
    image score  the largest distance of a picture, times a weight             eq. 7
    map          all distances, upsampled bilinearly; Gaussian of sigma 4

Claim: frozen features and a nearest-neighbour search find defects.  The detector's own memory bank
(memory_bank.py, row `memory` of a result table) changes steps of this method; this is the original.
Weight: if the nearest patch lies alone, its neighbours are far from the test patch, and the weight
is almost 1.  If it lies in a crowd, they are as near as it is, and the weight is almost 1 - 1 / b.
Differs: a vision transformer in place of a WideResNet.  The states are those of the detector's
memory (`default_memory_states`) in place of layers 2 and 3; both have the same grid and width, so
neither is resized or pooled to 1,024 channels.  b = 9 neighbours as in anomalib; the authors' code
leaves eq. 7 out.  sigma is 4 pixels at resolution 224 and grows with it.
Symbols: B images of H x W pixels, K shots, P patches, W width, l patches in the coreset.
Left out: augmentation of the shots, an approximate search.
"""
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import to_pixels
from minilora.clip import CLIP, CLIPConfig
from minilora.data.images import normalise
from minilora.features import default_memory_states
from minilora.memory_bank import CORESET_SHARE, coreset
from minilora.vit import default_value_value_blocks

NEIGHBOURS = 9                  # b of eq. 7


def neighbourhood_mean(tokens: Tensor, rows: int) -> Tensor:
    """Mean of each patch and its eight neighbours: (B, P, W) -> (B, P, W), eq. 2.

    rows: of the grid of patches.  Beyond the border are zeros, and they count (so do the authors).
    """
    grid = tokens.transpose(1, 2).unflatten(2, (rows, -1))               # (B, W, rows, columns)
    return F.avg_pool2d(grid, 3, stride=1, padding=1).flatten(2).transpose(1, 2)


def reweighted(token: Tensor, nearest: Tensor, bank: Tensor,
               neighbours: int = NEIGHBOURS) -> Tensor:
    """Image score: distance of the worst patch, times the weight of eq. 7.  A scalar.

    token: (W,), the patch with the largest distance;  nearest: number of its nearest patch in the
    bank (l, W);  neighbours: b, how many patches around that one are asked, itself included.
    """
    distance = (token - bank[nearest]).norm()                            # s* of eq. 6
    if len(bank) == 1:
        return distance                                                  # there are no neighbours
    around = torch.cdist(bank[nearest][None], bank)[0]
    around = around.topk(min(neighbours, len(bank)), largest=False).indices
    to_them = (token - bank[around]).norm(dim=1)                         # (b,)
    return (1 - (distance - to_them.logsumexp(0)).exp()) * distance      # eq. 7


class PatchCore:
    """Few-shot detector without text and without training.  clip is not changed.

    seed: of the coreset's first patch and of its random projection.
    """

    def __init__(self, clip: CLIP, seed: int = 0) -> None:
        layers = len(clip.visual.blocks)
        self.visual, self.generator = clip.visual, torch.Generator().manual_seed(seed)
        self.states = default_memory_states(layers, layers - default_value_value_blocks(layers))
        self.bank = None                                                 # (l, 2 W)

    def features(self, pixels: Tensor) -> Tensor:
        """Features of all patches, (B, P, 2 W).  The blocks after the second state do not run."""
        x = self.visual.embed(normalise(pixels.to(self.visual.proj.device)))
        hidden = self.visual.hidden_states(x, max(self.states))
        rows = pixels.shape[-2] // self.visual.patch
        return torch.cat([neighbourhood_mean(hidden[n][:, 1:], rows) for n in self.states], -1)

    @torch.no_grad()
    def fit(self, pictures: Iterable[Tensor]) -> "PatchCore":
        """Fill the memory bank from good pictures, K of (3, H, W) in [0, 1].  Returns self."""
        tokens = torch.cat([self.features(p[None])[0] for p in pictures])        # (K P, 2 W)
        count = max(1, round(CORESET_SHARE * len(tokens)))                       # l
        self.bank = tokens[coreset(tokens, count, self.generator)]
        return self

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and image scores (B,).  pixels: (B, 3, H, W) in [0, 1]."""
        distances, scores = [], []
        for tokens in self.features(pixels):                             # (P, 2 W), one picture
            distance, nearest = torch.cdist(tokens, self.bank).min(1)    # eq. 6
            worst = distance.argmax()
            distances.append(distance)
            scores.append(reweighted(tokens[worst], nearest[worst], self.bank))
        sigma = 4 * min(pixels.shape[-2:]) / 224
        maps = to_pixels(torch.stack(distances), pixels.shape[-2:], sigma)
        return maps.cpu(), torch.stack(scores).cpu()


def demo() -> None:
    """The weight of two equally distant patches; a new picture with and without a defect."""
    crowd, lonely = torch.zeros(8, 2), torch.tensor([[9.0, 0.0]])
    crowd[:, 1] = torch.linspace(0, 0.7, 8)
    bank = torch.cat([crowd, lonely])
    for name, token, nearest in (("a crowd", [-1.0, 0.0], 0), ("a rare patch", [10.0, 0.0], 8)):
        score = reweighted(torch.tensor(token), torch.tensor(nearest), bank, neighbours=3)
        print(f"distance 1.000 from {name:13s} score {score:.3f}")
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    defective = good[4:].clone()
    defective[0, :, 16:40, 16:40] = 0.1
    detector = PatchCore(clip).fit(good[:4])
    scores = [detector.score(picture)[1].item() for picture in (good[4:], defective)]
    print(f"{len(detector.bank)} of {4 * 16} patches kept, from states {detector.states}; "
          f"good {scores[0]:.3f}, defective {scores[1]:.3f}")


if __name__ == "__main__":
    demo()
