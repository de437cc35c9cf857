"""Photographs as training pictures: folders, random crops with pasted defects, held-out pictures.

Folders hold pictures of one kind of object; their names are the class names of captions.  A folder
whose name starts with BACKGROUND has no class name.  Every tenth photograph is held out: no
training step sees it.

    Crops           a few fixed crops of every photograph; a defect is pasted into half of them
    random_crop     a new crop of such a picture at every training step

Claim: fixed crops depend only on the number of the photograph, not on the seed of the training, so
they can be stored and used again.

Symbols: B pictures, R resolution, H x W pixels.
Left out: the teacher's targets (pretrain/target_cache.py).
"""
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minilora.data.decoding import read_image
from minilora.data.images import to_square
from minilora.pretrain.captions import NORMAL, PASTED, UNMENTIONED
from minilora.pretrain.teacher_targets import PATCH
from minilora.synthetic.pasting import paste_defect
from minilora.synthetic.sampling import chance, log_uniform, uniform

PHOTO_SIDE = 224                # pixels per side of a crop
EXTENSIONS = (".jpg", ".jpeg", ".png")


def find_photographs(root: str | Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """All photographs in the folders below `root`, and the class names.

    Returns [(path, index of the class name, or UNMENTIONED)], [class name].  Raises ValueError if
    there are no photographs.
    """
    folders = sorted(p for p in Path(root).glob("*") if p.is_dir())
    class_folders = [p for p in folders if not p.name.startswith("BACKGROUND")]
    class_names = [p.name.replace("_", " ").lower() for p in class_folders]
    photographs = [(path, class_folders.index(folder) if folder in class_folders else UNMENTIONED)
                   for folder in folders for path in sorted(folder.iterdir())
                   if path.suffix.lower() in EXTENSIONS]
    if not photographs:
        raise ValueError(f"{root}: expected folders of photographs named by what they show, like "
                         f"sunflower/1.jpg, found none; correct --photos or omit it")
    return photographs, class_names


def is_held_out(index: int | Tensor) -> bool | Tensor:
    """Whether the photograph with this number, in sorted order, is used for measuring only."""
    return index % 10 == 9


class Crops(Dataset):
    """Fixed crops of photographs: an item is always the same.

    photographs: from `find_photographs`;  crops: crops of each photograph.
    An item is (picture uint8 (3, R, R), mask bool (R, R), facts (4,), number of the photograph).
    A crop is flipped or rotated at random, and half of the crops get a defect.  A held-out
    photograph gives two items: its central square, first without and then with a defect.
    """

    def __init__(self, photographs: list[tuple[Path, int]], crops: int) -> None:
        self.photographs = photographs
        self.items = [(k, n) for k in range(len(photographs))
                      for n in range(2 if is_held_out(k) else crops)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        number, copy = self.items[index]
        path, class_name = self.photographs[number]
        generator = torch.Generator().manual_seed((number << 8) + copy)
        image, fixed = read_image(path), is_held_out(number)
        side = min(image.size) * (1 if fixed else log_uniform(generator, 0.5, 1))
        left, top = ((length - side) * (0.5 if fixed else uniform(generator))
                     for length in image.size)
        picture = to_square(image.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC,
                                         (left, top, left + side, top + side)), PHOTO_SIDE)
        if not fixed and chance(generator, 0.5):
            picture = picture.flip(2)
        if not fixed and chance(generator, 0.25):
            picture = torch.rot90(picture, int(torch.randint(1, 4, (), generator=generator)),
                                  (1, 2))
        damaged = copy == 1 if fixed else chance(generator, 0.5)
        mask = torch.zeros(PHOTO_SIDE, PHOTO_SIDE, dtype=torch.bool)
        if damaged:
            picture, mask = paste_defect(picture, generator)
        facts = torch.tensor([class_name, UNMENTIONED, UNMENTIONED, PASTED if damaged else NORMAL])
        return (picture * 255).round().byte(), mask, facts, number


def random_crop(picture: Tensor, mask: Tensor, generator: torch.Generator,
                size: Sequence[int] = (PHOTO_SIDE, PHOTO_SIDE), least: float = 0.6
                ) -> tuple[Tensor, Tensor]:
    """A random part of a picture and its mask, resized to `size`; half of them are mirrored.

    picture: uint8 (3, R, R);  mask: bool (R, R);  size: (H, W), the part has the same aspect ratio;
    least: smallest side of the part, as a share of the largest part that fits.
    """
    share = log_uniform(generator, least, 1) * PHOTO_SIDE / max(size)
    part = []
    for length in size:
        side = round(share * length)
        at = int(torch.randint(PHOTO_SIDE - side + 1, (), generator=generator))
        part.append(slice(at, at + side))
    picture = F.interpolate(picture[:, part[0], part[1]][None], size, mode="bilinear")[0]
    mask = F.interpolate(mask[part[0], part[1]][None, None].byte(), size, mode="nearest")[0, 0] > 0
    return (picture.flip(2), mask.flip(1)) if chance(generator, 0.5) else (picture, mask)


def coverage_of(masks: Tensor) -> Tensor:
    """The share of each patch that a mask covers.  masks: bool (B, H, W) -> (B, rows, columns)."""
    return F.avg_pool2d(masks[:, None].float(), PATCH)[:, 0]


def demo() -> None:
    """Crops of two noise photographs."""
    with tempfile.TemporaryDirectory() as folder:
        for class_name in ("sea_horse", "BACKGROUND_noise"):
            (Path(folder) / class_name).mkdir()
            noise = np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)
            Image.fromarray(noise).save(Path(folder) / class_name / "1.png")
        photographs, class_names = find_photographs(folder)
        print(f"class names {class_names}; photographs with their class: "
              f"{[(path.parent.name, class_name) for path, class_name in photographs]}")
        crops = Crops(photographs, 3)
        for k in range(3):
            picture, mask, facts, number = crops[k]
            print(f"crop {k} of photograph {number}: {tuple(picture.shape)}, defect on "
                  f"{mask.float().mean():5.1%}, facts {facts.tolist()}")
            _, part = random_crop(picture, mask, torch.Generator().manual_seed(k))
            print(f"    a random crop of this crop: defect on {part.float().mean():5.1%}, of "
                  f"{(coverage_of(part[None]) > 0).sum()} patches")


if __name__ == "__main__":
    demo()
