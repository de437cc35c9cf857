"""One picture, step by step: what the detector of a run sees in it, as a page.

    python -m minilora.explain RUN PICTURE --out explain.html

Tokens of the prompts; shapes at each stage; where one head of the last block looks; how near each
patch is to "normal" and "anomalous"; what LoRA changed; the maps that make the score.
Symbols: P patches, W width, E embedding, L tokens, H heads.
Leaves out: gradients, attribution methods (they explain less than they seem to).
"""
import math
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from minilora import anomaly_map
from minilora.bpe import default_tokenizer
from minilora.coop import STATE_WORDS
from minilora.data.images import normalise, read_image
from minilora.io.cli import command, option_parser
from minilora.io.files import whole_file
from minilora.lora import lora_layers
from minilora.losses import similarity_logits
from minilora.predict import open_run
from minilora.report import html
from minilora.report.results import colours
from minilora.train import frozen_states

PAGE_SIDE = 224                      # of the pictures on the page, pixels


def heat(values, low=None, high=None):
    """(rows, columns) -> a coloured PIL picture, from its lowest to its highest value."""
    values = values.float()
    low = values.min() if low is None else low
    high = values.max() if high is None else high
    scaled = (values - low) / max(float(high - low), 1e-9)
    return enlarged(Image.fromarray(colours(scaled)), Image.Resampling.NEAREST)


def enlarged(picture, how=Image.Resampling.BICUBIC):
    """PIL picture, its shorter side SIDE pixels."""
    return picture.resize([round(PAGE_SIDE * side / min(picture.size)) for side in picture.size], how)


def attention_of_cls(visual, entering, head):
    """How much CLS attends to each patch in the last block.  entering: (1, 1+P, W) -> (P,)."""
    block = visual.blocks[-1]
    x = block.ln_1(entering)
    q, k = block.attn.split(block.attn.q(x)), block.attn.split(block.attn.k(x))     # (1, H, L, D)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)        # (1, H, L, L)
    return weights[0, head, 0, 1:]


def nearest_words(clip, vectors, tokenizer):
    """The token whose embedding is nearest to each learned context vector.  (n, W) -> n words."""
    table = F.normalize(clip.text.token_embedding.weight, dim=-1)
    return [tokenizer.decode([i]).strip() or f"token {i}"
            for i in (F.normalize(vectors, dim=-1) @ table.T).argmax(-1).tolist()]


def changes(visual):
    """What LoRA changed, a row each: name, norm of the delta, share of the weight's norm, share of
    its largest singular value, cosine between delta and weight."""
    rows = []
    for name, layer in lora_layers(visual).items():
        delta, weight = layer.delta_weight(), layer.weight
        values = torch.linalg.svdvals(delta)
        rows.append((name, delta.norm().item(), (delta.norm() / weight.norm()).item(),
                     (values[0] / values.sum().clamp(min=1e-12)).item(),
                     F.cosine_similarity(delta.flatten(), weight.flatten(), dim=0).item()))
    return rows


def html_table(head, rows):
    """Cells of text as an HTML table."""
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>"
                   for row in rows)
    return (f'<div class="wide"><table><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr>'
            f"{body}</table></div>")


def picture_row(pictures):
    """[(PIL picture, caption)] side by side."""
    return '<div class="gallery">' + "".join(
        f"<figure>{html.inline_image(picture, caption)}<figcaption>{escape(caption)}</figcaption>"
        "</figure>" for picture, caption in pictures) + "</div>"


def text_part(detector):
    """Tokens of the hand-written prompts, and what the learned context is near to."""
    tokenizer, rows = default_tokenizer(), []
    for state in STATE_WORDS:
        prompt = f"{detector.config.context} {state} {detector.class_name}"
        ids = tokenizer.encode(prompt)
        rows.append((prompt, " ".join(tokenizer.decode([i]).strip() for i in ids),
                     " ".join(map(str, ids))))
    words = [" ".join(nearest_words(detector.clip, c, tokenizer))
             for c in detector.prompts.context.detach().flatten(0, -3).unbind(0)]
    cosine = F.cosine_similarity(*detector.learned, dim=0).item()
    return ("<h2>1. The prompts</h2>" + html_table(("text", "tokens", "ids"), rows)
            + "<p>The learned context vectors started from the words “"
            + escape(detector.config.context) + "”; the nearest tokens to them now are “"
            + escape("”, “".join(words)) + f"”. Cosine between the texts of “normal” and "
            f"“anomalous”: {cosine:.3f}.</p>")


def shapes_part(detector, pixels, frozen):
    clip = detector.clip
    patches = clip.visual.value_value(frozen, detector.last)
    rows = [("picture", tuple(pixels.shape[1:])),
            (f"tokens: CLS and patches of {clip.visual.patch} x {clip.visual.patch} pixels",
             tuple(frozen[0].shape[1:])),
            (f"after each of {len(clip.visual.blocks)} blocks", tuple(frozen[-1].shape[1:])),
            ("CLS, projected: the picture's vector", tuple(clip.visual.pool(frozen[-1]).shape[1:])),
            ("patches by the value-value path, projected", tuple(patches.shape[1:])),
            ("texts, normal and anomalous", tuple(detector.learned.shape))]
    if detector.banks:
        kept = detector.banks["adapted"].tokens
        rows.append(("patches that the memory keeps", tuple(kept.shape)))
    return "<h2>2. Shapes</h2>" + html_table(("stage", "shape"), rows)


@torch.no_grad()
def explain(detector, path, head=0):
    """The body of the page.  Raises ValueError for a head that is not there."""
    visual, scale = detector.clip.visual, detector.clip.logit_scale.exp()
    heads = visual.blocks[-1].attn.heads
    if not 0 <= head < heads:
        raise ValueError(f"--head {head}: expected 0 to {heads - 1}")
    pixels = detector.prepare(read_image(path))[None].to(detector.device)
    frozen, adapted = frozen_states(visual, pixels), visual.hidden_states(
        visual.embed(normalise(pixels)))
    picture = Image.fromarray((pixels[0].cpu() * 255).round().byte().permute(1, 2, 0).numpy())
    grid = pixels.shape[2] // visual.patch, -1
    without, patches = (detector.encode(pixels, lora).patches for lora in (False, True))
    cosine = similarity_logits(patches, detector.learned, 1)[0]                         # (P, 2)
    low, high = cosine.min(), cosine.max()
    before, after = (anomaly_map.text_map(part, detector.learned, scale)[0]
                     for part in (without, patches))
    looks = [attention_of_cls(visual, states[-2], head).unflatten(0, grid)
             for states in (frozen, adapted)]
    rows = detector.rows(pixels)
    scores = {row: found.item() for row, (_, found) in rows.items()}
    final = [(heat(maps[0]), f"map of the row {row}") for row, (maps, _) in rows.items()]
    score, threshold = list(scores.values())[-1], detector.threshold
    decision = "no threshold" if threshold is None else (
        f"{'NG' if score > threshold else 'OK'}: score {score:.3f}, threshold {threshold:.3f}")
    norms = [(name, f"{norm:.3f}", f"{share:.2%}", f"{first:.0%}", f"{turn:+.3f}")
             for name, norm, share, first, turn in changes(visual)]
    return "".join([
        f"<h1>{escape(Path(path).name)}</h1><p>{escape(decision)}</p>",
        picture_row([(enlarged(picture), "the picture")]),
        text_part(detector), shapes_part(detector, pixels, frozen),
        f"<h2>3. Where head {head} of {heads} in the last block looks</h2>",
        picture_row([(heat(looks[0]), "attention of CLS, frozen"),
                 (heat(looks[1]), "with LoRA")]),
        "<h2>4. Each patch beside the texts</h2>",
        picture_row([(heat(cosine[:, 0].unflatten(0, grid), low, high), "cosine to “normal”"),
                 (heat(cosine[:, 1].unflatten(0, grid), low, high), "cosine to “anomalous”"),
                 (heat(before.unflatten(0, grid), 0, 1), "probability of “anomalous”, LoRA off"),
                 (heat(after.unflatten(0, grid), 0, 1), "probability of “anomalous”, LoRA on")]),
        "<h2>5. What LoRA changed</h2>",
        html_table(("projection", "‖ΔW‖", "of ‖W‖", "largest singular value", "cosine with W"), norms),
        "<h2>6. The maps, and their scores</h2>", picture_row(final),
        html_table(("row", "score"), [(row, f"{value:.3f}") for row, value in scores.items()])])


def parser():
    p = option_parser("minilora.explain", __doc__)
    p.add_argument("run", help="a run folder of minilora.fit, or its adapter.pt")
    p.add_argument("picture", help="a picture file")
    model = p.add_argument_group("model").add_argument
    model("--model", help="the base weights, if they lie elsewhere now")
    model("--device", default="cpu", help="cpu, cuda, …")
    output = p.add_argument_group("output").add_argument
    output("--head", type=int, default=0, help="attention head of the last block, from 0")
    output("--out", default="explain.html", help="the page")
    return p


def main():
    options = parser().parse_args()
    detector = open_run(options.run, options.model, options.device)
    body = explain(detector, options.picture, options.head)
    with whole_file(Path(options.out), "w") as file:
        file.write(html.document(f"explain {Path(options.picture).name}", body))
    print(f"written  {options.out}")


def demo():
    from minilora.clip import CLIP, CLIPConfig
    from minilora.lora import add_lora
    generator = torch.Generator().manual_seed(0)
    clip = CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                           text_width=64, text_layers=1)).initialise(generator)
    add_lora(clip.visual, ("q", "v"), (2,), generator=generator)
    for layer in lora_layers(clip.visual).values():
        torch.nn.init.normal_(layer.lora_B, std=0.02, generator=generator)
    print("projection           |dW|   of |W|  largest singular value  cosine with W")
    for name, norm, share, first, turn in changes(clip.visual):
        print(f"{name:18s} {norm:6.3f}  {share:6.2%}  {first:21.0%}  {turn:+.3f}")
    tokens = torch.randn(1, 17, 64, generator=generator)
    with torch.no_grad():
        weights = attention_of_cls(clip.visual, tokens, 0)
    print(f"attention of CLS to {len(weights)} patches, the rest of 1 to itself: "
          f"{weights.sum():.3f}")


if __name__ == "__main__":
    command("minilora.explain", main)
