"""Figures of scores: the coreset of a memory bank, anomaly maps, ROC curves.

Left out: the curves of a run (runs/summary.py).
"""
import torch
from torch import Tensor

from minilora.anomaly_map import text_map, to_pixels
from minilora.auroc import auroc
from minilora.bpe import default_tokenizer
from minilora.charts.drawing import AnyShape, Dot, Drawing, side_by_side
from minilora.charts.plots import (chart, fitted_range, heat_plot, line_plot, to_drawing, x_axis,
                                   y_axis)
from minilora.coop import ensemble_features
from minilora.data.images import to_pil
from minilora.features import default_memory_states, extract_features
from minilora.figures.embedded import drawn, embedded_clip
from minilora.memory_bank import MemoryBank, coreset
from minilora.metrics.curves import roc_points

KEPT = 20                               # points of the coreset


def memory_bank_figure() -> Drawing:
    """A greedy coreset and a random choice of the same size, of points in a plane."""
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(380, 2, generator=generator),
                        0.4 * torch.randn(20, 2, generator=generator) + 4])
    x_range, y_range = (fitted_range(points[:, axis].tolist()) for axis in (0, 1))

    def scatter(title: str, kept: Tensor) -> Drawing:
        """title: with {} for the largest distance of a point to the nearest kept one."""
        farthest = torch.cdist(points, points[kept]).amin(1).max().item()
        shapes: list[AnyShape] = [*x_axis(f"first feature; large dots: the {KEPT} kept", x_range),
                               *y_axis("second feature", y_range)]
        for style, radius, some in (("line-2", 1.5, points), ("bad", 3.5, points[kept])):
            shapes += [Dot(*to_drawing(x, y, x_range, y_range), style, radius)
                       for x, y in some.tolist()]
        return chart(title.format(f"{farthest:.1f}"), f"{KEPT} of {len(points)} points", shapes)
    chosen = coreset(points, KEPT, generator)
    at_random = torch.randperm(len(points), generator=generator)[:KEPT]
    return side_by_side(f"Memory bank: {KEPT} of {len(points)} points", [
        scatter("Coreset: no point is farther than {}", chosen),
        scatter("At random: some are {} away", at_random)])


def anomaly_map_figure() -> Drawing:
    """Text map and memory map of a drawn gear with a defect."""
    clip = embedded_clip()
    visual, states = clip.visual, default_memory_states(len(clip.visual.blocks), 4)

    def features(pixels: Tensor):
        return extract_features(visual, pixels[None], states, visual.n_value_value_blocks)
    scene = drawn("gear", 0, "broken")
    good = [features(drawn("gear", n).picture).frozen_tokens[0] for n in range(1, 9)]
    bank = MemoryBank.build(good, torch.Generator().manual_seed(0))
    found = features(scene.picture)
    texts = ensemble_features(clip, default_tokenizer(), "gear")
    text = text_map(found.text_patches, texts, clip.logit_scale.exp())          # (1, P)
    memory = bank.distances(found.frozen_tokens)                                # (1, P)
    text, memory = (to_pixels(m, found.size, 4.0)[0] for m in (text, memory))   # (H, W)
    return side_by_side("Anomaly maps of a broken gear", [
        heat_plot(title, values, (0, values.max().item()), picture=to_pil(scene.picture))
        for title, values in (("Text map: probability of 'damaged'", text),
                              ("Memory map: distance to good patches", memory))])


def auroc_figure() -> Drawing:
    """ROC curves of good and defective scores that lie 0, 1 and 2 standard deviations apart."""
    generator, curves = torch.Generator().manual_seed(0), {}
    labels = torch.arange(1000) % 2
    noise = torch.randn(1000, generator=generator)
    for apart in (2, 1, 0):
        scores = noise + apart * labels
        name = f"{apart} sigma apart: {auroc(scores, labels):.3f}"
        curves[name] = roc_points(scores.tolist(), labels.tolist())
    return line_plot("AUROC: the area under each curve", "false-positive rate",
                     "true-positive rate", curves, (0, 1), (0, 1))


def demo() -> None:
    """Title, size and description of two figures."""
    for words in (memory_bank_figure(), auroc_figure()):
        print(f"{words.title} ({words.width:.0f} x {words.height:.0f} pixels)")
        print(f"  {words.description}")


if __name__ == "__main__":
    demo()
