"""The method: fit CLIP to K good pictures of a product, then say of any picture where it is odd.

    1. image tower with LoRA in its last N blocks -> patches of the same N blocks by the value-value
       path, in the texts' space; CLS, the picture as a whole; and tokens of the frozen blocks before
    2. cosine similarity with two learned texts, "flawless" and "damaged", softmax -> text map; the
       same of CLS
    3. distance to the nearest patch of good pictures, by frozen tokens and patches together ->
       memory map
    4. map = memory / level + weight * text, smoothed;  score = mean of its top share, plus CLS's
       share; a picture is NG above the threshold

Everything is learned from the K good pictures: LoRA and context vectors on pasted defects
(train.py); level, weight and threshold by leaving one photograph out of the memory at a time.

Claim: the tower that has seen everything knows what damage is called, the memory knows this
product; each finds what the other misses, and LoRA brings the first nearer to the product.
Leaves out: choosing anything by test pictures, several products in one model.
Symbols: K shots, B pictures of H x W pixels, P patches, W width, E embedding.
"""
from collections import namedtuple
from contextlib import nullcontext
from functools import cached_property

import torch
import torch.nn.functional as F

from minilora import anomaly_map
from minilora.anomaly_map import image_score, text_map, to_pixels
from minilora.bpe import default_tokenizer
from minilora.calibration import text_share
from minilora.checkpoint import detector_files
from minilora.clip import CLIP, CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner, ensemble_features
from minilora.data.images import (MAX_ASPECT, cut_strips, normalise, strip_bounds, to_patches,
                                  to_square)
from minilora.lora import add_lora, delta_norms, disable_lora
from minilora.memory_bank import MemoryBank, patch_descriptors
from minilora.train import adapt
from minilora.vit import value_value_blocks

PRECISIONS = ("float32", "bfloat16", "float16")
Row = namedtuple("Row", "memory texts lora explained")
ROWS = {"zero-shot": Row(False, "hand-written", False, "hand-written prompts, no shots"),
        "memory": Row(True, None, False, "memory of good patches alone"),
        "text": Row(False, "learned", True, "learned prompts and LoRA, no memory"),
        "lora-off": Row(True, "learned", False, "memory and learned prompts, LoRA switched off"),
        "adapted": Row(True, "learned", True, "all together")}
Features = namedtuple("Features", "tokens patches whole size")  # of a batch, see `Detector.encode`


class Detector:
    """Few-shot anomaly detector for one product on top of a CLIP, which is frozen.

    clip: a `CLIP` with a vision transformer (else ValueError), changed in place: its image tower
    gets LoRA layers that start without effect;  noun: what the prompts call the product.
    """

    def __init__(self, clip, class_name, config=DetectorConfig()):
        if clip.config.is_resnet:
            raise ValueError("this CLIP has a ResNet as image tower; LoRA and maps need the tokens "
                             "of a vision transformer, take ViT-B/16 (search takes both)")
        self.clip, self.config = clip.requires_grad_(False), config
        self.class_name, self.device = class_name.replace("_", " "), clip.logit_scale.device
        self.resolution = config.resolution or clip.config.resolution
        self.precision = "float32"              # of the tower's products when pictures are scored
        self.generator = torch.Generator().manual_seed(config.seed)
        layers = len(clip.visual.blocks)
        self.last = config.blocks or value_value_blocks(layers)           # N
        add_lora(clip.visual, config.targets, range(layers - self.last, layers),
                 config.rank, config.alpha, self.generator)
        self.memory_states = config.memory_states or middle_states(layers, self.last)
        if max(self.memory_states) > layers - self.last:
            raise ValueError(f"memory_states {self.memory_states}: expected numbers up to "
                             f"{layers - self.last}, which enters the first block with LoRA; "
                             "adapt fewer blocks")
        tokenizer = default_tokenizer()
        words = len(tokenizer.encode(config.context))
        self.prompts = PromptLearner(clip, tokenizer, self.class_name, words, config.context)
        self.learned, self.banks, self.threshold, self.losses = None, {}, None, []
        self.level, self.weight = 1.0, config.text_weight

    @cached_property
    def hand_written(self):
        """Texts of the hand-written prompts, (2, E); after `fit` only the table needs them."""
        return ensemble_features(self.clip, default_tokenizer(), self.class_name)

    def prepare(self, image):
        """PIL picture -> (3, H, W) in [0, 1], as this detector looks at it."""
        if self.config.square:
            return to_square(image, self.resolution)
        return to_patches(image, self.resolution, self.clip.visual.patch)

    # ---- fit ----------------------------------------------------------------------------------

    def fit(self, pictures, report=lambda step, loss: None, resume=None):
        """Learns from good pictures alone.  Returns self.

        pictures: K >= 1 of (3, H, W) in [0, 1];  report(step, loss) is called after every step;
        unfinished: an `ResumePoint`, from which a training that was stopped goes on.
        """
        if self.config.steps:
            patch = self.clip.visual.patch
            shown = [strip for picture in pictures for strip in cut_strips(picture, patch)]
            self.losses = adapt(self.clip, self.prompts, shown, self.last, self.config,
                                self.generator, report, resume)
        with torch.no_grad():
            self.learned = self.prompts() if self.config.steps else self.hand_written
        self.build_memory(pictures)
        return self

    @torch.no_grad()
    def build_memory(self, pictures):
        """Fills the memory; level, weight and threshold by leaving one photograph out."""
        self.banks, alone = self.leave_one_out_banks(pictures)

        def scores():                                   # of every copy, turned as the memory's are
            return torch.cat([self.map_and_score(seen, "adapted", bank)[1]
                              for bank, _, copies in alone for seen in copies])
        self.level, self.weight = 1.0, 0.0              # first the memory alone, no texts
        self.level = max(scores().median().item(), 1e-6)
        self.weight = self.config.text_weight * text_share(self, alone)
        self.threshold = anomaly_map.threshold(scores(), self.config.false_positive_rate)

    def leave_one_out_banks(self, pictures):
        """{row: its memory of all pictures}, and of each picture: (a memory of the others, the
        picture, what is seen of its copies)."""
        image_ids, shown = zip(*self.rotated_copies(pictures))
        seen = {lora: [self.encode(p[None], lora) for p in shown] for lora in (True, False)}
        banks = {name: self.build_bank(seen[ROWS[name].lora], name) for name in ("lora-off", "adapted")}
        banks["memory"] = banks["adapted"].truncated(seen[True][0].tokens.shape[-1])
        alone = []
        for left_out in folds(len(pictures)):
            rest = [s for s, k in zip(seen[True], image_ids) if k not in left_out]
            bank = self.build_bank(rest or seen[True], "adapted")      # one alone has no others
            alone += [(bank, pictures[k], [s for s, image_id in zip(seen[True], image_ids) if image_id == k])
                      for k in left_out]
        return banks, alone

    def rotated_copies(self, pictures):
        """What is remembered: (number of the photograph, picture) of each shot and its turns."""
        turns = range(4 if self.config.rotations else 1)
        return [(k, torch.rot90(picture, turn, (1, 2))) for turn in turns
                for k, picture in enumerate(pictures)]

    def build_bank(self, seen, name):
        """The memory of a row, of what was seen of good pictures, each by itself."""
        generator = torch.Generator().manual_seed(self.config.seed)       # whatever training drew
        return MemoryBank.build([self.bank_features(each, name)[0] for each in seen], generator)

    def bank_features(self, seen, name):
        """What a row compares of each patch, (B, P, ...) of length one."""
        if not ROWS[name].texts:
            return seen.tokens
        return torch.cat([seen.tokens, F.normalize(seen.patches, dim=-1)], -1) / 2 ** 0.5

    def distances(self, seen, name, bank):
        """Step 3: how far each patch is from a memory, (B, P)."""
        return bank.distances(self.bank_features(seen, name))

    # ---- score --------------------------------------------------------------------------------

    def encode(self, pixels, lora=True):
        """Step 1.  pixels: (B, 3, H, W) in [0, 1].  Returns tokens for the memory (B, P, ...),
        patches (B, P, E), the whole (B, E) and the size (H, W)."""
        if max(pixels.shape[-2:]) > MAX_ASPECT * min(pixels.shape[-2:]):
            return self.encode_strips(pixels, lora)
        visual, half = self.clip.visual, self.precision != "float32"
        kind = getattr(torch, self.precision) if half else None
        with (nullcontext() if lora else disable_lora(visual),
              torch.autocast(self.device.type, kind, enabled=half)):
            x = visual.embed(normalise(pixels.to(self.device)))
            hidden = visual.hidden_states(x, len(visual.blocks) - 1)
            patches = visual.value_value(hidden, self.last)
            whole = visual.pool(visual.blocks[-1].cls_only(hidden[-1]))
        return Features(patch_descriptors(hidden, self.memory_states), patches.float(), whole.float(),
                    pixels.shape[-2:])

    def encode_strips(self, pixels, lora):
        """`encode` of a picture longer than the tower is used to: strip by strip, joined."""
        size, patch = pixels.shape[-2:], self.clip.visual.patch
        axis, cut = (1 if size[0] > size[1] else 2), strip_bounds(size, patch)
        parts = [self.encode(strip, lora) for strip in cut_strips(pixels, patch)]

        def joined(columns):                            # (B, P, ...): to the grid and back
            grids = [c.unflatten(1, (part.size[0] // patch, -1)) for c, part in zip(columns, parts)]
            kept = [grid.narrow(axis, low, high - low)
                    for grid, (*_, low, high) in zip(grids, cut)]
            return torch.cat(kept, axis).flatten(1, 2)
        tokens, patches, wholes, _ = zip(*parts)
        return Features(joined(tokens), joined(patches), torch.stack(wholes).mean(0), size)

    def map_and_score(self, seen, name, bank=None):
        """Steps 2 to 4: (maps (B, H, W), scores (B,)) on the CPU.

        bank: a memory other than the row's own, which does not know the picture.
        """
        row, odd, whole = ROWS[name], 0, 0.0
        if row.memory:
            odd = self.distances(seen, name, bank or self.banks[name]) / self.level     # (B, P)
        if row.texts:
            text = self.learned if row.texts == "learned" else self.hand_written
            scale, weight = self.clip.logit_scale.exp(), self.weight if row.memory else 1.0
            odd = odd + weight * text_map(seen.patches, text, scale)
            whole = weight * text_map(seen.whole[:, None], text, scale)[:, 0].cpu()     # (B,)
        sigma = self.config.sigma * min(seen.size) / 224
        maps = to_pixels(odd.cpu(), seen.size, sigma)
        return maps, image_score(maps, self.config.top_fraction, self.config.picture_weight * whole)

    @torch.no_grad()
    def rows(self, pixels):
        """Every row that this detector has, {row: (maps (B, H, W), scores (B,))}.

        pixels: (B, 3, H, W) in [0, 1].  Without shots there is "zero-shot" only; the memory of
        "lora-off" is not stored.
        """
        names = [name for name, row in ROWS.items() if name == "zero-shot"
                 or self.banks and (name in self.banks or not row.memory)]
        seen = {lora: self.encode(pixels, lora) for lora in {ROWS[name].lora for name in names}}
        return {name: self.map_and_score(seen[ROWS[name].lora], name) for name in names}

    @torch.no_grad()
    def score(self, pixels):
        """(maps (B, H, W), scores (B,)) of the last row there is."""
        name = "adapted" if self.banks else "zero-shot"
        return self.map_and_score(self.encode(pixels, ROWS[name].lora), name)

    def pixel_threshold(self, maps, scores):
        """From which value on a pixel of each map is suspicious, (B,): where the map alone would
        carry its picture over the threshold, given what the whole picture adds to the score."""
        return self.threshold - (scores - image_score(maps, self.config.top_fraction))

    def parameters(self):
        """(trainable, total) numbers of parameters."""
        context = self.prompts.context.numel()
        lora = sum(p.numel() for p in self.clip.parameters() if p.requires_grad)
        return lora + context, sum(p.numel() for p in self.clip.parameters()) + context

    def delta_norms(self):
        """How far LoRA moved each adapted projection: {name: norm of its delta}."""
        return delta_norms(self.clip.visual)

    # ---- save and load ------------------------------------------------------------------------

    def save(self, folder, weights):
        """Writes adapter.pt (what was learned; never the base weights) and memory.pt into a folder.

        weights: the `Weights` that the base model came from; their sha256 ties the adapter to them.
        """
        detector_files.save_detector(self, folder, weights)

    @classmethod
    def load(cls, folder, clip, weights):
        """The detector that `save` wrote, on a freshly loaded base model.

        Raises ValueError if the adapter belongs to other base weights or another version.
        """
        return detector_files.load_detector(cls, folder, clip, weights)


def middle_states(layers, last):
    """Hidden states of the memory: half and three quarters of the way, at most what enters LoRA."""
    frozen = layers - last                      # state n enters block n
    return tuple(sorted({min(max(1, layers // 2), frozen), min(-(-3 * layers // 4), frozen)}))


def folds(count, most=8):
    """Numbers of the photographs that are left out together: one each, or as few as make 8 parts."""
    return [range(count)[k::min(count, most)] for k in range(min(count, most))]


def demo():
    """An untrained toy tower and noise pictures: only the mechanism shows, not a detector."""
    generator = torch.Generator().manual_seed(0)
    config = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                        text_width=64, text_layers=1)
    clip = CLIP(config).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 96, generator=generator).clamp(-1, 1)
    detector = Detector(clip, "plate", DetectorConfig(steps=20, n_train_images=32, batch=8, rank=2, alpha=2))
    trained, total = detector.parameters()
    print(f"training {trained:,} of {total:,} parameters on {len(good) - 1} good pictures")
    detector.fit(good[:4])
    print(f"loss {detector.losses[0]:.3f} -> {detector.losses[-1]:.3f}, "
          f"LoRA moved by {sum(detector.delta_norms().values()):.3f}")
    bad = good[4:].clone()
    bad[0, :, 16:40, 16:40] = 0.1
    for name, picture in (("good", good[4:]), ("defective", bad)):
        scores = {row: round(s.item(), 3) for row, (_, s) in detector.rows(picture).items()}
        print(f"{name:9s} {scores}")
    print(f"threshold {detector.threshold:.3f}, from the good pictures alone")


if __name__ == "__main__":
    demo()
