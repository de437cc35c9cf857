"""More ways to adapt the tower: each trains what it says, and agrees with peft's, if it has it."""
import copy

import pytest
import torch
from conftest import TINY

from bench import accuracy, cost, formulas, peers, readme
from bench.bitfit import train_biases
from bench.counts import trainable
from bench.dora import DoRALinear, add_dora
from bench.extra_methods import EXTRA
from bench.ladder import SideNetwork, add_side_network
from bench.lora_fa import add_lora_fa
from bench.rows import ROWS
from bench.steps import METHODS, Training, saved_bytes
from minilora.clip import CLIP, VIT_B_16, CLIPConfig
from minilora.config import DetectorConfig
from minilora.lora import TARGETS, lora_layers, merge

SHALLOW = CLIPConfig(**TINY | {"vision_layers": 3, "vision_width": 128, "text_layers": 1})
DEEP = CLIPConfig(**TINY | {"vision_layers": 12, "vision_width": 128, "text_layers": 2,
                            "resolution": 112})
NEW = ("BitFit", "ladder", "LoRA, all blocks", "LoRA-FA, all blocks", "DoRA, all blocks")
WITH_PEFT = {"LoRA, all blocks", "LoRA-FA, all blocks", "DoRA, all blocks", "minilora, plain step"}


def drawn_tower(seed=0):
    """A frozen image tower whose biases are not zero."""
    visual = CLIP(SHALLOW).visual.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    visual.initialise(generator)
    for name, p in visual.named_parameters():
        if name.endswith("bias"):
            p.normal_(0, 0.1, generator=generator)
    return visual


def pixels(count=2):
    return torch.randn(count, 3, SHALLOW.resolution, SHALLOW.resolution,
                       generator=torch.Generator().manual_seed(1))


# ---- rows ----------------------------------------------------------------------------------------

def test_every_row_names_a_method_and_peft_stands_beside_each_that_it_has():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.method in METHODS and row.precision in ("float32", "bfloat16")
        assert (row.peft is not None) == (row.method in WITH_PEFT)
        if row.peft:
            ours, theirs = METHODS[row.method], METHODS[row.peft]
            assert theirs.peft and not ours.peft
            assert (ours.variant, ours.rank, ours.share) == (theirs.variant, theirs.rank,
                                                             theirs.share)


@pytest.mark.parametrize("name, expected", [
    ("LoRA, all blocks", 294_912),                      # 12 blocks x 4 matrices x 4 (768 + 768)
    ("LoRA-FA, all blocks", 147_456),                   # half of it
    ("DoRA, all blocks", 294_912 + 12 * 4 * 768),
    ("BitFit", 12 * 11 * 768 + 2 * 768),
    # 12 x (768 x 96 + 96 + block of width 96 + gate), and 96 x 512 + 512
    ("ladder", 12 * (73_728 + 96 + 12 * 9_216 + 13 * 96 + 1) + 49_152 + 512),
    ("minilora, plain step", 98_304)])
def test_trained_parameters_in_vit_b_16(name, expected):
    """Computed by hand; each also trains two times four context vectors of width 512."""
    assert trainable(METHODS[name], VIT_B_16)[1] == expected + 4_096


# ---- training ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [*NEW, *(f"peft {n}" for n in NEW if n in WITH_PEFT)])
def test_two_steps_change_every_trained_tensor_and_no_other(name):
    if METHODS[name].peft:
        pytest.importorskip("peft")
    torch.manual_seed(0)                                        # weights and pictures
    made = Training(METHODS[name], SHALLOW, batch=2, pool=2)
    trained = {id(p) for p in made.trained}
    tensors = [*made.clip.parameters(), made.trained[-1]]       # the last one: context vectors
    assert sum(id(p) in trained for p in tensors) == len(made.trained)
    before = [p.detach().clone() for p in tensors]
    losses = list(made.steps())
    assert len(losses) == 2 and losses[1] < losses[0]
    for p, old in zip(tensors, before):
        assert torch.equal(p, old) != (id(p) in trained)
    assert sum(p.numel() for p in made.trained) == trainable(METHODS[name], SHALLOW)[1]


@pytest.mark.parametrize("name", NEW)
def test_autograd_keeps_what_the_formula_counts(name):
    made = Training(METHODS[name], DEEP, batch=4, pool=4)
    shown, coverage = made.hold_pool()
    weights, kept = {p.untyped_storage().data_ptr() for p in made.clip.parameters()}, {}
    with saved_bytes(kept):
        made.loss(shown, coverage)
    found = sum(size for place, (size, *_) in kept.items() if place not in weights)
    stages = formulas.stages(METHODS[name], DEEP, 4, cost.prompt_length(), False, False, "cpu")
    assert found == pytest.approx(sum(stage.kept for stage in stages), rel=0.05)


def test_peft_has_no_prediction():
    assert formulas.predicted(METHODS["peft DoRA, all blocks"], DEEP, 1, 1, 9) is None


# ---- the methods ---------------------------------------------------------------------------------

@pytest.mark.parametrize("add, peers_add", [(add_lora_fa, peers.add_peft_lora_fa),
                                            (add_dora, peers.add_peft_dora)])
def test_parity_with_peft_in_outputs_and_gradients(add, peers_add):
    """The same A, B and magnitudes, all away from their start."""
    pytest.importorskip("peft")
    ours, theirs = drawn_tower(), drawn_tower()
    for visual, adding in ((ours, add), (theirs, peers_add)):
        adding(visual, TARGETS, range(1, 3), 3, 6)
    generator = torch.Generator().manual_seed(2)
    for layer in lora_layers(ours).values():
        for name in layer.TRAINED:
            p = getattr(layer, name).data
            p += 0.1 * torch.randn(p.shape, generator=generator)
    named = dict(theirs.named_parameters())
    key = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight",
           "magnitude": "lora_magnitude_vector.default.weight"}
    pairs = [(getattr(layer, name), named[f"{place}.{key[name]}"])
             for place, layer in lora_layers(ours).items() for name in layer.TRAINED]
    for own, peer in pairs:
        peer.data.copy_(own)
        assert own.requires_grad == peer.requires_grad
    assert len([p for p in theirs.parameters() if p.requires_grad]) == sum(
        own.requires_grad for own, _ in pairs)
    outputs = [visual.text_patches(pixels()) for visual in (ours, theirs)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[0], drawn_tower().text_patches(pixels()), atol=1e-3)
    for visual in (ours, theirs):
        visual.text_patches(pixels()).square().mean().backward()
    for own, peer in pairs:
        if own.requires_grad:
            torch.testing.assert_close(own.grad, peer.grad, rtol=1e-5, atol=1e-5)


def test_lora_fa_keeps_less_of_a_layer_than_lora_by_its_input():
    """The gradient of B needs A x, the gradient of A needs x."""
    x = torch.randn(1, 50, 128, requires_grad=True)
    sizes = []
    for frozen in (False, True):
        visual = drawn_tower()
        add_lora_fa(visual, ("q",), [0], 4, 8)
        layer = visual.blocks[0].attn.q
        layer.lora_A.requires_grad_(not frozen)
        kept = {}
        with saved_bytes(kept):
            layer(x)
        sizes.append(sum(size for size, shape, _ in kept.values() if 50 in shape))
    assert sizes == [4 * 50 * (128 + 4), 4 * 50 * 4]


def test_dora_starts_as_the_pretrained_layer_and_its_rows_have_the_trained_norms():
    visual = drawn_tower()
    expected = visual.text_patches(pixels())
    add_dora(visual, ("v", "out"), [2], 2, 4)
    torch.testing.assert_close(visual.text_patches(pixels()), expected, rtol=1e-5, atol=1e-5)
    layer = visual.blocks[2].attn.v
    assert isinstance(layer, DoRALinear) and layer.TRAINED[-1] == "magnitude"
    layer.lora_B.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    layer.magnitude.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    weight = merge(layer).weight                                            # eq. 5
    torch.testing.assert_close(weight.norm(dim=1), layer.magnitude.detach())
    x = torch.randn(4, 128)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias, rtol=1e-5, atol=1e-5)


def test_bitfit_trains_the_biases_and_nothing_else():
    visual = drawn_tower()
    train_biases(visual)
    trained = {name for name, p in visual.named_parameters() if p.requires_grad}
    assert trained == {name for name in visual.state_dict() if name.split(".")[-1] == "bias"}
    assert {"ln_pre.bias", "blocks.0.attn.k.bias", "blocks.2.mlp.c_proj.bias"} <= trained


def test_the_side_network_starts_at_nothing_and_leaves_the_tower_out_of_the_graph():
    visual = drawn_tower()
    expected = visual.text_patches(pixels())
    add_side_network(visual, torch.Generator().manual_seed(0))
    patches, kept = visual.text_patches(pixels()), {}
    assert torch.equal(patches, expected) and patches.requires_grad
    with saved_bytes(kept):
        visual.text_patches(pixels())
    weights = {p.data_ptr() for p in visual.parameters() if p.ndim > 1}
    side = {p.data_ptr() for p in visual.side.parameters()}
    assert kept.keys() & weights and kept.keys() & weights <= side
    assert max(shape[-1] for _, shape, _ in kept.values() if shape) == 128  # MLP of the tower: 512


def test_a_gate_mixes_the_state_of_the_tower_with_the_side_network():
    """By hand for blocks that do nothing: s = g D h + (1 - g) s, from s = 0; g starts at 1/2."""
    visual = drawn_tower()
    side = SideNetwork(visual, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    side.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in side.blocks)
    side.up.weight.normal_(generator=torch.Generator().manual_seed(0))
    states = [torch.full((1, 2, 128), float(k)) for k in (1, 2, 3)]
    small = [down(state) for down, state in zip(side.down, states)]
    expected = side.up(small[0] / 8 + small[1] / 4 + small[2] / 2)
    torch.testing.assert_close(side(states), expected)
    side.gates.fill_(100.)                                          # open: only the last state
    torch.testing.assert_close(side(states), side.up(small[2]))


# ---- accuracy ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", EXTRA)
def test_each_method_of_the_accuracy_tables_learns_and_scores(name):
    """After some steps on pasted defects the loss on the same pool is lower."""
    clip = CLIP(SHALLOW).initialise(torch.Generator().manual_seed(0))
    frozen = copy.deepcopy(clip)
    config = DetectorConfig(steps=8, n_train_images=8, batch=4, blocks=1)
    owner = EXTRA[name](clip, "bottle", config)
    losses, compute = [], owner.loss
    owner.loss = lambda *batch: losses.append(compute(*batch)) or losses[-1]
    good = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 9 + 0.4
    maps, scores = owner.fit(good).score(good)
    assert maps.shape == (2, 64, 64) and scores.shape == (2,) and torch.isfinite(scores).all()
    assert losses[-1] < losses[0] and len(losses) == 8
    assert not any(p.requires_grad for p in clip.visual.parameters())
    same = all(torch.equal(p, dict(clip.named_parameters())[key])
               for key, p in frozen.visual.named_parameters("visual") if "mlp.c_fc.weight" in key)
    assert same != name.startswith("full")


def test_only_the_bfloat16_method_computes_its_loss_in_bfloat16():
    seen = []
    for name in ("full fine-tuning bf16", "bitfit"):
        clip = CLIP(SHALLOW).initialise(torch.Generator().manual_seed(0))
        clip.visual.blocks[0].attn.q.register_forward_hook(
            lambda module, inputs, output: seen.append(output.dtype))
        EXTRA[name](clip, "bottle").loss(torch.rand(1, 3, 64, 64), torch.zeros(1, 16))
    assert seen == [torch.bfloat16, torch.float32]


# ---- the table of the README ---------------------------------------------------------------------

def written(folder, name, text):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{name}.csv").write_text(text)


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Result files with round numbers; CoOp is not measured, DoRA lacks one product."""
    monkeypatch.setattr(readme, "HERE", tmp_path)
    written(tmp_path, "memory",
            "row,batch,blocks,trainable,file,allocated,median_s,peft_allocated\n"
            "full,8,12,86000000,344000000,2000000000,4,\nfull,32,12,86000000,344000000,9e9,9,\n"
            "\"DoRA, all blocks\",8,12,335872,1370000,1000000000,3,1200000000\n"
            "\"LoRA, last 4, reuse (minilora)\",8,4,102400,410000,500000000,0.5,\n")
    header = "row,class,seed,image_auroc,pixel_auroc"
    lines = [f"{row},{name},{seed},0.{8 + seed},0.5" for row in ("full fine-tuning", "dora")
             for seed in (0, 1) for name in readme.PRODUCTS[row == "dora":]]
    written(tmp_path, "methods-real", "\n".join([header, *lines]))
    written(tmp_path, "whole-fit", "what,measured\n\"run folder, with pages, MB\",9\n"
            "\"whole run, which predict reads, MB\",3.0\n")
    return tmp_path


def readme_row(name):
    return next([c.strip() for c in line.split("|")[2:-1]] for line in readme.memory().splitlines()
                if line.startswith(f"| {name} |"))


def test_the_table_of_the_readme_joins_memory_and_accuracy(results):
    assert readme_row("full") == ["12", "86,000,000", "344.00 MB", "2,000 MB", "100%", "4.00 s",
                                  "--", "85.0"]
    assert readme_row("DoRA, all blocks") == ["12", "335,872", "1.37 MB", "1,000 MB", "50%",
                                              "3.00 s", "1,200 MB", "--"]
    assert readme_row("LoRA, last 4, reuse (minilora)") == [
        "4", "102,400", "0.41 MB; whole run 3.0 MB", "500 MB", "25%", "0.50 s", "--",
        "--"]
    assert readme_row("CoOp") == ["--"] * 8
    for name in ("methods-real", "whole-fit"):
        (results / "results" / f"{name}.csv").unlink()
    assert readme_row("full")[-1] == "--"
    assert readme_row("LoRA, last 4, reuse (minilora)")[2] == "0.41 MB"


def test_the_rows_of_the_readme_are_rows_of_the_table_with_methods_that_are_measured():
    assert readme.MEMORY_ROWS.keys() <= {row.name for row in ROWS}
    measured = {row for name, row in readme.MEMORY_ROWS.values() if name == "methods-real"}
    assert measured <= set(accuracy.TRAINED)
