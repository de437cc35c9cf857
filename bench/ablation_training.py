"""Ablation variants of texts, LoRA and training: each one changes one part of the default.

A variant is a change of the configuration or a subclass of `Detector`.  They are scored by the row
"adapted", after training.  `patched` names functions of minilora.train that a variant replaces.

Left out: the memory (ablation_memory.py), scoring and the command (ablation.py).
"""
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ablation_memory import BrightnessCopies, Variant
from minilora.anomaly_map import image_score
from minilora.bpe import default_tokenizer
from minilora.coop import PromptLearner
from minilora.detector import Detector
from minilora.scenes import scene
from minilora.synthetic.pasting import paste_anywhere
from minilora.train import adapt, adaptation_loss


class MeanWithFrozenMap(Detector):
    """The text map is the mean of two maps, with LoRA and without."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        both = torch.cat([seen.text_patches, super().encode(pixels, False).text_patches], -1)
        return seen._replace(text_patches=both)

    def bank_features(self, seen, name):
        return super().bank_features(
            seen._replace(text_patches=seen.text_patches[..., :self.clip.config.embed]), name)

    def map_and_score(self, seen, name, bank=None):
        on, off = (seen._replace(text_patches=part) for part in seen.text_patches.chunk(2, -1))
        maps, scores = super().map_and_score(on, name, bank)
        if name != "adapted":
            return maps, scores
        texts = [super(MeanWithFrozenMap, self).map_and_score(part, "text")[0]
                 for part in (on, off)]
        mean = maps + self.text_weight / 2 * (texts[1] - texts[0])
        top = self.config.top_fraction
        return mean, scores - image_score(maps, top) + image_score(mean, top)


class UnifiedContext(Detector):
    """One context for both states: 16 vectors, initialised with noise, as in CoOp's code."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts = PromptLearner(self.clip, default_tokenizer(), self.class_name, 16,
                                     class_specific=False, generator=self.generator)


class HandWrittenPrompts(Detector):
    """LoRA is trained with the hand-written prompts, which are not trained."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts.forward = lambda: self.prompt_ensemble_features.detach()


class ContextOnly(Detector):
    """Only the context is trained, as in CoOp: LoRA's B stays zero."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.clip.visual.requires_grad_(False)


class OrdinaryPath(Detector):
    """The text map uses the tokens of the last block in place of the value-value path."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        visual = self.clip.visual
        visual.value_value = lambda states, last: visual.ln_post(
            visual.blocks[-1](states[-1])[:, 1:]) @ visual.proj


class Alternating(Detector):
    """LoRA and context are trained alternately, each twice, a quarter of the steps at a time."""

    def fit(self, pictures, report=lambda step, loss: None, resume=None):
        lora = [p for p in self.clip.visual.parameters() if p.requires_grad]
        quarter = replace(self.config, steps=self.config.steps // 4)
        for turn in range(4):
            for parameter in lora:
                parameter.requires_grad_(turn % 2 == 0)
            self.prompts.requires_grad_(turn % 2 == 1)
            adapt(self.clip, self.prompts, pictures, self.n_adapted_blocks, quarter,
                  self.generator, report)
        self.text_features = self.prompts().detach()
        self.build_memory(pictures)
        return self


class FrozenMemory(Detector):
    """The memory compares only tokens of the frozen blocks."""

    def bank_features(self, seen, name):
        return seen.frozen_tokens


class AdaptedMemory(Detector):
    """The memory compares only patches of the adapted blocks."""

    def bank_features(self, seen, name):
        return seen.frozen_tokens if name == "memory" else F.normalize(seen.text_patches, dim=-1)


def loss_with_pull(clip, prompts, entering, coverage, first, weights, last=None):
    """The loss of train.py plus the mean distance, 1 - cosine, of each good patch from the nearest
    good patch of another picture in the batch."""
    loss = adaptation_loss(clip, prompts, entering, coverage, first, weights, last)
    states = [None] * first + [entering]
    for block in clip.visual.blocks[first:-1]:
        states.append(block(states[-1]))
    patches = F.normalize(clip.visual.value_value(states, last), dim=-1)
    good = coverage == 0
    far = [1 - (patches[k][good[k]] @ patches[other][good[other]].T).amax(1).mean()
           for k, other in enumerate(torch.arange(len(patches)).roll(1).tolist())
           if k != other and good[k].any() and good[other].any()]
    return loss + (torch.stack(far).mean() if far else 0)


class PatchesPulledTogether(Detector):
    """Training pulls good patches of different pictures together."""
    patched = {"adaptation_loss": loss_with_pull}


@cache
def scene_pictures() -> list[Tensor]:
    """One picture of each drawn product."""
    generator = torch.Generator().manual_seed(0)
    return [scene.draw(scene.product(name)[0], generator).picture for name in scene.CLASSES]


def paste_from_scenes(pixels: Tensor, generator: torch.Generator, kind: str, others):
    """`paste_anywhere` with textures of drawn products."""
    return paste_anywhere(pixels, generator, kind, scene_pictures())


class ForeignTextures(Detector):
    """Pasted defects take their texture from pictures of other products."""
    patched = {"paste_anywhere": paste_from_scenes}


PARTS = {
    "default": Variant(),
    "memory of frozen tokens only": Variant({}, FrozenMemory),
    "no whole-picture score": Variant({"image_weight": 0.0}),
    "no texts": Variant({"max_text_weight": 0.0, "image_weight": 0.0}),
    "mean with the frozen map": Variant({}, MeanWithFrozenMap),
    "copies with other brightness": Variant({}, BrightnessCopies),
    "ordinary path": Variant({}, OrdinaryPath),
    "whole-picture weight 1": Variant({"image_weight": 1.0}),
    "text weight 1": Variant({"max_text_weight": 1.0}),
}
LORA = {
    "default": Variant(),
    "no adaptation": Variant({"steps": 0}),
    "context only": Variant({}, ContextOnly),
    "LoRA only, hand-written prompts": Variant({}, HandWrittenPrompts),
    "LoRA on q, v": Variant({"targets": ("q", "v")}),
    "LoRA on v, out": Variant({"targets": ("v", "out")}),
    "LoRA in 2 blocks": Variant({"blocks": 2, "memory_states": (2, 3)}),
    "memory of frozen tokens only": Variant({}, FrozenMemory),
    "memory of adapted patches only": Variant({}, AdaptedMemory),
    "unified context, 16 from noise": Variant({}, UnifiedContext),
    "LoRA and context alternately": Variant({}, Alternating),
    "good patches pulled together": Variant({}, PatchesPulledTogether),
    "defects: textures of other products": Variant({}, ForeignTextures),
    "100 steps": Variant({"steps": 100}),
    "300 steps": Variant({"steps": 300}),
    "100 steps, rate 5e-4": Variant({"steps": 100, "rate": 5e-4}),
    "1,000 steps": Variant({"steps": 1000}),
    "rank 16": Variant({"rank": 16, "alpha": 32}),
    "LoRA in 3 blocks": Variant({"blocks": 3, "memory_states": (1, 2)}),
    "rate 3e-4": Variant({"rate": 3e-4}),
    "rate 3e-3": Variant({"rate": 3e-3}),
    "defects: CutPaste only": Variant({"defect_kinds": ("cutpaste", "scar")}),
    "focal loss only": Variant({"loss_weights": (1.0, 0.0, 0.0)}),
}
