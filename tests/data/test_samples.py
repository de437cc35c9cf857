"""Masks of a data set: the ones that are missing or empty are said, and do not falsify a metric."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from minilora import fit
from minilora.data import samples
from minilora.data.mvtec import load_class
from minilora.data.samples import load_masks, mask_line, mask_summary
from minilora.data.summary import data_summary
from minilora.report import results
from minilora.runs import run_class
from minilora.scenes import scene

SIDE = 64


@pytest.fixture
def nut(tmp_path):
    """A drawn class with 2 good and several defective test pictures, each with its mask."""
    scene.write_class(tmp_path, "nut", good=3, test_good=2, defective=1, resolution=SIDE)
    return tmp_path / "nut"


@pytest.fixture(scope="module")
def complete(tiny_weights, tmp_path_factory):
    """(metrics, lines, folder) of a run with the same pictures and all masks."""
    root = tmp_path_factory.mktemp("complete")
    scene.write_class(root, "nut", good=3, test_good=2, defective=1, resolution=SIDE)
    return *run(root, tiny_weights, root / "run"), root / "run"


def masks_in(folder):
    return sorted((folder / "ground_truth").rglob("*_mask.png"))


def run(root, tiny_weights, out):
    lines = []
    options = fit.parse(["--class", "nut", "--shots", "2", "--steps", "1", "--data", str(root),
                         "--model", str(tiny_weights), "--out", str(out)])
    return run_class.run_class(options, lines.append), lines


def test_a_complete_data_set_is_said_in_one_line_and_stored(nut, complete):
    metrics, lines, folder = complete
    count = len(masks_in(nut))
    assert f"masks    {count} of {count} (two values {count})" in lines
    stored = json.loads((folder / "metrics.json").read_text())["masks"]
    assert stored == metrics["masks"] == {
        "defective": count, "read": count, "rules": {"two values": count}, "missing": [],
        "empty": [], "more_than_half": []}


def saved_as(form, path):
    """Saves a mask anew as another tool would write it, and removes the old file."""
    marks = np.asarray(Image.open(path).convert("L"))
    path.unlink()
    image = {"BMP": Image.fromarray(marks),
             "16 bit": Image.fromarray((marks > 0).astype(np.uint16)),
             "palette": Image.fromarray((marks > 0).astype(np.uint8), "P"),
             "alpha": Image.merge("LA", (Image.new("L", (SIDE, SIDE)), Image.fromarray(marks))),
             "JPEG": Image.fromarray((marks > 0) * np.uint8(100))}[form]
    if form == "palette":
        image.putpalette([0, 0, 0, 128, 0, 0])
    ending = {"BMP": ".bmp", "16 bit": ".PNG", "JPEG": "_mask.jpg"}.get(form, "_mask.PNG")
    image.save(path.with_name(path.stem.removesuffix("_mask") + ending))


def test_the_metrics_do_not_depend_on_the_form_of_the_masks(nut, complete, tiny_weights, tmp_path):
    forms = ("BMP", "16 bit", "palette", "alpha")
    for k, path in enumerate(masks_in(nut)):
        saved_as(forms[k % len(forms)], path)
    metrics = run(nut.parent, tiny_weights, tmp_path / "run")[0]
    assert sum(metrics["masks"]["rules"].values()) == metrics["masks"]["defective"] >= len(forms)
    assert metrics["rows"] == complete[0]["rows"] and metrics["rows"]["adapted"]["pixel_auroc"] > 0


def test_jpeg_masks_mark_the_same_area_up_to_its_edge(nut):
    test = load_class(nut.parent, "nut").test
    before = load_masks(test, [(SIDE, SIDE)] * len(test))
    for path in masks_in(nut):
        saved_as("JPEG", path)
    test = load_class(nut.parent, "nut").test
    after = load_masks(test, [(SIDE, SIDE)] * len(test))
    assert list(mask_summary(test)["rules"]) == ["lossy"]
    assert all((a != b).float().mean() < 0.01 and (a & b).sum() > 0.5 * a.sum()
               for s, a, b in zip(test, before, after) if s.label)


def test_a_missing_and_an_empty_mask_cost_only_their_own_pictures(nut, complete, tiny_weights,
                                                                  tmp_path):
    missing, empty, *_ = masks_in(nut)
    missing.unlink()
    Image.new("L", (SIDE, SIDE)).save(empty)
    metrics, lines = run(nut.parent, tiny_weights, tmp_path / "run")
    names = [f"{p.parent.name}/{p.name.removesuffix('_mask.png')}.png" for p in (missing, empty)]
    (line,) = [line for line in lines if line.startswith("masks ")]
    assert f"1 missing: {names[0]}; 1 empty: {names[1]}; pixel metrics leave" in line
    assert metrics["masks"]["missing"] == names[:1] and metrics["masks"]["empty"] == names[1:]
    test = load_class(nut.parent, "nut").test
    masks = load_masks(test, [(SIDE, SIDE)] * len(test))
    assert [f"{s.kind}/{s.path.name}" for s, mask in zip(test, masks) if mask is None] == names
    row, whole = metrics["rows"]["adapted"], complete[0]["rows"]["adapted"]
    assert row["image_auroc"] == whole["image_auroc"]
    assert row["pixel_auroc"] is not None and row["pixel_auroc"] != whole["pixel_auroc"]


def test_pixel_metrics_are_those_of_the_pictures_with_masks():
    generator = torch.Generator().manual_seed(0)
    maps = list(torch.rand(6, 16, 16, generator=generator))
    masks = [m > 0.8 for m in torch.rand(6, 16, 16, generator=generator)]
    some = [None if k in (1, 4) else mask for k, mask in enumerate(masks)]
    kept = [k for k in range(6) if k not in (1, 4)]
    assert results.pixel_metrics(maps, some) == results.pixel_metrics(
        [maps[k] for k in kept], [masks[k] for k in kept])
    assert set(results.pixel_metrics(maps[:1], [None]).values()) == {None}


def test_without_any_mask_there_are_none_for_the_metrics_and_that_is_said(nut):
    for path in masks_in(nut):
        path.unlink()
    test = load_class(nut.parent, "nut").test
    assert load_masks(test, [(SIDE, SIDE)] * len(test)) is None
    line = mask_line(mask_summary(test))
    assert line.startswith("0 of ") and line.endswith("so no pixel metrics")


def test_a_mask_that_cannot_be_read_ends_the_run_before_the_training(nut, tiny_weights, tmp_path):
    bad = masks_in(nut)[0]
    Image.fromarray(np.repeat([[1, 2]], SIDE // 2, 1).repeat(SIDE, 0).astype(np.uint8)).save(bad)
    with pytest.raises(ValueError, match=f"{bad.name} cannot be read without guessing"):
        run(nut.parent, tiny_weights, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
    text = "\n".join(data_summary(nut.parent))
    assert "! mask " in text and "without guessing" in text, "the summary lists it and continues"


def test_masks_that_mark_more_than_half_are_named(nut):
    for path in masks_in(nut):
        marks = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(255 - marks).save(path)
    test = load_class(nut.parent, "nut").test
    summary = mask_summary(test)
    assert len(summary["more_than_half"]) == summary["defective"] == len(masks_in(nut))
    assert "with more than half marked (inverted?)" in mask_line(summary)
    assert not load_masks(test, [(SIDE, SIDE)] * len(test))[-1].all()


def test_a_tiny_mark_is_no_empty_mask(nut):
    """It vanishes when the mask is reduced; the picture counts all the same."""
    marks = np.zeros((SIDE, SIDE), np.uint8)
    marks[5, 5] = 255
    Image.fromarray(marks).save(masks_in(nut)[0])
    test = load_class(nut.parent, "nut").test
    assert mask_summary(test)["empty"] == []
    assert all(mask is not None for mask in load_masks(test, [(16, 16)] * len(test)))


def test_the_demo_prints_at_most_12_lines(capsys):
    samples.demo()
    assert 0 < len(capsys.readouterr().out.splitlines()) <= 12
