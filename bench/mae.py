"""Masked autoencoder: what masking patches saves, how many to mask, and the effect of the width.

    python -m bench.mae --part step         ViT-B shape: encoder on visible patches, or on all
    python -m bench.mae --part ratio        25, 50, 75, 90 % masked, trained on scenes; probe
    python -m bench.mae --part width        three widths: probe before and after training
    python -m bench.mae --part transfer --data FOLDER      photographs: probe, fine-tuning, map

Times: the compared steps run in turn.  Memory: fresh processes (measure.py).  For ViT-L and ViT-H
both are predicted: memory by counting (formulas.py), time from ViT-B's by the multiplications.
Left out: the paper's training recipe and its figures for ImageNet, COCO and ADE20K.
"""
import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench import formulas, measure
from bench.accuracy import cell
from bench.tables import write_parts
from minilora.baselines.scene_pretraining import HELD_OUT, labelled_scenes
from minilora.io.files import digest_of, load_tensors, save_tensors
from minilora.mae import run as mae_run
from minilora.mae import transfer
from minilora.mae.detector import train_mae
from minilora.mae.model import MAE_B_16, MAE_H_14, MAE_L_16, MAE_MINI, MAEConfig, MaskedAutoencoder
from minilora.mae.patches import random_masking
from minilora.pretrain.captions import CLASS_NAMES
from minilora.training_steps import TrainConfig

BATCH = 8
WAYS = {"visible patches alone": False, "all, with mask tokens": True}
RATIOS = (0.25, 0.5, 0.75, 0.9)
WIDTHS = (96, 192, 384)
SCENES = replace(MAE_MINI, resolution=112, patch=8)     # scenes at half size: 196 patches
TRAIN_SCENES, TEST_SCENES = 1500, 500
SIZES = {"ViT-B/16": MAE_B_16, "ViT-L/16": MAE_L_16, "ViT-H/14": MAE_H_14}


class Everything(MaskedAutoencoder):
    """Variant: mask tokens go through the encoder, as in BEiT, then through the same decoder."""

    def __init__(self, config):
        super().__init__(config)
        self.token = torch.nn.Parameter(torch.zeros(config.width))

    def forward(self, pixels, noise):
        _, hidden = random_masking(noise, self.config.mask_ratio)
        tokens = self.encoder.tokens(pixels)
        places = self.encoder.positions[1:]
        tokens = torch.where(hidden[..., None], self.token + places, tokens)
        x = self.narrow(self.encoder.encode_tokens(tokens)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))[:, 1:], hidden


# ---- a step -------------------------------------------------------------------------------------

def stepper(everything: bool, batch: int) -> Callable[[], None]:
    """A function that makes one training step in ViT-B's shape."""
    torch.manual_seed(0)
    mae = (Everything if everything else MaskedAutoencoder)(MAE_B_16)
    optimiser = torch.optim.AdamW(mae.parameters(), 1e-4)
    pixels, generator = torch.randn(batch, 3, 224, 224), torch.Generator().manual_seed(0)

    def step():
        optimiser.zero_grad()
        mae.loss(pixels, torch.rand(batch, 196, generator=generator)).backward()
        optimiser.step()
    return step


def step_memory(everything: bool, batch: int, threads: int) -> int:
    """Peak of two steps above the weights, in bytes.  Runs in a fresh process."""
    torch.set_num_threads(threads)
    step = stepper(everything, batch)
    return measure.peak(lambda: (step(), step()))["allocated"]


def activations(config: MAEConfig, batch: int, everything: bool = False) -> int:
    """Bytes that autograd keeps in one step, by counting: blocks (bench/formulas.py), input and
    output of each tower's last norm, the pixels, and the difference from the target."""
    patches = (config.resolution // config.patch) ** 2
    seen = patches if everything else int(patches * (1 - config.mask_ratio))
    total = 2 * 4 * batch * 3 * config.resolution ** 2
    for tokens, width, layers in ((1 + seen, config.width, config.layers),
                                  (1 + patches, config.decoder_width, config.decoder_layers)):
        shape = formulas.Shape(batch, tokens, width, False, False, False)
        total += layers * formulas.block_kept(shape, whole=True) + 2 * 4 * batch * tokens * width
    return total


def multiplications(config: MAEConfig, everything: bool = False) -> int:
    """Of the forward pass of one picture: per token and block 12 W^2, and 2 L W for attention."""
    patches = (config.resolution // config.patch) ** 2
    seen = patches if everything else int(patches * (1 - config.mask_ratio))
    return sum(layers * tokens * (12 * width ** 2 + 2 * tokens * width)
               for tokens, width, layers in (
                   (1 + seen, config.width, config.layers),
                   (1 + patches, config.decoder_width, config.decoder_layers)))


def predicted_bytes(config: MAEConfig, batch: int, everything: bool = False) -> int:
    """Bytes above the weights: AdamW's two moments, and the larger of activations and gradients.
    In the backward pass the gradients of each block replace its activations."""
    with torch.device("meta"):
        count = sum(p.numel() for p in MaskedAutoencoder(config).parameters())
    return 2 * 4 * count + max(activations(config, batch, everything), 4 * count)


def step_tables(options: argparse.Namespace) -> tuple[list, list]:
    memory = {way: measure.fresh(step_memory, everything, BATCH, options.threads, returning=True)
              for way, everything in WAYS.items()}
    times = measure.side_by_side({way: stepper(everything, BATCH)
                                  for way, everything in WAYS.items()}, options.rounds)
    visible, whole = WAYS
    rows = []
    for way, everything in WAYS.items():
        said = predicted_bytes(MAE_B_16, BATCH, everything)
        rows.append([way, f"{statistics.median(times[way]):.3f}",
                     f"{min(times[way]):.3f} to {max(times[way]):.3f}", f"{memory[way] / 1e6:,.0f}",
                     f"{said / 1e6:,.0f}", f"{multiplications(MAE_B_16, everything) / 1e9:.1f}"])
    faster = measure.ratio(times[whole], times[visible])
    line = (f"with mask tokens in the encoder a step takes {faster[0]:.2f} x the time "
            f"({faster[1]:.2f} to {faster[2]:.2f}, in turn) and "
            f"{memory[whole] / memory[visible]:.2f} x the memory above the weights")
    second = statistics.median(times[visible]) / multiplications(MAE_B_16)
    sizes = [[name, f"{predicted_bytes(c, BATCH) / 1e6:,.0f}",
              f"{multiplications(c) / 1e9:.1f}", f"{second * multiplications(c):.2f}"]
             for name, c in SIZES.items()]
    header = ("encoder on", "s a step", "lowest to highest", "MB measured", "MB predicted",
              "10^9 multiplications a picture, forward")
    return [(f"one step, ViT-B/16 shape, batch {BATCH}, 75 % hidden", header, rows),
            (f"larger ones, predicted, batch {BATCH}, visible patches alone",
             ("size", "MB above the weights", "10^9 multiplications", "s a step"), sizes)], [line]


# ---- trained on scenes --------------------------------------------------------------------------

def cached_scenes(path: Path, resolution: int) -> dict[str, Tensor]:
    """{"pictures", "nouns"} to train on and {"new", "truth"} held out, drawn once.

    "nouns" and "truth": numbers of the class names.
    """
    if not path.exists():
        pictures, class_names, _ = labelled_scenes(0, TRAIN_SCENES, resolution)
        new, truth, _ = labelled_scenes(HELD_OUT, TEST_SCENES, resolution)
        save_tensors(path, {"pictures": pictures, "nouns": class_names, "new": new, "truth": truth})
    return load_tensors(path)


def probe_accuracy(config: MAEConfig, scenes: dict[str, Tensor], steps: int, seed: int) -> float:
    """Accuracy of a linear probe over class names on held-out scenes, after `steps` of training."""
    generator = torch.Generator().manual_seed(seed)
    mae = MaskedAutoencoder(config).initialise(generator)
    pictures = scenes["pictures"].float() / 255
    if steps:
        train_mae(mae, pictures, TrainConfig(steps, 32, 1e-3), generator)
    head = transfer.probe(mae.eval().encoder, pictures, scenes["nouns"], len(CLASS_NAMES),
                          generator)
    odds = transfer.class_probabilities(mae.encoder, head, scenes["new"].float() / 255)
    return (odds.argmax(1) == scenes["truth"]).float().mean().item()


def cached_accuracy(options: argparse.Namespace, config: MAEConfig, steps: int) -> float:
    """`probe_accuracy` in a fresh process, or from its file."""
    key = digest_of(repr(config), steps, options.seed, torch.__version__)
    path = options.out / "mae" / f"scenes-{config.resolution}-{TRAIN_SCENES}-{TEST_SCENES}.pt"
    cached_scenes(path, config.resolution)
    return cell(options.out / "mae" / f"{key}.json", key, lambda: measure.fresh(
        accuracy_in_process, vars(config), str(path), steps, options.seed, options.threads))


def accuracy_in_process(config: dict, path: str, steps: int, seed: int, threads: int) -> float:
    torch.set_num_threads(threads)
    return probe_accuracy(replace(SCENES, **config), load_tensors(path), steps, seed)


def ratio_tables(options: argparse.Namespace) -> tuple[list, list]:
    rows = []
    for ratio in RATIOS:
        config = replace(SCENES, mask_ratio=ratio)
        rows.append([f"{ratio:.0%}", f"{100 * cached_accuracy(options, config, options.steps):.1f}",
                     f"{multiplications(config) / 1e9:.2f}"])
    rows.append(["no training", f"{100 * cached_accuracy(options, SCENES, 0):.1f}", "--"])
    return [(f"linear probe over {len(CLASS_NAMES)} class names of held-out scenes, "
             f"{options.steps} steps",
             ("hidden", "accuracy, %", "10^9 multiplications a picture, forward"), rows)], []


def width_tables(options: argparse.Namespace) -> tuple[list, list]:
    rows = []
    for width in WIDTHS:
        config = replace(SCENES, width=width, heads=max(1, width // 64),
                         decoder_width=max(64, width // 2), decoder_heads=2)
        before, after = (cached_accuracy(options, config, steps) for steps in (0, options.steps))
        rows.append([str(width), f"{100 * before:.1f}", f"{100 * after:.1f}",
                     f"{100 * (after - before):+.1f}"])
    return [(f"linear probe over {len(CLASS_NAMES)} class names of held-out scenes, "
             f"{options.steps} steps",
             ("width", "untrained, %", "trained, %", "gain"), rows)], []


# ---- photographs --------------------------------------------------------------------------------

def transferred(data: str, name: str, steps: int, seed: int, threads: int, out: str) -> dict:
    """Results of `python -m minilora.mae --probe --finetune`.  Runs in a fresh process."""
    torch.set_num_threads(threads)
    options = mae_run.parser().parse_args([
        "--data", data, "--class", name, "--steps", str(steps), "--seed", str(seed), "--probe",
        "--finetune", "--out", out])
    found = mae_run.run_mae(options, lambda line: None)
    return {k: found.get(k) for k in ("probe", "finetune", "segmentation", "reconstruction")}


def transfer_tables(options: argparse.Namespace) -> tuple[list, list]:
    rows = []
    for name in options.names:
        for steps in (0, options.steps):
            key = digest_of("transfer", name, steps, options.seed)
            found = cell(options.out / "mae" / f"{key}.json", key, lambda: measure.fresh(
                transferred, str(options.data), name, steps, options.seed, options.threads,
                str(options.out / "mae" / f"{name}-{steps}")))
            percent = lambda part, key: "--" if not found[part] or found[part][key] is None else (
                f"{100 * found[part][key]:.1f}")
            rows.append([name, str(steps), percent("probe", "accuracy"),
                         percent("probe", "image_auroc"), percent("finetune", "accuracy"),
                         percent("finetune", "image_auroc"), percent("segmentation", "pixel_auroc"),
                         percent("reconstruction", "image_auroc")])
    header = ("class", "masked steps", "probe, kinds right %", "AUROC %", "fine-tuned, kinds right "
              "%", "AUROC %", "segmentation, pixel AUROC %", "reconstruction, AUROC %")
    return [("labels after masked training on the good training pictures", header, rows)], []


PARTS = {"step": step_tables, "ratio": ratio_tables, "width": width_tables,
         "transfer": transfer_tables}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.mae", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--part", nargs="+", default=["step", "ratio", "width"], choices=PARTS)
    p.add_argument("--data", type=Path, help="folder in MVTec AD's layout, for transfer")
    p.add_argument("--class", dest="names", nargs="+",
                   default=["bottle", "cookie", "magnetic_tile"])
    p.add_argument("--steps", type=int, default=250, help="of masked pretraining")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"))
    p.add_argument("--name", default="mae")
    return p


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    write_parts(options, PARTS, [measure.conditions(), f"seed {options.seed}"])


if __name__ == "__main__":
    main()
