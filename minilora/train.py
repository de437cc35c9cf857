"""Adaptation: train LoRA and the context vectors on synthetic defects pasted into good pictures.

Claim: no real defects are needed.  A synthetic defect shows what does not belong to this product,
and a low-rank update of the last blocks is enough to detect it.

    Zhou et al. 2024, "AnomalyCLIP": focal loss and dice loss on the text map.
    Li et al. 2021, "CutPaste": synthetic defects cut from the picture itself.

The blocks before the first adapted block are frozen.  Their output is therefore computed once for a
fixed pool of training pictures and not in every step; the gradient is the same (a test shows it).

Symbols: K shots, N pictures of the pool, B pictures of a step, P patches, W width, E embedding,
H x W pixels.
Left out: real defects; validation and early stopping, because no defective pictures are known.
"""
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import text_map
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner
from minilora.data.augmentation import augment
from minilora.data.images import group_by_shape, normalise
from minilora.io.progress import stage
from minilora.io.resume import ResumePoint
from minilora.lora import disable_lora, lora_layers
from minilora.losses import cross_entropy, dice_loss, focal_loss
from minilora.synthetic.pasting import paste_anywhere
from minilora.synthetic.sampling import choose
from minilora.training_steps import run_training
from minilora.vit import VisionTransformer

MIN_COVERAGE = 0.15                   # a patch counts as defective above this share of its pixels


def check_adaptable(clip: CLIP) -> None:
    """Raises ValueError for a CLIP whose image tower cannot get LoRA, or has it already."""
    if clip.config.is_resnet:
        raise ValueError("the image tower of this CLIP is a ResNet, but LoRA and anomaly maps "
                         "need a vision transformer; use ViT-B/16 (minilora.search takes both)")
    if lora_layers(clip.visual):
        raise ValueError("this CLIP has LoRA already, perhaps of another Detector, which would be "
                         "changed, too; load it again with load_clip() for each detector")


def frozen_states(visual: VisionTransformer, pixels: Tensor,
                  count: int | None = None) -> list[Tensor]:
    """Hidden states of the first `count` blocks (None: all) of the pretrained tower, LoRA off.

    pixels: (B, 3, H, W) in [0, 1], on any device.  Returns a list of (B, 1+P, W).
    """
    with torch.no_grad(), disable_lora(visual):
        pixels = normalise(pixels.to(visual.proj.device))
        return visual.hidden_states(visual.embed(pixels), count)


def synthetic_batches(pictures: list[Tensor] | Tensor, config: DetectorConfig,
                      generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented copies of the good pictures; half of them get a synthetic defect.

    pictures: K of (3, H, W) in [0, 1].  Yields batches (pixels (B, 3, H, W) in [0, 1], masks
    (B, H, W) in {0, 1}), each of one shape, config.n_train_images pictures in all.
    The defective half is drawn at random.  If it were every second picture, some shots might always
    be defective and the others never.
    """
    defective = iter(torch.randperm(config.n_train_images, generator=generator) % 2 == 0)
    for rows in (torch.arange(config.n_train_images) % len(pictures)).split(config.batch):
        chosen = [pictures[k] for k in rows]
        for group in group_by_shape(chosen):
            batch = augment(torch.stack([chosen[k] for k in group]), generator, angle=config.angle)
            masks = torch.zeros(len(batch), *batch.shape[2:])
            for k in range(len(batch)):
                if next(defective):
                    kind = choose(generator, config.defect_kinds)
                    # Some kinds of defects are cut from one of `pictures`.
                    batch[k], masks[k] = paste_anywhere(batch[k], generator, kind, pictures)
            yield batch, masks


def training_pool(visual: VisionTransformer, pictures: list[Tensor] | Tensor, n_adapted_blocks: int,
                  config: DetectorConfig,
                  generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Input of the adapted blocks for every training picture, computed once.

    Returns (entering, coverage): N of (1+P, W), the hidden state that enters the first of the
    n_adapted_blocks last blocks; N of (P,), the share of each patch that is defective.
    """
    entering, coverage = [], []
    batches = synthetic_batches(pictures, config, generator)
    for batch, masks in stage("training pictures", batches, config.n_train_images,
                              lambda pair: len(pair[0])):
        # `+=` appends the pictures of the batch one by one.
        entering += frozen_states(visual, batch, len(visual.blocks) - n_adapted_blocks)[-1]
        coverage += F.avg_pool2d(masks, visual.patch).flatten(1).to(visual.proj.device)
    return entering, coverage


def adaptation_loss(clip: CLIP, prompts: Callable[[], Tensor], entering: Tensor, coverage: Tensor,
                    first: int, loss_weights: tuple[float, float, float],
                    n_adapted_blocks: int | None = None) -> Tensor:
    """Focal and dice loss of the text map, and cross-entropy of the whole image.

    entering: (B, 1+P, W), input of block number `first`;  coverage: (B, P);  loss_weights: of the
    three losses;  n_adapted_blocks: how many of the last blocks the value-value path uses, none of
    them before block `first`;  None: the tower's own number.  Returns a scalar.
    """
    visual, states = clip.visual, [None] * first + [entering]
    for block in visual.blocks[first:-1]:               # the last block: only CLS is needed, below
        states.append(block(states[-1]))
    patches = visual.value_value(states, n_adapted_blocks)               # (B, P, E)
    text = prompts()                                                     # (2, E)
    probability = text_map(patches, text, clip.logit_scale.exp())        # (B, P)
    target = (coverage > MIN_COVERAGE).float()
    image = visual.pool(visual.blocks[-1].cls_only(states[-1]))          # (B, E)
    logits = clip.similarity(image, text)                                # (B, 2)
    losses = (focal_loss(probability, target), dice_loss(probability, target),
              cross_entropy(logits, (coverage.amax(1) > 0).long()))
    return sum(weight * loss for weight, loss in zip(loss_weights, losses))


def adapt(clip: CLIP, prompts: PromptLearner, pictures: list[Tensor] | Tensor,
          n_adapted_blocks: int, config: DetectorConfig, generator: torch.Generator,
          report: Callable[[int, float], None], resume: ResumePoint | None = None) -> list[float]:
    """Trains the context vectors and every parameter of clip.visual that requires a gradient.

    pictures: K good ones, (3, H, W) in [0, 1];  n_adapted_blocks: the blocks before these last ones
    are frozen;  report(step, loss) is called after every step;  resume: the point from which an
    interrupted training continues.  Returns the loss of every step.  Raises ValueError if a loss is
    not finite.
    """
    entering, coverage = training_pool(clip.visual, pictures, n_adapted_blocks, config, generator)
    trained = [p for p in clip.visual.parameters() if p.requires_grad] + [prompts.context]
    first = len(clip.visual.blocks) - n_adapted_blocks

    def loss_of(rows):
        groups = group_by_shape([coverage[k] for k in rows])
        return sum(len(group) / len(rows) * adaptation_loss(
            clip, prompts, torch.stack([entering[rows[k]] for k in group]),
            torch.stack([coverage[rows[k]] for k in group]), first, config.loss_weights,
            n_adapted_blocks) for group in groups)

    return run_training(loss_of, trained, len(entering), config, generator, report, resume)


def demo() -> None:
    """A toy tower learns to detect defects pasted into noise."""
    from minilora.bpe import default_tokenizer
    from minilora.clip import CLIPConfig
    from minilora.lora import add_lora
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    pictures = 0.5 + 0.05 * torch.randn(4, 3, 64, 64, generator=generator).clamp(-1, 1)
    add_lora(clip.visual.requires_grad_(False), blocks=(1, 2), generator=generator)
    prompts = PromptLearner(clip, default_tokenizer(), "plate", generator=generator)
    config = DetectorConfig(steps=60, n_train_images=64, batch=16, rate=5e-3)
    losses = adapt(clip, prompts, pictures, 2, config, generator, lambda step, loss: None)
    for step in (0, 20, 40, 59):
        print(f"step {step:2d}  loss {losses[step]:.3f}")


if __name__ == "__main__":
    demo()
