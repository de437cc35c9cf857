"""16-bit grey pictures as 8-bit ones, also if the camera used fewer than 16 bits.

    0..65535 -> 0..255, rounded        (Pillow's own conversion clips at 255, so nearly everything
                                       turns white)
    0..2^N - 1 -> 0..255, rounded      with `bits` = N: a camera of 12 bits stores 0..4095 in a
                                       16-bit file; scaled as 0..65535 it would be nearly black

Claim: from one file nobody can tell a dark picture of 16 bits from a bright one of 12.  So the
default keeps all 16 bits and notes a file that uses far fewer; the user says `--bits 12`.

Left out: 16-bit colour (Pillow reads its high bytes), files whose camera bits are the upper ones of
the 16 (they need no scaling).
"""
import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minilora.io.notes import note
from minilora.io.text import shown, shown_path

USUAL_DEPTHS = (8, 10, 12, 14)      # bits of cameras; a 16-bit file with fewer in use is noted
MIN_BITS, MAX_BITS = 8, 16


def bits_option(add: Callable[..., Any], default: int | None = 0) -> None:
    """Adds --bits to a command.  add: a parser's or a group's add_argument;
    default: 0 (all 16), or None (as in the fit)."""
    add("--bits", type=parse_bits, default=default, metavar="N",
        help=f"used bits of 16-bit grey, {MIN_BITS} to {MAX_BITS}; "
             + ("0: all" if default == 0 else "else as in fit"))


def parse_bits(text: str) -> int:
    """The value of --bits: 0 (all), or 8 to 16.  Raises ArgumentTypeError."""
    value = int(text) if text.isdecimal() and len(text) < 9 else -1
    if value != 0 and not MIN_BITS <= value <= MAX_BITS:
        raise argparse.ArgumentTypeError(f"expected 0 or a whole number from {MIN_BITS} to "
                                         f"{MAX_BITS}, found '{shown(text)}'")
    return value


def grey_values(image: Image.Image, path: str | Path) -> np.ndarray:
    """The values of 16-bit grey, uint16 (H, W).  Raises ValueError for others (32 bits)."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"picture {shown_path(path)} holds values from {low} to {high}; "
                         "expected 16-bit grey, 0 to 65535; scale the values and save it as PNG")
    return values.astype(np.uint16)


def grey16_to_8(image: Image.Image, path: str | Path, bits: int = 0) -> Image.Image:
    """16-bit grey to 8-bit grey: 0..2^bits - 1 is mapped to 0..255, rounded.

    bits: 0 means 16.  Raises ValueError for a value beyond `bits`.
    """
    values = grey_values(image, path)
    highest, top = int(values.max()), 2 ** (bits or 16) - 1
    if highest > top:
        raise ValueError(f"picture {shown_path(path)} holds values up to {highest:,}; "
                         f"expected at most {top:,} with --bits {bits}; give --bits "
                         f"{highest.bit_length()}")
    if not bits:
        note_unused_bits(highest, path)
    return Image.fromarray(depth_table(top)[values])


def depth_table(top: int) -> np.ndarray:
    """For each value from 0 to `top` its grey level, uint8 (top + 1,): 0..255, rounded."""
    return ((np.arange(top + 1, dtype=np.int64) * 510 + top) // (2 * top)).astype(np.uint8)


def note_unused_bits(highest: int, path: str | Path) -> None:
    """Notes a 16-bit picture whose highest value fits the usual depth of a camera."""
    depth = next((d for d in USUAL_DEPTHS if 0 < highest < 2 ** d), None)
    if depth:
        note(f"16-bit values use only {depth} bits, so the picture comes out dark; if the camera "
             f"gives {depth} bits, fit and predict with --bits {depth}", path)


def check_deep_colour(image: Image.Image, path: str | Path, bits: int) -> None:
    """16-bit colour: Pillow gives the high bytes only, so nothing can be scaled.

    Raises ValueError with `bits`; notes a picture that comes out dark.
    """
    if bits:
        raise ValueError(f"picture {shown_path(path)} is 16-bit colour, of which the high "
                         f"bytes are read; --bits {bits} scales grey only; save it as 16-bit grey "
                         "or with 8 bits per channel")
    bands = zip(image.getbands(), image.getextrema() if len(image.getbands()) > 1
                else [image.getextrema()])
    highest = max(high for band, (_, high) in bands if band != "A")
    if 0 < highest < 2 ** (USUAL_DEPTHS[-1] - 8):
        note("16-bit colour uses only the low bits, so the picture comes out dark; save it with 8 "
             "bits per channel", path)


def demo() -> None:
    """Scaling of 16 bits and of 12, and the note about unused ones."""
    from minilora.io.notes import take_notes
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    print("16-bit 0, 257, 32896, 65535 become", np.asarray(grey16_to_8(deep, "deep"))[0].tolist())
    camera = Image.fromarray(np.array([[0, 1000, 4095]], dtype=np.uint16))
    for bits in (0, 12):
        levels = np.asarray(grey16_to_8(camera, "camera.png", bits))[0].tolist()
        print(f"12-bit 0, 1000, 4095 with bits = {bits}: {levels}")
    print("note:", *take_notes())
    try:
        grey16_to_8(deep, "deep.png", 12)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    demo()
