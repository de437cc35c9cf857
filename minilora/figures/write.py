"""The figure of each mechanism, by its name, and how one is written.

Left out: figures of other modules.
"""
from collections.abc import Callable
from pathlib import Path

from minilora.charts.drawing import Drawing
from minilora.charts.writers import check_drawing_path, drawing_bytes
from minilora.figures import scores, towers, training, words
from minilora.io.output import atomic_output, check_output
from minilora.io.text import shown

FIGURES: dict[str, Callable[[], Drawing]] = {
    "bpe": words.bpe_figure, "text": words.text_figure, "prompts": words.prompts_figure,
    "attention": towers.attention_figure, "vit": towers.vit_figure, "clip": towers.clip_figure,
    "clip_resnet": towers.clip_resnet_figure,
    "lora": training.lora_figure, "coop": training.coop_figure, "losses": training.losses_figure,
    "memory_bank": scores.memory_bank_figure, "anomaly_map": scores.anomaly_map_figure,
    "auroc": scores.auroc_figure}


def check_figure_path(path: str | Path) -> None:
    """Raises ValueError, before any work, if `write_figure` would refuse this file."""
    check_drawing_path(path)
    check_output(path, "plot")


def write_figure(name: str, path: str | Path) -> None:
    """Draws the figure of the mechanism `name` into an SVG or PNG file, and says so."""
    check_figure_path(path)
    drawing = FIGURES[name]()
    with atomic_output(path, "plot") as file:
        file.write(drawing_bytes(path, drawing))
    print(f"written  {shown(path)}: {shown(drawing.title)}")


def demo() -> None:
    """The three figures that are computed in a moment."""
    for name in ("bpe", "losses", "auroc"):
        drawing = FIGURES[name]()
        print(f"{name:8s} {drawing.width:.0f} x {drawing.height:.0f}  {drawing.title}")


if __name__ == "__main__":
    demo()
