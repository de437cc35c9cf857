"""Attention is all you need, section 3.2; Gaussian error linear units, section 2; CLIP Surgery."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilora.attention import Block, MultiHeadAttention, attention, fused_attention, quick_gelu


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def layer():
    """Width 128, two heads; attention is neither uniform nor all on one token."""
    layer = MultiHeadAttention(128, heads=2)
    for i, parameter in enumerate(layer.parameters()):
        generator = torch.Generator().manual_seed(i)
        parameter.data.normal_(0, 0.07, generator=generator)
    return layer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_written_out_attention_agrees_with_the_fused_kernel(causal, dtype, tolerance):
    """Section 3.2.1, eq. 1.  The tolerance is a few roundings of the dtype."""
    q, k, v = randn(3, 2, 5, 37, 16, dtype=dtype)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert (attention(q, k, v, causal) - fused).abs().max() < tolerance
    assert torch.equal(fused_attention(q, k, v, causal), fused)


@pytest.mark.parametrize("causal", [False, True])
def test_training_in_bfloat16_follows_the_same_formula(causal):
    """Values and gradients agree to bfloat16's 8 bits of mantissa, with the kernel or without."""
    full = [x.requires_grad_() for x in randn(3, 2, 5, 37, 16).bfloat16().float()]
    half = [x.detach().bfloat16().requires_grad_() for x in full]
    expected, found = attention(*full, causal), fused_attention(*half, causal)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 2 ** -7 * expected.norm()
    expected.square().sum().backward()
    found.float().square().sum().backward()
    for a, b in zip(half, full):
        assert (a.grad - b.grad).norm() < 2 ** -6 * b.grad.norm()


def test_two_tokens_by_hand():
    """One query of ones against keys 0 and sqrt(D) ln 3: the weights are 1/4 and 3/4."""
    q = torch.ones(1, 1, 1, 4)
    k = torch.stack([torch.zeros(4), torch.full((4,), math.log(3) / 2)])[None, None]  # q.k = 2 ln 3
    v = torch.tensor([[0., 1., 0., 0.], [4., 1., 0., 0.]])[None, None]
    torch.testing.assert_close(attention(q, k, v)[0, 0, 0], torch.tensor([3., 1., 0., 0.]))


@pytest.mark.parametrize("causal", [False, True])
def test_every_head_attends_on_its_own_slice_of_channels(layer, causal):
    """Section 3.2.2: head h is eq. 1 on channels h D .. (h+1) D; `out` mixes the concatenation."""
    x = randn(3, 11, 128)
    heads = [attention(*(linear(x)[..., s][:, None] for linear in (layer.q, layer.k, layer.v)),
                       causal)[:, 0] for s in (slice(0, 64), slice(64, 128))]
    expected = layer.out(torch.cat(heads, dim=-1))
    torch.testing.assert_close(layer(x, causal), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch_multihead_attention(layer, causal):
    """nn.MultiheadAttention keeps q, k and v as one matrix; ours are its three row blocks."""
    fused = nn.MultiheadAttention(128, 2, batch_first=True)
    three = (layer.q, layer.k, layer.v)
    fused.load_state_dict({
        "in_proj_weight": torch.cat([linear.weight for linear in three]),
        "in_proj_bias": torch.cat([linear.bias for linear in three]),
        "out_proj.weight": layer.out.weight, "out_proj.bias": layer.out.bias})
    x = randn(3, 11, 128)
    mask = nn.Transformer.generate_square_subsequent_mask(11) if causal else None
    expected, _ = fused(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(layer(x, causal), expected, rtol=0, atol=1e-5)


def test_a_causal_token_does_not_see_the_future(layer):
    x = randn(1, 9, 128)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = layer(x, causal=True), layer(changed, causal=True)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert (layer(changed) - layer(x))[:, :5].abs().max() > 0.01        # without the mask it does


def test_the_key_bias_has_no_effect(layer):
    """It adds the same number, q.b, to all scores of a token, and softmax ignores a constant."""
    x = randn(1, 9, 128)
    before = layer(x)
    layer.k.bias.data += 1
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-5)


def test_value_value_attention_needs_neither_query_nor_key(layer):
    """CLIP Surgery: v takes the place of q and k; the scale 1/sqrt(D) and `out` stay."""
    x = randn(2, 9, 128)
    v = layer.split(layer.v(x))
    expected = layer.out(layer.join(attention(v, v, v)))
    layer.q = layer.k = None
    torch.testing.assert_close(layer.value_value(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_a_replaced_projection_is_really_called(layer, name):
    """nn.MultiheadAttention reads out_proj.weight and bypasses its forward, so that an adapter put
    there silently does nothing.  Ours must call the submodule."""
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x = randn(2, 9, 128)
    before = layer(x)
    doubled = Doubled(128, 128)
    doubled.load_state_dict(getattr(layer, name).state_dict())
    setattr(layer, name, doubled)
    assert (layer(x) - before).abs().max() > 0.01


def test_quick_gelu_is_x_sigmoid_and_not_gelu():
    """Section 2; the docstring's 0.02 is the largest difference from the exact GELU."""
    x = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    expected = torch.tensor([a / (1 + math.exp(-1.702 * a)) for a in x.tolist()], dtype=x.dtype)
    torch.testing.assert_close(quick_gelu(x), expected, rtol=0, atol=1e-14)
    assert 0.015 < (quick_gelu(x) - F.gelu(x)).abs().max() < 0.0205


def test_a_block_is_the_identity_if_both_its_layers_return_zero():
    """Pre-norm: the residual stream itself is never normalised, only the input of each layer."""
    block = Block(64, heads=1)
    for linear in (block.attn.out, block.mlp.c_proj):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    x = 100 * randn(2, 5, 64)
    assert torch.equal(block(x), x)


def test_the_feed_forward_layer_gets_the_output_of_attention():
    """ViT eqs. 2 and 3: z' = MSA(LN(z)) + z, then MLP(LN(z')) + z'."""
    block = Block(64, heads=1)
    x = randn(2, 5, 64)
    middle = x + block.attn(block.ln_1(x))
    hidden = F.linear(block.ln_2(middle), block.mlp.c_fc.weight, block.mlp.c_fc.bias)
    expected = middle + F.linear(quick_gelu(hidden), block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)


def test_a_fresh_block_is_drawn_from_the_generator_on_the_scales_it_states():
    blocks = [Block(256, heads=4), Block(256, heads=4)]
    for block in blocks:
        block.initialise(layers=8, generator=torch.Generator().manual_seed(5))
    for a, b in zip(blocks[0].parameters(), blocks[1].parameters()):
        assert torch.equal(a, b)
    attn, mlp = blocks[0].attn, blocks[0].mlp
    for linear, std in ((attn.q, 1 / 16), (attn.k, 1 / 16), (attn.v, 1 / 16), (attn.out, 1 / 64),
                        (mlp.c_fc, 512 ** -0.5), (mlp.c_proj, 1 / 64)):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.02)
        assert not linear.bias.any()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 100 .* 3 heads.*64"):
        MultiHeadAttention(100, heads=3)


def test_cls_only_equals_the_cls_of_the_whole_block():
    block = Block(128, 2)
    block.initialise(1, torch.Generator().manual_seed(0))
    x = torch.randn(3, 10, 128, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block.cls_only(x), block(x)[:, :1], rtol=0, atol=3e-6)
    assert not torch.equal(block.cls_only(x[:, :5]), block.cls_only(x)), "CLS attends to all tokens"
