"""The measures of the embedded model, the charts of its training, the choice of its size."""
import pytest
import torch

from bench import eye, tower, training
from minilora.charts.drawing import Polyline
from minilora.charts.plots import CHART_HEIGHT, CHART_WIDTH


def test_every_kind_has_the_same_weight_in_the_mean_over_kinds(monkeypatch):
    monkeypatch.setattr(eye, "predicted_class", lambda *arguments: torch.tensor([0, 0, 0, 0]))
    kinds = torch.tensor([0, 0, 0, 1])
    assert eye.names_row(torch.zeros(4, 2), kinds, ["a", "b"], None) == (0.75, 0.5)


def test_each_kind_is_searched_once_by_its_name(monkeypatch):
    values = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2]])          # pictures x names
    monkeypatch.setattr(eye, "zero_shot", lambda *arguments: values)
    share, searched, chance = eye.search_row(torch.zeros(3, 2), torch.tensor([4, 4, 7]),
                                          [str(k) for k in range(8)], None)
    assert (share, searched) == (0.5, 2) and chance == pytest.approx(0.5)


def test_the_charts_of_a_training_are_drawn_from_its_log(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("# command\nstep,loss,names,explained9,accuracy\n0,3,,,\n1,2,0.1,0.2,0.6\n"
                   "2,2,,,\n3,1,0.3,0.4,0.7\n")
    rows = training.measured(log)
    assert [row["step"] for row in rows] == [1, 3]
    drawing = training.drawing(rows)
    assert drawing.width == 2 * CHART_WIDTH, "one chart for each group of columns in the log"
    lines = [s for s in drawing.shapes if isinstance(s, Polyline) and s.style.startswith("line-")
             and s.points[0][1] < CHART_HEIGHT]             # not those of a legend
    assert len(lines) == 3 and all(len(line.points) == 2 for line in lines)


def test_a_size_grows_from_weights_of_the_same_width(tmp_path, tiny_weights):
    args = tower.parser().parse_args(["--photos", "a", "--teacher", "b", "--start",
                                      str(tiny_weights)])
    starts = [bool(tower.options_of(args, size).start) for size in ((3, 64), (5, 64), (2, 64),
                                                                    (3, 128))]
    assert starts == [True, True, False, False]


def test_the_old_spelling_of_the_states_still_works():
    old, new = (eye.parser().parse_args(["--data", "a", name, "1", "4"]).states
                for name in ("--blocks", "--states"))
    assert old == new == [1, 4]
