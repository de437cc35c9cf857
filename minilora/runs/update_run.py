"""Add good pictures to a finished run: memory, scale, text weight and threshold anew, no training.

    python -m minilora.fit --update RUN PICTURES...

Claim: a good picture that was NG shows what the memory bank lacks.  With it in the memory bank,
similar pictures get lower scores.  This takes seconds: LoRA and context vectors stay as they are.

The earlier good pictures come from the run folder, which keeps them at the detector's resolution,
as PNG files: without loss, so calibrating them again gives the threshold of the fit.  (JPEG files
of quality 90 would move it by 5 to 40 %, measured on MVTec AD's bottle with 8 shots.)
The results on test pictures are those of the earlier memory, so they do not stay in the new run;
--out keeps both.
Left out: removing pictures; training on the added ones (fit again with all of them).
"""
import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minilora.checkpoint.base_model import BaseModel, open_base
from minilora.checkpoint.detector_files import read_detector
from minilora.checkpoint.published import Weights
from minilora.data.given_paths import find_pictures, tell_left_out
from minilora.data.images import from_png
from minilora.data.shot_checks import is_same_picture
from minilora.detector import Detector
from minilora.io.files import digest_of
from minilora.io.schema import ListOf, Number, Record, SchemaError, Text, Whole, check
from minilora.io.text import shown, shown_path
from minilora.io.transaction import atomic_folder
from minilora.report.run_page import disk_text
from minilora.runs.fingerprints import COUNT, stored_metrics
from minilora.runs.provenance import provenance, shot_files
from minilora.runs.run_class import RUN_FILES, tell_warnings, write_results

NEEDED = Record({"model": Record({"name": Text(), "sha256": Text(64)}),
                 "data": Record({"name": Text(), "root": Text(10_000)}, others=True),
                 "device": Text(), "seed": Whole(0, 2**63 - 1),
                 "resolution": COUNT, "trainable_parameters": COUNT, "total_parameters": COUNT,
                 "seconds": Number(0), "drawn": ListOf(Text(10_000))}, others=True)
TEST_RESULTS = ("rows", "kinds", "decisions", "masks", "map_scale")     # keys of metrics.json
MUCH_HIGHER = 1.5                   # times the threshold before
STORED_DIFFERENCE = 1e-3            # mean; the same file, resized by two versions of Pillow


def update_run(options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Adds options.pictures to options.run.  Returns the exit status.

    Raises ValueError or OSError, and changes nothing, for a folder that is no run, a run that keeps
    no good pictures, and a picture that cannot be read.
    """
    begun, run = time.time(), Path(options.run)
    options.out = Path(options.out or run)
    found = find_pictures(options.pictures)
    read_detector(run)                                  # no run: nothing is created there
    with atomic_folder(options.out, "fit", RUN_FILES, found.pictures) as staging:
        detector, weights = open_run(run, options.model, options.device)
        metrics = metrics_of(run)
        earlier = [from_png(data) for data in detector.shot_pictures]
        if len(metrics["drawn"]) != len(earlier):
            raise ValueError(f"{shown(run)}: metrics.json names {len(metrics['drawn'])} good "
                             f"pictures, expected {len(earlier)}, which it keeps; fit again")
        new = new_pictures(detector, found.pictures, earlier, say)
        if not new:
            say(f"nothing to add; {shown(run)} is unchanged")
            return 0
        say(f"run      {shown(run)}: {len(earlier)} good pictures, {len(new)} more")
        names = [Path(name).name for name in metrics["drawn"]] + [path.name for path in new]
        metrics["shot_warnings"] = tell_warnings(detector, names, [*earlier, *new.values()], say)
        add_pictures(detector, earlier, new, say)
        if "rows" in metrics and options.out == run:
            say("results  on test pictures are those of the earlier memory and leave the run")
        detector.save(staging, weights)
        metrics = updated_metrics(metrics, detector, list(new), options)
        begun -= metrics["seconds"]                     # of the fit
        metrics = write_results(staging, detector, [], metrics, begun, options, say)
    tell_left_out(found)
    say(f"on disk  {disk_text(metrics)}")
    say(f"written  {shown(options.out)}")
    return 0


def open_run(run: Path, model: str | Path | None, device: str) -> tuple[Detector, Weights]:
    """The detector of a run that keeps its good pictures, and its base weights."""
    base = BaseModel(**read_detector(run)["base"])
    clip, weights = open_base(run, base, model, device)
    detector = Detector.load(run, clip, weights)
    if not detector.shot_pictures:
        raise ValueError(f"{shown(run)} keeps no good pictures: it was fitted without shots, or "
                         "they are too many for a run folder; fit again with all of them")
    return detector, weights


def metrics_of(run: Path) -> dict[str, Any]:
    """metrics.json of a run.  Raises ValueError if it is not as fit writes it."""
    try:
        return check(stored_metrics(run), NEEDED, "metrics.json")
    except SchemaError as error:
        raise ValueError(f"{shown(run)}: {error}; fit again") from error


def new_pictures(detector: Detector, paths: list[Path], earlier: list[Tensor],
                 say: Callable[[str], None]) -> dict[Path, Tensor]:
    """{path: pixels (3, H, W)} of the files that are not among the good pictures yet."""
    new, known = {}, list(earlier)
    for path in paths:
        picture: Image.Image = detector.read(path)
        pixels = detector.prepare(picture)
        if any(is_same_picture(pixels, other, STORED_DIFFERENCE) for other in known):
            say(f"left out {shown_path(path)}: it is among the good pictures already")
        else:
            known.append(pixels)
            new[path] = pixels
    return new


def add_pictures(detector: Detector, earlier: list[Tensor], new: dict[Path, Tensor],
                 say: Callable[[str], None]) -> None:
    """Builds memory and calibration anew; prints threshold and scores before and after."""
    threshold = detector.threshold
    before = [detector.score(pixels[None])[1].item() for pixels in new.values()]
    detector.build_memory([*earlier, *new.values()])
    after = [detector.score(pixels[None])[1].item() for pixels in new.values()]
    say(f"threshold {threshold:.3f} before, {detector.threshold:.3f} after, from "
        f"{len(detector.shot_pictures)} good pictures")
    if detector.threshold > MUCH_HIGHER * threshold:
        say(f"warning  the threshold is {detector.threshold / threshold:.1f} times as high, so "
            "defects may be OK; is one of the new pictures defective? Then fit again without it")
    for path, old, now, alone in zip(new, before, after, detector.shot_scores[len(earlier):]):
        say(f"  {shown(path.name)}: {decided(old, threshold)} before, "
            f"{decided(now, detector.threshold)} after (leave-one-out {alone:.3f})")


def decided(score: float, threshold: float) -> str:
    """A score and what it means: "1.733 NG"."""
    return f"{score:.3f} {'NG' if score > threshold else 'OK'}"


def updated_metrics(metrics: dict[str, Any], detector: Detector, paths: list[Path],
                    options: argparse.Namespace) -> dict[str, Any]:
    """The new metrics.json: what was added, and nothing measured with the earlier memory."""
    added = shot_files(paths, Path(metrics["data"]["root"]))
    kept = {key: value for key, value in metrics.items() if key not in TEST_RESULTS}
    return kept | {
        "fingerprint": digest_of(metrics["fingerprint"], added), "threshold": detector.threshold,
        "shots": len(detector.shot_pictures), "shot_scores": detector.shot_scores,
        "drawn": [*metrics["drawn"], *(entry["file"] for entry in added)],
        "added": [*metrics.get("added", []), *added],
        "updated": provenance(options.command, options.device)}


def demo() -> None:
    """A run of an untrained tower on three good pictures gets two more, one of them twice."""
    import tempfile

    from minilora.runs.run_class import run_class, toy_options
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run_class(toy_options(root, shots="all", steps=0), say=lambda line: None)
        pictures = [root / "gear/train/good/000.png", root / "gear/test/good"]
        update_run(argparse.Namespace(run=root / "run", out=None, pictures=pictures, model=None,
                                      device="cpu", command="demo"),
                   lambda line: print(line.replace(folder, "…")))


if __name__ == "__main__":
    demo()
