"""Captions of drawn scenes and photographs, and the contrastive losses that read them.

Claim: a caption is a set of statements (noun, colour, material, state); two of them are opposites
only if a statement differs, so a text that also holds for a picture must not be pushed away from
it.

    contrast    Radford et al. 2021 (CLIP), figure 3; captions of the same product in the other
                state are added as hard negatives (Yuksekgonul et al. 2023, "NegCLIP")
    locate      the same comparison for every patch, since a drawn defect comes with its exact mask

Facts are four numbers a picture: noun, colour, material, state.  A photograph has a noun, no colour
or material, and is NORMAL or PASTED.  Leaves out: free language.
Symbols: B scenes of a batch, N texts, P patches, E embedding.
"""

import torch
import torch.nn.functional as F

from minilora import prompts
from minilora.bpe import default_tokenizer
from minilora.prompts import ANOMALOUS_STATES, NORMAL_STATES
from minilora.scenes.materials import COLOURS, FIELDS
from minilora.scenes.outlines import FAMILIES
from minilora.scenes.scene import PHRASES
from minilora.synthetic.sampling import choose, uniform

CAPTION_KINDS = list(PHRASES)
CLASS_NAMES = list(FAMILIES) + [f"{name} surface" for name in FIELDS]
# of captions: two more than WinCLIP's, three fewer, in this order, or no log would repeat
CAPTION_TEMPLATES = (*prompts.TEMPLATES[:13], "a photo of a small {}.", "a photo of a large {}.",
             "a black and white photo of a {}.", "a low resolution photo of the {}.",
             *prompts.TEMPLATES[-4:])
UNMENTIONED, NORMAL, DAMAGED = -1, -2, -3  # what a caption may say of an attribute or the state
PASTED = len(CAPTION_KINDS)                        # state of a photograph with a pasted defect of any kind


def caption(facts, generator, tokenizer, class_names=CLASS_NAMES):
    """Two sentences on one picture, true and false about its state, and what both mention.

    nouns: what the first of the facts counts.  Returns (own text, other text, mentioned (2, 4) with
    UNMENTIONED where nothing is said).
    Now and then the noun is a random token, so that the tower copes with nouns it has never read.
    """
    class_name, colour, material, state = facts
    said = [class_name, colour, material]
    for k, chance in enumerate((0.15, 0.15, 0.15)):
        if uniform(generator) < chance:
            said[k] = UNMENTIONED
    if uniform(generator) < 0.6:
        name = choose(generator, ("object", "part", "product"))
    else:
        token = int(torch.randint(1000, 40000, (), generator=generator))
        name = tokenizer.decode([token]).strip() or "object"
    words = [list(COLOURS)[said[1]]] if said[1] >= 0 else []
    words += [list(FIELDS)[said[2]]] if said[2] >= 0 else []
    phrase = " ".join(words + [class_names[class_name] if said[0] >= 0 else name])
    kind = state if state >= 0 else int(torch.randint(len(CAPTION_KINDS), (), generator=generator))
    damaged = DAMAGED if kind == PASTED or uniform(generator) < 0.5 else kind
    flawed = choose(generator, ANOMALOUS_STATES) if damaged == DAMAGED else PHRASES[CAPTION_KINDS[kind]]
    good = choose(generator, NORMAL_STATES[1:] + ("good {}",) + NORMAL_STATES[:1])
    template = choose(generator, CAPTION_TEMPLATES)
    pair = [(template.format(good.format(phrase)), said + [NORMAL]),
            (template.format(flawed.format(phrase)), said + [damaged])]
    own, other = pair if state == NORMAL else pair[::-1]
    return own[0], other[0], [own[1], other[1]]


def naming(facts, generator, class_names):
    """A sentence that names a thing and leaves its state open: (text, what it mentions (4,))."""
    text = choose(generator, CAPTION_TEMPLATES[:15]).format(class_names[facts[0]])
    return text, [facts[0], UNMENTIONED, UNMENTIONED, UNMENTIONED]


def also_true(facts, mentioned):
    """(B, N): does text n, by what it mentions, hold for picture b too?  Then it is no negative.

    A pasted defect may look like any kind.
    """
    named = mentioned[None, :, :3]
    things = (named == UNMENTIONED) | (named == facts[:, None, :3])
    state, said = facts[:, None, 3], mentioned[None, :, 3]
    damage = (said == DAMAGED) | ((state == PASTED) & (said >= 0))
    return things.all(-1) & ((said == UNMENTIONED) | (said == state) | (damage & (state >= 0)))


def contrastive_loss(image, own, other, scale, true):
    """InfoNCE both ways.  image, own, other: (B, E) normalised; true: (B, 2B) from `also_true`."""
    logits = scale * image @ torch.cat([own, other]).T  # (B, 2B)
    right = torch.eye(len(image), 2 * len(image), dtype=torch.bool, device=image.device)
    logits = logits.masked_fill(true & ~right, float("-inf"))
    target = torch.arange(len(image), device=image.device)
    back = logits[:, : len(image)].T  # texts against pictures
    return (F.cross_entropy(logits, target) + F.cross_entropy(back, target)) / 2


def localisation_loss(patches, normal, damaged, scale, coverage):
    """Each patch against its own scene's two captions.  patches: (B, P, E);  coverage: (B, P).

    Patches with a trace of a defect (under 15 %) count for neither side; the defective ones, few as
    they are, get a quarter of the weight.
    """
    logits = scale * torch.einsum("bpe,sbe->bps", patches, torch.stack([normal, damaged]))
    loss = F.cross_entropy(logits.flatten(0, 1), (coverage > 0).long().flatten(), reduction="none")
    loss, coverage = loss.view_as(coverage), coverage
    good, bad = loss[coverage == 0], loss[coverage >= 0.15]
    return 0.75 * good.mean() + 0.25 * (bad.mean() if len(bad) else 0.0)


def demo():
    generator, tokenizer = torch.Generator().manual_seed(0), default_tokenizer()
    scenes = [[CLASS_NAMES.index("nut"), 2, 0, CAPTION_KINDS.index("scratch")],
              [CLASS_NAMES.index("bottle"), 0, 7, NORMAL]]
    pairs = [caption(facts, generator, tokenizer) for facts in scenes]
    for own, other, _ in pairs:
        print(f"true: {own:62s} false: {other}")
    mentioned = torch.tensor([pair[2][0] for pair in pairs])
    print("which text holds for which scene:", also_true(torch.tensor(scenes), mentioned).tolist())
    image = F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    for name, text in (("matching", image), ("swapped", image.flip(0))):
        print(f"loss of {name} texts: {contrastive_loss(image, text, -text, 10.0, nothing):.3f}")


if __name__ == "__main__":
    demo()
