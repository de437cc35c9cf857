"""From a file to a picture: what is decoded is bounded, and what may be wrong is noted."""
import argparse
import os
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from minilora.data import bit_depth, decoding, frames
from minilora.data.decoding import open_image, read_image
from minilora.data.images import MAX_RESIZED, clip_preprocess, to_patches
from minilora.io.notes import take_notes


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    take_notes()
    monkeypatch.setattr(decoding, "_limit", {"megapixels": 50.0})


def camera(path, top, dtype=np.uint16):
    """A grey ramp from 0 to `top`."""
    Image.fromarray(np.linspace(0, top, 64).reshape(8, 8).round().astype(dtype)).save(path)
    return path


# Size

def test_a_picture_over_the_limit_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9_400, 9_400)).save(tmp_path / "a.png")
    tracemalloc.start()
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=r"a.png is 9400x9400, 88.4 megapixels; expected at most 50"
                                         ".*--max-megapixels"):
        read_image(tmp_path / "a.png")
    assert time.perf_counter() - begun < 1 and tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_the_option_moves_the_limit_in_both_directions(tmp_path, recwarn):
    Image.new("1", (400, 300)).save(tmp_path / "a.png")
    p = argparse.ArgumentParser()
    decoding.megapixel_option(p.add_argument)
    p.parse_args(["--max-megapixels", "0.1"])
    with pytest.raises(ValueError, match="0.1 megapixels; expected at most 0.1;"):
        read_image(tmp_path / "a.png")
    p.parse_args(["--max-megapixels", "200"])
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    assert open_image(tmp_path / "large.png").size == (10_000, 9_000)
    assert not recwarn.list, "Pillow's own limit of 89 megapixels does not speak as well"
    assert Image.MAX_IMAGE_PIXELS == 89_478_485, "and is as before"
    for wrong in ("0", "-1", "nan", "inf", "much"):
        with pytest.raises(SystemExit):
            p.parse_args(["--max-megapixels", wrong])


def test_frames_of_animations_and_videos_have_the_same_limit(tmp_path, monkeypatch):
    picture = Image.new("L", (400, 300))
    picture.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (400, 300), 9)])
    assert len(list(frames.all_frames(tmp_path / "a.gif"))) == 2
    decoding._limit["megapixels"] = 0.1
    with pytest.raises(ValueError, match="a.gif is 400x300, 0.1 megapixels"):
        list(frames.all_frames(tmp_path / "a.gif"))


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    """Each scan passes over all pixels: 10 MB of scans of a large picture would take hours."""
    Image.radial_gradient("L").save(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    assert open_image(tmp_path / "a.jpg").size == (256, 256)
    last = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:last] + content[last:-2] * 1000 + content[-2:])
    with pytest.raises(ValueError, match=r"a.jpg is a JPEG of 1,\d+ scans; expected at most 100"):
        open_image(tmp_path / "a.jpg")


def test_a_line_of_60000_pixels_is_refused_or_cut_with_little_memory(tmp_path):
    Image.new("RGB", (1, 60_000), (9, 9, 9)).save(tmp_path / "line.png")
    image = read_image(tmp_path / "line.png")
    with pytest.raises(ValueError, match=r"line.png of 1x60000 would become 224x13440000.*cut it"):
        to_patches(image, 224, 16)
    assert clip_preprocess(image, 224).unique().tolist() == [9]
    assert to_patches(Image.new("RGB", (20, 5_000)), 224, 16).shape == (3, 56_000, 224)
    assert 224 * 56_000 < MAX_RESIZED


def test_the_middle_of_a_long_picture_is_that_of_the_whole(monkeypatch):
    """Cutting before resizing changes no pixel by more than rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (2_000, 20, 3), np.uint8)
    for image in (Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2))):
        whole = clip_preprocess(image, 32)
        monkeypatch.setattr("minilora.data.images.MAX_RESIZED", 1_000)
        middle = clip_preprocess(image, 32)
        monkeypatch.setattr("minilora.data.images.MAX_RESIZED", MAX_RESIZED)
        assert (whole.int() - middle.int()).abs().max() <= 1


def test_only_formats_that_people_save_are_opened(tmp_path):
    """Pillow would start Ghostscript for a PostScript file, whatever its name."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(ValueError, match="cannot read picture .*a.png: not a picture"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "renamed.jpg"])
def test_a_picture_of_a_phone_is_refused_with_the_remedy_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ValueError, match=f"{name}: found HEIC.* export as JPEG"):
        read_image(tmp_path / name)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png is a named pipe"):
        read_image(tmp_path / "pipe.png")


# Bits

def test_twelve_bits_are_scaled_like_sixteen(tmp_path):
    path = camera(tmp_path / "a.png", 4095)
    scaled, dark = np.asarray(open_image(path, 12)), np.asarray(open_image(path))
    values = np.linspace(0, 4095, 64).reshape(8, 8).round()
    assert np.array_equal(scaled, np.rint(values * 255 / 4095).astype(np.uint8))
    assert dark.max() == 16
    assert np.array_equal(np.asarray(read_image(path, 12))[..., 1], scaled)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_levels_are_rounded_as_numpy_rounds(bits):
    top = 2**bits - 1
    assert np.array_equal(bit_depth.depth_table(top),
                          np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8))


def test_unused_bits_are_noted_once_a_file_with_the_remedy(tmp_path):
    for _ in range(2):
        open_image(camera(tmp_path / "a.png", 3_900))
    open_image(camera(tmp_path / "b.png", 2_100))
    open_image(camera(tmp_path / "full.png", 60_000))
    open_image(camera(tmp_path / "black.png", 0))
    (line,) = take_notes()
    assert "a.png and 1 more file: 16-bit values use only 12 bits" in line and "--bits 12" in line
    open_image(tmp_path / "a.png", 12)
    assert take_notes() == []


def test_values_beyond_the_bits_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="a.png holds values up to 5,000; expected at most 4,095 "
                                         "with --bits 12; give --bits 13"):
        open_image(camera(tmp_path / "a.png", 5_000), 12)


def test_pictures_of_8_bits_do_not_depend_on_the_option(tmp_path):
    path = camera(tmp_path / "a.png", 200, np.uint8)
    assert np.array_equal(open_image(path), open_image(path, 12)) and take_notes() == []


def test_bits_of_the_option_are_checked():
    p = argparse.ArgumentParser()
    bit_depth.bits_option(p.add_argument)
    assert [p.parse_args(["--bits", text]).bits for text in ("0", "8", "16")] == [0, 8, 16]
    for wrong in ("7", "17", "-1", "12.5", "9" * 5000, "twelve"):
        with pytest.raises(SystemExit):
            p.parse_args(["--bits", wrong])


# Pages

@pytest.mark.parametrize("name", ["pages.tif", "frames.png", "frames.webp"])
def test_pages_after_the_first_are_noted(name, tmp_path):
    first, second = (Image.new("RGB", (9, 9), c) for c in ("red", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    pixel = read_image(tmp_path / name).getpixel((4, 4))
    assert pixel[0] > 200 and pixel[2] < 50
    (line,) = take_notes()
    assert name in line and "only the first page or frame is used" in line
    first.save(tmp_path / "one.tif")
    read_image(tmp_path / "one.tif")
    assert take_notes() == []


@pytest.mark.parametrize("module", [decoding, bit_depth])
def test_the_demos_print_at_most_12_lines(module, capsys):
    module.demo()
    assert 0 < len(capsys.readouterr().out.splitlines()) <= 12


def test_reading_is_safe_in_threads(tmp_path):
    """Pillow's limit is one value for all threads; it is the usual one afterwards."""
    from concurrent.futures import ThreadPoolExecutor
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    with ThreadPoolExecutor(8) as threads:
        pictures = list(threads.map(read_image, [tmp_path / "a.png"] * 200))
    assert len(pictures) == 200 and Image.MAX_IMAGE_PIXELS == 89_478_485
