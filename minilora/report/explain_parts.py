"""The stages of the method for one picture, as parts of a page (explain.py).

Claim: each stage can be looked at by itself, and a reader can find the module that computes it; so
each part names it.  Blocks and heads are counted from 0.

Symbols: P patches, L tokens, H heads, D head width, W width.
Left out: the score and its parts (report/score_parts.py).
"""
import math
from html import escape
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora.anomaly_map import text_map
from minilora.bpe import Tokenizer, default_tokenizer
from minilora.charts.colours import heat_colours
from minilora.clip import CLIP, similarity_logits
from minilora.coop import STATE_WORDS
from minilora.lora import disable_lora, lora_layers
from minilora.report import html
from minilora.vit import VisionTransformer

PAGE_SIDE = 224                      # pixels of the shorter side of a picture on the page


# ---- pictures and tables ------------------------------------------------------------------------

def heading(number: int, title: str, modules: str, words: str) -> str:
    """The heading of a part, the modules that compute it, and what it means."""
    return (f'<h2>{number}. {escape(title)}</h2><p>{escape(words)} '
            f'<span class="soft">Computed in {escape(modules)}.</span></p>')


def heat(values: Tensor, low: float, high: float) -> Image.Image:
    """(rows, columns) -> coloured PIL picture.  low, high: ends of the colour scale."""
    scaled = (values.float() - low) / max(high - low, 1e-9)
    return enlarged(Image.fromarray(heat_colours(scaled.cpu())), Image.Resampling.NEAREST)


def heat_figure(values: Tensor, caption: str, low: float | None = None,
                high: float | None = None) -> tuple[Image.Image, str, str]:
    """An entry for `picture_row`: (picture, caption, colour scale).  Without ends the scale goes
    from the lowest to the highest of the values, (rows, columns)."""
    low = values.min().item() if low is None else low
    high = values.max().item() if high is None else high
    return heat(values, low, high), caption, html.colour_scale(low, high, "")


def enlarged(picture: Image.Image,
             resampling: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The picture with PAGE_SIDE pixels on its shorter side."""
    return picture.resize([round(PAGE_SIDE * side / min(picture.size)) for side in picture.size],
                          resampling)


def picture_row(pictures: list[tuple[Image.Image, str, str]]) -> str:
    """(PIL picture, caption, HTML below) side by side."""
    return '<div class="gallery">' + "".join(
        f"<figure>{html.inline_image(picture, caption)}<figcaption>{escape(caption)}</figcaption>"
        f"{below}</figure>" for picture, caption, below in pictures) + "</div>"


# ---- what is shown ------------------------------------------------------------------------------

def attention_of_cls(visual: VisionTransformer, entering: Tensor, head: int) -> Tensor:
    """Attention weights of CLS on the patches in the last block.  entering: (1, 1+P, W) -> (P,)."""
    block = visual.blocks[-1]
    x = block.ln_1(entering)
    q, k = block.attn.split(block.attn.q(x)), block.attn.split(block.attn.k(x))     # (1, H, L, D)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)        # (1, H, L, L)
    return weights[0, head, 0, 1:]


def nearest_words(clip: CLIP, vectors: Tensor, tokenizer: Tokenizer) -> list[str]:
    """The token whose embedding is nearest to each context vector.  (n, W) -> n words."""
    table = F.normalize(clip.text.token_embedding.weight, dim=-1)
    return [tokenizer.decode([i]).strip() or f"token {i}"
            for i in (F.normalize(vectors, dim=-1) @ table.T).argmax(-1).tolist()]


def lora_changes(visual: VisionTransformer) -> list[tuple[str, float, float, float, float]]:
    """The weight change by LoRA in each projection.

    Tuples (name, ||delta W||, ||delta W|| / ||W||, share of the largest singular value in the sum
    of all, cosine between delta W and W).
    """
    rows = []
    for name, layer in lora_layers(visual).items():
        delta, weight = layer.delta_weight(), layer.weight
        values = torch.linalg.svdvals(delta)
        rows.append((name, delta.norm().item(), (delta.norm() / weight.norm()).item(),
                     (values[0] / values.sum().clamp(min=1e-12)).item(),
                     F.cosine_similarity(delta.flatten(), weight.flatten(), dim=0).item()))
    return rows


# ---- the parts of the page ----------------------------------------------------------------------

def prompts_part(detector: Any) -> str:
    """Tokens of the initial prompts, and the words nearest to the learned context vectors."""
    tokenizer, rows = default_tokenizer(), []
    for state in STATE_WORDS:
        prompt = f"{detector.config.context} {state} {detector.class_name}"
        ids = tokenizer.encode(prompt)
        rows.append((prompt, " ".join(tokenizer.decode([i]).strip() for i in ids),
                     " ".join(map(str, ids))))
    words = [" ".join(nearest_words(detector.clip, c, tokenizer))
             for c in detector.prompts.context.detach().flatten(0, -3).unbind(0)]
    cosine = F.cosine_similarity(*detector.text_features, dim=0).item()
    return (heading(3, "The prompts", "bpe.py, text.py, coop.py", "The text is cut into tokens, "
                    "pieces of words, and each has a number. The first words are then replaced by "
                    "context vectors, which training changes.")
            + html.plain_table(("text", "tokens", "ids"), rows, (0, 1, 2))
            + "<p>The context vectors were initialised with the words “"
            + escape(detector.config.context) + "”. The tokens nearest to them after training are “"
            + escape("”, “".join(words)) + f"”. Cosine of the two text features: {cosine:.3f}; "
            "1 would mean that the texts cannot be told apart.</p>")


def shapes_part(detector: Any, pixels: Tensor, frozen: list[Tensor]) -> str:
    """The shape of the data at each stage.  frozen: hidden states without LoRA."""
    clip = detector.clip
    patches = clip.visual.value_value(frozen, detector.n_adapted_blocks)
    rows = [("picture", "data/images.py", pixels.shape[1:]),
            (f"tokens: CLS and patches of {clip.visual.patch} x {clip.visual.patch} pixels",
             "vit.py", frozen[0].shape[1:]),
            (f"after each of {len(clip.visual.blocks)} blocks", "attention.py",
             frozen[-1].shape[1:]),
            ("image feature: CLS, projected", "vit.py", clip.visual.pool(frozen[-1]).shape[1:]),
            ("patch features: value-value path, projected", "vit.py", patches.shape[1:]),
            ("text features, normal and anomalous", "text.py", detector.text_features.shape)]
    if detector.banks:
        rows.append(("memory bank: patches kept, numbers for each", "memory_bank.py",
                     detector.banks["adapted"].tokens.shape))
    return (heading(4, "Shapes", "features.py", "How many numbers there are at each stage: a patch "
                    "is one token, and each token is a row of numbers.")
            + html.plain_table(("stage", "module", "shape"), [
                (stage, module, str(tuple(shape))) for stage, module, shape in rows], (0, 1)))


def attention_part(visual: VisionTransformer, frozen: list[Tensor], adapted: list[Tensor],
                   head: int, grid: tuple[int, int]) -> str:
    """Attention of one head in the last block, without and with LoRA."""
    with disable_lora(visual):                              # states[-2]: input of the last block
        off = attention_of_cls(visual, frozen[-2], head).unflatten(0, grid)
    on = attention_of_cls(visual, adapted[-2], head).unflatten(0, grid)
    high = max(off.max().item(), on.max().item())
    return (heading(5, f"Attention of CLS in the last block, head {head} of 0 to "
                    f"{visual.blocks[-1].attn.heads - 1}", "attention.py", "CLS is the token that "
                    "stands for the whole picture. A weight says which share of its new value "
                    "comes from a patch; the weights of all tokens sum to 1.")
            + picture_row([heat_figure(off, "LoRA off", 0, high),
                           heat_figure(on, "LoRA on", 0, high)]))


def cosine_part(detector: Any, off: Tensor, on: Tensor, grid: tuple[int, int]) -> str:
    """Cosine of each patch with both texts, and the probability of "anomalous".

    off, on: patch features (1, P, E) without and with LoRA.
    """
    text, scale = detector.text_features, detector.clip.logit_scale.exp()
    cosine = similarity_logits(on, text, 1)[0]                                       # (P, 2)
    low, high = cosine.min().item(), cosine.max().item()
    before, after = (text_map(patches, text, scale)[0].unflatten(0, grid) for patches in (off, on))
    return (heading(6, "Cosine of each patch with the texts", "clip.py, anomaly_map.py",
                    "The cosine says how similar a patch and a text are, 1 being equal. Softmax "
                    "turns the two cosines into a probability, so a small difference counts.")
            + picture_row([
                heat_figure(cosine[:, 0].unflatten(0, grid), "cosine with “normal”", low, high),
                heat_figure(cosine[:, 1].unflatten(0, grid), "cosine with “anomalous”", low, high),
                heat_figure(before, "probability of “anomalous”, LoRA off", 0, 1),
                heat_figure(after, "probability of “anomalous”, LoRA on", 0, 1)]))


def lora_part(visual: VisionTransformer) -> str:
    """A table of `lora_changes`."""
    rows = [(name, f"{norm:.3f}", f"{relative:.2%}", f"{largest:.0%}", f"{cosine:+.3f}")
            for name, norm, relative, largest, cosine in lora_changes(visual)]
    return (heading(7, "Weight change by LoRA", "lora.py", "ΔW is what training added to a matrix "
                    "W. Its size ‖ΔW‖; this as a share of ‖W‖; the share of its largest singular "
                    "value, which is 100 % if one direction does everything; its cosine with W, "
                    "which is near 0 if LoRA does something new.")
            + html.plain_table(("projection, blocks from 0", "‖ΔW‖", "of ‖W‖",
                                "largest singular value", "cosine with W"), rows, (0,)))


def demo() -> None:
    """Weight changes by LoRA, and attention weights, in an untrained toy tower."""
    from minilora.lora import add_lora
    from minilora.toy_detector import toy_clip
    generator = torch.Generator().manual_seed(0)
    clip = toy_clip(generator)
    add_lora(clip.visual, ("q", "v"), (2,), generator=generator)
    for layer in lora_layers(clip.visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.02, generator=generator)
    print("projection           |dW|   of |W|  largest singular value  cosine with W")
    for name, norm, relative, largest, cosine in lora_changes(clip.visual):
        print(f"{name:18s} {norm:6.3f}  {relative:6.2%}  {largest:21.0%}  {cosine:+.3f}")
    tokens = torch.randn(1, 17, 64, generator=generator)
    with torch.no_grad():
        weights = attention_of_cls(clip.visual, tokens, 0)
    print(f"attention weights from CLS to {len(weights)} patches sum to {weights.sum():.3f}; the "
          "rest is its own")


if __name__ == "__main__":
    demo()
