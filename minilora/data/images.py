"""From a picture to pixels: CLIP's preprocessing, resizing of whole pictures, strips.

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

Symbols: B pictures of H x W pixels, N files, R resolution.
Left out: how a file becomes a picture (data/decoding.py, with two differences from CLIP), masks
(data/masks.py), augmentation (data/augmentation.py).
"""
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minilora.data.decoding import opened_picture, read_image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)     # of CLIP's training pictures: red, green, blue
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 4                      # longer side / shorter side of one strip; see strip_bounds
MAX_RESIZED = 4200 ** 2             # pixels; 1x60000 would be resized to 224x13,440,000


def _tensor(image):
    """PIL RGB (height, width, 3) -> uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def clip_preprocess(image: Image.Image, resolution: int = 224) -> Tensor:
    """CLIP's preprocessing before normalisation.  image: any mode.  Returns uint8 (3, R, R).

    Of a picture that would become larger than MAX_RESIZED, only the middle is resized, since the
    rest is cut off anyway.  Pass `open_image(path)`, not `read_image(path)`: CLIP converts to RGB
    after resizing.
    """
    image = _middle_of_long(image, resolution)
    width, height = image.size
    short = min(width, height)
    if short != resolution:                     # longer side rounded down, as torchvision does
        size = (int(resolution * width / short), int(resolution * height / short))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - resolution) / 2)
    top = round((image.height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    return _tensor(image.convert("RGB"))        # (3, R, R)


def _middle_of_long(image, resolution):
    """The picture, or its middle if resizing the whole would take more than MAX_RESIZED pixels."""
    short, long = sorted(image.size)
    if resolution ** 2 * long / short <= MAX_RESIZED:
        return image
    kept = MAX_ASPECT * short           # wider than the square that is cut out, for the filter
    start = (long - kept) // 2
    wide = image.width > image.height
    return image.crop((start, 0, start + kept, short) if wide else (0, start, short, start + kept))


def to_square(image: Image.Image, resolution: int) -> Tensor:
    """The whole picture squeezed into a square.  Returns float32 (3, R, R) in [0, 1]."""
    size = (resolution, resolution)
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float().div_(255)


def to_patches(image: Image.Image, resolution: int, patch: int) -> Tensor:
    """The whole picture with its aspect ratio kept.  Returns float32 (3, H, W) in [0, 1].

    The shorter side becomes `resolution`, the longer side is scaled by the same factor; then both
    are rounded to a multiple of `patch`.
    """
    name = getattr(image, "filename", "")
    size = patches_size(image.size, resolution, patch, f"picture {name}" if name else "a picture")
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float().div_(255)


def patches_size(size: tuple[int, int], resolution: int, patch: int,
                 name: str = "a picture") -> tuple[int, int]:
    """The (width, height) to which `to_patches` resizes a picture of this (width, height).

    name: of the picture, for the message.  Raises ValueError above MAX_RESIZED pixels.
    """
    scale = resolution / min(size)
    width, height = (max(1, round(side * scale / patch)) * patch for side in size)
    if width * height > MAX_RESIZED:
        raise ValueError(f"{name} of {size[0]}x{size[1]} would become {width}x{height}, since its "
                         f"shorter side becomes {resolution}; expected at most {MAX_RESIZED:,} "
                         "pixels then; cut it into shorter pictures")
    return width, height


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
    count = 1 + math.ceil((long - length) / max(1, length - overlap))
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


def to_pil(pixels: Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as PIL RGB."""
    values = (pixels.cpu() * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(values.contiguous().numpy())


def to_png(pixels: Tensor) -> bytes:
    """A picture (3, H, W) in [0, 1] as the bytes of a PNG file, without loss of its 8 bits."""
    file = io.BytesIO()
    to_pil(pixels).save(file, "PNG")
    return file.getvalue()


def from_png(data: bytes) -> Tensor:
    """The picture (3, H, W) in [0, 1] of the bytes of a PNG file.  Raises ValueError for others and
    for one over the limit of size."""
    with opened_picture("stored in the run", data) as image:
        return _tensor(image.convert("RGB")) / 255


def normalise(pixels: Tensor) -> Tensor:
    """What the image tower takes: (x - CLIP_MEAN) / CLIP_STD.

    pixels: (..., 3, H, W), float in [0, 1] or uint8.  Returns float of the same shape.
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.float().div_(255)
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def demo() -> None:
    """Order of resizing and conversion, whole pictures and strips."""
    half = Image.new("LA", (448, 448), (255, 0))            # right half: white, transparent
    half.paste((40, 255), (0, 0, 224, 448))                 # left half: dark grey, opaque
    late, early = clip_preprocess(half), clip_preprocess(half.convert("RGB"))
    print("grey levels across the edge, resized then converted:", late[0, 0, 109:115].tolist())
    print("                             converted then resized:", early[0, 0, 109:115].tolist())
    wide = Image.new("RGB", (300, 100))
    print(f"300x100: CLIP's recognition uses {100 / 300:.0%} of the picture; a detector all of it, "
          f"as {tuple(to_patches(wide, 224, 16).shape)} or {tuple(to_square(wide, 224).shape)}")
    print("strips of 224x1600 pixels (first, last, patches kept):", *strip_bounds((224, 1600), 16))
    print("groups of equal shape:", group_by_shape([late, late[:, :9], late]))


if __name__ == "__main__":
    demo()
