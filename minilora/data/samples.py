"""Read the pictures and the masks of samples, ready for a detector.

Claim: a data set is a list of paths (data/mvtec.py) until here; only what is used is decoded.

Symbols: N samples, H x W pixels.
Left out: how a file becomes pixels (data/images.py), and scoring (runs/evaluation.py).
"""
from collections.abc import Callable, Iterable

import torch
from PIL import Image
from torch import Tensor

from minilora.data.images import read_image, read_mask
from minilora.data.mvtec import Sample


def prepare_pictures(samples: list[Sample],
                     prepare: Callable[[Image.Image], Tensor]) -> list[Tensor]:
    """N of (3, H, W) in [0, 1].  prepare: method of a `Detector`."""
    return [prepare(read_image(s.path)) for s in samples]


def load_masks(samples: list[Sample], sizes: Iterable[tuple[int, int]]) -> list[Tensor] | None:
    """N of (H, W) bool; good pictures get empty masks.  None if a defective picture has no mask.

    sizes: (H, W) of each picture.
    """
    if any(s.label != 0 and s.mask_path is None for s in samples):
        return None
    return [read_mask(s.mask_path, size) if s.label else torch.zeros(*size, dtype=torch.bool)
            for s, size in zip(samples, sizes)]


def demo() -> None:
    """A good picture and a defective one with its mask; then the defective one without it."""
    import tempfile
    from pathlib import Path

    from minilora.data.images import to_square
    with tempfile.TemporaryDirectory() as folder:
        good, defective, mask = (Path(folder) / name for name in ("a.png", "b.png", "mask.png"))
        for path, grey in ((good, 200), (defective, 120)):
            Image.new("RGB", (48, 32), (grey, grey, grey)).save(path)
        marked = Image.new("L", (48, 32))
        marked.paste(255, (8, 8, 24, 16))
        marked.save(mask)
        samples = [Sample(good, "good", 0), Sample(defective, "spot", 1, mask)]
        pictures = prepare_pictures(samples, lambda image: to_square(image, 32))
        masks = load_masks(samples, [(32, 32)] * 2)
        for sample, picture, pixels in zip(samples, pictures, masks):
            print(f"{sample.kind:5s} picture {tuple(picture.shape)}, mask {pixels.sum()} pixels")
        print("without its mask:", load_masks([Sample(defective, "spot", 1)], [(32, 32)]))


if __name__ == "__main__":
    demo()
