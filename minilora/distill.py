"""Distillation: the image tower learns to predict what a teacher sees at every place.

Claim: a small transformer that sees a relit, tinted, noisy picture and must say what a teacher made
of the clean one learns surfaces and shapes, and that light is no defect.  Linear heads read early,
middle and late blocks; they are thrown away afterwards, what the blocks have learned stays.

    Hinton et al. 2015, "Distilling the knowledge in a neural network"; here inner results take the
    place of classes (Romero et al. 2015, "FitNets", section 2.2, hints), and from several layers.

    dense   mean squared error of the patches' targets, as a share of their variance
    whole   the same of CLS and the teacher's mean over all places

Symbols: B pictures, G patches a side, P patches of a view, n neighbours a patch, D components.
Leaves out: how targets are made (targets.py); the teacher's classes.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.targets import GRID, LAYERS, WHOLE, WHOLE_KEPT


def read_after(layers):
    """After which of so many blocks each layer of the teacher is predicted: {layer: block}."""
    return {n: max(1, round(layers * (k + 1) / (len(LAYERS) + 1)))
            for k, n in enumerate(sorted(LAYERS))}


class Heads(nn.Module):
    """A linear map for each layer of the teacher, from the tower's width to its components."""

    def __init__(self, width, layers, generator=None):
        super().__init__()
        self.after = read_after(layers) | {WHOLE: layers}
        self.linear = nn.ModuleDict()
        for n in self.after:
            components = LAYERS[n][0] * LAYERS[n][1] ** 2 if n in LAYERS else WHOLE_KEPT
            self.linear[str(n)] = head = nn.Linear(width, components)
            with torch.no_grad():
                head.weight.normal_(0, 0.1 * width ** -0.5, generator=generator)
                head.bias.zero_()

    def forward(self, n, hidden):
        """The prediction of layer n.  hidden: list of (B, 1+P, W) -> (B, P, n D), or (B, D)."""
        state = hidden[self.after[n]]
        state = state[:, 0] if n == WHOLE else state[:, 1:]
        return self.linear[str(n)](F.layer_norm(state, state.shape[-1:]))


def targets_of(target, places):
    """What of a picture's targets a view shows, (B, P, n D).

    target: (B, G, G, n, D);  places: (B, g, g), of `stream.view`.  Where the whole picture is shown
    in half detail, a patch covers four: with n = 4 neighbours each is the mean of one of these,
    with n = 1 it is the mean of all.
    """
    count, neighbours, g = len(target), target.shape[3], places.shape[-1]
    own = target.flatten(1, 2)                                              # (B, G G, n, D)
    rows = torch.arange(count, device=target.device)[:, None]
    window = own[rows, places.clamp(min=0).flatten(1)]                      # (B, P, n, D)
    if not (places < 0).any():
        return window.flatten(2)
    four = target.mean(3).unflatten(2, (g, 2)).unflatten(1, (g, 2))         # (B, g, 2, g, 2, D)
    four = four.transpose(2, 3).reshape(count, g * g, 4, -1)                # (B, P, 4, D)
    half = four if neighbours == 4 else four.mean(2, keepdim=True)
    shown = (places < 0).flatten(1)[..., None, None]
    return torch.where(shown, half, window).flatten(2)


def dense(heads, hidden, targets):
    """{layer: unexplained share of its variance}.  targets: {layer: (B, P, n D)} of variance n."""
    return {n: (heads(n, hidden).float() - target).square().sum(-1).mean() / LAYERS[n][1] ** 2
            for n, target in targets.items()}


def whole(heads, hidden, target):
    """Unexplained share of the variance of the picture as a whole.  target: (B, D)."""
    return (heads(WHOLE, hidden).float() - target).square().sum(-1).mean()


def relit(pixels, generator, light=0.25, tint=0.08, noise=0.04):
    """The same pictures under other light: brighter or darker, tinted, flatter, noisy.

    pixels: (B, 3, R, R) in [0, 1].  light, tint: standard deviations of the logarithm of a gain, of
    all channels and of each;  noise: highest standard deviation of what is added to every pixel.
    """
    def normal(*shape):
        return torch.randn(shape, generator=generator)
    count = len(pixels)
    gain = (light * normal(count, 1, 1, 1) + tint * normal(count, 3, 1, 1)).exp()
    spread = (0.2 * normal(count, 1, 1, 1)).exp()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    grain = noise * torch.rand((count, 1, 1, 1), generator=generator) * normal(*pixels.shape)
    return ((mean + (pixels - mean) * spread) * gain + grain).clamp(0, 1)


def demo():
    generator = torch.Generator().manual_seed(0)
    print("read after blocks:", {n: read_after(n) for n in (5, 8)})
    target = torch.randn(2, GRID, GRID, 4, 3, generator=generator)
    for name, places in (("a window", torch.arange(GRID * GRID).view(GRID, GRID)[:7, :7]),
                         ("all, in half detail", torch.full((7, 7), -1))):
        print(f"{name}: {tuple(targets_of(target, places.expand(2, 7, 7)).shape)}")
    heads = Heads(64, 5, generator)
    hidden = [torch.randn(2, 50, 64, generator=generator) for _ in range(6)]
    target = torch.randn(2, 49, 64, generator=generator) / 8
    with torch.no_grad():
        print(f"unexplained before training: {dense(heads, hidden, {30: target})[30]:.2f}")
    pixels = torch.full((3, 3, 8, 8), 0.5)
    print("mean of three grey pictures, relit:",
          [round(x, 2) for x in relit(pixels, generator).mean((1, 2, 3)).tolist()])


if __name__ == "__main__":
    demo()
