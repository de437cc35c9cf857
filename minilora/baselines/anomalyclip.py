"""AnomalyCLIP: object-agnostic prompts, learned once on other products and used for any product.

    Zhou et al. 2024, "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly
    Detection", ICLR.

    prompts    [V]_1 ... [V]_12 object, and the same for "damaged object"          eq. 1
    training   real defects with masks, of products that are not tested: cross-entropy of the whole
               image, focal loss and dice loss of the map                          eqs. 2, 3
    map        patches by value-value attention (DPAM), compared with both prompts   section 3.3
    score      anomaly probability of the whole image plus the map's maximum       section 3.4

Differs: no learned tokens inside the text tower; one map from the last blocks instead of four.
Symbols: B images, N training pictures, P patches, R resolution, E embedding.
Left out: pictures that are not square.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.coop import PromptLearner
from minilora.data.images import normalise
from minilora.losses import cross_entropy, dice_loss, focal_loss
from minilora.train import MIN_COVERAGE
from minilora.training_steps import TrainConfig, run_training

N_CTX = 12                     # context vectors of each prompt
TRAIN_CONFIG = TrainConfig(300, 8, 1e-3)


class AnomalyCLIP:
    """A zero-shot detector for products that it was not trained on.  clip is not changed."""

    def __init__(self, clip: CLIP, resolution: int | None = None,
                 train_config: TrainConfig = TRAIN_CONFIG, seed: int = 1) -> None:
        self.clip, self.train_config = clip.requires_grad_(False), train_config
        self.resolution = resolution or clip.config.resolution
        self.generator = torch.Generator().manual_seed(seed)
        self.prompts = PromptLearner(clip, default_tokenizer(), "object", n_ctx=N_CTX,
                                     generator=self.generator)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Image features (B, E) and text-aligned patch features (B, P, E) of the frozen tower."""
        visual = self.clip.visual
        hidden = visual.hidden_states(visual.embed(normalise(pixels.to(visual.proj.device))))
        return visual.pool(hidden[-1]), visual.value_value(hidden)

    def predict(self, image: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(logits of the whole image (B, 2), anomaly probability of each patch (B, P))."""
        text = self.prompts()
        return (self.clip.similarity(image, text),
                text_map(patches, text, self.clip.logit_scale.exp()))

    def fit(self, pictures: Tensor, masks: Tensor) -> "AnomalyCLIP":
        """Train the prompts on other products.  Returns self.

        pictures: (N, 3, R, R) in [0, 1];  masks: (N, R, R) bool, True for defective pixels.
        """
        image, patches = (torch.cat(part) for part in
                          zip(*(self.features(p) for p in pictures.split(8))))
        target = F.avg_pool2d(masks.float(), self.clip.visual.patch).flatten(1) > MIN_COVERAGE
        target, label = (x.to(image.device) for x in (target.float(), masks.flatten(1).any(1)))

        def loss_of(rows):
            logits, probability = self.predict(image[rows], patches[rows])
            return (cross_entropy(logits, label[rows].long())
                    + focal_loss(probability, target[rows]) + dice_loss(probability, target[rows])
                    + dice_loss(1 - probability, 1 - target[rows]))

        self.losses = run_training(loss_of, [self.prompts.context], len(pictures),
                                   self.train_config, self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, R, R) and image scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        logits, probability = self.predict(*self.features(pixels))
        maps = to_pixels(probability, pixels.shape[-2:], 4 * self.resolution / 224).cpu()
        return maps, logits.softmax(-1)[:, 1].cpu() + maps.flatten(1).amax(1)


def demo() -> None:
    """Train the prompts of a toy CLIP on pictures with dark squares."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    pictures = 0.5 + 0.05 * torch.randn(24, 3, 64, 64, generator=generator).clamp(-1, 1)
    masks = torch.zeros(24, 64, 64, dtype=torch.bool)
    masks[::2, 16:40, 16:40] = True
    pictures = torch.where(masks[:, None], pictures - 0.4, pictures)
    detector = AnomalyCLIP(clip, train_config=TrainConfig(150, 8, 1e-2))
    detector.fit(pictures[:16], masks[:16])
    print(f"trained {detector.prompts.context.numel()} parameters on 16 pictures")
    print(f"loss {detector.losses[0]:.3f} -> {detector.losses[-1]:.3f}")
    maps, scores = detector.score(pictures[16:])
    print(f"scores of new pictures: defective {scores[::2].mean():.3f}, "
          f"good {scores[1::2].mean():.3f}")
    print(f"map inside the defects {maps[masks[16:]].mean():.3f}, outside "
          f"{maps[~masks[16:]].mean():.3f}")


if __name__ == "__main__":
    demo()
