"""The page about the Python interface, minilora/API.md: every public name with its docstring.

    python -m bench.api         writes the page

Signature and docstring are those of the source; the examples are below.  A test compares the page
with this module and runs the examples, in this order, in an empty folder.

Left out: the commands (their --help), names that are not exported by the package.
"""
import ast
import textwrap
from pathlib import Path
from typing import Any

import minilora
from minilora.io.files import atomic_write

PACKAGE = Path(minilora.__file__).parent
PAGE = PACKAGE / "API.md"
INTRODUCTION = """# minilora from Python

Made by `python -m bench.api` from the docstrings; do not edit it by hand. The examples run as they stand, one after the
other, in an empty folder; a test runs them. They use the embedded model mini-clip and drawn pictures. With
`load_clip("ViT-B/16", download=True)` and your own folders the same lines work on real products.

```pycon
>>> import torch
>>> from minilora.scenes.scene import write_class
>>> folder = write_class("pictures", "nut", good=4, test_good=1, defective=1)   # draws some nuts

```
"""
# dotted name below the package -> an example
EXAMPLES = {
    "checkpoint.weights.load_clip": """
        >>> from minilora import load_clip
        >>> clip, weights = load_clip("mini-clip")
        >>> weights.name, clip.config.resolution, clip.config.patch
        ('mini-clip', 224, 16)
        """,
    "config.DetectorConfig": """
        >>> from minilora import DetectorConfig
        >>> config = DetectorConfig(steps=5, n_train_images=8)          # a short training
        >>> DetectorConfig(rank=0)
        Traceback (most recent call last):
        ...
        minilora.io.schema.SchemaError: rank: expected a whole number from 1 to 4,096, found 0
        """,
    "detector.Detector": """
        >>> from minilora import Detector
        >>> detector = Detector(clip, "nut", config)
        >>> detector
        Detector('nut', 7.6 M parameters, resolution 224, 4 LoRA layers of rank 4, not fitted)
        >>> Detector(clip, "bolt")
        Traceback (most recent call last):
        ...
        ValueError: this CLIP has LoRA already, ... load it again with load_clip() ...
        """,
    "detector.Detector.fit": """
        >>> detector = detector.fit("pictures/nut/train/good")
        >>> len(detector.losses), len(detector.shot_pictures)
        (5, 4)
        """,
    "detector_base.DetectorBase.predict": """
        >>> new = ["pictures/nut/test/good", "pictures/nut/test/scratch/000.png"]
        >>> found = detector.predict(new)
        >>> len(found), found.names[1], found.maps[1].shape
        (2, 'pictures/nut/test/scratch/000.png', torch.Size([224, 224]))
        >>> from PIL import Image
        >>> again = detector.predict(Image.open(found.names[1]))        # pictures in memory, too
        >>> torch.equal(again.scores, found.scores[1:])
        True
        """,
    "detector_base.Predictions": """
        >>> found
        decision   score  picture (... of 2 NG, threshold ...)
        ...  pictures/nut/test/good/000.png
        ...  pictures/nut/test/scratch/000.png
        >>> ng = [row.name for row in found if row.decision == "NG"]
        >>> len(ng) == found.decisions.count("NG")
        True
        """,
    "detector_base.DetectorBase.prepare": """
        >>> pixels = detector.prepare(detector.read("pictures/nut/test/good/000.png"))
        >>> pixels.shape
        torch.Size([3, 224, 224])
        """,
    "detector.Detector.score": """
        >>> maps, scores = detector.score(pixels[None])
        >>> maps.shape, torch.equal(scores, found.scores[:1])
        (torch.Size([1, 224, 224]), True)
        >>> detector.score(255 * pixels[None])
        Traceback (most recent call last):
        ...
        ValueError: pixels: expected values in [0, 1], found ... divide values of 0 to 255 by 255...
        """,
    "detector.Detector.rows": """
        >>> list(detector.rows(pixels[None]))
        ['zero-shot', 'lora-only', 'memory', 'text', 'lora-off', 'adapted']
        """,
    "detector.Detector.save": """
        >>> detector.save("runs/nut", weights)
        """,
    "detector.Detector.open": """
        >>> stored = Detector.open("runs/nut")
        >>> torch.equal(stored.predict(found.names).scores, found.scores)
        True
        """,
    "data.own_and_visa.load_pictures": """
        >>> from minilora import load_pictures
        >>> load_pictures("pictures/nut/train/good", resolution=64).shape
        torch.Size([4, 3, 64, 64])
        """,
    "clip.CLIPConfig": """
        >>> from minilora import CLIPConfig
        >>> small = CLIPConfig(embed=32, resolution=64, vision_layers=2, vision_width=64, patch=16,
        ...                    text_width=64, text_layers=1)
        """,
    "clip.CLIP": """
        >>> from minilora import CLIP
        >>> model = CLIP(small).initialise(torch.Generator().manual_seed(0))    # random weights
        >>> model.encode_image(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 32])
        """,
    "lora.LoRALinear": """
        >>> from minilora import LoRALinear
        >>> layer = LoRALinear(96, 64, rank=4, alpha=8)
        >>> layer
        LoRALinear(in_features=96, out_features=64, bias=True, r=4, alpha=8, LoRA on)
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)       # r (d + k)
        640
        """,
    "lora.add_lora": """
        >>> from minilora import add_lora
        >>> add_lora(model.visual, ("q", "v"), blocks=(1,), rank=2, alpha=4)
        ['blocks.1.attn.q', 'blocks.1.attn.v']
        """,
    "lora.disable_lora": """
        >>> from minilora import disable_lora
        >>> trained = torch.nn.init.ones_(model.visual.blocks[1].attn.v.lora_B)     # as if trained
        >>> picture = torch.rand(1, 3, 64, 64)
        >>> with disable_lora(model.visual):
        ...     pretrained = model.encode_image(picture)
        >>> torch.equal(model.encode_image(picture), pretrained)
        False
        """,
    "lora.merge": """
        >>> from minilora import merge
        >>> plain = merge(model)
        >>> torch.allclose(plain.encode_image(picture), model.encode_image(picture), atol=1e-5)
        True
        """,
    "memory_bank.MemoryBank": """
        >>> from minilora import MemoryBank
        >>> good = [torch.eye(32)[:20], torch.eye(32)[:20]]     # two pictures of 20 patches
        >>> bank = MemoryBank.build(good, torch.Generator().manual_seed(0))
        >>> bank
        MemoryBank(4 patches of ... pictures, width 32)
        >>> bank.distances(torch.eye(32)[None, 30:])            # patches that no picture has
        tensor([[1., 1.]])
        """,
    "auroc.auroc": """
        >>> from minilora.auroc import auroc
        >>> auroc(found.scores, torch.tensor([0, 1])) in (0.0, 1.0)     # one good, one defective
        True
        """,
}


def node_of(dotted: str) -> tuple[Path, list[str], Any]:
    """(file, its lines, syntax tree of the definition) of a name below the package."""
    path, parts = PACKAGE, dotted.split(".")
    while path.suffix != ".py":
        path, parts = path / parts[0], parts[1:]
        path = path if path.is_dir() else path.with_suffix(".py")
    text = path.read_text("utf-8")
    node = ast.parse(text)
    for part in parts:
        node = next(n for n in node.body if getattr(n, "name", "") == part)
    return path, text.splitlines(), node


def head(dotted: str) -> str:
    """Signature and docstring as they stand in the source; of a class its __init__ or fields."""
    path, lines, node = node_of(dotted)

    def source(first, last):
        return textwrap.dedent("\n".join(lines[first - 1:last]).strip("\n"))
    described = node.body[0].end_lineno                                 # end of the docstring
    text = source(min([node.lineno, *(d.lineno for d in node.decorator_list)]), described)
    if isinstance(node, ast.ClassDef):
        fields = [n.end_lineno for n in node.body if isinstance(n, ast.AnnAssign)]
        init = [n for n in node.body if getattr(n, "name", "") == "__init__"]
        more = source(init[0].lineno, init[0].body[0].lineno - 1) if init else source(
            described + 1, max(fields))
        text += "\n\n" + textwrap.indent(more, "    ")
    name = path.relative_to(PACKAGE).as_posix()
    return f"[{name}]({name})\n\n```python\n{text}\n```"


def title(dotted: str) -> str:
    """The name as one writes it: `Detector.predict`, `merge`, `minilora.auroc.auroc`."""
    *_, owner, name = dotted.split(".")
    if owner[0].isupper():                                              # a method
        return f"{owner.removesuffix('Base')}.{name}"
    return name if name in minilora.__all__ else f"minilora.{dotted}"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for dotted, example in EXAMPLES.items():
        parts.append(f"## `{title(dotted)}`\n\n{head(dotted)}\n\n```pycon\n"
                     f"{textwrap.dedent(example).strip()}\n\n```\n")
    return "\n".join(parts)


def main() -> None:
    with atomic_write(PAGE, "w") as file:
        file.write(page())
    print(f"{PAGE.name}: {len(EXAMPLES)} names")


if __name__ == "__main__":
    main()
