"""One lever at a time: what each choice gives or costs, against the plain path.

    python -m bench.ablation --data FOLDER --levers memory

Scored on the even-numbered test pictures of photographs and scenes, where defaults may be chosen;
the odd-numbered ones stay for the results.  Cells are kept as in accuracy.py.  Levers of the memory
are judged by the row "memory", without training; the others by "adapted".  A lever earns its place
in minilora if it lifts the mean of all classes by half a point and no class loses more than one;
the others live here alone, as small detectors of their own.
Leaves out: combinations of levers.
"""
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from unittest.mock import patch

import torch
import torch.nn.functional as F

from bench import accuracy
from bench.tables import write
from minilora import __version__
from minilora.anomaly_map import image_score
from minilora.auroc import auroc
from minilora.bpe import default_tokenizer
from minilora.checkpoint.weights import load_clip
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner
from minilora.data.images import augment, to_patches
from minilora.data.mvtec import few_shot, find_data, load_class
from minilora.detector import ROWS, Detector
from minilora.io.files import digest_of
from minilora.memory_bank import MemoryBank
from minilora.report import results
from minilora.runs.run_class import load_masks, prepare_pictures
from minilora.scenes import scene
from minilora.synthetic.defects import paste_anywhere
from minilora.synthetic.shapes import find_object
from minilora.train import adapt, adaptation_loss

GAIN, LOSS = 0.5, 1.0           # points of image AUROC: gain of the mean, loss of the worst class


# ---- the memory ---------------------------------------------------------------------------------

class OtherSize(Detector):
    """The memory looks at a second size, too, taken from the file's own pixels; mean of both."""
    factor = 2.0

    def prepare(self, image):
        """In the larger of both sizes."""
        return to_patches(image, round(self.resolution * max(1, self.factor)),
                          self.clip.visual.patch)

    def at(self, pixels, factor):
        """The same picture, its shorter side `factor` times the resolution."""
        patch, have = self.clip.visual.patch, min(pixels.shape[-2:])
        size = [max(1, round(side * factor * self.resolution / have / patch)) * patch
                for side in pixels.shape[-2:]]
        if size == list(pixels.shape[-2:]):
            return pixels
        return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)

    def encode(self, pixels, lora=True):
        one = super().encode(self.at(pixels, 1), lora)
        other = super().encode(self.at(pixels, self.factor), False)
        return one._replace(tokens=(one, other))

    def build_bank(self, seen, name):
        return tuple(super(OtherSize, self).build_bank([s.tokens[k] for s in seen], name)
                     for k in (0, 1))

    def distances(self, seen, name, bank):
        found = []
        for own, part in zip(bank, seen.tokens):
            grid = [side // self.clip.visual.patch for side in part.size]
            found.append(own.distances(part.tokens).unflatten(1, (1, *grid)))
        found[1] = F.interpolate(found[1], found[0].shape[2:], mode="bilinear", antialias=True)
        return ((found[0] + found[1]) / 2).flatten(1)


class HalfSize(OtherSize):
    factor = 0.5


class Relit(Detector):
    """The shots are remembered a second time, relit."""

    def rotated_copies(self, pictures):
        generator = torch.Generator().manual_seed(self.config.seed)
        relit = [augment(p[None], generator, rotations=False, flips=False, angle=2, shift=0.01)[0]
                 for p in pictures]
        return super().rotated_copies(pictures) + super().rotated_copies(relit)


class TurnsDecided(Detector):
    """Turned copies are kept only if the shots are nearer to each other with them."""

    def rotated_copies(self, pictures):
        def apart(copies):
            seen, far = [self.encode(p[None], False) for _, p in copies], 0
            for k, picture in enumerate(pictures):
                rest = [s for s, (owner, _) in zip(seen, copies) if owner != k]
                far += self.distances(self.encode(picture[None], False), "memory",
                                      self.build_bank(rest, "memory")).mean().item()
            return far
        turned, plain = super().rotated_copies(pictures), list(enumerate(pictures))
        return turned if len(pictures) > 1 and apart(turned) < 0.95 * apart(plain) else plain


class Unturned(Detector):
    """The shots are remembered as they are."""

    def rotated_copies(self, pictures):
        return list(enumerate(pictures))


class Whole(Detector):
    """No coreset: all patches are kept."""

    def build_bank(self, seen, name):
        return MemoryBank(torch.cat([s.tokens[0] for s in seen]))


class Placed(Unturned):
    """A patch is compared with patches around the same place only, of shots that are not turned."""
    reach = 1 / 14                  # of the sides

    def places(self, seen):
        """(P, 2), each in [0, 1]."""
        rows, columns = (side // self.clip.visual.patch for side in seen.size)
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows,
                              (torch.arange(columns) + 0.5) / columns, indexing="ij")
        return torch.stack([y, x], -1).flatten(0, 1)

    def build_bank(self, seen, name):
        return torch.cat([s.tokens[0] for s in seen]), torch.cat([self.places(s) for s in seen])

    def distances(self, seen, name, bank):
        tokens, where = bank
        near = (self.places(seen)[:, None] - where).abs().amax(-1) <= self.reach + 1e-4
        return torch.stack([1 - (t @ tokens.T).where(near, -1.0).amax(1) for t in seen.tokens])


class PlacedFar(Placed):
    reach = 3 / 14


class LocalScale(Detector):
    """Distances are divided by how far the nearest remembered patch is from other photographs."""

    def build_bank(self, seen, name):
        tokens = torch.cat([s.tokens[0] for s in seen])
        owner = torch.cat([torch.full((s.tokens.shape[1],), k) for k, s in enumerate(seen)])
        keep = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:6000]
        tokens, owner = tokens[keep], owner[keep]
        loose = torch.cat([1 - (t @ tokens.T).masked_fill(o[:, None] == owner, -1).amax(1)
                           for t, o in zip(tokens.split(500), owner.split(500))]).clamp(max=1)
        return tokens, loose

    def distances(self, seen, name, bank):
        tokens, loose = bank
        best, number = (seen.tokens @ tokens.T).max(-1)
        return (1 - best) / (loose[number] + loose.mean())


class Residual(Detector):
    """What principal components of the good patches leave over, in place of the nearest
    (SubspaceAD)."""
    kept = 0.99

    def build_bank(self, seen, name):
        tokens = torch.cat([s.tokens[0] for s in seen])
        variance, axes = torch.linalg.eigh((tokens - tokens.mean(0)).T.cov())
        share = variance.flip(0).cumsum(0) / variance.sum()
        return tokens.mean(0), axes.flip(1)[:, :int((share < self.kept).sum()) + 1]

    def distances(self, seen, name, bank):
        mean, axes = bank
        centred = seen.tokens - mean
        return (centred - centred @ axes @ axes.T).square().sum(-1)


class Foreground(Detector):
    """Patches of a plain background, as `find_object` sees it, count nothing when asked about."""

    def encode(self, pixels, lora=True):
        seen, there = super().encode(pixels, lora), []
        grid = [side // self.clip.visual.patch for side in seen.size]
        for picture in pixels:
            small = F.interpolate(picture[None], (224, 224), mode="bilinear", antialias=True)[0]
            cells, background = find_object(small.clamp(0, 1))
            cells = torch.ones_like(cells) if background is None else cells
            cells = F.adaptive_max_pool2d(cells[None].float(), grid)
            there.append(F.max_pool2d(cells, 3, 1, 1).flatten())
        return seen._replace(tokens=(seen.tokens, torch.stack(there)))

    def build_bank(self, seen, name):
        return super().build_bank([s._replace(tokens=s.tokens[0]) for s in seen], name)

    def distances(self, seen, name, bank):
        return bank.distances(seen.tokens[0]) * seen.tokens[1]


class Neighbours(Detector):
    """Each patch is the mean of the 3 x 3 around it, as in PatchCore."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        rows = seen.size[0] // self.clip.visual.patch
        grid = seen.tokens.transpose(1, 2).unflatten(2, (rows, -1))             # (B, W, rows, ...)
        grid = F.avg_pool2d(grid, 3, 1, 1, count_include_pad=False)
        return seen._replace(tokens=F.normalize(grid.flatten(2).transpose(1, 2), dim=-1))


class Centred(Detector):
    """The mean of the shots' patches is taken from all, before they are made of length one."""

    def build_bank(self, seen, name):
        mean = torch.cat([s.tokens[0] for s in seen]).mean(0)
        return mean, super().build_bank([s._replace(tokens=F.normalize(s.tokens - mean, dim=-1))
                                      for s in seen], name)

    def distances(self, seen, name, bank):
        mean, bank = bank
        return bank.distances(F.normalize(seen.tokens - mean, dim=-1))


class ThreeNearest(Detector):
    """The mean of the distances to the three nearest remembered patches."""

    def distances(self, seen, name, bank):
        return torch.stack([1 - (t @ bank.tokens.T).topk(3).values.mean(1) for t in seen.tokens])


class MeanOfLayers(Detector):
    """The mean of the layers' tokens in place of one beside the other."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        parts = seen.tokens.unflatten(-1, (len(self.memory_states), -1)).mean(-2)
        return seen._replace(tokens=F.normalize(parts, dim=-1))


# ---- texts and LoRA -----------------------------------------------------------------------------

class MeanWithFrozen(Detector):
    """The text map is the mean of one with LoRA and one without."""

    def encode(self, pixels, lora=True):
        seen = super().encode(pixels, lora)
        both = torch.cat([seen.patches, super().encode(pixels, False).patches], -1)
        return seen._replace(patches=both)

    def bank_features(self, seen, name):
        return super().bank_features(
            seen._replace(patches=seen.patches[..., :self.clip.config.embed]), name)

    def map_and_score(self, seen, name, bank=None):
        on, off = (seen._replace(patches=part) for part in seen.patches.chunk(2, -1))
        maps, scores = super().map_and_score(on, name, bank)
        if name != "adapted":
            return maps, scores
        texts = [super(MeanWithFrozen, self).map_and_score(part, "text")[0] for part in (on, off)]
        mean = maps + self.weight / 2 * (texts[1] - texts[0])
        top = self.config.top_fraction
        return mean, scores - image_score(maps, top) + image_score(mean, top)


class Unified(Detector):
    """One context of 16 vectors from noise for both states, as in CoOp's code."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts = PromptLearner(self.clip, default_tokenizer(), self.class_name, 16, class_specific=False,
                                     generator=self.generator)


class HandWritten(Detector):
    """LoRA is trained against the hand-written prompts, which stay as they are."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts.forward = lambda: self.hand_written.detach()


class ContextAlone(Detector):
    """CoOp without LoRA: B stays zero."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.clip.visual.requires_grad_(False)


class OrdinaryPath(Detector):
    """The text map compares the last block's tokens, not those of the value-value path."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        visual = self.clip.visual
        visual.value_value = lambda states, last: visual.ln_post(
            visual.blocks[-1](states[-1])[:, 1:]) @ visual.proj


class Alternating(Detector):
    """LoRA and context are trained in turn, four times a quarter of the steps, not together."""

    def fit(self, pictures, report=lambda step, loss: None, resume=None):
        lora = [p for p in self.clip.visual.parameters() if p.requires_grad]
        quarter = replace(self.config, steps=self.config.steps // 4)
        for turn in range(4):
            for parameter in lora:
                parameter.requires_grad_(turn % 2 == 0)
            self.prompts.requires_grad_(turn % 2 == 1)
            adapt(self.clip, self.prompts, pictures, self.last, quarter, self.generator, report)
        self.learned = self.prompts().detach()
        self.build_memory(pictures)
        return self


class FrozenMemory(Detector):
    """The memory compares tokens of the frozen blocks alone."""

    def bank_features(self, seen, name):
        return seen.tokens


class AdaptedMemory(Detector):
    """The memory compares patches of the adapted blocks alone."""

    def bank_features(self, seen, name):
        return seen.tokens if name == "memory" else F.normalize(seen.patches, dim=-1)


def together(clip, prompts, entering, coverage, first, weights, last=None):
    """The loss of train.py, and how far each good patch lies from the nearest good patch of another
    picture of the batch: mean of 1 - cosine."""
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


class Together(Detector):
    """Training draws good patches of different pictures together."""
    patched = {"adaptation_loss": together}


@cache
def drawn():
    """A picture of each drawn product."""
    generator = torch.Generator().manual_seed(0)
    return [scene.draw(scene.product(name)[0], generator).picture for name in scene.CLASSES]


def from_scenes(pixels, generator, kind, others):
    """`paste_anywhere` with material of drawn products."""
    return paste_anywhere(pixels, generator, kind, drawn())


class ForeignTextures(Detector):
    """Pasted defects take their material from pictures of other products."""
    patched = {"paste_anywhere": from_scenes}


@dataclass(frozen=True)
class Lever:
    config: dict = field(default_factory=dict)
    detector: type = Detector


MEMORY = {
    "plain": Lever(),
    "size 2 beside 1": Lever({}, OtherSize),
    "size 0.5 beside 1": Lever({}, HalfSize),
    "resolution 336": Lever({"resolution": 336}),
    "resolution 448": Lever({"resolution": 448}),
    "square": Lever({"square": True}),
    "relit copies": Lever({}, Relit),
    "no turned copies": Lever({}, Unturned),
    "turned copies decided by the shots": Lever({}, TurnsDecided),
    "places, one patch around": Lever({}, Placed),
    "places, three patches around": Lever({}, PlacedFar),
    "local scale": Lever({}, LocalScale),
    "residual of PCA": Lever({}, Residual),
    "foreground alone": Lever({}, Foreground),
    "no coreset": Lever({}, Whole),
    "mean of 3 x 3 patches": Lever({}, Neighbours),
    "tokens less their mean": Lever({}, Centred),
    "three nearest": Lever({}, ThreeNearest),
    "mean of two layers": Lever({}, MeanOfLayers),
    "states 1, 3": Lever({"memory_states": (1, 3)}),
    "states 2, 3": Lever({"memory_states": (2, 3)}),
    "states 3, 4": Lever({"memory_states": (3, 4)}),
    "state 4": Lever({"memory_states": (4,)}),
    "sigma 2": Lever({"sigma": 2.0}),
    "sigma 8": Lever({"sigma": 8.0}),
    "maximum": Lever({"top_fraction": 0.0}),
    "top 1 %": Lever({"top_fraction": 0.01}),
}
PARTS = {
    "default": Lever(),
    "memory of frozen tokens alone": Lever({}, FrozenMemory),
    "whole picture not added": Lever({"picture_weight": 0.0}),
    "texts not added": Lever({"text_weight": 0.0, "picture_weight": 0.0}),
    "mean with the frozen map": Lever({}, MeanWithFrozen),
    "relit copies": Lever({}, Relit),
    "ordinary path": Lever({}, OrdinaryPath),
    "whole picture with weight 1": Lever({"picture_weight": 1.0}),
    "text weight 1": Lever({"text_weight": 1.0}),
}
LORA = {
    "default": Lever(),
    "no adaptation": Lever({"steps": 0}),
    "context alone": Lever({}, ContextAlone),
    "LoRA alone, hand-written prompts": Lever({}, HandWritten),
    "LoRA on q, v": Lever({"targets": ("q", "v")}),
    "LoRA on v, out": Lever({"targets": ("v", "out")}),
    "LoRA in 2 blocks": Lever({"blocks": 2, "memory_states": (2, 3)}),
    "memory of frozen tokens alone": Lever({}, FrozenMemory),
    "memory of adapted patches alone": Lever({}, AdaptedMemory),
    "unified context, 16 from noise": Lever({}, Unified),
    "LoRA and context in turn": Lever({}, Alternating),
    "good patches drawn together": Lever({}, Together),
    "defects: material of other products": Lever({}, ForeignTextures),
    "100 steps": Lever({"steps": 100}),
    "300 steps": Lever({"steps": 300}),
    "100 steps, rate 5e-4": Lever({"steps": 100, "rate": 5e-4}),
    "1,000 steps": Lever({"steps": 1000}),
    "rank 16": Lever({"rank": 16, "alpha": 32}),
    "LoRA in 3 blocks": Lever({"blocks": 3, "memory_states": (1, 2)}),
    "rate 3e-4": Lever({"rate": 3e-4}),
    "rate 3e-3": Lever({"rate": 3e-3}),
    "defects: CutPaste alone": Lever({"defects": ("cutpaste", "scar")}),
    "focal loss alone": Lever({"losses": (1.0, 0.0, 0.0)}),
}
GROUPS = {"memory": MEMORY, "parts": PARTS, "lora": LORA}


def memory_alone(lever, config, data, options):
    """Metrics of the row "memory": nothing is trained, no text is asked."""
    detector = lever.detector(load_clip(options.model, options.device)[0], data.name, config)
    shots = prepare_pictures(few_shot(data.train, options.shots, config.seed), detector.prepare)
    with torch.no_grad():
        bank = detector.build_bank([detector.encode(p[None], lora=False)
                                 for _, p in detector.rotated_copies(shots)], "memory")
        found = [detector.map_and_score(detector.encode(p[None], lora=False), "memory", bank)
                 for p in prepare_pictures(data.test[::2], detector.prepare)]
    return two_metrics([m[0] for m, _ in found], torch.cat([s for _, s in found]), data.test[::2])


def adapted(lever, config, data, options):
    """Metrics of the row "adapted", and with prefix of "lora-off" and "text"."""
    detector = lever.detector(load_clip(options.model, options.device)[0], data.name, config)
    changed = getattr(lever.detector, "patched", {})
    with patch.multiple("minilora.train", **changed) if changed else nullcontext():
        detector.fit(prepare_pictures(few_shot(data.train, options.shots, config.seed),
                                   detector.prepare))
    names, maps, scores = ("adapted", "lora-off", "text"), {}, {}
    with torch.no_grad():
        for picture in prepare_pictures(data.test[::2], detector.prepare):
            seen = {lora: detector.encode(picture[None], lora) for lora in (True, False)}
            for name in names:
                found = detector.map_and_score(seen[ROWS[name].lora], name)
                maps.setdefault(name, []).append(found[0][0])
                scores.setdefault(name, []).append(found[1])
    out = {}
    for name in names:
        metrics = two_metrics(maps[name], torch.cat(scores[name]), data.test[::2])
        out |= {("" if name == "adapted" else f"{name} ") + k: v for k, v in metrics.items()}
    return out


def two_metrics(maps, scores, samples):
    """AUROC of pictures and of pixels; the others take longer than all the rest."""
    labels = torch.tensor([s.label for s in samples])
    masks = load_masks(samples, [tuple(m.shape) for m in maps])
    pixels = auroc(*(torch.cat([m.flatten() for m in column]) for column in (maps, masks)))
    return {"image_auroc": auroc(scores, labels), "pixel_auroc": pixels}


def classes(root, options):
    """{name in the table: `ClassData`}: photographs, then scenes, as "drawn gear"."""
    found = {name: load_class(root, name) for name in options.names}
    for name in options.scenes:
        drawn = scene.write_class(options.out / "scenes", name)
        found[f"drawn {name}"] = load_class(drawn.parent, name)
    return found


def verdicts(found, names):
    """What each lever does to the first one, in points: (title, header, rows of text).

    found: {(lever, class): [metrics of each seed]}.  A class's gain is the mean over seeds; image
    AUROC, since it decides.
    """
    levers = list(dict.fromkeys(lever for lever, _ in found))
    value = {key: 100 * statistics.mean(m["image_auroc"] for m in seeds)
             for key, seeds in found.items()}
    lines = []
    for lever in levers[1:]:
        gain = {name: value[lever, name] - value[levers[0], name] for name in names}
        drawn = [g for name, g in gain.items() if name.startswith("drawn ")]
        real = [g for name, g in gain.items() if not name.startswith("drawn ")]
        mean, worst = statistics.mean(gain.values()), min(gain, key=gain.get)
        stays = mean >= GAIN and gain[worst] >= -LOSS
        lines.append([lever, *(f"{statistics.mean(part):+.1f}" if part else "--"
                               for part in (real, drawn, list(gain.values()))),
                      f"{gain[worst]:+.1f} {worst}", "yes" if stays else "no"])
    return (f"against {levers[0]}, points of image AUROC",
            ["lever", "photographs", "scenes", "all", "worst class", "earns its place"], lines)


def main():
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.ablation", __doc__.split("\n")[0]
    p.add_argument("--levers", default="memory", choices=list(GROUPS))
    p.add_argument("--only", nargs="+", help="some of these levers, the first to compare with")
    p.add_argument("--scenes", nargs="*", default=list(scene.CLASSES), help="drawn classes")
    p.set_defaults(name="ablation", names=["bottle", "cookie", "magnetic_tile", "commutator"])
    options = p.parse_args()
    _, weights = load_clip(options.model)
    root = find_data(options.data)
    if root is None:
        p.error("--data: expected a folder in MVTec AD's layout")
    found, data = {}, classes(root, options)
    compute = memory_alone if options.levers == "memory" else adapted
    for label in options.only or GROUPS[options.levers]:
        lever = GROUPS[options.levers][label]
        for name, pictures in data.items():
            for seed in options.seeds:
                config = replace(DetectorConfig(seed=seed, steps=options.steps), **lever.config)
                mark = digest_of(compute.__name__, weights.sha256, name, len(pictures.test),
                                 options.shots, label, asdict(config), __version__)
                path = options.out / "cells" / f"even-{name.replace(' ', '-')}-{mark}.json"
                rows = accuracy.cell(path, mark, compute, lever, config, pictures, options)
                found.setdefault((label, name), []).append(rows)
                print(f"{name:18s} seed {seed}  {label:32s} "
                      f"{results.percent(rows['image_auroc'])} "
                      f"{results.percent(rows['pixel_auroc'])}", flush=True)
    row = "memory" if compute is memory_alone else "adapted"
    head = [f"row {row} on the even-numbered pictures; {options.shots} shots, seeds "
            f"{' '.join(map(str, options.seeds))}; weights {weights.name} "
            f"(sha256 {weights.sha256[:12]}…); minilora {__version__}; {time.strftime('%Y-%m-%d')}"]
    made = [verdicts(found, data), *accuracy.tables(found, list(data))]
    write(options.out, options.name, made, head, accuracy.numbers(found))


if __name__ == "__main__":
    main()
