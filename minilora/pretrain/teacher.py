"""The teacher of pretraining: MobileNetV2, read from a table of its layers.

Claim: a small network that has learned ImageNet knows what surfaces and things look like; its inner
results, place by place, are a richer target than one name a picture.

    Sandler et al. 2018, "MobileNetV2: Inverted residuals and linear bottlenecks", table 2 and
    figure 4: widen by a 1 x 1 convolution, filter each channel by itself, narrow again; the narrow
    ends are added where their shapes agree, and have no activation.

The file holds, for layer NN, `NN.weight` (out, in / groups, k, k) and `NN.bias`, batch norm folded
in, and a JSON `table` of the layers in order.  Runs on CPU and GPU, in float32, without gradient.

Symbols: B images, C channels, G places a side.  Leaves out: training it; it is never part of
minilora itself, nor of a run.
"""
import json
import zipfile

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# table 2: (widening factor, channels that leave, repetitions, stride of the first)
BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
               (6, 160, 3, 2), (6, 320, 1, 1))


class TeacherError(ValueError):
    """A file that is no teacher; the message says which file, what was expected and found."""


class MobileNetV2(nn.Module):
    """layers: list of dicts (groups, kernel, stride, relu6, add_output_of), the file's table;
    weights, biases: one tensor a layer."""

    def __init__(self, layers, weights, biases):
        super().__init__()
        self.layers = layers
        for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight{n}", weight.float())
            self.register_buffer(f"bias{n}", bias.float())

    def convolve(self, n, x):
        """Layer n without what is added to it.  x: (B, C, G, G)."""
        layer = self.layers[n]
        if layer["kernel"] == 3:        # at stride 2, TensorFlow pads the far sides alone
            x = F.pad(x, (1, 1, 1, 1) if layer["stride"] == 1 else (0, 1, 0, 1))
        return F.conv2d(x, getattr(self, f"weight{n}"), getattr(self, f"bias{n}"),
                        layer["stride"], groups=layer["groups"])

    @torch.no_grad()
    def inner(self, pictures, wanted):
        """Inner results of a batch.

        pictures: (B, 3, R, R) in [0, 1], R a multiple of 32;  wanted: numbers of layers, from 0.
        Returns {n: (B, C, G, G)}, after the activation where layer n has one.
        """
        sums, found, x = {}, {}, 2 * pictures - 1
        joined = {layer["add_output_of"] for layer in self.layers}
        for n, layer in enumerate(self.layers[:max(wanted) + 1]):
            if n == len(self.layers) - 1:
                x = x.mean((2, 3), keepdim=True)                # (B, C, 1, 1) before the classes
            x = self.convolve(n, x)
            if layer["add_output_of"] is not None:
                x = x + sums.pop(layer["add_output_of"])        # the inverted residual
            if layer["relu6"]:
                x = x.clamp_(0, 6)
            if n in joined:
                sums[n] = x
            if n in wanted:
                found[n] = x
        return found

    def forward(self, pictures):
        """(B, 3, 224, 224) in [0, 1] -> logits (B, 1001); class 0 is background."""
        last = len(self.layers) - 1
        return self.inner(pictures, {last})[last].flatten(1)


def load_teacher(path):
    """The teacher in an .npz file.  Raises TeacherError if it is none; no code in it is run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            layers = json.loads(str(file["table"]))
            weights, biases = ([torch.from_numpy(file[f"{n:02d}.{kind}"])
                                for n in range(len(layers))] for kind in ("weight", "bias"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{path}: expected the arrays of a MobileNetV2 (NN.weight, NN.bias, "
                           f"table), found {type(error).__name__}: {error}; give its .npz file "
                           "with --teacher") from error
    return MobileNetV2(layers, weights, biases)


def layers_of_the_paper():
    """(layers, shapes of their weights) of table 2, as the file has them."""
    layers, shapes = [], []

    def add(leaving, entering, kernel=1, stride=1, groups=1, relu6=True, add_output_of=None):
        layers.append(dict(groups=groups, kernel=kernel, stride=stride, relu6=relu6,
                           add_output_of=add_output_of))
        shapes.append((leaving, entering // groups, kernel, kernel))
    add(width := 32, 3, kernel=3, stride=2)
    for factor, leaving, repeats, stride in BOTTLENECKS:
        for k in range(repeats):
            wide, before = factor * width, len(layers) - 1
            if factor > 1:
                add(wide, width)
            add(wide, wide, kernel=3, stride=1 if k else stride, groups=wide)
            add(leaving, wide, relu6=False, add_output_of=before if k else None)
            width = leaving
    add(1280, width)
    add(1001, 1280, relu6=False)
    return layers, shapes


def random_teacher(generator):
    """The network of the paper with random weights, which keep the variance of what enters."""
    layers, shapes = layers_of_the_paper()
    weights = [torch.randn(s, generator=generator) * (2 / np.prod(s[1:])) ** 0.5 for s in shapes]
    return MobileNetV2(layers, weights, [torch.zeros(s[0]) for s in shapes])


def demo():
    generator = torch.Generator().manual_seed(0)
    teacher = random_teacher(generator)
    count = sum(x.numel() for x in teacher.buffers())
    print(f"{len(teacher.layers)} layers, {count:,} numbers (random ones here)")
    pictures = torch.rand(2, 3, 224, 224, generator=generator)
    for n, result in teacher.inner(pictures, {0, 8, 18, 30, 39, 51}).items():
        added = teacher.layers[n]["add_output_of"]
        print(f"layer {n:2d}: {tuple(result.shape)}"
              + (f", layer {added} is added" if added is not None else ""))
    print(f"classes: {tuple(teacher(pictures).shape)}")


if __name__ == "__main__":
    demo()
