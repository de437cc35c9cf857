"""Three alternatives to LoRA, trained on the same synthetic defects with the same steps.

    CoOp              only the context vectors of the prompts; Zhou et al. 2022, "CoOp"
    FullFineTuning    all weights of the image tower, and the context vectors
    LinearProbe       a linear layer on frozen patch features; Radford et al. 2021, "CLIP", section
                      3.2, applied to patches instead of whole images

None of them uses a memory bank.  They are therefore compared with row `text` of a result table.

Symbols: B images, N pictures of the pool, P patches, R resolution, W width.
Left out: choosing the number of steps or the learning rates by test pictures.
"""
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.anomaly_map import image_score, text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner
from minilora.data.images import normalise
from minilora.losses import dice_loss, focal_loss
from minilora.train import MIN_COVERAGE, adapt, adaptation_loss, frozen_states, synthetic_batches
from minilora.training_steps import run_training

FULL_RATE = 2e-5                # with LoRA's learning rate CLIP would forget its pretraining
PROBE_RATE = 1e-2               # a convex problem on standardised features


class TrainedBaseline:
    """What all share: from patch scores to maps and image scores.  clip may be changed."""

    def __init__(self, clip: CLIP, class_name: str,
                 config: DetectorConfig = DetectorConfig()) -> None:
        self.clip, self.config = clip.requires_grad_(False), config
        self.resolution = config.resolution or clip.config.resolution
        self.generator = torch.Generator().manual_seed(config.seed)
        tokenizer = default_tokenizer()
        self.prompts = PromptLearner(clip, tokenizer, class_name.replace("_", " "),
                                     init=config.context,
                                     n_ctx=len(tokenizer.encode(config.context)))

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps (B, R, R) and image scores (B,).  pixels: (B, 3, R, R) in [0, 1]."""
        scores = self.patch_scores(pixels.to(self.clip.logit_scale.device))      # (B, P)
        sigma = self.config.sigma * self.resolution / 224
        maps = to_pixels(scores, pixels.shape[-2:], sigma).cpu()
        return maps, image_score(maps)

    def patch_scores(self, pixels: Tensor) -> Tensor:
        """The text map, (B, P): anomaly probability of each patch."""
        patches = self.clip.visual.text_patches(normalise(pixels))
        return text_map(patches, self.prompts(), self.clip.logit_scale.exp())


class CoOp(TrainedBaseline):
    """Only the context vectors are trained."""

    def fit(self, pictures: Tensor) -> "CoOp":
        """Train on good pictures (K, 3, R, R) in [0, 1].  Returns self."""
        adapt(self.clip, self.prompts, pictures, self.clip.visual.n_value_value_blocks,
              self.config, self.generator, lambda step, loss: None)
        return self


class TowerTraining(TrainedBaseline):
    """Weights of the image tower and the context vectors are trained; every step starts from
    pixels.  A subclass says which weights: `choose`."""

    RATE = FULL_RATE

    def choose(self) -> None:
        """Changes the tower if needed, and makes the trained weights require a gradient."""
        raise NotImplementedError(f"{type(self).__name__}.choose must mark the trained weights")

    def fit(self, pictures: Tensor) -> "TowerTraining":
        """Train on good pictures (K, 3, R, R) in [0, 1].  Returns self."""
        self.choose()
        visual = self.clip.visual
        pool = [(p.half(), F.avg_pool2d(m, visual.patch).flatten(1))
                for p, m in synthetic_batches(pictures, self.config, self.generator)]
        pixels, coverage = (torch.cat(column) for column in zip(*pool))
        run_training(lambda rows: self.loss(pixels[rows], coverage[rows]), self.trained(),
                     len(pixels), replace(self.config, rate=self.RATE), self.generator)
        visual.requires_grad_(False)
        return self

    def trained(self) -> list[Tensor]:
        """The trained weights of the tower, and the context vectors."""
        return [*(p for p in self.clip.visual.parameters() if p.requires_grad),
                self.prompts.context]

    def loss(self, pixels: Tensor, coverage: Tensor) -> Tensor:
        """pixels: (B, 3, R, R) in [0, 1], float16 is allowed;  coverage: (B, P).  A scalar."""
        visual = self.clip.visual
        entering = visual.embed(normalise(pixels.float().to(visual.proj.device)))
        return adaptation_loss(self.clip, self.prompts, entering, coverage.to(visual.proj.device),
                               0, self.config.loss_weights)


class FullFineTuning(TowerTraining):
    """All weights of the image tower are trained, so no block can be computed in advance."""

    def choose(self) -> None:
        """All weights of the image tower."""
        self.clip.visual.requires_grad_(True)


class LinearProbe(TrainedBaseline):
    """Logistic regression on the patch tokens after the last block of the frozen tower."""

    def fit(self, pictures: Tensor) -> "LinearProbe":
        """Train on good pictures (K, 3, R, R) in [0, 1].  Returns self."""
        visual, pool = self.clip.visual, []
        for pixels, masks in synthetic_batches(pictures, self.config, self.generator):
            tokens = frozen_states(visual, pixels)[-1][:, 1:]                    # (B, P, W)
            pool.append((tokens, F.avg_pool2d(masks, visual.patch).flatten(1)))
        tokens, coverage = (torch.cat(column) for column in zip(*pool))
        self.initialise(tokens)
        target = (coverage > MIN_COVERAGE).float().to(tokens.device)
        run_training(lambda rows: self.loss(tokens[rows], target[rows]),
                     list(self.layer.parameters()), len(tokens),
                     replace(self.config, rate=PROBE_RATE), self.generator)
        return self

    def initialise(self, tokens: Tensor) -> None:
        """A layer of zeros, and the mean and standard deviation of the tokens (N, P, W)."""
        self.mean, self.std = tokens.mean((0, 1)), tokens.std((0, 1)) + 1e-6
        self.layer = nn.Linear(tokens.shape[-1], 1).to(tokens.device)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def loss(self, tokens: Tensor, target: Tensor) -> Tensor:
        """tokens: (B, P, W);  target: (B, P) in {0, 1}.  A scalar."""
        probability = self.probability(tokens)
        return focal_loss(probability, target) + 0.5 * dice_loss(probability, target)

    def probability(self, tokens: Tensor) -> Tensor:
        """Anomaly probability of each patch, (B, P), from standardised tokens."""
        return self.layer((tokens - self.mean) / self.std)[..., 0].sigmoid()

    def patch_scores(self, pixels: Tensor) -> Tensor:
        """Anomaly probability of each patch, (B, P)."""
        return self.probability(frozen_states(self.clip.visual, pixels)[-1][:, 1:])


def demo() -> None:
    """Train each method on four good pictures; score a new one with and without a defect."""
    generator = torch.Generator().manual_seed(0)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    defective = good[4:].clone()
    defective[0, :, 16:40, 16:40] = 0.1
    config = DetectorConfig(steps=100, n_train_images=64, batch=8)
    for method in (CoOp, FullFineTuning, LinearProbe):
        clip_config = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64,
                                 patch=16, text_width=64, text_layers=1)
        clip = CLIP(clip_config).initialise(torch.Generator().manual_seed(0))
        detector = method(clip, "plate", config).fit(good[:4])
        scores = [detector.score(picture)[1].item() for picture in (good[4:], defective)]
        print(f"{method.__name__:15s} good {scores[0]:.3f}   defective {scores[1]:.3f}")


if __name__ == "__main__":
    demo()
