"""The options of `python -m minilora.pretrain`; reading them back from the log of a training.

Claim: the first line of a log holds the whole command, so a training can be repeated from its log.

Left out: the training itself (pretrain/train.py).
"""
import argparse
import shlex
from pathlib import Path

from minilora.clip import CLIPConfig
from minilora.io.cli import (finite_number, option_parser, positive_int, seed_value, whole,
                             whole_number)
from minilora.io.files import sha256_of
from minilora.io.text import shown
from minilora.pretrain.batches import MINI
from minilora.pretrain.log import SOURCES, read_log
from minilora.pretrain.objective import LOSSES

# Options that may change when a training is resumed: they do not change a step.  This holds for
# --steps and --minutes as long as the learning rate is constant.
RESUMABLE_OPTIONS = ("out", "every", "save_every", "measure_every", "stop", "workers", "check",
                     "products", "steps", "minutes")
DESCRIPTION = ("Train the embedded model on drawn scenes with captions, and on photographs with a "
               "teacher.")


def parser(tower: CLIPConfig = MINI) -> argparse.ArgumentParser:
    """The options of the command; tower: gives the defaults of --layers and --width."""
    p, share = option_parser("minilora.pretrain", DESCRIPTION), finite_number(0, 1)
    p.may_be_empty, processes = ("--views",), whole_number(0, 1000)
    p.add_argument("--check", metavar="LOG",
                   help="repeat the first 50 steps of a log and compare the losses")
    output = p.add_argument_group("output").add_argument
    output("--out", default="mini-clip.safetensors",
           help="file for the weights; the log is written next to it")
    output("--every", type=positive_int, default=20, help="steps between two progress lines")
    output("--save-every", type=positive_int, default=200, help="steps between two resume points")
    output("--measure-every", type=whole, default=500,
           help="steps between two evaluations on held-out pictures")
    output("--products", metavar="FOLDER",
           help="products in MVTec AD's layout; their plain-memory AUROC goes into the log")
    photographs = p.add_argument_group("photographs").add_argument
    photographs("--photos", metavar="FOLDER",
                help="folder of folders of photographs; a folder's name is the class name")
    photographs("--teacher", metavar="FILE", help=".npz file of a MobileNetV2")
    photographs("--views", metavar="FOLDER", default="data/photo-views",
                help="folder for crops and teacher targets, can be deleted; '': run the teacher "
                     "at every step")
    photographs("--crops", type=positive_int, default=3, help="fixed crops of each photograph")
    photographs("--live", action="store_true",
                help="draw a new crop at every step and run the teacher on it; for a GPU")
    photographs("--grids", action="store_true",
                help="with --live: another size and aspect ratio at each step")
    photographs("--photo-share", type=share, default=0.67, help="share of photographs in a batch")
    training = p.add_argument_group("training").add_argument
    training("--start", metavar="WEIGHTS", help="weights to start from, instead of random numbers")
    training("--layers", type=whole_number(1, 1000), default=tower.vision_layers,
             help="blocks of the image tower")
    width = whole_number(64, 2**16)
    training("--width", type=width, default=tower.vision_width, help="width of the tower")
    training("--steps", type=positive_int, default=7000,
             help="number of steps; may be changed when a training is resumed")
    training("--full", type=share, default=0.03,
             help="share of the steps, at the end, that use whole pictures")
    training("--minutes", type=finite_number(0, 1e6), default=0.0,
             help="as many steps as fit into this time; needs --full 0 or 1")
    training("--stop", type=whole, default=0,
             help="stop after this step without changing the schedule; 0: run to the end")
    training("--batch", type=whole_number(1, 10**5), default=128, help="pictures per step")
    training("--fresh", type=whole, default=16,
             help="new scenes per step; 0: the whole buffer is drawn before the first step")
    training("--buffer", type=positive_int, default=16384, help="scenes in the buffer, 150 kB each")
    training("--rate", type=finite_number(0, 10), default=6e-4, help="peak learning rate")
    training("--seed", type=seed_value, default=1,
             help="seed of weights, captions, crops and order")
    for name, weight in zip(LOSSES, (1.0, 2.0, 10.0, 1.0, 5.0)):
        training(f"--{name}", type=finite_number(0, 1e6), default=weight,
                 help="weight of this loss")
    machine = p.add_argument_group("machine").add_argument
    machine("--device", default="cpu", help="cpu or cuda")
    machine("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of autocast")
    machine("--workers", type=processes, default=2, help="processes that draw scenes")
    machine("--ahead", type=processes, default=0, help="processes that prepare steps; for a GPU")
    machine("--threads", type=whole_number(1, 1000), default=2,
            help="threads of the training process; the result depends on them")
    return p


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError, before any work, if options contradict each other or name no folder."""
    for option in ("photos", "products"):
        folder = getattr(options, option)
        if folder and not Path(folder).is_dir():
            raise ValueError(f"--{option} {shown(folder)}: no such folder; correct the path")
    if options.teacher and not Path(options.teacher).is_file():
        raise ValueError(f"--teacher {shown(options.teacher)}: no such file; correct the path")
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
