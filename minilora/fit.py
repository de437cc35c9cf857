"""Fit a detector to a few good pictures of a product, score test pictures, write a run folder.

    python -m minilora.fit --class bottle --shots 8
    python -m minilora.fit --class bottle --shots 8 --data FOLDER      layout of MVTec AD or VisA
    python -m minilora.fit --class all --shots 8                       one class after another
    python -m minilora.fit --good FOLDER                               your own good pictures

This module has the options only.  runs/run_class.py runs one product, runs/run_all.py several.
"""
import argparse
import shlex
import sys
from pathlib import Path

from minilora.checkpoint.weights import add_activation_option
from minilora.config import LIMITS, DetectorConfig
from minilora.data import own_and_visa
from minilora.data.bit_depth import bits_option
from minilora.data.decoding import megapixel_option
from minilora.data.mvtec import parse_shots
from minilora.io.cli import (ERROR_STATUS, device_name, finite_number, option_parser, run_command,
                             seed_value, whole_number)
from minilora.io.derived_name import derived_stem
from minilora.lora import TARGETS
from minilora.runs import run_all, run_class

DEFAULT_CLASS = "bottle"


def parser() -> argparse.ArgumentParser:
    d = DetectorConfig()
    count = {name: whole_number(*LIMITS[name])
             for name in ("resolution", "steps", "batch", "rank", "blocks")}
    p = option_parser("minilora.fit", __doc__, "for example: python -m minilora.fit --good FOLDER "
                      "--shots 8; exit status: 0 done, 1 one of several classes failed, 2 an "
                      "error, or some of the data could not be looked at")
    data = p.add_argument_group("data").add_argument
    data("--class", dest="names", nargs="+", metavar="NAME", type=run_class.class_folder,
         help=f"class folders of the data, or all (default: {DEFAULT_CLASS}); with --good: the "
              "product's name")
    data("--shots", default="8", help="number of good pictures to learn from; 0: none; or all")
    data("--data", help="data folder (default: $MINILORA_DATA, then data/mvtec, then embedded "
                        "scenes)")
    data("--good", metavar="DIR", help="folder of your own good pictures, instead of --data")
    data("--test", metavar="DIR", help="with --good: folder of test pictures; its folders are "
                                       "labels (good, others)")
    data("--seed", type=seed_value, default=d.seed,
         help="seed of the shots and of all other randomness")
    data("--out", help="run folder (default: runs/<class>-<shots>shot-seed<k>)")
    data("--force", action="store_true", help="with several classes: repeat finished runs")
    data("--save-every", type=finite_number(0, 1e9), default=10.0, metavar="SECONDS",
         help="seconds between points from which an interrupted training continues")
    model = p.add_argument_group("model").add_argument
    model("--model", help="name, file or folder of weights (default: ViT-B/16 if its file exists, "
                          "else the embedded mini-clip)")
    add_activation_option(model)
    model("--class-name", "--noun", type=run_class.prompt_name,
          help="name of the product in the prompts (default: the class)")
    model("--resolution", type=count["resolution"], default=d.resolution,
          help="pixels of the shorter side; 0: the model's own")
    bits_option(p)
    megapixel_option(p)
    model("--square", action="store_true", help="squeeze pictures into squares")
    model("--device", default="cpu", type=device_name, help="cpu, cuda, …")
    model("--no-rotations", "--no-turns", dest="rotations", action="store_false",
          help="do not add rotated shots to the memory: a rotated product is a defect")
    fit = p.add_argument_group("adaptation").add_argument
    fit("--adapter", metavar="FOLDER", type=Path,
        help="use this LoRA (adapter_model.safetensors and adapter_config.json of PEFT or of a "
             "run), and train none")
    fit("--steps", type=count["steps"], default=d.steps, help="training steps; 0: no adaptation")
    fit("--batch", type=count["batch"], default=d.batch, help="pictures per step")
    fit("--rate", type=finite_number(*LIMITS["rate"]), default=d.rate, help="peak learning rate")
    fit("--rank", type=count["rank"], default=d.rank, help="rank r of LoRA")
    fit("--alpha", type=finite_number(*LIMITS["alpha"]), default=d.alpha,
        help="LoRA's alpha; the scale is alpha / r")
    fit("--targets", nargs="+", default=list(d.targets), choices=TARGETS,
        help="attention projections with LoRA")
    fit("--blocks", type=count["blocks"], default=d.blocks,
        help="number of last blocks with LoRA; 0: the last third")
    return p


def parse(arguments: list[str]) -> argparse.Namespace:
    """Checks and completes the options; `name` is None if there are several classes."""
    options = parser().parse_args(arguments)
    options.command = f"python -m minilora.fit {shlex.join(arguments)}"
    if options.test and not options.good:
        raise ValueError("--test needs --good; with --data, the data folder has test pictures")
    if options.good and options.data:
        raise ValueError("--good and --data exclude each other; give one of them")
    if options.good and (len(options.names or []) > 1 or options.names == ["all"]):
        raise ValueError("--good is one product; give at most one --class, as its name")
    options.shots = parse_shots(options.shots)
    if options.good:
        options.names = options.names or [own_and_visa.product_name(options.good)]
    options.names = options.names or [DEFAULT_CLASS]
    single = len(options.names) == 1 and (options.names != ["all"] or options.good)
    options.name = options.names[0] if single else None
    ending = f"{options.shots}shot-seed{options.seed}"
    default = f"runs/{derived_stem(options.name)}-{ending}" if single else f"runs/{ending}"
    options.out = Path(options.out or default)
    options.scenes = options.out.parent / "scenes"
    options.config = config_of(options)
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
    if options.name is None:
        return run_all.run_all(options)
    return ERROR_STATUS if run_class.run_class(options)["skipped"] else 0


if __name__ == "__main__":
    run_command("minilora.fit", main)
