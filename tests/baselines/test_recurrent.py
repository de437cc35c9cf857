"""Recurrent cells and backpropagation through time equal torch's; order needs a state."""
import pytest
import torch
from torch import nn

from minilora.baselines import recurrent

PEERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PEERS)
def test_a_cell_equals_that_of_torch_over_a_whole_sequence(kind):
    theirs = PEERS[kind](5, 7, batch_first=True)
    cell = recurrent.RECURRENT_CELLS[kind](5, 7)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in theirs.state_dict().items()})
    inputs = draw(0, 3, 20, 5)
    assert (recurrent.unroll(cell, inputs) - theirs(inputs)[0]).abs().max() < 1e-6


@pytest.mark.parametrize("kind", PEERS)
def test_gradients_equal_those_of_torch(kind):
    theirs = PEERS[kind](4, 6, batch_first=True)
    cell = recurrent.RECURRENT_CELLS[kind](4, 6)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in theirs.state_dict().items()})
    inputs, weight = draw(0, 2, 9, 4), draw(1, 2, 9, 6)
    (recurrent.unroll(cell, inputs) * weight).sum().backward()
    (theirs(inputs)[0] * weight).sum().backward()
    for name, p in cell.named_parameters():
        assert (p.grad - getattr(theirs, f"{name}_l0").grad).abs().max() < 1e-5


def test_backpropagation_through_time_equals_autograd():
    cell = recurrent.RNNCell(3, 5, torch.Generator().manual_seed(0))
    inputs, output_gradient = draw(1, 4, 11, 3), draw(2, 4, 11, 5)
    (recurrent.unroll(cell, inputs) * output_gradient).sum().backward()
    by_hand = recurrent.backpropagation_through_time(cell, inputs, output_gradient)
    for name, p in cell.named_parameters():
        assert torch.allclose(by_hand[name], p.grad, atol=1e-5), name


def test_gradients_of_an_lstm_reach_back_over_many_steps():
    """With open forget gates c is a sum: section 3 of Hochreiter & Schmidhuber."""
    cell = recurrent.LSTMCell(1, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        cell.bias_ih[8:16] = 8.0                        # forget gates nearly 1
    plain = recurrent.RNNCell(1, 8, torch.Generator().manual_seed(0))
    reach = []
    for net in (cell, plain):
        inputs = draw(0, 1, 200, 1).requires_grad_()
        recurrent.unroll(net, inputs)[:, -1].sum().backward()
        reach.append(inputs.grad[0, 0].abs().item())
    assert reach[0] > 1e-4 > 1e-8 > reach[1]


def test_the_mean_ignores_the_order():
    net = recurrent.SequenceClassifier("mean", 3, 8, 2)
    nn.init.normal_(net.head.weight)
    inputs = draw(0, 2, 6, 3)
    assert torch.allclose(net(inputs), net(inputs.flip(1)), atol=1e-6)
