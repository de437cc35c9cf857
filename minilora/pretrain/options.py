"""The options of `python -m minilora.pretrain`; reading them back from the log of a training.

Claim: the first line of a log holds the whole command, so a training can be repeated from its log.

    --steps, --minutes, --stop   --stop ends early without changing the learning rate's schedule
    --photos, --teacher          needed together; the teacher's features are the targets
    --views                      crops and targets are stored there and can be deleted; with '' the
                                 teacher runs at every step, with --live on a new crop each time
    --full                       share of the steps, at the end, that use whole pictures; --live
                                 needs 1, --minutes 0 or 1
    --fresh, --ahead             --ahead needs --fresh 0: all scenes are drawn before the first step
    --threads                    the result depends on them

Left out: the training itself (pretrain/train.py).
"""
import argparse
import shlex
from pathlib import Path

from minilora.clip import CLIPConfig
from minilora.io.cli import (device_name, finite_number, non_negative_int, option_parser,
                             positive_int, seed_value, whole_number)
from minilora.io.files import sha256_of
from minilora.io.parser import OneLineParser
from minilora.io.text import shown
from minilora.pretrain.batches import MINI
from minilora.pretrain.log import SOURCES, read_log
from minilora.pretrain.objective import LOSSES

# Options that may change when a training is resumed: they do not change a step.  This holds for
# --steps and --minutes as long as the learning rate is constant.
RESUMABLE_OPTIONS = ("out", "every", "save_steps", "measure_every", "stop", "workers", "check",
                     "products", "steps", "minutes")
DESCRIPTION = "Train the embedded model on drawn scenes, and on photographs with a teacher."
LOSS_WEIGHTS = (1.0, 2.0, 10.0, 1.0, 5.0)


def parser(tower: CLIPConfig = MINI) -> OneLineParser:
    """The options of the command; tower: gives the defaults of --layers and --width."""
    p = option_parser("minilora.pretrain", DESCRIPTION, "--steps 1000 --out mini.safetensors")
    p.may_be_empty, share, processes = ("--views",), finite_number(0, 1), whole_number(0, 1000)
    add, rare = p.add_argument, p.rare.add_argument
    add("--out", metavar="FILE", default="mini-clip.safetensors", help="its log is beside it")
    add("--steps", metavar="N", type=positive_int, default=7000, help="training steps")
    add("--batch", metavar="N", type=whole_number(1, 10**5), default=128, help="pictures per step")
    add("--rate", metavar="R", type=finite_number(0, 10), default=6e-4, help="peak learning rate")
    add("--start", metavar="FILE", help="weights to start from, not random numbers")
    add("--photos", metavar="FOLDER", help="photographs in folders; a folder is a class")
    add("--teacher", metavar="FILE", help=".npz file of a MobileNetV2, for --photos")
    add("--check", metavar="LOG", help="repeat the first 50 steps and compare the losses")
    add("--device", metavar="NAME", default="auto", type=device_of_log, help="auto, cuda, mps, cpu")
    add("--seed", metavar="N", type=seed_value, default=1, help="of all randomness")

    rare("--every", metavar="N", type=positive_int, default=20, help="steps: progress line")
    rare("--save-steps", "--save-every", metavar="N", type=positive_int, default=200,
         help="steps: resume point")
    rare("--measure-every", metavar="N", type=non_negative_int, default=500,
         help="steps: held-out pictures")
    rare("--products", metavar="FOLDER", help="measure AUROC on these (layout of MVTec AD)")
    rare("--views", metavar="FOLDER", default="data/photo-views", help="store; '': none")
    rare("--crops", metavar="N", type=positive_int, default=3, help="per photograph")
    rare("--live", action="store_true", help="new crops at every step; for a GPU")
    rare("--grids", action="store_true", help="with --live: sizes and aspect ratios vary")
    rare("--photo-share", metavar="P", type=share, default=0.67, help="photographs in a batch")
    rare("--layers", metavar="N", type=whole_number(1, 1000), default=tower.vision_layers,
         help="blocks of the image tower")
    rare("--width", metavar="N", type=whole_number(64, 2**16), default=tower.vision_width,
         help="of the image tower")
    rare("--full", metavar="P", type=share, default=0.03, help="last steps use whole pictures")
    rare("--minutes", metavar="N", type=finite_number(0, 1e6), default=0.0,
         help="in place of --steps")
    rare("--stop", metavar="N", type=non_negative_int, default=0,
         help="stop after this step; 0: at the end")
    rare("--fresh", metavar="N", type=non_negative_int, default=16,
         help="new scenes per step; 0: all at first")
    rare("--buffer", metavar="N", type=positive_int, default=16384, help="scenes kept, 150 kB each")
    rare(f"--{LOSSES[0]}", metavar="WEIGHT", type=finite_number(0, 1e6), default=LOSS_WEIGHTS[0],
         help=f"and --{' --'.join(LOSSES[1:])}")
    for name, weight in zip(LOSSES[1:], LOSS_WEIGHTS[1:]):
        rare(f"--{name}", type=finite_number(0, 1e6), default=weight, help=argparse.SUPPRESS)
    rare("--dtype", metavar="TYPE", default="bfloat16", choices=("bfloat16", "float32"),
         help="of autocast: bfloat16 or float32")
    rare("--workers", metavar="N", type=processes, default=2, help="processes that draw scenes")
    rare("--ahead", metavar="N", type=processes, default=0, help="processes that prepare steps")
    rare("--threads", metavar="N", type=whole_number(1, 1000), default=2, help="of the training")
    return p


def device_of_log(text: str) -> str:
    """A `type=` for argparse: the name of a device; "auto" is the fastest one here.  Others are
    checked by the command, since the parser also reads the logs of other machines."""
    return device_name(text) if text == "auto" else text


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError, before any work, if options contradict each other or name no folder."""
    for option in ("photos", "products"):
        folder = getattr(options, option)
        if folder and not Path(folder).is_dir():
            raise ValueError(f"--{option} {shown(folder)}: no such folder; correct the path")
    if options.teacher and not Path(options.teacher).is_file():
        raise ValueError(f"--teacher {shown(options.teacher)}: no such file; correct the path")
    for option in ("teacher", "live", "grids"):
        if getattr(options, option) and not options.photos:
            raise ValueError(f"--{option} is about photographs; pass --photos as well")
    if options.ahead and options.fresh:
        raise ValueError(f"--ahead {options.ahead} needs all scenes before the first step, found "
                         f"--fresh {options.fresh}; pass --fresh 0 as well")
    if options.minutes and 0 < options.full < 1:
        raise ValueError(f"--minutes does not fix when the last steps begin, found --full "
                         f"{options.full}; pass --full 0 or 1 as well")
    if not options.photos:
        return
    if not options.teacher:
        raise ValueError("--photos needs --teacher, the .npz file of a MobileNetV2 whose features "
                         "are the targets of the photographs; pass both")
    if options.grids and not options.live:
        raise ValueError("--grids needs --live, because stored pictures have one size; pass --live "
                         "as well")
    if options.live and options.full < 1:
        raise ValueError(f"--live uses whole pictures only, found --full {options.full}; "
                         "pass --full 1 as well")


def options_of_log(path: str | Path, given: argparse.Namespace) -> argparse.Namespace:
    """The options of the command in a log's first line, with the files and the device of `given`.

    Raises ValueError if a file that the training used is not given, or is another one.
    """
    head, _ = read_log(path)
    options = parser().parse_args(shlex.split(head[0].split("minilora.pretrain", 1)[1]))
    missing = [name for name in SOURCES if getattr(options, name) and not getattr(given, name)]
    if missing:
        raise ValueError(f"{path}: the training used more than drawn scenes; to repeat it, also "
                         "pass " + " and ".join(f"--{name} (then: {getattr(options, name)})"
                                                for name in missing))
    for name in SOURCES:
        setattr(options, name, getattr(given, name) if getattr(options, name) else None)
    if options.start and (found := sha256_of(options.start)) not in head[1]:
        raise ValueError(f"{options.start}: expected the weights that {path} names ({head[1]}), "
                         f"found sha256 {found[:12]}…; pass them with --start")
    options.views, options.products = given.views if Path(given.views).is_dir() else "", None
    options.minutes, options.device, options.ahead = 0.0, given.device, min(options.ahead, 1)
    if not options.fresh:
        options.workers = 0             # scenes are drawn when a batch needs them
    return options


def demo() -> None:
    """Read the command in a log and repeat it with the file that it names."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_text("# python -m minilora.pretrain --steps 7000 --batch 128 --seed 1\n"
                        "# started from random numbers\nstep,loss\n0,6.9\n", "utf-8")
        options = options_of_log(path, parser().parse_args([]))
        print(f"the log's command: {options.steps} steps of {options.batch} pictures, "
              f"seed {options.seed}")
    try:
        check_options(parser().parse_args(["--photos", "data/photos"]))
    except ValueError as error:
        print(f"ValueError: {error}")


if __name__ == "__main__":
    demo()
