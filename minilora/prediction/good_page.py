"""report.html of a fit without test pictures: the good pictures and their leave-one-out scores.

Claim: before a detector is used, its good pictures should be checked.  Each is scored with a memory
bank that does not contain it.  The user should check those with the highest scores first, because
one good picture with a defect raises the threshold for all.

Left out: mistakes and curves, which need test pictures (report/run_page.py).
"""
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minilora.charts.colours import heat_colours
from minilora.checkpoint.published import BUNDLED_MODEL
from minilora.data.images import from_png, to_pil
from minilora.io.files import atomic_write
from minilora.prediction.inputs import SMALL_MODEL
from minilora.prediction.page import MOST_ROWS, PHOTOGRAPH, score_bar, threshold_part
from minilora.prediction.picture import highest_place
from minilora.prediction.thresholds import threshold_choices
from minilora.report.html import document, html_text, inline_image, plain_table
from minilora.report.nearest_patch import FRAME
from minilora.report.run_page import run_facts

MOST_GOOD = 24                          # good pictures shown, the highest scores first
GOOD_SIDE = 240                         # pixels of a picture's longer side


def write_good_page(path: str | Path, detector: Any, metrics: dict[str, Any], command: str,
                    following: str) -> None:
    """Writes the page of a `Detector` that has just been fitted.

    metrics: of the run ("drawn": names of the good pictures);  command: that made it;  following:
    the command to go on with.
    """
    with atomic_write(path, "w") as file:
        file.write(good_page(detector, metrics, command, following))


def good_page(detector: Any, metrics: dict[str, Any], command: str, following: str) -> str:
    """The text of the page."""
    scores, threshold = detector.shot_scores, detector.threshold
    names = metrics.get("drawn", [])
    names = [*names, *(f"good picture {k + 1}" for k in range(len(names), len(scores)))]
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    n_ng = sum(score > threshold for score in scores)
    body = f"<h1>{html_text(detector.class_name)}: {len(scores)} good pictures</h1>"
    if metrics["model"]["name"] == BUNDLED_MODEL:
        body += f'<p class="bad">{html_text(SMALL_MODEL)}</p>'
    body += (f"<p>Threshold {threshold:.3f}: {n_ng} of {len(scores)} good pictures would be NG. "
             f"Next: <code>{html_text(following)}</code></p>"
             f'<p class="soft">{PHOTOGRAPH}</p>')
    if warnings := metrics.get("shot_warnings"):
        body += "<h2>Check these pictures</h2><ul>" + "".join(
            f"<li>{html_text(line)}</li>" for line in warnings) + "</ul>"
    body += threshold_part(scores, threshold_choices(detector, []), threshold)
    body += ("<h2>Good pictures, the highest score first</h2><p class=\"soft\">Left: the worst "
             "patch is framed. Right: the anomaly map, dark blue to yellow from 0 to twice the "
             "threshold.</p><div class=\"gallery\">"
             + "".join(good_card(detector, k, names[k]) for k in order[:MOST_GOOD]) + "</div>")
    if others := order[MOST_GOOD:][:MOST_ROWS]:
        body += "<h2>The other good pictures</h2>" + plain_table(
            ("file", "score"), [(names[k], f"{scores[k]:.3f}") for k in others], kind="scroll")
    body += f"<h2>How it was made</h2>{run_facts(metrics, command)}"
    return document(f"{detector.class_name}: good pictures", body)


def good_card(detector: Any, k: int, name: str) -> str:
    """Good picture number k with its worst patch framed, its map, and its score."""
    score, threshold, scores = detector.shot_scores[k], detector.threshold, detector.shot_maps[k]
    picture = framed_worst(to_pil(from_png(detector.shot_pictures[k])), scores,
                           detector.clip.visual.patch)
    limit = max(detector.pixel_threshold(scores[None], torch.tensor([score])).item(), 1e-6)
    heat = Image.fromarray(heat_colours(scores / (2 * limit)))
    images = (inline_image(picture, f"{name}, the worst patch framed", GOOD_SIDE)
              + inline_image(heat, f"anomaly map of {name}", GOOD_SIDE))
    kind = "bad" if score > threshold else "good"
    return (f'<figure><div class="pair">{images}</div>{score_bar(score, threshold, kind)}'
            f"<figcaption>score {score:.3f}<br>{html_text(name)}</figcaption></figure>")


def framed_worst(picture: Image.Image, scores: Tensor, patch: int) -> Image.Image:
    """The picture with a frame of the size of three patches around the highest place of a map."""
    x, y = (part * side for part, side in zip(highest_place(scores), picture.size))
    framed = picture.copy()
    ImageDraw.Draw(framed).rectangle((x - 1.5 * patch, y - 1.5 * patch, x + 1.5 * patch,
                                      y + 1.5 * patch), outline=FRAME, width=2)
    return framed


def demo() -> None:
    """The page of an untrained tower with four noise pictures."""
    from minilora.toy_detector import toy_detector
    detector, _ = toy_detector()
    for k, score in enumerate(detector.shot_scores):
        card = good_card(detector, k, f"{k}.png")
        print(f"good picture {k}: score {score:.3f}, {len(card):,} characters on the page")


if __name__ == "__main__":
    demo()
