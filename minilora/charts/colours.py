"""Colours of heat maps: from dark blue over green to yellow.

Claim: the brightness grows with the value all along the scale, so the order is also seen in a grey
copy, and by readers who do not tell red from green.
Left out: other colour scales.
"""
from typing import Any

import numpy as np

HEAT_STOPS = ((13, 8, 90), (33, 110, 160), (60, 180, 110), (245, 220, 60), (255, 250, 210))  # RGB


def heat_colours(values: Any) -> np.ndarray:
    """Colours of numbers in [0, 1]; others are clamped.  (H, W) -> uint8 (H, W, 3)."""
    position = np.clip(np.asarray(values, np.float32), 0, 1) * (len(HEAT_STOPS) - 1)
    low = np.minimum(position.astype(np.int64), len(HEAT_STOPS) - 2)
    stops, share = np.asarray(HEAT_STOPS, np.float32), (position - low)[..., None]
    return np.rint(stops[low] * (1 - share) + stops[low + 1] * share).astype(np.uint8)


def demo() -> None:
    """The scale in five steps, with the brightness of each (Rec. 601)."""
    for value, colour in zip((0, 0.25, 0.5, 0.75, 1), heat_colours([[0, 0.25, 0.5, 0.75, 1]])[0]):
        print(f"{value:.2f}  RGB {tuple(colour.tolist())}, "
              f"brightness {colour @ np.array([0.299, 0.587, 0.114]):.0f}")


if __name__ == "__main__":
    demo()
