"""What a step of pretraining reads and what it asks of the tower: five losses on one batch.

    contrast    pictures and captions find each other (pretrain/captions.py)
    locate      the patches of a defect are told from the others by texts (pretrain/captions.py)
    dense       patches predict the teacher's inner results at their place (pretrain/distillation.py)
    whole       CLS predicts the teacher's mean over all places (pretrain/distillation.py)
    relation    patches that differ for the teacher differ in the middle blocks (pretrain/distillation.py)

Claim: scenes and photographs can share a batch; both have captions and exact masks, and only
photographs have a teacher.

Symbols: B pictures of a batch, photographs first; P patches of a view, E embedding.
Leaves out: how much each loss counts, and steps (pretrain/train.py).
"""
import torch
import torch.nn.functional as F

from minilora.data.images import normalise
from minilora.pretrain import distillation
from minilora.pretrain.batches import crop_views, embed_view, visible_facts
from minilora.pretrain.captions import (CLASS_NAMES, NORMAL, also_true, caption, contrastive_loss,
                                        localisation_loss, naming)
from minilora.pretrain.teacher_targets import PATCH, WHOLE
from minilora.synthetic.sampling import chance

LOSSES = ("contrast", "locate", "dense", "whole", "relation")


def seen_of(pictures, coverage, full, generator, **how):
    """What of each picture is encoded, and where it lies: pictures, coverage, patches' places."""
    if not full:
        return crop_views(pictures, coverage, generator, coverage.shape[1] // 2, **how)
    places = torch.arange(coverage[0].numel()).view(coverage[0].shape).expand(coverage.shape)
    return pictures, coverage, places


def reshaped(pictures, coverage, grid):
    """Scenes squeezed or stretched into so many rows and columns of patches."""
    size = [PATCH * side for side in grid]
    pictures = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    coverage = F.interpolate(coverage[:, None], tuple(grid), mode="bilinear", antialias=True)[:, 0]
    return pictures.round().clamp(0, 255).byte(), coverage


def photographs_seen(batch, full, generator):
    """What is seen of photographs, and the teacher's targets of it."""
    pictures, coverage, facts, targets = batch
    pictures, coverage, places = seen_of(pictures, coverage, full, generator, whole=0.25,
                                         turning=False)             # the teacher saw them upright
    facts = visible_facts(facts, coverage)
    facts[:, 0] += len(CLASS_NAMES) * (facts[:, 0] >= 0)                  # their nouns follow the scenes'
    targets = {n: target if n == WHOLE else distillation.targets_of(target, places)
               for n, target in targets.items()}
    return (pictures, coverage, places, facts), targets


def sentences_of(facts, generator, tokenizer, class_names, photographs):
    """Texts of a batch: (own, other, flawless, damaged: lists of B strings; mentioned (2B, 4)).

    Half of the photographs whose kind is known have a caption that only names it.  photographs: how
    many of the first rows are such.
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
            own[k], mentioned[k] = naming(f, generator, class_names)
    return own, other, flawless, damaged, torch.tensor(mentioned)


def prepare_step(scenes, photographs, tokenizer, class_names, full, generator, grid=None):
    """What a step looks at and reads, before a tower is asked: a dict of tensors on the CPU.

    scenes: a batch of `Buffer`, or None;  photographs: one of `Photographs`, or None;  nouns: what
    the facts' first number counts;  full: show the pictures whole and in full detail;  grid: rows
    and columns of patches that photographs have and scenes get, other than the tower's own.

    pictures uint8 (B, 3, r, r);  coverage (B, P);  places (B, g, g), None with a grid;  count of
    photographs;
    targets {layer: ...} of them, as far as they are known;  gains of the scenes' light;
    ids (T, L) of distinct texts;  texts (4, B), which of these are own, other, flawless, damaged;
    true (B, 2B) of `also_true`.
    """
    seen, targets = [], {}
    if photographs:
        first, targets = photographs_seen(photographs, full, generator)
        seen.append(first)
    if scenes:
        shown = reshaped(*scenes[:2], grid) if grid else scenes[:2]
        pictures, coverage, places = seen_of(*shown, full, generator)
        seen.append((pictures, coverage, places, visible_facts(scenes[2], coverage)))
    pictures, coverage, places, facts = (torch.cat(column) for column in zip(*seen))
    places, count = None if grid else places, len(photographs[0]) if photographs else 0
    *texts, mentioned = sentences_of(facts, generator, tokenizer, class_names, count)
    distinct = {text: k for k, text in enumerate(dict.fromkeys(sum(texts, [])))}
    gains = 1 + 0.3 * (torch.rand(len(facts) - count, 1, 1, 1, generator=generator) - 0.5)
    return {"pictures": pictures, "coverage": coverage.flatten(1), "places": places, "count": count,
            "targets": targets, "gains": gains, "ids": tokenizer.tokenize(list(distinct)),
            "texts": torch.tensor([[distinct[text] for text in part] for part in texts]),
            "true": also_true(facts, mentioned)}


def losses_of(clip, heads, step, photographs, generator, options):
    """One step's losses, {name: scalar}.

    step: what `read` gave;  photographs: asked for the targets that it lacks.
    """
    device, dtype = options.device, getattr(torch, options.dtype)
    step = {name: x.to(device, non_blocking=True) if torch.is_tensor(x) else x
            for name, x in step.items()}
    count, clean, targets = step["count"], step["pictures"][:step["count"]], step["targets"]
    if count and not targets:               # shown whole and in full detail, as the teacher saw it
        targets = {n: x.float() if n == WHOLE else x.float().flatten(1, 2).flatten(2)
                   for n, x in photographs.targets(clean).items()}
    targets = {n: x.to(device) for n, x in targets.items()}
    pixels = step["pictures"][count:].float() * step["gains"] / 255
    if count:
        pixels = torch.cat([distillation.relit(clean.float() / 255, generator), pixels])
    pixels = normalise(pixels)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        places = step["places"]
        hidden = clip.visual.hidden_states(clip.visual.embed(pixels) if places is None else
                                           embed_view(clip.visual, pixels, places))
        image = F.normalize(clip.visual.pool(hidden[-1]).float(), dim=-1)
        local = F.normalize(clip.visual.value_value(hidden).float(), dim=-1)
        text = F.normalize(clip.encode_text(step["ids"]).float(), dim=-1)
        first = [state[:count] for state in hidden]
        inner = {n: x for n, x in targets.items() if n != WHOLE}
        dense = distillation.dense(heads, first, inner) if count else {}
        whole = distillation.whole(heads, first, targets[WHOLE]) if count else None
    own, other, flawless, damaged = (text[rows] for rows in step["texts"])
    scale = clip.logit_scale.exp()
    found = {"contrast": contrastive_loss(image, own, other, scale, step["true"]),
             "locate": localisation_loss(local, flawless, damaged, scale, step["coverage"])}
    if count:
        found |= {"dense": sum(dense.values()) / len(dense), "whole": whole,
                  "relation": distillation.relation(first, inner)}
    return found


def demo():
    """An untrained toy tower and noise scenes; a photograph would add dense and whole."""
    from types import SimpleNamespace

    from minilora.bpe import default_tokenizer
    from minilora.clip import CLIP, CLIPConfig
    generator, tokenizer = torch.Generator().manual_seed(0), default_tokenizer()
    facts = torch.tensor([[2, 5, 1, 0], [3, 5, 1, NORMAL]])
    own, other, _, _, mentioned = sentences_of(facts, generator, tokenizer, CLASS_NAMES, 0)
    for k in range(2):
        print(f"{own[k]:60s} not: {other[k]}")
    clip = CLIP(CLIPConfig(embed=32, resolution=224, vision_layers=2, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    coverage = torch.zeros(2, 14, 14)
    coverage[0, 3:5, 3:5] = 1
    pictures = torch.randint(0, 256, (2, 3, 224, 224), generator=generator, dtype=torch.uint8)
    step = prepare_step((pictures, coverage, facts), None, tokenizer, CLASS_NAMES, True, generator)
    losses = losses_of(clip, None, step, None, generator,
                       SimpleNamespace(device="cpu", dtype="float32"))
    print({name: round(value.item(), 3) for name, value in losses.items()})


if __name__ == "__main__":
    demo()
