"""LoRA, Hu et al. 2021: what the paper says about the layer, and what its functions promise."""
import copy
import math

import pytest
import torch
from torch import nn

from minilora import lora
from minilora.checkpoint.adapter import adapter_fingerprint, adapter_state, load_adapter_state
from minilora.io.files import load_tensors, save_tensors
from minilora.lora import LoRALinear, add_lora, delta_norms, disable_lora, lora_layers, merge
from minilora.vit import VisionTransformer

ALL = ("q", "k", "v", "out")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tower(seed=0):
    vit = VisionTransformer(resolution=32, patch=16, width=128, layers=3, embed=48)
    vit.initialise(generator(seed))
    return vit.eval()


def pixels(count=2):
    return torch.randn(count, 3, 32, 32, generator=generator(9))


def trained(vit, seed=1):
    """Fill every B with random numbers, as if it had been trained."""
    for layer in lora_layers(vit).values():
        layer.lora_B.data.normal_(0, 0.05, generator=generator(seed))
    return vit


def adapted(seed=0, **options):
    vit = tower(seed)
    add_lora(vit, **{"targets": ALL, "generator": generator(2), **options})
    return trained(vit)


def test_lora_starts_as_the_pretrained_model():
    # section 4.1: B = 0, so Delta W = 0. Exact: adding zeros rounds nothing
    vit = tower()
    before = vit.encode_image(pixels())
    add_lora(vit, ALL, generator=generator())
    assert torch.equal(vit.encode_image(pixels()), before)


def test_the_forward_pass_is_equation_3_where_the_layer_is_not_square():
    # k = 5, d = 7: swapped features or a transposed factor would fail
    layer = LoRALinear(5, 7, rank=3, alpha=6)
    layer.lora_B.data.normal_(generator=generator())
    x = torch.randn(4, 2, 5, generator=generator(1))
    W, b, A, B = layer.weight, layer.bias, layer.lora_A, layer.lora_B
    assert A.shape == (3, 5) and B.shape == (7, 3) and layer.delta_weight().shape == (7, 5)
    expected = x @ W.T + b + 6 / 3 * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(x @ (W + layer.delta_weight()).T + b, expected)


def test_a_layer_without_bias_stays_without_bias():
    layer = LoRALinear.from_linear(nn.Linear(5, 7, bias=False), rank=2, alpha=2)
    layer.lora_B.data.normal_(generator=generator())
    plain = merge(layer)
    assert layer.bias is None and plain.bias is None and type(plain) is nn.Linear
    x = torch.randn(3, 5, generator=generator())
    torch.testing.assert_close(plain(x), layer(x))


@pytest.mark.parametrize("make", [lambda: LoRALinear(5, 7, rank=2, alpha=2), lambda:
                                  LoRALinear.from_linear(nn.Linear(5, 7), rank=2, alpha=2)])
def test_only_A_and_B_of_a_single_layer_are_trainable(make):
    # section 4.1: W receives no gradient updates
    trained = [name for name, p in make().named_parameters() if p.requires_grad]
    assert trained == ["lora_A", "lora_B"]


def test_A_is_drawn_kaiming_uniform_and_from_the_generator():
    linear = nn.Linear(400, 100)
    first, second, other = (LoRALinear.from_linear(linear, 8, 8, generator(s)) for s in (0, 0, 1))
    bound = 1 / math.sqrt(400)
    assert 0.99 * bound < first.lora_A.abs().max() <= bound
    assert first.lora_A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.equal(first.lora_A, second.lora_A) and not torch.equal(first.lora_A, other.lora_A)


def test_adding_lora_does_not_touch_the_global_random_state():
    vit, before = tower(), torch.get_rng_state()
    add_lora(vit, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_change_of_rank_r_has_rank_r():
    vit = adapted(rank=3)
    assert all(torch.linalg.matrix_rank(layer.delta_weight()) == 3
               for layer in lora_layers(vit).values())


@pytest.mark.parametrize("targets", [("q",), ("k",), ("v",), ("out",), ("q", "v"), ALL])
def test_lora_on_any_projection_changes_the_features(targets):
    # nn.MultiheadAttention bypasses a replaced out_proj; ours must not
    vit, plain = adapted(targets=targets, blocks=[1]), tower()
    assert list(lora_layers(vit)) == [f"blocks.1.attn.{t}" for t in ALL if t in targets]
    assert (vit.encode_image(pixels()) - plain.encode_image(pixels())).abs().max() > 1e-4


@pytest.mark.parametrize("target", ["v", "out"])
def test_the_value_value_path_is_adapted_too(target):
    vit, plain = adapted(targets=(target,), blocks=[2]), tower()
    assert (vit.text_patches(pixels()) - plain.text_patches(pixels())).abs().max() > 1e-4


def test_blocks_count_from_zero_and_only_the_given_ones_are_adapted():
    vit = tower()
    names = add_lora(vit, ("v", "q"), blocks=[2, 0], generator=generator())
    assert names == ["blocks.0.attn.q", "blocks.0.attn.v", "blocks.2.attn.q", "blocks.2.attn.v"]
    assert type(vit.blocks[1].attn.q) is nn.Linear and type(vit.blocks[2].attn.k) is nn.Linear


def test_the_base_weights_keep_their_names_and_are_shared_not_copied():
    vit = tower()
    before = {name: p.data_ptr() for name, p in vit.named_parameters()}
    add_lora(vit, ALL, generator=generator())
    after = {name: p.data_ptr() for name, p in vit.named_parameters() if "lora_" not in name}
    assert after == before


def test_only_A_and_B_are_trained():
    vit = tower()
    add_lora(vit, ("q", "v"), blocks=[1, 2], generator=generator())
    before = {name: p.clone() for name, p in vit.named_parameters()}
    optimizer = torch.optim.SGD([p for p in vit.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):                                  # A moves only in the second step: B = 0
        vit.encode_image(pixels()).square().sum().backward()
        optimizer.step()
    for name, p in vit.named_parameters():
        assert p.requires_grad == ("lora_" in name)
        assert torch.equal(p, before[name]) == ("lora_" not in name), name


def test_at_the_start_only_B_has_a_gradient():
    # section 4.1 with B = 0: dL/dA = B^T (...) vanishes, dL/dB does not
    vit = tower()
    add_lora(vit, ("q",), blocks=[0], generator=generator())
    vit.encode_image(pixels()).square().sum().backward()
    layer = vit.blocks[0].attn.q
    assert layer.lora_A.grad.abs().max() == 0 < layer.lora_B.grad.abs().max()


def test_a_second_call_keeps_the_first_adapter_trainable():
    vit = tower()
    add_lora(vit, ("q",), blocks=[0], generator=generator())
    add_lora(vit, ("v",), blocks=[1], rank=2, generator=generator())
    assert sum(p.requires_grad for p in vit.parameters()) == 4


@pytest.mark.parametrize("targets, count", [(ALL, 294_912), (("q", "v"), 147_456)])
def test_adapter_sizes_of_vit_b_16_at_rank_4(targets, count):
    with torch.device("meta"):                          # shapes without memory
        vit = VisionTransformer(resolution=224, patch=16, width=768, layers=12, embed=512)
        add_lora(vit, targets, rank=4)
    assert sum(p.numel() for p in vit.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("rank, alpha", [(1, 1), (4, 8), (8, 2)])
def test_parity_with_peft_on_the_same_A_and_B(rank, alpha):
    peft = pytest.importorskip("peft")
    ours, theirs = adapted(rank=rank, alpha=alpha), tower()
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(ALL), lora_dropout=0.0)
    theirs = peft.inject_adapter_in_model(config, theirs)
    for name, layer in lora_layers(ours).items():
        other = theirs.get_submodule(name)
        other.lora_A["default"].weight.data.copy_(layer.lora_A)
        other.lora_B["default"].weight.data.copy_(layer.lora_B)
        torch.testing.assert_close(layer.delta_weight(), other.get_delta_weight("default"))
    # 1e-5: float32 through three blocks, features of size about one
    for path in ("encode_image", "text_patches"):
        difference = getattr(ours, path)(pixels()) - getattr(theirs, path)(pixels())
        assert difference.abs().max() < 1e-5


def test_merged_and_unmerged_agree_and_the_original_is_kept():
    vit = adapted()
    plain, features = merge(vit), vit.encode_image(pixels())
    assert not lora_layers(plain) and len(lora_layers(vit)) == 12
    assert plain.state_dict().keys() == tower().state_dict().keys()
    assert (plain.encode_image(pixels()) - features).abs().max() < 1e-5     # float32, other order
    plain.blocks[0].attn.q.weight.data.zero_()          # a deep copy
    plain.blocks[0].attn.q.bias.data.fill_(3)
    assert torch.equal(vit.encode_image(pixels()), features)


def test_a_merged_single_layer_shares_no_memory_with_the_adapted_one():
    layer = LoRALinear(5, 7, rank=2, alpha=2)
    plain = merge(layer)
    for name in ("weight", "bias"):
        assert torch.equal(getattr(plain, name), getattr(layer, name))  # B = 0
        assert getattr(plain, name).data_ptr() != getattr(layer, name).data_ptr()


def test_train_and_eval_merge_nothing():
    vit = adapted()
    weights = vit.blocks[0].attn.q.weight.clone()
    assert not any(m.training for m in (*vit.modules(), *merge(vit).modules()))
    features = vit.train().encode_image(pixels())
    assert torch.equal(vit.eval().encode_image(pixels()), features)
    assert torch.equal(vit.blocks[0].attn.q.weight, weights)


def test_disabled_lora_is_the_pretrained_model_and_flags_are_restored_even_after_an_error():
    vit, plain = adapted(), tower()
    features = vit.encode_image(pixels())
    vit.blocks[0].attn.k.enabled = False                # one flag differs from the others
    mixed = vit.encode_image(pixels())
    with pytest.raises(RuntimeError, match="inside"):
        with disable_lora(vit) as same:
            assert same is vit
            with disable_lora(vit):
                pass
            assert torch.equal(vit.encode_image(pixels()), plain.encode_image(pixels()))
            raise RuntimeError("inside")
    assert torch.equal(vit.encode_image(pixels()), mixed)     # and is restored as it was
    vit.blocks[0].attn.k.enabled = True
    assert torch.equal(vit.encode_image(pixels()), features)


def test_delta_norms_are_zero_at_the_start_and_the_frobenius_norm_after():
    vit = tower()
    names = add_lora(vit, ("q", "out"), blocks=[1], rank=3, alpha=7, generator=generator())
    assert delta_norms(vit) == dict.fromkeys(names, 0.0)
    layer = trained(vit).blocks[1].attn.out
    change = 7 / 3 * layer.lora_B.double() @ layer.lora_A.double()
    expected = change.square().sum().sqrt().item()
    assert delta_norms(vit)["blocks.1.attn.out"] == pytest.approx(expected, rel=1e-5)
    expected /= layer.weight.double().square().sum().sqrt().item()
    assert delta_norms(vit, relative=True)["blocks.1.attn.out"] == pytest.approx(expected, rel=1e-5)


def test_an_adapter_comes_back_from_its_file_without_the_base_weights(tmp_path):
    vit = adapted()
    save_tensors(tmp_path / "adapter.safetensors", adapter_state(vit))
    fresh = tower()
    add_lora(fresh, ALL, generator=generator(77))
    load_adapter_state(fresh, load_tensors(tmp_path / "adapter.safetensors"))
    assert torch.equal(fresh.encode_image(pixels()), vit.encode_image(pixels()))
    adapter = 12 * 4 * (128 + 128)                      # 12 layers of rank 4
    assert (tmp_path / "adapter.safetensors").stat().st_size < 4 * adapter + 20_000


def test_a_state_is_a_snapshot():
    vit = adapted()
    state = adapter_state(vit)
    before = copy.deepcopy(state)
    vit.blocks[0].attn.q.lora_A.data.zero_()
    assert torch.equal(state["layers"]["blocks.0.attn.q"]["lora_A"],
                       before["layers"]["blocks.0.attn.q"]["lora_A"])


def test_the_fingerprint_depends_on_every_base_value_and_on_no_adapter_value():
    vit = adapted()
    first = adapter_fingerprint(vit)
    trained(vit, seed=5)
    assert adapter_fingerprint(vit) == first and len(first) == 16
    for tensor in (vit.blocks[1].attn.q.weight, vit.blocks[2].attn.v.bias):
        with torch.no_grad():
            tensor.view(-1)[-1] += 1e-3
        assert adapter_fingerprint(vit) != first
        first = adapter_fingerprint(vit)


def broken(state, change):
    layers = state["layers"]
    entry = layers["blocks.0.attn.q"]
    if change == "another base":
        return adapter_state(adapted(seed=1))
    if change == "another shape":
        vit = VisionTransformer(resolution=32, patch=16, width=64, layers=3, embed=48)
        add_lora(vit, ALL, generator=generator())
        return adapter_state(vit)
    if change == "another alpha":
        return adapter_state(adapted(alpha=16))
    if change == "another rank":
        return adapter_state(adapted(rank=2))
    if change == "missing layer":
        del layers["blocks.0.attn.q"]
    if change == "extra layer":
        layers["blocks.7.attn.q"] = entry
    if change == "missing key":
        del entry["lora_B"]
    if change == "extra key":
        entry["lora_C"] = entry["lora_A"]
    if change == "transposed":
        entry["lora_A"] = entry["lora_A"].T
    if change == "not finite":
        layers["blocks.2.attn.out"]["lora_A"][0, 0] = math.nan
    if change == "no adapter at all":
        return {"text": torch.zeros(3)}
    return state


@pytest.mark.parametrize("change, words", [
    ("another base", "made on base weights .* the model that it was fitted on"),
    ("another shape", r"lora_A: expected a tensor \(4, 128\) of .*, found a tensor \(4, 64\)"),
    ("another alpha", "alpha 16, found 8"),
    ("another rank", r"lora_A: expected a tensor \(4, 128\) of .*, found a tensor \(2, 128\)"),
    ("missing layer", r"missing \[blocks.0.attn.q\], extra \[\]"),
    ("extra layer", r"missing \[\], extra \[blocks.7.attn.q\]"),
    ("missing key", r"blocks.0.attn.q: expected the key lora_B, found lora_A, alpha"),
    ("extra key", "lora_C"),
    ("transposed", r"found a tensor \(128, 4\)"),
    ("not finite", "blocks.2.attn.out.lora_A: expected finite numbers, found NaN"),
    ("no adapter at all", "expected the key fingerprint, found text"),
])
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason_and_changes_nothing(change, words):
    vit = adapted()
    state = broken(adapter_state(adapted()), change)
    before = copy.deepcopy(vit.state_dict())
    with pytest.raises(ValueError, match=words):
        load_adapter_state(vit, state)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


@pytest.mark.parametrize("options, words", [
    ({"targets": ("q", "w")}, "found 'w'"),
    ({"targets": "out"}, "pass them as a tuple"),
    ({"targets": ()}, "found none"),
    ({"blocks": [-1, 1]}, r"from 0 to 2, found \[-1, 1\]"),
    ({"blocks": [3]}, r"from 0 to 2, found \[3\]"),
    ({"blocks": []}, r"found \[\]"),
    ({"rank": 0}, "rank must be 1 to 128 .* found 0"),
    ({"rank": 129}, "rank must be 1 to 128 .* found 129"),
    ({"alpha": 0}, "alpha must be positive"),
    ({"alpha": math.nan}, "alpha must be positive"),
])
def test_wrong_options_are_refused_and_the_tower_is_not_changed(options, words):
    vit = tower()
    with pytest.raises(ValueError, match=words):
        add_lora(vit, generator=generator(), **options)
    assert not lora_layers(vit) and all(p.requires_grad for p in vit.parameters())


def test_lora_is_not_added_twice_nor_to_a_module_without_blocks():
    vit = tower()
    add_lora(vit, ("v",), blocks=[1], generator=generator())
    with pytest.raises(ValueError, match="blocks.1.attn.v has LoRA already"):
        add_lora(vit, ("v",), generator=generator())
    assert list(lora_layers(vit)) == ["blocks.1.attn.v"]
    with pytest.raises(ValueError, match="pass clip.visual"):
        add_lora(nn.Linear(3, 3))


# ---- another update in its place ----------------------------------------------------------------

class DoRALinear(LoRALinear):
    """W' = m (W + Delta W) / |W + Delta W|, row by row (Liu et al. 2024, "DoRA", eq. 5)."""

    TRAINED = ("lora_A", "lora_B", "magnitude")

    def reset_lora(self, generator=None):
        super().reset_lora(generator)
        self.magnitude = nn.Parameter(self.weight.detach().norm(dim=1))         # (d,)

    def delta_weight(self):
        adapted = self.weight + super().delta_weight()
        return self.magnitude[:, None] * nn.functional.normalize(adapted, dim=1) - self.weight

    def forward(self, x):
        weight = self.weight + self.delta_weight() if self.enabled else self.weight
        return nn.functional.linear(x, weight, self.bias)


def test_dora_takes_the_place_of_lora_by_a_change_in_this_module_alone(monkeypatch):
    """A subclass put in place of LoRALinear is trained, merged, stored and loaded like it."""
    monkeypatch.setattr(lora, "LoRALinear", DoRALinear)
    vit, plain = tower(), tower()
    add_lora(vit, ("q", "v"), blocks=[1, 2], generator=generator())
    torch.testing.assert_close(vit.encode_image(pixels()), plain.encode_image(pixels()))
    trained = {name: p for name, p in vit.named_parameters() if p.requires_grad}
    assert sum(name.endswith("magnitude") for name in trained) == 4 and len(trained) == 12
    optimizer = torch.optim.Adam(trained.values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        vit.text_patches(pixels()).square().sum().backward()
        optimizer.step()
    found = vit.text_patches(pixels())
    assert (found - plain.text_patches(pixels())).abs().max() > 1e-3
    torch.testing.assert_close(merge(vit).text_patches(pixels()), found, rtol=1e-4, atol=1e-5)
    with disable_lora(vit):
        torch.testing.assert_close(vit.text_patches(pixels()), plain.text_patches(pixels()))
    again = tower()
    add_lora(again, ("q", "v"), blocks=[1, 2], generator=generator(9))
    load_adapter_state(again, adapter_state(vit))
    assert torch.equal(again.text_patches(pixels()), found)
