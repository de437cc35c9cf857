"""The measures of the embedded model, and how they are drawn and compared."""
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from bench import eye, tower, training


def test_a_name_counts_for_every_kind_the_same(monkeypatch):
    monkeypatch.setattr(eye, "named", lambda *arguments: torch.tensor([0, 0, 0, 0]))
    kinds = torch.tensor([0, 0, 0, 1])
    assert eye.names_row(torch.zeros(4, 2), kinds, ["a", "b"], None) == (0.75, 0.5)


def test_search_asks_once_for_every_kind(monkeypatch):
    values = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2]])          # pictures x names
    monkeypatch.setattr(eye, "zero_shot", lambda *arguments: values)
    share, asked, chance = eye.search_row(torch.zeros(3, 2), torch.tensor([4, 4, 7]),
                                          [str(k) for k in range(8)], None)
    assert (share, asked) == (0.5, 2) and chance == pytest.approx(0.5)


def test_a_training_is_drawn_from_its_log(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("# command\nstep,loss,names,explained9,accuracy\n0,3,,,\n1,2,0.1,0.2,0.6\n"
                   "2,2,,,\n3,1,0.3,0.4,0.7\n")
    rows = training.measured(log)
    assert [row["step"] for row in rows] == [1, 3]
    charts = [part for part in ElementTree.fromstring(training.drawing(rows))
              if part.tag.endswith("svg")]
    assert len(charts) == 2, "of what the log holds"
    lines = [line for chart in charts for line in chart.iter() if line.tag.endswith("polyline")]
    assert len(lines) == 3 and all(len(line.get("points").split()) == 2 for line in lines)


def test_a_size_grows_from_weights_of_its_width(tmp_path, tiny_weights):
    args = tower.parser().parse_args(["--photos", "a", "--teacher", "b", "--start",
                                      str(tiny_weights)])
    starts = [bool(tower.options_of(args, size).start) for size in ((3, 64), (5, 64), (2, 64),
                                                                    (3, 128))]
    assert starts == [True, True, False, False]
