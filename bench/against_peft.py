"""Three ways to adapt to 8 good pictures: total time, its parts, peak memory.

    python -m bench.against_peft
    python -m bench.against_peft --steps 10 --pool 32 --rounds 1

    minilora           the frozen blocks before the first LoRA layer run once for the pool of
                       training pictures; their output is reused in every step (train.py)
    peft, from pixels  peft's LoRA layers and a plain loop: each step runs the whole tower on its
                       pictures; the pool of augmented pictures is made once, as in the other ways
    peft, reuse        peft's LoRA layers in minilora's loop

All three train a tower of ViT-B/16's shape with the same random weights, initial LoRA, pictures,
batches, loss and optimiser.  So their steps are the same up to rounding: first losses that differ
by more than TOLERANCE raise an error.  All three use our tower, so only LoRA and the loop are
compared; bench.speed compares the tower with transformers'.
Every number comes from a fresh process, with the ways in turn: times of the fit and its parts, and
in separate processes the peak above weights and pictures.  Ratios are relative to "peft, from
pixels".  Left out: peft's dropout, a data loader that augments anew in each epoch.
"""
import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure, peers
from bench.tables import write
from minilora.bpe import default_tokenizer
from minilora.clip import CLIP, VIT_B_16, CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import PromptLearner
from minilora.data.images import normalise
from minilora.io.cli import device_name
from minilora.lora import add_lora
from minilora.train import adaptation_loss, synthetic_batches, training_pool
from minilora.training_steps import run_training
from minilora.vit import default_value_value_blocks

OURS, PLAIN, REUSE = WAYS = ("minilora", "peft, from pixels", "peft, reuse")
SMALL = CLIPConfig(embed=32, resolution=32, vision_layers=3, vision_width=64, patch=16,
                   text_width=64, text_layers=1)
SHOTS = 8
COMPARED = 5            # first steps; later, rounding errors accumulate and AdamW divides them by
TOLERANCE = 1e-3        # small gradients
MB = 1e6


def prepared(way: str, clip_config: CLIPConfig, config: DetectorConfig,
             device: str = "cpu") -> tuple[CLIP, PromptLearner, Tensor]:
    """(CLIP with LoRA, prompts, pictures), with the same values for each way."""
    generator = torch.Generator().manual_seed(config.seed)
    clip = CLIP(clip_config).initialise(generator).requires_grad_(False).to(device)
    layers = clip_config.vision_layers
    blocks = range(layers - default_value_value_blocks(layers), layers)
    if way == OURS:
        add_lora(clip.visual, config.targets, blocks, config.rank, config.alpha)
    else:
        peers.add_peft_lora(clip.visual, config.targets, blocks, config.rank, config.alpha)
    for A in peers.trained(clip.visual)[::2]:                   # A, B, A, B, ...; each B is 0
        bound = A.shape[1] ** -0.5
        A.data.copy_(torch.empty(A.shape).uniform_(-bound, bound, generator=generator))
    prompts = PromptLearner(clip, default_tokenizer(), "bottle", init=config.context,
                            n_ctx=len(default_tokenizer().encode(config.context)))
    side = clip_config.resolution
    return clip, prompts, torch.rand(SHOTS, 3, side, side, generator=generator)


def pixel_pool(visual, pictures, config, generator):
    """Normalised pixels (N, 3, R, R), and the defective share of each patch (N, P)."""
    pool = [(normalise(pixels), F.avg_pool2d(masks, visual.patch).flatten(1))
            for pixels, masks in synthetic_batches(pictures, config, generator)]
    return [torch.cat(column).to(visual.proj.device) for column in zip(*pool)]


def fit(way: str, clip: CLIP, prompts: PromptLearner, pictures: Tensor,
        config: DetectorConfig) -> dict:
    """{"pool", "steps": seconds, "kept": bytes of the pool, "losses": of each step}."""
    visual, pool, losses = clip.visual, [], []
    first = len(visual.blocks) - visual.n_value_value_blocks
    generator, device = torch.Generator().manual_seed(config.seed), visual.proj.device

    def fill():
        if way == PLAIN:
            pool.extend(pixel_pool(visual, pictures, config, generator))
        else:
            last = visual.n_value_value_blocks
            pool.extend(map(torch.stack, training_pool(visual, pictures, last, config, generator)))

    def loss_of(rows):
        inputs, coverage = (column[rows] for column in pool)
        if way == PLAIN:
            return adaptation_loss(clip, prompts, visual.embed(inputs), coverage, 0,
                                   config.loss_weights)
        return adaptation_loss(clip, prompts, inputs, coverage, first, config.loss_weights)

    def train():
        losses.extend(run_training(loss_of, [*peers.trained(visual), prompts.context], len(pool[0]),
                              config, generator))

    return {"pool": measure.seconds(fill, device), "steps": measure.seconds(train, device),
            "kept": sum(column.nbytes for column in pool), "losses": losses}


def config_of(steps: int, pool: int) -> DetectorConfig:
    return replace(DetectorConfig(), steps=steps, n_train_images=pool)


def timed(way: str, steps: int, pool: int, device: str, shape: tuple | None = None) -> dict:
    """Result of `fit`, in a fresh process.  shape: the values of a CLIPConfig."""
    clip_config, config = CLIPConfig(*shape) if shape else VIT_B_16, config_of(steps, pool)
    fit(way, *prepared(way, SMALL, config_of(2, 2), device), config_of(2, 2))   # first use
    return fit(way, *prepared(way, clip_config, config, device), config)


def peak_of(way: str, steps: int, pool: int, device: str, shape: tuple | None = None) -> int:
    """Peak above weights and pictures in bytes, in a fresh process."""
    clip_config, config = CLIPConfig(*shape) if shape else VIT_B_16, config_of(steps, pool)
    fit(way, *prepared(way, SMALL, config_of(2, 2), device), config_of(2, 2))
    parts = prepared(way, clip_config, config, device)
    return measure.peak(lambda: fit(way, *parts, config), device)["allocated"]


def largest_difference(losses: list[float], others: list[float]) -> float:
    """Largest relative difference of two loss curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def collect(rounds: int, steps: int, pool: int, device: str, say: Callable[[str], None],
            shape: tuple | None = None) -> tuple[dict[str, list], dict[str, int]]:
    """({way: [result of `fit` in each round]}, {way: peak}).

    Raises ValueError if the first losses differ.
    """
    found = {way: [] for way in WAYS}
    for round_ in range(rounds):
        for way in WAYS:
            done = measure.fresh(timed, way, steps, pool, device, shape)
            found[way].append(done)
            say(f"round {round_ + 1}  {way:18s} pool {done['pool']:.1f} s, steps "
                f"{done['steps']:.1f} s, loss {done['losses'][0]:.4f} to {done['losses'][-1]:.4f}")
            apart = largest_difference(*(losses[:COMPARED] for losses in (
                done["losses"], found[OURS][0]["losses"])))
            if not apart <= TOLERANCE:
                raise ValueError(f"{way}: expected the first losses of {OURS} to {TOLERANCE}, "
                                 f"found a difference of {apart}")
    return found, {way: measure.fresh(peak_of, way, min(steps, 3), pool, device, shape,
                                      returning=True) for way in WAYS}


def total_seconds(done: dict) -> float:
    """Seconds of a fit: making the pool and training."""
    return done["pool"] + done["steps"]


def table(found: dict[str, list], peaks: dict[str, int]) -> tuple:
    """(title, header, rows), all text."""
    header = ["way", "fit, s", "ratio (lowest to highest)", "pool, s", "steps, s",
              "peak above weights, MB", "ratio", "of it the pool, MB", "losses differ by"]
    rows, reference = [], found[PLAIN]
    for way, rounds in found.items():
        middle, low, high = measure.ratio(*([total_seconds(d) for d in part]
                                            for part in (rounds, reference)))
        seconds = [statistics.median(part) for part in zip(
            *((total_seconds(d), d["pool"], d["steps"]) for d in rounds))]
        rows.append([way, f"{seconds[0]:.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
                     f"{seconds[1]:.1f}", f"{seconds[2]:.1f}", f"{peaks[way] / MB:.0f}",
                     f"{peaks[way] / peaks[PLAIN]:.2f}", f"{rounds[0]['kept'] / MB:.0f}",
                     f"{largest_difference(rounds[0]['losses'], reference[0]['losses']):.0e}"])
    return "a whole adaptation", header, rows


def numbers(found: dict[str, list], peaks: dict[str, int]) -> tuple[tuple, list[tuple]]:
    """(header, rows) of the CSV file, one row for each round."""
    return ("way", "round", "pool_seconds", "steps_seconds", "peak_bytes", "pool_bytes",
            "last_loss"), [(way, round_, f"{d['pool']:.3f}", f"{d['steps']:.3f}", peaks[way],
                            d["kept"], repr(d["losses"][-1]))
                           for way, rounds in found.items() for round_, d in enumerate(rounds, 1)]


def main(arguments: list[str] | None = None, shape: tuple | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m bench.against_peft",
                                description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--steps", type=int, default=DetectorConfig().steps)
    p.add_argument("--pool", type=int, default=DetectorConfig().n_train_images,
                   help="training pictures")
    p.add_argument("--rounds", type=int, default=measure.ROUNDS)
    p.add_argument("--device", default="auto", type=device_name)
    p.add_argument("--out", type=Path, default=Path("runs/against-peft"))
    p.add_argument("--name", default="against-peft", help="of the tables: NAME.txt, .md, .csv")
    o = p.parse_args(arguments)
    found, peaks = collect(o.rounds, o.steps, o.pool, o.device,
                           lambda line: print(line, flush=True), shape)
    head = [measure.conditions(o.device, ("peft",))
            + f"; {SHOTS} shots, {o.pool} training pictures, {o.steps} steps of "
            f"{DetectorConfig().batch}, {o.rounds} rounds; peaks of {min(o.steps, 3)} steps: all "
            "steps need the same memory"]
    write(o.out, o.name, [table(found, peaks)], head, numbers(found, peaks))


if __name__ == "__main__":
    main()
