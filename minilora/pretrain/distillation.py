"""Distillation: the image tower learns to predict a teacher's features of every patch.

Claim: the tower sees a picture with changed brightness, colour cast and noise, and must predict
what the teacher computes from the clean picture.  So it learns surfaces and shapes, and that light
is not a defect.  Linear heads read hidden states of early, middle and late blocks; the heads are
discarded after training, and what the blocks have learned stays.

    Hinton et al. 2015, "Distilling the knowledge in a neural network"; here the targets are hidden
    features of several layers instead of classes (Romero et al. 2015, "FitNets", section 2.2)

    dense       mean squared error of the patches' targets, as a share of their variance
    whole       the same for the CLS token and the teacher's mean over all positions
    relation    patches whose teacher features differ much should also differ much in the tokens
                that a memory bank compares (Park et al. 2019, "Relational knowledge distillation",
                section 3.2.1; differs: correlation of the distances, because only their order
                matters)

Symbols: B pictures, G patches per side of a picture, g of a view, P patches of a view, n neighbours
per patch, D components, W width of the tower.  Hidden state k enters block k.
Left out: how targets are made (pretrain/teacher_targets.py); the teacher's classes.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilora.pretrain.teacher_targets import GRID, LAYERS, WHOLE, WHOLE_KEPT


def state_of_layer(layers: int) -> dict[int, int]:
    """{layer of the teacher: the hidden state that predicts it}; layers: blocks of the tower."""
    return {n: max(1, round(layers * (k + 1) / (len(LAYERS) + 1)))
            for k, n in enumerate(sorted(LAYERS))}


class Heads(nn.Module):
    """One linear map per layer of the teacher, from a hidden state to the components.

    width, layers: of the tower.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.states = state_of_layer(layers) | {WHOLE: layers}
        self.linear = nn.ModuleDict()
        for n in self.states:
            components = LAYERS[n][0] * LAYERS[n][1] ** 2 if n in LAYERS else WHOLE_KEPT
            self.linear[str(n)] = head = nn.Linear(width, components)
            nn.init.zeros_(head.weight)         # the first steps change the heads only
            nn.init.zeros_(head.bias)

    def forward(self, n: int, hidden: list[Tensor]) -> Tensor:
        """The prediction of a teacher's layer: (B, P, neighbours * D), or (B, D) for WHOLE.

        n: number of the teacher's layer;  hidden: list of (B, 1+P, W).
        """
        state = hidden[self.states[n]]
        state = state[:, 0] if n == WHOLE else state[:, 1:]
        return self.linear[str(n)](F.layer_norm(state, state.shape[-1:]))


def targets_in_view(target: Tensor, patch_ids: Tensor) -> Tensor:
    """The targets of the patches of a view, (B, P, n D).

    target: (B, G, G, n, D) of the whole picture;  patch_ids: (B, g, g) from `crop_views`.
    A patch of a whole picture at half resolution covers four patches.  With n = 4, each of its
    neighbours is the mean target of one of them; with n = 1, the target is the mean of all four.
    """
    count, neighbours, g = len(target), target.shape[3], patch_ids.shape[-1]
    own = target.flatten(1, 2)                                              # (B, G G, n, D)
    rows = torch.arange(count, device=target.device)[:, None]
    window = own[rows, patch_ids.clamp(min=0).flatten(1)]                   # (B, P, n, D)
    if not (patch_ids < 0).any():
        return window.flatten(2)
    four = target.mean(3).unflatten(2, (g, 2)).unflatten(1, (g, 2))         # (B, g, 2, g, 2, D)
    four = four.transpose(2, 3).reshape(count, g * g, 4, -1)                # (B, P, 4, D)
    half = four if neighbours == 4 else four.mean(2, keepdim=True)
    whole = (patch_ids < 0).flatten(1)[..., None, None]
    return torch.where(whole, half, window).flatten(2)


def dense_loss(heads: Heads, hidden: list[Tensor], targets: dict[int, Tensor]) -> dict[int, Tensor]:
    """{layer: unexplained share of its variance}.  targets: {layer: (B, P, n D)} of variance n."""
    return {n: (heads(n, hidden).float() - target).square().sum(-1).mean() / LAYERS[n][1] ** 2
            for n, target in targets.items()}


def whole_loss(heads: Heads, hidden: list[Tensor], target: Tensor) -> Tensor:
    """Unexplained share of the variance of the whole picture's target.  target: (B, D)."""
    return (heads(WHOLE, hidden).float() - target).square().sum(-1).mean()


def memory_states(layers: int) -> tuple[int, int]:
    """The two middle hidden states, whose tokens a memory bank compares."""
    return layers // 2, layers // 2 + 1


def relation_loss(hidden: list[Tensor], targets: dict[int, Tensor],
                  layers: tuple[int, ...] = (30, 39)) -> Tensor:
    """1 - correlation of the tokens' distances with the teacher's, over all pairs in a picture.

    hidden: list of (B, 1+P, W);  targets: {layer: (B, P, n D)}.  Except for a factor and for the
    components that were dropped, their squared distances equal the teacher's 1 - cosine.
    """
    with torch.autocast(hidden[0].device.type, enabled=False):
        theirs = [targets[n].float() / LAYERS[n][1] for n in layers]
        theirs = centred(squared_distances(torch.cat(theirs, -1)))
        ours = [centred(squared_distances(F.normalize(hidden[n][:, 1:].float(), dim=-1)))
                for n in memory_states(len(hidden) - 1)]
        return sum(1 - (own * theirs).sum((1, 2)).mean() for own in ours) / len(ours)


def squared_distances(tokens: Tensor) -> Tensor:
    """Squared distances of all pairs of tokens in a picture: (B, P, W) -> (B, P, P)."""
    square = tokens.square().sum(-1)
    return square[:, :, None] + square[:, None] - 2 * tokens @ tokens.transpose(1, 2)


def centred(matrices: Tensor) -> Tensor:
    """Each matrix (P, P) minus its mean, scaled to length one: (B, P, P) -> (B, P, P)."""
    return F.normalize((matrices - matrices.mean((1, 2), keepdim=True)).flatten(1), dim=1).view_as(
        matrices)


def change_light(pixels: Tensor, generator: torch.Generator, light: float = 0.25,
                 tint: float = 0.08, noise: float = 0.04) -> Tensor:
    """The pictures with changed brightness, contrast and colour cast, and with noise.

    pixels: (B, 3, R, R) in [0, 1];  light, tint: standard deviation of the logarithm of the gain,
    light for all channels together, tint for each channel;  noise: largest standard deviation of
    the noise.
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


def demo() -> None:
    """Targets of two kinds of views, the losses before training, and changed brightness."""
    generator = torch.Generator().manual_seed(0)
    for layers in (5, 8):
        print(f"{layers} blocks: {{teacher's layer: hidden state}} is {state_of_layer(layers)}")
    target = torch.randn(2, GRID, GRID, 4, 3, generator=generator)
    for name, ids in (("a window", torch.arange(GRID * GRID).view(GRID, GRID)[:7, :7]),
                      ("the whole at half resolution", torch.full((7, 7), -1))):
        shape = tuple(targets_in_view(target, ids.expand(2, 7, 7)).shape)
        print(f"targets of {name}: {shape}")
    heads = Heads(64, 5)
    hidden = [torch.randn(2, 50, 64, generator=generator) for _ in range(6)]
    target = torch.randn(2, 49, 64, generator=generator) / 8
    with torch.no_grad():
        share = dense_loss(heads, hidden, {30: target})[30]
    print(f"share of the variance that untrained heads do not explain: {share:.2f}")
    for name, tokens in (("the same", target), ("random", torch.randn(target.shape))):
        states = [torch.cat([tokens[:, :1], tokens], 1)] * 6
        loss = relation_loss(states, {30: target}, (30,))
        print(f"relation loss of {name} tokens: {loss.item():.2f}")
    pixels = torch.full((3, 3, 8, 8), 0.5)
    print("mean of three grey pictures with changed brightness:",
          [round(x, 2) for x in change_light(pixels, generator).mean((1, 2, 3)).tolist()])


if __name__ == "__main__":
    demo()
