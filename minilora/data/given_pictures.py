"""What a Python caller may give as pictures, and the tensors that a detector takes.

    path (str or Path)   a picture file, or a folder, which is searched recursively
    PIL picture          treated as its file would be: upright, RGB, 8 bits
    numpy array          (H, W) grey or (H, W, 3) RGB: uint8, float in [0, 1], or uint16 grey
    tensor               (3, H, W) or (B, 3, H, W), float in [0, 1], at the detector's resolution
    list or tuple        of any of these

Claim: pixels from 0 to 255, or of another resolution, get scores like any other and these mean
nothing.  So everything is checked before the first picture is used, and a tensor, which nobody
resizes any more, must be what `Detector.prepare` returns.

Symbols: B pictures of H x W pixels.
Left out: what the paths of a command lead to (data/given_paths.py), videos (data/frames.py).
"""
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from minilora.data.decoding import check_size, read_header, to_8_bits
from minilora.data.given_paths import find_pictures
from minilora.io.notes import note, take_notes
from minilora.io.text import shown, shown_path

Given = str | Path | Image.Image | np.ndarray | Tensor | list | tuple
Named = tuple[str, Path | Image.Image | Tensor]
WANTED = ("paths, folders, PIL pictures, numpy arrays (H, W, 3), tensors (3, H, W), or a list of "
          "these")
OUTSIDE = 0.5                       # how far bicubic resizing may leave [0, 1]


def prepared(named: list[Named], read: Callable[[Path], Image.Image],
             prepare: Callable[[Image.Image], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name, pixels (3, H, W)) of each picture; read and prepared when it is its turn.

    named: from `named_pictures`;  read, prepare: of the detector.  What the readers noted about
    the files (io/notes.py) is a warning of Python at the end.
    """
    for name, picture in named:
        if isinstance(picture, Path):
            picture = read(picture)
        yield name, picture if isinstance(picture, Tensor) else prepare(picture)
    if not all(isinstance(picture, Tensor) for _, picture in named):
        for line in take_notes():
            warnings.warn(line, stacklevel=2)


def named_pictures(given: Given, check: Callable[[Tensor, str], None],
                   bits: int = 0) -> list[Named]:
    """Every picture with its name: the path of its file, or "picture 1", "picture 2", ...

    check(pixels (B, 3, H, W), name): raises for tensors that the detector cannot take;  bits: as in
    `open_image`.  Raises ValueError, TypeError or OSError in one line.
    """
    found: list[Named] = []
    for item in given if isinstance(given, (list, tuple, Iterator)) else [given]:
        number = f"picture {len(found) + 1}"
        if isinstance(item, (str, Path)):
            found += [(str(path), path) for path in picture_files(Path(item))]
        elif isinstance(item, Tensor):
            batch = item if item.ndim == 4 else item[None]
            check(batch, number)
            found += [(f"picture {len(found) + k + 1}", pixels) for k, pixels in enumerate(batch)]
        elif isinstance(item, np.ndarray):
            found.append((number, from_array(item, number, bits)))
        elif isinstance(item, Image.Image):
            name = str(getattr(item, "filename", "")) or number
            found.append((name, from_pil(item, name, bits)))
        else:
            raise TypeError(f"{number}: expected {WANTED}, found {type(item).__name__}")
    if not found:
        raise ValueError(f"no picture was given; expected {WANTED}")
    return found


def picture_files(path: Path) -> list[Path]:
    """The file itself, or the pictures in a folder; the header of each is read."""
    if not path.exists():
        raise FileNotFoundError(f"{shown_path(path)} not found; give a picture file or a folder of "
                                "pictures")
    inside = find_pictures([path])
    for skipped, reason in inside.skipped:
        note(reason, skipped)
    for file in inside.pictures:
        read_header(file)
    return inside.pictures


def from_pil(image: Image.Image, name: str, bits: int = 0) -> Image.Image:
    """A PIL picture as reading its file would give it: upright, RGB of 8 bits, within the limit."""
    check_size(image.size, shown(name))
    if not image.width * image.height:
        raise ValueError(f"{shown(name)} is {image.width}x{image.height}; expected at least one "
                         "pixel")
    upright = to_8_bits(ImageOps.exif_transpose(image), name, bits)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def from_array(array: np.ndarray, name: str, bits: int = 0) -> Image.Image:
    """A numpy picture, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), as a PIL picture, RGB."""
    found = f"found shape {array.shape} of {array.dtype}"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(f"{name}: expected an array (H, W), (H, W, 3) or (H, W, 4), {found}; move "
                         "the channels to the end with transpose(1, 2, 0), and give several "
                         "pictures as a list")
    array = array[..., 0] if array.ndim == 3 and channels == 1 else array
    if np.issubdtype(array.dtype, np.floating):
        check_range(torch.from_numpy(np.ascontiguousarray(array, np.float32)), name)
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype == np.uint8 or array.dtype == np.uint16 and channels == 1:
        return from_pil(Image.fromarray(array), name, bits)
    raise ValueError(f"{name}: expected uint8, floating point in [0, 1], or uint16 grey, {found}; "
                     "values from 0 to 255 become uint8 with astype('uint8'), 16-bit colour with "
                     "(array // 257).astype('uint8')")


def check_range(pixels: Tensor, name: str) -> None:
    """Raises ValueError for values far from [0, 1], or NaN, in a tensor of floating point."""
    if not pixels.numel():
        raise ValueError(f"{name}: expected at least one pixel, found {tuple(pixels.shape)}")
    low, high = (value.item() for value in pixels.aminmax())
    if not (low >= -OUTSIDE and high <= 1 + OUTSIDE):           # false for NaN, too
        raise ValueError(f"{name}: expected values in [0, 1], found {low:g} to {high:g}; divide "
                         "values of 0 to 255 by 255; do not subtract CLIP's mean, the detector "
                         "does it; remove NaN")


def check_detector_pixels(pixels: Tensor, name: str, resolution: int, patch: int,
                          square: bool = False) -> None:
    """Raises ValueError unless pixels are (B, 3, H, W) in [0, 1] as `Detector.prepare` makes them.

    resolution: of the detector;  patch: of its tower;  square: whether it squeezes pictures.
    """
    found = f"found {tuple(pixels.shape)} of {str(pixels.dtype).removeprefix('torch.')}"
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"{name}: expected a tensor (3, H, W) or (B, 3, H, W), {found}; pixels of "
                         "one picture get a batch axis with pixels[None]")
    if not pixels.is_floating_point():
        raise ValueError(f"{name}: expected floating point in [0, 1], {found}; divide by 255")
    height, width = pixels.shape[2:]
    shorter = resolution if square else max(1, round(resolution / patch)) * patch
    if min(height, width) != shorter or max(height, width) % patch or square and height != width:
        size = f"{shorter} x {shorter}" if square else (
            f"a shorter side of {shorter} and a longer one that is a multiple of {patch}")
        raise ValueError(f"{name}: expected pixels of {size}, {found}; give the file or the PIL "
                         "picture itself, or use detector.prepare(picture)")
    check_range(pixels, name)


def demo() -> None:
    """A grey array, a float array, a tensor; and what is refused."""
    grey, colour = np.full((30, 40), 200, np.uint8), np.full((30, 40, 3), 0.5)

    def check(pixels, name):
        check_detector_pixels(pixels, name, resolution=32, patch=16)
    for name, picture in named_pictures([grey, colour, torch.rand(2, 3, 32, 48)], check):
        size = tuple(picture.shape) if isinstance(picture, Tensor) else picture
        print(f"{name}: {size if isinstance(size, tuple) else (picture.mode, picture.size)}")
    for wrong in ([], 7, torch.rand(3, 32, 48) * 255, torch.rand(3, 30, 40), colour * 255):
        try:
            named_pictures(wrong, check)
        except (TypeError, ValueError) as error:
            print("refused:", str(error).split(";")[0][:90])


if __name__ == "__main__":
    demo()
