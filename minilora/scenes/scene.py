"""Embedded pictures: drawn parts with captions, defects and exact masks; they need no download.

Two uses.  `product(name)` and `write_folder` make the embedded test classes in MVTec AD's layout;
`random_scene` draws an unlimited variety for pretraining.  The families in UNSEEN_CLASSES and the
defect in UNSEEN_FLAW are kept out of pretraining, so that results on them mean something.

    python -m minilora.scenes --out DIR      writes all classes as an MVTec-style folder

Leaves out: photographs.  A score on scenes says that the method works, not how well it does in a
factory.  Symbols: R resolution.
"""

import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from minilora.io.cli import option_parser
from minilora.metrics.aupro import connected_regions
from minilora.scenes.flaws import FLAW_KINDS, add_flaw
from minilora.scenes.materials import paint, pixel_grid, random_material, white
from minilora.scenes.outlines import FAMILIES, random_pose, random_style, shapes
from minilora.synthetic.sampling import choose, uniform

UNSEEN_CLASSES, UNSEEN_FLAW = ("gear", "mesh"), "dent"
# embedded test class -> (family, material and colour of its body or None for any, seed of its
# style, defect kinds)
CLASSES = {
    "bottle": ("bottle", None, 3, ("broken", "contamination", "crack", "dent")),
    "nut": ("nut", ("metal", "grey"), 1, ("scratch", "broken", "stain", "dent")),
    "cable": ("cable", None, 2, ("bent", "hole", "thread", "dent")),
    "board": ("board", None, 1, ("scratch", "misplaced", "stain", "dent")),
    "leather": ("sheet", ("leather", "brown"), 7, ("crack", "hole", "thread", "dent")),
    "metal": ("sheet", ("metal", "light grey"), 11, ("scratch", "spots", "uneven", "dent")),
    "gear": ("gear", None, 1, ("scratch", "broken", "contamination", "dent")),
    "mesh": ("mesh", None, 2, ("bent", "broken", "thread", "dent")),
}
# how a caption names each flaw; "{}" is the product
PHRASES = {
    "scratch": "{} with a scratch", "crack": "cracked {}", "stain": "{} with a stain",
    "hole": "{} with a hole", "contamination": "{} with contamination",
    "thread": "{} with a thread", "spots": "{} with spots", "bent": "bent {}",
    "uneven": "uneven {}", "rough": "{} with a rough spot",
    "misplaced": "{} with a misplaced piece", "broken": "broken {}",
}


@dataclass(frozen=True)
class Scene:
    """A drawn picture, what a caption may say of it, and where its defect lies."""

    picture: torch.Tensor  # (3, R, R) in [0, 1]
    mask: torch.Tensor     # (R, R) bool
    class_name: str
    words: tuple           # colour and, unless the noun says it, material
    flaw: str | None       # kind of the defect


def seed_for(*parts):
    """Generator that depends on its arguments alone, the same in every process."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, parts)).encode()))


def compose(style, pose, generator, resolution):
    """Paints background and shapes.  Returns (picture, background, part (R, R) bool)."""
    if style.family == "sheet":
        picture = paint(style.layers[0], generator, resolution)
        return picture, picture.flip(-1), torch.ones(resolution, resolution, dtype=torch.bool)
    behind = paint(style.background, generator, resolution)
    picture, part = behind, torch.zeros(resolution, resolution, dtype=torch.bool)
    for k, distance in enumerate(shapes(style, pose, generator, resolution)):
        material = style.layers[k]
        if k < 2:
            surface = paint(material, generator, resolution)
        else:  # small things: one colour, cheaper to draw
            surface = torch.tensor(material.light)[:, None, None].expand(3, resolution, resolution)
        near = torch.exp(-((distance / (0.012 * resolution)) ** 2))
        edge = 0.5 * (2 * style.numbers[k] - 1) * near
        if k == 0:  # a soft shadow on the ground
            shade = torch.exp(-((distance.clamp(max=0) / (0.04 * resolution)) ** 2))
            picture = picture * (1 - 0.4 * style.numbers[11] * shade)
        picture = torch.lerp(picture, surface * (1 - edge), (distance + 0.5).clamp(0, 1))
        part |= distance > 1
    return picture, behind, part


def light(picture, generator, strength):
    """Exposure, contrast, colour cast, a gradient, blur and sensor noise: none of them a defect."""
    R, s = picture.shape[-1], strength
    y, x = pixel_grid(R)
    ramp = 1 + 0.25 * s * (uniform(generator, -1, 1) * y + uniform(generator, -1, 1) * x)
    cast = 1 + 0.04 * s * torch.randn(3, 1, 1, generator=generator)
    picture = picture * ramp * cast * (1 + 0.25 * s * uniform(generator, -1, 1))
    picture = (0.5 + (picture - 0.5) * (1 + 0.25 * s * uniform(generator, -1, 1))
               + 0.06 * s * uniform(generator, -1, 1))
    picture = picture.clamp(1e-4, 1) ** (1 + 0.3 * s * uniform(generator, -1, 1))
    if uniform(generator) < 0.3 * s:
        picture = F.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)[0]
    return (picture + 0.04 * s * uniform(generator) * white(generator, R)).clamp(0, 1)


def draw(style, generator, flaw=None, resolution=224, lighting=0.3):
    """One picture of a product, with a defect of the given kind or none.  Returns a Scene."""
    picture, behind, part = compose(style, random_pose(style, generator), generator, resolution)
    picture, mask = picture.clamp(0, 1), torch.zeros(resolution, resolution, dtype=torch.bool)
    if flaw is not None:
        picture, mask = add_flaw(flaw, picture, part, behind, generator)
    body = style.layers[0]
    class_name = f"{body.name} surface" if style.family == "sheet" else style.family
    words = (body.colour,) if style.family == "sheet" else (body.colour, body.name)
    return Scene(light(picture, generator, lighting), mask, class_name, words, flaw)


def zoomed(scene, generator):
    """The same scene from nearer: a random square of it, enlarged; a defect stays in view."""
    R = scene.mask.shape[-1]
    side = int(R * uniform(generator, 0.45, 0.95))
    row, col = (int(torch.randint(R - side + 1, (), generator=generator)) for _ in "yx")
    part = scene.mask[row : row + side, col : col + side]
    if part.sum() < 0.5 * scene.mask.sum():
        return scene
    cut = torch.cat([scene.picture, scene.mask[None]])[None, :, row : row + side, col : col + side]
    cut = F.interpolate(cut, (R, R), mode="bilinear", align_corners=False)[0]
    return replace(scene, picture=cut[:3], mask=cut[3] > 0.5)


def random_scene(seed, resolution=224):
    """Scene number `seed` of the pretraining stream: any seen family; half of them are flawless."""
    generator = seed_for("pretrain", seed)
    parts = [f for f in FAMILIES if f not in UNSEEN_CLASSES + ("sheet",)]
    family = choose(generator, parts + 5 * ["sheet"])
    kinds = [k for k in FLAW_KINDS if k != UNSEEN_FLAW]
    flaw = choose(generator, kinds) if uniform(generator) < 0.5 else None
    scene = draw(random_style(generator, family), generator, flaw, resolution, lighting=0.7)
    return zoomed(scene, generator) if uniform(generator) < 0.4 else scene


def product(name):
    """(Style, defect kinds) of an embedded class.  Raises ValueError for another name."""
    if name not in CLASSES:
        raise ValueError(f"embedded scenes have no class {name!r}; "
                         f"expected one of {', '.join(CLASSES)}")
    family, material, seed, kinds = CLASSES[name]
    generator = seed_for("style", name, seed)
    style = random_style(generator, family)
    if material:
        style = replace(style, layers=(random_material(generator, *material),) + style.layers[1:])
    return style, kinds


def filled_outline(mask, reach=4, least=12):
    """A defect as a person would outline it: gaps of 2 `reach` pixels closed, specks left out.

    mask: (R, R) bool, the pixels that changed.  Regions of less than `least` pixels are specks,
    unless there is nothing larger.  Returns (R, R) bool.
    """
    grown = F.max_pool2d(mask[None].float(), 2 * reach + 1, 1, reach)
    closed = (-F.max_pool2d(-F.pad(grown, 4 * [reach], value=1.0), 2 * reach + 1, 1) > 0)
    region = connected_regions(closed)
    size = region.bincount()
    kept = closed.clone()
    kept[closed] = (size >= min(least, size.max()))[region]
    return kept[0]


def save_scene(scene, folder, kind, number):
    """Writes test/<kind>/NNN.png and, for a defect, its mask, as MVTec AD names them."""
    pixels = (scene.picture * 255).round().byte().permute(1, 2, 0).numpy()
    picture = folder / ("train/good" if kind == "train" else f"test/{kind}") / f"{number:03d}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(picture)
    if scene.flaw is not None:
        mask = folder / "ground_truth" / kind / f"{number:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(filled_outline(scene.mask).numpy().astype(np.uint8) * 255).save(mask)


def write_class(root, name, good=24, test_good=24, defective=10, resolution=256, seed=0):
    """Writes <root>/<name> in MVTec AD's layout and returns its path; leaves a finished one alone.

    good: pictures for training;  test_good: flawless ones to be judged;  defective: of each kind.
    The folder is drawn under another name and renamed when it is whole.  Raises ValueError for an
    unknown class.
    """
    style, kinds = product(name)
    folder = Path(root) / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as resume:
        drawn = Path(resume) / name
        for kind, count in (("train", good), ("good", test_good), *((k, defective) for k in kinds)):
            for number in range(count):
                flaw = kind if kind in FLAW_KINDS else None
                scene = draw(style, seed_for(name, kind, number, seed), flaw, resolution)
                save_scene(scene, drawn, kind, number)
        drawn.rename(folder)
    return folder


def demo():
    for name, (family, _, _, kinds) in list(CLASSES.items())[:7]:
        style, _ = product(name)
        scene = draw(style, seed_for(name), kinds[0], resolution=64)
        unseen = " (never in pretraining)" if family in UNSEEN_CLASSES else ""
        print(f"{name:8s} {' '.join(scene.words)} {scene.class_name}: {PHRASES[kinds[0]].format('it')}, "
              f"{scene.mask.float().mean():.1%} of the picture{unseen}")


def main():
    p = option_parser("minilora.scenes", __doc__)
    p.add_argument("--out", help="folder to write; without it a demonstration is printed")
    p.add_argument("--class", dest="names", nargs="+", metavar="NAME", default=list(CLASSES),
                   help="which of them")
    options = p.parse_args()
    if options.out is None:
        return demo()
    for name in options.names:
        print(write_class(options.out, name))


if __name__ == "__main__":
    demo()
