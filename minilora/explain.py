"""Explain the score of one picture: a page with every stage of the method.

    python -m minilora.explain RUN PICTURE --out explain.html

    1. tokens of the prompts                       4. cosine of each patch with the texts
    2. shapes at each stage                        5. weight change by LoRA
    3. attention of CLS in the last block          6. anomaly maps and scores of all rows

Blocks and heads are counted from 0.
Symbols: P patches, L tokens, H heads, D head width, W width, E embedding.
Left out: gradients and attribution methods, which explain less than they seem to.
"""
import argparse
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora.anomaly_map import text_map
from minilora.bpe import Tokenizer, default_tokenizer
from minilora.clip import CLIP, similarity_logits
from minilora.coop import STATE_WORDS
from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.images import normalise
from minilora.detector import Detector
from minilora.io.cli import device_name, option_parser, run_command, whole
from minilora.io.output import atomic_output, check_output
from minilora.io.text import shown
from minilora.lora import disable_lora, lora_layers
from minilora.predict import check_bits
from minilora.report import html
from minilora.report.results import heat_colours
from minilora.train import frozen_states
from minilora.vit import VisionTransformer

PAGE_SIDE = 224                      # pixels of the shorter side of a picture on the page


# ---- pictures and tables ------------------------------------------------------------------------

def heat(values: Tensor, low: float | None = None, high: float | None = None) -> Image.Image:
    """(rows, columns) -> coloured PIL picture.  low, high: ends of the colour scale."""
    values = values.float()
    low = values.min().item() if low is None else low
    high = values.max().item() if high is None else high
    scaled = (values - low) / max(high - low, 1e-9)
    return enlarged(Image.fromarray(heat_colours(scaled)), Image.Resampling.NEAREST)


def enlarged(picture: Image.Image,
             resampling: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The picture with PAGE_SIDE pixels on its shorter side."""
    return picture.resize([round(PAGE_SIDE * side / min(picture.size)) for side in picture.size],
                          resampling)


def html_table(head: Iterable[str], rows: Iterable[Iterable]) -> str:
    """Cells of text as an HTML table."""
    body = "".join("<tr>" + "".join(f"<td>{html.html_text(str(c))}</td>" for c in row) + "</tr>"
                   for row in rows)
    return (f'<div class="wide"><table><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr>'
            f"{body}</table></div>")


def picture_row(pictures: list[tuple[Image.Image, str]]) -> str:
    """(PIL picture, caption) side by side."""
    return '<div class="gallery">' + "".join(
        f"<figure>{html.inline_image(picture, caption)}<figcaption>{escape(caption)}</figcaption>"
        "</figure>" for picture, caption in pictures) + "</div>"


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

def prompts_part(detector: Detector) -> str:
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
    return ("<h2>1. The prompts</h2>" + html_table(("text", "tokens", "ids"), rows)
            + "<p>The context vectors were initialised with the words “"
            + escape(detector.config.context) + "”. The tokens nearest to them now are “"
            + escape("”, “".join(words)) + "”. Cosine between the text features of “normal” and "
            f"“anomalous”: {cosine:.3f}.</p>")


def shapes_part(detector: Detector, pixels: Tensor, frozen: list[Tensor]) -> str:
    """The shape of the data at each stage.  frozen: hidden states without LoRA."""
    clip = detector.clip
    patches = clip.visual.value_value(frozen, detector.n_adapted_blocks)
    rows = [("picture", tuple(pixels.shape[1:])),
            (f"tokens: CLS and patches of {clip.visual.patch} x {clip.visual.patch} pixels",
             tuple(frozen[0].shape[1:])),
            (f"after each of {len(clip.visual.blocks)} blocks", tuple(frozen[-1].shape[1:])),
            ("image feature: CLS, projected", tuple(clip.visual.pool(frozen[-1]).shape[1:])),
            ("patch features: value-value path, projected", tuple(patches.shape[1:])),
            ("text features, normal and anomalous", tuple(detector.text_features.shape))]
    if detector.banks:
        rows.append(("memory bank: patches kept",
                     tuple(detector.banks["adapted"].tokens.shape)))
    return "<h2>2. Shapes</h2>" + html_table(("stage", "shape"), rows)


def attention_part(visual: VisionTransformer, frozen: list[Tensor], adapted: list[Tensor],
                   head: int, grid: tuple[int, int]) -> str:
    """Attention of one head in the last block, without and with LoRA."""
    with disable_lora(visual):                              # states[-2]: input of the last block
        off = attention_of_cls(visual, frozen[-2], head).unflatten(0, grid)
    on = attention_of_cls(visual, adapted[-2], head).unflatten(0, grid)
    return (f"<h2>3. Attention of CLS in the last block, head {head} of 0 to "
            f"{visual.blocks[-1].attn.heads - 1}</h2>"
            + picture_row([(heat(off), "LoRA off"), (heat(on), "LoRA on")]))


def cosine_part(detector: Detector, pixels: Tensor, grid: tuple[int, int]) -> str:
    """Cosine of each patch with both texts, and the probability of "anomalous"."""
    scale = detector.clip.logit_scale.exp()
    off, on = (detector.encode(pixels, lora).text_patches for lora in (False, True))
    cosine = similarity_logits(on, detector.text_features, 1)[0]                     # (P, 2)
    low, high = cosine.min().item(), cosine.max().item()
    before, after = (text_map(patches, detector.text_features, scale)[0].unflatten(0, grid)
                     for patches in (off, on))
    return "<h2>4. Cosine of each patch with the texts</h2>" + picture_row([
        (heat(cosine[:, 0].unflatten(0, grid), low, high), "cosine with “normal”"),
        (heat(cosine[:, 1].unflatten(0, grid), low, high), "cosine with “anomalous”"),
        (heat(before, 0, 1), "probability of “anomalous”, LoRA off"),
        (heat(after, 0, 1), "probability of “anomalous”, LoRA on")])


def lora_part(visual: VisionTransformer) -> str:
    """A table of `lora_changes`."""
    rows = [(name, f"{norm:.3f}", f"{relative:.2%}", f"{largest:.0%}", f"{cosine:+.3f}")
            for name, norm, relative, largest, cosine in lora_changes(visual)]
    return "<h2>5. Weight change by LoRA</h2>" + html_table(
        ("projection, blocks from 0", "‖ΔW‖", "of ‖W‖", "largest singular value", "cosine with W"),
        rows)


@torch.no_grad()
def explain(detector: Detector, path: str | Path, head: int = 0) -> str:
    """The body of the page.  Raises ValueError for a head that does not exist."""
    visual = detector.clip.visual
    heads = visual.blocks[-1].attn.heads
    if not 0 <= head < heads:
        raise ValueError(f"--head {head}: expected 0 to {heads - 1}")
    pixels = detector.prepare(detector.read(path))[None].to(detector.device)
    frozen = frozen_states(visual, pixels)                              # LoRA off
    adapted = visual.hidden_states(visual.embed(normalise(pixels)))     # LoRA on
    picture = Image.fromarray((pixels[0].cpu() * 255).round().byte().permute(1, 2, 0).numpy())
    grid = pixels.shape[2] // visual.patch, -1
    rows = detector.rows(pixels)
    scores = {row: score.item() for row, (_, score) in rows.items()}
    maps = [(heat(maps[0]), f"map of the row {row}") for row, (maps, _) in rows.items()]
    score, threshold = list(scores.values())[-1], detector.threshold
    decision = "no threshold" if threshold is None else (
        f"{'NG' if score > threshold else 'OK'}: score {score:.3f}, threshold {threshold:.3f}")
    return "".join([
        f"<h1>{html.html_text(Path(path).name)}</h1><p>{escape(decision)}</p>",
        picture_row([(enlarged(picture), "the picture")]),
        prompts_part(detector), shapes_part(detector, pixels, frozen),
        attention_part(visual, frozen, adapted, head, grid), cosine_part(detector, pixels, grid),
        lora_part(visual), "<h2>6. Anomaly maps and scores</h2>", picture_row(maps),
        html_table(("row", "score"), [(row, f"{value:.3f}") for row, value in scores.items()])])


def parser() -> argparse.ArgumentParser:
    p = option_parser("minilora.explain", __doc__)
    p.add_argument("run", help="a run folder of minilora.fit")
    p.add_argument("picture", help="a picture file")
    model = p.add_argument_group("model").add_argument
    model("--model", help="base weights, if they are no longer where fit found them")
    model("--device", default="cpu", type=device_name, help="cpu, cuda, …")
    bits_option(p, default=None)
    megapixel_option(p)
    output = p.add_argument_group("output").add_argument
    output("--head", type=whole, default=0, help="attention head of the last block, counted from 0")
    output("--out", default="explain.html", help="HTML file to write")
    return p


def main() -> None:
    options = parser().parse_args()
    check_output(options.out, "explain", [options.picture])
    detector = Detector.open(options.run, options.model, options.device)
    check_bits(detector, options.bits)
    body = explain(detector, options.picture, options.head)
    with atomic_output(options.out, "explain", "w", [options.picture]) as file:
        file.write(html.document(f"explain {Path(options.picture).name}", body))
    print(f"written  {shown(options.out)}")


def demo() -> None:
    """Weight changes by LoRA, and attention weights, in an untrained toy tower."""
    from minilora.clip import CLIPConfig
    from minilora.lora import add_lora
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
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
    run_command("minilora.explain", main)
