"""Read the pictures and the masks of samples, ready for a detector, and say how masks were read.

Claim: a data set is a list of paths (data/mvtec.py) until here; only what is used is decoded.
A defective picture without a mask, or with one that is black everywhere, is left out of the pixel
metrics: counted as all good it would make them wrong without a word.

Symbols: N samples, H x W pixels.
Left out: how a file becomes pixels (data/decoding.py, data/images.py) or marks (data/masks.py),
and scoring (runs/evaluation.py).
"""
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minilora.data.decoding import read_image
from minilora.data.masks import decode_mask, resized_marks
from minilora.data.mvtec import Sample
from minilora.io.text import shown


def prepare_pictures(samples: list[Sample], prepare: Callable[[Image.Image], Tensor],
                     read: Callable[[Path], Image.Image] = read_image) -> list[Tensor]:
    """N tensors (3, H, W) in [0, 1].  prepare, read: methods of a `Detector`."""
    return [prepare(read(s.path)) for s in samples]


def load_masks(samples: list[Sample],
               sizes: Iterable[tuple[int, int]]) -> list[Tensor | None] | None:
    """N masks, bool (H, W); good pictures get empty ones.

    The mask of a defective picture is None if it is missing or marks no pixel.  If that is so for
    all defective pictures, None is returned in place of the list.
    sizes: (H, W) of each picture.  Raises ValueError for a mask that cannot be read.
    """
    masks = [load_mask(s, size) if s.label != 0 else torch.zeros(*size, dtype=torch.bool)
             for s, size in zip(samples, sizes)]
    defective = [mask for s, mask in zip(samples, masks) if s.label != 0]
    return None if defective and all(mask is None for mask in defective) else masks


def load_mask(sample: Sample, size: tuple[int, int]) -> Tensor | None:
    """The mask of a defective picture, bool `size`; None if it is missing or marks no pixel."""
    if sample.mask_path is None:
        return None
    marked = decode_mask(sample.mask_path, sample.path).marked
    return resized_marks(marked, *size) if marked.any() else None


def mask_summary(samples: Iterable[Sample],
                 faults: list[str] | None = None) -> dict[str, Any] | None:
    """How the masks of the defective pictures are read; None without a defective picture.

    {"defective": n, "read": n, "rules": {rule: n}, "missing": [name, …], "empty": […],
    "more_than_half": […]}.  All masks are decoded, so a mask that cannot be read raises its
    ValueError or OSError before any work.  faults: a list to which the message is added instead.
    """
    rules, names = Counter(), {"missing": [], "empty": [], "more_than_half": []}
    defective = [s for s in samples if s.label]
    for sample in defective:
        fault = "missing"
        if sample.mask_path is not None:
            try:
                marked, rule = decode_mask(sample.mask_path, sample.path)
            except (OSError, ValueError) as error:
                if faults is None:
                    raise
                faults.append(str(error))
                continue
            share = marked.mean()
            rules[rule] += bool(share)
            fault = "empty" if not share else "more_than_half" if share > 0.5 else None
        if fault:
            names[fault].append(shown(f"{sample.kind}/{sample.path.name}"))
    rules = {rule: count for rule, count in rules.most_common() if count}
    return {"defective": len(defective), "read": sum(rules.values()), "rules": rules,
            **names} if defective else None


def mask_line(summary: dict[str, Any]) -> str:
    """A `mask_summary` in one line: "2 of 3 (two values 2); 1 missing: dent/003.png"."""
    rules = ", ".join(f"{rule} {count}" for rule, count in summary["rules"].items())
    parts = [f"{summary['read']} of {summary['defective']}" + (f" ({rules})" if rules else "")]
    for key, words in (("missing", "missing"), ("empty", "empty"),
                       ("more_than_half", "with more than half marked (inverted?)")):
        names = summary[key]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"{len(names)} {words}: {names[0]}{more}")
    if summary["missing"] or summary["empty"]:
        parts.append("pixel metrics leave the missing and empty ones out" if summary["read"]
                     else "so no pixel metrics")
    return "; ".join(parts)


def skipped_line(skipped: list[tuple[Path, str]]) -> str:
    """What was not looked at, in one line; the first three are named."""
    named = ", ".join(f"{shown(path)} ({reason})" for path, reason in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"{len(skipped)} not looked at: {named}{more}"


def demo() -> None:
    """A good picture, two defective ones with a mask and one without; the second mask is black."""
    import tempfile

    from minilora.data.images import to_square
    with tempfile.TemporaryDirectory() as folder:
        names = ("good", "spot", "dent", "scratch")
        for name in names:
            Image.new("RGB", (48, 32), (120, 120, 120)).save(Path(folder) / f"{name}.png")
        mask = Image.new("L", (48, 32))
        mask.save(Path(folder) / "dent_mask.png")
        mask.paste(255, (8, 8, 24, 16))
        mask.save(Path(folder) / "spot_mask.png")
        samples = [Sample(Path(folder) / f"{name}.png", name, int(name != "good"),
                          Path(folder) / f"{name}_mask.png" if name in names[1:3] else None)
                   for name in names]
        pictures = prepare_pictures(samples, lambda image: to_square(image, 32))
        masks = load_masks(samples, [(32, 32)] * 4)
        for sample, picture, mask in zip(samples, pictures, masks):
            print(f"{sample.kind:8s} picture {tuple(picture.shape)}, "
                  + ("no mask" if mask is None else f"mask of {mask.sum()} pixels"))
        print("masks", mask_line(mask_summary(samples)))


if __name__ == "__main__":
    demo()
