"""Which pixels of a mask are marked: the rules for every kind of file that people's tools write.

Claim: there is no standard.  MVTec AD marks with 255, VisA with small numbers, labelme with a
palette, GIMP with transparency, and a JPEG file has noise.  A rule that fits one of them reads
another one wrongly without a word.  So the kind is recognised first, and what fits no kind is
refused by name.  Background is black (or transparent) everywhere.

    transparency     if it varies: opaque pixels are marked, whatever their colours.  But if 1 % or
                     more of them are black and not all: black is the background, and the rules
                     below say which opaque pixels are marked; more than 32 colours are refused
    palette numbers  the palette of Pascal VOC and labelme: marked from 1 on; 255 is the border and
                     not marked if there are other numbers
    colours          at most 32, black among them: all others are marked (VOC's border is not)
    two values       one value besides black: it is marked, whatever it is
    small numbers    no value above 127: all above 0 are marked (numbers of kinds)
    several values   all values besides black are above half of the highest: all are marked (LOCO)
    grey edges       other values below half of the highest have no area of their own, 3 x 3 pixels:
                     edges; what is above half of the highest is marked
    lossy            JPEG, WebP, or more than 32 values: up to 1/8 of the highest is noise; above
                     half of it is marked; between the two only edges may be: areas of nearly one
                     value there must be smaller than 2 % of what is marked

Refused: no black background; areas of a value below half of the highest (marked or not?); other
values far from what is marked; in a lossy file marks of many values (a photograph?), or all values
below 32; small numbers beside values above 127.
A mask that is black everywhere is empty, and one without black is marked everywhere; both are valid
here, and `fit` names them.

Symbols: H x W pixels.  Left out: files (data/masks.py).
"""
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_VALUES = 32                     # more different values or colours: noise or soft edges
SMALL_NUMBERS = 127                 # values up to this are numbers of kinds, if none is above
SMALLEST_LOSSY = 32                 # a lossy mask with a lower maximum could be all noise
NOISE_SHARE, AREA_SHARE, MIN_AREA = 8, 0.02, 16
LOSSY_RANGE = 4                     # in a lossy file, values of one area differ at most by this
BLOCK, MIN_BLOCKS = 8, 2            # pixels: farther than a block from an edge is no edge
NEARLY_BLACK, BLACK_SHARE = 8, 0.01
VOC_BORDER_NUMBER = 255
NEAR_BORDER = 24                    # difference from VOC's border colour in a lossy file
BLACK = (0, 0, 0)


class Marks(NamedTuple):
    """marked: bool (H, W);  rule: the name of the rule that was used, from the docstring above."""
    marked: np.ndarray
    rule: str


class MaskError(ValueError):
    """A mask that fits no rule.  The message says why; data/masks.py adds the file."""


def marks_of(image: Image.Image, lossy: bool) -> Marks:
    """The marked pixels of a decoded mask of any mode.  Raises MaskError."""
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        return alpha_marks(image.convert("RGBA"), lossy)
    if image.mode == "P":
        return palette_marks(image, lossy)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return alpha_marks(image, lossy)
    if image.mode == "F":
        return real_marks(np.asarray(image))
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        if "transparency" in image.info:
            raise MaskError("it is 16-bit grey with a transparent value")
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        if values.min() < 0 or values.max() > 65535:
            raise MaskError(f"it holds values from {values.min()} to {values.max()}")
        return grey_marks(values, lossy)
    return colour_marks(image.convert("RGB"), lossy)


def grey_marks(values: np.ndarray, lossy: bool) -> Marks:
    """The rules for one number per pixel.  values: (H, W), whole numbers from 0 to 65535."""
    found = distinct_values(values)
    low, top, above = int(found[0]), int(found[-1]), found[found > 0]
    if top == 0:
        return Marks(values > 0, "empty")
    lossy = lossy or len(above) > MAX_VALUES
    if lossy and top < SMALLEST_LOSSY:
        raise MaskError(f"it is a lossy file with values up to {top}, which could be noise")
    if len(found) == 1:
        return Marks(values > 0, "two values")
    half, noise = top // 2, top // NOISE_SHARE
    if low > (noise if lossy or top > SMALL_NUMBERS else 0):
        raise MaskError(f"its lowest value is {low} and its highest {top}, so it has no black "
                        "background")
    if not lossy and top <= SMALL_NUMBERS:
        return Marks(values > 0, "two values" if len(above) == 1 else "small numbers")
    noise, marked = noise if lossy else low, values > half
    between = above[(above > noise) & (above <= half)]
    if len(between):
        check_between(values, between, marked, lossy)
    if lossy or len(between):
        check_plateaus(values, noise, half, lossy)
        return Marks(marked, "lossy" if lossy else "grey edges")
    return Marks(marked, "two values" if len(above[above > low]) == 1 else "several values")


def distinct_values(values: np.ndarray) -> np.ndarray:
    """The different values, ascending.  values: whole numbers from 0 to 65535."""
    there = np.zeros(2 ** 16, bool)
    there[values.ravel()] = True
    return np.flatnonzero(there)


def check_between(values: np.ndarray, between: np.ndarray, marked: np.ndarray,
                  lossy: bool) -> None:
    """Raises MaskError if values between background and marks are more than edges.

    between: the values in question, ascending.
    """
    if not lossy and between[-1] < SMALLEST_LOSSY:
        raise MaskError(f"it holds small numbers, {between[0]} to {between[-1]}, beside "
                        f"{values.max()}: are these kinds, and is {values.max()} a border?")
    areas = constant_areas(values, LOSSY_RANGE if lossy else 0)
    areas = areas[(areas >= between[0]) & (areas <= between[-1])]
    if len(areas) > (max(MIN_AREA, AREA_SHARE * marked.sum()) if lossy else 0):
        value = int(np.bincount(areas).argmax())
        raise MaskError(f"it has areas of value {value} beside {values.max()}: are these marked or "
                        "not?")


def check_plateaus(values: np.ndarray, noise: int, half: int, lossy: bool) -> None:
    """Raises MaskError if values far from every edge are neither background nor marks.

    noise, half: the highest value of the background, and the highest one that is not marked.
    """
    low, high = block_extremes(values, np.minimum), block_extremes(values, np.maximum)
    inside = _neighbourhood(low, np.minimum) > half             # blocks with marks all around
    outside = _neighbourhood(high, np.maximum) <= half
    low, high = low[1:-1, 1:-1], high[1:-1, 1:-1]
    grey = outside & (high > noise)
    if grey.sum() > (max(MIN_BLOCKS, AREA_SHARE * outside.sum()) if lossy else 0):
        raise MaskError(f"it holds values up to {high[grey].max()} far from what is marked: are "
                        "these marked or not?")
    usual = np.median(low[inside]) if inside.any() else 0
    other = inside & ((low < usual * 3 / 4) | (high > usual * 5 / 4))
    if lossy and other.sum() > max(MIN_BLOCKS, AREA_SHARE * inside.sum()):
        raise MaskError(f"its marks have values from {low[inside].min()} to {high[inside].max()}: "
                        "is it a photograph, or are there several kinds of marks?")


def block_extremes(values: np.ndarray, which: np.ufunc) -> np.ndarray:
    """The extreme of each block of BLOCK x BLOCK pixels, with its margin repeated once around."""
    rows, columns = (-side % BLOCK for side in values.shape)
    values = np.pad(values, ((0, rows), (0, columns)), mode="edge")
    for axis in (0, 1):
        values = which.reduceat(values, np.arange(0, values.shape[axis], BLOCK), axis)
    return np.pad(values, 1, mode="edge")


def constant_areas(values: np.ndarray, largest_range: int) -> np.ndarray:
    """The values of the pixels whose 3 x 3 neighbourhood differs by at most `largest_range`."""
    if min(values.shape) < 3:
        return values[:0].ravel()
    high, low = (_neighbourhood(values, which) for which in (np.maximum, np.minimum))
    return values[1:-1, 1:-1][high - low <= largest_range]      # low <= high: no overflow


def _neighbourhood(values, which):
    """The extreme of each 3 x 3 neighbourhood: (H, W) -> (H - 2, W - 2)."""
    for _ in range(2):                                          # along the rows, then the columns
        values = which(which(values[:-2], values[1:-1]), values[2:]).T
    return values


def real_marks(values: np.ndarray) -> Marks:
    """Floating-point masks: 0 and one other value, which is marked."""
    marked = values != 0
    if not np.isfinite(values).all() or marked.any() and np.ptp(values[marked]) > 0:
        raise MaskError("it holds floating-point values other than 0 and one more")
    return Marks(marked, "two values" if marked.any() else "empty")


def palette_marks(image: Image.Image, lossy: bool) -> Marks:
    """A palette picture: by its numbers if it has VOC's palette, else by its colours."""
    palette = image.getpalette("RGB")
    used = sorted(number for _, number in image.getcolors(256))
    colours = {number: tuple(palette[3 * number:3 * number + 3]) for number in used}
    grey = all(len(set(colour)) == 1 for colour in colours.values())
    if grey or any(colour != voc_colour(number) for number, colour in colours.items()):
        return colour_marks(image.convert("RGB"), lossy)
    numbers = np.asarray(image)
    marked = numbers > 0
    if VOC_BORDER_NUMBER in used and set(used) - {0, VOC_BORDER_NUMBER}:
        marked &= numbers != VOC_BORDER_NUMBER
    return Marks(marked, "palette numbers")


def voc_colour(number: int) -> tuple[int, int, int]:
    """The colour of a number in the palette of Pascal VOC and labelme: its bits are dealt out to
    red, green and blue, the highest bits of the colour first."""
    return tuple(sum((number >> (3 * k + channel) & 1) << (7 - k) for k in range(3))
                 for channel in range(3))


def colour_marks(image: Image.Image, lossy: bool) -> Marks:
    """A colour picture (RGB): by its colours if they are few, else by its highest channel."""
    pixels, few = np.asarray(image), None if lossy else image.getcolors(MAX_VALUES + 1)
    colours = {colour for _, colour in few or ()}
    if few and any(len(set(colour)) > 1 for colour in colours):
        if BLACK not in colours and len(colours) > 1:
            raise MaskError(f"it has {len(colours)} colours and none of them is black, the "
                            "background")
        marked, border = pixels.any(2), voc_colour(VOC_BORDER_NUMBER)
        if border in colours and colours - {BLACK, border}:
            marked &= (pixels != border).any(2)
        return Marks(marked, "colours")
    brightest = pixels.max(2)
    coloured = brightest - pixels.min(2) > 2 * NEAR_BORDER
    if np.all(np.abs(pixels - np.int16(voc_colour(VOC_BORDER_NUMBER))) <= NEAR_BORDER, 2).sum() \
            > MIN_AREA < coloured.sum():
        raise MaskError("it is a lossy file in the colours of Pascal VOC, whose border is no mark")
    return grey_marks(brightest, lossy)


def alpha_marks(image: Image.Image, lossy: bool) -> Marks:
    """A picture with transparency: opaque pixels, unless black ones among them are background."""
    alpha, colours = np.asarray(image.getchannel("A")), image.convert("RGBA").convert("RGB")
    if alpha.min() == alpha.max():
        return marks_of(colours, lossy)
    opaque = grey_marks(alpha, lossy).marked
    black = (np.asarray(colours).max(2) <= NEARLY_BLACK) & opaque
    if black.sum() < BLACK_SHARE * opaque.sum() or black.sum() == opaque.sum():
        return Marks(opaque, "transparency")
    shown = Image.fromarray(np.asarray(colours) * opaque[..., None].astype(np.uint8))
    if lossy or shown.getcolors(MAX_VALUES + 1) is None:
        raise MaskError("both its transparency and its brightness vary: which of them is the mask?")
    return Marks(colour_marks(shown, lossy).marked & opaque, "transparency")


def demo() -> None:
    """The same square as five tools would mark it, and two files that are refused."""
    square = np.zeros((16, 16), np.uint8)
    square[4:12, 4:12] = 1
    palette = Image.fromarray(square * 2, "P")
    palette.putpalette([v for number in range(256) for v in voc_colour(number)])
    noisy = square * np.uint8(100) + np.random.default_rng(0).integers(0, 4, square.shape, np.uint8)
    alpha = Image.new("RGBA", (16, 16), "red")
    alpha.putalpha(Image.fromarray(square * 255))
    levels = square * 90 + np.roll(square * 255, 8, 1) * (square == 0)
    as_image = Image.fromarray
    for name, image in (("255", as_image(square * 255)), ("1", as_image(square)),
                        ("palette", palette), ("JPEG", as_image(noisy)), ("alpha", alpha),
                        ("90 and 255", as_image(levels)), ("JPEG of 1", as_image(square))):
        try:
            marks = marks_of(image, lossy=name.startswith("JPEG"))
            print(f"{name:10s} {marks.rule:16s} {marks.marked.sum()} pixels")
        except MaskError as error:
            print(f"{name:10s} refused: {error}")


if __name__ == "__main__":
    demo()
