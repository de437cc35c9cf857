"""Good pictures in a run folder: only those that the detector could have made are taken."""
import struct

import pytest
import torch

from minilora.checkpoint import kept_pictures
from minilora.checkpoint.kept_pictures import opened_pictures, png_size
from minilora.data.images import from_png, to_png
from minilora.io.schema import SchemaError


def png(height, width):
    return to_png(torch.zeros(3, height, width))


def stored(*pictures):
    return [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in pictures]


def test_what_was_kept_is_taken_again():
    pictures = [png(64, 64), png(64, 96), png(160, 64)]
    kept = kept_pictures.kept_pictures(pictures)
    assert opened_pictures(kept, resolution=64, patch=16) == pictures
    assert [png_size(data) for data in pictures] == [(64, 64), (96, 64), (64, 160)]


def test_a_resolution_between_two_patches_is_rounded_as_prepare_does():
    assert opened_pictures(stored(png(64, 96)), resolution=70, patch=16)


@pytest.mark.parametrize("data", [
    png(8, 8), png(48, 64), png(80, 80), png(64, 72), b"?", png(64, 64)[:24], b"BM" * 40,
    png(64, 64).replace(struct.pack(">II", 64, 64), struct.pack(">II", 64, 64 * 10**5))],
    ids=["small", "shorter", "larger", "no patches", "byte", "head", "BMP", "long"])
def test_a_picture_that_the_detector_never_makes_is_refused(data):
    with pytest.raises(SchemaError, match="good picture 1: expected a PNG file with a shorter"):
        opened_pictures(stored(png(64, 64), data), resolution=64, patch=16)


def test_pictures_that_are_too_large_together_are_neither_kept_nor_taken(monkeypatch):
    monkeypatch.setattr(kept_pictures, "MAX_KEPT_PIXELS", 3 * 64 * 64)
    pictures = 4 * [png(64, 64)]
    assert len(kept_pictures.kept_pictures(pictures[:3])) == 3
    assert kept_pictures.kept_pictures(pictures) == []
    with pytest.raises(SchemaError, match="at most 12,288 pixels in all, found 16,384"):
        opened_pictures(stored(*pictures), resolution=64, patch=16)


@pytest.mark.parametrize("data", [
    png(64, 64)[:60], png(64, 64)[:33], b"text", b"",
    png(64, 64).replace(struct.pack(">II", 64, 64), struct.pack(">II", 30_000, 30_000))],
    ids=["cut off", "no pixels", "text", "empty", "900 megapixels"])
def test_a_stored_picture_that_cannot_be_decoded_is_one_line(data):
    with pytest.raises(ValueError, match="stored in the run") as caught:
        from_png(data)
    assert "\n" not in str(caught.value)
