"""The worst patch of a picture beside the good patch that is nearest to it.

Claim: "this here does not look like that there" can be checked by eye.  The memory bank knows from
which good picture, rotation and place each of its patches comes; the detector keeps the pictures.

Symbols: H x W pixels, P patches, K good pictures.
Left out: the text map, which compares with words (anomaly_map.py).
"""
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minilora.data.images import from_png, to_pil
from minilora.features import Features

SURROUNDINGS = 2.0                      # patches shown on each side of the patch itself
CROP_SIDE = 160                         # pixels of a crop's longer side
FRAME = (255, 40, 40)                   # colour of the frame around the patch, RGB

Box = tuple[float, float, float, float]     # left, top, right, bottom as fractions of the picture


class NearestPatch(NamedTuple):
    """A patch of a picture, and the good patch that is nearest to it."""
    box: Box                            # of the patch
    shot: int                           # number of the good picture, from 0
    quarter_turns: int                  # by which this picture was rotated, counter-clockwise
    shot_box: Box                       # of the good patch in the rotated good picture
    distance: float                     # cosine distance of both


def nearest_good_patch(detector: Any, features: Features, scores: Tensor,
                       index: int = 0) -> NearestPatch | None:
    """The good patch nearest to the patch where a map is highest.

    features: of the pictures, with LoRA;  scores: the map (H, W) of picture number `index`.
    None if the detector has no memory bank or did not keep its good pictures.
    """
    bank = detector.banks.get("adapted")
    if bank is None or bank.sources is None or not detector.shot_pictures:
        return None
    patch, (height, width) = detector.clip.visual.patch, features.size
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    row = row * height // scores.shape[0] // patch
    column = column * width // scores.shape[1] // patch
    token = detector.bank_features(features, "adapted")[index, row * (width // patch) + column]
    cosine, nearest = (bank.tokens @ token).max(0)
    copy, number = bank.sources[nearest].tolist()
    quarter_turns, shot = divmod(copy, len(detector.shot_pictures))
    good = from_png(detector.shot_pictures[shot])
    size = torch.rot90(good, quarter_turns, (1, 2)).shape[1:]
    rows, columns = size[0] // patch, size[1] // patch
    shot_box = patch_box(number // columns % rows, number % columns, size, patch)
    return NearestPatch(patch_box(row, column, (height, width), patch), shot, quarter_turns,
                        shot_box, 1 - cosine.item())


def patch_box(row: int, column: int, size: tuple[int, int], patch: int) -> Box:
    """The box of a patch in a picture of size (H, W) pixels."""
    height, width = size
    return (column * patch / width, row * patch / height,
            (column + 1) * patch / width, (row + 1) * patch / height)


def patch_pair(detector: Any, picture: Image.Image,
               found: NearestPatch) -> tuple[Image.Image, Image.Image]:
    """Two crops with a frame around the patch: of the picture (PIL RGB) and of the good one."""
    good = torch.rot90(from_png(detector.shot_pictures[found.shot]), found.quarter_turns, (1, 2))
    return framed_crop(picture, found.box), framed_crop(to_pil(good), found.shot_box)


def framed_crop(picture: Image.Image, box: Box) -> Image.Image:
    """The surroundings of a box, with a frame around the box."""
    size = picture.size * 2
    left, top, right, bottom = (part * side for part, side in zip(box, size))
    dx, dy = SURROUNDINGS * (right - left), SURROUNDINGS * (bottom - top)
    area = (max(0, left - dx), max(0, top - dy),
            min(picture.width, right + dx), min(picture.height, bottom + dy))
    scale = CROP_SIDE / max(area[2] - area[0], area[3] - area[1])
    sides = [max(1, round(scale * side)) for side in (area[2] - area[0], area[3] - area[1])]
    crop = picture.resize(sides, Image.Resampling.BICUBIC, area)
    frame = [scale * (value - start) for value, start in
             zip((left, top, right, bottom), (area[0], area[1]) * 2)]
    ImageDraw.Draw(crop).rectangle(frame, outline=FRAME, width=2)
    return crop


def demo() -> None:
    """A toy detector: the nearest good patch to the worst patch of a picture with a spot."""
    from minilora.toy_detector import toy_detector, with_spot
    detector, good = toy_detector()
    with torch.no_grad():
        features = detector.encode(with_spot(good[:1]))
        maps, _ = detector.map_and_score(features, "adapted")
    found = nearest_good_patch(detector, features, maps[0])
    print("worst patch", *(f"{value:.2f}" for value in found.box))
    print(f"nearest good patch: picture {found.shot}, {found.quarter_turns} quarter turns, at",
          *(f"{value:.2f}" for value in found.shot_box), f"distance {found.distance:.3f}")


if __name__ == "__main__":
    demo()
