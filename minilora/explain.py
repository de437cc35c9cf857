"""Explain the score of one picture: a page with every stage of the method.

    python -m minilora.explain RUN PICTURE --out explain.html

    1. how the parts add up to the score         5. attention of CLS in the last block
    2. worst patch and nearest good patch        6. cosine of each patch with the texts
    3. tokens of the prompts                     7. weight change by LoRA
    4. shapes at each stage                      8. anomaly maps and scores of all rows

Each part names the module that computes it.
Left out: gradients and attribution methods, which explain less than they seem to.
"""
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.images import normalise, to_pil
from minilora.detector import Detector
from minilora.io.cli import device_name, non_negative_int, option_parser, run_command
from minilora.io.output import atomic_output, check_output
from minilora.io.parser import OneLineParser
from minilora.io.text import shown
from minilora.prediction.inputs import check_bits
from minilora.report import html
from minilora.report.explain_parts import (attention_part, cosine_part, enlarged, heading,
                                           heat_figure, lora_part, picture_row, prompts_part,
                                           shapes_part)
from minilora.report.run_pictures import nearest_pair
from minilora.report.score_parts import score_part
from minilora.rows import ROWS
from minilora.train import frozen_states


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
    features = {lora: detector.encode(pixels, lora) for lora in (False, True)}
    grid = pixels.shape[2] // visual.patch, -1
    rows = detector.rows(pixels)
    name = list(rows)[-1]                                               # the row that decides
    score = rows[name][1].item()
    return "".join([
        decision_part(detector, path, pixels, score),
        score_part(detector, features[ROWS[name].lora], name, score),
        nearest_part(detector, path), prompts_part(detector), shapes_part(detector, pixels, frozen),
        attention_part(visual, frozen, adapted, head, grid),
        cosine_part(detector, features[False].text_patches, features[True].text_patches, grid),
        lora_part(visual), rows_part(rows)])


def decision_part(detector: Detector, path: str | Path, pixels: Tensor, score: float) -> str:
    """The picture, and OK or NG in words.  pixels: (1, 3, H, W)."""
    threshold = detector.threshold
    decision = f"Score {score:.3f}; there is no threshold." if threshold is None else (
        f"{'NG' if score > threshold else 'OK'}: score {score:.3f}, threshold {threshold:.3f}")
    return (f"<h1>{html.html_text(Path(path).name)}</h1><p><b>{escape(decision)}</b></p>"
            + picture_row([(enlarged(to_pil(pixels[0])), "the picture as the image tower gets it",
                            "")]))


def nearest_part(detector: Detector, path: str | Path) -> str:
    """The worst patch beside the nearest good patch, if the detector has a memory."""
    pair = nearest_pair(detector, Path(path), ())
    return pair and heading(2, "The worst patch and the nearest good patch", "memory_bank.py, "
                            "report/nearest_patch.py", "This here does not look like that there: "
                            "the memory holds patches of good pictures, and the distance to the "
                            "nearest one is what the memory map shows.") + pair


def rows_part(rows: dict[str, tuple[Tensor, Tensor]]) -> str:
    """Maps and scores of all rows that can be computed.  rows: of `Detector.rows`."""
    maps = [heat_figure(maps[0], f"row {row}: {ROWS[row].description}; score {score.item():.3f}", 0)
            for row, (maps, score) in rows.items()]
    table = html.plain_table(("row", "which parts it has", "score"), [
        (row, ROWS[row].description, f"{score.item():.3f}") for row, (_, score) in rows.items()],
        (0, 1))
    return heading(8, "Anomaly maps and scores of all rows", "rows.py, detector.py", "Each row has "
                   "other parts of the method, so two rows show what one part does. The last row "
                   "decides. Scores of different rows have different units: compare the maps, "
                   "each with its own colour scale.") + table + picture_row(maps)


def parser() -> OneLineParser:
    p = option_parser("minilora.explain", __doc__, "runs/mine picture.jpg")
    add, rare = p.add_argument, p.rare.add_argument
    add("run", help="a run folder of minilora fit")
    add("picture", help="a picture file")
    add("--out", metavar="FILE", default="explain.html", help="the page to write")
    add("--head", type=non_negative_int, metavar="N", default=0,
        help="attention head, counted from 0")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")
    rare("--model", metavar="WEIGHTS", help="base weights, if the file of the fit has moved")
    bits_option(rare, default=None)
    megapixel_option(rare)
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
    """A toy detector explains a picture of noise: the sections of the page."""
    import re
    import tempfile

    from minilora.toy_detector import toy_detector
    detector, _ = toy_detector(width=64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.png"
        Image.effect_noise((64, 64), 40).save(path)
        for title in re.findall("<h[12]>(.*?)</h", explain(detector, path)):
            print(title)


if __name__ == "__main__":
    run_command("minilora.explain", main)
