"""The timed rivals do the same work; here on small shapes."""
import csv
import io
import subprocess
import sys
from dataclasses import astuple

import pytest
import torch

from bench import (against_peft, anomalib_peer, auroc, measure, peers, speed, speed_pairs,
                   speed_scores, tables)
from minilora.clip import CLIPConfig
from minilora.lora import lora_layers
from minilora.train import adapt
from minilora.vit import default_value_value_blocks

TINY = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=128, patch=16,
                  text_width=64, text_layers=2)


def test_rivals_of_auroc_agree_with_and_without_ties():
    pytest.importorskip("sklearn")
    pytest.importorskip("torchmetrics")
    for levels in auroc.LEVELS:
        found = auroc.times(3000, 0.1, levels, rounds=2)
        assert max(found["values"].values()) - min(found["values"].values()) < auroc.TOLERANCE
        assert {name: len(taken) for name, taken in found["seconds"].items()} == dict.fromkeys(
            auroc.RIVALS, 2)


def test_scores_have_as_many_values_and_positives_as_asked_for():
    scores, labels = auroc.inputs(20_000, 0.02, levels=50)
    assert len(scores.unique()) <= 50 and scores.dtype == torch.float32
    assert 0 <= scores.min() and scores.max() <= 1 and 0.015 < labels.float().mean() < 0.025
    assert len(auroc.inputs(1000, 0.5, levels=0)[0].unique()) > 900


def figures(value=0.75):
    """Stands in for bench.auroc's fresh processes: our time and memory are half of the others."""
    def fresh(function, *arguments, returning=False):
        if function is auroc.peak_of:
            return 10_000_000 if arguments[0] == "minilora" else 20_000_000
        seconds = {name: [0.1 if name == "minilora" else 0.2] * 3 for name in auroc.RIVALS}
        return {"seconds": seconds,
                "values": dict.fromkeys(auroc.RIVALS, 0.75) | {"minilora": value}}
    return fresh


def test_ratios_of_auroc_are_ours_over_theirs(monkeypatch):
    monkeypatch.setattr(measure, "fresh", figures())
    cells = [auroc.cell(100, 0.5, 0, 3)]
    (_, header, time_rows), (_, _, peak_rows) = auroc.tables(cells)
    assert time_rows == [["100", "50%", "all", "100", "200", "0.50 (0.50 to 0.50)", "200",
                          "0.50 (0.50 to 0.50)"]]
    assert peak_rows[0][3:6] == ["10.0", "20.0", "0.50"] and len(header) == len(time_rows[0])
    assert len(auroc.numbers(cells)[1]) == 3 * len(auroc.RIVALS)


def test_a_different_auroc_raises_an_error(monkeypatch):
    monkeypatch.setattr(measure, "fresh", figures(value=0.76))
    with pytest.raises(ValueError, match="one AUROC"):
        auroc.cell(100, 0.5, 0, 3)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(speed_pairs, "SHAPE", TINY)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")     # the peer of one pair
@pytest.mark.parametrize("name", speed_pairs.PAIRS)
def test_both_sides_of_every_pair_give_the_same_result(name, tiny, tmp_path, monkeypatch):
    for package in ("transformers", "peft"):
        pytest.importorskip(package)
    monkeypatch.setattr(measure, "import_seconds", lambda statement, device: len(statement) / 1e3)
    monkeypatch.setattr(speed_pairs, "process_seconds", lambda arguments, device: 0.1)
    speed.main(["--pairs", name, "--batch", "1", "3", "--rounds", "2", "--out", str(tmp_path),
                "--archive", str(tmp_path / "official.pt")])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "speed.csv").read_text())))
    assert len({row["what"] for row in rows}) == len(rows) / 2 == {
        "image": 2, "text": 4, "lora": 1, "load": 2, "memory": 1, "import": 3}[name]
    assert "ratio" in (tmp_path / "speed.md").read_text()


def test_a_pair_with_different_results_raises_an_error():
    a, b = torch.ones(3), torch.ones(3) + 0.01
    pair = speed_pairs.Pair("wrong", lambda: [a], lambda: [b], speed_pairs.apart)
    with pytest.raises(ValueError, match="wrong: expected one result"):
        speed.timed(pair, 1, "cpu")
    pair = speed_pairs.Pair("nan", lambda: [a * torch.nan], lambda: [b], speed_pairs.apart)
    with pytest.raises(ValueError, match="nan: expected one result"):
        speed.timed(pair, 1, "cpu")


def test_every_rival_of_scoring_scores_the_same_picture(tiny, monkeypatch):
    """All give one score; only anomalib may be missing.  The rivals' tower is without LoRA."""
    def adapted(clip, resolution):
        detector = speed_pairs.detector_with_memory(clip, resolution)
        for layer in lora_layers(clip.visual).values():
            layer.lora_B.data.normal_()
        return detector
    monkeypatch.setattr(speed_scores, "detector_with_memory", adapted)
    found = speed_scores.scorers(speed_scores.tower_of("ViT-B/16", "cpu"), 96, "cpu")
    assert set(found) >= {"minilora", "features", "tower", "CLS only", "PatchCore", "AnomalyDINO"}
    for name in ("minilora", "PatchCore", "AnomalyDINO"):
        maps, scores = found[name]()
        assert maps.shape == (1, 96, 96) and scores.shape == (1,)
    pixels = speed_scores.normalise(speed_pairs.random_pixels(1, "cpu", 96))
    expected = speed_pairs.seeded_clip("cpu").encode_image(pixels)
    assert torch.equal(found["CLS only"](), expected)
    assert (found["tower"]() - expected).abs().max() < 1e-5
    assert found["features"]().size == (96, 96)


def test_scoring_has_a_row_for_each_tower_resolution_and_rival(tiny, monkeypatch):
    monkeypatch.setattr(anomalib_peer, "is_installed", lambda: False)
    options = speed.parser().parse_args(["--resolutions", "64", "96", "--rounds", "2", "--towers",
                                         "ViT-B/16", "--device", "cpu"])
    rows = list(speed_scores.score_rows(options))
    assert len(rows) == len({row["label"] for row in rows}) == 2 * 5
    assert [row["goal"] is not None for row in rows] == 2 * [False, True, False, False, False]


def test_anomalibs_patchcore_gives_the_distances_of_ours(tiny):
    """The same hidden states, the same memory: the same distances, and the same image score."""
    pytest.importorskip("anomalib")
    plain = speed_scores.tower_of("ViT-B/16", "cpu")
    ours = speed_scores.PatchCore(plain)
    ours.bank = torch.rand(20, 2 * TINY.vision_width, generator=torch.Generator().manual_seed(1))
    pixels = speed_pairs.random_pixels(1, "cpu", 64)
    theirs = anomalib_peer.patchcore(plain.visual, ours.states, ours.bank)
    with torch.no_grad():
        found = theirs(speed_scores.normalise(pixels))
    assert found.pred_score.item() == pytest.approx(ours.score(pixels)[1].item(), rel=1e-4)


def test_a_folder_without_anomalib_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(anomalib_peer, "is_installed", lambda: False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match="expected a folder with anomalib in it, found none"):
        anomalib_peer.add_folder(tmp_path)


def row_of(ours, theirs, goal):
    return {"label": "a", "apart": None, "ours": ours, "theirs": theirs, "goal": goal}


def test_a_goal_is_computed_from_the_median():
    assert speed.reached(row_of([1, 2, 9], [2, 2, 2], (1.0, "times"))) == ("at most 1 times", "yes")
    assert speed.reached(row_of([1, 2, 9], [2, 1, 2], (1.0, "times")))[1] == "no"
    assert speed.reached(row_of([1, 26, 30], None, (25, "s"))) == ("at most 25 s", "no")
    assert speed.reached(row_of([1], [1], None)) == ("", "")
    (line,) = speed.table([row_of([20.0, 10.0, 0.5], None, (25, "s"))])[2]
    assert line == ["a", "10 s", "500 ms to 20 s", "--", "--", "--", "--", "at most 25 s", "yes"]


def test_a_stopped_run_goes_on_with_the_next_round_of_the_fit(tmp_path, monkeypatch):
    """Each fit is stored as soon as it ends; only the rounds that are missing are measured."""
    calls = []

    def fit(run, *options):
        calls.append(options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return float(len(calls))
    monkeypatch.setattr(speed, "fit_seconds", fit)
    given = ["--pairs", "fit", "--towers", "embedded", "--fit-rounds", "3", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        speed.main(given)
    speed.main(given)
    assert len(calls) == 4 and "mini-clip" in calls[0]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "speed.csv").read_text())))
    assert [float(row["ours_seconds"]) for row in rows] == [1, 2, 4]
    assert "at most 25 s" in (tmp_path / "speed.txt").read_text()


def test_auroc_is_compared_with_both_libraries(monkeypatch):
    monkeypatch.setattr(measure, "fresh", lambda function, *given: {
        "seconds": {"minilora": [1.0], "torchmetrics": [2.0], "scikit-learn": [4.0]},
        "values": dict.fromkeys(auroc.RIVALS, 0.75)})
    rows = speed.auroc_rows(speed.parser().parse_args(["--counts", "100"]))
    assert [line[4] for line in speed.table(rows)[2]] == ["0.500", "0.250"]
    assert [speed.reached(row)[1] for row in rows] == ["", "yes"]


def test_imports_are_timed_in_fresh_processes_without_the_start_of_python():
    assert 0 <= measure.import_seconds("pass") < 0.01
    assert measure.import_seconds("import time; time.sleep(0.05)") >= 0.05


def test_a_command_is_timed_with_the_start_of_python_and_must_succeed():
    assert speed_pairs.process_seconds(["-c", "import time; time.sleep(0.2)"]) > 0.2
    with pytest.raises(subprocess.CalledProcessError):
        speed_pairs.process_seconds(["-c", "raise SystemExit(1)"])


def fitted(way, steps=8):
    config = against_peft.config_of(steps, 16)
    clip, prompts, pictures = against_peft.prepared(way, TINY, config)
    return against_peft.fit(way, clip, prompts, pictures, config), clip


def test_three_ways_of_adapting_take_the_same_steps():
    """Neither the reuse of frozen tokens nor peft's layers change the training steps."""
    pytest.importorskip("peft")
    done = {way: fitted(way) for way in against_peft.WAYS}
    curves = {way: found["losses"] for way, (found, _) in done.items()}
    for way in against_peft.WAYS:
        assert curves[way] == pytest.approx(curves[against_peft.OURS], rel=1e-3), way
    assert len(set(curves[against_peft.OURS])) == 8, "training moves"
    ours, *others = ([p.detach() for p in peers.trained(clip.visual)] for _, clip in done.values())
    for theirs in others:
        assert len(ours) == len(theirs) == 2 * 4                # A and B of q, k, v, out
        assert speed_pairs.apart(ours, theirs) < 0.05                 # AdamW divides by small gradients


def test_the_timed_fit_is_that_of_minilora():
    config = against_peft.config_of(4, 16)
    clip, prompts, pictures = against_peft.prepared(against_peft.OURS, TINY, config)
    generator = torch.Generator().manual_seed(config.seed)
    last = default_value_value_blocks(TINY.vision_layers)
    losses = adapt(clip, prompts, pictures, last, config, generator, lambda step, loss: None)
    assert fitted(against_peft.OURS, 4)[0]["losses"] == losses


def test_the_table_compares_with_the_plain_loop(monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(measure, "fresh", lambda f, *given, returning=False: f(*given))
    monkeypatch.setattr(measure, "peak", lambda work, device: {"allocated": 10**8})
    found, peaks = against_peft.collect(2, 2, 8, "cpu", lambda line: None, astuple(TINY))
    made = against_peft.table(found, peaks)
    assert [row[0] for row in made[2]] == list(against_peft.WAYS)
    assert all(len(row) == len(made[1]) for row in made[2])
    assert made[2][1][2] == "1.00 (1.00 to 1.00)" and made[2][1][6] == "1.00"
    assert tables.as_csv(*against_peft.numbers(found, peaks)).count("\n") == 1 + 2 * 3


def test_ways_with_different_first_losses_raise_an_error(monkeypatch):
    losses = iter([[0.7], [0.8]])
    monkeypatch.setattr(measure, "fresh", lambda *given, returning=False: {
        "pool": 1, "steps": 1, "kept": 1, "losses": next(losses)})
    with pytest.raises(ValueError, match="from pixels: expected the first losses"):
        against_peft.collect(1, 1, 8, "cpu", lambda line: None)
