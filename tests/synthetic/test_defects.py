"""Synthetic defects: what is pasted and where, and that the mask marks it exactly."""
import math
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F

from minilora.synthetic import defects, pasting, sampling, shapes, textures
from minilora.synthetic.defects import AREA_RANGE, DEFECT_KINDS
from minilora.synthetic.pasting import MIN_VISIBLE_CHANGE, change_mask, paste_anywhere, paste_defect
from minilora.synthetic.sampling import log_uniform
from minilora.synthetic.shapes import (crack_shape, find_object, object_rim, perlin_noise,
                                       random_point, region)
from minilora.synthetic.textures import (Source, lit_facets, moved_material, recoloured_material,
                                         shuffled_material)

R = 64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def disc_mask(resolution=R, radius=0.6):
    line = torch.linspace(-1, 1, resolution)
    return line[:, None] ** 2 + line ** 2 < radius ** 2


@lru_cache
def part(resolution=R):
    """A reddish, rough disc on a blue-grey background."""
    ground = torch.tensor([0.3, 0.35, 0.4]).view(3, 1, 1).expand(3, resolution, resolution)
    rough = 0.1 * perlin_noise(resolution, 24, seeded())
    disc = torch.tensor([0.8, 0.6, 0.5]).view(3, 1, 1) + rough
    return torch.where(disc_mask(resolution), disc, ground).clamp(0, 1)


@lru_cache
def surface(resolution=R):
    """A grey texture that fills the frame."""
    grey = 0.5 + 0.3 * perlin_noise(resolution, 4, seeded()) + 0.1 * perlin_noise(
        resolution, 32, seeded(1))
    return grey.clamp(0, 1).expand(3, -1, -1)


# Perlin noise and regions

def test_perlin_noise_is_zero_on_the_corners_of_its_cells():
    """Gradient noise: a corner has a slope and no height; in the cells it rises and falls."""
    noise = perlin_noise(640, 4, seeded())
    assert noise[::160, ::160].abs().max() < 0.01           # these lie 1/320 of a cell away
    assert noise[80::160, 80::160].abs().max() > 0.1
    assert 0.4 < noise.abs().max() <= 1.01 and noise.mean().abs() < 0.1


def test_perlin_noise_is_smooth_across_cells_and_takes_any_size():
    """The fade 6t^5 - 15t^4 + 10t^3 has no slope at its ends, so no edge between cells shows."""
    noise = perlin_noise(500, 7, seeded())
    steps = noise.diff(dim=0).abs().max(1).values
    assert steps.max() < 4 * 7 / 500
    assert noise.diff(n=2, dim=0).abs().max() < 20 * (7 / 500) ** 2
    assert perlin_noise(31, 64, seeded()).isfinite().all()  # more cells than pixels


def test_perlin_noise_with_two_numbers_of_cells_has_a_direction():
    along, across = (perlin_noise(128, (2, 32), seeded()).diff(dim=d).abs().mean() for d in (0, 1))
    assert across > 5 * along


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_region_has_the_wanted_area(shape):
    """Exact for a disc, a bar and a cloud; on average for a blob and a shard (random outlines)."""
    for share in (0.003, 0.02, 0.1):
        g = seeded()
        area = [region(shape, 200, (100, 100), share * 200 ** 2, g).sum() for _ in range(30)]
        assert math.isclose(sum(area) / 30, share * 200 ** 2, rel_tol=0.15)
        if shape in ("disc", "bar"):
            assert math.isclose(max(area), min(area), rel_tol=0.05)
        assert 0 <= region(shape, 200, (0, 0), share * 200 ** 2, g).min()


def test_a_stretched_bar_is_as_long_and_as_wide_as_it_should_be():
    alpha = region("bar", 100, (50, 50), 400, seeded(), stretch=4, angle=0)     # 40 x 10
    assert alpha[50].sum() == pytest.approx(40, abs=0.5)
    assert alpha[:, 50].sum() == pytest.approx(10, abs=0.5)
    rotated = region("bar", 100, (50, 50), 400, seeded(), stretch=4, angle=math.pi / 2)
    assert torch.allclose(rotated, alpha.T, atol=1e-4)


def test_soft_regions_fade_over_that_many_pixels():
    for soft in (1, 6, 12):
        row = region("disc", 100, (50, 50), math.pi * 30 ** 2, seeded(), soft=soft)[50]
        ramp = ((row > 0) & (row < 1)).sum() / 2
        assert abs(ramp - soft) <= 1


def test_long_regions_fade_as_softly_across_their_length():
    column = region("disc", 100, (50, 50), math.pi * 900, seeded(), 4.0, 0.0, soft=5)[:, 50]
    assert abs(((column > 0) & (column < 1)).sum() / 2 - 5) <= 1


def test_a_straight_scratch_has_the_given_length_and_a_crack_is_shorter():
    straight = crack_shape(200, (100, 100), 80, 3, seeded(), wander=0).nonzero().float()
    assert 76 < (straight[-1] - straight[0]).norm() < 90
    assert (straight.mean(0) - 100).abs().max() < 3, "centre is its middle"
    crooked = crack_shape(200, (100, 100), 80, 3, seeded(), wander=0.5).nonzero().float()
    assert torch.cdist(crooked, crooked).max() < 70
    assert crack_shape(50, (0, 0), 200, 5, seeded()).shape == (50, 50)        # cut off at the edge


def test_a_log_uniform_draw_is_as_likely_in_each_octave():
    g = seeded()
    drawn = torch.tensor([log_uniform(g, 1, 16) for _ in range(2000)])
    for low in (1, 2, 4, 8):
        assert abs(((drawn >= low) & (drawn < 2 * low)).float().mean() - 0.25) < 0.04


# Where the object is

def test_the_object_is_where_the_colour_differs_from_the_border():
    cells, background = find_object(part())
    truth = F.adaptive_avg_pool2d(disc_mask().float()[None], 28)[0] > 0.5
    assert (cells & truth).sum() / (cells | truth).sum() > 0.8
    ground = part()[:, 0, 0].view(3, 1, 1)
    assert (background - ground).abs().max() < 0.02, "the background continues behind the object"


def test_the_background_behind_the_object_follows_the_light():
    light = torch.linspace(0.3, 0.37, R).expand(3, R, R)
    _, background = find_object(torch.where(disc_mask(), torch.ones(()), light))
    assert (background - light).abs().max() < 0.03
    assert background[0, :, -1].mean() > background[0, :, 0].mean() + 0.03


@pytest.mark.parametrize("picture", (surface(), torch.full((3, R, R), 0.5), torch.rand(3, R, R)))
def test_a_texture_that_fills_the_frame_counts_as_object_everywhere(picture):
    cells, background = find_object(picture)
    assert cells.all() and background is None


def test_the_rim_consists_of_object_cells():
    cells, _ = find_object(part())
    rim = object_rim(cells)
    assert rim.any() and not (rim & ~cells).any()
    assert rim.sum() < 0.5 * cells.sum()


def test_random_points_lie_in_the_given_cells():
    cells, g = torch.zeros(28, 28, dtype=torch.bool), seeded()
    cells[7, 21] = True
    for _ in range(50):
        row, column = random_point(cells, 280, g)
        assert 69.5 <= row < 79.5 and 209.5 <= column < 219.5
    assert random_point(torch.zeros_like(cells), 280, g)    # no true cell: anywhere, no error


# What is pasted

def test_material_comes_from_other_pictures_too():
    red, blue = torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8)
    red[0], blue[0, 2] = 0.9, 0.9
    g = seeded()
    source = [int(moved_material(Source(red, g, blue)).mean((1, 2)).argmax()) for _ in range(60)]
    assert source.count(2) in range(15, 46)                 # about half of 60
    assert {int(moved_material(Source(red, g)).mean((1, 2)).argmax()) for _ in range(30)} == {0}


def test_shuffling_changes_the_order_and_keeps_the_material():
    picture = part()
    new = shuffled_material(Source(picture, seeded()))
    assert new.shape == picture.shape
    assert new.diff(dim=2).abs().mean() > picture.diff(dim=2).abs().mean()
    assert recoloured_material(Source(picture, seeded())).shape == picture.shape


def test_facets_are_smooth_inside_and_have_sharp_edges():
    """Brightness changes little inside a facet and jumps between facets."""
    even = torch.full((3, R, R), 0.5)
    steps = lit_facets(Source(even, seeded()), (32, 32), 27)[0].diff(dim=1).abs()
    assert steps.median() < 0.02 and steps.max() > 0.1


# The defect and its mask

@pytest.mark.parametrize("kind", DEFECT_KINDS)
@pytest.mark.parametrize("picture", (part(), surface()), ids=("part", "surface"))
def test_the_mask_marks_what_visibly_changed(kind, picture):
    """No visible change outside it; inside, every pixel has changed or touches one that has."""
    g, before = seeded(), picture.clone()
    for _ in range(12):
        new, mask = paste_defect(picture, g, kind)
        assert new.shape == picture.shape and mask.shape == (R, R) and mask.dtype == torch.bool
        assert mask.any() and new.min() >= 0 and new.max() <= 1
        seen = (new - picture).abs().amax(0) > MIN_VISIBLE_CHANGE
        assert not (seen & ~mask).any()
        near = F.max_pool2d(seen.float()[None], 3, 1, 1)[0] > 0
        assert not (mask & ~near).any()
    assert torch.equal(picture, before), "the input is not modified"


@pytest.mark.parametrize("kind", DEFECT_KINDS + (None,))
def test_the_same_generator_state_gives_the_same_defect(kind):
    def some(seed):
        g = seeded(seed)
        return torch.stack([paste_defect(part(), g, kind)[0] for _ in range(12)])

    torch.manual_seed(1)
    first = some(5)
    torch.manual_seed(2)
    assert torch.equal(first, some(5))
    assert not torch.equal(first, some(6))


def test_the_mask_closes_pinholes_and_stays_inside_the_region():
    old, new, alpha = torch.zeros(3, 20, 20), torch.zeros(3, 20, 20), torch.zeros(20, 20)
    alpha[5:15, 5:15] = 1
    new[1, 5:15, 5:15] = 0.5                                # one channel is enough
    new[:, 9, 9] = 0                                        # a pinhole
    new[:, 2, 2] = MIN_VISIBLE_CHANGE / 2                   # too little to be visible
    mask = change_mask(new, old, alpha)
    assert torch.equal(mask, alpha > 0)
    alpha[9, 9] = 0                                         # outside the region no gap is closed
    assert not change_mask(new, old, alpha)[9, 9]


def test_sizes_spread_over_two_orders_of_magnitude():
    """Areas are drawn log-uniformly: many small defects, few large ones."""
    g = seeded()
    share = torch.tensor([paste_defect(surface(), g)[1].float().mean() for _ in range(200)])
    assert share.min() < 0.003 and share.max() > 0.08 and share.max() < 0.5
    assert AREA_RANGE[0] < share.median() < 0.04


def test_most_defects_lie_on_the_object():
    g, on = seeded(), []
    for _ in range(100):
        _, mask = paste_defect(part(), g)
        on.append((mask & disc_mask()).sum() / mask.sum())
    assert sum(on) / 100 > 0.65                             # it covers 28 % of the picture
    assert min(on) < 0.5, "but not always"


def test_defects_in_grey_pictures_are_grey():
    """Colour in a grey picture would give the defect away."""
    g = seeded()
    for kind in DEFECT_KINDS:
        new, _ = paste_defect(surface(), g, kind)
        assert torch.equal(new[0], new[1]) and torch.equal(new[0], new[2])
    coloured = [paste_defect(part(), g, "perlin") for _ in range(40)]
    spread = [(new.amax(0) - new.amin(0))[mask].max() for new, mask in coloured]
    assert max(spread) > 0.35                               # the picture's own is 0.3


def test_a_missing_piece_shows_the_background_in_most_cases():
    g, shown = seeded(), []
    ground = part()[:, 0, 0].view(3, 1, 1)
    for _ in range(60):
        new, mask = paste_defect(part(), g, "missing")
        shown.append(((new - ground).abs().amax(0)[mask].median() < 0.1).item())
    assert 0.5 < sum(shown) / 60 < 0.9                      # 7 in 10; else a hole


def test_a_missing_piece_does_not_change_the_background():
    """The object disappears; background pixels next to it keep their values."""
    g, left = seeded(), 0
    rough = (part() + 0.06 * perlin_noise(R, 24, seeded(9))).clamp(0, 1)
    ground, outside = part()[:, 0, 0].view(3, 1, 1), ~disc_mask(radius=0.7)
    for _ in range(60):
        new, mask = paste_defect(rough, g, "missing")
        if (new - ground).abs().amax(0)[mask].median() < 0.1:       # background, not a hole
            assert torch.equal(new[:, outside], rough[:, outside])
            left += 1
    assert left > 20


def test_a_warp_makes_no_new_colours():
    g = seeded()
    for _ in range(10):
        new, _ = paste_defect(part(), g, "warp")
        low, high = part().amin((1, 2)), part().amax((1, 2))
        assert (new.amin((1, 2)) >= low - 1e-5).all() and (new.amax((1, 2)) <= high + 1e-5).all()


@pytest.mark.parametrize("level", (0.0, 0.5, 1.0))
def test_a_flat_picture_cannot_be_warped_and_gets_a_stain(level):
    flat = torch.full((3, R, R), level)
    for seed in range(5):
        _, mask = paste_defect(flat, seeded(seed), "warp")
        assert mask.float().mean() >= pasting.MIN_CHANGED_SHARE


def test_after_several_invisible_defects_a_stain_is_pasted(monkeypatch):
    invisible = {name: lambda context: (torch.zeros(R, R), context.pixels) for name in DEFECT_KINDS}
    monkeypatch.setattr(pasting, "DEFECT_FUNCTIONS", invisible)
    for level in (0.0, 0.5, 1.0):
        _, mask = paste_defect(torch.full((3, R, R), level), seeded())
        assert mask.float().mean() >= 0.01                  # the stain is visible everywhere


def test_pasting_restores_the_number_of_threads_and_records_no_gradient():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        new, _ = paste_defect(part().clone().requires_grad_(), seeded())
        assert torch.get_num_threads() == 2 and not new.requires_grad
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", DEFECT_KINDS)
@pytest.mark.parametrize("height, width", [(64, 160), (160, 64)])
def test_a_defect_in_a_rectangle_lies_inside_one_square_and_its_mask_is_exact(kind, height, width):
    g, picture = seeded(), F.interpolate(part()[None], (height, width))[0]
    before, marked = picture.clone(), torch.zeros(height, width)
    for _ in range(12):
        new, mask = paste_anywhere(picture, g, kind, [picture, part(96), part()])
        assert new.shape == picture.shape and mask.shape == (height, width)
        assert mask.dtype == torch.bool and mask.any() and new.min() >= 0 and new.max() <= 1
        assert not (((new - picture).abs().amax(0) > MIN_VISIBLE_CHANGE) & ~mask).any()
        rows, columns = (mask.any(dim).nonzero() for dim in (1, 0))
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) < 64
        marked += mask
    assert torch.equal(picture, before), "the input is not modified"
    along = marked.sum(int(height > width)).nonzero()
    assert along.max() - along.min() > 64, "the square is drawn anew"


def test_paste_anywhere_equals_paste_defect_for_a_square_picture():
    """No additional random number is drawn."""
    other = surface()
    for kind in DEFECT_KINDS:
        found = paste_anywhere(part(), seeded(3), kind, [part(), other])
        expected = paste_defect(part(), seeded(3), kind, torch.stack([part(), other]))
        assert all(map(torch.equal, found, expected)), kind


@pytest.mark.parametrize("resolution", (16, 33, 240))
def test_pasting_works_at_any_resolution(resolution):
    g = seeded()
    for kind in DEFECT_KINDS:
        new, mask = paste_defect(part(resolution), g, kind)
        assert mask.any() and new.isfinite().all()


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_other_float_types_become_float32(kind):
    double = part().double()
    new, _ = paste_defect(double, seeded(), kind, others=double[None])
    assert new.dtype == torch.float32
    assert torch.equal(new, paste_defect(part(), seeded(), kind, others=part()[None])[0])


def test_wrong_arguments_raise_an_error_that_names_them():
    picture = part()
    with pytest.raises(ValueError, match=r"one picture \(3, R, R\), found \(1, 3, 64, 64\)"):
        paste_defect(picture[None], seeded())
    for wrong in (picture - 0.5, picture + 0.5):
        with pytest.raises(ValueError, match="found torch.float32 from .*paste before normal"):
            paste_defect(wrong, seeded())
    with pytest.raises(ValueError, match="torch.uint8"):
        paste_defect((picture * 255).byte(), seeded())
    with pytest.raises(ValueError, match="nan"):
        paste_defect(picture * float("nan"), seeded())
    with pytest.raises(ValueError, match="unknown kind of defect 'rust'; expected one of cutpaste"):
        paste_defect(picture, seeded(), "rust")
    with pytest.raises(ValueError, match=r"\(K, 3, 64, 64\), found \(3, 64, 64\)"):
        paste_defect(picture, seeded(), others=picture)


@pytest.mark.parametrize("module", (sampling, shapes, textures, defects, pasting))
def test_the_demos_show_the_mechanism(module, capsys):
    module.demo()
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) <= 12 and max(map(len, lines)) <= 100
