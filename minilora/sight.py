"""What CLIP sees in a picture, as a detector needs it: tokens at every size, patches beside texts.

    looks       hidden states of the pretrained tower, at each size of the picture
    patches     in the texts' space, with LoRA and without (the value-value path of vit.py)
    probability of "anomalous", by the frozen tower's CLS: of the picture as a whole

Claim: what is frozen is computed once for a picture, and every row of the table starts from it.

Symbols: B images, P patches, W width, E embedding, R resolution.
Leaves out: what is remembered, learned and decided (detector.py).
"""
import torch
import torch.nn.functional as F

from minilora import anomaly
from minilora.adapt import continued, frozen_states
from minilora.lora import lora_off

PRECISIONS = ("float32", "bfloat16", "float16")


def first_adapted(layers, blocks=0):
    """Number of the first of so many last blocks that get LoRA; 0: the last sixth, rounded up."""
    return layers + 1 - (blocks or -(-layers // 6))


def remembered_layers(layers, first):
    """Layers of the memory: a third and all of the way to the last third of a tower, or to LoRA.

    first: number of the first adapted block, if LoRA starts earlier.
    """
    frozen = max(1, min(first - 1, layers - -(-layers // 3)))
    return tuple(sorted({-(-frozen // 3), frozen}))


class Sight:
    """A CLIP, which is frozen, and the sizes, layers and resolution at which it looks.

    clip: a `CLIP` with a vision transformer (else ValueError).
    """

    def __init__(self, clip, settings):
        if clip.config.is_resnet:
            raise ValueError("this CLIP has a ResNet as image tower; LoRA and maps need the tokens "
                             "of a vision transformer, take ViT-B/16 (search takes both)")
        self.clip, self.settings = clip.requires_grad_(False), settings
        self.resolution = settings.resolution or clip.config.resolution
        self.first = first_adapted(len(clip.visual.blocks), settings.blocks)
        self.memory_layers = settings.memory_layers or remembered_layers(
            len(clip.visual.blocks), self.first)
        self.device = clip.logit_scale.device
        self.precision = "float32"              # of the tower's products when pictures are scored

    def tower(self):
        """Within the block the tower's matrix products are of `precision`.

        Distances and probabilities are in float32 all the same: bfloat16 has steps of 1/256 just
        below 1, where the cosines of good patches are.
        """
        half = self.precision != "float32"
        return torch.autocast(self.device.type, getattr(torch, self.precision) if half else None,
                              enabled=half)

    def looks(self, pixels, texts=True):
        """Hidden states of the pretrained tower at every size: {scale: [(B, 1+P, W), ...]}.

        pixels: (B, 3, R, R).  texts: as far as the texts need them, up to the last block, at scale
        1 and below; else as far as the memory does.
        """
        visual, seen = self.clip.visual, {}
        for scale in dict.fromkeys((1, *self.settings.scales)):
            side = visual.patch * max(1, round(self.resolution * scale / visual.patch))
            resized = pixels if scale == 1 else F.interpolate(
                pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            through = len(visual.blocks) - 1 if texts and scale <= 1 else 0
            with self.tower():
                seen[scale] = frozen_states(visual, resized, max(through, *self.memory_layers))
        return seen

    def patch_features(self, looks):
        """What the memory keeps, one (layers, B, P, W) a scale."""
        return [torch.stack([looks[scale][n][:, 1:] for n in self.memory_layers])
                for scale in self.settings.scales]

    def adapted_patches(self, frozen):
        """Patches in the texts' space, (B, P, E), by the tower as it is now.  frozen: looks[1]."""
        with self.tower():
            states = continued(self.clip.visual, frozen, self.first)
            return self.clip.visual.value_value(states).float()

    def frozen_patches(self, frozen):
        """The same with LoRA off: the value-value path runs through adapted blocks too."""
        with lora_off(self.clip.visual), self.tower():
            return self.clip.visual.value_value(frozen).float()

    def text_probability(self, patches, text):
        """Probability of "anomalous" per patch, (B, P)."""
        return anomaly.text_map(patches, text, self.clip.logit_scale.exp())

    def picture_probability(self, looks, text):
        """The same of whole pictures, by the frozen tower, mean over the sizes up to 1: (B,)."""
        visual, found = self.clip.visual, []
        for states in (states for scale, states in looks.items() if scale <= 1):
            with lora_off(visual), self.tower():
                last = visual.blocks[-1].first_token(states[len(visual.blocks) - 1])
                whole = visual.pool(last).float()                           # (B, E)
            found.append(self.text_probability(whole[:, None], text)[:, 0])
        return torch.stack(found).mean(0)

    def to_map(self, patch_scores):
        """(B, P) -> (B, R, R), smoothed."""
        sigma = self.settings.sigma * self.resolution / 224
        return anomaly.to_pixels(patch_scores, self.resolution, sigma)


def demo():
    """Sizes and shapes; the tower is untrained."""
    from minilora.clip import CLIP, CLIPConfig
    from minilora.lora import add_lora
    from minilora.settings import Settings
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    sight = Sight(clip, Settings())
    add_lora(clip.visual, blocks=[sight.first], generator=generator)
    print(f"LoRA from block {sight.first} on, the memory keeps layers {sight.memory_layers}")
    pixels, text = torch.rand(1, 3, 64, 64, generator=generator), torch.randn(2, 32)
    with torch.no_grad():
        looks = sight.looks(pixels)
        for (scale, states), kept in zip(looks.items(), (1, 0, 2)):
            print(f"size {scale}: {states[0].shape[1]} tokens through {len(states) - 1} blocks; "
                  f"kept {tuple(sight.patch_features(looks)[kept].shape)}")
        patches = sight.frozen_patches(looks[1])
        print(f"patches {tuple(patches.shape)}, probabilities "
              f"{tuple(sight.text_probability(patches, text).shape)}, of the whole picture "
              f"{sight.picture_probability(looks, text).item():.2f}")


if __name__ == "__main__":
    demo()
