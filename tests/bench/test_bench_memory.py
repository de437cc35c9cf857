"""The memory benchmark: its formulas agree with autograd, and its steps are minilora's own."""

import csv
import math
import signal
import statistics
from dataclasses import asdict

import pytest
import torch
from conftest import TINY
from scipy import stats

from bench import bars, cost, findings, formulas, largest, measure, memory, memory_tables
from bench.rows import ROWS, Row
from bench.steps import FULL, METHODS, PLAIN, REUSE, Training, saved_bytes
from bench.turns import Turns
from minilora.charts.drawing import Label, Polyline, Rectangle
from minilora.charts.plots import LETTER
from minilora.clip import CLIP, VIT_B_16, CLIPConfig
from minilora.train import adaptation_loss, frozen_states

SMALL = CLIPConfig(**TINY | {"vision_layers": 12, "vision_width": 128, "text_layers": 2,
                             "resolution": 112})
LORA = "LoRA r=4 q,v all blocks"


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_gives_the_number_of_trained_parameters(name):
    if METHODS[name].peft:
        pytest.importorskip("peft")
    made = Training(METHODS[name], SMALL, batch=1, pool=1)
    text, value = formulas.trainable(METHODS[name], SMALL)
    assert sum(p.numel() for p in made.trained) == value, text


def test_the_towers_of_vit_b_16_are_counted_exactly():
    with torch.device("meta"):
        clip = CLIP(VIT_B_16)
    counted = tuple(sum(p.numel() for p in tower.parameters())
                    for tower in (clip.visual, clip.text))
    assert formulas.tower_counts(VIT_B_16) == counted


def kept_by_autograd(made):
    """Bytes of everything saved for the gradient of one loss, except the weights."""
    shown, coverage = made.hold_pool()
    weights, kept = {p.untyped_storage().data_ptr() for p in made.clip.parameters()}, {}
    with saved_bytes(kept), torch.autocast("cpu", torch.bfloat16, enabled=made.bfloat16):
        loss = made.loss(shown, coverage)
    assert loss.requires_grad
    return sum(size for place, (size, *_) in kept.items() if place not in weights)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", [FULL, "full, both towers", LORA, PLAIN, REUSE,
                                  "LoRA r=16 q,k,v,out last third"])
def test_autograd_keeps_what_the_formula_counts(name, bfloat16):
    """Every tensor of every block.  The tolerance covers the losses, the statistics of the norms,
    and in bfloat16 the weights before the first trained layer, which the formula counts, too.
    """
    made = Training(METHODS[name], SMALL, batch=4, pool=4, bfloat16=bfloat16)
    stages = formulas.stages(METHODS[name], SMALL, 4, cost.prompt_length(), bfloat16, False, "cpu")
    counted = sum(stage.kept for stage in stages)
    assert kept_by_autograd(made) == pytest.approx(counted, rel=0.1)


def same_weights(made, other):
    """Copies the weights of one training to another; the prompts have embeddings of their own."""
    made.clip.load_state_dict(other.clip.state_dict())
    made.prompts.embeddings.copy_(other.prompts.embeddings)
    made.prompts.context.data.copy_(other.prompts.context)


def test_checkpointing_keeps_little_and_changes_no_gradient():
    plain, again = (Training(METHODS[PLAIN], SMALL, 2, 2, checkpointing=c) for c in (False, True))
    same_weights(again, plain)
    shown, coverage = plain.hold_pool()
    for made in (plain, again):
        made.loss(shown, coverage).backward()
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6)
               for a, b in zip(plain.trained, again.trained))
    assert kept_by_autograd(again) < kept_by_autograd(plain) / 3


def test_the_plain_step_and_the_one_with_reuse_compute_the_same_loss():
    plain = Training(METHODS[PLAIN], SMALL, 2, 2)
    reuse = Training(METHODS[REUSE], SMALL, 2, 2)
    same_weights(reuse, plain)
    pixels, coverage = plain.hold_pool()
    tokens = frozen_states(plain.clip.visual, pixels.float(), plain.first)[-1]
    ours = adaptation_loss(plain.clip, plain.prompts, tokens, coverage, plain.first,
                           plain.config.loss_weights)
    assert plain.loss(pixels, coverage).item() == pytest.approx(ours.item(), abs=1e-6)
    assert reuse.loss(tokens, coverage).item() == pytest.approx(ours.item(), abs=1e-6)


def test_adamw_has_its_moments_when_the_peak_is_taken():
    """The second step needs more memory than the first: two moments per parameter."""
    parts = formulas.predicted(METHODS[FULL], SMALL, 1, 1, 9)
    assert parts["optimiser"] == 2 * 4 * formulas.trainable(METHODS[FULL], SMALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [FULL, PLAIN, REUSE])
def test_a_measured_peak_is_near_the_predicted_one(name):
    """On a tower so large that temporary memory of libraries does not matter."""
    shape = CLIPConfig(**TINY | {"vision_layers": 6, "vision_width": 256, "resolution": 224})
    conditions = {"batch": 8, "pool": 256, "bfloat16": False, "checkpointing": False,
                  "device": "cpu"}
    found = measure.fresh(cost.memory, name, asdict(shape), conditions, 1, returning=True)
    parts = formulas.predicted(METHODS[name], shape, 8, 256, cost.prompt_length())
    assert memory_tables.above(parts) == pytest.approx(found["allocated"], rel=0.2)
    assert found["trainable"] == formulas.trainable(METHODS[name], shape)[1]
    assert 4 * found["trainable"] < found["file"] < 4 * found["trainable"] + 30_000


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 5000])
@pytest.mark.parametrize("guess", [0, 1, 90, 4096])
def test_the_largest_batch_is_found_from_any_guess(limit, guess):
    tried = []
    found = largest.bisected(lambda batch: tried.append(batch) or batch <= limit, guess)
    assert found == min(limit, largest.MOST) and len(set(tried)) == len(tried) <= 26


@pytest.mark.parametrize("limit", [3, 90, 1000])
@pytest.mark.parametrize("guess", [1, 95, 1200])
def test_a_search_may_end_before_the_exact_batch(limit, guess):
    tried = []
    found = largest.bisected(lambda batch: tried.append(batch) or batch <= limit, guess,
                             exact=largest.EXACT)
    failed = min(batch for batch in tried if batch > limit)
    assert found in tried and found <= limit and failed - found <= max(1, found * largest.EXACT)
    exactly = []
    largest.bisected(lambda batch: exactly.append(batch) or batch <= limit, guess)
    assert len(tried) < len(exactly) or limit < 1 / largest.EXACT


def test_a_larger_card_holds_a_larger_batch_and_minilora_more_than_full_fine_tuning(options):
    for card in largest.CARDS.values():
        full, ours = (largest.by_formula(Row(n, n), card, options) for n in (FULL, PLAIN))
        assert ours > 2 * full
    sizes = [largest.by_formula(Row(FULL, FULL), c, options) for c in largest.CARDS.values()]
    assert sizes == sorted(sizes)


@pytest.fixture
def options(tmp_path):
    o = memory.parser().parse_args(["--batch", "2", "--methods", FULL, PLAIN, REUSE, "--threads",
                                    "1", "--rounds", "2", "--out", str(tmp_path)])
    o.shape, o.pool, o.peft = VIT_B_16, 320, False
    return o


def test_a_second_run_measures_nothing_and_prints_the_same_tables(options, monkeypatch, capsys):
    calls = []

    def stand_in(function, name, shape, conditions, threads, *more, returning=False):
        calls.append((function.__name__, name))
        if function is cost.memory:
            assert returning, "freed memory must return to the system"
            return {"allocated": 2_000_000_000 if name == FULL else 500_000_000, "blocks": 4,
                    "trainable": 10, "total": 1000, "file": 4_000_000}
        return {n: [k] * 2 for k, n in enumerate(name, 1)} if isinstance(name, list) else [0.5, 1.5]
    monkeypatch.setattr(measure, "fresh", stand_in)
    memory.run(options, lambda line: None)
    assert len(calls) == 3 * 2 + 1, "memory and time of each, and all in turn"
    printed = capsys.readouterr().out
    assert f"{PLAIN} against {FULL}: 25.0% of the memory" in printed
    assert "2.000 x the time" in printed and "largest batch that fits, predicted" in printed
    memory.run(options, lambda line: None)
    assert len(calls) == 7 and capsys.readouterr().out == printed
    rows = list(csv.DictReader((options.out / "memory.csv").open()))
    assert [r["method"] for r in rows] == [FULL, PLAIN, REUSE]
    assert float(rows[0]["median_s"]) == statistics.median([0.5, 1.5]) == 2 / float(
        rows[0]["pictures_s"])
    assert (options.out / "memory.png").stat().st_size > 1000
    assert memory_tables.TITLE in (options.out / "memory.svg").read_text()
    options.threads = 2
    memory.run(options, lambda line: None)
    assert len(calls) == 14, "other conditions are measured again"


def test_the_counterpart_in_peft_is_measured_too_and_its_time_in_turn(options, monkeypatch):
    def stand_in(function, name, *rest, returning=False):
        if function is cost.memory:
            return {"allocated": 3e6 if name == "peft LoRA, all blocks" else 2e6, "blocks": 12,
                    "trainable": 10, "total": 1000, "file": 4_000_000}
        return {name[0]: [2, 2], name[1]: [5, 6]} if isinstance(name, list) else [2, 2]
    monkeypatch.setattr(measure, "fresh", stand_in)
    row, case = Row("a", "LoRA, all blocks", peft="peft LoRA, all blocks"), (2, "float32", "off")
    options.peft = True
    texts = memory_tables.texts_of(memory.measured(row, case, Turns(options)))
    assert [v for k, v in texts.items() if k.startswith("peft")] == [
        "3", "2.750", "2.500 to 3.000"]
    options.peft = False
    texts = memory_tables.texts_of(memory.measured(row, case, Turns(options)))
    assert [v for k, v in texts.items() if k.startswith("peft")] == ["--"] * 3


def test_a_process_that_runs_out_of_memory_is_a_row_and_another_error_is_not(options, monkeypatch,
                                                                             capsys):
    error = "torch.OutOfMemoryError: CUDA out of memory"

    def fails(function, name, *rest, returning=False):
        raise RuntimeError(error)
    monkeypatch.setattr(measure, "fresh", fails)
    monkeypatch.setattr(measure, "device_bytes", lambda device: 4 * 2**30)
    memory.run(options, lambda line: None)
    rows = list(csv.DictReader((options.out / "memory.csv").open()))
    assert {r["reason"] for r in rows} == {"does not fit in 4 GB"} and rows[0]["allocated"] == ""
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith(PLAIN))
    assert line.count("does not fit in 4 GB") == 1 and "--" in line
    assert not (options.out / "memory.svg").exists(), "a chart without a bar"
    error = "KeyError: 'x'"
    with pytest.raises(RuntimeError, match="KeyError"):
        memory.run(options, lambda line: None)


def test_a_killed_process_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        measure.fresh(signal.raise_signal, int(signal.SIGKILL))
    assert measure.is_out_of_memory(caught.value)
    assert measure.is_out_of_memory(torch.OutOfMemoryError("tried to allocate 2 GiB"))
    assert not measure.is_out_of_memory(RuntimeError("shapes do not match"))


def test_conditions_of_the_command_line_apply_to_each_method_once():
    o = memory.parser().parse_args(["--batch", "1", "8", "--precision", "float32", "bfloat16",
                                    "--methods", "full", "full, bf16", "linear probe", "CoOp",
                                    "--checkpointing", "on"])
    found = [(row.method, case) for row, case in memory.cases(o)]
    assert found == [(method, (batch, precision, "on")) for batch in (1, 8)
                     for precision in ("float32", "bfloat16") for method in (FULL, "CoOp")]
    rows = [row for row, _ in memory.cases(memory.parser().parse_args([]))]
    assert rows == list(ROWS)


@pytest.mark.parametrize("arguments, words", [
    (["--device", "cuda", "--all"], "expected a GPU that torch can use, found none"),
    (["--methods", "LoRA 5"], "found 'LoRA 5'")])
def test_a_wrong_option_is_one_line_and_status_2(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        memory.parser().parse_args(arguments)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and words in text and text.count("\n") == 1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name, blocks", [
    (FULL, 12), ("BitFit", 12), ("LoRA, all blocks", 12), (PLAIN, 4), (REUSE, 4), ("ladder", 0),
    ("CoOp", 0), ("linear probe", 0)])
def test_the_blocks_with_a_gradient_are_counted_during_a_step(name, blocks, checkpointing):
    made = Training(METHODS[name], SMALL, 1, 1, checkpointing=checkpointing)
    seen = cost.blocks_with_gradient(made.clip.visual)
    next(made.steps())
    assert seen == set(range(12 - blocks, 12))


# ---- the chart and its claim --------------------------------------------------------------------

PARTS = {"weights": 2e9, "pool": 0, "gradients": 1e9, "optimiser": 1e9, "activations": 4e9}


def test_the_bars_are_as_long_as_their_parts_and_stay_in_the_frame():
    drawing = bars.bars([bars.Bar("a", "n", PARTS, 2e9, 8.2e9), bars.Bar("b", "n", None, 1e9, 4e9)],
                        "title", "MB")
    parts = {style: [s.width for s in drawing.shapes if isinstance(s, Rectangle)
                     and s.style == style and s.y > bars.TOP] for style in bars.STYLES.values()}
    assert parts[bars.STYLES["pool"]] == [] and len(parts[bars.STYLES["weights"]]) == 2
    length = parts[bars.STYLES["gradients"]][0]
    assert parts[bars.STYLES["activations"]] == pytest.approx([4 * length])
    assert parts[bars.STYLES[bars.UNKNOWN]] == pytest.approx([3 * length]), "4 GB less 1 of weights"
    right = [s.x + LETTER * len(s.text) * (s.anchor == "start") for s in drawing.shapes
             if isinstance(s, Label)]
    assert max(right) < drawing.width == 900
    assert min(s.x - LETTER * len(s.text) for s in drawing.shapes
               if isinstance(s, Label) and s.anchor == "end") > 0


def test_the_bars_are_sorted_and_the_tick_is_at_the_measured_total():
    drawing = bars.bars([bars.Bar("large", "n", PARTS, 2e9, 6e9),
                         bars.Bar("small", "n", None, 1e9, 4e9)], "title", "MB")
    names = [s.text for s in drawing.shapes if isinstance(s, Label) and s.bold][1:]
    assert names == ["small", "large"]
    ticks = [s.points[0][0] for s in drawing.shapes
             if isinstance(s, Polyline) and s.style == "mark" and s.points[0][1] > bars.TOP]
    width = bars.WIDTH - bars.LEFT - bars.RIGHT
    assert [statistics.mean(ticks[:2]), statistics.mean(ticks[2:])] == pytest.approx(
        [bars.LEFT + width / 2, bars.LEFT + width * 6 / 8])
    assert drawing.description == "title. MB. small: n, 4,000 MB; large: n, 6,000 MB"


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_correlation_is_that_of_scipy(seed):
    numbers = torch.randint(0, 9, (2, 20), generator=torch.Generator().manual_seed(seed)).tolist()
    assert findings.spearman(*numbers) == pytest.approx(stats.spearmanr(*numbers).statistic)
    assert math.isnan(findings.spearman([1, 1], [1, 2]))


def test_the_two_pairs_are_those_with_the_largest_difference():
    Point = findings.Point
    points = [Point("a", 100, 12, 700, True), Point("b", 150, 4, 200, True),
              Point("c", 90_000, 12, 1400, True), Point("d", 40, 0, 100, True),
              Point("e", 120, 12, 50, False)]
    *ranks, same, similar = findings.lines(points)
    assert '"c" (12 blocks) trains 900 times the parameters of "a"' in same and "2.00" in same
    assert '"a" (12 blocks) trains 0.67 times the parameters of "b"' in similar
    assert "needs 3.50 times" in similar
    assert "4 rows in float32" in ranks[0] and "5 rows of all conditions" in ranks[1]
    assert findings.lines(points[:1]) == []
