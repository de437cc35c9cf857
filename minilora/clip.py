"""CLIP: two towers that map pictures and texts into one space, and their cosine similarity.

    logits = cos(image, text) exp(logit_scale)

Claim: training pulls matching pictures and texts together. Afterwards a picture can be classified
by comparing it with sentences, without any labelled picture (zero-shot).

    C. Radford et al. 2021, "Learning transferable visual models from natural language supervision",
       figure 3 (the pseudo-code) and section 2.5 (the temperature).
    Authors' code: https://github.com/openai/CLIP (clip/model.py)

Symbols: B images, N prompts, E embedding; logit_scale is C's t, the logarithm of 1 / temperature.
Left out: the contrastive loss (pretrain/captions.py), weights from a file (checkpoint/weights.py).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.attention import ACTIVATIONS
from minilora.clip_resnet import STRIDE, ModifiedResNet
from minilora.io.demos import run_demo
from minilora.text import TextTransformer
from minilora.vit import VisionTransformer


@dataclass(frozen=True)
class CLIPConfig:
    """The nine numbers that fix every shape, and what no shape tells: activation and head widths.

    vision_layers: the number of blocks of a ViT, or the bottlenecks of a ResNet's four stages;
    patch: the side of a ViT's patch, or the stride of a ResNet;  activation: a key of ACTIVATIONS;
    head_width: of the image tower, 64 in all of OpenAI's;  text_head_width: of the text tower.
    """
    embed: int
    resolution: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    patch: int
    context: int = 77
    vocab: int = 49408
    text_width: int = 512
    text_layers: int = 12
    activation: str = "quick_gelu"
    head_width: int = 64
    text_head_width: int = 64

    def __post_init__(self) -> None:
        for name, width, head in (("vision_width", self.vision_width, self.head_width),
                                  ("text_width", self.text_width, self.text_head_width)):
            if name == "vision_width" and self.is_resnet:
                continue                                         # RN50x4 has width 80
            if head < 1 or width < head or width % head:
                raise ValueError(f"CLIPConfig.{name}: expected a multiple of {head}, the width of "
                                 f"one head, found {width}; choose the next multiple")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"CLIPConfig.activation: expected {' or '.join(ACTIVATIONS)}, found "
                             f"{self.activation!r}")
        if self.patch < 1 or self.resolution < self.patch or self.resolution % self.patch:
            raise ValueError("CLIPConfig.resolution: expected a multiple of the patch "
                             f"({self.patch}), found {self.resolution}; choose the next multiple")

    @property
    def is_resnet(self) -> bool:
        """Whether the image tower is a ResNet."""
        return isinstance(self.vision_layers, tuple)


VIT_B_16 = CLIPConfig(embed=512, resolution=224, vision_layers=12, vision_width=768, patch=16)
VIT_B_32 = CLIPConfig(embed=512, resolution=224, vision_layers=12, vision_width=768, patch=32)
VIT_L_14 = CLIPConfig(embed=768, resolution=224, vision_layers=24, vision_width=1024, patch=14,
                      text_width=768)
VIT_L_14_336 = CLIPConfig(embed=768, resolution=336, vision_layers=24, vision_width=1024, patch=14,
                          text_width=768)
RN50 = CLIPConfig(embed=1024, resolution=224, vision_layers=(3, 4, 6, 3), vision_width=64,
                  patch=STRIDE)


def similarity_logits(features: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosine similarities divided by the temperature: (..., E) and (N, E) -> logits (..., N).

    Neither side needs to be normalised.  CLIP's own temperature is 1 / exp(logit_scale).
    """
    features = F.normalize(features, dim=-1)                     # (..., E) on the unit sphere
    text = F.normalize(text, dim=-1)                             # (N, E)
    return features @ text.T / temperature                       # (..., N)  C figure 3


class CLIP(nn.Module):
    """Image tower, text tower and temperature.  A new one has random weights, see `initialise`."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = c = config
        self.visual = (ModifiedResNet(c.resolution, c.vision_width, c.vision_layers, c.embed)
                       if c.is_resnet else
                       VisionTransformer(c.resolution, c.patch, c.vision_width, c.vision_layers,
                                         c.embed, c.activation, c.head_width))
        self.text = TextTransformer(c.context, c.vocab, c.text_width, c.text_layers, c.embed,
                                    c.activation, c.text_head_width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))    # C section 2.5

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> "CLIP":
        """Draw every weight, in a fixed order, from `generator` if given.  Returns self."""
        self.visual.initialise(generator)
        self.text.initialise(generator)
        self.logit_scale.fill_(math.log(1 / 0.07))
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, R, R), normalised -> (B, E), not of length one."""
        return self.visual.encode_image(pixels)

    def encode_text(self, ids: Tensor) -> Tensor:
        """ids: (N, L) -> (N, E), not of length one."""
        return self.text.encode_text(ids)

    def similarity(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Logits of every picture with every text at CLIP's own temperature.

        image_features: (B, E); text_features: (N, E); neither needs to be normalised.  Returns
        (B, N); softmax(dim=-1) of a row gives the zero-shot probabilities of that picture.
        """
        return similarity_logits(image_features, text_features, 1 / self.logit_scale.exp())


def demo() -> None:
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    logits = similarity_logits(torch.tensor([[3.0, 4.0]]), text, temperature=0.1)
    print(f"a picture with cosines 0.60 and 1.00: logits {logits[0].tolist()}")
    config = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
                        vocab=1000, text_width=64, text_layers=2)
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(config).initialise(generator)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    ids = torch.tensor([[998, 5, 6, 999, 0], [998, 7, 999, 0, 0], [998, 8, 9, 10, 999]])
    with torch.no_grad():
        logits = clip.similarity(clip.encode_image(pixels), clip.encode_text(ids))
    print(f"2 pictures x 3 texts -> logits {tuple(logits.shape)}, temperature 1 / "
          f"{clip.logit_scale.exp():.2f}")
    for name, row in zip("ab", logits.softmax(-1)):
        print(f"picture {name}: " + "  ".join(f"{p:.2f}" for p in row)
              + f"   sum {row.sum():.2f} (the model is untrained: the numbers mean nothing)")
    with torch.device("meta"):                                   # shapes only, no memory
        full = CLIP(VIT_B_16)
    total, image = (sum(p.numel() for p in m.parameters()) for m in (full, full.visual))
    print(f"ViT-B/16: {total:,} parameters, {image:,} of them in the image tower")


# Exercise 1: Multiply the image features by 5 in demo(). Which printed probabilities change?
# Exercise 2: Set logit_scale to 0 (temperature 1). By which factor can two probabilities of a row
#             differ at most, whatever the features are?
# Exercise 3: Give the third text twice. What happens to the three probabilities of a picture?
if __name__ == "__main__":
    run_demo("clip", demo)
