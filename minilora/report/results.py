"""Files and tables of a run: metrics, scores, and panels that show the anomaly maps.

    metrics.json   every number of the run, AUROC as a fraction in [0, 1], null where undefined
    scores.csv     one line for each test picture: file, label, score, decision
    maps/          input, mask, anomaly map and overlay side by side

Claim: a table alone hides mistakes; a map shows whether the score comes from the defect.
Every file is written completely or not at all (io/files.py).

Symbols: N test pictures of H x W pixels.
Left out: the HTML page of a run (report/run_page.py).
"""
import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minilora.auroc import auroc
from minilora.data.mvtec import Sample
from minilora.io.derived_name import derived_stem
from minilora.io.files import atomic_write
from minilora.io.text import csv_cell, shown
from minilora.metrics.aupro import aupro
from minilora.metrics.average_precision import average_precision, f1_max

IMAGE_METRICS = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}
OK_COLOUR, NG_COLOUR = (46, 125, 50), (198, 40, 40)     # title bar of a panel: green, red
UNKNOWN_COLOUR = (110, 110, 110)                        # without a threshold: grey

MetricValues = dict[str, float | None]


def defined_or_none(metric: Callable[[Tensor, Tensor], float], scores: Tensor,
                    labels: Tensor) -> float | None:
    """metric(scores, labels), or None if all labels are equal: the metric is undefined then."""
    labels = labels.bool()
    return metric(scores, labels) if labels.any() and not labels.all() else None


def row_metrics(scores: Tensor, maps: Sequence[Tensor] | Tensor | None, labels: Tensor,
                masks: Sequence[Tensor] | Tensor | None) -> MetricValues:
    """All metrics of a row over all pictures and, with suffix _odd, over the odd-numbered ones.

    scores, labels: (N,);  maps: N of (H, W), or None;  masks: N bool (H, W), None for a picture
    whose mask is missing, or None for all.  Without maps or masks the pixel metrics are None.
    Pictures are numbered from 0 in sorted order; defaults were chosen on the even-numbered ones.
    """
    out = {}
    for suffix, part in (("", slice(None)), ("_odd", slice(1, None, 2))):
        for name, metric in IMAGE_METRICS.items():
            out[name + suffix] = defined_or_none(metric, scores[part], labels[part])
        pixels = pixel_metrics(*(m if m is None else m[part] for m in (maps, masks)))
        out |= {name + suffix: value for name, value in pixels.items()}
    return out


def pixel_metrics(maps: Sequence[Tensor] | Tensor | None,
                  masks: Sequence[Tensor] | Tensor | None) -> MetricValues:
    """Metrics over all pixels; None without masks, or if no pixel or every pixel is marked."""
    undefined = dict.fromkeys(("pixel_auroc", "pixel_ap", "aupro"))
    if maps is None or masks is None or not len(maps):
        return undefined
    known = [k for k, mask in enumerate(masks) if mask is not None]
    if len(known) < len(masks):                 # a defective picture without a mask is left out
        maps, masks = ([column[k] for k in known] for column in (maps, masks))
    if not known:
        return undefined
    scores, marked = (torch.cat([m.flatten() for m in column]) for column in (maps, masks))
    if marked.all() or not marked.any():
        return undefined
    return {"pixel_auroc": auroc(scores, marked), "pixel_ap": average_precision(scores, marked),
            "aupro": aupro(maps, masks)}


def kind_metrics(scores: Tensor, kinds: Sequence[str]) -> MetricValues:
    """Image AUROC of each defect kind against all good pictures: {kind: value or None}."""
    good = torch.tensor([kind == "good" for kind in kinds])
    out = {}
    for kind in sorted(set(kinds) - {"good"}):
        of_kind = torch.tensor([k == kind for k in kinds])
        out[kind] = defined_or_none(auroc, scores[good | of_kind], of_kind[good | of_kind])
    return out


def decision_metrics(scores: Tensor, labels: list[int | None],
                     threshold: float | None) -> dict[str, int] | None:
    """Number of pictures with each label, and how many of them are NG by the threshold.

    scores: (N,);  labels: 0 good, 1 defective, None unknown.  Returns None without a threshold.
    """
    if threshold is None:
        return None
    count = {label: labels.count(label) for label in (0, 1, None)}
    above = {label: sum(score > threshold for score, own in zip(scores.tolist(), labels)
                        if own == label) for label in count}
    return {"good": count[0], "false_alarms": above[0], "defective": count[1], "found": above[1],
            "unlabelled": count[None], "called": above[None]}


def percent(value: float | None) -> str:
    """A fraction in per cent, six characters wide with one decimal; -- if it is undefined."""
    return "    --" if value is None else f"{100 * value:6.1f}"


def text_table(rows: dict[str, MetricValues], explain: dict[str, str]) -> str:
    """A table for the terminal, in per cent.  rows: {name: metrics};  explain: {name: words}."""
    heads = [name + suffix for suffix in ("", "_odd")
             for name in ("image_auroc", "pixel_auroc", "aupro")]
    lines = ["             all pictures          odd-numbered ones",
             "%            image  pixel  AUPRO   image  pixel  AUPRO   image and pixel: AUROC"]
    for name, row in rows.items():
        values = " ".join(percent(row.get(head)) for head in heads)
        lines.append(f"{name:10s} {values}   {explain[name]}")
    return "\n".join(lines)


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.  head: column names;  lines: the cells of each line."""
    return "\n".join("| " + " | ".join(line) + " |"
                     for line in [head, ["---"] * len(head), *lines])


def write_scores(path: str | Path, samples: Sequence[Sample], scores: Tensor,
                 threshold: float | None) -> None:
    """Writes scores.csv.  scores: (N,).  The decision is OK, NG, or empty without a threshold."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("file", "label", "score", "decision"))
    for sample, score in zip(samples, scores.tolist()):
        decision = "" if threshold is None else "NG" if score > threshold else "OK"
        label = "" if sample.label is None else sample.label
        writer.writerow((csv_cell(str(sample.path)), label, f"{score:.6f}", decision))
    with atomic_write(path, "w") as file:
        file.write(text.getvalue())


def heat_colours(values: Tensor) -> np.ndarray:
    """Colours from dark blue over green to yellow.  values: (H, W) in [0, 1] -> uint8 (H, W, 3)."""
    stops = torch.tensor([[13, 8, 90], [33, 110, 160], [60, 180, 110],
                          [245, 220, 60], [255, 250, 210]]).float()
    position = values.clamp(0, 1) * (len(stops) - 1)
    low = position.floor().long().clamp(max=len(stops) - 2)
    mixed = torch.lerp(stops[low], stops[low + 1], (position - low)[..., None])
    return mixed.round().byte().numpy()


def panel(pixels: Tensor, mask: Tensor | None, scores: Tensor, low: float, high: float, title: str,
          good: bool | None) -> Image.Image:
    """Input, mask, map and overlay side by side, under a title bar.

    pixels: (3, H, W) in [0, 1];  mask: bool (H, W) or None;  scores: (H, W), shown in colours from
    low to high, which are the same for all pictures of a run;  good: decision OK (green title bar),
    NG (red), or None (grey).
    """
    picture = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    heat = heat_colours((scores - low) / max(high - low, 1e-9))
    strength = ((scores - low) / max(high - low, 1e-9)).clamp(0, 1)[..., None].numpy() * 0.7
    overlay = (picture * (1 - strength) + heat * strength).astype(np.uint8)
    truth = (np.zeros_like(picture) if mask is None else
             np.repeat(mask.numpy()[..., None] * np.uint8(255), 3, 2))
    row = np.concatenate([np.pad(p, ((0, 0), (2, 2), (0, 0)))
                          for p in (picture, truth, heat, overlay)], axis=1)
    bar = UNKNOWN_COLOUR if good is None else OK_COLOUR if good else NG_COLOUR
    canvas = Image.new("RGB", (row.shape[1], row.shape[0] + 18), bar)
    canvas.paste(Image.fromarray(row), (0, 18))
    title = shown(title).encode("latin-1", "replace").decode("latin-1")     # what the font has
    ImageDraw.Draw(canvas).text((4, 3), title, fill="white")
    return canvas


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


def write_maps(folder: str | Path, samples: Sequence[Sample], pictures: Sequence[Tensor],
               masks: Sequence[Tensor] | None, maps: Sequence[Tensor], scores: Tensor,
               threshold: float | None) -> list[Path]:
    """Writes one panel for each test picture, <folder>/<kind>-<stem>.jpg.  Returns the paths.

    pictures: N of (3, H, W) in [0, 1];  masks: N bool (H, W);  maps: N of (H, W);  scores: (N,).
    The colours are the same for all panels, so they can be compared: the scale goes from the median
    of the lowest values of the maps to the 90 % quantile of their highest values.
    They are JPEG files, since PNG files would be seven times as large.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    low = torch.stack([m.min() for m in maps]).median().item()
    high = torch.stack([m.max() for m in maps]).quantile(0.9).item()
    paths = []
    stems = unique_stems(f"{sample.kind}-{sample.path.stem}" for sample in samples)
    for k, (sample, stem) in enumerate(zip(samples, stems)):
        good = None if threshold is None else bool(scores[k] <= threshold)
        decision = "" if good is None else "OK  " if good else "NG  "
        title = (f"{decision}{scores[k]:.2f}   {sample.kind}/{sample.path.name}   "
                 "input | mask | map | overlay")
        mask = None if masks is None else masks[k]
        image = panel(pictures[k], mask, maps[k], low, high, title, good)
        paths.append(folder / f"{stem}.jpg")
        with atomic_write(paths[-1]) as file:
            image.save(file, "JPEG")
    return paths


def demo() -> None:
    """The table of one row, and the size of a panel."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(8, 32, 32, generator=generator)
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    labels = torch.tensor(4 * [0, 1])
    masks[1::2, 8:16, 8:16] = True
    maps[1::2, 8:16, 8:16] += 0.5
    row = row_metrics(maps.flatten(1).amax(1), maps, labels, masks)
    print(text_table({"memory": row}, {"memory": "random maps, 0.5 higher inside the masks"}))
    picture = torch.rand(3, 32, 32, generator=generator)
    image = panel(picture, masks[1], maps[1], 0, 1.5, "NG", False)
    print(f"a panel of a 32 x 32 picture has {image.width} x {image.height} pixels")


if __name__ == "__main__":
    demo()
