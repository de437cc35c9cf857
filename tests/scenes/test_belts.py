"""Belt videos: when each part passes, exact to the frame, and that the pictures show it."""
import json

import av
import numpy as np
import pytest

from minilora.scenes import belts
from minilora.scenes.belts import Belt, Slot, mixed_belt, product_belt
from minilora.scenes.outlines import random_style
from minilora.scenes.scene import seed_for


def grey(picture):
    return np.asarray(picture.convert("L")).astype(float)


def plates(removed=True, **options):
    style = random_style(seed_for("plate"), "plate")
    plan = [Slot(style), Slot(), Slot(style, "broken"), Slot(style, removed=removed)]
    return Belt(plan, seed_for("belt"), resolution=64, **options)


def test_a_part_counts_while_its_middle_is_in_the_picture():
    """Slots are two widths of the picture apart, so a part is visible half of the time."""
    belt = plates(period=4.0)
    first, third, _ = belt.passes()
    assert (first.start, first.end) == (1.0, 3.0) and (third.start, third.end) == (9.0, 11.0)
    assert belt.seconds == 16
    ground = grey(belt.ground)[:, :64].mean()
    middles = {t: abs(grey(belt.picture(t))[:, 28:36] / belt.brightness(t) - ground).mean()
               for t in (0.0, 1.0, 2.0, 3.0, 4.0)}
    assert middles[2.0] > 3 * middles[0.0] and middles[2.0] > 3 * middles[4.0]
    half = abs(grey(belt.picture(1.0)) / belt.brightness(1.0) - ground)
    assert half[:, 40:].mean() > 3 * half[:, :16].mean(), "at its start it is half visible, right"


def test_an_empty_slot_shows_only_the_belt():
    belt = plates()
    empty = grey(belt.picture(1.5 * belt.period)) / belt.brightness(1.5 * belt.period)
    assert empty.std() < 0.35 * grey(belt.picture(0.5 * belt.period)).std()


def test_a_removed_part_leaves_early_at_the_lower_edge():
    belt, stays = plates(), plates(removed=False)
    last = belt.passes()[-1]
    assert last.removed and last.end == 3.5 * belt.period + belt.period / 8
    lower = []
    for one in (belt, stays):
        shown = np.abs(grey(one.picture(last.end)) - grey(one.picture(last.end + 2.5)).mean())
        lower.append((shown.mean(1) > 15).nonzero()[0].min())
    assert lower[0] - lower[1] == 32, "its centre is at the lower edge"


def test_a_defect_changes_the_part_and_nothing_else():
    style = random_style(seed_for("plate"), "plate")
    whole, broken = (Belt([Slot(style, flaw)], seed_for("belt"), resolution=64).sprites[0]
                     for flaw in (None, "scratch"))
    changed = np.abs(np.asarray(whole).astype(int) - np.asarray(broken)).max(-1) > 10
    assert 0.001 < changed.mean() < 0.5


def test_the_brightness_changes_slowly_and_a_lamp_fails_once():
    belt = plates()
    light = np.array([belt.brightness(t) for t in np.arange(0, belt.seconds, 0.1)])
    assert 0.7 < light.min() < light.max() < 1.15
    assert (np.abs(np.diff(light)) > 0.1).sum() in (1, 2), "off, and on again if there is time"


def test_the_same_number_is_the_same_belt_and_seeds_differ():
    one, two, other = mixed_belt(3, seed=1, resolution=32), mixed_belt(3, seed=1, resolution=32), \
        mixed_belt(3, seed=2, resolution=32)
    assert one.passes() == two.passes() != other.passes()
    assert one.picture(2.5).tobytes() == two.picture(2.5).tobytes()
    assert len({p.class_name for p in one.passes()}) <= 4 and len(one.passes()) == 12


@pytest.mark.parametrize("family", ["gear", "mesh", "bottle"])
def test_a_product_belt_has_one_product_good_and_damaged(family):
    belt = product_belt(0, family, slots=5, labels=True, resolution=64)
    passes = belt.passes()
    assert {p.class_name for p in passes} == {family}
    assert 0 < sum(p.flaw is not None for p in passes) < 5
    assert all(p.label.startswith("SN ") for p in passes)
    belt.picture(2.5)


def test_the_command_writes_videos_and_their_true_events(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["belts", "--out", str(tmp_path), "--videos", "1", "--slots",
                                     "2", "--rate", "4", "--resolution", "64"])
    belts.main()
    truth = json.loads((tmp_path / "truth.json").read_text())["belt-000.mp4"]
    assert len(truth) == 2 and truth[0]["start"] == 1.25
    with av.open(str(tmp_path / "belt-000.mp4")) as video:
        shown = [grey(frame.to_image()) for frame in video.decode(video=0)]
    drawn = [grey(f.picture) for f in mixed_belt(0, slots=2, seed=1, resolution=64).frames(4)]
    assert len(shown) == len(drawn) == 40
    assert np.mean([np.abs(a - b).mean() for a, b in zip(shown, drawn)]) < 6
