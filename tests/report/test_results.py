"""Files of a run whose pictures have unusual names: one panel each, tables that can be read."""
import csv
from pathlib import Path

import pytest
import torch

from minilora.data.mvtec import Sample
from minilora.report import panels, results


def samples_of(*names, kind="good"):
    return [Sample(Path("data") / name, kind, 0) for name in names]


def test_pictures_of_one_stem_have_a_panel_each(tmp_path):
    samples = samples_of("a.png", "a.bmp", "A.png", "a-2.png", "caf\udce9.png", "b\nOK.png")
    grey = [torch.full((3, 8, 8), k / 10) for k in range(6)]
    maps = [torch.zeros(8, 8)] * 6
    paths = panels.write_maps(tmp_path, samples, grey, None, maps, torch.zeros(6), 1.0)
    assert len({path.name.casefold() for path in paths}) == 6 == len(list(tmp_path.iterdir()))
    assert all(path.name.isprintable() for path in paths)
    assert paths[0].name == "good-a.jpg", "an ordinary name stays"


@pytest.mark.parametrize("names", [["a", "a-2", "a", "a", "a-2"], ["é", "e\u0301"], ["", ""]])
def test_stems_are_unique_on_every_disk(names):
    stems = panels.unique_stems(names)
    assert len(set(stems)) == len(names) and all(stems)


def test_a_cell_that_a_spreadsheet_would_compute_gets_a_quote(tmp_path):
    samples = [Sample(Path(name), "good", 0) for name in ("=1+1.png", "caf\udce9.png", "a.png")]
    results.write_scores(tmp_path / "scores.csv", samples, torch.zeros(3), None)
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == ["'=1+1.png", "caf\\udce9.png", "a.png"]


def test_a_users_own_pictures_get_no_columns_of_odd_numbered_ones():
    row = dict.fromkeys(("image_auroc", "pixel_auroc", "aupro", "image_auroc_odd"), 0.5)
    both, one = (results.text_table({"memory": row}, {"memory": "words"}, odd)
                 for odd in (True, False))
    assert "odd-numbered" in both and both.count("AUPRO") == 2
    assert "odd" not in one and one.count("AUPRO") == 1 and one.count(" 50.0") == 3
