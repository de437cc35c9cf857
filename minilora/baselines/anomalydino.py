"""AnomalyDINO's recipe on CLIP's image tower: rotated shots, all patches, the top 1 per cent.

    Damm et al. 2025, "AnomalyDINO: Boosting patch-based few-shot anomaly detection with DINOv2",
    WACV.  Authors' code: https://github.com/dammsi/AnomalyDINO

    shots        each in eight rotations, 0 to 315 degrees ("agnostic" preprocessing)
    features     patch tokens of the last block, after the tower's final layer norm, length one
    memory bank  all patches of all copies; no coreset
    distance     1 - cosine, to the nearest patch
    image score  mean of the highest 1 % of the patch distances
    map          the distances, upsampled bilinearly; Gaussian of sigma 4

Claim of the paper: with good enough features, a nearest-neighbour search needs nothing else.  With
the same tower as the other rows, the table shows what the recipe gives without DINOv2's features.
Differs: CLIP's tower, whose last patch tokens were never trained (only CLS has a loss) and whose
final layer norm, ln_post, was trained for CLS; the resolution of the other rows in place of 448
pixels; sigma is 4 pixels at resolution 224 and grows with it, in place of 4
pixels of the original picture.
Symbols: B images of H x W pixels, K shots, P patches, W width.
Left out: the mask of the foreground. The authors threshold the first principal component of the
features at 10, in DINOv2's units, and switch the mask on and off by product; other towers of
their code have none.
"""
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import to_pixels, top_mean
from minilora.clip import CLIP, CLIPConfig
from minilora.data.images import normalise
from minilora.memory_bank import MemoryBank

ANGLES = tuple(range(0, 360, 45))       # degrees, counter-clockwise
TOP_PATCHES = 0.01                      # share of the patches in the image score, at least one


def rotated_about_centre(picture: Tensor) -> Tensor:
    """A picture (3, H, W) rotated by each of the ANGLES, in a frame of the same size: (8, 3, H, W).

    Bilinear; what enters at the corners is the picture, reflected at the outermost pixels.
    """
    angles = torch.tensor(ANGLES) * math.pi / 180
    cos, sin = angles.cos(), angles.sin()
    aspect = (picture.shape[1] - 1) / (picture.shape[2] - 1)    # the grid's units: half the sides
    theta = torch.stack([cos, -sin * aspect, 0 * cos, sin / aspect, cos, 0 * cos], 1)   # out -> in
    theta = theta.view(-1, 2, 3)
    pictures = picture.expand(len(ANGLES), -1, -1, -1)
    grid = F.affine_grid(theta.to(picture), list(pictures.shape), align_corners=True)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=True)


class AnomalyDINO:
    """Few-shot detector without text and without training.  clip is not changed."""

    def __init__(self, clip: CLIP) -> None:
        self.visual, self.bank = clip.visual, None

    def features(self, pixels: Tensor) -> Tensor:
        """Features of all patches, (B, P, W), of length one."""
        visual = self.visual
        x = visual.embed(normalise(pixels.to(visual.proj.device)))
        return F.normalize(visual.ln_post(visual.hidden_states(x)[-1][:, 1:]), dim=-1)

    @torch.no_grad()
    def fit(self, pictures: Iterable[Tensor]) -> "AnomalyDINO":
        """Fill the memory bank from good pictures, K of (3, H, W) in [0, 1].  Returns self."""
        tokens = [self.features(rotated_about_centre(p)).flatten(0, 1) for p in pictures]
        self.bank = MemoryBank(torch.cat(tokens))                        # (8 K P, W)
        return self

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, H, W) and image scores (B,).  pixels: (B, 3, H, W) in [0, 1]."""
        distances = self.bank.distances(self.features(pixels))           # (B, P)
        sigma = 4 * min(pixels.shape[-2:]) / 224
        maps = to_pixels(distances, pixels.shape[-2:], sigma)
        return maps.cpu(), top_mean(distances, TOP_PATCHES).cpu()


def demo() -> None:
    """What rotated copies do for a rotated product; a picture with a defect."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = torch.full((3, 64, 64), 0.5)
    good[:, 28:36, 8:] = 0.9                                             # a bar
    defective = good.clone()
    defective[:, 16:40, 16:40] = 0.1
    detector = AnomalyDINO(clip).fit(good[None])
    print(f"{len(ANGLES)} copies of a picture of 16 patches: {detector.bank}")
    for name, picture in (("the same", good), ("rotated by 90 degrees", good.rot90(1, (1, 2))),
                          ("with a defect", defective)):
        print(f"{name:21s} score {detector.score(picture[None])[1].item():.4f}")


if __name__ == "__main__":
    demo()
