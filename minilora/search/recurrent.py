"""Recurrent cells written out: what is kept of the past is decided anew at every step.

    RNN     h' = tanh(W x + U h + b)                            Elman 1990
    LSTM    forget, write and show by gates; c is led past      Hochreiter & Schmidhuber 1997,
                                                                with the forget gate of Gers 2000
    GRU     two gates, one state                                Cho et al. 2014

Weights have torch's names and order (nn.RNNCell, nn.LSTMCell, nn.GRUCell), so either can take the
other's.  Back-propagation through time, which autograd does, is written out for the RNN as well
(Werbos 1990).

Symbols: B sequences, T steps, F inputs, H hidden.  Leaves out: several layers, both directions,
dropout, projections.
"""
import torch
import torch.nn.functional as F
from torch import nn


class Cell(nn.Module):
    """Weights of a cell of so many gates.  Fresh ones are uniform in +-1 / sqrt(H), as torch's."""

    gates = 1

    def __init__(self, inputs, hidden, generator=None):
        super().__init__()
        self.hidden = hidden
        for name, shape in (("weight_ih", (self.gates * hidden, inputs)),
                            ("weight_hh", (self.gates * hidden, hidden)),
                            ("bias_ih", (self.gates * hidden,)),
                            ("bias_hh", (self.gates * hidden,))):
            drawn = 2 * torch.rand(shape, generator=generator) - 1
            setattr(self, name, nn.Parameter(drawn * hidden ** -0.5))

    def parts(self, x, h):
        """What inputs and past contribute, apart: each gates x (B, H)."""
        return (F.linear(x, self.weight_ih, self.bias_ih).chunk(self.gates, 1),
                F.linear(h, self.weight_hh, self.bias_hh).chunk(self.gates, 1))

    def start(self, x):
        """The state before anything has been seen, for x (B, F)."""
        return x.new_zeros(len(x), self.hidden)


class RNNCell(Cell):
    """state: h (B, H)."""

    def forward(self, x, h):
        (a,), (b,) = self.parts(x, h)
        return (a + b).tanh()


class LSTMCell(Cell):
    """state: (h, c), each (B, H).  The sum in c is what lets a gradient pass many steps."""

    gates = 4

    def forward(self, x, state):
        h, c = state
        write, forget, new, show = (a + b for a, b in zip(*self.parts(x, h)))
        c = forget.sigmoid() * c + write.sigmoid() * new.tanh()
        return show.sigmoid() * c.tanh(), c

    def start(self, x):
        return super().start(x), super().start(x)


class GRUCell(Cell):
    """state: h (B, H)."""

    gates = 3

    def forward(self, x, h):
        (reset, keep, new), (past_reset, past_keep, past_new) = self.parts(x, h)
        reset, keep = (reset + past_reset).sigmoid(), (keep + past_keep).sigmoid()
        new = (new + reset * past_new).tanh()
        return (1 - keep) * new + keep * h


RECURRENT_CELLS = {"RNN": RNNCell, "LSTM": LSTMCell, "GRU": GRUCell}


def unroll(cell, inputs):
    """The hidden state after every step.  inputs: (B, T, F).  Returns (B, T, H)."""
    state, out = cell.start(inputs[:, 0]), []
    for x in inputs.unbind(1):
        state = cell(x, state)
        out.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(out, dim=1)


@torch.no_grad()
def back_through_time(cell, inputs, wanted):
    """Gradients of an RNNCell's weights, as autograd would give them, step by step backwards.

    inputs: (B, T, F);  wanted: (B, T, H), gradient of the loss by every output of `unroll`.
    Returns {name of a weight: gradient}.
    """
    hidden = unroll(cell, inputs)
    total = {name: torch.zeros_like(p) for name, p in cell.named_parameters()}
    later = torch.zeros_like(hidden[:, 0])              # what the future asks of h at this step
    for t in reversed(range(inputs.shape[1])):
        before = hidden[:, t - 1] if t else cell.start(inputs[:, 0])
        inner = (wanted[:, t] + later) * (1 - hidden[:, t] ** 2)        # tanh' = 1 - tanh^2
        total["weight_ih"] += inner.T @ inputs[:, t]
        total["weight_hh"] += inner.T @ before
        for bias in ("bias_ih", "bias_hh"):
            total[bias] += inner.sum(0)
        later = inner @ cell.weight_hh                  # to the step before, through U
    return total


class SequenceClassifier(nn.Module):
    """Which class a whole sequence is, from the last state, or from the mean of all inputs.

    kind: one of RECURRENT_CELLS, or "mean", which cannot know an order.
    """

    def __init__(self, kind, inputs, hidden, classes, generator=None):
        super().__init__()
        self.cell = RECURRENT_CELLS[kind](inputs, hidden, generator) if kind in RECURRENT_CELLS else None
        self.head = nn.Linear(hidden if self.cell else inputs, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs):
        """inputs: (B, T, F) -> (B, C)."""
        if self.cell is None:
            return self.head(inputs.mean(1))
        return self.head(unroll(self.cell, inputs)[:, -1])


def demo():
    """Two events: which came first?"""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(2, (64,), generator=generator)
    inputs = 0.1 * torch.randn(64, 12, 2, generator=generator)
    early = torch.randint(0, 5, (64,), generator=generator)
    rows = torch.arange(64)
    inputs[rows, early, first] += 2                     # one event, and later the other
    inputs[rows, early + 6, 1 - first] += 2
    for kind in (*RECURRENT_CELLS, "mean"):
        net = SequenceClassifier(kind, 2, 16, 2, torch.Generator().manual_seed(1))
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(80):
            loss = F.cross_entropy(net(inputs[:48]), first[:48])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        right = (net(inputs[48:]).argmax(1) == first[48:]).float().mean()
        print(f"{kind:5s} tells which event came first in {right:.0%} of 16 new sequences")
    cell = RNNCell(2, 4, generator)
    unroll(cell, inputs)[:, -1].sum().backward()
    wanted = torch.zeros(64, 12, 4).index_fill(1, torch.tensor([11]), 1.0)
    apart = max((back_through_time(cell, inputs, wanted)[k] - p.grad).abs().max()
                for k, p in cell.named_parameters())
    print(f"back through time by hand and by autograd differ by {apart:.0e}")


if __name__ == "__main__":
    demo()
