"""Captions of drawn scenes and photographs, and the contrastive losses that use them.

Claim: a caption states attributes of a picture (class name, colour, material, state).  Another
picture's caption is a negative only if one of its statements is wrong for this picture; otherwise
the loss would push a true text away from the picture.

    contrast    Radford et al. 2021 (CLIP), figure 3; captions of the same product in the other
                state are added as hard negatives (Yuksekgonul et al. 2023, "NegCLIP")
    locate      the same comparison for every patch, because a drawn defect has an exact mask

Facts are the attributes of a picture as four numbers: class name, colour, material, state.  A
photograph has a class name, but no colour and no material; its state is NORMAL or PASTED.

Symbols: B pictures in a batch, N texts, P patches, E embedding.  Left out: free language.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minilora import prompts
from minilora.bpe import Tokenizer, default_tokenizer
from minilora.prompts import ANOMALOUS_STATES, NORMAL_STATES
from minilora.scenes.materials import COLOURS, MATERIALS
from minilora.scenes.outlines import FAMILIES
from minilora.scenes.scene import PHRASES
from minilora.synthetic.sampling import choose, uniform

CAPTION_KINDS = list(PHRASES)
CLASS_NAMES = list(FAMILIES) + [f"{name} surface" for name in MATERIALS]
# Nearly WinCLIP's templates.  Do not change them or their order: the committed logs depend on both.
CAPTION_TEMPLATES = (*prompts.TEMPLATES[:13], "a photo of a small {}.", "a photo of a large {}.",
                     "a black and white photo of a {}.", "a low resolution photo of the {}.",
                     *prompts.TEMPLATES[-4:])
UNMENTIONED = -1                # an attribute that a caption does not state
NORMAL, DAMAGED = -2, -3        # states: no defect; a defect whose kind is not stated
PASTED = len(CAPTION_KINDS)     # state of a photograph with a pasted defect of any kind


def caption(facts: list[int], generator: torch.Generator, tokenizer: Tokenizer,
            class_names: list[str] = CLASS_NAMES) -> tuple[str, str, list[list[int]]]:
    """A true caption of a picture, one with the wrong state, and the facts that each mentions.

    class_names: the names that facts[0] is an index of.  Returns (true text, wrong text,
    mentioned (2, 4), UNMENTIONED where the text states nothing).  Sometimes a random token replaces
    the class name, so that the text tower learns to handle class names it has never read.
    """
    class_name, colour, material, state = facts
    mentioned = [class_name, colour, material]
    for k in range(3):
        if uniform(generator) < 0.15:
            mentioned[k] = UNMENTIONED
    if uniform(generator) < 0.6:
        name = choose(generator, ("object", "part", "product"))
    else:
        token = int(torch.randint(1000, 40000, (), generator=generator))
        name = tokenizer.decode([token]).strip() or "object"
    words = [list(COLOURS)[colour]] if mentioned[1] >= 0 else []
    words += [list(MATERIALS)[material]] if mentioned[2] >= 0 else []
    phrase = " ".join(words + [class_names[class_name] if mentioned[0] >= 0 else name])
    kind = state if state >= 0 else int(torch.randint(len(CAPTION_KINDS), (), generator=generator))
    damaged = DAMAGED if kind == PASTED or uniform(generator) < 0.5 else kind
    flawed = (choose(generator, ANOMALOUS_STATES) if damaged == DAMAGED
              else PHRASES[CAPTION_KINDS[kind]])
    good = choose(generator, NORMAL_STATES[1:] + ("good {}",) + NORMAL_STATES[:1])
    template = choose(generator, CAPTION_TEMPLATES)
    pair = [(template.format(good.format(phrase)), mentioned + [NORMAL]),
            (template.format(flawed.format(phrase)), mentioned + [damaged])]
    own, other = pair if state == NORMAL else pair[::-1]
    return own[0], other[0], [own[1], other[1]]


def class_caption(facts: list[int], generator: torch.Generator,
                  class_names: list[str]) -> tuple[str, list[int]]:
    """A caption that states the class name only.  Returns (text, the facts it mentions (4,))."""
    text = choose(generator, CAPTION_TEMPLATES[:15]).format(class_names[facts[0]])
    return text, [facts[0], UNMENTIONED, UNMENTIONED, UNMENTIONED]


def matching_captions(facts: Tensor, mentioned: Tensor) -> Tensor:
    """(B, N) bool: True if all that text n states is true of picture b, so it is not a negative.

    facts: (B, 4);  mentioned: (N, 4).  A pasted defect may look like a defect of any kind.
    """
    attributes = mentioned[None, :, :3]                                     # (1, N, 3)
    matches = (attributes == UNMENTIONED) | (attributes == facts[:, None, :3])
    state, stated = facts[:, None, 3], mentioned[None, :, 3]                # (B, 1), (1, N)
    damage = (stated == DAMAGED) | ((state == PASTED) & (stated >= 0))
    return matches.all(-1) & ((stated == UNMENTIONED) | (stated == state) | (damage & (state >= 0)))


def contrastive_loss(image: Tensor, own: Tensor, other: Tensor, scale: float | Tensor,
                     true: Tensor) -> Tensor:
    """InfoNCE in both directions.

    image: (B, E) normalised;  own, other: (B, E) normalised, the true caption of each picture and
    the one with the wrong state;  scale: 1 / temperature;  true: (B, 2B) from `matching_captions`.
    """
    logits = scale * image @ torch.cat([own, other]).T                      # (B, 2B)
    right = torch.eye(len(image), 2 * len(image), dtype=torch.bool, device=image.device)
    logits = logits.masked_fill(true & ~right, float("-inf"))
    target = torch.arange(len(image), device=image.device)
    back = logits[:, : len(image)].T                                        # texts to pictures
    return (F.cross_entropy(logits, target) + F.cross_entropy(back, target)) / 2


def localisation_loss(patches: Tensor, normal: Tensor, damaged: Tensor, scale: float | Tensor,
                      coverage: Tensor) -> Tensor:
    """Classify each patch as normal or damaged by the two captions of its picture.

    patches: (B, P, E);  normal, damaged: (B, E);  coverage: (B, P), the share of a patch that the
    defect covers.  Patches with a coverage between 0 and 15 % are ignored.  The few defective
    patches together have a quarter of the weight.
    """
    logits = scale * torch.einsum("bpe,sbe->bps", patches, torch.stack([normal, damaged]))
    loss = F.cross_entropy(logits.flatten(0, 1), (coverage > 0).long().flatten(), reduction="none")
    loss = loss.view_as(coverage)
    good, bad = loss[coverage == 0], loss[coverage >= 0.15]
    return 0.75 * good.mean() + 0.25 * (bad.mean() if len(bad) else 0.0)


def demo() -> None:
    """Captions of two pictures, which text is true of which picture, and the contrastive loss."""
    generator, tokenizer = torch.Generator().manual_seed(0), default_tokenizer()
    scenes = [[CLASS_NAMES.index("nut"), 2, 0, CAPTION_KINDS.index("scratch")],
              [CLASS_NAMES.index("bottle"), 0, 7, NORMAL]]
    pairs = [caption(facts, generator, tokenizer) for facts in scenes]
    for own, other, _ in pairs:
        print(f"true: {own:62s} wrong: {other}")
    mentioned = torch.tensor([pair[2][0] for pair in pairs])
    matches = matching_captions(torch.tensor(scenes), mentioned)
    print("which text is true of which scene:", matches.tolist())
    image = F.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    for name, text in (("matching", image), ("swapped", image.flip(0))):
        loss = contrastive_loss(image, text, -text, 10.0, nothing)
        print(f"contrastive loss of {name} texts: {loss:.3f}")


if __name__ == "__main__":
    demo()
