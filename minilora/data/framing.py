"""How a picture is framed: aspect, size of the object, brightness, background, sharpness.

Claim: a good product that is photographed from further away, or in other light, gets a high score,
because its patches look unlike those of the good pictures.  These simple measures tell the user so.

    aspect       width / height
    object_size  square root of the object's share of the picture; 1 without a plain background
    brightness   mean of the object's pixels, in [0, 1]
    background   brightness of the median colour of the border, in [0, 1]
    sharpness    steps between neighbouring pixels / the same steps after a blur; 1: all is blurred

    Crété et al. 2007, "The blur effect": compare a picture with itself after a blur.

A measure is unusual if its logarithm lies outside the prediction interval of the shots (the rule of
the threshold, anomaly_map.py), and further from their mean than a floor.  So a product whose good
pictures vary in light gets no remark about light.
Symbols: H x W pixels, K shots.
Left out: where the object is, its rotation; whether the product is good (detector.py).
"""
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from minilora.anomaly_map import gaussian_blur, student_quantile

# {measure: (floor of a deviation, as a logarithm; added to the value, so that black has one)}
FRAMING_LIMITS = {"aspect": (0.08, 0.0), "object_size": (0.08, 0.0), "brightness": (0.16, 0.05),
                  "background": (0.16, 0.05), "sharpness": (0.25, 0.0)}
TAIL = 0.001                            # of pictures like the shots, on each side of each measure
MIN_SHOTS = 4                           # with fewer, their spread says too little
ASPECTS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 10), (16, 9), (2, 1))


# ---- measure ------------------------------------------------------------------------------------

def measure_framing(pixels: Tensor) -> dict[str, float]:
    """{measure: value} of a picture (3, H, W) in [0, 1]."""
    pixels = pixels.float()
    grey, smooth = pixels.mean(0), gaussian_blur(pixels, 1.0)               # (H, W), (3, H, W)
    border = torch.cat([smooth[:, 0], smooth[:, -1], smooth[:, :, 0], smooth[:, :, -1]], 1)
    background = border.median(1).values                                    # (3,)
    inside = object_mask(smooth, border, background)
    return {"aspect": pixels.shape[2] / pixels.shape[1],
            "object_size": inside.float().mean().sqrt().item(),
            "brightness": grey[inside].mean().item(), "background": background.mean().item(),
            "sharpness": mean_step(grey) / mean_step(gaussian_blur(grey[None], 1.5)[0])}


def object_mask(smooth: Tensor, border: Tensor, background: Tensor) -> Tensor:
    """Pixels (H, W) that differ from the background; all, if the background is not plain.

    smooth: (3, H, W);  border: its pixels at the border (3, N);  background: (3,).
    It is plain if few pixels lie near the limit between object and background, in comparison with
    the object, and if most of the border is background.
    """
    def distance(colours):
        return (colours.flatten(1) - background[:, None]).abs().amax(0)
    limit = 3 * distance(border).median() + 0.05
    distances = distance(smooth)
    inside = distances > limit
    near = (distances > limit / 1.5) & (distances < 1.5 * limit)
    at_border = (distance(border) > limit).float().mean()
    plain = inside.float().mean() > 0.02 and near.sum() < 0.6 * inside.sum() and at_border < 0.4
    return (inside if plain else torch.ones_like(inside)).view(smooth.shape[1:])


def mean_step(grey: Tensor) -> float:
    """Mean difference between neighbouring pixels of (H, W); of an even picture 1e-4."""
    return max(1e-4, (grey.diff(dim=0).abs().mean() + grey.diff(dim=1).abs().mean()).item() / 2)


def measure_all(pictures: Iterable[Tensor]) -> dict[str, list[float]]:
    """{measure: its value in each picture} of pictures (3, H, W)."""
    measured = [measure_framing(picture.cpu()) for picture in pictures]
    return {name: [m[name] for m in measured] for name in FRAMING_LIMITS}


# ---- compare ------------------------------------------------------------------------------------

def framing_remarks(measures: Mapping[str, float],
                    shot_measures: Mapping[str, Sequence[float]]) -> list[str]:
    """How a picture is framed differently from the shots, in words: ["object 13 % smaller"].

    measures: of `measure_framing`;  shot_measures: {measure: its value in each of the K shots}.
    Without MIN_SHOTS shots there is nothing to compare with.
    """
    off = {name: deviation(name, measures[name], shot_measures.get(name, ()))
           for name in FRAMING_LIMITS}
    other_background = off["background"] and off["background"] * off["brightness"] <= 0
    if other_background:                # size and brightness of the object are seen against it
        off["object_size"] = off["brightness"] = 0.0
    remarks = []
    if off["aspect"]:
        usual = statistics.median(shot_measures["aspect"])
        remarks.append(f"aspect {aspect_text(measures['aspect'])} instead of {aspect_text(usual)}")
    if off["object_size"]:
        remarks.append(f"object {change_text(off['object_size'], 'larger', 'smaller')}")
    if off["brightness"]:
        remarks.append(change_text(off["brightness"], "brighter", "darker"))
    if other_background:
        remarks.append(f"background {change_text(off['background'], 'brighter', 'darker')}")
    if off["sharpness"]:
        remarks.append("sharper" if off["sharpness"] > 0 else "blurred")
    return remarks


def deviation(name: str, value: float, shots: Sequence[float]) -> float:
    """Logarithm of value / (geometric mean of the shots), or 0 if this is not unusual.

    Of "object_size" a 1 says that there is no object: it is compared only with one in every shot.
    """
    if len(shots) < MIN_SHOTS or name == "object_size" and 1.0 in (value, *shots):
        return 0.0
    floor, offset = FRAMING_LIMITS[name]

    def logs(added):
        return [math.log(max(v + added, 1e-3)) for v in (value, *shots)]
    own, *others = logs(offset)
    t = student_quantile(TAIL, len(shots) - 1).item()
    limit = max(floor, t * statistics.stdev(others) * math.sqrt(1 + 1 / len(shots)))
    unusual = abs(own - statistics.fmean(others)) > limit
    own, *others = logs(0.0)
    return own - statistics.fmean(others) if unusual else 0.0


def change_text(logarithm: float, more: str, less: str) -> str:
    """ "13 % smaller", from the logarithm of a ratio."""
    percent = 100 * math.expm1(min(logarithm, 10.0))
    return f"{abs(percent):.0f} % {more if percent > 0 else less}"


def aspect_text(aspect: float) -> str:
    """Width to height as a usual pair of whole numbers, if one is within 4 %."""
    aspect = max(aspect, 1e-3)          # as in `deviation`; a file may hold any number
    ratio = max(aspect, 1 / aspect)
    long, short = min(ASPECTS, key=lambda pair: abs(math.log(ratio * pair[1] / pair[0])))
    if abs(math.log(ratio * short / long)) > 0.04:
        return f"{aspect:.2f}:1" if aspect >= 1 else f"1:{1 / aspect:.2f}"
    return f"{long}:{short}" if aspect >= 1 else f"{short}:{long}"


def demo() -> None:
    """A square object; then from further away, in less light, blurred, in a wide picture."""
    generator = torch.Generator().manual_seed(0)

    def picture(side, light=1.0, width=64):
        pixels = torch.full((3, 64, width), 0.8)
        top, left = 32 - side // 2, width // 2 - side // 2
        pixels[:, top:top + side, left:left + side] = 0.3
        noise = 0.01 * torch.randn(3, 64, width, generator=generator)
        return (light * pixels + noise).clamp(0, 1)
    shots = measure_all([picture(36) for _ in range(8)])
    for name, other in (("as the shots", picture(36)), ("further away", picture(31)),
                        ("less light", picture(36, 0.8)), ("wide", picture(36, width=96)),
                        ("blurred", gaussian_blur(picture(36), 1.0))):
        print(f"{name:13s} {'; '.join(framing_remarks(measure_framing(other), shots)) or '-'}")


if __name__ == "__main__":
    demo()
