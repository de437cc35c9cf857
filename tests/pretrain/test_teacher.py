"""The teacher of pretraining: shapes, padding, residuals, predictions on real photographs."""
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED

from minilora.data.images import read_image, to_square
from minilora.pretrain.teacher import (MobileNetV2, TeacherError, load_teacher,
                                       mobilenet_v2_layers, random_teacher)

FILE = SHARED / "teacher/mobilenet_v2.npz"
needs_teacher = pytest.mark.skipif(not FILE.is_file(), reason="the teacher's file is not there")


@pytest.fixture
def teacher():
    return random_teacher(torch.Generator().manual_seed(0))


def one_layer(**changes):
    layer = dict(groups=1, kernel=3, stride=2, relu6=False, add_output_of=None) | changes
    return [layer, dict(layer, kernel=1, stride=1)]


def test_each_stride_halves_the_positions(teacher):
    pictures = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = teacher.layer_outputs(pictures, {0, 9, 18, 30, 39, 51})
    shapes = {n: tuple(x.shape[1:]) for n, x in found.items()}
    assert shapes == {0: (32, 112, 112), 9: (144, 56, 56), 18: (192, 28, 28), 30: (384, 14, 14),
                      39: (576, 14, 14), 51: (1280, 7, 7)}
    assert teacher(pictures).shape == (1, 1001)


def test_at_stride_two_only_right_and_bottom_are_padded():
    """TensorFlow's "same": the first kernel starts on the first pixel, the last exceeds by one."""
    middle = torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 1
    network = MobileNetV2(one_layer(), [middle, torch.ones(1, 1, 1, 1)], [torch.zeros(1)] * 2)
    pixels = torch.arange(16.0).view(1, 1, 4, 4)
    found = network.layer_outputs(pixels, {0})[0]
    assert torch.equal(found[0, 0], 2 * pixels[0, 0, 1::2, 1::2] - 1)
    network.layers[0]["stride"] = 1
    assert torch.equal(network.layer_outputs(pixels, {0})[0], 2 * pixels - 1), "stride 1: all sides"


def test_the_narrow_ends_are_added_and_not_clamped(teacher):
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = teacher.layer_outputs(pictures, {5, 7, 8})
    assert torch.allclose(found[8], teacher.convolve(8, found[7]) + found[5], atol=1e-6)
    assert found[7].min() == 0 and found[7].max() <= 6, "wide ends are clamped to 0 ... 6"
    assert found[8].min() < 0


def test_a_batch_gives_the_same_as_single_pictures(teacher):
    pictures = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    singly = torch.cat([teacher(p[None]) for p in pictures])
    assert torch.allclose(teacher(pictures), singly, atol=1e-4)


@pytest.mark.parametrize("content", [b"no archive", None])
def test_another_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "teacher.npz"
    np.savez(path, weights=np.zeros(3)) if content is None else path.write_bytes(content)
    with pytest.raises(TeacherError, match="teacher.npz: expected the arrays of a MobileNetV2"):
        load_teacher(path)


@needs_teacher
def test_the_file_has_the_layers_of_the_paper():
    network, (layers, shapes) = load_teacher(FILE), mobilenet_v2_layers()
    assert [{k: layer[k] for k in layers[0]} for layer in network.layers] == layers
    assert [tuple(getattr(network, f"weight{n}").shape) for n in range(53)] == shapes


@needs_teacher
def test_it_classifies_photographs_as_the_published_file_does():
    expected = json.loads((FILE.parent / "expected.json").read_text())
    pictures = torch.stack([to_square(read_image(SHARED / "photos" / e["file"]), 224)
                            for e in expected])
    probable, found = F.softmax(load_teacher(FILE)(pictures), dim=1).max(1)
    assert found.tolist() == [e["top1_in_float"] for e in expected]
    sure = torch.tensor([e["its_probability"] for e in expected]) > 0.5
    original = torch.tensor([e["top1_of_the_8_bit_original"] for e in expected])
    assert (found == original)[sure].all(), "where the 8-bit original is sure, it agrees"
