"""The detector: adapt CLIP to K good pictures of a product, then score any picture of it.

    1. Features (features.py).  The image tower with LoRA in its last N blocks gives patch features
       in the space of the text features (value-value path through the same N blocks), the feature
       of the whole image (CLS), and patch tokens of earlier, frozen blocks.
    2. Text map.  Cosine similarity of each patch with two text features, "flawless" and "damaged",
       then softmax; the same for the whole image.
    3. Memory map.  Distance from each patch to the nearest patch of the good pictures, which are
       kept in a memory bank.
    4. map = memory map / memory_scale + text_weight * text map, upsampled and smoothed;
       score = mean of the map's highest values + image_weight * text_weight * P(image is damaged).
       A picture is NG (not good) if its score is above the threshold, else OK.

`fit` learns everything from the K good pictures: LoRA and context vectors from synthetic defects
(train.py); memory scale, text weight and threshold by leave-one-out (calibration.py).

Claim: CLIP's text features know what damage is in general; the memory bank knows this product.
Each finds defects that the other misses, and LoRA adapts the image tower to the product.
Left out: any choice by test pictures; several products in one model.
Symbols: K shots, B pictures of H x W pixels, P patches, W width, E embedding, N adapted blocks.
"""
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.anomaly_map import image_score, text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.calibration import calibrate, leave_one_out
from minilora.checkpoint import detector_files
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner, ensemble_features
from minilora.data.framing import measure_all
from minilora.data.given_pictures import Given
from minilora.data.images import cut_strips, to_png
from minilora.detector_base import DetectorBase
from minilora.features import Features, default_memory_states, extract_features
from minilora.io.progress import stage
from minilora.io.resume import ResumePoint
from minilora.lora import add_lora, delta_norms, lora_layers
from minilora.memory_bank import MemoryBank
from minilora.rows import ROWS
from minilora.train import adapt, check_adaptable
from minilora.vit import default_value_value_blocks

PRECISIONS = ("float32", "bfloat16", "float16")


class Detector(DetectorBase):
    """Few-shot anomaly detector for one product, on top of a frozen CLIP.

    `read`, `prepare` and `predict` are in detector_base.py.
    clip: its image tower must be a vision transformer (else ValueError); it is changed in place:
    LoRA layers are added, which have no effect before training.  So each detector needs a CLIP of
    its own;  class_name: the product's name in the prompts;  adapter: trained LoRA (`read_peft`) in
    place of a new one; it is kept only with config.steps = 0.
    """

    def __init__(self, clip: CLIP, class_name: str, config: DetectorConfig = DetectorConfig(),
                 adapter: dict | None = None) -> None:
        check_adaptable(clip)
        self.clip, self.config = clip.requires_grad_(False), config
        self.class_name, self.device = class_name.replace("_", " "), clip.logit_scale.device
        self.resolution = config.resolution or clip.config.resolution
        self.precision = "float32"              # of the image tower when pictures are scored
        self.generator = torch.Generator().manual_seed(config.seed)
        layers = len(clip.visual.blocks)
        self.n_adapted_blocks = config.blocks or default_value_value_blocks(layers)         # N
        first = layers - self.n_adapted_blocks  # number of the first block with LoRA, from 0
        if adapter is None:
            add_lora(clip.visual, config.targets, range(first, layers), config.rank, config.alpha,
                     self.generator)
        else:
            detector_files.add_adapter(clip.visual, adapter)
        self.memory_states = config.memory_states or default_memory_states(layers, first)
        if max(self.memory_states) > first:
            raise ValueError(f"memory_states {self.memory_states}: expected numbers up to {first}, "
                             "the input of the first block with LoRA; adapt fewer blocks")
        tokenizer = default_tokenizer()
        n_ctx = len(tokenizer.encode(config.context))
        self.prompts = PromptLearner(clip, tokenizer, self.class_name, n_ctx, config.context)
        self.text_features, self.banks, self.threshold, self.losses = None, {}, None, []
        self.memory_scale, self.text_weight = 1.0, config.max_text_weight
        self.shot_pictures: list[bytes] = []                # the good pictures, as PNG files
        self.shot_measures: dict[str, list[float]] = {}     # {measure: value of each good picture}
        self.shot_scores, self.rotated_scores = [], []      # of them and copies, by leave-one-out
        self.shot_maps: list[Tensor] = []                   # of each, by leave-one-out; not saved

    @cached_property
    def prompt_ensemble_features(self) -> Tensor:
        """Text features of the hand-written prompts, (2, E); used by the row "zero-shot"."""
        return ensemble_features(self.clip, default_tokenizer(), self.class_name)

    # ---- fit ----------------------------------------------------------------------------------

    def fit(self, pictures: Given, report: Callable[[int, float], None] = lambda step, loss: None,
            resume: ResumePoint | None = None) -> "Detector":
        """Learns from good pictures only; what an earlier `fit` learned is lost.  Returns self.

        pictures: paths, a folder, PIL pictures, arrays, or tensors (3, H, W) in [0, 1], see
        data/given_pictures.py; training cuts very long ones into strips;  report(step, loss):
        called after every step;  resume: where an interrupted training goes on.
        """
        shots = [pixels for _, pixels in self.given(pictures)]
        self.banks, self.text_features, self.threshold = {}, None, None
        if self.config.steps:
            self.reset()
            strips = [s for p in shots for s in cut_strips(p, self.clip.visual.patch)]
            self.losses = adapt(self.clip, self.prompts, strips, self.n_adapted_blocks, self.config,
                                self.generator, report, resume)
        with torch.no_grad():
            self.text_features = (self.prompts() if self.config.steps else
                                  self.prompt_ensemble_features)
        self.build_memory(shots)
        return self

    def reset(self) -> None:
        """Sets LoRA, context vectors and random generator to the state of a new detector."""
        self.generator.manual_seed(self.config.seed)
        for layer in lora_layers(self.clip.visual).values():
            layer.reset_lora(self.generator)
        self.prompts.context.data.copy_(self.prompts.initial_context)

    @torch.no_grad()
    def build_memory(self, pictures: list[Tensor] | Tensor) -> None:
        """Builds the memory banks of the good pictures, then calibrates on the same pictures."""
        copies = self.rotated_copies(pictures)
        with_lora, without = ([(k, self.encode(p[None], lora))
                               for k, p in stage("memory", copies, len(copies))]
                              for lora in (True, False))
        self.banks = {"lora-off": self.build_bank([f for _, f in without], "lora-off"),
                      "adapted": self.build_bank([f for _, f in with_lora], "adapted")}
        width = with_lora[0][1].frozen_tokens.shape[-1]
        self.banks["memory"] = self.banks["adapted"].truncated(width)   # same patches, frozen part
        calibrate(self, leave_one_out(self, pictures, with_lora))
        self.shot_pictures = [to_png(picture) for picture in pictures]
        self.shot_measures = measure_all(pictures)

    def rotated_copies(self, pictures: list[Tensor] | Tensor) -> list[tuple[int, Tensor]]:
        """What the memory bank holds: (index of the picture, picture) for each of its rotations."""
        quarters = range(4 if self.config.rotations else 1)
        return [(k, torch.rot90(picture, quarter, (1, 2))) for quarter in quarters
                for k, picture in enumerate(pictures)]

    def build_bank(self, features: list[Features], name: str) -> MemoryBank:
        """The memory bank of a row, from the features of good pictures, one picture each."""
        generator = torch.Generator().manual_seed(self.config.seed)     # independent of training
        return MemoryBank.build([self.bank_features(f, name)[0] for f in features], generator)

    def bank_features(self, features: Features, name: str) -> Tensor:
        """What a row compares with its memory bank: (B, P, width), each patch of length one."""
        if not ROWS[name].prompts:
            return features.frozen_tokens
        patches = F.normalize(features.text_patches, dim=-1)
        return torch.cat([features.frozen_tokens, patches], -1) / 2 ** 0.5

    def distances(self, features: Features, name: str, bank: MemoryBank) -> Tensor:
        """Step 3: distance from each patch to the nearest patch of a memory bank, (B, P)."""
        return bank.distances(self.bank_features(features, name))

    # ---- score --------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Steps 1 to 4: (maps (B, H, W), scores (B,)) of "adapted"; before `fit` of "zero-shot".

        pixels: (B, 3, H, W) in [0, 1] as `prepare` makes them, else ValueError.
        """
        self.check(pixels)
        name = "adapted" if self.banks else "zero-shot"
        return self.map_and_score(self.encode(pixels, ROWS[name].lora), name)

    def encode(self, pixels: Tensor, lora: bool = True) -> Features:
        """Step 1: CLIP features of pictures (B, 3, H, W) in [0, 1], with or without LoRA."""
        return extract_features(self.clip.visual, pixels, self.memory_states, self.n_adapted_blocks,
                                lora, self.precision)

    def map_and_score(self, features: Features, name: str,
                      bank: MemoryBank | None = None) -> tuple[Tensor, Tensor]:
        """Steps 2 to 4 for a row: (maps (B, H, W), scores (B,)) on the CPU.  bank: used instead of
        the row's own memory bank, for leave-one-out."""
        row, patch_scores, damaged = ROWS[name], 0, 0.0
        if row.memory:
            bank = bank or self.banks[name]
            patch_scores = self.distances(features, name, bank) / self.memory_scale     # (B, P)
        if row.prompts:
            learned = row.prompts == "learned"
            text = self.text_features if learned else self.prompt_ensemble_features     # (2, E)
            scale, weight = self.clip.logit_scale.exp(), self.text_weight if row.memory else 1.0
            patch_scores = patch_scores + weight * text_map(features.text_patches, text, scale)
            damaged = weight * text_map(features.image[:, None], text, scale)[:, 0].cpu()   # (B,)
        sigma = self.config.sigma * min(features.size) / 224
        maps = to_pixels(patch_scores.cpu(), features.size, sigma)
        return maps, image_score(maps, self.config.top_fraction, self.config.image_weight * damaged)

    @torch.no_grad()
    def rows(self, pixels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """All rows that can be computed, {row: (maps (B, H, W), scores (B,))}: without shots only
        "zero-shot"; after `load` not "lora-off", whose memory bank is not saved."""
        names = [name for name, row in ROWS.items() if name == "zero-shot"
                 or self.banks and (name in self.banks or not row.memory)]
        features = {lora: self.encode(pixels, lora) for lora in {ROWS[name].lora for name in names}}
        return {name: self.map_and_score(features[ROWS[name].lora], name) for name in names}

    def pixel_threshold(self, maps: Tensor, scores: Tensor) -> Tensor:
        """Value above which a pixel of each map is suspicious, (B,): the threshold minus what the
        whole image adds to the score."""
        return self.threshold - (scores - image_score(maps, self.config.top_fraction))

    def count_parameters(self) -> tuple[int, int]:
        """(trainable, total) number of parameters."""
        context = self.prompts.context.numel()
        lora = sum(p.numel() for p in self.clip.parameters() if p.requires_grad)
        return lora + context, sum(p.numel() for p in self.clip.parameters()) + context

    def delta_norms(self) -> dict[str, float]:
        """Norm of the weight change by LoRA in each adapted projection: {name: norm}."""
        return delta_norms(self.clip.visual)

    def save(self, folder: str | Path, weights: detector_files.Weights) -> None:
        """Writes a run folder; of the base model only what is in `weights`, and no numbers."""
        detector_files.save_detector(self, folder, weights)

    @classmethod
    def load(cls, folder: str | Path, clip: CLIP, weights: detector_files.Weights) -> "Detector":
        """The detector that `save` wrote, on a freshly loaded base model; see `load_detector`."""
        return detector_files.load_detector(cls, folder, clip, weights)

    @classmethod
    def open(cls, run: str | Path, model: str | Path | None = None, device: str = "cpu",
             adapter: str | Path | None = None) -> "Detector":
        """The detector of a run folder with its base weights; see `open_detector`."""
        return detector_files.open_detector(cls, run, model, device, adapter)


def demo() -> None:
    """An untrained toy tower and noise pictures: they show the mechanism, not its accuracy."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 96, generator=generator).clamp(-1, 1)
    detector = Detector(clip, "plate", DetectorConfig(steps=20, n_train_images=32, rank=2, alpha=2))
    detector.fit(good[:4])
    print(f"loss {detector.losses[0]:.3f} -> {detector.losses[-1]:.3f}, "
          f"LoRA changed the weights by {sum(detector.delta_norms().values()):.3f}")
    defective = good[4:].clone()
    defective[0, :, 16:40, 16:40] = 0.1
    for name, picture in (("good", good[4:]), ("defective", defective)):
        scores = {row: round(s.item(), 3) for row, (_, s) in detector.rows(picture).items()}
        print(f"{name:9s} {scores}")
    print(f"threshold {detector.threshold:.3f}, from the good pictures only")


if __name__ == "__main__":
    demo()
