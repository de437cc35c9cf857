"""The embedded model and drawn pictures, as the figures use them.

Claim: a figure of an untrained tower shows noise.  The embedded model is small and always there.
Left out: photographs.
"""
from functools import lru_cache

from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP
from minilora.scenes.scene import Scene, draw, product, seed_for


@lru_cache(maxsize=1)
def embedded_clip() -> CLIP:
    """The embedded model, mini-clip."""
    return load_clip("mini-clip")[0].requires_grad_(False)


def drawn(name: str, number: int, flaw: str | None = None) -> Scene:
    """Drawn picture `number` of an embedded class, 224 x 224 pixels."""
    return draw(product(name)[0], seed_for("figure", name, number), flaw)


def demo() -> None:
    """One drawn picture, and the size of the model."""
    scene = drawn("gear", 0, "broken")
    print(f"{' '.join(scene.words)} {scene.class_name}, broken, {tuple(scene.picture.shape)}")
    print(f"mini-clip: {sum(p.numel() for p in embedded_clip().parameters()):,} parameters")


if __name__ == "__main__":
    demo()
