"""Numbers of parameters, by formula: of the towers, and of what each method trains.

Symbols: W, w widths of image and text tower, r rank, n blocks with a gradient, M context vectors of
each of two prompts, s width of the side network, E embedding.
Left out: memory (formulas.py).
"""
from bench.ladder import REDUCTION
from bench.steps import Method
from minilora.clip import CLIPConfig


def blocks_count(width: int, layers: int) -> int:
    """Parameters of `layers` transformer blocks."""
    return layers * (12 * width**2 + 13 * width)


def tower_counts(c: CLIPConfig) -> tuple[int, int]:
    """Parameters of (image tower, text tower)."""
    W, w = c.vision_width, c.text_width
    image = (3 * c.patch**2 * W + (2 + (c.resolution // c.patch) ** 2) * W + 4 * W + W * c.embed
             + blocks_count(W, c.vision_layers))
    text = (c.vocab + c.context) * w + 2 * w + w * c.embed + blocks_count(w, c.text_layers)
    return image, text


def rung_count(width: int) -> int:
    """Parameters of the side network beside one block: projection down, small block, gate."""
    small = width // REDUCTION
    return (width + 1) * small + blocks_count(small, 1) + 1


def layer_count(method: Method, width: int) -> tuple[str, int]:
    """(formula, value): trained parameters of one layer of LoRA, LoRA-FA or DoRA."""
    r, W = method.rank, width
    return {"LoRA": ("2 r W", 2 * r * W), "LoRA-FA": ("r W", r * W),
            "DoRA": ("(2 r + 1) W", (2 * r + 1) * W)}[method.variant]


def frozen_count(method: Method, config: CLIPConfig) -> int:
    """Parameters that a method adds and does not train: A of LoRA-FA."""
    if method.kind != "lora" or method.variant != "LoRA-FA":
        return 0
    layers = method.gradient_blocks(config.vision_layers)
    return method.rank * config.vision_width * len(method.targets) * layers


def trainable(method: Method, config: CLIPConfig, length: int = 4) -> tuple[str, int]:
    """(formula as text, its value).  length: M, context vectors of each of two prompts."""
    image, text = tower_counts(config)
    W, n, context = config.vision_width, config.vision_layers, 2 * length * config.text_width
    if method.kind == "both":
        return "image tower + text tower + 1", image + text + 1
    if method.kind == "image":
        return "image tower + 2 M w", image + context
    if method.kind == "probe":
        return "W + 1", W + 1
    if method.kind == "context":
        return "2 M w", context
    if method.kind == "bias":
        return "(11 n + 2) W + 2 M w", (11 * n + 2) * W + context
    if method.kind == "ladder":
        return ("n (12 s^2 + 14 s + W s + 1) + (s + 1) E + 2 M w",
                n * rung_count(W) + (W // REDUCTION + 1) * config.embed + context)
    layers, (text, each) = len(method.targets) * method.gradient_blocks(n), layer_count(method, W)
    words = " + 2 M w" if method.context else ""
    return (f"{len(method.targets)} n {text}{words}",
            layers * each + (context if method.context else 0))
