"""The memory benchmark: its formulas agree with autograd, and its steps are minilora's own."""

import csv
import io
import statistics
from dataclasses import asdict

import pytest
import torch
from conftest import TINY

from bench import bars, cost, formulas, largest, measure, memory
from bench.steps import FULL, MAIN, METHODS, PLAIN, REUSE, Training, saved_bytes
from bench.tables import as_csv
from minilora.clip import CLIP, VIT_B_16, CLIPConfig
from minilora.train import adaptation_loss, frozen_states

SMALL = CLIPConfig(**TINY | {"vision_layers": 12, "vision_width": 128, "text_layers": 2,
                             "resolution": 112})
LORA = "LoRA r=4 q,v all blocks"


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_gives_the_number_of_trained_parameters(name):
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
    assert memory.above(parts) == pytest.approx(found["allocated"], rel=0.2)
    assert found["trainable"] == formulas.trainable(METHODS[name], shape)[1]
    assert 4 * found["trainable"] < found["file"] < 4 * found["trainable"] + 30_000


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 5000])
@pytest.mark.parametrize("guess", [0, 1, 90, 4096])
def test_the_largest_batch_is_found_from_any_guess(limit, guess):
    tried = []
    found = largest.bisected(lambda batch: tried.append(batch) or batch <= limit, guess)
    assert found == min(limit, largest.MOST) and len(set(tried)) == len(tried) <= 26


def test_a_larger_card_holds_a_larger_batch_and_minilora_more_than_full_fine_tuning(options):
    for card in largest.CARDS.values():
        full, ours = (largest.largest(n, "float32", "off", card, options) for n in (FULL, PLAIN))
        assert ours > 2 * full
    sizes = [largest.largest(FULL, "float32", "off", c, options) for c in largest.CARDS.values()]
    assert sizes == sorted(sizes)


@pytest.fixture
def options(tmp_path):
    o = memory.parser().parse_args(["--batch", "2", "--methods", FULL, PLAIN, REUSE, "--threads",
                                    "1", "--precision", "float32", "--checkpointing", "off",
                                    "--rounds", "2", "--out", str(tmp_path)])
    o.shape, o.pool = VIT_B_16, 320
    return o


def test_a_second_run_measures_nothing_and_prints_the_same_tables(options, monkeypatch, capsys):
    calls = []

    def stand_in(function, name, shape, conditions, threads, *more, returning=False):
        calls.append((function.__name__, name))
        if function is cost.memory:
            return {"allocated": 2_000_000_000 if name == FULL else 500_000_000,
                    "trainable": 10, "total": 1000, "file": 4_000_000}
        return {n: [k] * 2 for k, n in enumerate(name, 1)} if isinstance(name, list) else [0.5, 1.5]
    monkeypatch.setattr(measure, "fresh", stand_in)
    memory.run(options, lambda line: None)
    assert len(calls) == 3 * 2 + 1, "memory and time of each, and all in turn"
    printed = capsys.readouterr().out
    assert f"{PLAIN} against {FULL}: 25.0% of the memory" in printed
    assert "2.000 x the time" in printed and "predicted" in printed
    memory.run(options, lambda line: None)
    assert len(calls) == 7 and capsys.readouterr().out == printed
    found = memory.measured(options, lambda line: None)
    rows = list(csv.DictReader(io.StringIO(as_csv(*memory.numbers(found)))))
    assert [r["method"] for r in rows] == [FULL, PLAIN, REUSE]
    assert float(rows[0]["median_s"]) == statistics.median([0.5, 1.5])
    assert (options.out / "memory.png").stat().st_size > 1000
    options.threads = 2
    memory.measured(options, lambda line: None)
    assert len(calls) == 13, "other conditions are measured again"


def test_a_method_that_does_not_fit_has_a_row_without_numbers(options, monkeypatch, capsys):
    def fails(function, name, *rest, returning=False):
        raise RuntimeError("torch.OutOfMemoryError: CUDA out of memory")
    monkeypatch.setattr(measure, "fresh", fails)
    found = memory.measured(options, print)
    assert found == {} and "does not fit" in capsys.readouterr().out
    *_, (_, header, rows) = memory.tables(found, options)
    assert rows[0] == [FULL, *["--"] * (len(header) - 1)]


def test_the_bars_are_as_long_as_their_parts_and_stay_in_the_frame():
    parts = {"weights": 2e9, "pool": 0, "gradients": 1e9, "optimiser": 1e9, "activations": 4e9}
    image = bars.bars([("a", parts, 8.2e9), ("b", parts, None)], "title")
    row = [image.getpixel((x, bars.TOP + 10)) for x in range(bars.WIDTH)]
    lengths = {part: row.count(tuple(bytes.fromhex(colour[1:])))
               for part, colour in bars.COLOURS.items()}
    assert lengths["pool"] == 0 and lengths["activations"] == pytest.approx(
        4 * lengths["gradients"], rel=0.05)
    assert row[-bars.RIGHT // 2] in {(255, 255, 255), (0x11, 0x11, 0x11)}


def test_the_quick_selection_is_a_part_of_the_whole():
    assert set(MAIN) <= set(METHODS)
