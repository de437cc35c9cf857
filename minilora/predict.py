"""Score pictures with a fitted detector: OK or NG, the score, and the suspicious region.

    python -m minilora.predict RUN PATHS...      RUN: a run folder of fit, or its adapter.pt

Prints one line per picture; folders are searched recursively.  Writes predictions.csv,
predictions.json and overlays into --out: the picture, with the suspicious region outlined if NG.
Exit status: 0 all pictures OK, 1 some NG, 2 an error: the run has no threshold, or a picture could
not be read (the others are scored nevertheless).

Symbols: H x W pixels.
Left out: ground-truth masks and metrics (fit computes them).
"""
import argparse
import csv
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora.checkpoint.published import is_model_name
from minilora.checkpoint.weights import load_clip
from minilora.data.images import read_image
from minilora.data.mvtec import IMAGE_SUFFIXES
from minilora.data.own_and_visa import list_pictures
from minilora.detector import PRECISIONS, Detector
from minilora.io.cli import option_parser, run_command
from minilora.io.files import atomic_write, load_tensors, write_json
from minilora.io.prefetch import prefetch
from minilora.io.transaction import atomic_folder, recover

OUTLINE = (255, 40, 40)                         # colour, RGB
CSV_COLUMNS = ("file", "decision", "score", "threshold", "error")


def pictures_in(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files in the order given; each folder is replaced by its pictures, sorted by path."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from list_pictures(path)
        else:
            yield path                          # also if it does not exist: that becomes an error


def skipped_in(paths: Iterable[str | Path]) -> list[str]:
    """Names of the files in the folders of `paths` whose suffix is not that of a picture."""
    return [p.name for folder in map(Path, paths) if folder.is_dir()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.suffix.lower() not in IMAGE_SUFFIXES
            and not p.name.startswith(".")]


def open_run(run: str | Path, model: str | Path | None = None,
             device: str = "cpu") -> Detector:
    """The detector of a run folder or of its adapter.pt.

    model: the base weights; None: found by their name, or at the path where fit found them.
    Raises ValueError, CheckpointError or FileNotFoundError with a message for the user.
    """
    folder = Path(run).parent if Path(run).is_file() else Path(run)
    recover(folder)                             # completes a fit that was killed while committing
    adapter = folder / "adapter.pt"
    if not adapter.is_file():
        raise FileNotFoundError(f"{adapter} not found; give the folder that minilora.fit wrote")
    base = load_tensors(adapter).get("weights")
    if not isinstance(base, dict) or not all(type(base.get(k)) is str for k in ("name", "path")):
        raise ValueError(f"{adapter} does not name its base weights; give an adapter.pt that "
                         "minilora.fit wrote")
    known = is_model_name(base["name"])
    clip, weights = load_clip(model or (base["name"] if known else base["path"]), device)
    return Detector.load(folder, clip, weights)


def open_with_threshold(run: str | Path, model: str | Path | None = None,
                        device: str = "cpu") -> Detector:
    """Like `open_run`, but raises ValueError if the detector has no threshold."""
    detector = open_run(run, model, device)
    if detector.threshold is None:
        raise ValueError(f"{run} has no threshold, because it was fitted without shots; fit with "
                         "--shots 4 or more")
    return detector


def draw_outline(picture: Image.Image, scores: Tensor, threshold: float) -> Image.Image:
    """The picture, PIL RGB, with an outline around the region above the threshold.

    scores: anomaly map (H, W), is resized to the picture;  threshold: of a pixel of the map.
    """
    size = picture.size[::-1]
    resized = F.interpolate(scores[None, None], size, mode="bilinear")[0, 0]
    above = (resized > threshold).float()
    width = 1 + max(size) // 300
    dilated = F.max_pool2d(above[None, None], 2 * width + 1, 1, width)[0, 0]
    edge = ((dilated > 0) & (above == 0)).numpy()
    colour = Image.new("RGB", picture.size, OUTLINE)
    return Image.composite(colour, picture, Image.fromarray(edge))


def read_or_error(path: Path) -> Image.Image | Exception:
    """The picture, or the error with which reading failed."""
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        return error


def predict_picture(detector: Detector, path: Path,
                    picture: Image.Image | Exception) -> tuple[dict[str, Any], Image.Image]:
    """(prediction, overlay) of one picture.  Raises `picture` if it is an error."""
    if isinstance(picture, Exception):
        raise picture
    maps, score = detector.score(detector.prepare(picture)[None])
    is_ng = score.item() > detector.threshold
    # The highest pixel as (x, y), in fractions of width and height.
    row_column = divmod(int(maps[0].argmax()), maps.shape[-1])
    x_y = [round((v + 0.5) / side, 4) for v, side in zip(row_column, maps[0].shape)][::-1]
    prediction = {"file": str(path), "decision": "NG" if is_ng else "OK",
                  "score": round(score.item(), 6), "threshold": round(detector.threshold, 6),
                  "highest_at": x_y, "error": None}
    threshold = detector.pixel_threshold(maps, score).item()
    return prediction, draw_outline(picture, maps[0], threshold) if is_ng else picture


def overlay_name(number: int, prediction: dict[str, Any]) -> str:
    """File name of the overlay."""
    stem = Path(prediction["file"]).stem.encode()[:200]     # the length of a file name is limited
    return f"{number:04d}-{prediction['decision']}-{stem.decode(errors='ignore')}.png"


def overlays_of(folder: str | Path) -> set[str]:
    """Names of the overlays that predictions.json of a folder lists; empty without such a file."""
    try:
        predictions = json.loads((Path(folder) / "predictions.json").read_text("utf-8"))
        return {overlay_name(k, prediction) for k, prediction in enumerate(predictions)
                if prediction["decision"] in ("OK", "NG")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def prediction_line(prediction: dict[str, Any], as_json: bool) -> str:
    """One line for one picture, to be read by people or as JSON."""
    if as_json:
        return json.dumps(prediction)
    if prediction["error"]:
        return f"--  not scored: {prediction['error']}"
    return (f"{prediction['decision']}  score {prediction['score']:7.3f}  "
            f"threshold {prediction['threshold']:.3f}  {prediction['file']}")


def write_predictions(folder: Path, predictions: list[dict[str, Any]]) -> None:
    """Writes predictions.json and predictions.csv."""
    write_json(folder / "predictions.json", predictions)
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(predictions)
    with atomic_write(folder / "predictions.csv", "w") as file:
        file.write(text.getvalue())


def run_predict(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores all pictures and writes the folder.  Returns the exit status."""
    detector = open_with_threshold(options.run, options.model, options.device)
    detector.precision = options.precision
    paths = list(pictures_in(options.paths))
    if not paths:
        raise FileNotFoundError(f"no picture in {', '.join(options.paths)}; expected files ending "
                                f"in {', '.join(IMAGE_SUFFIXES)}")
    earlier = overlays_of(options.out)
    with atomic_folder(options.out, "predict") as staging:
        status = predict_all(detector, paths, staging, options, say)
    for name in earlier - overlays_of(options.out):     # of the previous call
        (Path(options.out) / name).unlink(missing_ok=True)
    return status


def predict_all(detector: Detector, paths: list[Path], staging: Path,
                options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Scores one picture after the other.  Returns the exit status.

    An overlay is written at once, so that it can be viewed while the rest is scored; both tables
    are written into `staging` at the end.
    """
    out, predictions, begun = Path(options.out), [], time.time()
    for number, (path, picture) in enumerate(zip(paths, prefetch(read_or_error, paths))):
        try:
            prediction, overlay = predict_picture(detector, path, picture)
        except (OSError, ValueError) as error:
            prediction = {"file": str(path), "decision": None, "score": None,
                          "threshold": round(detector.threshold, 6), "error": str(error)}
        else:
            with atomic_write(out / overlay_name(number, prediction)) as file:
                overlay.save(file, "PNG")
        predictions.append(prediction)
        say(prediction_line(prediction, options.json))
    n_ng = sum(prediction["decision"] == "NG" for prediction in predictions)
    n_failed = sum(prediction["error"] is not None for prediction in predictions)
    if n_failed == len(predictions):
        print(f"no picture was scored; {out} is unchanged", file=sys.stderr)
        return 2
    write_predictions(staging, predictions)
    skipped = skipped_in(options.paths)
    if skipped:
        print(f"skipped, because they do not end in {', '.join(IMAGE_SUFFIXES)}: "
              + ", ".join(skipped[:5])
              + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""), file=sys.stderr)
    print(f"pictures: {len(predictions)}, {n_ng} NG, {n_failed} not scored, "
          f"{len(predictions) / (time.time() - begun):.1f} per second; overlays and "
          f"predictions.csv in {out}", file=sys.stderr)
    return 2 if n_failed else 1 if n_ng else 0


def parser() -> argparse.ArgumentParser:
    p = option_parser("minilora.predict", __doc__, "exit status: 0 all OK, 1 some NG, 2 an error")
    p.add_argument("run", help="a run folder of minilora.fit, or its adapter.pt")
    p.add_argument("paths", nargs="+", help="pictures, or folders with pictures")
    model = p.add_argument_group("model").add_argument
    model("--model", help="base weights, if they are no longer where fit found them")
    model("--device", default="cpu", help="cpu, cuda, …")
    model("--precision", default="float32", choices=PRECISIONS,
          help="of the image tower; half precision is faster on processors that support it")
    output = p.add_argument_group("output").add_argument
    output("--json", action="store_true", help="print one JSON object per picture")
    output("--out", default="predictions", help="folder for overlays and predictions.csv, .json")
    return p


def main() -> int:
    try:
        return run_predict(parser().parse_args(), lambda line: print(line, flush=True))
    except BrokenPipeError:                     # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    run_command("minilora.predict", main, error_status=2)
