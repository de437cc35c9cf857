"""Losses of image logits and of defect maps: Lin et al. 2017, Milletari et al. 2016."""
import math

import pytest
import torch
import torch.nn.functional as F

from minilora.losses import cross_entropy, dice_loss, focal_loss


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mask(*shape, share=0.1, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def test_cross_entropy_is_torchs_value_and_gradient():
    logits, targets = random(6, 5).requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3])
    ours, theirs = cross_entropy(logits, targets), F.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits),
                               torch.autograd.grad(theirs, logits))


def test_cross_entropy_of_patches_takes_classes_from_the_last_axis():
    logits, targets = random(3, 9, 2), mask(3, 9, share=0.5).long()
    torch.testing.assert_close(cross_entropy(logits, targets),
                               F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_cross_entropy_survives_logits_whose_exponential_overflows():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert cross_entropy(logits, torch.tensor([0, 0])) == 5e3


def test_focal_loss_without_focus_is_binary_cross_entropy():
    prob, target = random(2, 8, 8).sigmoid(), mask(2, 8, 8)
    torch.testing.assert_close(focal_loss(prob, target, gamma=0),
                               F.binary_cross_entropy(prob, target.double()))


def test_focal_loss_is_equation_5():
    prob, target = random(2, 8, 8).sigmoid(), mask(2, 8, 8)
    expected = [-(a * (1 - p) ** 3 * math.log(p)) for a, p in
                ((0.8, p) if t else (1 - 0.8, 1 - p)
                 for p, t in zip(prob.flatten().tolist(), target.flatten().tolist()))]
    found = focal_loss(prob, target, gamma=3, alpha=0.8)
    assert found.item() == pytest.approx(sum(expected) / 128, rel=1e-9)


def test_focal_loss_gives_easy_pixels_less_weight():
    # Lin et al., section 3.2: with gamma = 2 a pixel at p_t = 0.9 counts 100 times less
    easy, yes = torch.tensor([0.9], dtype=torch.float64), torch.tensor([True])
    ratio = focal_loss(easy, yes, gamma=0) / focal_loss(easy, yes, gamma=2)
    assert ratio.item() == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_probabilities_of_exactly_zero_and_one_keep_a_finite_useful_gradient(gamma, dtype):
    prob = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
    loss = focal_loss(prob, torch.tensor([1, 1, 0, 0]), gamma=gamma)
    loss.backward()
    assert loss.isfinite() and prob.grad.isfinite().all()
    assert prob.grad[0] < -1 and prob.grad[3] > 1       # wrong answers get a large gradient


def test_dice_loss_is_the_formula_of_the_paper():
    prob, target = random(1, 6, 6).sigmoid(), mask(1, 6, 6, share=0.3)
    p, g = prob.flatten(), target.flatten().double()
    expected = 1 - 2 * (p * g).sum() / ((p ** 2).sum() + (g ** 2).sum())
    torch.testing.assert_close(dice_loss(prob, target, smooth=0), expected)


def test_dice_loss_is_zero_for_the_mask_itself_even_an_empty_one():
    target = torch.stack([mask(9, 9, share=0.3), torch.zeros(9, 9, dtype=torch.bool)])
    assert dice_loss(target.float(), target) == 0


def test_every_picture_has_the_same_weight_in_dice():
    prob, target = random(2, 9, 9).sigmoid(), torch.zeros(2, 9, 9)
    target[0, 0, 0], target[1, :, :] = 1, 1             # one pixel against 81
    parts = [dice_loss(prob[n:n + 1], target[n:n + 1]) for n in range(2)]
    torch.testing.assert_close(dice_loss(prob, target), sum(parts) / 2)


def test_dice_does_not_see_true_negatives():
    small, large = torch.zeros(1, 10), torch.zeros(1, 1000)
    small[0, :4] = large[0, :4] = 1
    prob_small, prob_large = small * 0.7, large * 0.7
    assert dice_loss(prob_small, small) == dice_loss(prob_large, large)
    assert focal_loss(prob_small, small) > 50 * focal_loss(prob_large, large)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_half_precision_maps_are_summed_in_float32(loss):
    prob, target = random(2, 64, 64).sigmoid().bfloat16(), mask(2, 64, 64)
    assert loss(prob, target) == loss(prob.float(), target)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_gradients_agree_with_finite_differences_of_the_loss(loss):
    prob = (0.1 + 0.8 * random(2, 3, 3).sigmoid()).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, mask(2, 3, 3, share=0.4)), prob)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_logits_and_wrong_shapes_are_refused_by_name(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__}.*\[0, 1\], found -2 to 5.*sigmoid"):
        loss(torch.tensor([[-2.0, 5.0]]), torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=rf"{loss.__name__}.*\(2, 4, 4\) and \(2, 1, 4, 4\)"):
        loss(torch.rand(2, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="holds NaN"):
        loss(torch.tensor([[float("nan")]]), torch.tensor([[0]]))


def test_cross_entropy_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match="classes come last"):
        cross_entropy(torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.long))
