"""Judges pictures with a fitted detector: OK or NG, the score, and where the suspicion lies.

    python -m minilora.predict RUN PATHS...      RUN: a run folder of fit, or its adapter.pt

One line a picture; folders are searched through.  Beside the lines, in --out: predictions.csv,
predictions.json and overlays, the suspicious region outlined.
Exit status: 0 all pictures OK, 1 some NG, 2 something went wrong: a picture that could not be
read (the others are judged all the same), or a run without a threshold.

Symbols: H x W pixels.  Leaves out: masks and metrics (fit's table has them).
"""
import csv
import io
import json
import os
import sys
import time
from pathlib import Path

import torch.nn.functional as F
from PIL import Image

from minilora.checkpoint.weights import is_published, load_clip
from minilora.data.images import read_image
from minilora.data.mvtec import SUFFIXES
from minilora.data.own_and_visa import pictures_below
from minilora.detector import PRECISIONS, Detector
from minilora.io.cli import command, option_parser
from minilora.io.files import load_tensors, whole_file, write_json
from minilora.io.prefetch import prefetch
from minilora.io.transaction import settle, whole_folder

OUTLINE = (255, 40, 40)


def pictures_in(paths):
    """Every picture among files and, recursively, folders, in the order given, then by name."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from pictures_below(path)
        else:
            yield path                          # also one that is not there: it is reported


def skipped_in(paths):
    """Names of the files in the folders among `paths` that do not end as a picture does."""
    return [p.name for folder in map(Path, paths) if folder.is_dir()
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.suffix.lower() not in SUFFIXES and not p.name.startswith(".")]


def open_run(run, model=None, device="cpu"):
    """The detector of a run folder or its adapter.pt.

    The base weights are those of --model, else found by their name, else where fit had found them.
    Raises ValueError, CheckpointError or FileNotFoundError in words for a user.
    """
    folder = Path(run).parent if Path(run).is_file() else Path(run)
    settle(folder)                              # if fit was killed in its last moment
    adapter = folder / "adapter.pt"
    if not adapter.is_file():
        raise FileNotFoundError(f"{adapter} not found; give the folder that minilora.fit wrote")
    base = load_tensors(adapter).get("weights")
    if not isinstance(base, dict) or not all(type(base.get(k)) is str for k in ("name", "path")):
        raise ValueError(f"{adapter} does not say which weights it belongs to; give an adapter.pt "
                         "that minilora.fit wrote")
    known = is_published(base["name"])
    clip, weights = load_clip(model or (base["name"] if known else base["path"]), device)
    return Detector.load(folder, clip, weights)


def open_judge(run, model=None, device="cpu"):
    """As `open_run`, of a detector that can decide.  Raises ValueError if it has no threshold."""
    detector = open_run(run, model, device)
    if detector.threshold is None:
        raise ValueError(f"{run} has no threshold, since it was made without shots; fit with "
                         "--shots 4 or more")
    return detector


def draw_outline(picture, scores, line):
    """The picture, PIL RGB, with an outline around what scores above `line`.

    scores: (H, W), resized to the picture.
    """
    size = picture.size[::-1]
    there = F.interpolate(scores[None, None], size, mode="bilinear")[0, 0]
    above = (there > line).float()
    width = 1 + max(size) // 300
    spread = F.max_pool2d(above[None, None], 2 * width + 1, 1, width)[0, 0]
    edge = ((spread > 0) & (above == 0)).numpy()
    colour = Image.new("RGB", picture.size, OUTLINE)
    return Image.composite(colour, picture, Image.fromarray(edge))


def read_or_error(path):
    """The picture, or the error that says why it cannot be read."""
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        return error


def judge_picture(detector, path, picture):
    """What is said of one picture, a dict, and its overlay.  Raises what `read` came back with."""
    if isinstance(picture, Exception):
        raise picture
    maps, score = detector.score(detector.prepare(picture)[None])
    bad = score.item() > detector.threshold
    place = divmod(int(maps[0].argmax()), maps.shape[-1])                   # row, column
    place = [round((x + 0.5) / side, 4) for x, side in zip(place, maps[0].shape)][::-1]
    said = {"file": str(path), "decision": "NG" if bad else "OK", "score": round(score.item(), 6),
            "threshold": round(detector.threshold, 6), "highest_at": place, "error": None}
    line = detector.pixel_threshold(maps, score).item()
    return said, draw_outline(picture, maps[0], line) if bad else picture


def overlay_name(number, said):
    """File of the picture with its outline."""
    stem = Path(said["file"]).stem.encode()[:200].decode(errors="ignore")   # names have a limit
    return f"{number:04d}-{said['decision']}-{stem}.png"


def overlays_of(folder):
    """Names of the overlays that belong to a folder's predictions.json; none if there is none."""
    try:
        kept = json.loads((Path(folder) / "predictions.json").read_text("utf-8"))
        return {overlay_name(k, said) for k, said in enumerate(kept)
                if said["decision"] in ("OK", "NG")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def prediction_line(said, machine):
    """One line for a picture: for people, or a JSON object."""
    if machine:
        return json.dumps(said)
    if said["error"]:
        return f"--  not judged: {said['error']}"
    return (f"{said['decision']}  score {said['score']:7.3f}  threshold {said['threshold']:.3f}  "
            f"{said['file']}")


def write_predictions(folder, results):
    """predictions.json and predictions.csv."""
    write_json(folder / "predictions.json", results)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", "decision", "score", "threshold", "error"],
                            extrasaction="ignore")
    writer.writeheader()
    writer.writerows(results)
    with whole_file(folder / "predictions.csv", "w") as file:
        file.write(text.getvalue())


def run_predict(options, say):
    """Judges everything.  Returns the exit status."""
    detector = open_judge(options.run, options.model, options.device)
    detector.precision = options.precision
    paths = list(pictures_in(options.paths))
    if not paths:
        raise FileNotFoundError(f"no picture in {', '.join(options.paths)}; expected files ending "
                                f"in {', '.join(SUFFIXES)}")
    earlier = overlays_of(options.out)
    with whole_folder(options.out, "predict") as staging:
        status = judge_all(detector, paths, staging, options, say)
    for name in earlier - overlays_of(options.out):     # or they would lie among the new ones
        (Path(options.out) / name).unlink(missing_ok=True)
    return status


def judge_all(detector, paths, staging, options, say):
    """One picture after the other; both tables, in `staging`, at the end.  Returns the exit status.

    Overlays can be looked at while the others are judged.
    """
    out, results, begun = Path(options.out), [], time.time()
    for number, (path, picture) in enumerate(zip(paths, prefetch(read_or_error, paths))):
        try:
            said, overlay = judge_picture(detector, path, picture)
        except (OSError, ValueError) as error:
            said = {"file": str(path), "decision": None, "score": None,
                    "threshold": round(detector.threshold, 6), "error": str(error)}
        else:
            with whole_file(out / overlay_name(number, said)) as file:
                overlay.save(file, "PNG")
        results.append(said)
        say(prediction_line(said, options.json))
    bad = sum(said["decision"] == "NG" for said in results)
    failed = sum(said["error"] is not None for said in results)
    if failed == len(results):
        print(f"nothing was judged; {out} stays as it was", file=sys.stderr)
        return 2
    write_predictions(staging, results)
    other = skipped_in(options.paths)
    if other:
        print(f"skipped, since they do not end in {', '.join(SUFFIXES)}: {', '.join(other[:5])}"
              + (f" and {len(other) - 5} more" if len(other) > 5 else ""), file=sys.stderr)
    print(f"pictures: {len(results)}, {bad} NG, {failed} not judged, "
          f"{len(results) / (time.time() - begun):.1f} a second; overlays and predictions.csv in "
          f"{out}", file=sys.stderr)
    return 2 if failed else 1 if bad else 0


def parser():
    p = option_parser("minilora.predict", __doc__, "exit status: 0 all OK, 1 some NG, 2 an error")
    p.add_argument("run", help="a run folder of minilora.fit, or its adapter.pt")
    p.add_argument("paths", nargs="+", help="pictures, or folders of them")
    model = p.add_argument_group("model").add_argument
    model("--model", help="the base weights, if they lie elsewhere now")
    model("--device", default="cpu", help="cpu, cuda, …")
    model("--precision", default="float32", choices=PRECISIONS,
          help="of the tower's products; half is faster where the processor has it")
    output = p.add_argument_group("output").add_argument
    output("--json", action="store_true", help="print one JSON object a picture")
    output("--out", default="predictions", help="folder for overlays and predictions.csv, .json")
    return p


def main():
    try:
        return run_predict(parser().parse_args(), lambda line: print(line, flush=True))
    except BrokenPipeError:                     # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    command("minilora.predict", main, failed=2)
