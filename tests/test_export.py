"""Boxes, polygons and run lengths: exact, and valid for pycocotools and the VOC schema."""
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xmlschema
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as peer
from pycocotools.coco import COCO

from minilora import export
from minilora.checkpoint.weights import save_official
from minilora.detector import Detector
from minilora.fit import parse
from minilora.report import contours
from minilora.runs.run_class import run_class
from minilora.scenes import scene

# pycocotools returns arrays in a way that numpy 2 will not accept for ever
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**81 - 1)).map(
    lambda t: torch.tensor([t[2] >> k & 1 for k in range(t[0] * t[1])]).bool().view(t[:2]))


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_runs_are_those_of_pycocotools_and_come_back(mask):
    runs = contours.encode_rle(mask)
    assert torch.equal(contours.decode_rle(runs), mask)
    height, width = mask.shape
    theirs = peer.decode(peer.frPyObjects(dict(runs), height, width))
    assert np.array_equal(theirs, mask.numpy())


def in_picture(region, mask):
    """The region's mask at its place in a picture as large as `mask`."""
    left, top, width, height = region.box
    whole = torch.zeros_like(mask)
    whole[top:top + height, left:left + width] = region.mask
    return whole


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_regions_cover_the_mask_once_and_boxes_are_tight(mask):
    found = contours.regions(mask)
    assert sum((in_picture(r, mask).int() for r in found),
               start=torch.zeros_like(mask).int()).equal(mask.int())
    for region in found:
        assert region.mask.sum() == region.area and region.mask.shape == region.box[:1:-1]
        whole = in_picture(region, mask).numpy().astype("uint8")
        assert peer.toBbox(peer.encode(np.asfortranarray(whole))).tolist() == list(region.box)
        left, top, _, _ = region.box
        assert contours.encode_rle(region.mask, left, top, mask.shape) == contours.encode_rle(
            torch.from_numpy(whole).bool())
    assert [r.area for r in found] == sorted((r.area for r in found), reverse=True)


def filled(mask, corners, inside):
    """Pixels whose centre an outline encloses, by counting crossings to the left."""
    height, width = mask.shape
    for row in range(height):
        for column in range(width):
            crossings = 0
            for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1]):
                if x == u and x <= column and min(y, v) <= row < max(y, v):
                    crossings += 1
            if crossings % 2:
                mask[row, column] = inside
    return mask


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_outlines_enclose_exactly_the_region(mask):
    for region in contours.regions(mask):
        outer, holes = contours.outlines(region.mask)
        assert len(outer) == 1, "parts that touch at a corner have one outline"
        again = filled(torch.zeros_like(region.mask), outer[0], True)
        for hole in holes:
            again = filled(again, hole, False)
        assert torch.equal(again, region.mask)


def test_polygons_are_drawn_by_pycocotools_as_they_were():
    picture = Image.new("L", (60, 50))
    ImageDraw.Draw(picture).polygon([(5, 4), (50, 10), (30, 45), (12, 30)], fill=255)
    mask = torch.from_numpy(np.array(picture) > 0)
    (region,) = contours.regions(mask)
    theirs = peer.decode(peer.merge(peer.frPyObjects(export.segmentation(region, (60, 50), False), 50, 60)))
    assert np.array_equal(theirs, mask.numpy())


def test_damaged_runs_are_named():
    with pytest.raises(ValueError, match="expected 6 pixels in all, found 5"):
        contours.decode_rle({"size": [2, 3], "counts": [2, 3]})


@pytest.fixture
def fitted(tmp_path, tiny_clip, monkeypatch):
    """A run on drawn gears, and a picture of them that it calls NG, with a known region."""
    save_official(tiny_clip, tmp_path / "tiny.safetensors")
    scene.write_class(tmp_path / "data", "gear", good=3, test_good=2, defective=1, resolution=64)
    options = parse(["--class", "gear", "--shots", "2", "--steps", "1", "--data",
                     str(tmp_path / "data"), "--model", str(tmp_path / "tiny.safetensors"), "--out",
                     str(tmp_path / "run")])
    run_class(options, say=lambda line: None)

    def known(detector, pixels):                        # an L-shaped region in every second picture
        known.calls += 1
        maps = torch.zeros(1, 64, 64)
        maps[0, 8:40, 8:20] = maps[0, 28:40, 8:50] = 10 * detector.threshold * (known.calls % 2)
        return maps, maps.amax((1, 2))
    known.calls = 0
    monkeypatch.setattr(Detector, "score", known)
    return tmp_path


def test_regions_are_above_the_pixel_threshold(fitted, monkeypatch):
    from minilora.predict import open_with_threshold
    detector = open_with_threshold(fitted / "run", str(fitted / "tiny.safetensors"))
    picture = Image.new("RGB", (64, 64))
    before = export.suspicious_regions(detector, picture)[0]            # the known region
    monkeypatch.setattr(Detector, "pixel_threshold", lambda *_: torch.tensor([1e9]))
    known = Detector.score
    known.calls = 0
    assert before.any() and not export.suspicious_regions(detector, picture)[0].any()


def exported(folder, form, *more):
    options = export.parser().parse_args([
        str(folder / "run"), str(folder / "data/gear/test"), "--model",
        str(folder / "tiny.safetensors"),
        "--format", form, "--out", str(folder / "out"), *more])
    return export.run_export(options, lambda line: None), folder / "out"


def test_coco_is_read_by_pycocotools(fitted, capsys):
    for more in ((), ("--runs",)):
        status, out = exported(fitted, "coco", *more)
        made = COCO(str(out / "annotations.json"))
        assert status == 0 and len(made.getImgIds()) == 6
        assert made.loadCats(made.getCatIds())[0]["name"] == "defect"
        found = made.loadAnns(made.getAnnIds())
        assert len(found) == 3, "none in pictures that are OK"
        for one in found:
            info = made.loadImgs(one["image_id"])[0]
            assert Image.open(out / "pictures" / info["file_name"]).size == (info["width"],
                                                                            info["height"])
            mask = made.annToMask(one)
            assert mask.sum() == one["area"] == peer.area(made.annToRLE(one))
            assert peer.toBbox(made.annToRLE(one)).tolist() == one["bbox"]
            assert isinstance(one["segmentation"], dict) == bool(more)


def test_voc_fits_the_schema_and_the_picture(fitted):
    _, out = exported(fitted, "voc")
    schema = xmlschema.XMLSchema(REPO / "tests/fixtures/voc.xsd")
    names = (out / "ImageSets" / "Main" / "default.txt").read_text().split()
    assert len(names) == 6 == len(list((out / "Annotations").iterdir()))
    boxes = 0
    for name in names:
        path = out / "Annotations" / f"{name}.xml"
        schema.validate(path)
        root = ElementTree.parse(path).getroot()
        assert (out / "pictures" / root.findtext("filename")).exists()
        for box in root.iter("bndbox"):
            xmin, ymin, xmax, ymax = (int(v.text) for v in box)
            assert 1 <= xmin < xmax <= int(root.findtext("size/width"))
            assert 1 <= ymin < ymax <= int(root.findtext("size/height"))
            boxes += 1
    assert boxes == 3


def test_masks_mark_the_suspicious_region(fitted):
    _, out = exported(fitted, "masks", "--no-pictures")
    masks = [np.array(Image.open(p)) for p in sorted((out / "masks").iterdir())]
    assert {tuple(np.unique(m)) for m in masks} == {(0,), (0, 255)}
    assert masks[0][12:36, 10:18].min() == 255 and masks[0][45:, :].max() == 0
    assert not (out / "pictures").exists()


def test_another_format_replaces_the_earlier_one(fitted):
    exported(fitted, "voc")
    _, out = exported(fitted, "coco")
    assert not list((out / "Annotations").glob("*.xml")) and (out / "annotations.json").exists()


def test_small_regions_are_left_out_and_a_bad_picture_is_named(fitted):
    (fitted / "data/gear/test/good/broken.png").write_bytes(b"no picture")
    status, out = exported(fitted, "coco", "--least", "100000")
    assert status == 2 and json.loads((out / "annotations.json").read_text())["annotations"] == []


def test_a_run_without_a_threshold_is_refused(fitted):
    options = parse(["--class", "gear", "--shots", "0", "--data", str(fitted / "data"), "--model",
                     str(fitted / "tiny.safetensors"), "--out", str(fitted / "bare")])
    run_class(options, say=lambda line: None)
    with pytest.raises(ValueError, match="has no threshold"):
        export.run_export(export.parser().parse_args([str(fitted / "bare"), "x", "--model",
                                               str(fitted / "tiny.safetensors")]), print)
