"""The main job: adapt to a few good pictures of a product, judge its test pictures, write a folder.

    python -m minilora.fit --class bottle --shots 8
    python -m minilora.fit --class bottle --shots 8 --data FOLDER      MVTec AD's or VisA's layout
    python -m minilora.fit --class all --shots 8                       one after another
    python -m minilora.fit --good FOLDER                               pictures of one's own

Here are the options; runs/run_class.py does one product, runs/run_all.py several.
"""
import sys
from pathlib import Path

from minilora.config import DetectorConfig
from minilora.data import own_and_visa
from minilora.data.mvtec import parse_shots
from minilora.io.cli import command, option_parser
from minilora.runs import run_all, run_class

DEFAULT = "bottle"


def parser():
    d = DetectorConfig()
    p = option_parser("minilora.fit", __doc__, "for example: python -m minilora.fit --good FOLDER "
                      "--shots 8; exit status: 0 done, 1 an error or a class that failed")
    data = p.add_argument_group("data").add_argument
    data("--class", dest="names", nargs="+", metavar="NAME", default=None,
         help=f"products, folders of the data; all: every one; else {DEFAULT}; with --good: "
              "the product's name")
    data("--shots", default="8", help="good pictures to learn from; 0: zero-shot; all: every one")
    data("--data", help="folder in MVTec AD's or VisA's layout; else $MINILORA_DATA, data/mvtec, "
                        "or the embedded scenes")
    data("--good", metavar="DIR", help="instead of --data: a folder of your own good pictures")
    data("--test", metavar="DIR", help="with --good: a folder of pictures to judge; folders in it "
                                       "(good, others) are labels")
    data("--seed", type=int, default=d.seed, help="draw of the shots, and all that is random")
    data("--out", help="run folder; else runs/<class>-<shots>shot-seed<k>")
    data("--force", action="store_true", help="with several classes: repeat finished ones")
    data("--save-every", type=float, default=10.0, metavar="SECONDS",
         help="between two points from which the same command goes on if it is stopped")
    model = p.add_argument_group("model").add_argument
    model("--model", help="official name or checkpoint file; else ViT-B/16 if its file is there, "
                          "else the embedded mini-clip")
    model("--class-name", "--noun", help="what the prompts call the product; else the class")
    model("--resolution", type=int, default=d.resolution,
          help="of the shorter side, pixels; 0: the model's own")
    model("--square", action="store_true", help="squeeze pictures into squares")
    model("--device", default="cpu", help="cpu, cuda, …")
    model("--no-rotations", "--no-turns", dest="rotations", action="store_false",
          help="products lie as in the shots, and one that is turned is a defect")
    fit = p.add_argument_group("adaptation").add_argument
    fit("--steps", type=int, default=d.steps, help="training steps; 0: no adaptation")
    fit("--batch", type=int, default=d.batch, help="pictures a step")
    fit("--rate", type=float, default=d.rate, help="peak learning rate")
    fit("--rank", type=int, default=d.rank, help="rank r of LoRA")
    fit("--alpha", type=float, default=d.alpha, help="LoRA's alpha; the scale is alpha / r")
    fit("--targets", nargs="+", default=list(d.targets), choices=("q", "k", "v", "out"),
        help="attention projections that get LoRA")
    fit("--blocks", type=int, default=d.blocks,
        help="LoRA in the last n blocks; 0: the last third")
    return p


def parse(arguments):
    """Options, with `name` and `out` of a single product; name is None for several."""
    options = parser().parse_args(arguments)
    options.command = " ".join(["python -m minilora.fit", *arguments])
    if options.test and not options.good:
        raise ValueError("--test goes with --good; with --data the test pictures are its own")
    if options.good and options.data:
        raise ValueError("--good and --data exclude each other; give one of them")
    if options.good and (len(options.names or []) > 1 or options.names == ["all"]):
        raise ValueError("--good is one product; give one --class at most, as its name")
    options.shots = parse_shots(options.shots)
    if options.good:
        options.names = options.names or [own_and_visa.product_name(options.good)]
    options.names = options.names or [DEFAULT]
    single = len(options.names) == 1 and (options.names != ["all"] or options.good)
    options.name = options.names[0] if single else None
    ending = f"{options.shots}shot-seed{options.seed}"
    options.out = Path(options.out or f"runs/{options.name}-{ending}" if single else
                       options.out or f"runs/{ending}")
    options.scenes = options.out.parent / "scenes"
    options.config = config_of(options)
    return options


def config_of(o):
    """The settings that the options ask for; the others keep their defaults."""
    return DetectorConfig(resolution=o.resolution, square=o.square, steps=o.steps, batch=o.batch,
                    rate=o.rate, rank=o.rank, alpha=o.alpha, targets=tuple(o.targets),
                    blocks=o.blocks, rotations=o.rotations, seed=o.seed)


def main():
    options = parse(sys.argv[1:])
    if options.name is None:
        return 1 if run_all.run_all(options) else 0
    run_class.run_class(options)
    return 0


if __name__ == "__main__":
    command("minilora.fit", main)
