"""One ONNX file from pixels to map, score and decision: a detector for programs without torch.

    input    pixels  float32 (B, 3, H, W)   RGB in [0, 1]: the whole picture, resized to W x H
                                            (Pillow, bicubic), divided by 255
    outputs  map     float32 (B, H, W)      the anomaly map
             score   float32 (B,)
             is_ng   bool (B,)              whether the score is above the threshold

Claim: a fitted detector is one function of the pixels.  LoRA is merged into the weights; memory
bank, text features, threshold and CLIP's mean and std are constants of the file.  So ONNX Runtime
computes what torch computes, to TOLERANCE, which is checked before the file is written.  What a
program must know to prepare a picture stands in the file's metadata (`metadata`).  For example:

    import sys
    import numpy as np, onnxruntime
    from PIL import Image, ImageOps

    session = onnxruntime.InferenceSession("model.onnx")
    width, height = map(int, session.get_modelmeta().custom_metadata_map["size"].split("x"))
    for path in sys.argv[1:]:
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255     # (1, 3, H, W)
        anomaly_map, score, is_ng = session.run(None, {"pixels": pixels})
        print("NG" if is_ng[0] else "OK", f"{score[0]:.3f}", path)

    ONNX: https://github.com/onnx/onnx;  torch.onnx, which translates the graph of torch.export

Symbols: B pictures of H x W pixels, P patches, W width, E embedding, l patches in the bank.
Left out: pictures that are cut into strips (longer than MAX_ASPECT times their shorter side), the
text tower, half precision.
"""
import argparse
import contextlib
import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minilora import __version__
from minilora.anomaly_map import text_map, to_pixels, top_mean
from minilora.checkpoint.base_model import BaseModel
from minilora.checkpoint.detector_files import read_detector
from minilora.data.images import MAX_ASPECT, from_png, patches_size
from minilora.detector import Detector
from minilora.features import extract_features
from minilora.io.output import atomic_output, check_output
from minilora.io.text import shown
from minilora.lora import merge
from minilora.prediction.inputs import open_with_threshold

TOLERANCE = 1e-4                        # of maps and scores, relative where they are above 1
OPSET = 18                              # of ONNX; ONNX Runtime knows it since version 1.14
MAX_FILE_BYTES = 2**31 - 2**20          # protobuf, the format of an ONNX file, ends at 2 GB
OUTPUTS = ("map", "score", "is_ng")

Size = tuple[int, int]                  # (width, height)


class PixelsToDecision(nn.Module):
    """The four steps of `Detector` (detector.py) as one module, for row "adapted".

    size: (width, height) of the pictures.  The detector keeps its tower: a copy is merged.
    """

    def __init__(self, detector: Detector, size: Size) -> None:
        super().__init__()
        self.detector, self.visual = detector, copy.deepcopy(detector.clip.visual)
        # LoRA below the memory states (an adapter from PEFT) is kept: the memory needs W alone.
        for n in range(max(detector.memory_states, default=0), len(self.visual.blocks)):
            self.visual.blocks[n] = merge(self.visual.blocks[n])
        width, height = (side // self.visual.patch for side in size)
        self.register_buffer("positions", self.visual.positions(height, width).detach())
        self.visual.positions = lambda rows, columns: self.positions    # resized here, once
        self.register_buffer("bank", detector.banks["adapted"].tokens)              # (l, width)
        self.register_buffer("text", detector.text_features)                        # (2, E)
        self.scale = detector.clip.logit_scale.exp().item()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels (B, 3, H, W) in [0, 1] -> (maps (B, H, W), scores (B,), whether NG (B,))."""
        d, config = self.detector, self.detector.config
        features = extract_features(self.visual, pixels, d.memory_states, d.n_adapted_blocks)
        cosines = d.bank_features(features, "adapted") @ self.bank.T                # (B, P, l)
        memory = (1 - cosines.amax(-1)).clamp(0) / d.memory_scale                   # (B, P)
        text = d.text_weight * text_map(features.text_patches, self.text, self.scale)
        damaged = d.text_weight * text_map(features.image[:, None], self.text, self.scale)[:, 0]
        maps = to_pixels(memory + text, features.size, config.sigma * min(features.size) / 224)
        scores = top_mean(maps, config.top_fraction) + config.image_weight * damaged
        return maps, scores, ~(scores <= d.threshold)           # so NaN is NG


# ---- which size ---------------------------------------------------------------------------------

def width_x_height(text: str) -> Size:
    """A `type=` for argparse: "320x240" -> (320, 240)."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise argparse.ArgumentTypeError("expected WIDTHxHEIGHT in pixels, such as 320x240, found "
                                         f"'{shown(text)}'")
    return int(found[1]), int(found[2])


def picture_size(detector: Detector, size: Size | None = None) -> Size:
    """The (width, height) of the pictures that the file takes.

    size: as asked for; None: that of the good pictures as the detector prepares them, or a square
    if none is stored.  Raises ValueError if it does not fit the detector.
    """
    short = detector.resolution
    if size is None:
        kinds = {tuple(from_png(data).shape[:0:-1]) for data in detector.shot_pictures}
        if len(kinds) > 1:
            sizes = ", ".join(f"{width}x{height}" for width, height in sorted(kinds))
            raise ValueError(f"the good pictures have several sizes ({sizes}), and a file takes "
                             "one; choose it with --size")
        size = kinds.pop() if kinds else (short, short)
    if max(size) > MAX_ASPECT * min(size):
        raise ValueError(f"size {size[0]}x{size[1]}: a picture longer than {MAX_ASPECT} times its "
                         "shorter side is cut into strips, which an ONNX file cannot; use "
                         "minilora predict, or cut the pictures before fit")
    fitting = (short, short) if detector.config.square else patches_size(
        size, short, detector.clip.visual.patch)
    if size != fitting:
        raise ValueError(f"--size {size[0]}x{size[1]}: expected {fitting[0]}x{fitting[1]}, since "
                         f"the detector was fitted at {short} pixels of the shorter side; for "
                         "another resolution fit again with --resolution")
    return size


# ---- the file -----------------------------------------------------------------------------------

def metadata(detector: Detector, base: BaseModel, size: Size) -> dict[str, str]:
    """What the file says about itself, all as text (ONNX Runtime: `custom_metadata_map`)."""
    return {"size": f"{size[0]}x{size[1]}", "class": shown(detector.class_name),
            "threshold": f"{detector.threshold:.6g}", "bits": str(detector.config.bits),
            "base": shown(base.name), "base_sha256": base.sha256, "minilora": __version__,
            "prepare": f"whole upright picture as RGB, resized to {size[0]}x{size[1]} (width x "
                       "height) by Pillow's bicubic filter, divided by 255, axes (B, 3, H, W)"}


def to_onnx(detector: Detector, base: BaseModel, size: Size, batch: int = 0) -> tuple[bytes, float]:
    """(content of the file, `largest_difference` from torch).

    size: see `picture_size`;  batch: pictures per call, 0: any number.

    Raises ValueError without the extra packages, for a tower too large for one file, and if ONNX
    Runtime computes something else than torch.
    """
    onnx = onnx_package()
    module = PixelsToDecision(detector, size).eval().requires_grad_(False)
    n_bytes = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    if n_bytes > MAX_FILE_BYTES:
        raise ValueError(f"the image tower has {n_bytes / 1e9:.1f} GB, and an ONNX file at most 2; "
                         "fit with ViT-B/16 or ViT-L/14")
    # An example of one picture would fix B: torch.export takes a 1 as a constant.
    example = torch.rand(batch or 2, 3, size[1], size[0],
                         generator=torch.Generator().manual_seed(0))
    dynamic = None if batch else ({0: torch.export.Dim("B", min=1)},)
    with warnings.catch_warnings(), errors_only("torch.onnx"):
        warnings.simplefilter("ignore")             # about torch's own code
        model = torch.onnx.export(module, (example,), input_names=["pixels"], dynamo=True,
                                  output_names=list(OUTPUTS), opset_version=OPSET, verbose=False,
                                  dynamic_shapes=dynamic, external_data=False).model_proto
    onnx.helper.set_model_props(model, metadata(detector, base, size))
    content = model.SerializeToString()
    return content, largest_difference(content, detector, example)


@contextlib.contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Within the block a logger shows errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def onnx_package() -> object:
    """The package onnx, if all three that are needed are there.  Raises ValueError if not."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--format onnx needs the package {error.name}, which is not installed; "
                         'in the clone: pip install ".[onnx]"') from error
    return onnx


def largest_difference(content: bytes, detector: Detector, pixels: Tensor) -> float:
    """The largest difference of a map or score of ONNX Runtime from torch's, for some pictures.

    Raises ValueError above TOLERANCE.
    """
    import onnxruntime
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(OUTPUTS, {"pixels": pixels.numpy()})
    difference = max(float((np.abs(theirs - ours) / np.maximum(1, np.abs(ours))).max())
                     for theirs, ours in zip(found, (t.numpy() for t in detector.score(pixels))))
    if not difference <= TOLERANCE:
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} differs from torch by "
                         f"{difference:.1e}; expected at most {TOLERANCE}; nothing was written; "
                         "install another version of onnxruntime")
    return difference


def write_onnx(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The command `export --format onnx`.  Returns the exit status."""
    path = Path(options.out)
    if path.suffix != ".onnx":
        raise ValueError(f"--out {shown(path)}: expected the name of a file that ends in .onnx")
    onnx_package()                                  # both checks come before any work
    check_output(path, "onnx")
    run = Path(options.run).parent if Path(options.run).is_file() else Path(options.run)
    detector = open_with_threshold(run, options.model)
    size, base = picture_size(detector, options.size), BaseModel(**read_detector(run)["base"])
    say(f"export   {shown(run)} for pictures of {size[0]}x{size[1]}; this takes some 10 seconds")
    content, difference = to_onnx(detector, base, size, options.batch)
    with atomic_output(path, "onnx") as file:
        file.write(content)
    say(f"written  {shown(path)}: {len(content) / 1e6:.0f} MB; {options.batch or 'any number of'} "
        f"pictures per call; differs from torch by at most {difference:.0e}")
    return 0


def demo() -> None:
    """What goes in, what comes out, and which sizes fit; an untrained toy tower."""
    from minilora.toy_detector import toy_detector
    detector, good = toy_detector()
    size = picture_size(detector)
    for key, value in metadata(detector, BaseModel("toy", "0" * 64), size).items():
        print(f"{key:12s} {value[:60]}")
    with torch.no_grad():
        for name, value in zip(OUTPUTS, PixelsToDecision(detector, size)(good[:2])):
            print(f"{name:12s} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    try:
        picture_size(detector, (128, 128))
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    demo()
