"""Panels: a picture, its mask, its anomaly map and both together, under a bar that says the result.

Claim: a table alone hides mistakes; a map shows whether the score comes from the defect.  The bar
is green if the decision is right and red if it is wrong; for a picture without a label it is
green for OK and red for NG.  Words say the same as the colour.

    maps/     one JPEG file for each test picture; PNG files would be seven times as large

The colours of all maps of a run mean the same values (`map_scale`), so panels can be compared.

Symbols: N test pictures of H x W pixels.
Left out: the page that shows panels (report/run_page.py).
"""
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minilora.charts.colours import heat_colours
from minilora.charts.writers import plain_letters
from minilora.data.mvtec import Sample
from minilora.io.derived_name import derived_stem
from minilora.io.files import atomic_write
from minilora.io.progress import stage
from minilora.io.text import shown

RIGHT_COLOUR, WRONG_COLOUR = (46, 125, 50), (198, 40, 40)       # green, red
UNDECIDED_COLOUR = (110, 110, 110)                              # without a threshold: grey
TITLE_HEIGHT, NAMES_HEIGHT, SCALE_WIDTH, GAP = 20, 16, 44, 2    # pixels


def verdict(label: int | None, is_ng: bool | None) -> str:
    """Whether a decision is right: "miss", "false alarm", "defect found", "good"; or ""."""
    if label is None or is_ng is None:
        return ""
    return ("defect found" if is_ng else "miss") if label else "false alarm" if is_ng else "good"


def bar_colour(label: int | None, is_ng: bool | None) -> tuple[int, int, int]:
    """Right or wrong where the label is known, else the decision."""
    if is_ng is None:
        return UNDECIDED_COLOUR
    return WRONG_COLOUR if is_ng != bool(label) else RIGHT_COLOUR


def picture_name(sample: Sample) -> str:
    """Kind and file name; only the file name where nobody has labelled the picture."""
    return sample.path.name if sample.label is None else f"{sample.kind}/{sample.path.name}"


def panel(pixels: Tensor, mask: Tensor | None, scores: Tensor, low: float, high: float, title: str,
          colour: tuple[int, int, int]) -> Image.Image:
    """Picture, mask, map and overlay side by side, with a colour scale, under a title bar.

    pixels: (3, H, W) in [0, 1];  mask: bool (H, W), shown if a pixel is marked;  scores: (H, W),
    shown in colours from low to high;  colour: of the title bar.
    """
    picture = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    share = ((scores - low) / max(high - low, 1e-9)).clamp(0, 1)
    heat, strength = heat_colours(share), share[..., None].numpy() * 0.7
    parts = {"picture": picture, "anomaly map": heat,
             "map on picture": (picture * (1 - strength) + heat * strength).astype(np.uint8)}
    if mask is not None and mask.any():
        white = np.repeat(mask.numpy()[..., None] * np.uint8(255), 3, 2)
        parts = {"picture": picture, "mask": white} | parts
    height, width = scores.shape
    top, step = TITLE_HEIGHT + NAMES_HEIGHT, width + 2 * GAP
    canvas = Image.new("RGB", (len(parts) * step + SCALE_WIDTH, top + height))
    draw, small = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    draw.rectangle((0, 0, canvas.width, TITLE_HEIGHT - 1), colour)
    draw.text((5, 3), plain_letters(shown(title)), "white", ImageFont.load_default(12))
    for k, (name, part) in enumerate(parts.items()):
        canvas.paste(Image.fromarray(part), (k * step + GAP, top))
        draw.text((k * step + GAP + 3, TITLE_HEIGHT + 1), name, "white", small)
    draw_scale(canvas, len(parts) * step + GAP, top, low, high)
    return canvas


def draw_scale(canvas: Image.Image, left: int, top: int, low: float, high: float) -> None:
    """The colour scale from `top` to the bottom of the canvas, with the values at its ends."""
    height = canvas.height - top
    column = heat_colours(np.linspace(1, 0, height)[:, None].repeat(8, 1))
    canvas.paste(Image.fromarray(column), (left, top))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    draw.text((left + 11, top), f"{high:.3g}", "white", font)
    draw.text((left + 11, canvas.height - 13), f"{low:.3g}", "white", font)


def unique_stems(names: Iterable[str]) -> list[str]:
    """A file name without suffix for each name; one that occurred before gets a number.

    Upper and lower case, and two spellings of one accent, count as the same: many disks do not
    tell them apart.
    """
    taken, stems = set(), []
    for name in map(derived_stem, names):
        number, stem = 1, name
        while (key := unicodedata.normalize("NFC", stem).casefold()) in taken:
            number += 1
            stem = f"{name}-{number}"
        taken.add(key)
        stems.append(stem)
    return stems


def map_scale(maps: Sequence[Tensor]) -> tuple[float, float]:
    """Values of the darkest and the lightest colour for the maps of a run.  maps: N of (H, W).

    From the median of the lowest values of the maps to the 90 % quantile of their highest values.
    """
    return (torch.stack([m.min() for m in maps]).median().item(),
            torch.stack([m.max() for m in maps]).quantile(0.9).item())


def write_maps(folder: str | Path, samples: Sequence[Sample], pictures: Sequence[Tensor],
               masks: Sequence[Tensor | None] | None, maps: Sequence[Tensor], scores: Tensor,
               threshold: float | None) -> list[Path]:
    """Writes one panel for each test picture, <folder>/<kind>-<stem>.jpg.  Returns the paths.

    pictures: N of (3, H, W) in [0, 1];  masks: N bool (H, W);  maps: N of (H, W);  scores: (N,).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    low, high = map_scale(maps)
    paths = []
    stems = unique_stems(f"{sample.kind}-{sample.path.stem}" for sample in samples)
    for k, stem in enumerate(stage("panels", stems, len(stems))):
        sample = samples[k]
        is_ng = None if threshold is None else bool(scores[k] > threshold)
        decision = "" if is_ng is None else "NG" if is_ng else "OK"
        words = filter(None, (decision, f"{scores[k]:.3f}", verdict(sample.label, is_ng).upper(),
                              picture_name(sample)))
        mask = None if masks is None else masks[k]
        image = panel(pictures[k], mask, maps[k], low, high, "   ".join(words),
                      bar_colour(sample.label, is_ng))
        paths.append(folder / f"{stem}.jpg")
        with atomic_write(paths[-1]) as file:
            image.save(file, "JPEG", quality=85)
    return paths


def demo() -> None:
    """The bar of each case, and the size of a panel."""
    for label in (0, 1, None):
        print(f"label {label}:", ", ".join(
            f"{'NG' if is_ng else 'OK'} {verdict(label, is_ng) or '(nobody knows)'} "
            f"{'green' if bar_colour(label, is_ng) == RIGHT_COLOUR else 'red'}"
            for is_ng in (False, True)))
    generator = torch.Generator().manual_seed(0)
    picture, scores = torch.rand(3, 32, 48, generator=generator), torch.zeros(32, 48)
    for mask in (None, torch.ones(32, 48, dtype=torch.bool)):
        image = panel(picture, mask, scores, 0, 1.5, "NG", WRONG_COLOUR)
        print(f"picture of 48 x 32, {'with' if mask is not None else 'without'} a mask: "
              f"panel of {image.width} x {image.height}")


if __name__ == "__main__":
    demo()
