"""One picture: score, OK or NG, worst patch, overlay, its printed line and its row in CSV.

Claim: a decision should come with its reasons: where the worst patch is, which good patch is
nearest to it, and whether the picture is framed like the good pictures.

Symbols: H x W pixels.
Left out: reading files (prediction/inputs.py), many pictures (predict.py), pages.
"""
import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from minilora.data.framing import framing_remarks, measure_framing
from minilora.data.images import to_pil
from minilora.detector import Detector
from minilora.io.derived_name import derived_stem
from minilora.io.text import csv_cell, shown, utf8_text
from minilora.report.nearest_patch import NearestPatch, nearest_good_patch, patch_pair
from minilora.report.overlays import draw_outline, reduced
from minilora.rows import ROWS

MAX_ERROR = 1000                                # characters of a path or of an error on one line
# x, y: middle of the worst patch, in pixels of the upright picture, and as fractions of its sides
CSV_COLUMNS = ("file", "decision", "score", "threshold", "x", "y", "x_fraction", "y_fraction",
               "overlay", "framing", "error")

Prediction = dict[str, Any]                     # {column of CSV_COLUMNS: value}; None: unknown


class ScoredPicture(NamedTuple):
    """What there is to say and to show about one picture."""
    prediction: Prediction
    overlay: Image.Image                        # the suspicious region outlined, if NG
    pair: tuple[Image.Image, Image.Image] | None    # crops: worst patch, nearest good patch
    scores: Tensor                              # the map (H, W)
    nearest: NearestPatch | None = None         # where both patches are


def predict_picture(detector: Detector, path: str | Path, picture: Image.Image) -> ScoredPicture:
    """Score one picture, PIL RGB.  path: its name.  Raises ValueError if it cannot be scored."""
    name = "adapted" if detector.banks else "zero-shot"
    pixels = detector.prepare(picture)                                      # (3, H, W)
    features = detector.encode(pixels[None], ROWS[name].lora)
    maps, score = detector.map_and_score(features, name)                    # (1, H, W), (1,)
    is_ng = score.item() > detector.threshold
    x, y = highest_place(maps[0])
    remarks = framing_remarks(measure_framing(pixels), detector.shot_measures)
    prediction = empty_prediction(path, detector.threshold) | {
        "decision": "NG" if is_ng else "OK", "score": round(score.item(), 6),
        "x": int(x * picture.width), "y": int(y * picture.height), "x_fraction": x, "y_fraction": y,
        "framing": "; ".join(remarks) or None}
    pixel_threshold = detector.pixel_threshold(maps, score).item()
    overlay = draw_outline(picture, maps[0], pixel_threshold) if is_ng else reduced(picture)
    found = nearest_good_patch(detector, features, maps[0])
    return ScoredPicture(prediction, overlay, found and patch_pair(detector, picture, found),
                         maps[0], found)


def empty_prediction(path: str | Path, threshold: float) -> Prediction:
    """All columns for a picture that has no score yet."""
    return dict.fromkeys(CSV_COLUMNS) | {"file": utf8_text(path), "threshold": round(threshold, 6)}


def predict_or_error(detector: Detector, path: str | Path, picture: Image.Image | Exception
                     ) -> tuple[Prediction, ScoredPicture | None]:
    """(prediction, all there is to show); without a score the prediction has the error."""
    try:
        if isinstance(picture, Exception):
            raise picture
        scored = predict_picture(detector, path, picture)
        return scored.prediction, scored
    except (OSError, ValueError) as error:
        return empty_prediction(path, detector.threshold) | {"error": utf8_text(error)}, None


def highest_place(scores: Tensor) -> tuple[float, float]:
    """The highest pixel of a map (H, W) as (x, y), in fractions of width and height."""
    height, width = scores.shape
    row, column = divmod(int(scores.argmax()), width)
    return round((column + 0.5) / width, 4), round((row + 0.5) / height, 4)


def overlay_name(number: int, prediction: Prediction) -> str:
    """File name of the overlay."""
    stem = derived_stem(Path(prediction["file"]).stem)
    return f"{number:04d}-{prediction['decision']}-{stem}.png"


def prediction_line(prediction: Prediction, as_json: bool = False) -> str:
    """One line for one picture, to be read by people or as JSON."""
    if as_json:
        return json.dumps(prediction)
    if prediction["error"]:
        return f"--  not scored: {shown(prediction['error'], MAX_ERROR)}"
    framing = prediction["framing"]
    return (f"{prediction['decision']}  score {prediction['score']:7.3f}  "
            f"threshold {prediction['threshold']:.3f}  {shown(prediction['file'], MAX_ERROR)}"
            + (f"  looks framed differently ({framing})" if framing else ""))


def csv_lines(predictions: Iterable[Prediction], columns: Sequence[str] = CSV_COLUMNS,
              head: bool = True) -> str:
    """Predictions as lines of CSV.  head: with the names of the columns first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    if head:
        writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in prediction.items()}
                     for prediction in predictions)
    return text.getvalue()


def demo() -> None:
    """A toy detector scores a good picture, and one with a dark spot."""
    from minilora.toy_detector import toy_detector, with_spot
    detector, good = toy_detector()
    for name, pixels in (("good.png", good[0]), ("spot.png", with_spot(good[:1])[0])):
        print(prediction_line(predict_picture(detector, name, to_pil(pixels)).prediction))


if __name__ == "__main__":
    demo()
