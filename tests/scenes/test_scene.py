"""Drawn scenes: they repeat from their seed, masks are exact, held-out classes stay unseen."""

import pytest
import torch

from minilora.data.mvtec import load_class
from minilora.metrics.aupro import connected_regions
from minilora.scenes import scene
from minilora.scenes.flaws import FLAW_KINDS, MIN_CHANGE, add_flaw
from minilora.scenes.materials import MATERIALS, paint, random_material
from minilora.scenes.outlines import FAMILIES, random_pose, random_style
from minilora.scenes.scene import filled_outline


def test_a_scene_depends_only_on_its_seed():
    first, again, other = (scene.random_scene(k, resolution=64) for k in (5, 5, 6))
    assert torch.equal(first.picture, again.picture) and torch.equal(first.mask, again.mask)
    assert not torch.equal(first.picture, other.picture)


@pytest.mark.parametrize("kind", FLAW_KINDS)
def test_the_mask_is_exactly_what_the_flaw_changed(kind):
    generator = scene.seed_for("test", kind)
    style = random_style(generator, "plate")
    picture, behind, part = scene.compose(style, random_pose(style, generator), generator, 96)
    picture = picture.clamp(0, 1)
    flawed, mask = add_flaw(kind, picture, part, behind, generator)
    change = (flawed - picture).abs().amax(0)
    assert mask.sum() >= 6, "an invisible defect"
    assert (change[mask] > MIN_CHANGE).all() and (change[~mask] <= MIN_CHANGE).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_lies_in_the_picture(family):
    generator = scene.seed_for("test", family)
    style = random_style(generator, family)
    picture, _, part = scene.compose(style, random_pose(style, generator), generator, 64)
    assert picture.shape == (3, 64, 64) and picture.isfinite().all()
    assert part.float().mean() > 0.05


@pytest.mark.parametrize("name", MATERIALS)
def test_a_material_is_a_texture_not_a_constant(name):
    generator = scene.seed_for("test", name)
    assert paint(random_material(generator, name), generator, 64).std(dim=(1, 2)).max() > 0.003


def test_pretraining_never_sees_the_held_out_classes_and_defect():
    drawn = [scene.random_scene(k, resolution=32) for k in range(400)]
    assert not {s.class_name for s in drawn} & set(scene.UNSEEN_CLASSES)
    assert {s.flaw for s in drawn} == {None, *FLAW_KINDS} - {scene.UNSEEN_FLAW}, "all others occur"
    assert 120 < sum(s.flaw is None for s in drawn) < 280, "about half of them are good"
    assert scene.UNSEEN_FLAW not in scene.PHRASES, "no caption can describe it"


def test_zooming_in_never_loses_the_defect():
    drawn = next(s for s in map(scene.random_scene, range(100)) if s.flaw)
    for k in range(20):
        near = scene.zoomed(drawn, scene.seed_for("zoom", k))
        assert near.mask.any() and near.picture.shape == drawn.picture.shape


def test_there_are_enough_classes_and_kinds():
    assert "bottle" in scene.CLASSES and len(scene.CLASSES) >= 6
    for name in scene.CLASSES:
        kinds = scene.product(name)[1]
        assert len(kinds) >= 3 and scene.UNSEEN_FLAW in kinds
    families = {entry[0] for entry in scene.CLASSES.values()}
    assert set(scene.UNSEEN_CLASSES) <= families


def test_a_written_class_has_the_layout_of_mvtec(tmp_path):
    scene.write_class(tmp_path, "gear", good=3, test_good=2, defective=2, resolution=64)
    data = load_class(tmp_path, "gear")
    assert len(data.train) == 3 and len(data.test) == 2 + 4 * 2
    assert all(s.mask_path is not None for s in data.test if s.label)


def test_a_class_is_written_the_same_again_and_an_existing_one_is_kept(tmp_path):
    size = dict(good=2, test_good=1, defective=1, resolution=48)
    one, two = (scene.write_class(tmp_path / d, "metal", **size) for d in "ab")
    files = sorted(p.relative_to(one) for p in one.rglob("*.png"))
    assert len(files) == 3 + 2 * 4
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    (one / files[0]).write_bytes(b"mine")
    scene.write_class(tmp_path / "a", "metal", **size)
    assert (one / files[0]).read_bytes() == b"mine"


def test_an_interrupted_class_leaves_no_folder(tmp_path, monkeypatch):
    def stop(_, folder, kind, number):
        if kind == "good":
            raise KeyboardInterrupt

    monkeypatch.setattr(scene, "save_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        scene.write_class(tmp_path, "metal", good=1, resolution=32)
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_an_unknown_class_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="spoon.*bottle.*mesh"):
        scene.write_class(tmp_path, "spoon")


def test_an_outline_closes_gaps_and_removes_specks():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:30:2, 20:30:2] = True                       # a speckled defect
    mask[50, 50] = True                                 # and a speck
    drawn = filled_outline(mask)
    assert connected_regions(drawn[None]).max() == 0 and drawn[20:29, 20:29].all()
    assert drawn.sum() == 81, "closing does not grow a region"
    alone = torch.zeros(64, 64, dtype=torch.bool)
    alone[0, 0] = True
    assert torch.equal(filled_outline(alone), alone), "a speck stays if there is nothing else"
