"""The teacher of pretraining: MobileNetV2, built from a file's table of layers.

Claim: a small network trained on ImageNet represents surfaces and objects well.  Its hidden
features at every position are a richer target than one class per picture.

    Sandler et al. 2018, "MobileNetV2: Inverted residuals and linear bottlenecks", table 2 and
    figure 4: a block widens by a 1 x 1 convolution, filters each channel separately, and narrows
    again; its output has no activation, and its input is added if the shapes agree

The file holds, for layer NN, `NN.weight` (out, in / groups, k, k) and `NN.bias`, with batch norm
folded in, and a JSON `table` of the layers in order.  Runs on CPU and GPU, without gradients.

Symbols: B images, C channels, G positions per side, k kernel size.
Left out: training the teacher.  Its weights are not part of minilora; no other command uses them.
"""
import json
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# table 2: (widening factor, output channels, repetitions, stride of the first)
BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
               (6, 160, 3, 2), (6, 320, 1, 1))


class TeacherError(ValueError):
    """The file does not hold a teacher; the message says what was expected and found."""


class MobileNetV2(nn.Module):
    """The network of a table of layers.

    layers: one dict per layer (groups, kernel, stride, relu6, add_output_of: the layer whose output
    is added, or None);  weights, biases: one tensor per layer.
    """

    def __init__(self, layers: list[dict], weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.layers = layers
        for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight{n}", weight.float())
            self.register_buffer(f"bias{n}", bias.float())

    def convolve(self, n: int, x: Tensor) -> Tensor:
        """The convolution of layer n, before addition and activation.  x: (B, C, G, G)."""
        layer = self.layers[n]
        if layer["kernel"] == 3:        # stride 2: TensorFlow pads right and bottom only
            x = F.pad(x, (1, 1, 1, 1) if layer["stride"] == 1 else (0, 1, 0, 1))
        return F.conv2d(x, getattr(self, f"weight{n}"), getattr(self, f"bias{n}"),
                        layer["stride"], groups=layer["groups"])

    @torch.no_grad()
    def layer_outputs(self, pictures: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        """{n: output (B, C, G, G) of layer n, after its activation if it has one}.

        pictures: (B, 3, R, R) in [0, 1], R a multiple of 32;  wanted: numbers of layers, from 0.
        """
        kept, outputs, x = {}, {}, 2 * pictures - 1
        added_later = {layer["add_output_of"] for layer in self.layers}
        for n, layer in enumerate(self.layers[:max(wanted) + 1]):
            if n == len(self.layers) - 1:
                x = x.mean((2, 3), keepdim=True)                # (B, C, 1, 1) before the classes
            x = self.convolve(n, x)
            if layer["add_output_of"] is not None:
                x = x + kept.pop(layer["add_output_of"])        # the inverted residual
            if layer["relu6"]:
                x = x.clamp_(0, 6)
            if n in added_later:
                kept[n] = x
            if n in wanted:
                outputs[n] = x
        return outputs

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, 224, 224) in [0, 1] -> logits (B, 1001); class 0 is the background."""
        last = len(self.layers) - 1
        return self.layer_outputs(pictures, {last})[last].flatten(1)


def load_teacher(path: str | Path) -> MobileNetV2:
    """Load a teacher from an .npz file, without running code in it.

    Raises TeacherError if the file does not hold a MobileNetV2.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            layers = json.loads(str(file["table"]))
            weights, biases = ([torch.from_numpy(file[f"{n:02d}.{kind}"])
                                for n in range(len(layers))] for kind in ("weight", "bias"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{path}: expected the arrays of a MobileNetV2 (NN.weight, NN.bias, "
                           f"table), found {type(error).__name__}: {error}; pass its .npz file "
                           "with --teacher") from error
    return MobileNetV2(layers, weights, biases)


def mobilenet_v2_layers() -> tuple[list[dict], list[tuple[int, ...]]]:
    """(layers, shapes of their weights) of table 2, in the form of the file's table."""
    layers, shapes = [], []

    def add(out_channels, in_channels, kernel=1, stride=1, groups=1, relu6=True,
            add_output_of=None):
        layers.append(dict(groups=groups, kernel=kernel, stride=stride, relu6=relu6,
                           add_output_of=add_output_of))
        shapes.append((out_channels, in_channels // groups, kernel, kernel))
    add(width := 32, 3, kernel=3, stride=2)
    for factor, out_channels, repeats, stride in BOTTLENECKS:
        for k in range(repeats):
            wide, before = factor * width, len(layers) - 1
            if factor > 1:
                add(wide, width)
            add(wide, wide, kernel=3, stride=1 if k else stride, groups=wide)
            add(out_channels, wide, relu6=False, add_output_of=before if k else None)
            width = out_channels
    add(1280, width)
    add(1001, 1280, relu6=False)
    return layers, shapes


def random_teacher(generator: torch.Generator) -> MobileNetV2:
    """The network of the paper with random weights that keep the variance of their input."""
    layers, shapes = mobilenet_v2_layers()
    weights = [torch.randn(s, generator=generator) * (2 / np.prod(s[1:])) ** 0.5 for s in shapes]
    return MobileNetV2(layers, weights, [torch.zeros(s[0]) for s in shapes])


def demo() -> None:
    """Shapes of some layer outputs, and which outputs are added."""
    generator = torch.Generator().manual_seed(0)
    teacher = random_teacher(generator)
    count = sum(x.numel() for x in teacher.buffers())
    print(f"{len(teacher.layers)} layers, {count:,} parameters (random ones here)")
    pictures = torch.rand(2, 3, 224, 224, generator=generator)
    for n, result in teacher.layer_outputs(pictures, {0, 8, 18, 30, 39, 51}).items():
        added = teacher.layers[n]["add_output_of"]
        print(f"layer {n:2d}: {tuple(result.shape)}"
              + (f", layer {added} is added" if added is not None else ""))
    print(f"logits: {tuple(teacher(pictures).shape)}")


if __name__ == "__main__":
    demo()
