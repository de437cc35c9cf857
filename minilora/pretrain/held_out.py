"""Evaluation of a tower in training, on pictures that no training step uses.

    scenes       zero-shot accuracy over class names, AUROC of damaged against normal, drawn scenes
    photographs  the same on every tenth photograph, with pasted defects; and the share of the
                 teacher's variance that is explained
    products     image AUROC of a plain memory bank on products in a folder, for information only

The plain memory: patch tokens of two hidden states, L2-normalised and concatenated, of the good
pictures and their three rotations; anomaly score of a patch = 1 - cosine to the nearest; smoothed;
image score = mean of the top 0.3 % of pixels (Roth et al. 2022, "PatchCore", without its coreset).

Symbols: B pictures, N texts, P patches, W width, E embedding, K shots, M patches in the memory.
Left out: model selection; nothing is chosen by these numbers.
"""
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from minilora.anomaly_map import image_score, to_pixels
from minilora.auroc import auroc
from minilora.bpe import Tokenizer
from minilora.clip import CLIP
from minilora.data.images import load_squares, normalise
from minilora.data.mvtec import few_shot, list_classes, load_class
from minilora.pretrain import distillation
from minilora.pretrain.batches import SceneStream
from minilora.pretrain.captions import CLASS_NAMES, NORMAL, UNMENTIONED
from minilora.pretrain.target_cache import Photographs
from minilora.pretrain.teacher_targets import LAYERS, WHOLE
from minilora.vit import VisionTransformer

FIRST_HELD_OUT = 10_000_000     # number of the first held-out scene


def encode_pictures(clip: CLIP, pictures: Tensor, device: str) -> Tensor:
    """The image vectors of pictures: uint8 (B, 3, R, R) -> (B, E)."""
    return torch.cat([clip.encode_image(normalise(part.float() / 255).to(device))
                      for part in pictures.split(64)])


def zero_shot(clip: CLIP, tokenizer: Tokenizer, image: Tensor, sentences: list[str]) -> Tensor:
    """Similarity of each picture with each sentence, (B, N).  image: (B, E)."""
    ids = tokenizer.tokenize(sentences).to(image.device)
    return clip.similarity(image, clip.encode_text(ids)).cpu()


def predicted_class(clip: CLIP, tokenizer: Tokenizer, image: Tensor,
                    class_names: list[str]) -> Tensor:
    """The index of the class name that fits best, (B,).  image: (B, E)."""
    sentences = [f"a photo of a {class_name}." for class_name in class_names]
    return zero_shot(clip, tokenizer, image, sentences).argmax(1)


def damage_probability(clip: CLIP, tokenizer: Tokenizer, image: Tensor) -> Tensor:
    """Probability of "damaged" against "flawless", (B,).  image: (B, E)."""
    return zero_shot(clip, tokenizer, image, ["a photo of a flawless object.",
                                              "a photo of a damaged object."]).softmax(-1)[:, 1]


@cache
def held_out_scenes(first: int, count: int, workers: int = 0) -> tuple[Tensor, Tensor]:
    """(pictures uint8 (B, 3, R, R), facts (B, 4)) of `count` scenes; drawn once per process."""
    scenes = list(DataLoader(SceneStream(first, first + count), 32, num_workers=workers))
    return torch.cat([s[0] for s in scenes]), torch.cat([s[2] for s in scenes])


@torch.no_grad()
def measure_scenes(clip: CLIP, tokenizer: Tokenizer, device: str, count: int = 256,
                   workers: int = 0) -> dict[str, float]:
    """{"accuracy", "auroc"} on `count` drawn scenes: class name, damaged against normal."""
    pictures, facts = held_out_scenes(FIRST_HELD_OUT, count, workers)
    image = encode_pictures(clip, pictures, device)
    right = predicted_class(clip, tokenizer, image, CLASS_NAMES) == facts[:, 0]
    return {"accuracy": right.float().mean().item(),
            "auroc": auroc(damage_probability(clip, tokenizer, image), facts[:, 3] != NORMAL)}


@torch.no_grad()
def measure_photographs(clip: CLIP, heads: distillation.Heads, tokenizer: Tokenizer,
                        photographs: Photographs, device: str, count: int = 400
                        ) -> dict[str, float]:
    """{"names", "photo_auroc", "explained<layer>"} on about `count` held-out pictures.

    Half of them have a pasted defect; the accuracy "names" counts the others.
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
        per_patch = {n: targets[n].flatten(1, 2).flatten(2).to(device) for n in LAYERS}
        losses = distillation.dense_loss(heads, hidden, per_patch)
        losses[WHOLE] = distillation.whole_loss(heads, hidden, targets[WHOLE].to(device))
        for n, error in losses.items():
            errors[n] = errors.get(n, 0) + error.item() * len(part) / len(numbers)
    image, facts = torch.cat(images), torch.cat(facts)
    counted = (facts[:, 3] == NORMAL) & (facts[:, 0] != UNMENTIONED)
    right = predicted_class(clip, tokenizer, image, photographs.class_names) == facts[:, 0]
    return {"names": right[counted].float().mean().item(),
            "photo_auroc": auroc(damage_probability(clip, tokenizer, image), facts[:, 3] != NORMAL),
            **{f"explained{n}": 1 - error for n, error in errors.items()}}


@torch.no_grad()
def memory_tokens(visual: VisionTransformer, pixels: Tensor, states: Sequence[int]) -> Tensor:
    """Patch tokens of some hidden states, each normalised, concatenated: (B, P, len(states) W).

    pixels: (B, 3, R, R) in [0, 1].
    """
    parts = []
    for part in pixels.split(32):
        hidden = visual.hidden_states(visual.embed(normalise(part).to(visual.proj.device)),
                                      max(states))
        parts.append(torch.cat([F.normalize(hidden[n][:, 1:], dim=-1) for n in states], -1))
    return F.normalize(torch.cat(parts), dim=-1)


def plain_memory(visual: VisionTransformer, shots: Tensor, pictures: Tensor,
                 states: Sequence[int]) -> Tensor:
    """Image scores (B,) of pictures (B, 3, R, R), with shots (K, 3, R, R), both in [0, 1]."""
    rotated = torch.cat([torch.rot90(shots, k, (2, 3)) for k in range(4)])
    bank = memory_tokens(visual, rotated, states).flatten(0, 1)             # (M, len(states) W)
    side, scores = pictures.shape[-1], []
    for part in memory_tokens(visual, pictures, states).split(4):
        distance = 1 - (part @ bank.T).amax(-1)                             # (4, P)
        maps = to_pixels(distance.cpu(), (side, side), 4.0 * side / 224)
        scores.append(image_score(maps))
    return torch.cat(scores)


def measure_products(visual: VisionTransformer, root: str | Path, states: Sequence[int],
                     seeds: Sequence[int] = (1,), shots: int = 8) -> dict[str, float]:
    """{class: image AUROC of the plain memory} on even-numbered test pictures, mean over seeds."""
    mean_auroc = {}
    for name in list_classes(root):
        data = load_class(root, name)
        test = data.test[::2]
        pictures = load_squares([s.path for s in test], 224)
        labels = torch.tensor([s.label for s in test])
        runs = []
        for seed in seeds:
            good = load_squares([s.path for s in few_shot(data.train, shots, seed)], 224)
            runs.append(auroc(plain_memory(visual, good, pictures, states), labels))
        mean_auroc[name] = sum(runs) / len(runs)
    return mean_auroc


def demo() -> None:
    """A plain memory of grey noise scores pictures with a dark square higher."""
    from minilora.clip import CLIPConfig
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
