"""From a picture file to an upright picture of 8 bits per channel.

Claim: a file of 10 kB can claim to hold 10,000 megapixels, opening a named pipe can wait for ever,
and a camera's 12 bits in a 16-bit file come out nearly black.  So only a regular file of a known
format is opened, its size is checked in the header before any pixel is decoded, and what may be
wrong is noted (io/notes.py).

    16-bit grey    scaled to 8 bits (data/bit_depth.py)
    EXIF           the picture is turned upright, as the camera's orientation tag says
    pages, frames  the first one is the picture; a note says that there are others

The first two differ from CLIP, which ignores EXIF and leaves 16 bits to Pillow.
Left out: RAW files, what a network takes (data/images.py).
"""
import argparse
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from minilora.data.bit_depth import check_deep_colour, grey16_to_8
from minilora.data.listing import PHONE_REMEDY
from minilora.io.notes import note
from minilora.io.regular_file import open_regular
from minilora.io.text import shown, shown_path

# What people save pictures as.  Pillow knows more; its EPS reader starts another program.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")
MAX_MEGAPIXELS = 50                 # default of --max-megapixels
MAX_SCANS = 100                     # of a progressive JPEG: usually 10, each passes over all pixels
EXIF_ORIENTATION = 0x0112

_OPENING = threading.Lock()         # Pillow's own limit is one value for all threads
_limit = {"megapixels": float(MAX_MEGAPIXELS)}


class PictureError(ValueError):
    """A picture that minilora itself refuses; decoders raise errors of many other kinds."""


class SetLimit(argparse.Action):
    """Sets the limit when the option is parsed: one limit for the process, as Pillow has one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: float, option_string: str | None = None) -> None:
        _limit["megapixels"] = values
        setattr(namespace, self.dest, values)


def megapixel_option(add: Callable[..., Any]) -> None:
    """Adds --max-megapixels to a command that reads pictures.  add: a parser's or a group's
    add_argument."""
    add("--max-megapixels", type=positive_megapixels, default=MAX_MEGAPIXELS, action=SetLimit,
        metavar="M", help="largest picture, in 10^6 pixels")


def positive_megapixels(text: str) -> float:
    """The value of --max-megapixels.  Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 10**5:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to 100000, found "
                                         f"'{shown(text)}'")
    return value


def check_size(size: tuple[int, int], what: str) -> None:
    """Raises PictureError if a picture (or frame) of this (width, height) is over the limit."""
    width, height = size
    if width * height > _limit["megapixels"] * 1e6:
        raise PictureError(
            f"{what} is {width}x{height}, {width * height / 1e6:,.1f} megapixels; expected at most "
            f"{_limit['megapixels']:g}; cut or reduce it, or raise --max-megapixels")


@contextmanager
def opened_picture(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """A PIL picture of which only the header is read, within the limit of size.

    content: the bytes of the file, if they are in memory: no file is opened, `path` is its name.
    Raises FileNotFoundError, IsADirectoryError, PictureError, or ValueError for every error of a
    decoder in the block; each names the file.
    """
    name = shown_path(path)
    if content is None and Path(path).is_dir():
        raise IsADirectoryError(f"{name} is a folder; give one picture file")
    try:
        with open_regular(path) if content is None else io.BytesIO(content) as file:
            head = file.read(12)
            file.seek(0)
            with _without_pillows_limit():
                image = Image.open(file, formats=FORMATS)
            with image:
                check_size(image.size, f"picture {name}")
                yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"picture {name} not found; give the path of a picture file") from error
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        if head[4:8] == b"ftyp":            # whatever the file is called
            raise ValueError(f"cannot read picture {name}: found HEIC, AVIF or a video, expected "
                             f"PNG, JPEG, BMP, TIFF or WebP; {PHONE_REMEDY}") from error
        raise ValueError(f"cannot read picture {name}: not a picture, or cut off at its start; "
                         f"expected a whole PNG, JPEG, BMP, TIFF or WebP file; save or copy it "
                         "again") from error
    except Exception as error:              # decoders raise OSError, SyntaxError, struct.error
        raise ValueError(
            f"cannot read picture {name}: {type(error).__name__}: {shown(error)}; expected a "
            "whole PNG, JPEG, BMP, TIFF or WebP file; save or copy it again") from error


@contextmanager
def _without_pillows_limit():
    """Pillow warns above 89 megapixels and refuses at 179; `check_size` has its own limit."""
    with _OPENING:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def exif_orientation(image: Image.Image) -> int | None:
    """The EXIF tag, 1 (upright) to 8; None if the picture has none."""
    value = image.getexif().get(EXIF_ORIENTATION)
    return value if type(value) is int and 1 <= value <= 8 else None


def read_header(path: str | Path) -> tuple[str, tuple[int, int]]:
    """(mode, (width, height)) without decoding; the size is that of the upright picture."""
    with opened_picture(path) as image:
        sideways = (exif_orientation(image) or 1) >= 5              # 5 to 8 swap the sides
        return image.mode, image.size[::-1] if sideways else image.size


def read_orientation(path: str | Path) -> int | None:
    """`exif_orientation` of a picture file."""
    with opened_picture(path) as image:
        return exif_orientation(image)


def open_image(path: str | Path, bits: int = 0, content: bytes | None = None) -> Image.Image:
    """The upright picture in its own mode, 8 bits per channel.

    bits: how many bits of 16-bit grey are in use; 0: all 16;  content: as in `opened_picture`.
    Raises FileNotFoundError if there is no file, ValueError if it is not a readable picture or
    holds values beyond `bits`.
    """
    name = shown_path(path)
    with opened_picture(path, content) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":   # a phone's JPEG
            note("only the first page or frame is used; save the others as files of their own",
                 path)
        deep_colour = any(";16" in str(tile[3]) for tile in image.tile) and image.mode[0] != "I"
        check_scans(image, name)
        image.load()                            # opening reads the header only
        ImageOps.exif_transpose(image, in_place=True)       # no copy of an upright picture
    if deep_colour:
        check_deep_colour(image, path, bits)
    return to_8_bits(image, path, bits)


def to_8_bits(image: Image.Image, path: str | Path, bits: int = 0) -> Image.Image:
    """The picture itself, or 16-bit grey scaled to 8 bits.  path, bits, errors: as in `open_image`.
    """
    if image.mode.startswith("I"):              # 16-bit grey: "I;16", "I;16B", in older Pillow "I"
        return grey16_to_8(image, path, bits)
    if image.mode == "F":
        raise ValueError(f"picture {shown_path(path)} holds floating-point values of unknown "
                         "range; expected 8 or 16 bits per channel; scale the values and save it "
                         "as PNG")
    return image


def read_image(path: str | Path, bits: int = 0, content: bytes | None = None) -> Image.Image:
    """The picture as RGB, as in CLIP: grey is repeated, palettes are resolved, alpha is dropped.

    bits, content, errors: as in `open_image`.  `filename` is set, for later messages.
    """
    picture = open_image(path, bits, content)
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    picture.filename = shown_path(path)
    return picture


def check_scans(image: Image.Image, name: str) -> None:
    """Raises PictureError for a progressive JPEG with far more scans than any encoder writes.

    A scan starts with the bytes FF DA, which cannot occur inside the compressed data.
    """
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        count = count_scans(image.fp)
        if count > MAX_SCANS:
            raise PictureError(f"picture {name} is a JPEG of {count:,} scans; expected at most "
                               f"{MAX_SCANS}; save it again")


def count_scans(file: BinaryIO) -> int:
    """How often FF DA occurs in a file; its position is kept."""
    position, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(2**20):
        block = last + block
        count, last = count + block.count(b"\xff\xda"), block[-1:]
    file.seek(position)
    return count


def demo() -> None:
    """A turned photograph, a picture over the limit, and what is not a picture."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.png"
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        Image.new("RGB", (40, 30)).save(path, exif=exif)
        print(f"stored as 40x30 with EXIF orientation {read_orientation(path)}, read as "
              "{}x{}".format(*read_image(path).size))
        Image.new("1", (9400, 9400)).save(path)
        print(f"{path.stat().st_size:,} bytes on disk")
        (Path(folder) / "a.png").write_text("<html>")
        for name in ("photo.png", "a.png", "b.png"):
            try:
                read_image(Path(folder) / name)
            except (OSError, ValueError) as error:
                print("refused:", str(error).replace(folder, "…"))


if __name__ == "__main__":
    demo()
