"""bench.classroom, bench.long_tail and bench.mae: cells, tables, predictions."""
import json
from dataclasses import replace

import pytest
import torch
from conftest import REPO

from bench import classroom, long_tail, mae
from bench.steps import saved_bytes
from minilora.mae.model import MAE_B_16, MAE_H_14, MAE_L_16, MaskedAutoencoder
from minilora.scenes import scene

FAST = ["CNN, 4 labels", "one-class SVM on CLIP"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("classroom")
    scene.write_class(root, "gear", good=20, test_good=3, defective=8, resolution=64)
    return root


@pytest.mark.slow
def test_tables_are_made_of_cells_and_stored_cells_are_used_again(data, tmp_path, monkeypatch):
    options = classroom.parser().parse_args([
        "--data", str(data), "--class", "gear", "--seeds", "1", "--methods", *FAST, "--out",
        str(tmp_path), "--threads", "1"])
    found, _ = classroom.collect(options, lambda line: None)
    cnn, svm = (found[method, "gear"][0] for method in FAST)
    assert cnn["trainable"] > 30_000 and svm["trainable"] == 0
    assert svm["labels"] == 0 and svm["pictures"] == 8
    assert cnn["labels"] == cnn["pictures"] / 2 == 4 * (len(cnn["kinds of"]) - 1)
    assert cnn["judged"] == svm["judged"] == sum(map(sum, cnn["confusion"]))
    monkeypatch.setattr(classroom.measure, "fresh", lambda *a: pytest.fail("again"))
    again, _ = classroom.collect(options, lambda line: None)
    assert json.dumps(list(again.values())) == json.dumps(list(found.values()))
    titles = [title for title, _, _ in classroom.tables(found, options)]
    assert titles[0] == "image AUROC, per cent" and titles[-1].startswith("what it took")
    header, rows = classroom.numbers(found)
    assert len(rows) == 2 and all(len(row) == len(header) for row in rows)


def test_the_confusion_matrix_counts_pairs_of_truth_and_prediction():
    found, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert classroom.confusion(found, truth, 3) == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_counts_fall_along_a_long_tail(data):
    found = long_tail.evaluate(str(data), "gear", 1, "weighted", None, 1)
    assert len(found["right"]) == len(found["kinds"]) == len(found["counts"])
    assert found["counts"][1] >= found["counts"][-1] >= 2
    assert all(0 <= share <= 1 for share in found["right"])


def test_the_encoder_with_mask_tokens_sees_no_hidden_pixels():
    """As in BEiT: a mask token replaces each hidden patch, so its pixels change nothing."""
    config = mae.replace(MAE_B_16, width=64, heads=1, layers=1, resolution=64, decoder_width=32,
                         decoder_layers=1, decoder_heads=1)
    torch.manual_seed(0)
    both = mae.Everything(config)
    noise, pixels = torch.rand(1, 16), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        painted, hidden = both(pixels, noise)
        other = pixels.clone()
        row, column = divmod(int(hidden[0].nonzero()[0]), 4)
        other[:, :, 16 * row:16 * row + 16, 16 * column:16 * column + 16] = 5
        assert torch.equal(both(other, noise)[0], painted)
    assert hidden.sum() == 12


@pytest.mark.parametrize("everything", [False, True])
def test_kept_activations_are_counted_within_a_tenth(everything):
    config = mae.replace(MAE_B_16, width=128, heads=2, layers=3, resolution=112, decoder_width=64,
                         decoder_layers=2, decoder_heads=1)
    torch.manual_seed(0)
    model = (mae.Everything if everything else MaskedAutoencoder)(config)
    noise, pixels = torch.rand(2, 49), torch.randn(2, 3, 112, 112)
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}
    with saved_bytes(kept):
        model.loss(pixels, noise)
    total = sum(size for place, (size, _, _) in kept.items() if place not in weights)
    assert mae.activations(config, 2, everything) == pytest.approx(total, rel=0.1)


def test_larger_models_need_more_of_everything():
    sizes = MAE_B_16, MAE_L_16, MAE_H_14
    for measure in (lambda c: mae.predicted_bytes(c, 8), mae.multiplications):
        values = [measure(c) for c in sizes]
        assert values == sorted(values) and values[2] > 4 * values[0]


def test_results_name_no_path_of_a_machine():
    for path in (REPO / "bench" / "results").glob("*.*"):
        if path.suffix in (".txt", ".md", ".csv"):
            assert "/tmp/" not in path.read_text() and "/home/" not in path.read_text(), path.name


def test_scenes_are_drawn_once_and_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(mae, "TRAIN_SCENES", 6)
    monkeypatch.setattr(mae, "TEST_SCENES", 3)
    path = tmp_path / "scenes.pt"
    first = mae.cached_scenes(path, 32)
    monkeypatch.setattr(mae, "labelled_scenes", None)
    again = mae.cached_scenes(path, 32)
    assert torch.equal(first["pictures"], again["pictures"]) and len(again["truth"]) == 3
    config = replace(mae.SCENES, resolution=32, width=64, heads=1, layers=1, decoder_width=32,
                     decoder_layers=1, decoder_heads=1)
    assert 3 * mae.probe_accuracy(config, again, 2, 1) in (0, 1, 2, 3), "three new scenes"
