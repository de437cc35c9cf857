"""Masked autoencoder: what hiding patches saves, how many to hide, and what size is worth.

    python -m bench.mae --part step         ViT-B shape: encoder on visible patches, and on all
    python -m bench.mae --part ratio        25, 50, 75, 90 % hidden, trained on scenes, then a probe
    python -m bench.mae --part width        three widths, the same; what training adds to each
    python -m bench.mae --part transfer --data FOLDER      photographs: probe, fine-tuning, map

Times are of the same steps in turn, memory of fresh processes (measure.py).  For ViT-L and ViT-H
both are predicted: memory by counting (formulas.py), time by multiplications from ViT-B's.
Leaves out: the paper's recipe; its figures for ImageNet, COCO and ADE20K are the paper's.
"""
import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from bench import formulas, measure
from bench.accuracy import cell
from bench.tables import write_parts
from minilora.baselines.scene_pretraining import HELD_OUT, labelled_scenes
from minilora.io.files import digest_of, load_tensors, save_tensors
from minilora.mae import run as mae_run
from minilora.mae import transfer
from minilora.mae.detector import train_mae
from minilora.mae.model import (MAE_B_16, MAE_H_14, MAE_L_16, MAE_MINI, MaskedAutoencoder,
                                random_masking)
from minilora.pretrain.captions import CLASS_NAMES
from minilora.training_steps import TrainConfig

BATCH = 8
WAYS = {"visible patches alone": False, "all, with mask tokens": True}
RATIOS = (0.25, 0.5, 0.75, 0.9)
WIDTHS = (96, 192, 384)
SCENES = replace(MAE_MINI, resolution=112, patch=8)     # scenes at half size: 196 patches
LEARNED, NEW = 1500, 500        # scenes
SIZES = {"ViT-B/16": MAE_B_16, "ViT-L/16": MAE_L_16, "ViT-H/14": MAE_H_14}


class Everything(MaskedAutoencoder):
    """The other way: mask tokens go through the encoder, as in BEiT, and the same decoder."""

    def __init__(self, config):
        super().__init__(config)
        self.token = torch.nn.Parameter(torch.zeros(config.width))

    def forward(self, pixels, noise):
        _, hidden = random_masking(noise, self.config.mask_ratio)
        tokens = self.encoder.tokens(pixels)
        places = self.encoder.positions[1:]
        tokens = torch.where(hidden[..., None], self.token + places, tokens)
        x = self.narrow(self.encoder.blocks_of(tokens)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))[:, 1:], hidden


# ---- a step -------------------------------------------------------------------------------------

def stepper(everything, batch):
    """A function that makes one training step of ViT-B's shape."""
    torch.manual_seed(0)
    mae = (Everything if everything else MaskedAutoencoder)(MAE_B_16)
    optimiser = torch.optim.AdamW(mae.parameters(), 1e-4)
    pixels, generator = torch.randn(batch, 3, 224, 224), torch.Generator().manual_seed(0)

    def step():
        optimiser.zero_grad()
        mae.loss(pixels, torch.rand(batch, 196, generator=generator)).backward()
        optimiser.step()
    return step


def step_memory(everything, batch, threads):
    """Bytes above the weights of two steps, in a process of its own."""
    torch.set_num_threads(threads)
    step = stepper(everything, batch)
    return measure.peak(lambda: (step(), step()))["allocated"]


def activations(config, batch, everything=False):
    """Bytes that autograd keeps of one step, by counting: blocks (bench/formulas.py), input and
    output of each tower's last norm, the pixels, and the difference to the target."""
    patches = (config.resolution // config.patch) ** 2
    seen = patches if everything else int(patches * (1 - config.mask_ratio))
    total = 2 * 4 * batch * 3 * config.resolution ** 2
    for tokens, width, layers in ((1 + seen, config.width, config.layers),
                                  (1 + patches, config.decoder_width, config.decoder_layers)):
        shape = formulas.Shape(batch, tokens, width, False, False, False)
        total += layers * formulas.block_kept(shape, whole=True) + 2 * 4 * batch * tokens * width
    return total


def multiplications(config, everything=False):
    """Of one picture's forward pass: 12 W^2 a token and block, and attention's 2 L W."""
    patches = (config.resolution // config.patch) ** 2
    seen = patches if everything else int(patches * (1 - config.mask_ratio))
    return sum(layers * tokens * (12 * width ** 2 + 2 * tokens * width)
               for tokens, width, layers in (
                   (1 + seen, config.width, config.layers),
                   (1 + patches, config.decoder_width, config.decoder_layers)))


def predicted_bytes(config, batch, everything=False):
    """Above the weights: AdamW's two moments, and activations or gradients, whichever is more:
    going backwards, each block's gradients take the place of its activations."""
    with torch.device("meta"):
        count = sum(p.numel() for p in MaskedAutoencoder(config).parameters())
    return 2 * 4 * count + max(activations(config, batch, everything), 4 * count)


def step_tables(options):
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

def kept_scenes(path, resolution):
    """{"pictures", "nouns"} to learn from and {"new", "truth"} held out, drawn once."""
    if not path.exists():
        pictures, class_names, _ = labelled_scenes(0, LEARNED, resolution)
        new, truth, _ = labelled_scenes(HELD_OUT, NEW, resolution)
        save_tensors(path, {"pictures": pictures, "nouns": class_names, "new": new, "truth": truth})
    return load_tensors(path)


def probed(config, scenes, steps, seed):
    """Accuracy over nouns of held-out scenes by a linear probe, after so many steps."""
    generator = torch.Generator().manual_seed(seed)
    mae = MaskedAutoencoder(config).initialise(generator)
    pictures = scenes["pictures"].float() / 255
    if steps:
        train_mae(mae, pictures, TrainConfig(steps, 32, 1e-3), generator)
    head = transfer.probe(mae.eval().encoder, pictures, scenes["nouns"], len(CLASS_NAMES), generator)
    odds = transfer.classify(mae.encoder, head, scenes["new"].float() / 255)
    return (odds.argmax(1) == scenes["truth"]).float().mean().item()


def kept(options, config, steps):
    """`probed` in a fresh process, or from its file."""
    key = digest_of(repr(config), steps, options.seed, torch.__version__)
    path = options.out / "mae" / f"scenes-{config.resolution}-{LEARNED}-{NEW}.pt"
    kept_scenes(path, config.resolution)
    return cell(options.out / "mae" / f"{key}.json", key, lambda: measure.fresh(
        probed_in_process, vars(config), str(path), steps, options.seed, options.threads))


def probed_in_process(config, path, steps, seed, threads):
    torch.set_num_threads(threads)
    return probed(replace(SCENES, **config), load_tensors(path), steps, seed)


def ratio_tables(options):
    rows = []
    for ratio in RATIOS:
        config = replace(SCENES, mask_ratio=ratio)
        rows.append([f"{ratio:.0%}", f"{100 * kept(options, config, options.steps):.1f}",
                     f"{multiplications(config) / 1e9:.2f}"])
    rows.append(["no training", f"{100 * kept(options, SCENES, 0):.1f}", "--"])
    return [(f"linear probe over {len(CLASS_NAMES)} nouns of held-out scenes, {options.steps} steps",
             ("hidden", "accuracy, %", "10^9 multiplications a picture, forward"), rows)], []


def width_tables(options):
    rows = []
    for width in WIDTHS:
        config = replace(SCENES, width=width, heads=max(1, width // 64),
                         decoder_width=max(64, width // 2), decoder_heads=2)
        before, after = kept(options, config, 0), kept(options, config, options.steps)
        rows.append([str(width), f"{100 * before:.1f}", f"{100 * after:.1f}",
                     f"{100 * (after - before):+.1f}"])
    return [(f"linear probe over {len(CLASS_NAMES)} nouns of held-out scenes, {options.steps} steps",
             ("width", "untrained, %", "trained, %", "gain"), rows)], []


# ---- photographs --------------------------------------------------------------------------------

def transferred(data, name, steps, seed, threads, out):
    """What `python -m minilora.mae --probe --finetune` finds, in a process of its own."""
    torch.set_num_threads(threads)
    options = mae_run.parser().parse_args([
        "--data", data, "--class", name, "--steps", str(steps), "--seed", str(seed), "--probe",
        "--finetune", "--out", out])
    found = mae_run.run_mae(options, lambda line: None)
    return {k: found.get(k) for k in ("probe", "finetune", "segmentation", "reconstruction")}


def transfer_tables(options):
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


def parser():
    p = argparse.ArgumentParser(prog="python -m bench.mae", description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--part", nargs="+", default=["step", "ratio", "width"], choices=PARTS)
    p.add_argument("--data", type=Path, help="folder in MVTec AD's layout, for transfer")
    p.add_argument("--class", dest="names", nargs="+",
                   default=["bottle", "cookie", "magnetic_tile"])
    p.add_argument("--steps", type=int, default=250, help="of masked training")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, default=Path("runs/bench"))
    p.add_argument("--name", default="mae")
    return p


def main():
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    write_parts(options, PARTS, [measure.conditions(), f"seed {options.seed}"])


if __name__ == "__main__":
    main()
