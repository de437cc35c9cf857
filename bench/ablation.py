"""One lever at a time: what each choice gives or costs.

    python -m bench.ablation --class bottle cable --seeds 1 2 3

Scored on the even-numbered test pictures alone, where defaults may be chosen; the odd-numbered ones
stay for the results.  Cells are kept as in accuracy.py.  Most levers are a setting; those that
minilora does not offer, because they did not help, are small detectors of their own here.
Leaves out: combinations of levers.
"""
import time
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F

from bench import accuracy
from minilora import __version__, report, scenes
from minilora.adapt import continued
from minilora.baselines.winclip import WinCLIP
from minilora.checkpoint import load_clip
from minilora.data import few_shot, find_data, load_class
from minilora.detector import Detector
from minilora.files import digest_of
from minilora.job import SCORED, judge, load_pictures
from minilora.lora import merge
from minilora.settings import Settings


class Averaged(Detector):
    """The memory holds means of 3 x 3 patches, as PatchCore's does."""

    def patch_features(self, looks):
        def averaged(tokens):                                            # (layers, B, P, W)
            side = round(tokens.shape[2] ** 0.5)
            grid = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
            mean = F.avg_pool2d(grid, 3, 1, 1, count_include_pad=False)
            return mean.flatten(2).transpose(1, 2).view_as(tokens)
        return [averaged(tokens) for tokens in super().patch_features(looks)]


class AdaptedMemory(Detector):
    """The memory keeps what the adapted tower sees, at the resolution itself."""

    def patch_features(self, looks):
        seen = continued(self.clip.visual, looks[1], self.first)
        seen.append(self.clip.visual.blocks[-1](seen[-1]))
        return [torch.stack([seen[n][:, 1:] for n in self.memory_layers])]


class OrdinaryPath(Detector):
    """The text map compares the last block's tokens, not those of the value-value path."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        visual = self.clip.visual
        last = len(visual.blocks) - 1
        visual.value_value = lambda states: visual.ln_post(
            visual.blocks[last](states[last])[:, 1:]) @ visual.proj


class WithoutLoRA(Detector):
    """CoOp beside the memory; no LoRA layer is there."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.clip.visual = merge(self.clip.visual)                      # as it was: B = 0


class HandWritten(Detector):
    """LoRA is trained against the hand-written prompts, which stay as they are."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts.forward = lambda: self.hand_written.detach()


class BothPrompts(Detector):
    """The text map is the mean of the maps by learned and by hand-written prompts."""

    def text_probability(self, patches, text):
        found = super().text_probability(patches, text)
        if text is not self.learned:
            return found
        return (found + super().text_probability(patches, self.hand_written)) / 2


class LoRAOn(Detector):
    """The text map is that of the adapted tower alone."""

    def halves(self, off, on):
        return on


class LoRAOff(Detector):
    """The text map is that of the frozen tower alone, by learned prompts."""

    def halves(self, off, on):
        return off


class PictureAtOneSize(Detector):
    """The whole picture is looked at in one size."""

    def picture_probability(self, looks, text):
        return super().picture_probability({1: looks[1]}, text)


class WithWindows(Detector):
    """The memory map is joined by that of WinCLIP+'s windows."""

    def remember(self, pictures):
        self.windows = WinCLIP(self.clip, self.noun, self.resolution).fit(pictures)
        levels = [self.windows.score(p[None])[0].mean() for p in pictures]
        self.level = torch.stack(levels).mean()
        super().remember(pictures)

    def looks(self, pixels, texts=True):
        self.pixels = pixels
        return super().looks(pixels, texts)

    def memory_map(self, looks):
        windows = self.windows.score(self.pixels)[0] / self.level
        return super().memory_map(looks) + windows.to(self.device)


@dataclass(frozen=True)
class Lever:
    settings: dict = field(default_factory=dict)
    detector: type = Detector


LEVERS = {
    "default": Lever(),
    "memory layers 1, 2": Lever({"memory_layers": (1, 2)}),
    "memory layers 2, 3": Lever({"memory_layers": (2, 3)}),
    "memory layers 1, 2, 3": Lever({"memory_layers": (1, 2, 3)}),
    "memory layers 4, 5": Lever({"memory_layers": (4, 5), "scales": (1.0,)}),
    "memory layers 4, 5 with LoRA": Lever({"memory_layers": (4, 5)}, AdaptedMemory),
    "3 x 3 patches averaged": Lever({}, Averaged),
    "one size: 2": Lever({"scales": (2.0,)}),
    "one size: 1": Lever({"scales": (1.0,)}),
    "one size: 0.5": Lever({"scales": (0.5,)}),
    "two sizes: 1, 0.5": Lever({"scales": (1.0, 0.5)}),
    "three sizes: 1.5, 1, 0.5": Lever({"scales": (1.5, 1.0, 0.5)}),
    "four sizes: 2, 1.5, 1, 0.5": Lever({"scales": (2.0, 1.5, 1.0, 0.5)}),
    "resolution 336": Lever({"resolution": 336}),
    "WinCLIP's windows added": Lever({}, WithWindows),
    "no turned copies": Lever({"turns": False}),
    "place not looked at": Lever({"nearby": 0.0}),
    "no moved and relit copies": Lever({"copies": 1}),
    "3 moved and relit copies": Lever({"copies": 3}),
    "text map not added": Lever({"text_weight": 0.0}),
    "text map with weight 0.5": Lever({"text_weight": 0.5}),
    "text map with weight 1": Lever({"text_weight": 1.0}),
    "text map with weight 2": Lever({"text_weight": 2.0}),
    "text map with LoRA alone": Lever({}, LoRAOn),
    "text map without LoRA": Lever({}, LoRAOff),
    "whole picture not added": Lever({"picture_weight": 0.0}),
    "whole picture with weight 1": Lever({"picture_weight": 1.0}),
    "whole picture at one size": Lever({}, PictureAtOneSize),
    "nothing weighed by pasted defects": Lever({"trial": False}),
    "ordinary path for the text map": Lever({}, OrdinaryPath),
    "hand-written prompts": Lever({}, HandWritten),
    "hand-written and learned prompts": Lever({}, BothPrompts),
    "image score: maximum": Lever({"top": 0.0}),
    "image score: top 1 %": Lever({"top": 0.01}),
    "image score: top 5 %": Lever({"top": 0.05}),
    "sigma 1": Lever({"sigma": 1.0}),
    "sigma 8": Lever({"sigma": 8.0}),
    "no LoRA": Lever({}, WithoutLoRA),
    "LoRA on q, v": Lever({"targets": ("q", "v")}),
    "LoRA in the last third": Lever({"blocks": 2}),
    "LoRA in all blocks": Lever({"blocks": 5, "memory_layers": (1, 3)}),
    "rank 1": Lever({"rank": 1, "alpha": 2}),
    "rank 16": Lever({"rank": 16, "alpha": 32}),
    "no adaptation": Lever({"steps": 0}),
    "30 steps": Lever({"steps": 30}),
    "300 steps": Lever({"steps": 300}),
    "batch of 16": Lever({"batch": 16}),
    "pool of 80": Lever({"pool": 80}),
    "pool of 320": Lever({"pool": 320}),
    "training pictures turned by 5 degrees": Lever({"angle": 5.0}),
    "focal loss alone": Lever({"losses": (1.0, 0.0, 0.0)}),
    "dice loss alone": Lever({"losses": (0.0, 1.0, 0.0)}),
    "cross-entropy of pictures alone": Lever({"losses": (0.0, 0.0, 1.0)}),
    "defects: CutPaste alone": Lever({"defects": ("cutpaste", "scar")}),
    "defects: Perlin noise alone": Lever({"defects": ("perlin",)}),
}


def compute(lever, settings, data, options):
    """{row: metrics} on the even-numbered test pictures."""
    clip, _ = load_clip(options.model, options.device)
    resolution = settings.resolution or clip.config.resolution
    samples = data.test[::2]
    good = load_pictures(few_shot(data.train, options.shots, settings.seed), resolution)
    detector = lever.detector(clip, data.name, settings).fit(good)
    rows = judge(detector, load_pictures(samples, resolution).split(SCORED))
    return accuracy.with_metrics(rows, samples)


def main():
    p = accuracy.parser()
    p.prog, p.description = "python -m bench.ablation", __doc__.split("\n")[0]
    p.add_argument("--levers", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    p.set_defaults(name="ablation")
    options = p.parse_args()
    _, weights = load_clip(options.model)
    root, found = find_data(options.data), {}
    source = "scenes" if root is None else "pictures"
    for name in options.names:
        data = load_class(root or scenes.write_class(options.out / "scenes", name).parent, name)
        for label in options.levers:
            lever = LEVERS[label]
            for seed in options.seeds:
                settings = replace(Settings(seed=seed, steps=options.steps,
                                            resolution=options.resolution), **lever.settings)
                mark = digest_of("even", weights.sha256, source, name, options.shots,
                                 lever.detector.__name__, asdict(settings), __version__)
                path = options.out / "cells" / f"even-{source}-{name}-{mark}.json"
                rows = accuracy.cell(path, mark, compute, lever, settings, data, options)
                found.setdefault((label, name), []).append(rows["adapted"])
                print(f"{name:14s} seed {seed}  {label:32s} "
                      f"{report.percent(rows['adapted']['image_auroc'])}", flush=True)
    head = [f"row adapted on the even-numbered pictures; {source}; {options.shots} shots, seeds "
            f"{' '.join(map(str, options.seeds))}; weights {weights.name} "
            f"(sha256 {weights.sha256[:12]}…); minilora {__version__}; {time.strftime('%Y-%m-%d')}"]
    accuracy.publish(found, head, options)


if __name__ == "__main__":
    main()
