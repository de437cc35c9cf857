"""The good pictures inside a run folder: which are kept, and which of a stranger's are taken.

Claim: a PNG file of 20 kB can hold a picture of 50 megapixels, and each prediction would decode it.
So the sizes of all stored pictures are read from their headers when a run is opened; only those are
taken that the detector itself could have made.

Symbols: K good pictures.
Left out: decoding (data/images.py), which refuses what is damaged behind its header.
"""
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from minilora.data.images import MAX_RESIZED, to_png
from minilora.io.schema import SchemaError

MAX_SHOTS, MAX_SHOT_BYTES = 10**5, 1 << 22      # good pictures of a run; bytes of one as PNG
MAX_KEPT_BYTES = 30 << 20                       # of all good pictures; beyond it none is kept
MAX_KEPT_PIXELS = 10**8                         # as well; fit --update decodes them all
PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"      # before width and height


def png_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header of a PNG file; (0, 0) for any other."""
    return struct.unpack(">II", data[16:24]) if data[:16] == PNG_HEAD and len(data) > 24 else (0, 0)


def pixels_of(pictures: Sequence[bytes]) -> int:
    """The number of pixels of all pictures."""
    return sum(width * height for width, height in map(png_size, pictures))


def kept_pictures(pictures: Sequence[bytes]) -> list[Tensor]:
    """K PNG files as uint8 tensors; none, if all together are too large for a run folder."""
    sizes = [len(data) for data in pictures]
    if sum(sizes) > MAX_KEPT_BYTES or max(sizes, default=0) > MAX_SHOT_BYTES \
            or pixels_of(pictures) > MAX_KEPT_PIXELS:
        return []
    return [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in pictures]


def opened_pictures(stored: Sequence[Tensor], resolution: int, patch: int) -> list[bytes]:
    """The PNG files of `kept_pictures`.  Raises SchemaError (a ValueError) for sizes that
    `Detector.prepare` never makes.

    resolution: of the detector;  patch: of its tower.
    """
    pictures = [data.numpy().tobytes() for data in stored]
    shorter = max(1, round(resolution / patch)) * patch
    for k, (width, height) in enumerate(map(png_size, pictures)):
        if min(width, height) != shorter or max(width, height) % patch \
                or width * height > MAX_RESIZED:
            raise SchemaError(f"good picture {k}: expected a PNG file with a shorter side of "
                              f"{shorter} pixels and a longer one that is a multiple of {patch}, "
                              f"found {width}x{height}")
    if (total := pixels_of(pictures)) > MAX_KEPT_PIXELS:
        raise SchemaError(f"good pictures: expected at most {MAX_KEPT_PIXELS:,} pixels in all, "
                          f"found {total:,}")
    return pictures


def demo() -> None:
    """Two pictures are kept; one of another size is refused, and one that is no PNG file."""
    stored = kept_pictures([to_png(torch.zeros(3, 64, width)) for width in (64, 96)])
    print("kept:", *map(png_size, opened_pictures(stored, resolution=64, patch=16)))
    wrong = [*kept_pictures([to_png(torch.zeros(3, 4096, 4096))]), torch.zeros(9).byte()]
    for data in wrong:
        try:
            opened_pictures([data], resolution=64, patch=16)
        except SchemaError as error:
            print(f"{len(data):,} bytes, refused: {error}")


if __name__ == "__main__":
    demo()
