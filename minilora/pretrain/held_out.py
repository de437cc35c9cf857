"""What a tower in training can do, measured on pictures that no step draws.

    scenes       zero-shot accuracy over nouns, AUROC of damaged or not, on drawn scenes
    photographs  zero-shot accuracy over kinds, AUROC of pasted defects, and the share of the
                 teacher's variance that is explained, on every tenth photograph
    memory       image AUROC of a plain memory of patches on products in a folder, for looking only

The plain memory: L2-normalised patch tokens of two states side by side, of the good pictures and
their three rotations; 1 - cosine to the nearest; smoothed; mean of the top 0.3 % of pixels
(Roth et al. 2022, "PatchCore", without its coreset).

Symbols: B pictures, P patches, W width.  Leaves out: choosing anything by these numbers.
"""
from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from minilora.anomaly_map import image_score, to_pixels
from minilora.auroc import auroc
from minilora.data.images import load_squares, normalise
from minilora.data.mvtec import few_shot, list_classes, load_class
from minilora.pretrain import distillation
from minilora.pretrain.batches import SceneStream
from minilora.pretrain.captions import CLASS_NAMES, NORMAL, UNMENTIONED
from minilora.pretrain.teacher_targets import LAYERS, WHOLE

FIRST = 10_000_000              # number of the first scene held out


def encode_pictures(clip, pictures, device):
    """uint8 (B, 3, R, R) -> (B, E)."""
    return torch.cat([clip.encode_image(normalise(part.float() / 255).to(device))
                      for part in pictures.split(64)])


def zero_shot(clip, tokenizer, image, sentences):
    """Similarity of every picture with every sentence, (B, N).  image: (B, E)."""
    ids = tokenizer.tokenize(sentences).to(image.device)
    return clip.similarity(image, clip.encode_text(ids)).cpu()


def named(clip, tokenizer, image, class_names):
    """The number of the noun that fits best, (B,)."""
    return zero_shot(clip, tokenizer, image, [f"a photo of a {class_name}." for class_name in class_names]).argmax(1)


def damage(clip, tokenizer, image):
    """Probability of "damaged" against "flawless", (B,)."""
    return zero_shot(clip, tokenizer, image, ["a photo of a flawless object.",
                                              "a photo of a damaged object."]).softmax(-1)[:, 1]


@cache
def held_out_scenes(first, count, workers=0):
    """(pictures uint8 (B, 3, R, R), facts (B, 4)) of scenes, drawn once."""
    scenes = list(DataLoader(SceneStream(first, first + count), 32, num_workers=workers))
    return torch.cat([s[0] for s in scenes]), torch.cat([s[2] for s in scenes])


@torch.no_grad()
def on_scenes(clip, tokenizer, device, count=256, workers=0):
    """{"accuracy", "auroc"} on drawn scenes."""
    pictures, facts = held_out_scenes(FIRST, count, workers)
    image = encode_pictures(clip, pictures, device)
    right = named(clip, tokenizer, image, CLASS_NAMES) == facts[:, 0]
    return {"accuracy": right.float().mean().item(),
            "auroc": auroc(damage(clip, tokenizer, image), facts[:, 3] != NORMAL)}


@torch.no_grad()
def on_photographs(clip, heads, tokenizer, photographs, device, count=400):
    """{"names", "photo_auroc", "explained<layer>" ...} on `count` pictures held out, evenly chosen.

    Half of them carry a pasted defect; names are asked of the others.
    """
    good, damaged = photographs.test[0::2], photographs.test[1::2]
    every = max(1, 2 * len(good) // count)
    numbers = torch.cat([good[::every], damaged[::every]])
    images, facts, errors = [], [], {}
    for part in numbers.split(64):
        pictures, _, own, targets = photographs.rows(part)
        pixels = normalise(pictures.float() / 255).to(device)
        hidden = clip.visual.hidden_states(clip.visual.embed(pixels))
        images.append(clip.visual.pool(hidden[-1]))
        facts.append(own)
        inner = {n: targets[n].flatten(1, 2).flatten(2).to(device) for n in LAYERS}
        found = distillation.dense(heads, hidden, inner)
        found[WHOLE] = distillation.whole(heads, hidden, targets[WHOLE].to(device))
        for n, error in found.items():
            errors[n] = errors.get(n, 0) + error.item() * len(part) / len(numbers)
    image, facts = torch.cat(images), torch.cat(facts)
    asked = (facts[:, 3] == NORMAL) & (facts[:, 0] != UNMENTIONED)
    right = named(clip, tokenizer, image, photographs.class_names) == facts[:, 0]
    return {"names": right[asked].float().mean().item(),
            "photo_auroc": auroc(damage(clip, tokenizer, image), facts[:, 3] != NORMAL),
            **{f"explained{n}": 1 - error for n, error in errors.items()}}


@torch.no_grad()
def memory_tokens(visual, pixels, states):
    """Patch tokens of some states, each of length one, side by side: (B, P, len(states) W)."""
    parts = []
    for part in pixels.split(32):
        hidden = visual.hidden_states(visual.embed(normalise(part).to(visual.proj.device)),
                                      max(states))
        parts.append(torch.cat([F.normalize(hidden[n][:, 1:], dim=-1) for n in states], -1))
    return F.normalize(torch.cat(parts), dim=-1)


def plain_memory(visual, shots, pictures, states):
    """Image scores (B,) of `pictures` by a plain memory of `shots`, both (B, 3, R, R) in [0, 1]."""
    turned = torch.cat([torch.rot90(shots, k, (2, 3)) for k in range(4)])
    bank = memory_tokens(visual, turned, states).flatten(0, 1)              # (M, W)
    side, scores = pictures.shape[-1], []
    for part in memory_tokens(visual, pictures, states).split(4):
        distance = 1 - (part @ bank.T).amax(-1)                             # (4, P)
        maps = to_pixels(distance.cpu(), (side, side), 4.0 * side / 224)
        scores.append(image_score(maps))
    return torch.cat(scores)


def on_products(visual, root, states, seeds=(1,), shots=8):
    """{class: image AUROC of the plain memory} on even-numbered test pictures, mean over seeds."""
    found = {}
    for name in list_classes(root):
        data = load_class(root, name)
        test = data.test[::2]
        pictures = load_squares([s.path for s in test], 224)
        labels = torch.tensor([s.label for s in test])
        runs = []
        for seed in seeds:
            good = load_squares([s.path for s in few_shot(data.train, shots, seed)], 224)
            runs.append(auroc(plain_memory(visual, good, pictures, states), labels))
        found[name] = sum(runs) / len(runs)
    return found


def demo():
    from minilora.clip import CLIP, CLIPConfig
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    good = 0.5 + 0.05 * torch.randn(12, 3, 64, 64, generator=generator).clamp(-1, 1)
    bad = good[10:].clone()
    bad[:, :, 16:32, 16:32] = 0.1
    scores = plain_memory(clip.visual, good[:8], torch.cat([good[8:10], bad]), (1, 2))
    for name, score in zip(("good", "good", "defective", "defective"), scores):
        print(f"{name:9s} {score:.3f}")


if __name__ == "__main__":
    demo()
