"""The five losses of a pretraining step, on one batch of photographs and scenes.

    contrast    pictures and captions are matched with each other (pretrain/captions.py)
    locate      texts distinguish the patches of a defect from the others (pretrain/captions.py)
    dense       patches predict the teacher's features of the same patch (pretrain/distillation.py)
    whole       the CLS token predicts the teacher's mean over all positions
    relation    distances between patches in the middle hidden states correlate with the teacher's

Claim: scenes and photographs can share a batch.  Both have captions and exact masks; only
photographs have teacher targets.

Symbols: B pictures in a batch, photographs first; P patches of a view, g patches per side of a
view, E embedding, T texts, L tokens.
Left out: the weights of the losses, the training steps (pretrain/train.py).
"""
import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora.bpe import Tokenizer
from minilora.clip import CLIP
from minilora.data.images import normalise
from minilora.pretrain import distillation
from minilora.pretrain.batches import crop_views, embed_view, visible_facts
from minilora.pretrain.captions import (CLASS_NAMES, NORMAL, caption, class_caption,
                                        contrastive_loss, localisation_loss, matching_captions)
from minilora.pretrain.target_cache import Photographs
from minilora.pretrain.teacher_targets import PATCH, WHOLE
from minilora.synthetic.sampling import chance

LOSSES = ("contrast", "locate", "dense", "whole", "relation")


def make_views(pictures: Tensor, coverage: Tensor, full: bool, generator: torch.Generator,
               whole: float = 0.5, flips: bool = True) -> list[Tensor]:
    """Views of pictures: [pictures, coverage, patch ids], see `crop_views`.

    full: whole pictures at full resolution instead of views with a quarter of the patches.
    """
    if not full:
        return crop_views(pictures, coverage, generator, coverage.shape[1] // 2, whole, flips)
    patch_ids = torch.arange(coverage[0].numel()).view(coverage[0].shape).expand(coverage.shape)
    return [pictures, coverage, patch_ids]


def resize_scenes(pictures: Tensor, coverage: Tensor, grid: tuple[int, int]
                  ) -> tuple[Tensor, Tensor]:
    """Pictures and coverage resized to the rows and columns of patches in `grid`."""
    size = [PATCH * side for side in grid]
    pictures = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    coverage = F.interpolate(coverage[:, None], tuple(grid), mode="bilinear", antialias=True)[:, 0]
    return pictures.round().clamp(0, 255).byte(), coverage


def photograph_views(batch: tuple, full: bool, generator: torch.Generator
                     ) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Views of photographs, (pictures, coverage, patch ids, facts), and their teacher targets.

    batch: from `Photographs.batch`.
    """
    pictures, coverage, facts, targets = batch
    pictures, coverage, patch_ids = make_views(pictures, coverage, full, generator, whole=0.25,
                                               flips=False)     # targets: of unflipped pictures
    facts = visible_facts(facts, coverage)
    facts[:, 0] += len(CLASS_NAMES) * (facts[:, 0] >= 0)        # class names follow those of scenes
    targets = {n: target if n == WHOLE else distillation.targets_in_view(target, patch_ids)
               for n, target in targets.items()}
    return (pictures, coverage, patch_ids, facts), targets


def captions_of(facts: Tensor, generator: torch.Generator, tokenizer: Tokenizer,
                class_names: list[str], photographs: int
                ) -> tuple[list[str], list[str], list[str], list[str], Tensor]:
    """Captions of a batch: (own, other, flawless, damaged, B texts each; mentioned (2B, 4)).

    own: a true caption;  other: the same with the wrong state;  flawless, damaged: these two sorted
    by state;  photographs: how many of the first rows are photographs.  For half of the photographs
    with a class name, the own caption states the class name only.
    """
    rows = facts.tolist()
    pairs = [caption(f, generator, tokenizer, class_names) for f in rows]
    mentioned = [p[2][0] for p in pairs] + [p[2][1] for p in pairs]
    own, other = [p[0] for p in pairs], [p[1] for p in pairs]
    normal = [f[3] == NORMAL for f in rows]
    flawless = [a if good else b for a, b, good in zip(own, other, normal)]
    damaged = [b if good else a for a, b, good in zip(own, other, normal)]
    for k, f in enumerate(rows[:photographs]):
        if f[0] >= 0 and chance(generator, 0.5):
            own[k], mentioned[k] = class_caption(f, generator, class_names)
    return own, other, flawless, damaged, torch.tensor(mentioned)


def prepare_step(scenes: Sequence[Tensor] | None, photographs: tuple | None, tokenizer: Tokenizer,
                 class_names: list[str], full: bool, generator: torch.Generator,
                 grid: tuple[int, int] | None = None) -> dict[str, Any]:
    """The inputs of a training step, as tensors on the CPU.

    scenes: a batch of `Buffer`;  photographs: a batch of `Photographs`;  class_names: the names
    that facts[:, 0] is an index of;  full: whole pictures at full resolution;  grid: rows and
    columns of patches, if they differ from the tower's own.  Returns a dict:

    pictures    uint8 (B, 3, r, r)
    coverage    (B, P)
    patch_ids   (B, g, g), None with a grid
    count       number of photographs
    targets     {layer: targets of the photographs}; empty if they are not computed yet
    gains       brightness factors of the scenes
    ids         (T, L), tokens of the distinct texts
    texts       (4, B), indices of the own, other, flawless and damaged texts
    true        (B, 2B), from `matching_captions`
    """
    views, targets = [], {}
    if photographs:
        first, targets = photograph_views(photographs, full, generator)
        views.append(first)
    if scenes:
        resized = resize_scenes(*scenes[:2], grid) if grid else scenes[:2]
        pictures, coverage, patch_ids = make_views(*resized, full, generator)
        views.append((pictures, coverage, patch_ids, visible_facts(scenes[2], coverage)))
    pictures, coverage, patch_ids, facts = (torch.cat(column) for column in zip(*views))
    patch_ids, count = None if grid else patch_ids, len(photographs[0]) if photographs else 0
    *texts, mentioned = captions_of(facts, generator, tokenizer, class_names, count)
    distinct = {text: k for k, text in enumerate(dict.fromkeys(sum(texts, [])))}
    gains = 1 + 0.3 * (torch.rand(len(facts) - count, 1, 1, 1, generator=generator) - 0.5)
    return {"pictures": pictures, "coverage": coverage.flatten(1), "patch_ids": patch_ids,
            "count": count, "targets": targets, "gains": gains,
            "ids": tokenizer.tokenize(list(distinct)),
            "texts": torch.tensor([[distinct[text] for text in part] for part in texts]),
            "true": matching_captions(facts, mentioned)}


def losses_of(clip: CLIP, heads: distillation.Heads | None, step: dict[str, Any],
              photographs: Photographs | None, generator: torch.Generator,
              options: argparse.Namespace) -> dict[str, Tensor]:
    """The losses of one step, {name: scalar}.

    step: from `prepare_step`;  photographs: computes the targets that the step lacks;  options:
    device and dtype.
    """
    device, dtype = options.device, getattr(torch, options.dtype)
    step = {name: x.to(device, non_blocking=True) if torch.is_tensor(x) else x
            for name, x in step.items()}
    count, clean, targets = step["count"], step["pictures"][:step["count"]], step["targets"]
    if count and not targets:               # live: the teacher sees the same whole pictures
        targets = {n: x.float() if n == WHOLE else x.float().flatten(1, 2).flatten(2)
                   for n, x in photographs.targets(clean).items()}
    targets = {n: x.to(device) for n, x in targets.items()}
    pixels = step["pictures"][count:].float() * step["gains"] / 255
    if count:
        pixels = torch.cat([distillation.change_light(clean.float() / 255, generator), pixels])
    pixels = normalise(pixels)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        patch_ids = step["patch_ids"]
        hidden = clip.visual.hidden_states(clip.visual.embed(pixels) if patch_ids is None else
                                           embed_view(clip.visual, pixels, patch_ids))
        image = F.normalize(clip.visual.pool(hidden[-1]).float(), dim=-1)
        local = F.normalize(clip.visual.value_value(hidden).float(), dim=-1)
        text = F.normalize(clip.encode_text(step["ids"]).float(), dim=-1)
        first = [state[:count] for state in hidden]
        per_patch = {n: x for n, x in targets.items() if n != WHOLE}
        dense = distillation.dense_loss(heads, first, per_patch) if count else {}
        whole = distillation.whole_loss(heads, first, targets[WHOLE]) if count else None
    own, other, flawless, damaged = (text[rows] for rows in step["texts"])
    scale = clip.logit_scale.exp()
    losses = {"contrast": contrastive_loss(image, own, other, scale, step["true"]),
              "locate": localisation_loss(local, flawless, damaged, scale, step["coverage"])}
    if count:
        losses |= {"dense": sum(dense.values()) / len(dense), "whole": whole,
                   "relation": distillation.relation_loss(first, per_patch)}
    return losses


def demo() -> None:
    """The losses of an untrained toy tower on noise; photographs would add the other three."""
    from minilora.bpe import default_tokenizer
    from minilora.clip import CLIPConfig
    generator, tokenizer = torch.Generator().manual_seed(0), default_tokenizer()
    facts = torch.tensor([[2, 5, 1, 0], [3, 5, 1, NORMAL]])
    own, other, _, _, mentioned = captions_of(facts, generator, tokenizer, CLASS_NAMES, 0)
    for k in range(2):
        print(f"{own[k]:60s} wrong: {other[k]}")
    clip = CLIP(CLIPConfig(embed=32, resolution=224, vision_layers=2, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    coverage = torch.zeros(2, 14, 14)
    coverage[0, 3:5, 3:5] = 1
    pictures = torch.randint(0, 256, (2, 3, 224, 224), generator=generator, dtype=torch.uint8)
    step = prepare_step((pictures, coverage, facts), None, tokenizer, CLASS_NAMES, True, generator)
    losses = losses_of(clip, None, step, None, generator,
                       argparse.Namespace(device="cpu", dtype="float32"))
    print({name: round(value.item(), 3) for name, value in losses.items()})


if __name__ == "__main__":
    demo()
