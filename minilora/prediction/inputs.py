"""Open a detector that has a threshold, and read pictures ahead of their scoring.

Claim: a picture that cannot be read is an error of its own and never stops the others, so reading
returns the error in place of the picture.  While one picture is scored, a thread reads the next.

Left out: which pictures (data/given_paths.py), the score (prediction/picture.py).
"""
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from PIL import Image

from minilora.checkpoint.detector_files import read_detector
from minilora.checkpoint.published import BUNDLED_MODEL
from minilora.detector import Detector
from minilora.io.cli import finite_number
from minilora.io.prefetch import prefetch
from minilora.io.text import shown
from minilora.prediction.thresholds import override_threshold

READ_AHEAD = 10**7                              # pixels that wait at most; then reading pauses
SMALL_MODEL = (f"The run uses {BUNDLED_MODEL}, a small model for trying things out: do not "
               "base decisions about real products on it.")


def open_with_threshold(run: str | Path, model: str | Path | None = None, device: str = "cpu",
                        adapter: str | Path | None = None, threshold: float | None = None,
                        rate: float | None = None) -> Detector:
    """Like `Detector.open`, but raises ValueError if the detector has no threshold.

    threshold, rate: one of them replaces the fitted threshold, as in `override_threshold`.
    """
    if threshold is not None and rate is not None:
        raise ValueError(f"--threshold {threshold:g} and --false-positive-rate {rate:g} exclude "
                         "each other: a rate means a threshold; give one of them")
    detector = Detector.open(run, model, device, adapter)
    override_threshold(detector, threshold, rate)
    if detector.threshold is None:
        raise ValueError(f"{shown(run)} has no threshold, because it was fitted without shots; fit "
                         "with --shots 4 or more")
    return detector


def threshold_options(add: Callable) -> None:
    """The two options that replace the fitted threshold.

    add: add_argument of a parser or of a group of options.
    """
    add("--threshold", metavar="T", type=finite_number(0, 1e6),
        help="NG above this score, in place of the fitted threshold")
    add("--fpr", "--false-positive-rate", dest="false_positive_rate", metavar="RATE",
        type=finite_number(1e-4, 0.5), help="the threshold for this false-positive rate")


def uses_small_model(run: str | Path) -> bool:
    """Whether a run (folder, or a file in it) was made with the embedded model."""
    folder = Path(run).parent if Path(run).is_file() else run
    return read_detector(folder)["base"]["name"] == BUNDLED_MODEL


def check_bits(detector: Detector, bits: int | None) -> None:
    """Raises ValueError if --bits is given and the detector was fitted with another number."""
    if bits is not None and bits != detector.config.bits:
        fitted = detector.config.bits
        raise ValueError(f"--bits {bits}: the run was fitted with "
                         f"{f'--bits {fitted}' if fitted else 'all 16 bits'}; leave the option "
                         f"out, or fit with --bits {bits}")


def read_ahead(detector: Detector, paths: list[Path]) -> closing:
    """The pictures in order, or errors.  A thread decodes up to four, or one large one, ahead.

    For a `with` block: after an error in it, a thread that waits would keep the process alive.
    """
    def pixels(picture):
        return 0 if isinstance(picture, Exception) else picture.width * picture.height
    return closing(prefetch(partial(read_or_error, detector), paths, 4, pixels, READ_AHEAD))


def read_or_error(detector: Detector, path: Path) -> Image.Image | Exception:
    """The picture, or the error with which reading failed."""
    try:
        return detector.read(path)
    except (OSError, ValueError) as error:
        return error


def demo() -> None:
    """Three files, one of them no picture: the other two are read."""
    import tempfile
    from types import SimpleNamespace

    from minilora.data.decoding import read_image
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a.png", "b.png", "c.png")]
        for path in paths:
            Image.new("RGB", (8, 6)).save(path)
        paths[1].write_bytes(b"no picture")
        with read_ahead(SimpleNamespace(read=read_image), paths) as pictures:
            for path, picture in zip(paths, pictures):
                said = str(picture).replace(folder, "…")
                print(path.name, picture.size if isinstance(picture, Image.Image) else said)


if __name__ == "__main__":
    demo()
