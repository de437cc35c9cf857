"""Masks: every kind of file that people's tools write comes out right, or is refused by name."""
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from minilora.data import mask_rules, masks
from minilora.data.masks import decode_mask, find_masks, mask_turn, read_mask

SIZE = (96, 64)
VOC = [value for number in range(256) for value in mask_rules.voc_colour(number)]


def truth(size=SIZE):
    """Bool (H, W): a disc and a bar."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((12, 12, 44, 44), fill=1)
    draw.rectangle((60, 8, 80, 20), fill=1)
    return np.asarray(image) > 0


def two_kinds():
    """uint8 (H, W): the disc is 1, the bar is 2."""
    marks = truth().astype(np.uint8)
    marks[:, 60:] *= 2
    return marks


def palette_image(numbers, palette=VOC):
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(palette)
    return image


def with_alpha(colours, alpha):
    image = Image.fromarray(colours) if isinstance(colours, np.ndarray) else Image.new(
        "RGB", SIZE, colours)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def with_border(marks):
    """VOC's number 255 in a line around the marks."""
    grown = np.asarray(Image.fromarray(truth()).convert("L").filter(ImageFilter.MaxFilter(5)))
    return np.where((grown > 0) & (marks == 0), 255, marks)


def photograph():
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC))


def colours(red, green, blue):
    return Image.fromarray(np.stack([red, green, blue], 2).astype(np.uint8))


def jpeg_copy(values):
    """What is left of a mask that was saved as JPEG and then as something else."""
    content = io.BytesIO()
    Image.fromarray(values).save(content, "JPEG", quality=60)
    return Image.open(content)


m = truth()
RIGHT = {       # name: (what is saved, options of save)
    "mvtec.png": (Image.fromarray(m.astype(np.uint8) * 255), {}),
    "ones.png": (Image.fromarray(m.astype(np.uint8)), {}),
    "one value.bmp": (Image.fromarray(m.astype(np.uint8) * 100), {}),
    "one-bit.png": (Image.fromarray(m), {}),
    "one-bit.tif": (Image.fromarray(m), {"compression": "group4"}),
    "16-bit ones.png": (Image.fromarray(m.astype(np.uint16)), {}),
    "16-bit full.tif": (Image.fromarray(m.astype(np.uint16) * 65535), {}),
    "32-bit ones.tif": (Image.fromarray(m.astype(np.int32)), {}),
    "float.tif": (Image.fromarray(m.astype(np.float32)), {}),
    "visa.png": (Image.fromarray(two_kinds() * 3), {}),
    "loco.png": (Image.fromarray(np.where(m, 255 - two_kinds(), 0).astype(np.uint8)), {}),
    "labelme.png": (palette_image(two_kinds()), {}),
    "voc border.png": (palette_image(with_border(two_kinds())), {}),
    "voc as colours.png": (palette_image(with_border(two_kinds())).convert("RGB"), {}),
    "voc 255 only.png": (palette_image(m * 255), {}),
    "gimp indexed.png": (palette_image(~m, [255] * 3 + [0] * 3), {}),
    "gimp indexed red.png": (palette_image(~m, [255, 0, 0] + [0] * 3), {}),
    "red on black.png": (colours(m * 255, m * 0, m * 0), {}),
    "white rgb.png": (Image.fromarray(m.astype(np.uint8) * 255).convert("RGB"), {}),
    "alpha black.png": (with_alpha("black", m * 255), {}),
    "alpha white.png": (with_alpha("white", m * 255), {}),
    "alpha photo.png": (with_alpha(photograph(), m * 255), {}),
    "alpha two colours.png": (with_alpha(np.stack([m * 255, two_kinds() * 90, m * 0], 2
                                                  ).astype(np.uint8), m * 255), {}),
    "alpha full.png": (with_alpha(np.repeat(m[..., None] * 255, 3, 2).astype(np.uint8),
                                  np.full(m.shape, 255)), {}),
    "alpha corner.png": (with_alpha(np.repeat(m[..., None] * 255, 3, 2).astype(np.uint8),
                                    np.pad(np.full((m.shape[0], m.shape[1] - 9), 255),
                                           ((0, 0), (9, 0)))), {}),
    "grey alpha.png": (with_alpha("black", m * 255).convert("LA"), {}),
    "palette alpha.gif": (with_alpha("white", m * 255), {}),
    "clear is white.png": (Image.fromarray(~m).convert("L"), {"transparency": 255}),
    "clear is white rgb.png": (colours(~m * 255, ~m * 255, ~m * 255),
                               {"transparency": (255, 255, 255)}),
    "clear is white 1-bit.png": (Image.fromarray(~m), {"transparency": 1}),
    "lossless.webp": (Image.fromarray(m.astype(np.uint8) * 255), {"lossless": True}),
}
NEARLY = {      # right up to the edges
    "white.jpg": (Image.fromarray(m.astype(np.uint8) * 255), {}),
    "poor white.jpg": (Image.fromarray(m.astype(np.uint8) * 255), {"quality": 30}),
    "grey 100.jpg": (Image.fromarray((m * 100 + np.random.default_rng(0).integers(0, 4, m.shape)
                                      ).astype(np.uint8)), {}),
    "red.jpg": (colours(m * 255, m * 0, m * 0), {}),
    "blue.jpg": (colours(m * 0, m * 0, m * 255), {}),
    "lossy.webp": (Image.fromarray(m.astype(np.uint8) * 255), {"quality": 60}),
    "copy of a jpeg.png": (jpeg_copy(m.astype(np.uint8) * 240 + 3), {}),
    "soft edges.png": (Image.fromarray(m.astype(np.uint8) * 255).filter(
        ImageFilter.GaussianBlur(1.5)), {}),
    "soft alpha.png": (with_alpha("black", np.asarray(Image.fromarray(
        m.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1)))), {}),
}
def photograph_on_black(marked=False):
    """A product with a texture; or what labelme calls a visualisation, the marks drawn on it."""
    grains = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    grains = np.asarray(Image.fromarray(grains).filter(ImageFilter.GaussianBlur(3)), float)
    grains = np.stack([(grains - 128) * 2 + (50 if marked else 140)] * 3, 2).clip(0, 255)
    grains[:96] = 2
    if marked:
        grains[150:200, 150:200] = grains[150:200, 150:200] / 2 + [128, 0, 0]
    return Image.fromarray(grains.astype(np.uint8))


far = np.zeros((64, 96), np.uint8)
far[4:20, 4:20], far[50:52, 40:90] = 255, 90                    # a thin line far from the marks
grey_and_white = (two_kinds() * 90 + (two_kinds() > 1) * 75).astype(np.uint8)
REFUSED = {
    "white and grey.png": (Image.fromarray(grey_and_white), {}, "areas of value 90 beside 255"),
    "white and grey.jpg": (Image.fromarray(grey_and_white), {"quality": 95}, "areas of value"),
    "thin grey far away.png": (Image.fromarray(far), {}, "values up to 90 far from what is marked"),
    "voc border.jpg": (palette_image(with_border(two_kinds())).convert("RGB"), {"quality": 95},
                       "in the colours of Pascal VOC"),
    "photograph on black.png": (photograph_on_black(), {}, "its marks have values from"),
    "visualisation.png": (photograph_on_black(True), {}, "areas of value"),
    "16-bit with a clear value.png": (Image.fromarray(m.astype(np.uint16)), {"transparency": 1},
                                      "transparent value"),
    "numbers and 255.png": (Image.fromarray(with_border(two_kinds()).astype(np.uint8)), {},
                            "small numbers, 1 to 2, beside 255"),
    "ones.jpg": (Image.fromarray(m.astype(np.uint8)), {}, "a lossy file with values up to"),
    "from one on.png": (Image.fromarray(two_kinds() + 1), {}, "no black background"),
    "red on white.png": (colours(np.full(m.shape, 255), ~m * 255, ~m * 255), {}, "none of them is black"),
    "alpha and soft edges.png": (with_alpha(np.repeat(np.asarray(Image.fromarray(
        m.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2)))[..., None], 3, 2),
        np.pad(np.full((m.shape[0], m.shape[1] - 9), 255), ((0, 0), (9, 0)))), {},
        "both its transparency and its brightness"),
    "photograph.png": (Image.fromarray(photograph()), {}, "areas of value|no black background"),
    "heat.tif": (Image.fromarray(np.linspace(0, 1, m.size, dtype=np.float32).reshape(m.shape)), {},
                 "floating-point"),
    "two pages.tif": (Image.fromarray(m), {"save_all": True, "append_images": [
        Image.fromarray(~m)]}, "several pages"),
}


def save(folder, name, image, options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", RIGHT)
def test_a_mask_of_every_kind_marks_the_same_pixels(name, tmp_path):
    marked = decode_mask(save(tmp_path, name, *RIGHT[name])).marked
    assert marked.dtype == bool and np.array_equal(marked, m)


@pytest.mark.parametrize("name", NEARLY)
def test_lossy_masks_and_soft_edges_differ_at_the_edges_only(name, tmp_path):
    marked = decode_mask(save(tmp_path, name, *NEARLY[name])).marked
    edge = np.asarray(Image.fromarray(m).convert("L").filter(ImageFilter.MaxFilter(5))) != \
        np.asarray(Image.fromarray(m).convert("L").filter(ImageFilter.MinFilter(5)))
    assert np.array_equal(marked[~edge], m[~edge]) and (marked != m).mean() < 0.02


@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_cannot_be_read_without_guessing_is_refused_by_name(name, tmp_path):
    image, options, words = REFUSED[name]
    path = save(tmp_path, name, image, options)
    with pytest.raises(ValueError, match=words) as error:
        decode_mask(path)
    assert str(path) in str(error.value) and "; save it as a PNG" in str(error.value)


def test_a_mask_may_be_empty_or_full_and_says_so():
    assert mask_rules.marks_of(Image.new("L", SIZE), False).rule == "empty"
    assert mask_rules.marks_of(Image.new("L", SIZE, 255), False).marked.all()


def test_an_inverted_mask_is_not_turned_round(tmp_path):
    path = save(tmp_path, "inverted.png", Image.fromarray(~m * np.uint8(255)), {})
    assert np.array_equal(decode_mask(path).marked, ~m)


def test_the_palette_of_voc_is_that_of_the_development_kit():
    """The first colours of VOC's table, and the border's."""
    assert [mask_rules.voc_colour(k) for k in (0, 1, 2, 3, 4, 8, 9, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (64, 0, 0), (192, 0, 0),
        (0, 64, 128), (224, 224, 192)]


# Pairs

@pytest.mark.parametrize("name", ["000_mask.png", "000.png", "000_mask.PNG", "000.bmp",
                                  "000_mask.tif", "000.JPEG", "000_mask.webp"])
def test_a_mask_is_found_by_its_stem(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    picture = tmp_path / "elsewhere" / "000.jpg"
    assert find_masks(tmp_path, [picture]) == {picture: tmp_path / name}


def test_a_mask_in_another_case_is_found_unless_it_is_that_of_another_picture(tmp_path):
    pictures = [tmp_path / "p" / name for name in ("a.png", "A.png", "b.png", "IMG_1.JPG")]
    for name in ("A.png", "B_MASK.PNG", "img_1_Mask.png"):
        (tmp_path / name).write_bytes(b"")
    assert [mask and mask.name for mask in find_masks(tmp_path, pictures).values()] == [
        None, "A.png", "B_MASK.PNG", "img_1_Mask.png"]


def test_the_usual_name_goes_first_and_several_others_are_an_error(tmp_path):
    pictures = [tmp_path / "p" / "000.png", tmp_path / "p" / "001.png"]
    for name in ("000_mask.png", "000.png", ".000.png", "0001.png", "001_other.png", "001.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_masks(tmp_path, pictures) == {pictures[0]: tmp_path / "000_mask.png",
                                              pictures[1]: None}
    for name in ("001.bmp", "001_mask.bmp"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="001.png has 2 masks, 001_mask.bmp, 001.bmp in "):
        find_masks(tmp_path, pictures)


def test_a_folder_of_masks_is_their_union(tmp_path):
    """MVTec LOCO keeps one file for each defect of a picture."""
    (tmp_path / "000").mkdir()
    for number in (1, 2):
        marks = (two_kinds() == number).astype(np.uint8) * 255
        Image.fromarray(marks).save(tmp_path / "000" / f"{number}.png")
    picture = tmp_path / "p" / "000.png"
    assert find_masks(tmp_path, [picture]) == {picture: tmp_path / "000"}
    assert np.array_equal(decode_mask(tmp_path / "000").marked, m)
    assert torch.equal(read_mask(tmp_path / "000", SIZE[::-1], SIZE), torch.from_numpy(m))


# Pictures that are stored turned

def turned_picture(path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_sizes_tell_whether_a_mask_is_turned_with_its_picture(orientation, tmp_path):
    """The stored picture is wide, the upright one is high; a mask may have either form."""
    turned_picture(tmp_path / "photo.jpg", orientation, SIZE)
    stored = Image.fromarray(m.astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "noted.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "noted.png"))
    upright.save(tmp_path / "upright.png")
    stored.save(tmp_path / "stored.png")
    expected = np.asarray(upright) > 0
    for name in ("upright.png", "stored.png", "noted.png"):
        marked = decode_mask(tmp_path / name, tmp_path / "photo.jpg").marked
        assert np.array_equal(marked, expected), name


@pytest.mark.parametrize("orientation, size", [(6, (64, 64)), (3, SIZE), (2, SIZE)])
def test_a_mask_whose_turn_cannot_be_known_is_refused_with_the_remedy(orientation, size, tmp_path):
    turned_picture(tmp_path / "photo.jpg", orientation, size)
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"photo.jpg is stored turned .EXIF orientation "
                                         f"{orientation}.*mask.png.*save the picture upright"):
        mask_turn(tmp_path / "mask.png", tmp_path / "photo.jpg")
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("L", size, 255).save(tmp_path / "mask.png", exif=exif)
    assert mask_turn(tmp_path / "mask.png", tmp_path / "photo.jpg") == 1, "the mask says: upright"


@pytest.mark.parametrize("module", [masks, mask_rules])
def test_the_demos_print_at_most_12_lines(module, capsys):
    module.demo()
    assert 0 < len(capsys.readouterr().out.splitlines()) <= 12
