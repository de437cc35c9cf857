"""Adaptation: LoRA and context vectors learn to point at defects pasted into good pictures.

Claim: defects need not be collected. A picture with something pasted into it shows what "does not
belong here" means for this product, and a few low-rank corrections are enough to see it.

    Zhou et al. 2024, "AnomalyCLIP": focal and dice loss on the text map.
    Li et al. 2021, "CutPaste": pseudo-defects made of the picture itself.

What is frozen and lies before the first adapted block is computed once, for a pool of pictures,
and not once a step; the gradient is the same (a test shows it).
Symbols: N pictures of the pool, B of a step, P patches, W width, H x W pixels.
Leaves out: real defects, validation, early stopping (there is nothing honest to stop by).
"""
import torch
import torch.nn.functional as F

from minilora.anomaly_map import text_map
from minilora.data.images import augment, normalise
from minilora.lora import disable_lora
from minilora.losses import cross_entropy, dice_loss, focal_loss
from minilora.synthetic.defects import paste_anywhere
from minilora.synthetic.sampling import choose
from minilora.training_steps import run_training

MIN_COVERAGE = 0.15                   # share of a patch that must be defective for it to count as such


def frozen_states(visual, pixels, count=None):
    """Hidden states of the pretrained tower, LoRA off, of the first `count` blocks (None: all).

    pixels: (B, 3, H, W) in [0, 1], on any device; they are brought to the tower's.
    """
    with torch.no_grad(), disable_lora(visual):
        pixels = normalise(pixels.to(visual.proj.device))
        return visual.hidden_states(visual.embed(pixels), count)


def group_by_shape(tensors):
    """Numbers of the tensors of each shape: a list of lists, in the order of their first."""
    groups = {}
    for k, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(k)
    return list(groups.values())


def synthetic_batches(pictures, config, generator):
    """Good pictures turned and relit, half of them with a pasted defect, batch by batch.

    pictures: K of (3, H, W) in [0, 1].  Yields settings.pool pictures in all, as (pixels
    (B, 3, H, W) in [0, 1], masks (B, H, W) in {0, 1}), of one shape each.  Which half is drawn: if
    every second were damaged, half of the photographs might always be.
    """
    damaged = iter(torch.randperm(config.n_train_images, generator=generator) % 2 == 0)
    for rows in (torch.arange(config.n_train_images) % len(pictures)).split(config.batch):
        shown = [pictures[k] for k in rows]
        for group in group_by_shape(shown):
            batch = augment(torch.stack([shown[k] for k in group]), generator, angle=config.angle)
            masks = torch.zeros(len(batch), *batch.shape[2:])
            for k in range(len(batch)):
                if next(damaged):
                    kind = choose(generator, config.defects)
                    batch[k], masks[k] = paste_anywhere(batch[k], generator, kind, pictures)
            yield batch, masks


def training_pool(visual, pictures, last, config, generator):
    """What is frozen, computed once: N tensors of what enters the `last` blocks (1+P, W), and N of
    the share of each patch that is defective (P,)."""
    entering, coverage = [], []
    for batch, masks in synthetic_batches(pictures, config, generator):
        entering += frozen_states(visual, batch, len(visual.blocks) - last)[-1]
        coverage += F.avg_pool2d(masks, visual.patch).flatten(1).to(visual.proj.device)
    return entering, coverage


def adaptation_loss(clip, prompts, entering, coverage, first, weights, last=None):
    """Focal and dice loss of the text map on the masks, cross-entropy of the picture as a whole.

    entering: (B, 1+P, W), what enters block `first`;  coverage: (B, P);  weights: of the
    three;  last: blocks of the value-value path, which must not begin earlier.  Returns a scalar.
    """
    visual, states = clip.visual, [None] * first + [entering]
    for block in visual.blocks[first:-1]:                                # the last: CLS alone
        states.append(block(states[-1]))
    patches = visual.value_value(states, last)
    text = prompts()                                                     # (2, E)
    probability = text_map(patches, text, clip.logit_scale.exp())        # (B, P)
    target = (coverage > MIN_COVERAGE).float()
    picture = visual.pool(visual.blocks[-1].cls_only(states[-1]))     # (B, E)
    logits = clip.similarity(picture, text)                              # (B, 2)
    three = (focal_loss(probability, target), dice_loss(probability, target),
             cross_entropy(logits, (coverage.amax(1) > 0).long()))
    return sum(weight * loss for weight, loss in zip(weights, three))


def adapt(clip, prompts, pictures, last, config, generator, report, resume=None):
    """Trains whatever of clip.visual and prompts requires a gradient.  Returns the losses.

    last: how many of the last blocks are adapted, those before are frozen;  report(step, loss) is
    called after every step;  unfinished: where to go on from (training_steps.py).
    Raises ValueError if a loss is not finite.
    """
    entering, coverage = training_pool(clip.visual, pictures, last, config, generator)
    trained = [p for p in clip.visual.parameters() if p.requires_grad] + [prompts.context]
    first = len(clip.visual.blocks) - last

    def loss_of(rows):
        groups = group_by_shape([coverage[k] for k in rows])
        return sum(len(group) / len(rows) * adaptation_loss(
            clip, prompts, torch.stack([entering[rows[k]] for k in group]),
            torch.stack([coverage[rows[k]] for k in group]), first, config.losses, last)
            for group in groups)

    return run_training(loss_of, trained, len(entering), config, generator, report, resume)


def demo():
    """A toy tower learns to find patches pasted into noise."""
    from minilora.bpe import default_tokenizer
    from minilora.clip import CLIP, CLIPConfig
    from minilora.config import DetectorConfig
    from minilora.coop import PromptLearner
    from minilora.lora import add_lora
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    pictures = 0.5 + 0.05 * torch.randn(4, 3, 64, 64, generator=generator).clamp(-1, 1)
    add_lora(clip.visual.requires_grad_(False), blocks=(1, 2), generator=generator)
    prompts = PromptLearner(clip, default_tokenizer(), "plate", generator=generator)
    losses = adapt(clip, prompts, pictures, 2, DetectorConfig(steps=60, n_train_images=64, batch=16, rate=5e-3),
                   generator, lambda step, loss: None)
    for step in (0, 20, 40, 59):
        print(f"step {step:2d}  loss {losses[step]:.3f}")


if __name__ == "__main__":
    demo()
