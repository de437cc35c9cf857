"""Score pictures with a fitted detector: OK or NG, the score, and the suspicious region.

    python -m minilora.predict RUN PATHS...      RUN: a run folder of minilora.fit

Prints one line per picture; folders are searched recursively.  Writes predictions.csv,
predictions.json and overlays into --out: the picture, with the suspicious region outlined if NG.
The overlays have at most 2,048 pixels on their longer side.
Exit status: 0 all pictures OK, 1 some NG, 2 a picture could not be scored (the others are scored
nevertheless), the run has no threshold, or another error.

The way of one picture: `Detector.read`, then `predict_picture`.
Symbols: H x W pixels.
Left out: ground-truth masks and metrics (fit computes them).
"""
import argparse
import csv
import io
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.given_paths import Found, find_pictures, tell_left_out
from minilora.detector import PRECISIONS, Detector
from minilora.io.cli import device_name, option_parser, run_command
from minilora.io.derived_name import derived_stem
from minilora.io.files import atomic_write, write_json
from minilora.io.prefetch import prefetch
from minilora.io.progress import per_second
from minilora.io.text import csv_cell, shown, utf8_text
from minilora.io.transaction import atomic_folder
from minilora.report.overlays import draw_outline, reduced

CSV_COLUMNS = ("file", "decision", "score", "threshold", "error")
READ_AHEAD = 10**7                              # pixels that wait at most; then reading pauses
MAX_ERROR = 1000                                # characters of a path or of an error on one line
OVERLAYS = ("[0-9][0-9][0-9][0-9]*-OK-*.png", "[0-9][0-9][0-9][0-9]*-NG-*.png")
PREDICTION_FILES = ("predictions.csv", "predictions.json", *OVERLAYS)


# ---- one picture --------------------------------------------------------------------------------

def predict_picture(detector: Detector, path: Path,
                    picture: Image.Image) -> tuple[dict[str, Any], Image.Image]:
    """(prediction, overlay) of one picture, PIL RGB."""
    maps, score = detector.score(detector.prepare(picture)[None])           # (1, H, W), (1,)
    is_ng = score.item() > detector.threshold
    prediction = {"file": utf8_text(path), "decision": "NG" if is_ng else "OK",
                  "score": round(score.item(), 6), "threshold": round(detector.threshold, 6),
                  "highest_at": highest_place(maps[0]), "error": None}
    pixel_threshold = detector.pixel_threshold(maps, score).item()
    overlay = draw_outline(picture, maps[0], pixel_threshold) if is_ng else reduced(picture)
    return prediction, overlay


def highest_place(scores: Tensor) -> list[float]:
    """The highest pixel of a map (H, W) as [x, y], in fractions of width and height."""
    height, width = scores.shape
    row, column = divmod(int(scores.argmax()), width)
    return [round((column + 0.5) / width, 4), round((row + 0.5) / height, 4)]


def overlay_name(number: int, prediction: dict[str, Any]) -> str:
    """File name of the overlay."""
    stem = derived_stem(Path(prediction["file"]).stem)
    return f"{number:04d}-{prediction['decision']}-{stem}.png"


def prediction_line(prediction: dict[str, Any], as_json: bool) -> str:
    """One line for one picture, to be read by people or as JSON."""
    if as_json:
        return json.dumps(prediction)
    if prediction["error"]:
        return f"--  not scored: {shown(prediction['error'], MAX_ERROR)}"
    return (f"{prediction['decision']}  score {prediction['score']:7.3f}  "
            f"threshold {prediction['threshold']:.3f}  {shown(prediction['file'], MAX_ERROR)}")


# ---- all pictures -------------------------------------------------------------------------------

def run_predict(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores all pictures and writes the folder.  Returns the exit status."""
    detector = open_with_threshold(options.run, options.model, options.device, options.adapter)
    if options.adapter:
        print(f"LoRA of {shown(options.adapter)} in place of the run's own; memory and threshold "
              "are those of the run: fit --adapter makes some for this LoRA", file=sys.stderr)
    check_bits(detector, options.bits)
    detector.precision = options.precision
    found = find_pictures(options.paths)
    with atomic_folder(options.out, "predict", PREDICTION_FILES, found.pictures) as staging:
        return predict_all(detector, found, staging, options, say)


def predict_all(detector: Detector, found: Found, staging: Path, options: argparse.Namespace,
                say: Callable[[str], None]) -> int:
    """Scores one picture after the other.  Returns the exit status.

    Overlays and both tables are written into `staging`; they appear in --out together.
    """
    out, predictions, begun = Path(options.out), [], time.time()
    errors = [ValueError(f"{path}: {reason}") for path, reason in found.skipped]
    paths = found.pictures + [path for path, _ in found.skipped]
    pictures = itertools.chain(read_ahead(detector, found.pictures), errors)
    for number, (path, picture) in enumerate(zip(paths, pictures)):
        prediction, overlay = predict_or_error(detector, path, picture)
        if overlay:
            with atomic_write(staging / overlay_name(number, prediction)) as file:
                overlay.save(file, "PNG")
        predictions.append(prediction)
        say(prediction_line(prediction, options.json))
    n_ng = sum(prediction["decision"] == "NG" for prediction in predictions)
    n_failed = sum(prediction["error"] is not None for prediction in predictions)
    if n_failed == len(predictions):
        print(f"no picture was scored; {shown(out)} is unchanged", file=sys.stderr)
        return 2
    write_predictions(staging, predictions)
    tell_left_out(found)
    print(f"pictures: {len(predictions)}, {n_ng} NG, {n_failed} not scored, "
          f"{per_second(len(predictions), time.time() - begun):.1f} per second; overlays and "
          f"predictions.csv in {shown(out)}", file=sys.stderr)
    return 2 if n_failed else 1 if n_ng else 0


def predict_or_error(detector: Detector, path: Path, picture: Image.Image | Exception
                     ) -> tuple[dict[str, Any], Image.Image | None]:
    """`predict_picture`; without a score, the prediction has the error and there is no overlay."""
    try:
        if isinstance(picture, Exception):
            raise picture
        return predict_picture(detector, path, picture)
    except (OSError, ValueError) as error:
        return {"file": utf8_text(path), "decision": None, "score": None,
                "threshold": round(detector.threshold, 6), "error": utf8_text(error)}, None


def read_ahead(detector: Detector, paths: list[Path]) -> Iterator[Image.Image | Exception]:
    """The pictures in order, or errors.  A thread decodes up to four, or one large one, ahead."""
    def pixels(picture):
        return 0 if isinstance(picture, Exception) else picture.width * picture.height
    return prefetch(partial(read_or_error, detector), paths, 4, pixels, READ_AHEAD)


def read_or_error(detector: Detector, path: Path) -> Image.Image | Exception:
    """The picture, or the error with which reading failed."""
    try:
        return detector.read(path)
    except (OSError, ValueError) as error:
        return error


def write_predictions(folder: Path, predictions: list[dict[str, Any]]) -> None:
    """Writes predictions.json and predictions.csv."""
    write_json(folder / "predictions.json", predictions)
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in prediction.items()}
                     for prediction in predictions)
    with atomic_write(folder / "predictions.csv", "w") as file:
        file.write(text.getvalue())


# ---- checks and options -------------------------------------------------------------------------

def open_with_threshold(run: str | Path, model: str | Path | None = None, device: str = "cpu",
                        adapter: str | Path | None = None) -> Detector:
    """Like `Detector.open`, but raises ValueError if the detector has no threshold."""
    detector = Detector.open(run, model, device, adapter)
    if detector.threshold is None:
        raise ValueError(f"{run} has no threshold, because it was fitted without shots; fit with "
                         "--shots 4 or more")
    return detector


def check_bits(detector: Detector, bits: int | None) -> None:
    """Raises ValueError if --bits is given and the detector was fitted with another number."""
    if bits is not None and bits != detector.config.bits:
        fitted = detector.config.bits
        raise ValueError(f"--bits {bits}: the run was fitted with "
                         f"{f'--bits {fitted}' if fitted else 'all 16 bits'}; leave the option "
                         f"out, or fit with --bits {bits}")


def parser() -> argparse.ArgumentParser:
    p = option_parser("minilora.predict", __doc__, "exit status: 0 all OK, 1 some NG, 2 an error, "
                      "or not every picture was scored")
    p.add_argument("run", help="a run folder of minilora.fit")
    p.add_argument("paths", nargs="+", help="pictures, or folders with pictures")
    model = p.add_argument_group("model").add_argument
    model("--model", help="base weights, if they are no longer where fit found them")
    model("--adapter", metavar="FOLDER", help="LoRA in PEFT's layout (adapter_model.safetensors, "
          "adapter_config.json) in place of the run's own")
    model("--device", default="cpu", type=device_name, help="cpu, cuda, …")
    model("--precision", default="float32", choices=PRECISIONS,
          help="of the image tower; half precision is faster on processors that support it")
    bits_option(p, default=None)
    megapixel_option(p)
    output = p.add_argument_group("output").add_argument
    output("--json", action="store_true", help="print one JSON object per picture")
    output("--out", default="predictions", help="folder for overlays and predictions.csv, .json")
    return p


def main() -> int:
    return run_predict(parser().parse_args(), lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command("minilora.predict", main)
