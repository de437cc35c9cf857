"""Embedded pictures: drawn parts with captions, defects and exact masks; no download is needed.

They have two uses.  `write_class` writes a test class in MVTec AD's folder layout; `random_scene`
draws an unlimited variety for pretraining.  The families in UNSEEN_CLASSES and the defect in
UNSEEN_FLAW never occur in pretraining, so results on them show whether a model generalises.

    python -m minilora.scenes --out DIR      writes all classes as folders in MVTec AD's layout

Claim: a score on scenes shows that the method works; it does not predict the score in a factory.

Symbols: R resolution.  Left out: photographs.
"""

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minilora.data.images import to_pil
from minilora.io.cli import option_parser
from minilora.io.lock import make_folder
from minilora.io.parser import OneLineParser
from minilora.io.progress import stage
from minilora.io.temporary import remove_leftovers, temporary_folder
from minilora.io.text import shown
from minilora.metrics.aupro import connected_regions
from minilora.scenes.flaws import FLAW_KINDS, add_flaw
from minilora.scenes.materials import paint, pixel_grid, random_material, white_noise
from minilora.scenes.outlines import FAMILIES, Pose, Style, random_pose, random_style, shapes
from minilora.synthetic.sampling import choose, uniform

UNSEEN_CLASSES, UNSEEN_FLAW = ("gear", "mesh"), "dent"
GOOD_PICTURES = 24                      # of a class, for training
# class -> (family, (material, colour) of its body, None: random, seed of its style, defect kinds)
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
# how a caption describes each defect; "{}" is the product
PHRASES = {
    "scratch": "{} with a scratch", "crack": "cracked {}", "stain": "{} with a stain",
    "hole": "{} with a hole", "contamination": "{} with contamination",
    "thread": "{} with a thread", "spots": "{} with spots", "bent": "bent {}",
    "uneven": "uneven {}", "rough": "{} with a rough spot",
    "misplaced": "{} with a misplaced piece", "broken": "broken {}",
}


@dataclass(frozen=True)
class Scene:
    """A drawn picture, what a caption may say about it, and where its defect lies."""

    picture: Tensor             # (3, R, R) in [0, 1]
    mask: Tensor                # (R, R) bool
    class_name: str
    words: tuple[str, ...]      # colour and, unless the class name contains it, material
    flaw: str | None            # kind of the defect


def seed_for(*parts: object) -> torch.Generator:
    """A generator seeded by the arguments only; the same in every process."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, parts)).encode()))


def compose(style: Style, pose: Pose, generator: torch.Generator,
            resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Paint background and shapes.  Returns picture and background (3, R, R), part (R, R) bool.

    part: where the product is, without the outermost pixel of its edge.
    """
    if style.family == "sheet":
        picture = paint(style.layers[0], generator, resolution)
        return picture, picture.flip(-1), torch.ones(resolution, resolution, dtype=torch.bool)
    behind = paint(style.background, generator, resolution)
    picture, part = behind, torch.zeros(resolution, resolution, dtype=torch.bool)
    for k, distance in enumerate(shapes(style, pose, generator, resolution)):
        material = style.layers[k]
        if k < 2:
            surface = paint(material, generator, resolution)
        else:                   # small shapes have one colour, which is faster
            surface = torch.tensor(material.light)[:, None, None].expand(3, resolution, resolution)
        near = torch.exp(-((distance / (0.012 * resolution)) ** 2))
        edge = 0.5 * (2 * style.numbers[k] - 1) * near
        if k == 0:              # a soft shadow on the background
            shade = torch.exp(-((distance.clamp(max=0) / (0.04 * resolution)) ** 2))
            picture = picture * (1 - 0.4 * style.numbers[11] * shade)
        picture = torch.lerp(picture, surface * (1 - edge), (distance + 0.5).clamp(0, 1))
        part |= distance > 1
    return picture, behind, part


def vary_lighting(picture: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """The picture with random exposure, contrast, colour cast, gradient, blur and sensor noise.

    None of these is a defect.  strength: 0 for none, 1 for much.
    """
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
    return (picture + 0.04 * s * uniform(generator) * white_noise(generator, R)).clamp(0, 1)


def draw(style: Style, generator: torch.Generator, flaw: str | None = None, resolution: int = 224,
         lighting: float = 0.3) -> Scene:
    """One picture of a product; flaw: the kind of its defect;  lighting: see `vary_lighting`."""
    picture, behind, part = compose(style, random_pose(style, generator), generator, resolution)
    picture, mask = picture.clamp(0, 1), torch.zeros(resolution, resolution, dtype=torch.bool)
    if flaw is not None:
        picture, mask = add_flaw(flaw, picture, part, behind, generator)
    body = style.layers[0]
    class_name = f"{body.name} surface" if style.family == "sheet" else style.family
    words = (body.colour,) if style.family == "sheet" else (body.colour, body.name)
    return Scene(vary_lighting(picture, generator, lighting), mask, class_name, words, flaw)


def zoomed(scene: Scene, generator: torch.Generator) -> Scene:
    """A random square of the scene, enlarged; the scene itself if that would lose its defect."""
    R = scene.mask.shape[-1]
    side = int(R * uniform(generator, 0.45, 0.95))
    row, col = (int(torch.randint(R - side + 1, (), generator=generator)) for _ in "yx")
    part = scene.mask[row : row + side, col : col + side]
    if part.sum() < 0.5 * scene.mask.sum():
        return scene
    cut = torch.cat([scene.picture, scene.mask[None]])[None, :, row : row + side, col : col + side]
    cut = F.interpolate(cut, (R, R), mode="bilinear", align_corners=False)[0]
    return replace(scene, picture=cut[:3], mask=cut[3] > 0.5)


def random_scene(seed: int, resolution: int = 224) -> Scene:
    """Scene number `seed` for pretraining, of any family except UNSEEN_CLASSES; half are good."""
    generator = seed_for("pretrain", seed)
    parts = [f for f in FAMILIES if f not in UNSEEN_CLASSES + ("sheet",)]
    family = choose(generator, parts + 5 * ["sheet"])
    kinds = [k for k in FLAW_KINDS if k != UNSEEN_FLAW]
    flaw = choose(generator, kinds) if uniform(generator) < 0.5 else None
    scene = draw(random_style(generator, family), generator, flaw, resolution, lighting=0.7)
    return zoomed(scene, generator) if uniform(generator) < 0.4 else scene


def product(name: str) -> tuple[Style, tuple[str, ...]]:
    """(style, defect kinds) of an embedded class.  Raises ValueError for an unknown name."""
    if name not in CLASSES:
        raise ValueError(f"embedded scenes have no class {name!r}; "
                         f"expected one of {', '.join(CLASSES)}")
    family, material, seed, kinds = CLASSES[name]
    generator = seed_for("style", name, seed)
    style = random_style(generator, family)
    if material:
        style = replace(style, layers=(random_material(generator, *material),) + style.layers[1:])
    return style, kinds


def filled_outline(mask: Tensor, reach: int = 4, least: int = 12) -> Tensor:
    """The defect as an annotator would outline it: small gaps closed, tiny regions removed.

    mask: (R, R) bool, not empty, the pixels that changed;  reach: half the width of the gaps that
    are closed, pixels;  least: smallest region that is kept, pixels, unless none is that large.
    Returns (R, R) bool.
    """
    grown = F.max_pool2d(mask[None].float(), 2 * reach + 1, 1, reach)
    closed = (-F.max_pool2d(-F.pad(grown, 4 * [reach], value=1.0), 2 * reach + 1, 1) > 0)
    region = connected_regions(closed)
    size = region.bincount()
    kept = closed.clone()
    kept[closed] = (size >= min(least, size.max()))[region]
    return kept[0]


def save_scene(scene: Scene, folder: Path, kind: str, number: int) -> None:
    """Write test/<kind>/NNN.png (or train/good/) and, for a defect, its mask, as in MVTec AD."""
    picture = folder / ("train/good" if kind == "train" else f"test/{kind}") / f"{number:03d}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    to_pil(scene.picture).save(picture)
    if scene.flaw is not None:
        mask = folder / "ground_truth" / kind / f"{number:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(filled_outline(scene.mask).numpy().astype(np.uint8) * 255).save(mask)


def write_class(root: str | Path, name: str, good: int = GOOD_PICTURES, test_good: int = 24,
                defective: int = 10, resolution: int = 256, seed: int = 0) -> Path:
    """Write <root>/<name> in MVTec AD's layout and return its path; an existing folder is kept.

    good, test_good: good pictures for training and testing;  defective: pictures of each defect
    kind.  The folder gets its name when it is complete.  Raises ValueError for an unknown class.
    """
    style, kinds = product(name)
    folder = Path(root) / name
    if not folder.is_dir() and os.path.lexists(folder):
        raise ValueError(f"{shown(folder)} is not a folder; give another folder for the scenes")
    remove_leftovers(make_folder(root))
    if folder.is_dir():
        return folder
    counts = {"train": good, "good": test_good} | dict.fromkeys(kinds, defective)
    wanted = [(kind, number) for kind, count in counts.items() for number in range(count)]
    with temporary_folder(root) as staging:
        drawn = staging / name
        for kind, number in stage(f"drawing {name}", wanted, len(wanted)):
            flaw = kind if kind in FLAW_KINDS else None
            save_scene(draw(style, seed_for(name, kind, number, seed), flaw, resolution), drawn,
                       kind, number)
        try:
            drawn.rename(folder)
        except OSError:
            if not folder.is_dir():             # else another process has drawn the same
                raise
    return folder


def demo() -> None:
    """One defective scene of seven classes, and how much of the picture its defect covers."""
    for name, (family, _, _, kinds) in list(CLASSES.items())[:7]:
        scene = draw(product(name)[0], seed_for(name), kinds[0], resolution=64)
        unseen = " (never in pretraining)" if family in UNSEEN_CLASSES else ""
        print(f"{name:8s} {PHRASES[kinds[0]].format(' '.join((*scene.words, scene.class_name)))}, "
              f"{scene.mask.float().mean():.1%} of the picture{unseen}")


def parser() -> OneLineParser:
    """The options of the command."""
    p = option_parser("minilora.scenes", __doc__, "--out data/scenes --class nut gear")
    p.add_argument("--out", metavar="FOLDER", help="without it, a demonstration")
    p.add_argument("--class", dest="names", nargs="+", metavar="NAME", default=list(CLASSES),
                   help="classes to write (default: all)")
    return p


def main() -> None:
    """The command: write the classes, or print the demonstration."""
    options = parser().parse_args()
    if options.out is None:
        return demo()
    for name in options.names:              # all names before the first picture
        product(name)
    for name in options.names:
        there = Path(options.out, name).is_dir()
        print(shown(write_class(options.out, name)) + " was there and is unchanged" * there)


if __name__ == "__main__":
    demo()
