"""Fit a detector to a few good pictures of a product, score test pictures, write a run folder.

    python -m minilora.fit --class bottle --shots 8
    python -m minilora.fit --class bottle --shots 8 --data FOLDER      layout of MVTec AD or VisA
    python -m minilora.fit --class all --shots 8                       one class after another
    python -m minilora.fit --good FOLDER                               your own good pictures
    python -m minilora.fit --update RUN PICTURES...                    add good pictures to a run

This module has the options only.  runs/run_class.py runs one product, runs/run_all.py several,
runs/update_run.py adds pictures.
"""
import argparse
import sys
from pathlib import Path

from minilora.checkpoint.weights import add_activation_option
from minilora.config import LIMITS, DetectorConfig
from minilora.data import own_and_visa
from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.mvtec import parse_shots
from minilora.io.cli import (ERROR_STATUS, device_name, finite_number, option_parser, run_command,
                             seed_value, shell_command, whole_number)
from minilora.io.derived_name import derived_stem
from minilora.io.parser import OneLineParser
from minilora.lora import TARGETS
from minilora.runs import run_all, run_class, update_run
from minilora.runs.product_name import choose_name, class_folder, prompt_name

DEFAULT_CLASS, DEFAULT_SHOTS = "bottle", "8"
UPDATE_OPTIONS = ("update", "model", "device", "out", "max_megapixels", "debug")


def parser() -> OneLineParser:
    """The options; those that most people never need are in the group `rare`."""
    d = DetectorConfig()
    count = {name: whole_number(*LIMITS[name])
             for name in ("resolution", "steps", "batch", "rank", "blocks")}
    p = option_parser("minilora.fit", __doc__, "--good FOLDER --shots 8", "exit status: 0 done, "
                      "1 one of several classes failed, 2 an error or unread data")
    add, rare = p.add_argument, p.rare.add_argument
    add("--good", metavar="FOLDER", help="your own good pictures")
    add("--test", metavar="FOLDER", help="with --good: test pictures, in folders: good, others")
    add("--data", metavar="FOLDER", help="data set (default: $MINILORA_DATA, data/mvtec, drawn)")
    add("--class", dest="names", nargs="+", metavar="NAME", type=class_folder,
        help=f"classes of the data, or all (default: {DEFAULT_CLASS})")
    add("--class-name", "--noun", metavar="WORDS", type=prompt_name,
        help="name in the prompts (default: the class)")
    add("--shots", metavar="N",
        help=f"good pictures to use (default: {DEFAULT_SHOTS}; --good: all)")
    add("--out", metavar="FOLDER", help="run folder (default: runs/<class>-<shots>shot-...)")
    add("--model", metavar="WEIGHTS", help="name or file (default: ViT-B/16, else mini-clip)")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")
    add("--seed", metavar="N", type=seed_value, default=d.seed, help="of all randomness")
    add("--force", action="store_true", help="with several classes: repeat finished ones")

    rare("--update", nargs="+", metavar="RUN",
         help="RUN PICTURES: add good pictures to a run")
    rare("--steps", metavar="N", type=count["steps"], default=d.steps,
         help="training steps; 0: no training")
    rare("--batch", metavar="N", type=count["batch"], default=d.batch, help="pictures per step")
    rare("--rate", metavar="R", type=finite_number(*LIMITS["rate"]), default=d.rate,
         help="peak learning rate")
    rare("--rank", metavar="N", type=count["rank"], default=d.rank, help="rank r of LoRA")
    rare("--alpha", metavar="A", type=finite_number(*LIMITS["alpha"]), default=d.alpha,
         help="LoRA's scale is alpha / r")
    rare("--targets", nargs="+", metavar="P", default=list(d.targets), choices=TARGETS,
         help="projections with LoRA (default: q k v out)")
    rare("--blocks", metavar="N", type=count["blocks"], default=d.blocks,
         help="last blocks with LoRA; 0: a third")
    rare("--adapter", metavar="FOLDER", type=Path, help="use this LoRA (PEFT's layout); train none")
    add_activation_option(rare)
    rare("--resolution", metavar="N", type=count["resolution"], default=d.resolution,
         help="pixels of the shorter side; 0: model's")
    rare("--square", action="store_true", help="squeeze pictures into squares")
    rare("--no-rotations", "--no-turns", dest="rotations", action="store_false",
         help="a rotated product is a defect")
    bits_option(rare)
    megapixel_option(rare)
    rare("--save-every", metavar="SECONDS", type=finite_number(0, 1e9), default=10.0,
         help="between resume points")
    return p


def parse(arguments: list[str]) -> argparse.Namespace:
    """Checks and completes the options; `name` is None if there are several classes."""
    options = parser().parse_args(arguments)
    options.command = shell_command("fit", *arguments)
    options.arguments = list(arguments)
    if options.update:
        return check_update(options)
    if options.test and not options.good:
        raise ValueError("--test needs --good; with --data, the data folder has test pictures")
    if options.good and options.data:
        raise ValueError("--good and --data exclude each other; give one of them")
    if options.good and (len(options.names or []) > 1 or options.names == ["all"]):
        raise ValueError("--good is one product; give at most one --class, as its name")
    options.shots = parse_shots(options.shots or ("all" if options.good else DEFAULT_SHOTS))
    options.name_source = "as given"
    if options.good:
        folder = own_and_visa.product_name(options.good)
        options.class_name = options.class_name or next(iter(options.names or []), None)
        if not options.class_name:
            options.class_name, options.name_source = choose_name(folder)
            options.arguments += ["--class-name", options.class_name]
        options.names = options.names or [folder]
    options.names = options.names or [DEFAULT_CLASS]
    single = len(options.names) == 1 and (options.names != ["all"] or options.good)
    options.name = options.names[0] if single else None
    ending = f"{options.shots}shot-seed{options.seed}"
    default = f"runs/{derived_stem(options.name)}-{ending}" if single else f"runs/{ending}"
    options.out = Path(options.out or default)
    options.scenes = options.out.parent / "scenes"
    options.config = config_of(options)
    return options


def check_update(options: argparse.Namespace) -> argparse.Namespace:
    """The options of --update: `run` and `pictures`.  Raises ValueError for others."""
    other = [name for name, value in vars(options).items() if name not in (
        *UPDATE_OPTIONS, "command", "arguments") and value != parser().get_default(name)]
    if other:
        raise ValueError(f"--update keeps the settings of the run, and --{other[0]} was given; "
                         "leave it out, or fit again")
    options.run, *options.pictures = options.update
    if not options.pictures:
        raise ValueError(f"--update {options.run}: expected good pictures or folders behind the "
                         "run, found none; give some")
    return options


def config_of(o: argparse.Namespace) -> DetectorConfig:
    """The hyperparameters given as options; all others keep their defaults."""
    steps = 0 if o.adapter else o.steps
    return DetectorConfig(resolution=o.resolution, square=o.square, bits=o.bits, steps=steps,
                          batch=o.batch, rate=o.rate, rank=o.rank, alpha=o.alpha,
                          targets=tuple(o.targets), blocks=o.blocks, rotations=o.rotations,
                          seed=o.seed)


def main() -> int:
    options = parse(sys.argv[1:])
    if options.update:
        return update_run.update_run(options)
    if options.name is None:
        return run_all.run_all(options)
    return ERROR_STATUS if run_class.run_class(options)["skipped"] else 0


if __name__ == "__main__":
    run_command("minilora.fit", main)
