"""A detector of an untrained toy tower, which is fitted in a moment: for demos that need one.

Claim: what a detector does with pictures can be shown without weights and data; its accuracy not.

Symbols: B pictures of H x W pixels.
Left out: a toy run folder (`toy_options` in runs/run_class.py).
"""
import torch
from torch import Tensor

from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.detector import Detector

TOY_CLIP = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                      text_width=64, text_layers=1)


def toy_clip(generator: torch.Generator) -> CLIP:
    """A CLIP of three blocks with random weights; 64 pixels, patches of 16."""
    return CLIP(TOY_CLIP).initialise(generator)


def toy_detector(width: int = 96) -> tuple[Detector, Tensor]:
    """(a detector fitted to four pictures of noise, these pictures (4, 3, 64, width))."""
    generator = torch.Generator().manual_seed(0)
    clip = toy_clip(generator)
    good = 0.5 + 0.05 * torch.randn(4, 3, 64, width, generator=generator).clamp(-1, 1)
    return Detector(clip, "plate", DetectorConfig(steps=0)).fit(good), good


def with_spot(pictures: Tensor) -> Tensor:
    """Copies of pictures (B, 3, 64, W) with a dark spot of 10 x 10 pixels."""
    spotted = pictures.clone()
    spotted[:, :, 20:30, 36:46] = 0.1
    return spotted


def demo() -> None:
    """Scores of a good picture, and of the same with a spot."""
    detector, good = toy_detector()
    for name, pictures in (("good", good[:1]), ("spot", with_spot(good[:1]))):
        score = detector.score(pictures)[1].item()
        print(f"{name}: score {score:.3f}, threshold {detector.threshold:.3f}")


if __name__ == "__main__":
    demo()
