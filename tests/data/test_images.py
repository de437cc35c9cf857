"""Pixels: CLIP's preprocessing, our deviations from it, whole pictures, masks, augmentation."""

import numpy as np
import pytest
import torch
from conftest import REPO, shared_path
from PIL import Image

from minilora.data import augmentation, bit_depth, images
from minilora.data.augmentation import _rotate_and_shift, augment
from minilora.data.decoding import open_image, read_header, read_image
from minilora.data.images import (CLIP_MEAN, CLIP_STD, clip_preprocess, cut_strips, group_by_shape,
                                  normalise, strip_bounds, to_patches, to_square)
from minilora.data.masks import read_mask

KEPT = REPO / "tests/fixtures/preprocess"       # two of the eight, part of the repository
NAMES = ("sq224", "land", "port", "tiny", "gray", "rgba", "wide", "pal")


def picture(height, width, seed=0, channels=3):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze())


def batch(count=2, resolution=24, seed=0):
    shape = (count, 3, resolution, resolution)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_grey_level_after_preprocessing_equals_that_of_clip(name):
    """Square, wide, tall, tiny, grey, transparent and palette pictures: no value differs."""
    path = shared_path(f"golden/preprocess/{name}.png")
    expected = np.load(shared_path("golden/preprocess/expected_224.npz"))[name]
    assert np.array_equal(clip_preprocess(open_image(path)).numpy(), expected)


@pytest.mark.parametrize("name", ("tiny", "pal"))
def test_preprocessing_equals_that_of_clip_on_the_pictures_in_the_repository(name):
    expected = np.asarray(Image.open(KEPT / f"{name}_clip224.png")).transpose(2, 0, 1)
    assert np.array_equal(clip_preprocess(open_image(KEPT / f"{name}.png")).numpy(), expected)


def test_clip_converts_to_rgb_after_resizing():
    """A palette picture is resized by nearest neighbour: only colours of its palette remain."""
    image = open_image(KEPT / "pal.png")
    palette = set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))
    late, early = clip_preprocess(image), clip_preprocess(image.convert("RGB"))
    assert set(map(tuple, late.flatten(1).T.tolist())) <= palette
    assert not set(map(tuple, early.flatten(1).T.tolist())) <= palette


def test_a_square_picture_of_the_right_size_passes_unchanged():
    image = picture(32, 32)
    assert np.array_equal(clip_preprocess(image, 32).permute(1, 2, 0).numpy(), np.asarray(image))
    assert torch.equal(to_square(image, 32), clip_preprocess(image, 32).float() / 255)


def test_recognition_crops_a_wide_picture_and_detection_does_not():
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (280, 0, 300, 100))        # a white strip at the right end
    assert clip_preprocess(image, 64).max() == 0
    assert to_square(image, 64)[:, :, -1].min() > 0.99


@pytest.mark.parametrize("width, height, size", [
    (250, 635, (576, 224)), (635, 250, (224, 576)), (100, 100, (224, 224)), (1000, 750, (224, 304)),
    (3000, 3001, (224, 224)), (10, 1000, (22400, 224))])
def test_detection_keeps_the_aspect_ratio_up_to_half_a_patch(width, height, size):
    pixels = to_patches(Image.new("RGB", (width, height)), 224, 16)
    assert pixels.shape == (3, *size) and pixels.dtype == torch.float32
    exact = 224 / min(width, height)
    for side, given in zip(size, (height, width)):
        assert side % 16 == 0 and abs(side - given * exact) <= 8, "half a patch at most"


def test_a_resolution_that_is_not_a_multiple_of_the_patch_is_rounded_to_one():
    assert to_patches(Image.new("RGB", (300, 200)), 200, 16).shape == (3, 192, 304)
    assert to_patches(Image.new("RGB", (300, 200)), 5, 16).shape == (3, 16, 16), "not 0"


@pytest.mark.parametrize("size", [(64, 64), (64, 256), (64, 272), (1024, 64), (16, 1600), (16, 80), (16, 16),
                                  (48, 1008), (4800, 224)])
def test_long_pictures_are_cut_into_strips_that_keep_every_patch_once(size):
    pixels = torch.arange(size[0] * size[1]).view(1, *size)
    cut, pieces = strip_bounds(size, 16), cut_strips(pixels, 16)
    long, short = max(size), min(size)
    assert (len(cut) == 1) == (long <= 4 * short)
    axis, kept = (1 if size[0] > size[1] else 2), []
    for piece, (first, last, low, high) in zip(pieces, cut, strict=True):
        assert piece.shape[axis] == last - first == min(long, 4 * short)
        assert 0 <= low < high <= (last - first) // 16
        kept.append(piece.narrow(axis, 16 * low, 16 * (high - low)))
    assert torch.equal(torch.cat(kept, axis), pixels)
    for (_, end, *_), (start, *_) in zip(cut, cut[1:]):
        assert end - start >= short / 2, "strips overlap"


def test_to_patches_equals_to_square_for_a_square_picture():
    image = picture(100, 100)
    assert torch.equal(to_patches(image, 64, 16), to_square(image, 64))


def test_reduction_is_antialiased():
    """Black and white columns become a uniform grey; without antialiasing stripes remain."""
    stripes = np.zeros((64, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    square = to_square(Image.fromarray(stripes), 64)
    assert (square[:, :, 4:-4] - 0.5).abs().max() < 0.01


def test_grey_becomes_three_equal_channels():
    pixels = to_square(picture(40, 50, channels=1), 32)
    assert pixels.shape == (3, 32, 32)
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])


def test_normalising_maps_clips_mean_to_0_and_one_standard_deviation_above_to_1():
    grey = torch.tensor(CLIP_MEAN).view(3, 1, 1).expand(3, 4, 4)
    assert normalise(grey).abs().max() == 0
    above = grey + torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(normalise(above), torch.ones(3, 4, 4), atol=1e-6)     # float32 rounding
    levels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(normalise(levels), normalise(levels.float() / 255))


# Two stated deviations from CLIP

def test_deviation_16_bit_grey_is_scaled_not_clipped(tmp_path):
    """65535 / 257 = 255.  Pillow's convert("RGB") clips at 255, so nearly everything is white."""
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = open_image(tmp_path / "deep.png")
    assert read.mode == "L"
    assert np.asarray(read).tolist() == [[0, 0, 1, 1], [4, 128, 254, 255]]
    assert np.array_equal(np.asarray(read), np.rint(values / 257).astype(np.uint8))
    assert read_image(tmp_path / "deep.png").mode == "RGB"


def test_32_bit_integers_are_accepted_only_if_their_values_fit_16_bits(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "fits.tif")
    assert np.asarray(open_image(tmp_path / "fits.tif")).tolist() == [[0, 255]]
    Image.fromarray(np.array([[-1, 70000]], dtype=np.int32)).save(tmp_path / "over.tif")
    with pytest.raises(ValueError, match="over.tif holds values from -1 to 70000"):
        open_image(tmp_path / "over.tif")
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match="real.tif holds floating-point"):
        open_image(tmp_path / "real.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deviation_exif_rotation_is_applied(tmp_path, orientation):
    """A camera stores a portrait on its side and notes this in EXIF; CLIP ignores the note."""
    stored = picture(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    upright_of = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
                  5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
                  7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: np.rot90}[orientation]
    upright = read_image(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(upright), upright_of(np.asarray(stored)))
    assert read_header(tmp_path / "photo.png") == ("RGB", upright.size)


@pytest.mark.parametrize("content", (b"", b"not a picture", "half"))
def test_the_error_names_an_unreadable_picture(tmp_path, content):
    path = tmp_path / "broken.png"
    if content == "half":
        picture(64, 64).save(path)
        content = path.read_bytes()[:5000]                  # a complete header, incomplete pixels
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read picture .*broken.png.*copy it again"):
        read_image(path)


def test_the_error_names_a_missing_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png not found"):
        read_image(tmp_path / "nowhere.png")


# Masks

def test_a_mask_pixel_is_marked_when_half_its_area_is(tmp_path):
    marks = np.zeros((8, 8), np.uint8)
    marks[0:2, 0:2] = 255                                   # all of the first 2x2 cell,
    marks[0:2, 4] = 255                                     # half of the third,
    marks[4, 0] = 255                                       # a quarter of another
    Image.fromarray(marks).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 4)
    assert mask.dtype == torch.bool
    assert mask.nonzero().tolist() == [[0, 0], [0, 2]]


def test_a_mask_may_use_1_instead_of_255(tmp_path):
    marks = (np.random.default_rng(0).random((16, 16)) < 0.3).astype(np.uint8)
    for name, scale in (("ones", 1), ("full", 255)):
        Image.fromarray(marks * scale).save(tmp_path / f"{name}.png")
    assert torch.equal(read_mask(tmp_path / "ones.png", 16), read_mask(tmp_path / "full.png", 16))
    assert torch.equal(read_mask(tmp_path / "ones.png", 16), torch.from_numpy(marks == 1))
    Image.new("L", (16, 16)).save(tmp_path / "none.png")
    assert not read_mask(tmp_path / "none.png", 16).any()


def test_a_rectangular_mask_is_resized_to_height_and_width(tmp_path):
    marks = np.zeros((8, 16), np.uint8)
    marks[4:, 8:12] = 255
    Image.fromarray(marks).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (2, 4), size=(16, 8))
    assert mask.tolist() == [[False] * 4, [False, False, True, False]]


def test_a_mask_of_another_size_and_a_missing_mask_are_errors(tmp_path):
    Image.new("L", (16, 12)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", 8, size=(16, 12)).shape == (8, 8)
    with pytest.raises(ValueError, match="m.png is 16x12, its picture 12x16"):
        read_mask(tmp_path / "m.png", 8, size=(12, 16))
    with pytest.raises(ValueError, match="no mask.*ground_truth"):
        read_mask(None, 8)


# Augmentation

def test_the_same_generator_state_gives_the_same_pictures():
    pixels = batch()
    assert torch.equal(augment(pixels, seeded(3)), augment(pixels, seeded(3)))
    assert not torch.equal(augment(pixels, seeded(3)), augment(pixels, seeded(4)))
    assert torch.equal(pixels, batch()), "the input is not modified"


def test_rotations_by_90_degrees_and_flips_only_move_pixels():
    """All eight symmetries of the square occur, and the pixel values stay the same."""
    pixels = batch(1).expand(200, 3, 24, 24)
    rotated = augment(pixels, seeded(0), angle=0, shift=0, brightness=0, contrast=0, gamma=0)
    assert torch.equal(rotated.flatten(2).sort().values, pixels.flatten(2).sort().values)
    assert len({t.numpy().tobytes() for t in rotated}) == 8
    without_flips = augment(pixels, seeded(0), flips=False, angle=0, shift=0, brightness=0,
                            contrast=0, gamma=0)
    assert len({t.numpy().tobytes() for t in without_flips}) == 4


def test_everything_switched_off_is_the_identity():
    pixels = batch()
    same = augment(pixels, seeded(0), rotations=False, flips=False, angle=0, shift=0, brightness=0,
                   contrast=0, gamma=0)
    assert torch.equal(same, pixels)


def test_rotation_and_shift_move_pixels_to_the_expected_place():
    """A rotation by 90 degrees equals rot90; a shift of 1/24 moves everything by one pixel."""
    pixels, none = batch(), torch.zeros(2)
    angle = torch.full((2,), torch.pi / 2)
    quarter = _rotate_and_shift(pixels, angle, torch.zeros(2, 2), "border")
    assert torch.allclose(quarter, torch.rot90(pixels, 1, (2, 3)), atol=1e-5)
    moved = _rotate_and_shift(pixels, none, torch.tensor([[1 / 24, 0.0]] * 2), "border")
    assert torch.allclose(moved[..., :-1], pixels[..., 1:], atol=1e-5)


def rectangle(height, width):
    return torch.rand(1, 3, height, width, generator=seeded(0))


@pytest.mark.parametrize("height, width", [(16, 40), (40, 16)])
def test_a_rectangle_is_never_rotated_by_90_degrees(height, width):
    """Four symmetries remain: a rotation by 180 degrees, a flip, both and neither."""
    pixels = rectangle(height, width)
    still = dict(angle=0, shift=0, brightness=0, contrast=0, gamma=0)
    rotated = augment(pixels.expand(200, -1, -1, -1), seeded(0), **still)
    assert rotated.shape == (200, 3, height, width)
    symmetries = [pixels, pixels.flip(2, 3), pixels.flip(3), pixels.flip(2)]
    assert {t.numpy().tobytes() for t in rotated} == {s[0].numpy().tobytes() for s in symmetries}
    without_flips = augment(pixels.expand(50, -1, -1, -1), seeded(0), flips=False, **still)
    assert ({t.numpy().tobytes() for t in without_flips}
            == {s[0].numpy().tobytes() for s in symmetries[:2]})


def disc(height, width, radius=20.0, at=None):
    """(1, 1, height, width): a filled circle, in the middle or at (y, x)."""
    y, x = at or ((height - 1) / 2, (width - 1) / 2)
    y, x = torch.arange(height)[:, None] - y, torch.arange(width) - x
    return (y**2 + x**2 <= radius**2).float()[None, None]


def extent(picture):
    """((top, bottom), (left, right)) of the bright pixels in (1, 1, H, W)."""
    bright = picture[0, 0] > 0.5
    return tuple((int(line.nonzero().min()), int(line.nonzero().max()))
                 for line in (bright.any(1), bright.any(0)))


@pytest.mark.parametrize("height, width", [(64, 128), (128, 64)])
@pytest.mark.parametrize("degrees", [30, -45, 90])
def test_a_disc_in_a_rotated_rectangle_stays_round(height, width, degrees):
    """The rotation is in pixels; in the frame's coordinates [-1, 1] it would shear and stretch."""
    angle = torch.tensor([degrees * torch.pi / 180])
    rotated = _rotate_and_shift(disc(height, width), angle, torch.zeros(1, 2), "border")
    assert rotated.shape == (1, 1, height, width)
    for (low, high), side in zip(extent(rotated), (height, width)):
        assert abs(high - low - 40) <= 2 and abs(low + high - (side - 1)) <= 2


def test_a_rotated_rectangle_moves_a_point_as_rot90_does():
    """A disc 30 pixels right of the middle lies, after 90 degrees, 30 above it, as by rot90."""
    pixels, none = disc(128, 96, radius=6, at=(63.5, 77.5)), torch.zeros(1, 2)
    rotated = _rotate_and_shift(pixels, torch.tensor([torch.pi / 2]), none, "border")
    (top, bottom), (left, right) = extent(rotated)
    assert (top + bottom) / 2 == pytest.approx(63.5 - 30, abs=1)
    assert (left + right) / 2 == pytest.approx(47.5, abs=1)
    moved = _rotate_and_shift(pixels, torch.zeros(1), torch.tensor([[1 / 96, 2 / 128]]), "border")
    assert torch.allclose(moved[..., :-2, :-1], pixels[..., 2:, 1:], atol=1e-4)


@pytest.mark.parametrize("padding", ("reflect", "replicate"))
def test_padding_leaves_no_black_corners(padding):
    bright = torch.full((4, 3, 24, 24), 0.8)
    out = augment(bright, seeded(0), angle=45, shift=0.2, padding=padding, brightness=0,
                  contrast=0, gamma=0)
    assert torch.allclose(out, bright, atol=1e-5)


def test_brightness_changes_keep_the_range_and_the_order_of_grey_levels():
    ramp = torch.linspace(0, 1, 24).expand(50, 3, 24, 24)
    lit = augment(ramp, seeded(0), rotations=False, flips=False, angle=0, shift=0, brightness=0.3,
                  contrast=0.5, gamma=0.5)
    assert lit.min() >= 0 and lit.max() <= 1
    assert (lit.diff(dim=-1) >= 0).all(), "the order of grey levels is kept"
    assert lit[:, 0, 0, 12].std() > 0.05, "each picture gets its own change"


def test_an_empty_batch_stays_empty_and_a_picture_without_batch_dimension_is_an_error():
    assert augment(batch(0), seeded(0)).shape == (0, 3, 24, 24)
    with pytest.raises(ValueError, match=r"batch \(B, 3, H, W\), found shape \(3, 24, 24\)"):
        augment(batch()[0], seeded(0))
    with pytest.raises(ValueError, match="unknown padding 'zeros'"):
        augment(batch(), seeded(0), padding="zeros")


def test_indices_are_grouped_by_shape_in_the_order_of_the_first_of_each_shape():
    small, large = torch.zeros(3, 2, 2), torch.zeros(3, 2, 4)
    assert group_by_shape([small, large, small, large]) == [[0, 2], [1, 3]]
    assert group_by_shape([]) == []


@pytest.mark.parametrize("module", (images, augmentation, bit_depth))
def test_the_demos_show_the_mechanism(module, capsys):
    module.demo()
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) <= 12
    if module is bit_depth:
        assert "[0, 1, 128, 255]" in lines[0]
    elif module is augmentation:
        assert lines[-1].endswith("True")
