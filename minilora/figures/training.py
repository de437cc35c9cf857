"""Figures of what is trained: LoRA's update, CoOp's context, and the losses.

Left out: the training of a detector (the page of a run has its curve).
"""
import torch
import torch.nn.functional as F
from torch import nn

from minilora.bpe import default_tokenizer
from minilora.charts.drawing import Drawing, side_by_side
from minilora.charts.plots import fitted_range, line_plot
from minilora.coop import PromptLearner
from minilora.figures.embedded import embedded_clip
from minilora.lora import LoRALinear, delta_norms
from minilora.losses import dice_loss, focal_loss

GAMMAS = (0.0, 2.0, 5.0)                # of the focal loss; 0 is cross-entropy


def lora_figure() -> Drawing:
    """Loss and norm of Delta W over the steps of lora.demo(), for three ranks; wanted: rank 2."""
    losses, norms = {}, {}
    for rank in (1, 2, 4):
        generator = torch.Generator().manual_seed(0)
        linear = nn.Linear(96, 64)
        for parameter in linear.parameters():
            parameter.data.normal_(0, 0.1, generator=generator)
        x = torch.randn(256, 96, generator=generator)
        wanted = torch.randn(64, 2, generator=generator) @ torch.randn(2, 96,
                                                                       generator=generator) / 50
        target = (linear(x) + x @ wanted.T).detach()
        layer = LoRALinear.from_linear(linear, rank, 2 * rank, generator)
        optimizer = torch.optim.Adam([layer.lora_A, layer.lora_B], lr=0.01)
        name = f"rank {rank}"
        losses[name], norms[name] = [], []
        for step in range(201):
            loss = F.mse_loss(layer(x), target)
            losses[name].append((step, loss.item()))
            norms[name].append((step, delta_norms(layer)[""]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    norms["wanted"] = [(step, wanted.norm().item()) for step in (0, 200)]
    return side_by_side("LoRA learns a change of rank 2", [
        line_plot("The loss falls to zero from rank 2 on", "step", "loss", losses),
        line_plot("The update starts at zero and grows", "step", "norm of Delta W", norms)])


def coop_figure() -> Drawing:
    """Cosines with two wanted features while only the context vectors change."""
    generator, curves = torch.Generator().manual_seed(0), {}
    clip = embedded_clip()
    wanted = F.normalize(torch.randn(2, clip.config.embed, generator=generator), dim=-1)
    for position in ("end", "front"):
        learner = PromptLearner(clip, default_tokenizer(), "bottle", position=position,
                                generator=generator)
        optimizer = torch.optim.Adam([learner.context], lr=0.02)
        curves[f"class at the {position}"] = points = []
        for step in range(61):
            cosines = (learner() * wanted).sum(dim=-1)                          # (2,)
            points.append((step, cosines.mean().item()))
            optimizer.zero_grad()
            (1 - cosines).sum().backward()
            optimizer.step()
    return line_plot("CoOp: learned context moves the text features", "step",
                     "cosine with the wanted features", curves,
                     y_range=fitted_range(y for points in curves.values() for _, y in points))


def losses_figure() -> Drawing:
    """Losses of one defective pixel, and of one answer for a whole mask with 1 % defect."""
    probabilities = torch.linspace(0.01, 0.99, 99)
    one = torch.ones(1)
    pixel = {f"focal, gamma {gamma:.0f}" if gamma else "cross-entropy": [
        (p.item(), focal_loss(p[None], one, gamma).item()) for p in probabilities]
        for gamma in GAMMAS}
    mask = torch.zeros(1, 100, 100)
    mask[:, 40:50, 40:50] = 1
    kinds = {"cross-entropy": lambda p: focal_loss(p, mask, 0), "focal": lambda p: focal_loss(
        p, mask), "dice": lambda p: dice_loss(p, mask)}
    whole = {name: [(p.item(), loss(torch.full_like(mask, p.item())).item())
                    for p in probabilities] for name, loss in kinds.items()}
    return side_by_side("Losses over the probability of 'defect'", [
        line_plot("A defective pixel: focal loss forgives early", "p of the pixel", "loss", pixel),
        line_plot("The same p everywhere, 1 % are defective", "p of all pixels", "loss", whole)])


def demo() -> None:
    """Title, size and description of the losses' figure."""
    drawing = losses_figure()
    print(drawing.title, f"({drawing.width:.0f} x {drawing.height:.0f} pixels)")
    print(drawing.description)


if __name__ == "__main__":
    demo()
