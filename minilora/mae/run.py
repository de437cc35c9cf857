"""The command `python -m minilora.mae`: masked pretraining, reconstructions, transfer to labels.

    mae.safetensors   the model, for --weights
    grid.png          rows of original, masked and reconstructed picture
    metrics.json      losses; metrics of the reconstruction error as an anomaly score; results of
                      --probe (with segmentation) and --finetune

Symbols: N pictures, R resolution.  Left out: learning rates per layer, several devices.
"""
import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minilora import __version__
from minilora.anomaly_map import to_pixels
from minilora.auroc import auroc
from minilora.data import splits
from minilora.data.decoding import megapixel_option
from minilora.data.images import CLIP_MEAN, CLIP_STD, load_squares, normalise, to_pil
from minilora.data.mvtec import Dataset, Sample, few_shot, parse_shots
from minilora.data.samples import load_masks, mask_summary
from minilora.io.cli import (ERROR_STATUS, device_name, device_text, finite_number,
                             non_negative_int, option_parser, seed_value, whole_number)
from minilora.io.derived_name import derived_stem
from minilora.io.files import atomic_write, digest_of, sha256_of, write_json
from minilora.io.parser import OneLineParser
from minilora.io.progress import ProgressLine, print_line
from minilora.io.resume import ResumePoint
from minilora.io.text import shown
from minilora.io.transaction import RESUME_FILE, atomic_folder
from minilora.mae import checkpoint as mae_checkpoint
from minilora.mae import model, transfer
from minilora.mae.detector import anomaly_maps_and_scores, train_mae
from minilora.mae.model import MAE_B_16, MAE_H_14, MAE_L_16, MAE_MINI, MAEConfig, MaskedAutoencoder
from minilora.mae.patches import patchify, random_masking, unpatchify
from minilora.report import results
from minilora.runs.fingerprints import files_of
from minilora.runs.product_name import class_folder
from minilora.runs.run_class import open_data
from minilora.runs.run_report import print_inputs
from minilora.training_steps import TrainConfig

CONFIGS = {"mini": MAE_MINI, "ViT-B/16": MAE_B_16, "ViT-L/16": MAE_L_16, "ViT-H/14": MAE_H_14}
MAE_FILES = ("mae.safetensors", "grid.png", "metrics.json")
GRID_ROWS = 6                   # at most so many pictures in grid.png


def parser() -> OneLineParser:
    """Options of the command."""
    p = option_parser("minilora.mae", __doc__, "--class bottle --steps 200")
    add, rare = p.add_argument, p.rare.add_argument
    add("--data", metavar="FOLDER", help="layout of MVTec AD (default: as minilora fit)")
    add("--class", dest="name", default="bottle", metavar="NAME", type=class_folder, help="product")
    add("--shots", metavar="N", default="all", help="good training pictures, or all")
    add("--out", metavar="FOLDER", type=Path, help="for results (default: runs/mae-<class>)")
    add("--architecture", "--size", dest="size", default="mini", metavar="NAME", choices=CONFIGS,
        help=", ".join(CONFIGS))
    add("--weights", metavar="FILE", type=Path, help="an official file, or mae.safetensors")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")
    add("--steps", metavar="N", type=non_negative_int, default=1000,
        help="training steps; 0: no training")
    add("--probe", action="store_true", help="train a linear layer on frozen features")
    add("--finetune", action="store_true", help="train the whole encoder with labels")
    add("--seed", metavar="N", type=seed_value, default=1, help="of all randomness")
    rare("--mask-ratio", metavar="P", type=finite_number(0.01, 1), default=0.75,
         help="share of hidden patches")
    rare("--plain-pixels", action="store_true", help="reconstruct pixels, not normalised patches")
    rare("--batch", metavar="N", type=whole_number(1, 10**5), default=16, help="pictures per step")
    rare("--rate", metavar="R", type=finite_number(0, 10), default=1e-3, help="peak learning rate")
    rare("--save-every", metavar="SECONDS", type=finite_number(0, 1e9), default=10.0,
         help="between resume points")
    megapixel_option(rare)
    return p


def build_mae(options: argparse.Namespace, generator: torch.Generator) -> MaskedAutoencoder:
    """A new MaskedAutoencoder, or one from a file; a decoder that the file lacks is new."""
    if not options.weights:
        config = replace(CONFIGS[options.size], mask_ratio=options.mask_ratio,
                         normalise_pixels=not options.plain_pixels)
        return MaskedAutoencoder(config).initialise(generator)
    loaded = mae_checkpoint.load_mae(options.weights)
    config = replace(loaded.config, mask_ratio=options.mask_ratio,
                     normalise_pixels=not options.plain_pixels)
    mae = MaskedAutoencoder(config).initialise(generator)
    part = mae if isinstance(loaded, MaskedAutoencoder) else mae.encoder
    part.load_state_dict(loaded.state_dict())
    return mae


def mae_fingerprint(options: argparse.Namespace, shots: list[Sample], config: MAEConfig) -> str:
    """Hash of everything that the training depends on."""
    weights = sha256_of(options.weights) if options.weights else None
    return digest_of(__version__, asdict(config), weights, options.steps, options.batch,
                     options.rate, options.seed, options.device, [sha256_of(s.path) for s in shots],
                     torch.__version__, torch.get_num_threads())


@torch.no_grad()
def reconstruction_grid(mae: MaskedAutoencoder, pixels: Tensor, seed: int = 0) -> Image.Image:
    """One row per picture: original, masked, reconstructed.  pixels: (N, 3, R, R) in [0, 1]."""
    side = mae.config.resolution // mae.config.patch
    noise = torch.rand(len(pixels), side * side, generator=torch.Generator().manual_seed(seed))
    _, hidden = random_masking(noise, mae.config.mask_ratio)
    grey = torch.where(hidden[..., None], torch.tensor(0.5), patchify(pixels, mae.config.patch))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    reconstructed = mae.reconstruct(normalise(pixels), noise) * std + mean
    columns = pixels, unpatchify(grey, mae.config.patch), reconstructed.clamp(0, 1)
    rows = [torch.cat([c[k] for c in columns], dim=2) for k in range(len(pixels))]
    return to_pil(torch.cat(rows, dim=1))


def evaluate_detector(mae: MaskedAutoencoder, data: Dataset, resolution: int) -> dict[str, Any]:
    """Metrics of the reconstruction error as an anomaly score, on all test pictures."""
    pixels = load_squares([s.path for s in data.test], resolution)
    masks = load_masks(data.test, [pixels.shape[2:]] * len(pixels))
    maps, scores = anomaly_maps_and_scores(mae, pixels)
    truth = torch.tensor([s.label for s in data.test])
    return results.row_metrics(scores, maps, truth, masks)


def evaluate_transfer(mae: MaskedAutoencoder, data: Dataset, options: argparse.Namespace,
                      resolution: int) -> dict[str, Any]:
    """Train on labelled pictures and test on others (data/splits.py).

    Returns {"labels": {kind: training pictures}, "judged": number of test pictures, "probe" or
    "finetune": {"accuracy", "image_auroc"}, "segmentation": {"pixel_auroc"}}.
    """
    chosen = splits.split(data, "all", options.seed)
    pixels = [load_squares([s.path for s in part], resolution)
              for part in (chosen.train, chosen.test)]
    targets, truth = chosen.targets(chosen.train), chosen.targets(chosen.test)
    metrics = {"labels": dict(zip(chosen.kinds, chosen.counts())), "judged": len(truth)}
    for name, train in (("probe", transfer.probe), ("finetune", transfer.finetune)):
        if getattr(options, name):
            encoder = copy.deepcopy(mae.encoder)
            generator = torch.Generator().manual_seed(options.seed)
            head = train(encoder, pixels[0], targets, len(chosen.kinds), generator)
            probabilities = transfer.class_probabilities(encoder, head, pixels[1])
            metrics[name] = {
                "accuracy": (probabilities.argmax(1) == truth).float().mean().item(),
                "image_auroc": auroc(1 - probabilities[:, 0], truth > 0)}
    masks = [load_masks(part, [(resolution, resolution)] * len(part))
             for part in (chosen.train, chosen.test) if options.probe]
    if masks and all(m is not None for m in masks):
        kept = [[k for k, mask in enumerate(part) if mask is not None] for part in masks]
        masks = [torch.stack([part[k] for k in ks]) for part, ks in zip(masks, kept)]
        pixels = [part[ks] for part, ks in zip(pixels, kept)]   # without those that lack a mask
        head = transfer.segment(mae.encoder, pixels[0], masks[0],
                                torch.Generator().manual_seed(options.seed))
        probabilities = transfer.patch_probability(mae.encoder, head, pixels[1])
        maps = to_pixels(probabilities, (resolution, resolution), 4 * resolution / 224)
        metrics["segmentation"] = {"pixel_auroc": auroc(maps.flatten(), masks[1].flatten())}
    return metrics


def run_mae(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, evaluate and write the results.  Returns the content of metrics.json.

    say: prints a line.
    """
    options.shots = parse_shots(options.shots)
    if options.shots == 0:
        raise ValueError("--shots 0: expected at least 1 good picture to train on, or 'all'")
    options.out = options.out or Path(f"runs/mae-{derived_stem(options.name)}")
    options.good, options.scenes = None, options.out.parent / "scenes"
    generator, begun = torch.Generator().manual_seed(options.seed), time.time()
    mae = build_mae(options, generator).to(options.device)
    data, data_name = open_data(options)
    both_labels = bool(data.test) and {s.label for s in data.test} == {0, 1}
    if (options.probe or options.finetune) and not both_labels:
        raise ValueError("--probe and --finetune need good and defective test pictures; "
                         f"{shown(data.root)} has not both")
    shots = few_shot(data.train, options.shots, options.seed)
    resolution = mae.config.resolution
    pictures = load_squares([s.path for s in shots], resolution)
    inputs = [*files_of(data), *([options.weights] if options.weights else [])]
    with atomic_folder(options.out, "mae", MAE_FILES, inputs) as staging:
        say(f"data     {data_name}: {shown(data.root)}, class {shown(data.name)}, {len(shots)} "
            "good pictures")
        masks = mask_summary(data.test)
        print_inputs(data, masks, say)
        say(f"model    {sum(p.numel() for p in mae.parameters()):,} parameters, "
            f"{mae.config.mask_ratio:.0%} of the patches hidden")
        say(f"device   {device_text(options.device)}")
        fingerprint = mae_fingerprint(options, shots, mae.config)
        resume = ResumePoint(staging / RESUME_FILE, fingerprint, options.save_every)
        done = len(saved["losses"]) if (saved := resume.load()) else 0
        config = TrainConfig(options.steps, options.batch, options.rate)
        losses = train_mae(mae, pictures, config, generator, ProgressLine(options.steps, done),
                           resume) if options.steps else []
        mae = mae.cpu().eval()
        mae_checkpoint.save_mae(mae, staging / "mae.safetensors")
        metrics = {"class": data.name, "data": data_name, "shots": len(shots), "masks": masks,
                   "skipped": len(data.skipped),
                   "config": asdict(mae.config), "losses": losses}
        if both_labels:
            metrics["reconstruction"] = evaluate_detector(mae, data, resolution)
        if options.probe or options.finetune:
            metrics |= evaluate_transfer(mae, data, options, resolution)
        chosen = (data.test or shots)[::max(1, len(data.test) // GRID_ROWS)][:GRID_ROWS]
        examples = load_squares([s.path for s in chosen], resolution)
        with atomic_write(staging / "grid.png") as file:
            reconstruction_grid(mae, examples).save(file, "PNG")
        metrics["seconds"] = time.time() - begun
        write_json(staging / "metrics.json", metrics)
    print_mae_results(metrics, say)
    say(f"written  {shown(options.out)}: {', '.join(MAE_FILES)} ({metrics['seconds']:.0f} s)")
    return metrics


def print_mae_results(metrics: dict[str, Any], say: Callable[[str], None]) -> None:
    """The results in a few lines."""
    if "reconstruction" in metrics:
        row = metrics["reconstruction"]
        say("reconstruction error as anomaly score: image AUROC "
            f"{results.percent(row['image_auroc'])}, pixel AUROC "
            f"{results.percent(row['pixel_auroc'])}")
    for name in ("probe", "finetune"):
        if name in metrics:
            say(f"{name}: accuracy {metrics[name]['accuracy']:.1%} over {len(metrics['labels'])} "
                f"classes, image AUROC {results.percent(metrics[name]['image_auroc'])}, on "
                f"{metrics['judged']} test pictures")
    if "segmentation" in metrics:
        say("segmentation by one linear layer on patch tokens: pixel AUROC "
            f"{results.percent(metrics['segmentation']['pixel_auroc'])}")


def demo() -> None:
    """The sizes of a new model."""
    print("sizes:", ", ".join(f"{name} {c.width} wide, {c.layers} deep"
                              for name, c in CONFIGS.items()))


def main() -> int | None:
    """Run the command; without any option, the demo of mae/model.py."""
    if len(sys.argv) == 1:
        return model.demo()
    metrics = run_mae(parser().parse_args(), print_line)
    return ERROR_STATUS if metrics["skipped"] else 0


if __name__ == "__main__":
    demo()
