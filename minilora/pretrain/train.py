"""Train the embedded model: on drawn scenes with captions, and on photographs with a teacher.

Claim: a tower that must distinguish "a flawless green nut" from "a green nut with a scratch" learns
features that show defects, also on products that were never drawn (Radford et al. 2021, CLIP).  A
tower that must also predict a teacher's features of photographs learns what real surfaces look
like.

    python -m minilora.pretrain --out mini-clip.safetensors      scenes only
    python -m minilora.pretrain --photos FOLDER --teacher FILE --out mini-clip.safetensors
    python -m minilora.pretrain --check LOG                     repeat the first 50 steps

An interrupted training continues when the same command is run again.  The inputs of a step come
from pretrain/step_inputs.py, its losses from pretrain/objective.py, the learning rate from
pretrain/schedule.py, the evaluation from pretrain/held_out.py.

Left out: training on several machines.
"""
import argparse
import glob
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minilora.bpe import Tokenizer, default_tokenizer
from minilora.checkpoint.weights import check_saved_name, load_clip, save_official
from minilora.clip import CLIP, CLIPConfig
from minilora.io.cli import checked_device, device_text
from minilora.io.derived_name import derived_stem
from minilora.io.files import digest_of
from minilora.io.progress import per_second
from minilora.io.resume import ResumePoint
from minilora.io.transaction import RESUME_FILE, atomic_folder
from minilora.pretrain import distillation, held_out
from minilora.pretrain.batches import MINI, Buffer
from minilora.pretrain.captions import CLASS_NAMES
from minilora.pretrain.grow import grown
from minilora.pretrain.log import log_header, read_log, write_log
from minilora.pretrain.objective import LOSSES, losses_of
from minilora.pretrain.options import RESUMABLE_OPTIONS, check_options, options_of_log, parser
from minilora.pretrain.schedule import fitting_steps, learning_rate, optimiser_for
from minilora.pretrain.step_inputs import StepInputs, initial_scenes, open_photographs
from minilora.pretrain.target_cache import Photographs


def tower_of(options: argparse.Namespace) -> CLIPConfig:
    """The shape of the model.  Raises ValueError for a width that is no multiple of a head's."""
    return replace(MINI, vision_layers=options.layers, vision_width=options.width)


def initial_model(options: argparse.Namespace,
                  generator: torch.Generator) -> tuple[CLIP, distillation.Heads]:
    """The CLIP and the heads before the first step: random, or grown from --start."""
    config = tower_of(options)
    clip = CLIP(config).initialise(generator)
    if options.start:
        clip = grown(load_clip(options.start)[0], config)
    clip.requires_grad_(True)
    heads = distillation.Heads(options.width, options.layers)
    return clip.to(options.device), heads.to(options.device)


def pretrain(options: argparse.Namespace, report: Callable[[str], None] = print,
             resume: ResumePoint | None = None) -> tuple[CLIP, list[dict]]:
    """Train, or continue from the point in `resume`.  Returns (clip, log), one dict per step.

    report: receives the lines of progress.  Raises ValueError for options that contradict each
    other.
    """
    check_options(options)
    tokenizer, photographs = default_tokenizer(), open_photographs(options, report)
    class_names = CLASS_NAMES + (photographs.class_names if photographs else [])
    generator = torch.Generator().manual_seed(options.seed)
    clip, heads = initial_model(options, generator)
    model = nn.ModuleDict({"clip": clip, "heads": heads})
    optimiser = optimiser_for([clip] + [heads] * bool(photographs), options.rate)
    weights = list(model.state_dict().values())
    log = resume.restore(weights, optimiser, generator) if resume else []
    first = len(log)
    if first:
        report(f"continues at step {first}; drawing the scenes of the buffer again")
    buffer = Buffer(options.buffer, options.fresh, initial_scenes(options), first, options.steps,
                    options.workers)
    inputs = StepInputs(buffer, photographs, tokenizer, class_names, options)
    ahead = inputs.ahead(first) if options.ahead else None
    begun, earlier, step = time.time(), log[-1]["seconds"] if log else 0.0, first
    while step < min(options.steps, options.stop or options.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        batch = next(ahead) if ahead else inputs.read(step, generator)
        losses = losses_of(clip, heads, batch, photographs, generator, options)
        loss = sum(getattr(options, name) * value for name, value in losses.items())
        update(model, optimiser, loss)
        log.append({"step": step, "loss": loss.item(),
                    **{name: value.item() for name, value in losses.items()},
                    "scale": clip.logit_scale.exp().item(),
                    "seconds": earlier + time.time() - begun})
        step += 1
        options.steps = fitting_steps(options, step, log[-1]["seconds"])
        last = step == min(options.steps, options.stop or options.steps)
        if (step - 1) % options.every == 0 or last:
            report(progress(log[-1], per_second(step - first, time.time() - begun), options))
        if options.measure_every and (step % options.measure_every == 0 or last):
            measured = measure_held_out(clip, heads, tokenizer, photographs, options)
            report("held out: " + ", ".join(f"{name} {x:.3f}" for name, x in measured.items()))
            log[-1] |= measured
        if resume and step % options.save_steps == 0 and not last:
            resume.save(weights, optimiser, generator, log)
    return clip, log


def update(model: nn.ModuleDict, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step, with clipped gradients and a bounded temperature."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    model["clip"].logit_scale.data.clamp_(0, math.log(100))     # CLIP, section 2.5


def progress(row: dict, rate: float, options: argparse.Namespace) -> str:
    """One line about a step.  row: of the log;  rate: steps per second."""
    terms = ", ".join(f"{name} {row[name]:.3f}" for name in LOSSES if name in row)
    return (f"step {row['step']:5d}/{options.steps}  loss {row['loss']:.3f}: {terms}  "
            f"{rate * options.batch:.0f} pictures/s  "
            f"{(options.steps - row['step'] - 1) / rate / 60:.0f} min left")


def measure_held_out(clip: CLIP, heads: distillation.Heads, tokenizer: Tokenizer,
                     photographs: Photographs | None,
                     options: argparse.Namespace) -> dict[str, float]:
    """{column of the log: number} of the evaluations in pretrain/held_out.py."""
    measured = held_out.measure_scenes(clip, tokenizer, options.device)
    if photographs:
        measured |= held_out.measure_photographs(clip, heads, tokenizer, photographs,
                                                 options.device)
    if options.products:
        states = distillation.memory_states(options.layers)
        products = held_out.measure_products(clip.visual, options.products, states)
        measured |= {f"memory_{name}": value for name, value in products.items()}
    return measured


def check_log(path: str | Path, count: int, given: argparse.Namespace,
              report: Callable[[str], None] = print) -> float:
    """Repeat the first `count` steps of a log.  Returns the largest difference of a loss.

    The command in the log's first line is run again, with the same seed and settings; given:
    options with the photographs, the teacher and the starting weights, if the log used them.
    On the same machine losses agree to the last digit; another processor rounds differently.  If
    the log was made on another kind of device, only the losses that do not depend on the device's
    random numbers, nor on the signs of eigenvectors, are compared.
    """
    head, rows = read_log(path)
    options = options_of_log(path, given)
    options.stop, options.measure_every = count, 0
    names = ("loss",)
    if (", cuda," in head[2]) != options.device.startswith("cuda"):     # made on another device
        names = ("contrast", "locate", "relation")
        options.threads, options.dtype = given.threads, "float32"
    torch.set_num_threads(options.threads)
    _, log = pretrain(options, report)
    worst = max(abs(float(row[name]) - again[name]) for row, again in zip(rows, log)
                for name in names)
    report(f"first {len(log)} steps of {path}, {', '.join(names)}: largest difference {worst:.2g}")
    return worst


def main() -> None:
    """The command: train and write weights and log, or check a log."""
    options = parser(MINI).parse_args()
    checked_device(options.device)          # not in the parser, which reads logs of other machines
    if options.check:
        sys.exit(check_log(options.check, 50, options) > 0.02)
    check_saved_name(options.out)
    check_options(options)
    tower_of(options)
    if options.start:
        load_clip(options.start)            # a file that cannot be read ends the command here
    torch.set_num_threads(options.threads)
    print(f"device   {device_text(options.device)}")
    out = Path(options.out)
    names = out.name, f"{derived_stem(out.stem)}.log.csv"
    with atomic_folder(out.parent, f"pretrain-{derived_stem(out.stem)}", map(glob.escape, names),
                       [options.start] if options.start else []) as staging:
        resume = ResumePoint(staging / RESUME_FILE, digest_of(
            {k: v for k, v in vars(options).items() if k not in RESUMABLE_OPTIONS},
            torch.__version__), every=0)            # every --save-every steps
        clip, log = pretrain(options, lambda line: print(line, flush=True), resume)
        save_official(clip.cpu(), staging / out.name)
        scenes = held_out.measure_scenes(clip, default_tokenizer(), "cpu", 1024, options.workers)
        drawn = initial_scenes(options) + options.fresh * len(log)
        head = log_header(options, log[-1]["seconds"], drawn)
        write_log(staging / names[1], log, head + [
            f"held-out scenes (1,024): zero-shot accuracy over {len(CLASS_NAMES)} class "
            f"names {scenes['accuracy']:.4f}, damaged against flawless AUROC "
            f"{scenes['auroc']:.4f}"])
