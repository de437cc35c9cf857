"""Growth: the formula by hand, what counts as the same numbers, and one small measurement."""
import json
import math
import os

import pytest

from bench import growth, measure
from minilora.data.mvtec import load_class
from minilora.scenes.outlines import FAMILIES


def run(seconds, **products):
    """A result as `growth.run_all` returns it, with one number for each product."""
    return {"seconds": seconds, "products": products,
            "numbers": {name: {"score": value} for name, value in products.items()}}


def test_the_process_with_the_most_products_decides():
    assert growth.predicted(15, 1, 20.0, 5.0) == 305
    assert growth.predicted(15, 2, 20.0, 5.0) == 165        # 8 + 7
    assert growth.predicted(100, 8, 20.0, 5.0) == 265       # 13 for four of them, 12 for the others
    assert growth.predicted(3, 8, 20.0, 5.0) == 25


def test_the_start_is_what_belongs_to_no_product():
    """Process 0 fits a and c, process 1 fits b: 4 + 6 seconds are the longer part of 13."""
    found = run(13.0, a=4.0, b=5.0, c=6.0)
    assert growth.start_of(found, 2) == pytest.approx(3)
    assert growth.start_of(found | {"seconds": 17.0}, 1) == pytest.approx(2)


def test_the_formula_gives_back_the_measurement_with_one_process():
    found = run(18.0, a=4.0, b=5.0, c=6.0)
    mean = sum(found["products"].values()) / 3
    assert growth.predicted(3, 1, mean, growth.start_of(found, 1)) == pytest.approx(18)


def test_numbers_are_the_same_to_the_last_digit_or_named():
    one = {"nut": {"threshold": 1.5, "score good/000.png": 0.1, "loss": None}}
    assert growth.differing(one, {"nut": dict(one["nut"])}) == []
    close = {"nut": one["nut"] | {"score good/000.png": math.nextafter(0.1, 1)}}
    assert growth.differing(one, close) == ["nut score good/000.png"]
    assert growth.differing(one, {"nut": {"threshold": 1.5, "loss": None}}) \
        == ["nut score good/000.png"]
    assert growth.differing(one, one | {"gear": {"threshold": 1.0}}) == ["gear threshold"]


def test_a_difference_is_in_the_table():
    found = {1: [run(18.0, a=4.0, b=5.0, c=6.0)], 2: [run(12.0, a=4.0, b=5.0, c=6.0)]}
    cells = dict(zip(*growth.measured_table(found)[1:2], growth.measured_table(found)[2][1]))
    assert cells["numbers the same"] == "yes, 3 numbers" and cells["of one process"] == "0.667"
    assert cells["products of each"] == "2 + 1"
    found[2][0]["numbers"]["b"]["score"] = 5.1
    assert growth.measured_table(found)[2][1][-1] == "no: 1 of 3, first b score"


def test_more_products_are_predicted_from_the_tables_that_are_there(tmp_path):
    found = {1: [run(18.0, a=4.0, b=5.0, c=6.0)], 2: [run(14.0, a=4.0, b=5.0, c=6.0)]}
    (tmp_path / "whole-fit.csv").write_text('what,measured\n"fit and scoring of all test pictures, '
                                            's","1,192"\n')
    check, embedded, two_cores, card = growth.paper_table(found, tmp_path)[2]
    assert check[-2:] == ["13.0 s", "14.0 s, +8%"]                      # 3 + 2 * 5
    assert embedded[-2] == "1 min 8 s"                                  # 3 + 13 * 5
    assert two_cores[-3:-1] == ["1192.0 (whole-fit)", "4 h 18 min"]     # 3 + 13 * 1192
    assert card[-3:] == ["not measured", "--", "--"]
    (tmp_path / "gpu.csv").write_text('what,measured\n"fit of one class, ViT-B/16 shape, s",20\n')
    assert growth.paper_table(found, tmp_path)[2][3][-2] == "4 min 23 s"
    (tmp_path / "gpu.csv").write_text('what,measured\n"fit of one class, ViT-B/16 shape, s",not '
                                      'measured\n')
    assert growth.paper_table(found, tmp_path)[2][3][-3] == "not measured"


def test_fifteen_products_of_different_families_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "PER_KIND", 2)
    assert len(set(growth.PRODUCTS)) == 15 and set(growth.PRODUCTS) <= FAMILIES.keys()
    folder = growth.draw_product(tmp_path, "washer", 2)
    before = (folder / "train/good/000.png").read_bytes()
    data = load_class(tmp_path, "washer")
    assert len(data.train) == 2 and sum(s.label for s in data.test) == 4
    assert growth.draw_product(tmp_path, "washer", 2) == folder
    assert (folder / "train/good/000.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["washer"]


def test_the_page_of_a_product_counts_as_its_time(tmp_path):
    for name, time in (("metrics.json", 100), ("report.html", 103)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time, time))
    assert growth.seconds_of(tmp_path, {"seconds": 20.0}) == pytest.approx(23)


def test_a_stopped_measurement_goes_on_with_the_runs_that_are_missing(tmp_path, monkeypatch):
    """The second of two runs fails once; the first is not measured again."""
    counts = []

    def fake(processes, options):
        counts.append(processes)
        if counts == [1, 2]:
            raise RuntimeError("stopped")
        return run(10.0 / processes, nut=4.0)

    monkeypatch.setattr(growth, "run_all", fake)
    monkeypatch.setattr(growth, "draw_product", lambda *_: None)
    arguments = ["--products", "nut", "--out", str(tmp_path), "--results", str(tmp_path)]
    with pytest.raises(RuntimeError):
        growth.main(arguments)
    growth.main(arguments)
    assert counts == [1, 2, 2]
    assert "whole command" in (tmp_path / "growth.csv").read_text()


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "PER_KIND", 1)
    growth.main(["--products", "nut", "gear", "cable", "--shots", "2", "--steps", "2", "--model",
                 str(tiny_weights), "--out", str(tmp_path), "--results", str(tmp_path)])
    text = (tmp_path / "growth.txt").read_text()
    assert "2 + 1" in text and "  yes, " in text and measure.processor() in text
    kept = json.loads((tmp_path / "cells" / "2-processes-round-1.json").read_text())["rows"]
    assert list(kept["products"]) == ["cable", "gear", "nut"]
    assert all("threshold" in found for found in kept["numbers"].values())
