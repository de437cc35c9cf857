"""From a picture file to pixels: decoding, CLIP's preprocessing, resizing of whole pictures, masks.

There are two ways to prepare a picture for the image tower.
Recognition does what CLIP does (Radford et al. 2021): the shorter side is resized to R bicubically
and the central square is cut out.
A defect detector must not cut anything off: the shorter side becomes R and the longer side is
scaled by the same factor, both rounded to whole patches; or, to compare with other methods, the
picture is squeezed into a square.
All resizing uses Pillow's filters, which become wider when a picture is reduced (antialiasing).
Plain bicubic interpolation gives other pixels, and so CLIP other features.

CLIP resizes first and converts to RGB afterwards. The order changes pixels: Pillow resizes palette
pictures by nearest neighbour and weights transparent ones by alpha. `clip_preprocess` keeps
CLIP's order.

Two differences from CLIP are intended: 16-bit grey values are scaled by 1/257 (Pillow's own
conversion clips them at 255, so nearly everything turns white), and the EXIF rotation is applied.

Symbols: B pictures of H x W pixels, N files, R resolution.
Left out: 16-bit colour (Pillow reads its high bytes), RAW, augmentation (data/augmentation.py).
"""
import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)     # of CLIP's training pictures: red, green, blue
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
EXIF_ORIENTATION = 0x0112
MAX_ASPECT = 4                      # longer side / shorter side of one strip; see strip_bounds


@contextmanager
def _opened(path):
    """Image.open, whose errors become one kind of error that names the file."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give one picture file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"picture {path} not found; give the path of a picture file")
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:              # decoders raise OSError, SyntaxError, struct.error
        raise ValueError(
            f"cannot read picture {path}: {type(error).__name__}: {error}; expected a whole PNG, "
            "JPEG, BMP, TIFF or WebP file; save or copy it again") from error


def read_header(path: str | Path) -> tuple[str, tuple[int, int]]:
    """(mode, (width, height)) without decoding; the size is that of the upright picture."""
    with _opened(path) as image:
        sideways = image.getexif().get(EXIF_ORIENTATION, 1) >= 5    # 5 to 8 swap the sides
        return image.mode, image.size[::-1] if sideways else image.size


def open_image(path: str | Path) -> Image.Image:
    """The upright picture in its own mode, 8 bits per channel.

    Raises FileNotFoundError if there is no file, ValueError if it is not a readable picture.
    """
    with _opened(path) as image:
        image.load()                            # opening reads the header only
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):              # 16-bit grey: "I;16", "I;16B", in older Pillow "I"
        return _grey16_to_8(image, path)
    if image.mode == "F":
        raise ValueError(f"picture {path} holds floating-point values of unknown range; expected "
                         "8 or 16 bits per channel; scale the values and save it as PNG")
    return image


def _grey16_to_8(image, path):
    """16-bit grey to 8-bit grey: 0..65535 is mapped to 0..255, rounded. 65535 = 255 * 257."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"picture {path} holds values from {low} to {high}; expected 16-bit grey, "
                         "0 to 65535; scale the values and save it as PNG")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def read_image(path: str | Path) -> Image.Image:
    """The picture as RGB, as in CLIP: grey is repeated, palettes are resolved, alpha is dropped."""
    return open_image(path).convert("RGB")


def _tensor(image):
    """PIL RGB (height, width, 3) -> uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def clip_preprocess(image: Image.Image, resolution: int = 224) -> Tensor:
    """CLIP's preprocessing before normalisation.  image: any mode.  Returns uint8 (3, R, R).

    Pass `open_image(path)`, not `read_image(path)`: CLIP converts to RGB after resizing.
    """
    width, height = image.size
    short = min(width, height)
    if short != resolution:                     # longer side rounded down, as torchvision does
        size = (int(resolution * width / short), int(resolution * height / short))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - resolution) / 2)
    top = round((image.height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    return _tensor(image.convert("RGB"))        # (3, R, R)


def to_square(image: Image.Image, resolution: int) -> Tensor:
    """The whole picture squeezed into a square.  Returns float32 (3, R, R) in [0, 1]."""
    size = (resolution, resolution)
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float() / 255


def to_patches(image: Image.Image, resolution: int, patch: int) -> Tensor:
    """The whole picture with its aspect ratio kept.  Returns float32 (3, H, W) in [0, 1].

    The shorter side becomes `resolution`, the longer side is scaled by the same factor; then both
    are rounded to a multiple of `patch`.
    """
    scale = resolution / min(image.size)
    size = [max(1, round(side * scale / patch)) * patch for side in image.size]
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float() / 255


def strip_bounds(size: Sequence[int], patch: int) -> list[tuple[int, int, int, int]]:
    """How a long picture is cut into strips, none longer than MAX_ASPECT times its shorter side.

    size: (H, W) in pixels, multiples of `patch`.  Returns one tuple for each strip along the longer
    side: (first pixel, last pixel, first patch to keep, last patch to keep).  Last values are
    exclusive; patches are counted from the start of the strip.  Neighbouring strips overlap by at
    least half of the shorter side.  A patch of the overlap is kept in the strip in which it lies
    farther from the edge, so every patch of the picture is kept exactly once.
    """
    short, long = (side // patch for side in sorted(size))
    length, overlap = min(long, MAX_ASPECT * short), (short + 1) // 2
    count = 1 + math.ceil((long - length) / (length - overlap))
    starts = [round(k * (long - length) / max(1, count - 1)) for k in range(count)]
    seams = [0, *((a + length + b) // 2 for a, b in zip(starts, starts[1:])), long]
    return [(start * patch, (start + length) * patch, low - start, high - start)
            for start, low, high in zip(starts, seams, seams[1:])]


def cut_strips(pixels: Tensor, patch: int) -> list[Tensor]:
    """The strips of pictures (..., H, W) by `strip_bounds`; one strip if they are not too long."""
    axis = -2 if pixels.shape[-2] > pixels.shape[-1] else -1
    return [pixels.narrow(axis, first, last - first)
            for first, last, _, _ in strip_bounds(pixels.shape[-2:], patch)]


def group_by_shape(tensors: Iterable[Tensor]) -> list[list[int]]:
    """Indices of the tensors, one list for each shape, so that each list can be stacked to a batch.

    The lists are in the order in which the shapes first occur.
    """
    groups = {}
    for k, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(k)
    return list(groups.values())


def load_squares(paths: Iterable[str | Path], resolution: int) -> Tensor:
    """Whole pictures squeezed into squares: float32 (N, 3, R, R) in [0, 1]."""
    return torch.stack([to_square(read_image(path), resolution) for path in paths])


def normalise(pixels: Tensor) -> Tensor:
    """What the image tower takes: (x - CLIP_MEAN) / CLIP_STD.

    pixels: (..., 3, H, W), float in [0, 1] or uint8.  Returns float of the same shape.
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def read_mask(path: str | Path | None, resolution: int | tuple[int, int],
              size: tuple[int, int] | None = None) -> Tensor:
    """A defect mask, bool (H, W): true where at least half of the pixel's area is marked.

    The file is grey or black and white; marked pixels are 255 (or small numbers, as in VisA).
    resolution: (H, W), or one number for both.  size: (width, height) of the picture that the mask
    belongs to.  Raises ValueError if the mask has another size, since it would mark the wrong
    place, and if path is None.
    """
    if path is None:
        raise ValueError("this defective picture has no mask, but pixel metrics need one; save it "
                         "as ground_truth/<kind>/<stem>_mask.png")
    image = open_image(path)
    if size is not None and image.size != tuple(size):
        raise ValueError(f"mask {path} is {image.width}x{image.height}, its picture "
                         f"{size[0]}x{size[1]}; expected the same size; export the mask again")
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    values = np.asarray(image.convert("L"))
    marked = (values > (127 if values.max() > 127 else 0)).astype(np.uint8) * 255
    share = Image.fromarray(marked).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(share)) >= 128                         # (H, W)


def demo() -> None:
    """Order of resizing and conversion, scaling of 16 bits, whole pictures and strips."""
    half = Image.new("LA", (448, 448), (255, 0))            # right half: white, transparent
    half.paste((40, 255), (0, 0, 224, 448))                 # left half: dark grey, opaque
    late, early = clip_preprocess(half), clip_preprocess(half.convert("RGB"))
    print("grey levels across the edge, resized then converted:", late[0, 0, 109:115].tolist())
    print("                             converted then resized:", early[0, 0, 109:115].tolist())
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    print("16-bit 0, 257, 32896, 65535 become", np.asarray(_grey16_to_8(deep, "deep"))[0].tolist())
    wide = Image.new("RGB", (300, 100))
    print(f"300x100: CLIP's recognition uses {100 / 300:.0%} of the picture; a detector all of it, "
          f"as {tuple(to_patches(wide, 224, 16).shape)} or {tuple(to_square(wide, 224).shape)}")
    print("strips of 224x1600 pixels (first, last, patches kept):", *strip_bounds((224, 1600), 16))
    print("groups of equal shape:", group_by_shape([late, late[:, :9], late]))


if __name__ == "__main__":
    demo()
