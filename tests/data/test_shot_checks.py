"""What is said about the shots before a fit."""
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from minilora.data import shot_checks


def shots(count=8, size=(64, 96)):
    """Good pictures of one product: the same disc with a texture of its own on each."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    disc = ((rows ** 2 + columns ** 2) < 0.6).float()
    noise = 0.06 * torch.randn(count, 3, *size, generator=generator)
    return [(0.8 - 0.4 * disc + part).clamp(0, 1) for part in noise]


def tokens(count=8):
    """Patch features that lie near a common set of 20."""
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(20, 32, generator=generator)
    return [F.normalize(common + 0.1 * torch.randn(20, 32, generator=generator), dim=-1)
            for _ in range(count)]


NAMES = [f"{k}.jpg" for k in range(8)]


def test_good_shots_get_no_line():
    assert shot_checks.shot_warnings(NAMES, shots(), tokens()) == []


@pytest.mark.parametrize("change, words", [
    (lambda p: F.avg_pool2d(p[None], 5, 1, 2)[0], "blurred"),
    (lambda p: (p + 0.25).clamp(0, 1), "white"),
    (lambda p: p * 0.6, "darker"),
    (lambda p: p[:, :, 16:-16], "width / height is 1.00, on the others 1.50")])
def test_a_planted_fault_is_named_with_its_file(change, words):
    pictures = shots()
    pictures[3] = change(pictures[3])
    lines = shot_checks.shot_warnings(NAMES, pictures, tokens())
    assert any(line.startswith("3.jpg: ") and words in line for line in lines), lines
    assert all(line.startswith("3.jpg: ") for line in lines)


def test_a_shot_whose_patches_are_unlike_those_of_the_others_is_named():
    unlike = tokens()
    unlike[5][7] = F.normalize(torch.ones(32), dim=-1)              # one patch of 20
    lines = shot_checks.shot_warnings(NAMES, shots(), unlike)
    assert len(lines) == 1 and lines[0].startswith("5.jpg: differs from the others")


def test_two_defective_shots_do_not_hide_each_other():
    unlike = tokens()
    generator = torch.Generator().manual_seed(2)
    for k in (2, 6):
        unlike[k][3] = F.normalize(torch.randn(32, generator=generator), dim=-1)
    lines = shot_checks.shot_warnings(NAMES, shots(), unlike)
    assert [line.partition(":")[0] for line in lines] == ["2.jpg", "6.jpg"]


def test_the_same_picture_twice_is_named_also_if_it_was_saved_again():
    pictures = [F.avg_pool2d(p.mean(0).expand_as(p), 7, 1, 3) for p in shots()]
    file = io.BytesIO()
    saved = Image.fromarray((pictures[1] * 255).byte().permute(1, 2, 0).numpy())
    saved.save(file, "JPEG", quality=90)
    pictures[6] = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    lines = shot_checks.shot_warnings(NAMES, pictures)
    assert lines == ["1.jpg and 6.jpg: the same picture twice"]


def test_fewer_than_four_shots_are_not_compared_but_counted():
    pictures = shots(3)
    pictures[0] = pictures[0] * 0.3
    lines = shot_checks.shot_warnings(NAMES[:3], pictures, tokens(3))
    assert len(lines) == 1 and "only 3 good pictures" in lines[0] and "at least 4" in lines[0]


def test_a_name_cannot_forge_a_line_and_many_lines_are_cut():
    pictures = shots(3) * 4
    lines = shot_checks.shot_warnings([f"a\nOK {k}" for k in range(12)], pictures)
    assert not any("\n" in line for line in lines)
    assert len(lines) == shot_checks.MOST_LINES + 1 and lines[-1] == "and 6 more like these"
