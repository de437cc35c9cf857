"""Numbers of a run: metrics of each row, tables, and the scores of the test pictures.

    metrics.json   every number of the run, AUROC as a fraction in [0, 1], null where undefined
    scores.csv     one line for each test picture: file, label, score, decision

Claim: a metric without its conditions misleads, so it is None where it is undefined.
Every file is written completely or not at all (io/files.py).

Symbols: N test pictures of H x W pixels.
Left out: the anomaly maps (report/panels.py), the HTML page of a run (report/run_page.py).
"""
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minilora.auroc import auroc
from minilora.data.mvtec import Sample
from minilora.io.files import atomic_write
from minilora.io.text import csv_cell
from minilora.metrics.aupro import aupro
from minilora.metrics.average_precision import average_precision, f1_max

IMAGE_METRICS = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}

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


def text_table(rows: dict[str, MetricValues], explain: dict[str, str], odd: bool = True) -> str:
    """A table for the terminal, in per cent.  rows: {name: metrics};  explain: {name: words}.

    odd: also the columns of the odd-numbered pictures; defaults of the method were chosen on the
    even-numbered ones of the data sets, so for a user's own pictures they mean nothing.
    """
    heads = [name + suffix for suffix in ("", "_odd")[:1 + odd]
             for name in ("image_auroc", "pixel_auroc", "aupro")]
    lines = ["             all pictures          odd-numbered ones"] * odd
    lines.append(f"%         {'   image  pixel  AUPRO' * (1 + odd)}   image and pixel: AUROC")
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


def demo() -> None:
    """The table of one row, and how many pictures a threshold calls NG."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(8, 32, 32, generator=generator)
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    labels = torch.tensor(4 * [0, 1])
    masks[1::2, 8:16, 8:16] = True
    maps[1::2, 8:16, 8:16] += 0.5
    scores = maps.flatten(1).amax(1)
    row = row_metrics(scores, maps, labels, masks)
    print(text_table({"memory": row}, {"memory": "random maps, 0.5 higher inside the masks"}))
    print(decision_metrics(scores, labels.tolist(), 1.2))


if __name__ == "__main__":
    demo()
