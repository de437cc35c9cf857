"""Score pictures with a fitted detector: OK or NG, the score, and the suspicious region.

    python -m minilora.predict RUN PATHS...      RUN: a run folder of minilora.fit

Prints one line per picture; folders are searched recursively.  Writes into --out: a page,
predictions.html; predictions.csv and .json; and overlays: the picture, with the suspicious region
outlined if NG.  The overlays have at most 2,048 pixels on their longer side.
Exit status: 0 all pictures OK, 1 some NG, 2 a picture could not be scored (the others are scored
nevertheless), the run has no threshold, or another error.
With --watch FOLDER it scores the new pictures of a folder until Ctrl-C (prediction/watch.py).

The way of one picture: `Detector.read`, then `predict_picture`.
Symbols: H x W pixels.
Left out: ground-truth masks and metrics (fit computes them).
"""
import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.given_paths import Found, find_pictures, tell_left_out
from minilora.detector import PRECISIONS, Detector
from minilora.io.cli import (device_name, device_text, finite_number, option_parser, run_command,
                             shell_command)
from minilora.io.files import atomic_write, write_json
from minilora.io.parser import OneLineParser
from minilora.io.progress import per_second, print_line, stage
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder
from minilora.prediction.inputs import (SMALL_MODEL, check_bits, open_with_threshold, read_ahead,
                                        threshold_options, uses_small_model)
from minilora.prediction.page import PictureCards, predictions_page
from minilora.prediction.picture import (Prediction, csv_lines, overlay_name, predict_or_error,
                                         prediction_line)
from minilora.prediction.thresholds import threshold_choices
from minilora.prediction.watch import watch_folder
from minilora.report.run_page import date_of, made_facts
from minilora.runs.provenance import provenance

OVERLAYS = ("[0-9][0-9][0-9][0-9]*-OK-*.png", "[0-9][0-9][0-9][0-9]*-NG-*.png")
PREDICTION_FILES = ("predictions.csv", "predictions.json", "predictions.html", *OVERLAYS)


# ---- all pictures -------------------------------------------------------------------------------

def run_predict(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores all pictures and writes the folder.  Returns the exit status."""
    if bool(options.paths) == bool(options.watch):
        raise ValueError("expected pictures or folders to score, or --watch FOLDER for its new "
                         f"pictures, found {'both' if options.watch else 'neither'}; give one "
                         "of them")
    detector = open_with_threshold(options.run, options.model, options.device, options.adapter,
                                   options.threshold, options.false_positive_rate)
    check_bits(detector, options.bits)
    options.warning = SMALL_MODEL if uses_small_model(options.run) else ""
    if options.warning:
        print(options.warning, file=sys.stderr)
    if options.adapter:
        print(f"LoRA of {shown(options.adapter)} in place of the run's own; memory and threshold "
              "are those of the run: fit --adapter makes some for this LoRA", file=sys.stderr)
    print(f"device   {device_text(options.device)}", file=sys.stderr)
    detector.precision = options.precision
    if options.watch:
        return watch_folder(detector, options.watch, options.out, say, options.poll, options.json)
    found = find_pictures(options.paths)
    with atomic_folder(options.out, "predict", PREDICTION_FILES, found.pictures) as staging:
        return predict_all(detector, found, staging, options, say)


def predict_all(detector: Detector, found: Found, staging: Path, options: argparse.Namespace,
                say: Callable[[str], None]) -> int:
    """Scores one picture after the other.  Returns the exit status.

    Overlays, tables and page are written into `staging`; they appear in --out together.
    """
    out, predictions, cards, begun = Path(options.out), [], PictureCards(), time.time()
    errors = [ValueError(f"{path}: {reason}") for path, reason in found.skipped]
    paths = found.pictures + [path for path, _ in found.skipped]
    with read_ahead(detector, found.pictures) as pictures:
        pairs = stage("scoring", zip(paths, itertools.chain(pictures, errors)), len(paths))
        for number, (path, picture) in enumerate(pairs):
            prediction, scored = predict_or_error(detector, path, picture)
            if scored:
                prediction["overlay"] = overlay_name(number, prediction)
                with atomic_write(staging / prediction["overlay"]) as file:
                    scored.overlay.save(file, "PNG")
                cards.add(number, scored)
            predictions.append(prediction)
            say(prediction_line(prediction, options.json))
    n_ng = sum(prediction["decision"] == "NG" for prediction in predictions)
    n_failed = sum(prediction["error"] is not None for prediction in predictions)
    if n_failed == len(predictions):
        print(f"no picture was scored; {shown(out)} is unchanged", file=sys.stderr)
        return 2
    write_predictions(staging, predictions)
    with atomic_write(staging / "predictions.html", "w") as file:
        file.write(page_of(detector, cards, predictions, options))
    tell_left_out(found)
    print(f"pictures: {len(predictions)}, {n_ng} NG, {n_failed} not scored, "
          f"{per_second(len(predictions), time.time() - begun):.1f} per second; page "
          f"{shown(out / 'predictions.html')}, table {shown(out / 'predictions.csv')}, overlays "
          f"{shown(out / '*.png')}", file=sys.stderr)
    return 2 if n_failed else 1 if n_ng else 0


def page_of(detector: Detector, cards: PictureCards, predictions: list[Prediction],
            options: argparse.Namespace) -> str:
    """The text of predictions.html."""
    scores = [p["score"] for p in predictions if p["decision"]]
    choices = threshold_choices(detector, scores, options.false_positive_rate)
    made = provenance(options.command, options.device)
    facts = {"date": date_of({"made": made}), "command": options.command, "run": options.run,
             "class": detector.class_name, **made_facts(made)}
    return predictions_page(cards, predictions, detector.shot_scores, choices, options.warning,
                            facts)


def write_predictions(folder: Path, predictions: list[Prediction]) -> None:
    """Writes predictions.json and predictions.csv."""
    write_json(folder / "predictions.json", predictions)
    with atomic_write(folder / "predictions.csv", "w") as file:
        file.write(csv_lines(predictions))


# ---- options -----------------------------------------------------------------------------------

def parser() -> OneLineParser:
    """The options; those that most people never need are in the group `rare`."""
    p = option_parser("minilora.predict", __doc__, "runs/mine PICTURES", "exit status: 0 all OK, "
                      "1 some NG, 2 an error, or not every picture was scored")
    add, rare = p.add_argument, p.rare.add_argument
    add("run", help="a run folder of minilora fit")
    add("paths", nargs="*", help="pictures, or folders with pictures")
    add("--watch", metavar="FOLDER", help="score the new pictures in a folder until Ctrl-C")
    add("--out", metavar="FOLDER", default="predictions", help="for overlays and tables")
    threshold_options(add)
    add("--json", action="store_true", help="print one JSON object per picture")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")

    rare("--model", metavar="WEIGHTS", help="base weights, if the file of the fit has moved")
    rare("--adapter", metavar="FOLDER", help="a LoRA (PEFT's layout) in place of the run's own")
    rare("--precision", metavar="TYPE", default="float32", choices=PRECISIONS,
         help=f"{', '.join(PRECISIONS)}")
    rare("--poll", metavar="SECONDS", default=1.0, type=finite_number(0.01, 3600),
         help="between two polls of --watch")
    bits_option(rare, default=None)
    megapixel_option(rare)
    p.set_defaults(command="minilora predict")          # main puts the typed one here
    return p


def main() -> int:
    options = parser().parse_args()
    options.command = shell_command("predict", *sys.argv[1:])
    return run_predict(options, print_line)


if __name__ == "__main__":
    run_command("minilora.predict", main)
