"""Mask files: which one belongs to a picture, how it lies on it, and its marks at any size.

    pairs    a mask has the picture's stem with or without `_mask`, and any picture suffix, in any
             case: 000_mask.png, 000.bmp, 000_MASK.TIF; or it is a folder of several masks (MVTec
             LOCO: <stem>/000.png, 001.png), whose marks are united
    turned   cameras store a picture on its side with an EXIF orientation tag.  It is read upright,
             but its mask may have been drawn on either form.  A mask with a tag of its own follows
             that tag.  Otherwise the sizes tell whether the mask must be turned; if they do not (a
             square picture, a half turn), the mask is refused

Claim: a mask that is read wrongly gives a wrong metric and no error; so what cannot be known is
refused by name, with the remedy.

Symbols: H x W pixels.  Left out: what is marked in a file (data/mask_rules.py).
"""
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from minilora.data.decoding import check_scans, exif_orientation, opened_picture
from minilora.data.listing import is_picture_name, pictures_directly_in
from minilora.data.mask_rules import Marks, MaskError, marks_of
from minilora.io.text import shown_path

MASK_ENDING = "_mask"
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "JPEG2000")
REMEDY = "save it as a PNG with 0 and 255 only"
# What Pillow does to turn a picture with this EXIF orientation upright
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


# ---- pairs --------------------------------------------------------------------------------------

def find_masks(folder: Path, pictures: Iterable[Path]) -> dict[Path, Path | None]:
    """{picture: its mask in this folder, or None}.

    The name `<stem>_mask.png` goes before all others, and a name in the picture's own case before
    one in another case.  Raises ValueError if several masks are left.
    """
    found, pictures = {}, list(pictures)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_folder = path.is_dir() and bool(pictures_directly_in(path))
        if not path.name.startswith(".") and (is_folder or is_picture_name(path)):
            found.setdefault(path.name if is_folder else path.stem, []).append(path)
    names = {picture: (f"{picture.stem}{MASK_ENDING}", picture.stem) for picture in pictures}
    exact, any_case = {name for pair in names.values() for name in pair}, {}
    for name in found:
        if name not in exact:
            any_case.setdefault(name.casefold(), []).extend(found[name])
    return {picture: choose_mask(picture, [
        mask for name in names[picture]
        for mask in found.get(name) or any_case.get(name.casefold(), [])]) for picture in pictures}


def choose_mask(picture: Path, masks: list[Path]) -> Path | None:
    """The mask of a picture among those whose name fits; None without any."""
    usual = [mask for mask in masks if mask.name == f"{picture.stem}{MASK_ENDING}.png"]
    masks = usual or [mask for mask in masks if mask.is_dir() or mask.is_file()]
    if len(masks) > 1:
        raise ValueError(f"{shown_path(picture)} has {len(masks)} masks, "
                         f"{', '.join(shown_path(mask.name) for mask in masks[:3])} in "
                         f"{shown_path(masks[0].parent)}; expected one; remove the others")
    return masks[0] if masks else None


def mask_files(mask: Path | None) -> list[Path]:
    """The files of a mask: itself, those of its folder, or none."""
    return [] if mask is None else pictures_directly_in(mask) if mask.is_dir() else [mask]


# ---- orientation --------------------------------------------------------------------------------

def mask_turn(mask: Path, picture: Path) -> int:
    """The EXIF orientation by which the marks of a mask must be turned; 1: not at all.

    Raises ValueError if the sizes differ, or if nothing tells which form the mask belongs to.
    """
    with opened_picture(picture) as image:
        orientation, stored = exif_orientation(image) or 1, image.size
    with opened_picture(mask) as image:
        own_tag, size = exif_orientation(image), image.size
    size = size[::-1] if (own_tag or 1) >= 5 else size      # 5 to 8 swap the sides
    upright = stored[::-1] if orientation >= 5 else stored
    if size == upright and (orientation == 1 or own_tag or upright != stored):
        return 1
    if size == stored and upright != stored and not own_tag:
        return orientation
    if size != upright:
        raise ValueError(f"mask {shown_path(mask)} is {size[0]}x{size[1]}, its picture "
                         f"{shown_path(picture)} {upright[0]}x{upright[1]}; expected the same size;"
                         " export the mask again")
    raise ValueError(f"picture {shown_path(picture)} is stored turned (EXIF orientation "
                     f"{orientation}), and nothing tells whether its mask {shown_path(mask)} is "
                     "turned, too; save the picture upright without this note, and the mask as it "
                     "lies on it")


# ---- marks --------------------------------------------------------------------------------------

def decode_mask(path: str | Path, picture: Path | None = None) -> Marks:
    """The marks of a mask in its own size, bool (H, W), and the rule by which they were read.

    path: a file, or a folder with several masks.  picture: the picture on which the mask lies, to
    turn it as `mask_turn` says.  Raises ValueError or OSError that names the file.
    """
    files = mask_files(Path(path))
    if not files:
        raise ValueError(f"mask {shown_path(path)} is a folder without masks; put them there")
    parts = [decode_mask_file(file, picture) for file in files]
    if len({part.marked.shape for part in parts}) > 1:
        raise ValueError(f"the masks in {shown_path(path)} differ in size; expected one size; "
                         "export them again")
    if len(parts) == 1:
        return parts[0]
    return Marks(np.any([part.marked for part in parts], axis=0), "several files")


def decode_mask_file(path: Path, picture: Path | None = None) -> Marks:
    """`decode_mask` for one file."""
    turn = 1 if picture is None else mask_turn(path, picture)
    with opened_picture(path) as image:
        several = getattr(image, "is_animated", False)
        lossy = image.format in LOSSY_FORMATS or image.info.get("compression") == "jpeg"
        check_scans(image, shown_path(path))
        image.load()
        image = ImageOps.exif_transpose(image)
    if several:
        raise ValueError(f"mask {shown_path(path)} has several pages; expected one; {REMEDY}")
    try:
        marks = marks_of(image, lossy)
    except MaskError as error:
        raise ValueError(f"mask {shown_path(path)} cannot be read without guessing: {error}; "
                         f"{REMEDY}") from error
    if turn == 1:
        return marks
    return marks._replace(marked=np.asarray(Image.fromarray(marks.marked).transpose(TURNS[turn])))


def resized_marks(marked: np.ndarray, height: int, width: int) -> Tensor:
    """Bool (height, width): true where at least half of the pixel's area is marked."""
    share = Image.fromarray(marked.astype(np.uint8) * 255).resize((width, height),
                                                                  Image.Resampling.BOX)
    return torch.from_numpy(np.array(share)) >= 128


def read_mask(path: str | Path | None, resolution: int | tuple[int, int],
              size: tuple[int, int] | None = None) -> Tensor:
    """A defect mask, bool (H, W): true where at least half of the pixel's area is marked.

    The rules of data/mask_rules.py tell what is marked.
    resolution: (H, W), or one number for both.  size: (width, height) of the picture that the mask
    belongs to.  Raises ValueError if the mask has another size, since it would mark the wrong
    place, and if path is None.
    """
    if path is None:
        raise ValueError("this defective picture has no mask, but pixel metrics need one; save it "
                         "as ground_truth/<kind>/<stem>_mask.png")
    marked = decode_mask(path).marked
    height, width = marked.shape
    if size is not None and (width, height) != tuple(size):
        raise ValueError(f"mask {shown_path(path)} is {width}x{height}, its picture "
                         f"{size[0]}x{size[1]}; expected the same size; export the mask again")
    return resized_marks(marked, *((resolution, resolution) if isinstance(resolution, int)
                                   else resolution))


def demo() -> None:
    """A mask with another name and suffix, on a picture that a camera stored on its side."""
    import tempfile
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 20)).save(folder / "000.jpg", exif=exif)
        (folder / "masks").mkdir()
        mask = np.zeros((20, 40), np.uint8)
        mask[:10, :10] = 255
        Image.fromarray(mask).save(folder / "masks" / "000.BMP", "BMP")
        picture, mask_file = folder / "000.jpg", folder / "masks" / "000.BMP"
        print("pairs:", {a.name: b and b.name for a, b in find_masks(
            folder / "masks", [picture, folder / "001.jpg"]).items()})
        marks = decode_mask(mask_file, picture)
        print(f"{marks.rule}; turned by EXIF orientation {mask_turn(mask_file, picture)} to "
              f"{marks.marked.shape}; marked from row, column "
              f"{' to '.join(str(p.tolist()) for p in np.argwhere(marks.marked)[[0, -1]])}")
        print("as 4x2 pixels:", read_mask(mask_file, (2, 4)).int().tolist())


if __name__ == "__main__":
    demo()
