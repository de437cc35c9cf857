"""Distillation: which target belongs to which patch, and what the losses measure."""
import pytest
import torch

from minilora.pretrain import distillation
from minilora.pretrain.teacher_targets import GRID, LAYERS, WHOLE


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_heads_read_early_middle_and_late_hidden_states():
    assert distillation.state_of_layer(5) == {9: 1, 18: 2, 30: 3, 39: 4}
    assert distillation.state_of_layer(12) == {9: 2, 18: 5, 30: 7, 39: 10}
    assert distillation.state_of_layer(1) == dict.fromkeys(LAYERS, 1)


def test_a_window_gets_the_targets_of_its_own_patches(generator):
    target = torch.randn(2, GRID, GRID, 4, 3, generator=generator)
    patch_ids = torch.arange(GRID * GRID).view(GRID, GRID)
    corner = torch.stack([patch_ids[2:9, 5:12], patch_ids[:7, 7:]])
    found = distillation.targets_in_view(target, corner).unflatten(1, (7, 7)).unflatten(-1, (4, 3))
    assert torch.equal(found[0], target[0, 2:9, 5:12])
    assert torch.equal(found[1], target[1, :7, 7:])
    everything = distillation.targets_in_view(target, patch_ids.expand(2, GRID, GRID))
    assert torch.equal(everything, target.flatten(1, 2).flatten(2))


@pytest.mark.parametrize("neighbours", [1, 4])
def test_at_half_resolution_a_patch_gets_the_targets_of_four_patches(generator, neighbours):
    target = torch.randn(1, GRID, GRID, neighbours, 3, generator=generator)
    found = distillation.targets_in_view(target, torch.full((1, 7, 7), -1))
    found = found.view(7, 7, neighbours, 3)[1, 2]
    four = target[0, 2:4, 4:6].mean(2).flatten(0, 1)    # upper left, right; lower left, right
    assert torch.allclose(found, four if neighbours == 4 else four.mean(0, keepdim=True))


def test_windows_and_half_resolution_views_can_share_a_batch(generator):
    target = torch.randn(2, GRID, GRID, 4, 3, generator=generator)
    patch_ids = torch.arange(GRID * GRID).view(GRID, GRID)[:7, :7]
    mixed = distillation.targets_in_view(target, torch.stack([patch_ids, torch.full((7, 7), -1)]))
    assert torch.equal(mixed[0], distillation.targets_in_view(target[:1], patch_ids[None])[0])
    whole = distillation.targets_in_view(target[1:], torch.full((1, 7, 7), -1))
    assert torch.equal(mixed[1], whole[0])


def test_untrained_heads_predict_the_mean_and_explain_no_variance(generator):
    """Targets have mean 0 and variance 1 per neighbour, and heads start with predicting 0."""
    heads = distillation.Heads(64, 5)
    assert not any(parameter.any() for parameter in heads.parameters())
    hidden = [torch.randn(8, 50, 64, generator=generator) for _ in range(6)]
    targets = {n: torch.randn(8, 49, kept * per_side ** 2, generator=generator) / kept ** 0.5
               for n, (kept, per_side) in LAYERS.items()}
    for n, error in distillation.dense_loss(heads, hidden, targets).items():
        assert error.item() == pytest.approx(1, abs=0.03), n
    whole = torch.randn(8, 128, generator=generator) / 128 ** 0.5
    assert distillation.whole_loss(heads, hidden, whole).item() == pytest.approx(1, abs=0.1)


def test_the_loss_of_a_correct_prediction_is_zero(generator):
    heads = distillation.Heads(64, 5)
    for head in heads.linear.values():
        torch.nn.init.normal_(head.weight, std=0.1, generator=generator)
    hidden = [torch.randn(2, 50, 64, generator=generator) for _ in range(6)]
    targets = {n: heads(n, hidden).detach() for n in LAYERS}
    assert sum(distillation.dense_loss(heads, hidden, targets).values()) == 0
    assert distillation.whole_loss(heads, hidden, heads(WHOLE, hidden).detach()) == 0
    assert heads(WHOLE, hidden).shape == (2, 128), "CLS only"
    assert all(target.any() for target in targets.values())


def test_the_relation_loss_does_not_depend_on_the_scale_of_the_distances(generator):
    """The loss is 0 if the tokens' distances are proportional to the teacher's, 1 if unrelated."""
    targets = {n: torch.randn(3, 20, LAYERS[n][0], generator=generator) for n in (30, 39)}
    both = torch.cat(list(targets.values()), -1)
    alike = torch.nn.functional.normalize(both, dim=-1)
    alike = {n: alike[..., :64] if n == 30 else alike[..., 64:] for n in targets}

    def states(tokens):
        return [torch.cat([tokens[:, :1], tokens], 1)] * 6
    same = distillation.relation_loss(states(7 * torch.cat(list(alike.values()), -1)), alike)
    other = distillation.relation_loss(states(torch.randn(3, 20, 64, generator=generator)), alike)
    assert same.item() == pytest.approx(0, abs=1e-4)
    assert other.item() > 0.1, "the diagonal, always zero, correlates"
    peer = torch.cdist(both[0], both[0]) ** 2
    assert torch.allclose(distillation.squared_distances(both)[0], peer, atol=1e-2)


def test_the_relation_loss_reads_only_the_middle_hidden_states(generator):
    hidden = [torch.randn(2, 21, 64, generator=generator, requires_grad=True) for _ in range(6)]
    targets = {n: torch.randn(2, 20, LAYERS[n][0], generator=generator) for n in (30, 39)}
    distillation.relation_loss(hidden, targets).backward()
    assert [k for k, state in enumerate(hidden) if state.grad is not None] == [2, 3]
    assert not hidden[2].grad[:, 0].any(), "CLS has no position"


def test_changed_light_keeps_the_content_of_the_picture(generator):
    pixels = torch.rand(64, 3, 16, 16, generator=generator)
    lit = distillation.change_light(pixels, generator, noise=0.0)
    assert lit.shape == pixels.shape and 0 <= lit.min() and lit.max() <= 1
    for k in range(64):             # unless clipped, a channel is a linear function of the old one
        inside = (lit[k, 0] > 0) & (lit[k, 0] < 1)
        x, y = pixels[k, 0][inside].double(), lit[k, 0][inside].double()
        assert torch.corrcoef(torch.stack([x, y]))[0, 1] > 0.9999
    gains = lit.mean((1, 2, 3)) / pixels.mean((1, 2, 3))
    assert gains.std() > 0.1
