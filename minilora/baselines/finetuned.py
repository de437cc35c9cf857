"""Three ways to train beside LoRA, on the same pasted defects, pictures, steps and losses.

    coop    only the context vectors of the prompts            Zhou et al. 2022, "CoOp"
    full    every weight of the image tower, and the context   fine-tuning as it always was
    linear  one linear layer on frozen patches                 CLIP's linear probe, section 3.2, for
                                                               patches

Each is a text map or its like and no memory, so it compares with the row `text` of a run.

Symbols: B images, N pictures of the pool, P patches, R resolution, W width.
Leaves out: choosing steps or rates by test pictures.
"""
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from minilora.anomaly_map import image_score, text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner
from minilora.data.images import normalise
from minilora.losses import dice_loss, focal_loss
from minilora.train import MIN_COVERAGE, adapt, adaptation_loss, frozen_states, synthetic_batches
from minilora.training_steps import run_training

FULL_RATE = 2e-5                # LoRA's rate would destroy what CLIP knows
PROBE_RATE = 1e-2               # a convex problem in standardised features


class Trained:
    """What the three share: a map from patch scores.  clip belongs to it and may be changed."""

    def __init__(self, clip, class_name, config=DetectorConfig()):
        self.clip, self.config = clip.requires_grad_(False), config
        self.resolution = config.resolution or clip.config.resolution
        self.generator = torch.Generator().manual_seed(config.seed)
        tokenizer = default_tokenizer()
        self.prompts = PromptLearner(clip, tokenizer, class_name.replace("_", " "), init=config.context,
                                     n_ctx=len(tokenizer.encode(config.context)))

    @torch.no_grad()
    def score(self, pixels):
        """Maps (B, R, R) and scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        odd = self.patch_scores(pixels.to(self.clip.logit_scale.device))                 # (B, P)
        sigma = self.config.sigma * self.resolution / 224
        maps = to_pixels(odd, pixels.shape[-2:], sigma).cpu()
        return maps, image_score(maps)

    def patch_scores(self, pixels):
        patches = self.clip.visual.text_patches(normalise(pixels))
        return text_map(patches, self.prompts(), self.clip.logit_scale.exp())


class CoOp(Trained):
    """Context vectors alone."""

    def fit(self, pictures):
        adapt(self.clip, self.prompts, pictures, self.clip.visual.last, self.config, self.generator,
              lambda step, loss: None)
        return self


class FullFineTuning(Trained):
    """Every weight of the image tower moves, so nothing of a step can be computed beforehand."""

    def fit(self, pictures):
        visual = self.clip.visual.requires_grad_(True)
        pool = [(p.half(), F.avg_pool2d(m, visual.patch).flatten(1))
                for p, m in synthetic_batches(pictures, self.config, self.generator)]
        pixels, coverage = (torch.cat(column) for column in zip(*pool))
        trained = [*visual.parameters(), self.prompts.context]
        run_training(lambda rows: self.loss(pixels[rows], coverage[rows]), trained, len(pixels),
                replace(self.config, rate=FULL_RATE), self.generator)
        visual.requires_grad_(False)
        return self

    def loss(self, pixels, coverage):
        """pixels: (B, 3, R, R) in [0, 1], half precision will do;  coverage: (B, P)."""
        visual = self.clip.visual
        entering = visual.embed(normalise(pixels.float().to(visual.proj.device)))
        return adaptation_loss(self.clip, self.prompts, entering, coverage.to(visual.proj.device),
                               0, self.config.losses)


class LinearProbe(Trained):
    """Logistic regression on the patches of the frozen tower's last block."""

    def fit(self, pictures):
        visual, pool = self.clip.visual, []
        for pixels, masks in synthetic_batches(pictures, self.config, self.generator):
            tokens = frozen_states(visual, pixels)[-1][:, 1:]     # (B, P, W)
            pool.append((tokens, F.avg_pool2d(masks, visual.patch).flatten(1)))
        tokens, coverage = (torch.cat(column) for column in zip(*pool))
        self.start(tokens)
        target = (coverage > MIN_COVERAGE).float().to(tokens.device)
        run_training(lambda rows: self.loss(tokens[rows], target[rows]), self.layer.parameters(),
                len(tokens), replace(self.config, rate=PROBE_RATE), self.generator)
        return self

    def start(self, tokens):
        """A layer that knows nothing yet, for features of this mean and spread.  (N, P, W)."""
        self.mean, self.std = tokens.mean((0, 1)), tokens.std((0, 1)) + 1e-6
        self.layer = nn.Linear(tokens.shape[-1], 1).to(tokens.device)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def loss(self, tokens, target):
        """tokens: (B, P, W);  target: (B, P) in {0, 1}."""
        odd = self.probability(tokens)
        return focal_loss(odd, target) + 0.5 * dice_loss(odd, target)

    def probability(self, tokens):
        return self.layer((tokens - self.mean) / self.std)[..., 0].sigmoid()

    def patch_scores(self, pixels):
        return self.probability(frozen_states(self.clip.visual, pixels)[-1][:, 1:])


def demo():
    from minilora.clip import CLIP, CLIPConfig
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    bad = good[4:].clone()
    bad[0, :, 16:40, 16:40] = 0.1
    config = DetectorConfig(steps=100, n_train_images=64, batch=8)
    for method in (CoOp, FullFineTuning, LinearProbe):
        clip_config = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                            text_width=64, text_layers=1)
        clip = CLIP(clip_config).initialise(torch.Generator().manual_seed(0))
        judge = method(clip, "plate", config).fit(good[:4])
        scores = [judge.score(picture)[1].item() for picture in (good[4:], bad)]
        print(f"{method.__name__:15s} good {scores[0]:.3f}   defective {scores[1]:.3f}")


if __name__ == "__main__":
    demo()
