"""From the bytes of an uploaded picture to what the page shows about it.

Claim: a picture that cannot be read, or for which memory runs out, is an answer like any other: its
reason is shown, and the next picture is scored.

Symbols: H x W pixels.
Left out: the score (prediction/picture.py), the page (serve/page.py).
"""
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minilora.charts.colours import heat_colours
from minilora.data.decoding import read_image
from minilora.detector import Detector
from minilora.io.notes import take_notes
from minilora.io.text import shown
from minilora.prediction.picture import (Prediction, ScoredPicture, empty_prediction,
                                         predict_or_error)
from minilora.report.html import data_address

PICTURE_SIDE = 900                  # pixels of the longer side on the page
OPACITY = 0.55                      # of the map's highest values over the picture


@torch.no_grad()
def score_upload(detector: Detector, name: str,
                 content: bytes) -> tuple[Prediction, ScoredPicture | None, list[str]]:
    """(prediction, what there is to show, notes about the file) of a picture in memory.

    name: only to be shown.  Without a score the prediction has the error.
    """
    try:
        picture = read_image(name, detector.config.bits, content)
    except (OSError, ValueError) as error:
        picture = error
    try:
        return *predict_or_error(detector, name, picture), take_notes()
    except Exception as error:          # all: torch, out of memory; the server must go on
        reason = f"unexpected {type(error).__name__}: {shown(error)}"
        return empty_prediction(name, detector.threshold) | {"error": reason}, None, take_notes()


def page_answer(detector: Detector, entry: dict[str, Any], scored: ScoredPicture | None,
                notes: list[str]) -> dict[str, Any]:
    """What the page shows, ready for JSON; pictures are addresses that contain them.

    entry: of the history.
    """
    answer = {"entry": entry, "remarks": list(notes)}
    if scored is None:
        return answer
    if entry["framing"]:
        answer["remarks"].insert(0, f"looks framed differently: {entry['framing']}")
    scores = scored.scores
    limit = detector.pixel_threshold(scores[None], torch.tensor([entry["score"]])).item()
    answer |= {"picture": data_address(scored.overlay, PICTURE_SIDE),
               "map": data_address(heat_layer(scores, limit))}
    if scored.pair:
        answer |= dict(zip(("worst", "good"), map(data_address, scored.pair)))
    return answer


def heat_layer(scores: Tensor, limit: float) -> Image.Image:
    """A map (H, W) in colours, transparent where it is low: PIL RGBA.

    limit: value above which a pixel is suspicious; half of it is transparent, twice it is yellow.
    """
    heat = ((scores / max(limit, 1e-6) - 0.5) / 1.5).clamp(0, 1)
    alpha = (heat * 3).clamp(max=1) * OPACITY * 255
    return Image.fromarray(np.dstack([heat_colours(heat), alpha.byte().numpy()]), "RGBA")


def demo() -> None:
    """A toy detector scores a picture, and bytes that are none."""
    import io

    from minilora.toy_detector import toy_detector
    detector, _ = toy_detector()
    file = io.BytesIO()
    Image.new("RGB", (96, 64)).save(file, "PNG")
    for name, content in (("plate.png", file.getvalue()), ("text.png", b"no picture")):
        prediction, scored, _ = score_upload(detector, name, content)
        print(name, prediction["decision"], prediction["error"] or "")
        shown_parts = page_answer(detector, prediction, scored, [])
        print("shown:", ", ".join(shown_parts))


if __name__ == "__main__":
    demo()
