"""Remarks about framing: what was changed is named, and what was not changed is not."""
import pytest
import torch

from minilora.anomaly_map import gaussian_blur
from minilora.data.framing import (FRAMING_LIMITS, aspect_text, framing_remarks, measure_all,
                                   measure_framing)


def picture(side=36, light=1.0, width=64, background=0.8, seed=0, noise=0.01):
    """A dark square on a plain background, with noise."""
    pixels = torch.full((3, 64, width), background)
    top, left = 32 - side // 2, width // 2 - side // 2
    pixels[:, top:top + side, left:left + side] = 0.3
    generator = torch.Generator().manual_seed(seed)
    pixels = light * pixels + noise * torch.randn(3, 64, width, generator=generator)
    return pixels.clamp(0, 1)


SHOTS = measure_all(picture(seed=k) for k in range(8))


def remarks(pixels, shots=SHOTS):
    return framing_remarks(measure_framing(pixels), shots)


def test_a_picture_like_the_shots_gets_no_remark():
    assert [remarks(picture(seed=k)) for k in range(100, 110)] == [[]] * 10


@pytest.mark.parametrize("changed, expected", [
    (picture(31), "object 13 % smaller"), (picture(42), "object 16 % larger"),
    (picture(light=0.8), "20 % darker"), (picture(background=0.65), "background 19 % darker"),
    (gaussian_blur(picture(), 1.0), "blurred"), (picture(noise=0.0), "blurred")])
def test_a_change_is_named_and_nothing_else(changed, expected):
    found = remarks(changed)
    assert found and found[0].startswith(expected[:12]) and len(found) == 1


def test_a_border_is_another_background_and_no_larger_brighter_object():
    bordered = torch.nn.functional.pad(picture(), (6, 6, 6, 6), value=0.4)
    found = remarks(bordered)
    assert found[0] == "background 50 % darker"
    assert not any("object" in remark or remark.endswith("% brighter") for remark in found)


def test_size_and_light_are_given_in_per_cent():
    assert remarks(picture(31)) == ["object 13 % smaller"]
    assert remarks(picture(light=0.8)) == ["20 % darker"]


def test_another_aspect_is_named_by_usual_numbers():
    assert remarks(picture(width=96))[0] == "aspect 3:2 instead of 1:1"
    assert [aspect_text(a) for a in (1, 4 / 3, 3 / 4, 16 / 9, 2.7, 1 / 2.7)] == \
        ["1:1", "4:3", "3:4", "16:9", "2.70:1", "1:2.70"]


def test_shots_that_vary_in_a_measure_get_no_remark_about_it():
    varied = measure_all(picture(side, light, seed=side) for side, light in zip(
        (30, 33, 36, 39, 42, 32, 38, 41), (0.7, 1.0, 0.8, 1.1, 0.9, 1.0, 0.75, 1.05)))
    assert remarks(picture(31, 0.8), varied) == []


def test_a_texture_has_no_object():
    """A bright middle fades into the border: no limit between object and background is plain."""
    ramp = 0.3 + 0.4 * torch.linspace(0, 1, 64).sub(0.5).abs().mul(2)
    noise = 0.05 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert measure_framing(ramp.expand(3, 64, 64) + noise)["object_size"] == 1
    assert measure_framing(picture())["object_size"] == pytest.approx(38 / 64, abs=0.01)     # its edge is smoothed


def test_too_few_shots_say_nothing():
    few = {name: values[:3] for name, values in SHOTS.items()}
    assert remarks(picture(20, 0.5), few) == [] and remarks(picture(20, 0.5), {}) == []


def test_measures_of_odd_pictures_are_finite_and_comparable():
    for pixels in (torch.zeros(3, 16, 16), torch.ones(3, 16, 64), torch.rand(3, 64, 16)):
        measured = measure_framing(pixels)
        assert measured.keys() == FRAMING_LIMITS.keys()
        assert all(0 <= value < 1e6 for value in measured.values())
        framing_remarks(measured, measure_all([pixels] * 8))
        framing_remarks(measured, {name: [-1.0, 0.0, 1e9, 1e-9] for name in measured})


def test_sharpness_does_not_depend_on_contrast():
    """The blur is compared with the picture itself (Crété et al. 2007)."""
    sharp = picture()
    faint = 0.5 + 0.5 * (sharp - 0.5)
    a, b = (measure_framing(p)["sharpness"] for p in (sharp, faint))
    assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_measures_of_a_stranger_give_a_remark_and_no_error(value):
    """A run folder may hold any number from 0 on."""
    measures = dict.fromkeys(FRAMING_LIMITS, 1.0)
    shots = dict.fromkeys(FRAMING_LIMITS, 5 * [value])
    assert any("instead of" in remark for remark in framing_remarks(measures, shots))
