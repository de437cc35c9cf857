"""Drawn videos of a conveyor belt: parts pass a camera, some are damaged, and the light changes.

    python -m minilora.belts --out DIR --videos 4      MP4 files, and truth.json: parts and times

Claim: a search for events in videos can be scored only if the exact times of the events are known.
Here they are known exactly: a part is visible from the moment its centre enters the picture
until its centre leaves it.

A slot of the belt is empty or holds a part.  The part may have a defect or a serial number, or it
may be removed: pushed off the belt when it reaches the middle of the picture.  The parts are those
of scenes/outlines.py; each video draws its own products.

Symbols: R resolution.  Left out: moving cameras, parts that cover each other, sound.
"""
import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from minilora.data.frames import Frame, save_video
from minilora.io.cli import option_parser, positive_int, seed_value, whole_number
from minilora.io.files import atomic_write, write_json
from minilora.io.parser import OneLineParser
from minilora.io.text import shown
from minilora.io.transaction import atomic_folder
from minilora.scenes.flaws import FLAW_KINDS, add_flaw
from minilora.scenes.materials import paint, random_material
from minilora.scenes.outlines import FAMILIES, Style, random_pose, random_style
from minilora.scenes.scene import UNSEEN_CLASSES, compose, seed_for
from minilora.synthetic.sampling import chance, choose, uniform

BELT_FILES = "belt-[0-9][0-9][0-9]*.mp4", "truth.json"
SLOT_GAP = 2.0                       # distance of two slots, in widths of the picture
SEEN_FAMILIES = tuple(f for f in FAMILIES if f not in (*UNSEEN_CLASSES, "sheet"))


class Slot(NamedTuple):
    """A place on the belt; without a style it is empty."""
    style: Style | None = None
    flaw: str | None = None         # kind of the defect
    label: str | None = None        # serial number
    removed: bool = False           # pushed off the belt in the middle of the picture


@dataclass(frozen=True)
class Pass:
    """One part that passes the camera.  start, end: seconds; its centre is visible between them."""
    start: float
    end: float
    class_name: str
    words: tuple[str, str]          # colour and material
    flaw: str | None                # kind of the defect
    label: str | None               # serial number
    removed: bool


def sprite(style: Style, flaw: str | None, generator: torch.Generator, side: int) -> Image.Image:
    """A part as an RGBA picture (side, side), transparent outside and where a piece is missing."""
    pose = replace(random_pose(style, generator), dy=0.0, dx=0.0)
    plain = replace(style.background, dark=style.background.light, contrast=0.0, grain=0.0)
    style = replace(style, background=plain, numbers=style.numbers[:11] + (0.0,))   # no shadow
    picture, behind, part = compose(style, pose, generator, side)
    picture = picture.clamp(0, 1)
    solid = part
    if flaw:
        flawed, mask = add_flaw(flaw, picture, part, behind, generator)
        gone = mask & ((flawed - behind).abs().amax(0) < 0.02)
        picture, solid = flawed.clamp(0, 1), (part | mask) & ~gone
    soft = F.avg_pool2d(solid[None].float(), 3, 1, 1)
    pixels = torch.cat([picture, soft]).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy(), "RGBA")


def sticker(text: str, side: int) -> Image.Image:
    """A white label with a serial number, for a picture (side, side)."""
    font = ImageFont.load_default(side // 9)
    left, top, right, bottom = font.getbbox(text)
    label = Image.new("RGB", (right - left + 16, bottom - top + 12), "white")
    ImageDraw.Draw(label).text((8 - left, 6 - top), text, "black", font)
    return label


class Belt:
    """A video as a function of time.

    generator: draws belt, lighting and parts;  period: seconds from one slot to the next.
    """

    def __init__(self, slots: Sequence[Slot], generator: torch.Generator, resolution: int = 224,
                 period: float = 5.0) -> None:
        self.slots, self.resolution, self.period = slots, resolution, period
        material = random_material(generator, choose(generator, ("plastic", "iron", "metal")),
                                   choose(generator, ("grey", "dark grey", "light grey", "black")),
                                   contrast=0.04)
        tile = (paint(material, generator, resolution).clamp(0, 1) * 255).byte()
        tile = torch.cat([tile, tile.flip(-1)], -1).permute(1, 2, 0).numpy()    # seamless
        self.ground = Image.fromarray(np.concatenate([tile, tile[:, :resolution]], 1))
        self.sprites = [s.style and sprite(s.style, s.flaw, generator, resolution) for s in slots]
        self.phase, self.cast = uniform(generator, 0, 2 * math.pi), [
            uniform(generator, 0.97, 1.03) for _ in "RGB"]
        self.failure = uniform(generator, 0, self.seconds)      # when a lamp goes out

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return len(self.slots) * self.period

    def passes(self) -> list[Pass]:
        """One `Pass` for each slot that holds a part."""
        half = self.period / SLOT_GAP / 2
        out = []
        for k, slot in enumerate(self.slots):
            middle = (k + 0.5) * self.period
            if slot.style:
                body = slot.style.layers[0]
                out.append(Pass(middle - half, middle + (0.5 if slot.removed else 1) * half,
                                slot.style.family, (body.colour, body.name), slot.flaw, slot.label,
                                slot.removed))
        return out

    def brightness(self, time: float) -> float:
        """Factor on all grey values: a slow drift; a fifth less while a lamp is out."""
        out = 0 <= time - self.failure < 1.5 * self.period
        return (1 + 0.1 * math.sin(2 * math.pi * time / 23 + self.phase)) * (0.8 if out else 1)

    def picture(self, time: float) -> Image.Image:
        """The RGB picture (R, R) at a time in seconds."""
        R = self.resolution
        speed = SLOT_GAP * R / self.period                   # pixels per second, to the left
        shift = int(time * speed) % (2 * R)
        shown = self.ground.crop((shift, 0, shift + R, R))
        for k, (slot, part) in enumerate(zip(self.slots, self.sprites)):
            left = round(((k + 0.5) * self.period - time) * speed)      # 0: centred
            if part is None or abs(left) >= R:
                continue
            down = max(0, -2 * left) if slot.removed else 0     # pushed off downwards
            shown.paste(part, (left, down), part)
            if slot.label:
                label = sticker(slot.label, R)
                shown.paste(label, (left + (R - label.width) // 2, R - label.height - 2 + down))
        factors = [self.brightness(time) * cast for cast in self.cast]
        return shown.point([min(255, int(f * v)) for f in factors for v in range(256)])

    def frames(self, rate: int) -> Iterator[Frame]:
        """Yield all frames; rate: frames per second."""
        for k in range(int(self.seconds * rate)):
            yield Frame(k / rate, self.picture(k / rate))


def random_flaw(generator: torch.Generator) -> str:
    """A random kind of defect."""
    return choose(generator, list(FLAW_KINDS))


def mixed_belt(number: int, families: Sequence[str] = SEEN_FAMILIES + UNSEEN_CLASSES,
               slots: int = 12, damaged: float = 0.3, seed: int = 0, resolution: int = 224,
               period: float = 5.0) -> Belt:
    """Belt number `number` on which four products pass in random order.

    damaged: probability of a defect for each part.
    """
    generator = seed_for("mixed belt", seed, number)
    names = [families[k] for k in torch.randperm(len(families), generator=generator)[:4]]
    styles = [random_style(generator, name) for name in names]
    plan = [Slot(choose(generator, styles),
                 random_flaw(generator) if chance(generator, damaged) else None)
            for _ in range(slots)]
    return Belt(plan, generator, resolution, period)


def product_belt(number: int, family: str, slots: int = 12, damaged: float = 0.3,
                 labels: bool = False, seed: int = 0, resolution: int = 224,
                 period: float = 5.0) -> Belt:
    """Belt number `number` with one product; at least one part is damaged and one is good.

    damaged: probability of a defect for each other part;  labels: with serial numbers.
    """
    generator = seed_for("line", seed, family, number)
    style = random_style(generator, family)
    bad = [True, False] + [chance(generator, damaged) for _ in range(slots - 2)]
    plan = []
    for k in torch.randperm(slots, generator=generator).tolist():
        digits = int(torch.randint(1000, 10000, (), generator=generator))
        plan.append(Slot(style, random_flaw(generator) if bad[k] else None,
                         f"SN {digits}" if labels else None))
    return Belt(plan, generator, resolution, period)


def parser() -> OneLineParser:
    """The options of the command."""
    p = option_parser("minilora.belts", __doc__, "--out data/belts --kind line --labels")
    add = p.add_argument
    add("--out", type=Path, metavar="FOLDER", help="without it, a demonstration")
    add("--videos", type=positive_int, metavar="N", default=2, help="number of videos")
    add("--kind", choices=("mixed", "line"), default="mixed", help="several products, or one")
    add("--labels", action="store_true", help="show serial numbers, with --kind line")
    add("--slots", type=whole_number(2, 10_000), metavar="N", default=12,
        help="slots per belt, 5 seconds each")
    add("--frame-rate", "--rate", type=whole_number(1, 240), metavar="N", default=10,
        help="frames per second")
    add("--resolution", type=whole_number(32, 4096), metavar="N", default=224,
        help="side of the picture, pixels")
    add("--seed", type=seed_value, metavar="N", default=1, help="of all random draws")
    return p


def demo() -> None:
    """What passes on a belt with four slots, and how the picture changes while a part passes."""
    belt = product_belt(0, "nut", slots=4, labels=True, resolution=64)
    print(f"{belt.seconds:.0f} s of belt")
    for p in belt.passes():
        print(f"{p.start:5.2f} to {p.end:5.2f} s: {p.label}, {' '.join(p.words)} {p.class_name}, "
              f"{p.flaw or 'good'}")
    grey = [np.asarray(belt.picture(t).convert("L")).std() for t in (0, 1.25, 2.5, 3.75, 5)]
    print("standard deviation of grey values:", "  ".join(f"{v:.0f}" for v in grey),
          "(empty, entering, centred, leaving, empty)")


def main() -> None:
    """The command: write videos and truth.json, or print the demonstration."""
    options = parser().parse_args()
    if options.out is None:
        return demo()
    if options.labels and options.kind != "line":
        raise ValueError("--labels: serial numbers are on belts with one product; pass --kind line")
    with atomic_folder(options.out, "belts", BELT_FILES) as staging:
        write_belts(staging, options)


def write_belts(folder: Path, options: argparse.Namespace) -> None:
    """Write the videos and truth.json into a folder."""
    truth = {}
    for k in range(options.videos):
        config = {"slots": options.slots, "seed": options.seed, "resolution": options.resolution}
        families = SEEN_FAMILIES + UNSEEN_CLASSES
        belt = mixed_belt(k, **config) if options.kind == "mixed" else product_belt(
            k, families[k % len(families)], labels=options.labels, **config)
        path = folder / f"belt-{k:03d}.mp4"
        with atomic_write(path) as file:
            save_video(file, belt.frames(options.frame_rate), options.frame_rate)
        truth[path.name] = [vars(p) for p in belt.passes()]
        print(f"{shown(options.out / path.name)}: {belt.seconds:.0f} s, "
              f"{len(truth[path.name])} parts, "
              f"{sum(p['flaw'] is not None for p in truth[path.name])} damaged", flush=True)
    write_json(folder / "truth.json", truth)


if __name__ == "__main__":
    demo()
