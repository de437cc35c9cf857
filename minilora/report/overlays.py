"""A picture with the suspicious region outlined, small enough to be looked at.

Claim: an overlay is for the eye, so it has at most 2,048 pixels on its longer side, and its cost
does not grow with the picture.  The outline lies outside the region: pixels near the region that
are not in it, which is a dilation of the region without the region itself.  A square dilation is
one along the rows and then one along the columns: 2 (2 k + 1) comparisons a pixel, not (2 k + 1)^2.

Symbols: H x W pixels, k width of the outline.
Left out: heat maps (report/results.py), polygons (report/contours.py).
"""
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MAX_OVERLAY = 2048                              # pixels of the longer side
OUTLINE = (255, 40, 40)                         # colour, RGB


def reduced(picture: Image.Image) -> Image.Image:
    """The picture with at most MAX_OVERLAY pixels on its longer side; a small one as it is."""
    longest = max(picture.size)
    if longest <= MAX_OVERLAY:
        return picture
    sides = [max(1, round(side * MAX_OVERLAY / longest)) for side in picture.size]
    return picture.resize(sides, Image.Resampling.BOX)


def draw_outline(picture: Image.Image, scores: Tensor, threshold: float) -> Image.Image:
    """The reduced picture, PIL RGB, with an outline around the region above the threshold.

    scores: anomaly map (H, W), resized here to the picture;  threshold: of a pixel of the map.
    """
    picture = reduced(picture)
    size = picture.size[::-1]
    resized = F.interpolate(scores[None, None], size, mode="bilinear")[0, 0]
    above = resized > threshold
    edge = (dilated(above, 1 + max(size) // 300) & ~above).numpy()
    colour = Image.new("RGB", picture.size, OUTLINE)
    return Image.composite(colour, picture, Image.fromarray(edge))


def dilated(mask: Tensor, width: int) -> Tensor:
    """Pixels at most `width` rows and columns away from a marked one.  mask: bool (H, W)."""
    side = 2 * width + 1
    along_rows = F.max_pool2d(mask[None, None].float(), (1, side), 1, (0, width))
    return F.max_pool2d(along_rows, (side, 1), 1, (width, 0))[0, 0] > 0


def demo() -> None:
    """A region, with # inside and o on its outline."""
    mask = torch.zeros(7, 16, dtype=torch.bool)
    mask[2:4, 3:8] = mask[3:5, 7:12] = True
    for row, around in zip(mask, dilated(mask, 1)):
        print("   ", "".join("#" if m else "o" if a else "." for m, a in zip(row, around)))
    print("a picture of 6000 x 4000 becomes {} x {}".format(
        *reduced(Image.new("RGB", (6000, 4000))).size))


if __name__ == "__main__":
    demo()
