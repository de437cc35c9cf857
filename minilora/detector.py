"""The parts put together: fit CLIP to K good pictures, score pictures, save and load the result.

Claim: a frozen CLIP with (1) a memory of good patches and (2) prompts and low-rank corrections
learned on pasted defects separates good from defective pictures of one product.

    fit     adapt (adapt.py), then fill the memory and set the threshold, all from good pictures
    score   five rows, so that the use of every part stays visible (see ROWS)

Pasted defects are not what a factory finds, so what LoRA has learned from them counts half: the
text map is the mean of one with LoRA and one without (Wortsman et al. 2022, "WiSE-FT", take the
mean of the weights). How "anomalous" the whole picture looks to the frozen tower is added to its
score.

Leaves out: choosing anything by test pictures, several products in one model.
Symbols: K shots, B images, N shots and their copies, P patches, W width, E embedding, R resolution.
"""
from functools import cached_property

import torch

from minilora import anomaly, stored, trial
from minilora.adapt import adapt
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, CLIPConfig
from minilora.coop import PromptLearner, ensemble_features
from minilora.images import augment
from minilora.lora import add_lora, delta_norms
from minilora.memory import Memory
from minilora.settings import Settings
from minilora.sight import Sight

ROWS = {"zero-shot": "hand-written prompts, no shots",
        "memory": "frozen features, memory only",
        "text": "learned prompts, LoRA on and off, no memory",
        "lora-off": "learned prompts and memory, LoRA switched off",
        "adapted": "all together"}


class Detector(Sight):
    """Few-shot anomaly detector for one product on top of a CLIP, which is frozen.

    clip: a `CLIP`, changed in place (its image tower gets LoRA layers that start without effect);
    noun: what the prompts call the product.
    """

    def __init__(self, clip, noun, settings=Settings()):
        super().__init__(clip, settings)
        self.noun = noun.replace("_", " ")
        self.generator = torch.Generator().manual_seed(settings.seed)
        add_lora(clip.visual, settings.targets, range(self.first, len(clip.visual.blocks) + 1),
                 settings.rank, settings.alpha, self.generator)
        tokenizer = default_tokenizer()
        self.prompts = PromptLearner(clip, tokenizer, self.noun, init=settings.context,
                                     length=len(tokenizer.encode(settings.context)))
        self.learned = None                                              # (2, E) by `fit`
        self.text_share = 1.0                   # of the text map, see trial.py
        self.memory, self.threshold, self.losses = None, None, []

    @cached_property
    def hand_written(self):
        """Texts of the hand-written prompts, (2, E); after `fit` only the table needs them."""
        return ensemble_features(self.clip, default_tokenizer(), self.noun)

    # ---- fit ----------------------------------------------------------------------------------

    def fit(self, pictures, report=lambda step, loss: None, unfinished=None):
        """Learns from good pictures alone.  Returns self.

        pictures: (K, 3, R, R) in [0, 1], K >= 1;  report(step, loss) is called after every step;
        unfinished: an `Unfinished`, from which a training that was stopped goes on.
        """
        if self.settings.steps:
            self.losses = adapt(self.clip, self.prompts, pictures, self.first, self.settings,
                                self.generator, report, unfinished)
        with torch.no_grad():
            self.learned = self.prompts() if self.settings.steps else self.hand_written
        self.remember(pictures)
        return self

    @torch.no_grad()
    def remember(self, pictures):
        """Fills the memory with patches of the shots and sets the threshold."""
        shown, owners, turns = self.copies_of(pictures)
        count = len(shown) // turns                         # of copies that are not turned
        tokens, text, whole = [], [], []
        for k in range(0, len(shown), self.settings.batch):
            looks = self.looks(shown[k:k + self.settings.batch], texts=k < count)
            tokens.append(self.patch_features(looks))
            if k < count:
                text.append(self.text_map(looks))
                whole.append(self.picture_probability(looks, self.learned))
        # a single photograph does not show how much others differ in place
        nearby = self.settings.nearby if len(pictures) > 1 else 0.0
        self.memory = [Memory.of(torch.cat(scale, dim=1), owners, turns, nearby,
                                 1 / len(tokens[0])) for scale in zip(*tokens)]
        self.weigh(shown[:count], owners)
        left_out = self.mean_map([m.left_out for m in self.memory])
        _, scores = self.judged(self.fuse(left_out, torch.cat(text)[:count]),
                                torch.cat(whole)[:count])
        self.threshold = anomaly.threshold(scores, self.settings.false_positive_rate,
                                           len(pictures))

    def weigh(self, copies, owners):
        """How much each size of the memory counts, and the text map beside it (trial.py).

        copies: of the shots, the first of `owners`.
        """
        if not self.settings.trial:
            return
        generator = torch.Generator().manual_seed(self.settings.seed)
        shown, masks = trial.pasted(copies[:trial.TRIALS].cpu(), self.settings.defects, generator)
        parts = []
        for part, own in zip(shown.split(self.settings.batch),
                             owners[:len(shown)].split(self.settings.batch)):
            looks = self.looks(part)
            scores = [m.score(f, own, owners)
                      for m, f in zip(self.memory, self.patch_features(looks))]
            scores.append(self.text_probability(self.frozen_patches(looks[1]), self.hand_written))
            parts.append(list(map(self.to_map, scores)))
        *sizes, text = (torch.cat(part) for part in zip(*parts))
        weights = trial.weights([trial.error(found, masks) for found in sizes])
        for memory, weight in zip(self.memory, weights):
            memory.weight = weight
        whole = sum(weight * found for weight, found in zip(weights, sizes))
        self.text_share = min(1.0, trial.error(whole, masks) / trial.error(text, masks))

    def copies_of(self, pictures):
        """The shots and slightly moved and relit copies; then all of them in three more directions.

        Returns (pictures (N, 3, R, R), owners (N,): which photograph each comes from, directions).
        Many shots need fewer copies, and have no room for them.  A single shot has no others to be
        compared with, so there every copy counts as one of its own.
        """
        room = self.settings.remembered // len(pictures)
        generator = torch.Generator().manual_seed(self.settings.seed)   # whatever training drew
        turns = 4 if self.settings.turns and room >= 4 else 1
        copies = torch.cat([pictures] + [
            augment(pictures, generator, turns=False, flips=False, angle=2, shift=0.01,
                    brightness=0.05, contrast=0.05, gamma=0.05)
            for _ in range(min(self.settings.copies, room // turns) - 1)])
        shown = torch.cat([torch.rot90(copies, k, (2, 3)) for k in range(turns)])
        owners = torch.arange(len(shown))
        return shown, owners if len(pictures) == 1 else owners % len(pictures), turns

    # ---- score --------------------------------------------------------------------------------

    def mean_map(self, scores):
        """[(B, P)], one a scale -> (B, R, R), the mean over the scales by their weights."""
        return sum(m.weight * self.to_map(s) for m, s in zip(self.memory, scores))

    def memory_map(self, looks):
        """(B, R, R), from the hidden states."""
        return self.mean_map([m.score(f) for m, f in zip(self.memory, self.patch_features(looks))])

    def text_maps(self, looks):
        """Two (B, R, R) by learned prompts: with LoRA off, with LoRA on."""
        return [self.to_map(self.text_probability(patches(looks[1]), self.learned))
                for patches in (self.frozen_patches, self.adapted_patches)]

    def text_map(self, looks):
        """(B, R, R), the mean of both."""
        return self.halves(*self.text_maps(looks))

    def halves(self, off, on):
        """What LoRA has learned counts half."""
        return (off + on) / 2

    def fuse(self, memory, text):
        """Memory map plus weighted text map, both (B, R, R)."""
        return memory + self.settings.text_weight * self.text_share * text

    def judged(self, maps, picture=0.0):
        """(map, score) on the CPU.  maps: (B, R, R);  picture: probability of the whole, (B,)."""
        maps, whole = maps.cpu(), torch.as_tensor(self.settings.picture_weight * picture).cpu()
        return maps, anomaly.image_score(maps, self.settings.top, whole)

    @torch.no_grad()
    def rows(self, pixels):
        """Every row that this detector has.  pixels: (B, 3, R, R) in [0, 1].

        Returns {row: (maps (B, R, R), scores (B,))} on the CPU; without shots only "zero-shot".
        """
        looks = self.looks(pixels)
        hand = self.text_probability(self.frozen_patches(looks[1]), self.hand_written)
        rows = {"zero-shot": self.judged(self.to_map(hand),
                                         self.picture_probability(looks, self.hand_written))}
        if self.memory is not None:
            memory, both = self.memory_map(looks), self.text_maps(looks)
            without, text = both[0], self.halves(*both)
            whole = self.picture_probability(looks, self.learned)
            rows |= {"memory": self.judged(memory), "text": self.judged(text, whole),
                     "lora-off": self.judged(self.fuse(memory, without), whole),
                     "adapted": self.judged(self.fuse(memory, text), whole)}
        return rows

    @torch.no_grad()
    def score(self, pixels):
        """(map (B, R, R), score (B,)) by all there is: the row "adapted", or "zero-shot"."""
        if self.memory is None:
            return self.rows(pixels)["zero-shot"]
        looks = self.looks(pixels)
        return self.judged(self.fuse(self.memory_map(looks), self.text_map(looks)),
                           self.picture_probability(looks, self.learned))

    def line(self, maps, scores):
        """From which value on a pixel of each map is suspicious, (B,).

        Where the map alone would carry its picture over the threshold, given what the whole picture
        adds to the score.
        """
        return self.threshold - (scores - anomaly.image_score(maps, self.settings.top))

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
        stored.save(self, folder, weights)

    @classmethod
    def load(cls, folder, clip, weights):
        """The detector that `save` wrote, on a freshly loaded base model.

        Raises ValueError if the adapter belongs to other base weights or another version.
        """
        return stored.load(cls, folder, clip, weights)


def demo():
    """An untrained toy tower and noise pictures: only the mechanism shows, not a detector."""
    generator = torch.Generator().manual_seed(0)
    config = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                        text_width=64, text_layers=1)
    clip = CLIP(config).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    detector = Detector(clip, "plate", Settings(steps=20, pool=32, batch=8, rank=2, alpha=2))
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
