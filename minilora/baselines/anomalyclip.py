"""AnomalyCLIP: prompts that know no product, learned once on other products, used on any.

    Zhou et al. 2024, "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly
    Detection", ICLR.

    prompts   [V]_1 ... [V]_12 object, and the same for damaged object             eq. 1
    training  real defects with masks of products that are never tested: cross-entropy of the whole
              picture, focal and dice loss of the map                              eqs. 2, 3
    map       patches by value-value attention (DPAM) against both prompts         section 3.3
    score     probability of the whole picture plus the highest of the map         section 3.4

Differs: no learned tokens inside the text tower, one map from the last blocks and not four.
Symbols: B images, N training pictures, P patches, R resolution, E embedding.
"""
import torch
import torch.nn.functional as F

from minilora.anomaly_map import text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.coop import PromptLearner
from minilora.data.images import normalise
from minilora.losses import cross_entropy, dice_loss, focal_loss
from minilora.train import MIN_COVERAGE
from minilora.training_steps import TrainConfig, run_training

N_CTX = 12                     # context vectors of each prompt
TRAIN_CONFIG = TrainConfig(300, 8, 1e-3)


class AnomalyCLIP:
    """Zero-shot on the product it is tested on.  clip stays as it is."""

    def __init__(self, clip, resolution=None, recipe=TRAIN_CONFIG, seed=1):
        self.clip, self.recipe = clip.requires_grad_(False), recipe
        self.resolution = resolution or clip.config.resolution
        self.generator = torch.Generator().manual_seed(seed)
        self.prompts = PromptLearner(clip, default_tokenizer(), "object", n_ctx=N_CTX,
                                     generator=self.generator)

    @torch.no_grad()
    def features(self, pixels):
        """Picture (B, E) and text-aligned patches (B, P, E) of the frozen tower."""
        visual = self.clip.visual
        hidden = visual.hidden_states(visual.embed(normalise(pixels.to(visual.proj.device))))
        return visual.pool(hidden[-1]), visual.value_value(hidden)

    def probability(self, picture, patches):
        """(logits of the whole picture (B, 2), probability of "damaged" per patch (B, P))."""
        text = self.prompts()
        return (self.clip.similarity(picture, text),
                text_map(patches, text, self.clip.logit_scale.exp()))

    def fit(self, pictures, masks):
        """Learns from other products.  pictures: (N, 3, R, R) in [0, 1];  masks: bool (N, R, R)."""
        picture, patches = (torch.cat(part) for part in
                            zip(*(self.features(p) for p in pictures.split(8))))
        target = F.avg_pool2d(masks.float(), self.clip.visual.patch).flatten(1) > MIN_COVERAGE
        target, label = (x.to(picture.device) for x in (target.float(), masks.flatten(1).any(1)))

        def loss_of(rows):
            logits, odd = self.probability(picture[rows], patches[rows])
            return (cross_entropy(logits, label[rows].long()) + focal_loss(odd, target[rows])
                    + dice_loss(odd, target[rows]) + dice_loss(1 - odd, 1 - target[rows]))

        self.losses = run_training(loss_of, [self.prompts.context], len(pictures), self.recipe,
                              self.generator)
        return self

    @torch.no_grad()
    def score(self, pixels):
        """Maps (B, R, R) and scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        logits, odd = self.probability(*self.features(pixels))
        maps = to_pixels(odd, pixels.shape[-2:], 4 * self.resolution / 224).cpu()
        return maps, logits.softmax(-1)[:, 1].cpu() + maps.flatten(1).amax(1)


def demo():
    from minilora.clip import CLIP, CLIPConfig
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    pictures = 0.5 + 0.05 * torch.randn(24, 3, 64, 64, generator=generator).clamp(-1, 1)
    masks = torch.zeros(24, 64, 64, dtype=torch.bool)
    masks[::2, 16:40, 16:40] = True
    pictures = torch.where(masks[:, None], pictures - 0.4, pictures)
    judge = AnomalyCLIP(clip, recipe=TrainConfig(150, 8, 1e-2)).fit(pictures[:16], masks[:16])
    print(f"trained {judge.prompts.context.numel()} numbers on 16 pictures of other products")
    print(f"loss {judge.losses[0]:.3f} -> {judge.losses[-1]:.3f}")
    maps, scores = judge.score(pictures[16:])
    print(f"scores of new pictures: defective {scores[::2].mean():.3f}, "
          f"good {scores[1::2].mean():.3f}")
    print(f"map inside the defects {maps[masks[16:]].mean():.3f}, outside "
          f"{maps[~masks[16:]].mean():.3f}")


if __name__ == "__main__":
    demo()
