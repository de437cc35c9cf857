"""What a detector does around its method: it reads pictures, prepares them, returns a table.

    detector.predict("new pictures")  ->  Predictions: names, scores, decisions, maps

Claim: after scoring a folder, a user first wants to see which pictures are NG.  So the result is
printed as a table; its columns can be used for further computing.

Symbols: B, N pictures of H x W pixels.
Left out: how a picture is scored (detector.py), what may be given as a picture
(data/given_pictures.py), files and pages of a prediction (the command `predict`).
"""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.data.decoding import read_image
from minilora.data.given_pictures import (Given, check_detector_pixels, named_pictures,
                                          prepared)
from minilora.data.images import to_patches, to_square
from minilora.io.text import shown
from minilora.lora import lora_layers

SHOWN_ROWS, SHOWN_NAME = 40, 200        # of a printed table; characters of a name


class PredictedPicture(NamedTuple):
    """One row of `Predictions`."""
    name: str                           # path of the file, or "picture 1"
    score: float                        # higher: more anomalous
    decision: str                       # "OK", or "NG" (not good) above the threshold
    map: Tensor                         # (H, W), the anomaly of each pixel


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scored pictures: a column each for names, scores, decisions and maps, and a row per picture.

    names: N paths, or "picture 1", ...;  scores: (N,);  decisions: N of "OK" and "NG", which is a
    score above `threshold`;  maps: N of (H, W).
    """
    names: list[str]
    scores: Tensor
    maps: list[Tensor]
    threshold: float

    @property
    def decisions(self) -> list[str]:
        """For each score above the threshold "NG", else "OK"."""
        return [self.decide(score) for score in self.scores.tolist()]

    def decide(self, score: float) -> str:
        """The decision about one score."""
        return "NG" if score > self.threshold else "OK"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> PredictedPicture:
        score = self.scores[number].item()
        return PredictedPicture(self.names[number], score, self.decide(score), self.maps[number])

    def __iter__(self) -> Iterator[PredictedPicture]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        lines = [f"{decision:8} {score:7.3f}  {shown(name, SHOWN_NAME)}" for name, score, decision
                 in zip(self.names[:SHOWN_ROWS], self.scores.tolist(), self.decisions)]
        more = [f"... and {len(self) - SHOWN_ROWS} more"] * (len(self) > SHOWN_ROWS)
        head = f"decision   score  picture ({self.decisions.count('NG')} of {len(self)} NG, "
        return "\n".join([f"{head}threshold {self.threshold:.3f})", *lines, *more])


class DetectorBase:
    """The part of `Detector` that takes paths, PIL pictures, arrays and tensors: `predict`."""

    clip: CLIP
    class_name: str
    config: DetectorConfig
    resolution: int                     # of the shorter side, in pixels
    threshold: float | None             # None before `fit`

    def __repr__(self) -> str:
        size, layers = sum(p.numel() for p in self.clip.parameters()), lora_layers(self.clip.visual)
        ranks = ", ".join(map(str, sorted({layer.rank for layer in layers.values()})))
        state = "not fitted" if self.threshold is None else f"threshold {self.threshold:.3f}"
        return (f"Detector({self.class_name!r}, {size / 1e6:.1f} M parameters, resolution "
                f"{self.resolution}, {len(layers)} LoRA layers of rank {ranks}, {state})")

    def read(self, path: str | Path) -> Image.Image:
        """The picture of a file, PIL RGB, with the bits of the fit; errors as in `read_image`."""
        return read_image(path, self.config.bits)

    def prepare(self, image: Image.Image) -> Tensor:
        """PIL image -> (3, H, W) in [0, 1] at this detector's resolution."""
        return (to_square(image, self.resolution) if self.config.square
                else to_patches(image, self.resolution, self.clip.visual.patch))

    def check(self, pixels: Tensor, name: str = "pixels") -> None:
        """Raises ValueError unless pixels (B, 3, H, W) are as `prepare` makes them."""
        check_detector_pixels(pixels, name, self.resolution, self.clip.visual.patch,
                              self.config.square)

    def given(self, pictures: Given) -> Iterator[tuple[str, Tensor]]:
        """(name, pixels (3, H, W)) of each picture that `fit` or `predict` got; all are checked
        before the first one."""
        return prepared(named_pictures(pictures, self.check, self.config.bits), self.read,
                        self.prepare)

    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, H, W) and scores (B,) of pixels (B, 3, H, W)."""
        raise NotImplementedError("DetectorBase cannot score; use Detector")

    def predict(self, pictures: Given) -> Predictions:
        """Names, scores, decisions and maps of new pictures.

        pictures: as for `fit`.  They are scored one by one, as the command `predict` does.
        Raises ValueError before `fit`, and ValueError, TypeError or OSError for what is no picture.
        """
        if self.threshold is None:
            raise ValueError("predict: expected a fitted detector, found one without good "
                             "pictures; call fit(good_pictures), or Detector.open(run_folder)")
        names, maps, scores = [], [], []
        for name, pixels in self.given(pictures):
            found, score = self.score(pixels[None])                 # (1, H, W), (1,)
            names.append(name)
            maps.append(found[0])
            scores.append(score)
        return Predictions(names, torch.cat(scores), maps, self.threshold)


def demo() -> None:
    """Three scored pictures."""
    predictions = Predictions(["a.png", "b.png", "c.png"], torch.tensor([0.8, 1.9, 1.1]),
                              3 * [torch.zeros(8, 8)], threshold=1.25)
    print(predictions)
    print("NG:", *(row.name for row in predictions if row.decision == "NG"))


if __name__ == "__main__":
    demo()
