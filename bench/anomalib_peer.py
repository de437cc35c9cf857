"""anomalib's PatchCore with CLIP's image tower in place of its own backbone, if it is installed.

    pip install anomalib

anomalib needs torchvision.  Where torch has no CUDA but torchvision's wheel was compiled for it,
torchvision's compiled operators do not load, and its import fails.  PatchCore uses none of them, so
`declare_operators` declares their names, and the import succeeds.  To keep another torch:

    pip install --no-deps --target FOLDER anomalib torchvision lightning pytorch-lightning timm \\
        lightning-utilities omegaconf antlr4-python3-runtime jsonargparse typeshed-client einops \\
        docstring-parser kornia kornia-rs freia imagecodecs scikit-image lazy-loader imageio \\
        tifffile opencv-python-headless pandas rich-argparse
    python -m bench.speed --anomalib FOLDER

Left out: its backbones, its training loop; its own memory, search, score and map are used.
"""
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from minilora.vit import VisionTransformer

OPERATORS = ("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool",
             "deform_conv2d", "_roi_align_backward", "_roi_pool_backward",
             "_ps_roi_align_backward", "_ps_roi_pool_backward", "_deform_conv2d_backward")
DECLARED = []                   # a declaration ends with its object


def is_installed() -> bool:
    return find_spec("anomalib") is not None


def add_folder(folder: Path) -> None:
    """Makes the packages in `folder` known to this process, after all others."""
    sys.path.append(str(folder))
    if not is_installed():
        raise ValueError(f"--anomalib {folder}: expected a folder with anomalib in it, found none; "
                         "bench/anomalib_peer.py says how to fill it")
    declare_operators()             # before another package tries to import torchvision


def declare_operators() -> None:
    """Declares torchvision's operators, without code, if torchvision cannot be imported."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:                                        # "operator ... does not exist"
        DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for name in OPERATORS:
            DECLARED[0].define(f"{name}(Tensor x) -> Tensor")


class HiddenStatesAsMaps(nn.Module):
    """What anomalib asks of a backbone: {layer: map (B, W, rows, columns)} of pictures."""

    def __init__(self, visual: VisionTransformer, layers: dict[str, int]) -> None:
        super().__init__()
        self.visual, self.layers = visual, layers

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        hidden = self.visual.hidden_states(self.visual.embed(pixels), max(self.layers.values()))
        rows = pixels.shape[-2] // self.visual.patch
        return {name: hidden[n][:, 1:].transpose(1, 2).unflatten(2, (rows, -1))
                for name, n in self.layers.items()}


def patchcore(visual: VisionTransformer, states: tuple[int, ...], bank: Tensor) -> nn.Module:
    """anomalib's model on hidden states of a tower.  bank: the coreset, (l, len(states) W)."""
    declare_operators()
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    layers = {f"layer{k}": n for k, n in enumerate(states, 1)}  # names of the backbone replaced
    model = PatchcoreModel(list(layers), "resnet18", pre_trained=False).eval()
    model.feature_extractor = HiddenStatesAsMaps(visual, layers)
    model.memory_bank = bank
    return model
