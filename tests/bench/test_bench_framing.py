"""The changes of `bench.framing` are what their names say, and the rates are shares."""
import numpy as np
from PIL import Image

from bench import framing
from minilora.scenes import scene


def test_a_shrunk_picture_keeps_its_size_and_shrinks_what_is_in_it():
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste((0, 0, 0), (25, 25, 75, 75))
    small = np.asarray(framing.shrunk(picture))
    assert small.shape == (100, 100, 3) and (small[[0, -1]] == 255).all()
    assert abs((small < 128).all(2).sum() ** 0.5 / 50 - 0.87) < 0.03


def test_every_change_has_a_rate(tmp_path):
    scene.write_class(tmp_path, "gear", good=6, test_good=2, defective=1, resolution=64)
    rates = framing.named_rates(tmp_path, "gear", 5, [1])
    assert rates.keys() == {"good pictures", *framing.CHANGES}
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert rates["height cropped to 3/4"] == 1
