"""From a picture file to pixels: decoding, CLIP's preprocessing, the whole square, augmentation.

Two ways lead to the tower. Recognition does what CLIP does (Radford et al. 2021): the shorter side
is resized to R bicubically and the middle square is cut out. A defect detector must not cut
anything off: the shorter side becomes R, the longer one follows, to a whole number of patches; or,
for comparison with others, the picture is squeezed into a square. All use Pillow's filters, which
widen with the reduction (antialiasing); plain bicubic gives other pixels, and CLIP other features.

CLIP resizes first and converts to RGB afterwards. This is visible: Pillow resizes palette pictures
by nearest neighbour and weighs transparent ones by their alpha. `clip_preprocess` keeps the order.

Differs from CLIP, on purpose, twice: 16-bit grey values are scaled by 1/257 (Pillow's own
conversion clips them at 255: nearly everything turns white), and the EXIF rotation is applied.

Symbols: B images of H x W pixels, R resolution.
Leaves out: 16-bit colour (Pillow reads its high bytes), RAW.
"""
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)      # of CLIP's training pictures, red green blue
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
EXIF_ORIENTATION = 0x0112
MAX_ASPECT = 4                                     # times the shorter side; longer ones are cut
PADDING = {"reflect": "reflection", "replicate": "border"}      # ours: grid_sample's word for it


@contextmanager
def _opened(path):
    """Image.open with one kind of error, which names the file."""
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


def read_header(path):
    """(mode, (width, height)) without decoding; the size is that of the upright picture."""
    with _opened(path) as image:
        sideways = image.getexif().get(EXIF_ORIENTATION, 1) >= 5    # 5 to 8 swap the sides
        return image.mode, image.size[::-1] if sideways else image.size


def open_image(path):
    """The picture in its own mode (8 bits a channel), upright.

    Raises FileNotFoundError where there is no file, ValueError where it is no readable picture.
    """
    with _opened(path) as image:
        image.load()                            # opening reads the header only
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):              # 16-bit grey: "I;16", "I;16B", in older Pillow "I"
        return _grey16(image, path)
    if image.mode == "F":
        raise ValueError(f"picture {path} holds floating-point values of unknown range; expected "
                         "8 or 16 bits a channel; scale it and save it as PNG")
    return image


def _grey16(image, path):
    """16-bit grey to 8-bit: 0..65535 onto 0..255, rounded. 65535 = 255 * 257."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"picture {path} holds values from {low} to {high}; expected 16-bit grey, "
                         "0 to 65535; scale it and save it as PNG")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def read_image(path):
    """The picture as RGB: grey repeated, palette looked up, alpha dropped, as CLIP does it."""
    return open_image(path).convert("RGB")


def _tensor(image):
    """PIL RGB (height, width, 3) -> uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def clip_preprocess(image, resolution=224):
    """CLIP's preprocessing before normalisation. image: PIL, any mode.  Returns uint8 (3, R, R).

    Give it `open_image(path)`, not `read_image(path)`: the conversion comes last (see above).
    """
    width, height = image.size
    short = min(width, height)
    if short != resolution:                     # long side rounded down, as torchvision does
        size = (int(resolution * width / short), int(resolution * height / short))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - resolution) / 2)
    top = round((image.height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    return _tensor(image.convert("RGB"))        # (3, R, R)


def to_square(image, resolution):
    """The whole picture as a square. image: PIL, any mode.  Returns float32 (3, R, R) in [0, 1]."""
    size = (resolution, resolution)
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float() / 255


def to_patches(image, resolution, patch):
    """The whole picture in its aspect. image: PIL, any mode.  Returns float32 (3, H, W) in [0, 1].

    The shorter side becomes `resolution`, the longer follows; both are rounded to whole patches.
    """
    scale = resolution / min(image.size)
    size = [max(1, round(side * scale / patch)) * patch for side in image.size]
    return _tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).float() / 255


def strip_bounds(size, patch):
    """How a long picture is cut, so that no strip is longer than LONGEST times its shorter side.

    size: (H, W) pixels, whole patches.  Returns [(first pixel, last, first patch to keep, last)] of
    each strip along the longer side; ends are exclusive, patches count within the strip.  Strips
    overlap by half of the shorter side or more, and a patch is kept where it lies farther inside.
    """
    short, long = (side // patch for side in sorted(size))
    length, overlap = min(long, MAX_ASPECT * short), (short + 1) // 2
    count = 1 + math.ceil((long - length) / (length - overlap))
    starts = [round(k * (long - length) / max(1, count - 1)) for k in range(count)]
    seams = [0, *((a + length + b) // 2 for a, b in zip(starts, starts[1:])), long]
    return [(start * patch, (start + length) * patch, low - start, high - start)
            for start, low, high in zip(starts, seams, seams[1:])]


def cut_strips(pixels, patch):
    """(..., H, W) -> its strips, each (..., H, W) of its own; a picture of usual aspect is one."""
    axis = -2 if pixels.shape[-2] > pixels.shape[-1] else -1
    return [pixels.narrow(axis, first, last - first)
            for first, last, _, _ in strip_bounds(pixels.shape[-2:], patch)]


def load_squares(paths, resolution):
    """Whole pictures squeezed into squares: (N, 3, R, R) in [0, 1]."""
    return torch.stack([to_square(read_image(path), resolution) for path in paths])


def normalise(pixels):
    """(..., 3, R, R), float in [0, 1] or uint8, to what the tower expects: (x - MEAN) / STD."""
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def read_mask(path, resolution, size=None):
    """A defect mask, bool (H, W): true where at least half of the pixel's area is marked.

    The file is grey or black and white, marked pixels 255 (or small numbers, as in VisA).
    resolution: (H, W), or a side of both.  size: (width, height) of the picture it belongs to;
    another size raises ValueError, for then it marks the wrong place.
    """
    if path is None:
        raise ValueError("this defective picture has no mask, but pixels were asked for; put it at "
                         "ground_truth/<kind>/<stem>_mask.png")
    image = open_image(path)
    if size is not None and image.size != tuple(size):
        raise ValueError(f"mask {path} is {image.width}x{image.height}, its picture "
                         f"{size[0]}x{size[1]}; expected the same size; export the mask again")
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    values = np.asarray(image.convert("L"))
    marked = (values > (127 if values.max() > 127 else 0)).astype(np.uint8) * 255
    share = Image.fromarray(marked).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(share)) >= 128                         # (H, W)


def _uniform(generator, count, limit):
    """count numbers from [-limit, limit]."""
    return (2 * torch.rand(count, generator=generator, device=generator.device) - 1) * limit


def augment(pixels, generator, rotations=True, flips=True, angle=5.0, shift=0.02, padding="reflect",
            brightness=0.1, contrast=0.1, gamma=0.1):
    """Each picture of a batch turned, moved and lit a little differently: still a good picture.

    pixels: (B, 3, H, W) in [0, 1].  rotations: by 0, 90, 180 or 270 degrees, 0 or 180 where H is not W;
    flips: left-right (both are exact); angle: at most so many degrees more; shift: at most this
    share of the sides; padding: what comes in from outside, "reflect" or "replicate"; brightness is
    added, contrast multiplies the distance from the picture's mean, gamma is an exponent e^u. 0 or
    False leaves a step out.
    Returns (B, 3, H, W) in [0, 1]. The same generator state gives the same pictures.
    """
    if pixels.ndim != 4:
        raise ValueError(f"augment takes a batch (B, 3, H, W), found shape {tuple(pixels.shape)}; "
                         "add the batch dimension by pixels[None]")
    if padding not in PADDING:
        raise ValueError(f"unknown padding {padding!r}; expected one of {', '.join(PADDING)}")
    count, step = len(pixels), 1 if pixels.shape[-1] == pixels.shape[-2] else 2
    if not count:
        return pixels.clone()
    dice = torch.randint(8, (count,), generator=generator, device=generator.device).tolist()
    pixels = torch.stack([_turn(x, step * (d % 4) if rotations else 0, flips and d >= 4)
                          for x, d in zip(pixels, dice)])
    if angle or shift:
        pixels = _move(pixels, _uniform(generator, count, math.radians(angle)),
                       _uniform(generator, (count, 2), shift), PADDING[padding])
    light, spread, power = (_uniform(generator, (count, 1, 1, 1), limit).to(pixels.device)
                            for limit in (brightness, contrast, gamma))
    mean = pixels.mean((1, 2, 3), keepdim=True)                             # (B, 1, 1, 1)
    pixels = (pixels * (1 + spread) + (light - mean * spread)).clamp(0, 1)
    return pixels ** power.exp()


def _turn(picture, quarters, flip):
    """The symmetries of the frame: pixels change places, never values."""
    picture = torch.rot90(picture, quarters, (1, 2))
    return picture.flip(2) if flip else picture


def _move(pixels, angle, shift, padding):
    """Rotation by angle (B,) in radians and shift (B, 2) as a share of the sides, bilinear."""
    cos, sin, aspect = angle.cos(), angle.sin(), pixels.shape[-2] / pixels.shape[-1]
    theta = torch.stack([cos, -sin * aspect, 2 * shift[:, 0],
                         sin / aspect, cos, 2 * shift[:, 1]], 1)                        # (B, 6)
    theta = theta.view(-1, 2, 3).to(pixels)     # output place -> input place, both in [-1, 1]
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)              # (B, H, W, 2)
    return F.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)


def demo():
    """The order of resizing and converting is visible, and 16 bits need scaling."""
    half = Image.new("LA", (448, 448), (255, 0))            # white, invisible ...
    half.paste((40, 255), (0, 0, 224, 448))                 # ... beside dark grey, opaque
    late, early = clip_preprocess(half), clip_preprocess(half.convert("RGB"))
    print("grey levels across the edge, resized then converted:", late[0, 0, 109:115].tolist())
    print("                             converted then resized:", early[0, 0, 109:115].tolist())
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    print("16-bit 0, 257, 32896, 65535 become", np.asarray(_grey16(deep, "deep"))[0].tolist())
    wide = Image.new("RGB", (300, 100))
    print(f"300x100: recognition sees {100 / 300:.0%} of it,", end=" ")
    print(f"the detector all of it as {tuple(to_square(wide, 224).shape)}")
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    again = [augment(batch, torch.Generator().manual_seed(1)) for _ in range(2)]
    print("augmented twice from one seed, equal:", torch.equal(*again))


if __name__ == "__main__":
    demo()
