"""Recurrent networks written out: RNN, LSTM and GRU cells, and a classifier of sequences.

They are in baselines/ because no command uses them; bench/search_order.py compares them with a mean
over time.

    RNN     h' = tanh(W x + U h + b)                            Elman 1990
    LSTM    input, forget and output gates; the cell state c    Hochreiter & Schmidhuber 1997,
            bypasses the nonlinearity                           with the forget gate of Gers 2000
    GRU     reset and update gates, one state                   Cho et al. 2014

Weights have the names and the order of nn.RNNCell, nn.LSTMCell and nn.GRUCell, so state dicts can
be exchanged with torch.  Backpropagation through time (Werbos 1990), which autograd does, is also
written out for the RNN.

Symbols: B sequences, T steps, F input features, H hidden width, C classes.
Left out: several layers, bidirectional networks, dropout, projections.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Tensor | tuple[Tensor, Tensor]          # h of an RNN or GRU, (h, c) of an LSTM


class RecurrentCell(nn.Module):
    """Weights of a cell with `gates` linear maps, uniform in ±1 / sqrt(H) as in torch."""

    gates = 1

    def __init__(self, inputs: int, hidden: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        for name, shape in (("weight_ih", (self.gates * hidden, inputs)),
                            ("weight_hh", (self.gates * hidden, hidden)),
                            ("bias_ih", (self.gates * hidden,)),
                            ("bias_hh", (self.gates * hidden,))):
            uniform = 2 * torch.rand(shape, generator=generator) - 1
            setattr(self, name, nn.Parameter(uniform * hidden ** -0.5))

    def gate_inputs(self, x: Tensor, h: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Linear maps of the input and of the hidden state, each `gates` tensors (B, H)."""
        return (F.linear(x, self.weight_ih, self.bias_ih).chunk(self.gates, 1),
                F.linear(h, self.weight_hh, self.bias_hh).chunk(self.gates, 1))

    def initial_state(self, x: Tensor) -> State:
        """The state before the first step: zeros.  x: (B, F)."""
        return x.new_zeros(len(x), self.hidden)


class RNNCell(RecurrentCell):
    """state: h (B, H)."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        (a,), (b,) = self.gate_inputs(x, h)
        return (a + b).tanh()


class LSTMCell(RecurrentCell):
    """state: (h, c), each (B, H).  The sum in c lets gradients flow over many steps."""

    gates = 4

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        i, f, g, o = (a + b for a, b in zip(*self.gate_inputs(x, h)))   # input, forget, new, output
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def initial_state(self, x: Tensor) -> State:
        """Zeros for h and for c.  x: (B, F)."""
        return super().initial_state(x), super().initial_state(x)


class GRUCell(RecurrentCell):
    """state: h (B, H)."""

    gates = 3

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = self.gate_inputs(x, h)       # reset, update, new state
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        n = (x_n + r * h_n).tanh()
        return (1 - z) * n + z * h


RECURRENT_CELLS = {"RNN": RNNCell, "LSTM": LSTMCell, "GRU": GRUCell}


def unroll(cell: RecurrentCell, inputs: Tensor) -> Tensor:
    """The hidden state h after every step.  inputs: (B, T, F).  Returns (B, T, H)."""
    state, hidden = cell.initial_state(inputs[:, 0]), []
    for x in inputs.unbind(1):
        state = cell(x, state)
        hidden.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(hidden, dim=1)


@torch.no_grad()
def backpropagation_through_time(cell: RNNCell, inputs: Tensor,
                                 output_gradient: Tensor) -> dict[str, Tensor]:
    """Gradients of an RNNCell's weights, computed backwards step by step.

    inputs: (B, T, F);  output_gradient: (B, T, H), gradient of the loss with respect to the result
    of `unroll`.  Returns {name of the weight: gradient}, equal to autograd's.
    """
    hidden = unroll(cell, inputs)
    total = {name: torch.zeros_like(p) for name, p in cell.named_parameters()}
    later = torch.zeros_like(hidden[:, 0])              # gradient that arrives from step t + 1
    for t in reversed(range(inputs.shape[1])):
        previous = hidden[:, t - 1] if t else cell.initial_state(inputs[:, 0])
        inner = (output_gradient[:, t] + later) * (1 - hidden[:, t] ** 2)   # tanh' = 1 - tanh²
        total["weight_ih"] += inner.T @ inputs[:, t]
        total["weight_hh"] += inner.T @ previous
        for bias in ("bias_ih", "bias_hh"):
            total[bias] += inner.sum(0)
        later = inner @ cell.weight_hh                  # to step t - 1, through U
    return total


class SequenceClassifier(nn.Module):
    """Classifies a sequence from the last hidden state, or from the mean of all inputs.

    kind: one of RECURRENT_CELLS, or "mean", which ignores the order.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, classes: int,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cell = (RECURRENT_CELLS[kind](inputs, hidden, generator)
                     if kind in RECURRENT_CELLS else None)
        self.head = nn.Linear(hidden if self.cell else inputs, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: (B, T, F) -> logits (B, C)."""
        if self.cell is None:
            return self.head(inputs.mean(1))
        return self.head(unroll(self.cell, inputs)[:, -1])


def demo() -> None:
    """Which of two events came first?  And the gradients by hand against autograd's."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(2, (64,), generator=generator)
    inputs = 0.1 * torch.randn(64, 12, 2, generator=generator)
    early = torch.randint(0, 5, (64,), generator=generator)
    rows = torch.arange(64)
    inputs[rows, early, first] += 2                     # one event, and six steps later the other
    inputs[rows, early + 6, 1 - first] += 2
    for kind in (*RECURRENT_CELLS, "mean"):
        net = SequenceClassifier(kind, 2, 16, 2, torch.Generator().manual_seed(1))
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(80):
            loss = F.cross_entropy(net(inputs[:48]), first[:48])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        correct = (net(inputs[48:]).argmax(1) == first[48:]).float().mean()
        print(f"{kind:5s} accuracy on the order in 16 new sequences: {correct:.0%}")
    cell = RNNCell(2, 4, generator)
    unroll(cell, inputs)[:, -1].sum().backward()
    output_gradient = torch.zeros(64, 12, 4).index_fill(1, torch.tensor([11]), 1.0)
    by_hand = backpropagation_through_time(cell, inputs, output_gradient)
    difference = max((by_hand[k] - p.grad).abs().max() for k, p in cell.named_parameters())
    print(f"gradients by hand and by autograd differ by {difference:.0e}")


if __name__ == "__main__":
    demo()
