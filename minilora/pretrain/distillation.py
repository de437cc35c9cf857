"""Distillation: the image tower learns to predict what a teacher sees at every place.

Claim: a small transformer that sees a relit, tinted, noisy picture and must say what a teacher made
of the clean one learns surfaces and shapes, and that light is no defect.  Linear heads read early,
middle and late blocks; they are thrown away afterwards, what the blocks have learned stays.

    Hinton et al. 2015, "Distilling the knowledge in a neural network"; here inner results take the
    place of classes (Romero et al. 2015, "FitNets", section 2.2, hints), and from several layers.

    dense   mean squared error of the patches' targets, as a share of their variance
    whole   the same of CLS and the teacher's mean over all places
    relation    patches that differ much for the teacher differ much in the tokens themselves: what
                a memory of patches compares (Park et al. 2019, "Relational knowledge distillation",
                section 3.2.1, distances; here correlated, as only their order matters)

Symbols: B pictures, G patches a side, P patches of a view, n neighbours a patch, D components.
Leaves out: how targets are made (pretrain/teacher_targets.py); the teacher's classes.
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.pretrain.teacher_targets import GRID, LAYERS, WHOLE, WHOLE_KEPT


def read_after(layers):
    """From which hidden state each layer of the teacher is predicted: {teacher's layer: state}.

    layers: blocks of the tower; state n enters block n.
    """
    return {n: max(1, round(layers * (k + 1) / (len(LAYERS) + 1)))
            for k, n in enumerate(sorted(LAYERS))}


class Heads(nn.Module):
    """A linear map for each layer of the teacher, from the tower's width to its components."""

    def __init__(self, width, layers):
        super().__init__()
        self.after = read_after(layers) | {WHOLE: layers}
        self.linear = nn.ModuleDict()
        for n in self.after:
            components = LAYERS[n][0] * LAYERS[n][1] ** 2 if n in LAYERS else WHOLE_KEPT
            self.linear[str(n)] = head = nn.Linear(width, components)
            nn.init.zeros_(head.weight)         # the first steps move the heads, not the tower
            nn.init.zeros_(head.bias)

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


def read_by_memory(layers):
    """The hidden states whose tokens a memory compares: the two in the middle."""
    return layers // 2, layers // 2 + 1


def relation(hidden, targets, layers=(30, 39)):
    """1 - correlation of the tokens' distances with the teacher's, over all pairs in a picture.

    hidden: list of (B, 1+P, W);  targets: {layer: (B, P, n D)}, whose squared distances are the
    teacher's 1 - cosine but for a factor and what the components leave out.
    """
    with torch.autocast(hidden[0].device.type, enabled=False):
        theirs = [targets[n].float() / LAYERS[n][1] for n in layers]
        theirs = centred(distances(torch.cat(theirs, -1)))
        ours = [centred(distances(F.normalize(hidden[n][:, 1:].float(), dim=-1)))
                for n in read_by_memory(len(hidden) - 1)]
        return sum(1 - (own * theirs).sum((1, 2)).mean() for own in ours) / len(ours)


def distances(tokens):
    """Squared distances of all pairs in a picture: (B, P, W) -> (B, P, P)."""
    square = tokens.square().sum(-1)
    return square[:, :, None] + square[:, None] - 2 * tokens @ tokens.transpose(1, 2)


def centred(matrices):
    """(B, P, P) minus its mean, of length one."""
    return F.normalize((matrices - matrices.mean((1, 2), keepdim=True)).flatten(1), dim=1).view_as(
        matrices)


def relit(pixels, generator, light=0.25, tint=0.08, noise=0.04):
    """The same pictures under other light: brighter or darker, tinted, flatter, noisy.

    pixels: (B, 3, R, R) in [0, 1].  light, tint: standard deviations of the logarithm of a gain, of
    all channels and of each;  noise: highest standard deviation of what is added to every pixel.
    """
    def normal(*shape):
        return torch.randn(shape, generator=generator).to(pixels.device)
    count = len(pixels)
    gain = (light * normal(count, 1, 1, 1) + tint * normal(count, 3, 1, 1)).exp()
    spread = (0.2 * normal(count, 1, 1, 1)).exp()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    own = torch.Generator(pixels.device).manual_seed(
        int(torch.randint(2 ** 62, (), generator=generator)))
    grain = torch.randn(pixels.shape, generator=own, device=pixels.device)
    grain *= noise * torch.rand((count, 1, 1, 1), generator=generator).to(pixels.device)
    return ((mean + (pixels - mean) * spread) * gain + grain).clamp(0, 1)


def demo():
    generator = torch.Generator().manual_seed(0)
    print("teacher's layers are predicted from hidden states:", {n: read_after(n) for n in (5, 8)})
    target = torch.randn(2, GRID, GRID, 4, 3, generator=generator)
    for name, places in (("a window", torch.arange(GRID * GRID).view(GRID, GRID)[:7, :7]),
                         ("all, in half detail", torch.full((7, 7), -1))):
        print(f"{name}: {tuple(targets_of(target, places.expand(2, 7, 7)).shape)}")
    heads = Heads(64, 5)
    hidden = [torch.randn(2, 50, 64, generator=generator) for _ in range(6)]
    target = torch.randn(2, 49, 64, generator=generator) / 8
    with torch.no_grad():
        print(f"unexplained before training: {dense(heads, hidden, {30: target})[30]:.2f}")
    for name, tokens in (("the same", target), ("other", torch.randn(target.shape))):
        states = [torch.cat([tokens[:, :1], tokens], 1)] * 6
        print(f"relation of {name} tokens: {relation(states, {30: target}, (30,)).item():.2f}")
    pixels = torch.full((3, 3, 8, 8), 0.5)
    print("mean of three grey pictures, relit:",
          [round(x, 2) for x in relit(pixels, generator).mean((1, 2, 3)).tolist()])


if __name__ == "__main__":
    demo()
