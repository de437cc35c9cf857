"""Trains the embedded model: on drawn scenes with captions, and on photographs with a teacher.

Claim: a tower that must tell "a flawless green nut" from "a green nut with a scratch" learns
features that see defects, also on products that were never drawn (Radford et al. 2021, CLIP); one
that must also predict what a teacher sees in photographs learns what real surfaces look like.

    python -m minilora.pretrain --out weights/mini-clip.pt      scenes alone
    python -m minilora.pretrain --photos FOLDER --teacher FILE --out weights/mini-clip.pt
    python -m minilora.pretrain --check LOG      repeats the first 50 steps

A training that was interrupted goes on with the same command.  The losses are in pretrain/objective.py;
batches of scenes come from pretrain/batches.py, of photographs from pretrain/photographs.py; what is measured on the way is
in pretrain/held_out.py.  Leaves out: several machines.
"""

import math
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from minilora.bpe import default_tokenizer
from minilora.checkpoint.weights import load_clip, save_official
from minilora.clip import CLIP
from minilora.io.cli import option_parser
from minilora.io.files import digest_of, save_tensors, sha256_of
from minilora.io.resume import ResumePoint
from minilora.io.transaction import RESUME, whole_folder
from minilora.pretrain import distillation, held_out
from minilora.pretrain.batches import MINI, Buffer, low_priority
from minilora.pretrain.captions import CLASS_NAMES
from minilora.pretrain.grow import grown
from minilora.pretrain.log import SOURCES, head_of, read_log, write_log
from minilora.pretrain.objective import LOSSES, losses_of, prepare_step
from minilora.pretrain.photographs import Photographs, store
from minilora.synthetic.sampling import choose

# rows and columns of patches with --grids: the tower's own, rectangles up to 1 : 3, larger ones
GRIDS = ((14, 14), (14, 14), (12, 16), (16, 12), (14, 19), (19, 14), (10, 20), (20, 10), (14, 28),
         (28, 14), (10, 30), (30, 10), (18, 18), (21, 21), (14, 36), (36, 14), (28, 28))
COOLING = 0.3                   # share of the last steps, in which the rate falls
# these change nothing but the look; and while the rate is level, no step knows how many follow
FREE = ("out", "every", "save_every", "measure_every", "stop", "workers", "check", "products",
        "steps", "minutes")


def learning_rate(step, steps, peak, warmup=100, cooling=COOLING):
    """Linear warm-up, level, and in the last `cooling` of the steps linearly down to zero.

    While it is level, nothing depends on how many steps there will be, so that a training can be
    made longer or shorter (Hu et al. 2024, "MiniCPM", section 4, warm-up, stable, decay).
    """
    left = (steps - step) / max(1, cooling * steps)
    return peak * min(1.0, (step + 1) / warmup, left)


def in_full(step, steps, share):
    """Windows and half-size pictures first; what is seen at test time in the last steps."""
    return step >= (1 - share) * steps


def optimiser_for(modules, rate):
    """AdamW; matrices decay, biases, norms and the temperature do not."""
    parameters = [p for module in modules for p in module.parameters()]
    groups = [[p for p in parameters if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": p, "weight_decay": decay} for p, decay in zip(groups, (0.1, 0.0))]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def open_photographs(options, report=print):
    """The `Photographs` of the options, drawn and seen by the teacher if need be, or None."""
    if not options.photos:
        return None
    if not options.teacher:
        raise ValueError("--photos needs --teacher, the .npz file of a MobileNetV2, whose inner "
                         "results the photographs are labelled with; name both")
    if options.grids and not options.live:
        raise ValueError("--grids needs --live: what the teacher saw before has one size")
    if options.live and options.full < 1:
        raise ValueError(f"--live shows pictures in full alone, found --full {options.full}; "
                         "give --full 1 as well")
    photographs = Photographs(options.photos, options.teacher, options.crops, options.live,
                              options.device)
    if not options.views:
        return photographs
    return store(photographs, options.views, options.workers, report)


class Steps(Dataset):
    """What each step reads, from a generator of its own, so that processes can read ahead."""

    def __init__(self, buffer, photographs, tokenizer, class_names, options):
        self.buffer, self.photographs, self.options = buffer, photographs, options
        self.tokenizer, self.class_names = tokenizer, class_names

    def __getitem__(self, step):
        generator = torch.Generator().manual_seed((self.options.seed << 32) + step)
        return self.read(step, generator)

    def read(self, step, generator):
        """`objective.read` of a fresh batch."""
        full = in_full(step, self.options.steps, self.options.full)
        grid = choose(generator, GRIDS) if self.options.grids else None
        batches = batches_of(self.buffer, self.photographs, full, generator, self.options, grid)
        return prepare_step(*batches, self.tokenizer, self.class_names, full, generator, grid)

    def ahead(self, first):
        """From step `first` on, read by processes, without end: --minutes may ask for more."""
        loader = DataLoader(self, batch_size=None, sampler=range(first, 10**9),
                            num_workers=self.options.ahead, prefetch_factor=4,
                            worker_init_fn=low_priority, pin_memory=self.options.device != "cpu")
        return iter(loader)


def start(options, generator):
    """(CLIP, heads) before the first step: drawn from the seed, or grown from --start."""
    config = replace(MINI, vision_layers=options.layers, vision_width=options.width)
    clip = CLIP(config).initialise(generator)
    if options.start:
        clip = grown(load_clip(options.start)[0], config)
    clip.requires_grad_(True)
    heads = distillation.Heads(options.width, options.layers)
    return clip.to(options.device), heads.to(options.device)


def pretrain(options, report=print, resume=None):
    """Runs a training, or goes on with it.  Returns (clip, log), the log a list of a dict a step.

    unfinished: an `ResumePoint`, from which a training that was stopped goes on.
    """
    if options.ahead and options.fresh:
        raise ValueError(f"--ahead {options.ahead} needs all scenes before the first step, found "
                         f"--fresh {options.fresh}; give --fresh 0 as well")
    if options.minutes and 0 < options.full < 1:
        raise ValueError(f"--minutes leaves open when the last steps begin, found --full "
                         f"{options.full}; give --full 0 or 1 as well")
    tokenizer, photographs = default_tokenizer(), open_photographs(options, report)
    class_names = CLASS_NAMES + (photographs.class_names if photographs else [])
    generator = torch.Generator().manual_seed(options.seed)
    clip, heads = start(options, generator)
    model = nn.ModuleDict({"clip": clip, "heads": heads})
    optimiser = optimiser_for([clip] + [heads] * bool(photographs), options.rate)
    log = restore(resume, model, optimiser, generator, report) if resume else []
    first = len(log)
    buffer = Buffer(options.buffer, options.fresh, drawn_first(options), first, options.steps,
                    options.workers)
    steps = Steps(buffer, photographs, tokenizer, class_names, options)
    ahead = steps.ahead(first) if options.ahead else None
    begun, spent, step = time.time(), log[-1]["seconds"] if log else 0.0, first
    while step < min(options.steps, options.stop or options.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        seen = next(ahead) if ahead else steps.read(step, generator)
        losses = losses_of(clip, heads, seen, photographs, generator, options)
        loss = sum(getattr(options, name) * value for name, value in losses.items())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        clip.logit_scale.data.clamp_(0, math.log(100))  # CLIP, section 2.5
        log.append({"step": step, "loss": loss.item(),
                    **{name: value.item() for name, value in losses.items()},
                    "scale": clip.logit_scale.exp().item(), "seconds": spent + time.time() - begun})
        step += 1
        options.steps = ending(options, step, log[-1]["seconds"])
        last = step == min(options.steps, options.stop or options.steps)
        if (step - 1) % options.every == 0 or last:
            report(progress(log[-1], (step - first) / (time.time() - begun), options))
        if options.measure_every and (step % options.measure_every == 0 or last):
            found = measure(clip, heads, tokenizer, photographs, options)
            report("held out: " + ", ".join(f"{name} {x:.3f}" for name, x in found.items()))
            log[-1] |= found
        if resume and step % options.save_every == 0 and not last:
            keep(resume, model, optimiser, generator, log)
    return clip, log


def drawn_first(options):
    """Scenes drawn before the first step: all of them, if no step draws more."""
    return 4 * options.batch if options.fresh else options.buffer


def ending(options, done, seconds):
    """After how many steps a training ends: with --minutes, as many as fit, told while all is level.

    done: steps so far;  seconds: that they took.
    """
    if not options.minutes or done % 100 or done >= (1 - COOLING) * options.steps:
        return options.steps
    return max(done + 1, round(done * 60 * options.minutes / seconds))


def batches_of(buffer, photographs, full, generator, options, grid=None):
    """A batch of scenes and one of photographs; None for what has no share.

    Pictures in full have four times the patches; then a batch that has photographs is a quarter.
    """
    part = 4 if full and photographs else 1
    shown = round(options.batch * options.photo_share) if photographs else 0
    drawn = (options.batch - shown) // part
    return (buffer.batch(drawn, generator) if drawn else None,
            photographs.batch(shown // part, generator, *[grid] * bool(grid)) if shown else None)


def progress(row, rate, options):
    """A line on one step.  row: of the log;  rate: steps a second."""
    terms = ", ".join(f"{name} {row[name]:.3f}" for name in LOSSES if name in row)
    return (f"step {row['step']:5d}/{options.steps}  loss {row['loss']:.3f}: {terms}  "
            f"{rate * options.batch:.0f} pictures/s  "
            f"{(options.steps - row['step'] - 1) / rate / 60:.0f} min left")


def keep(resume, model, optimiser, generator, log):
    """Writes a point to go on from."""
    save_tensors(resume.path, {
        "mark": resume.mark, "model": dict(model.state_dict()), "log": log,
        "optimiser": dict(optimiser.state_dict()["state"]), "generator": generator.get_state()})


def restore(resume, model, optimiser, generator, report):
    """Brings everything to where a training was stopped.  Returns its log, or []."""
    saved = resume.saved()
    if not saved:
        return []
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": saved["optimiser"]})
    generator.set_state(saved["generator"])
    report(f"goes on at step {len(saved['log'])}, where it was stopped; drawing its scenes again")
    return saved["log"]


def measure(clip, heads, tokenizer, photographs, options):
    """What the tower can do by now, {name: number} (pretrain/held_out.py)."""
    found = held_out.on_scenes(clip, tokenizer, options.device)
    if photographs:
        found |= held_out.on_photographs(clip, heads, tokenizer, photographs, options.device)
    if options.products:
        states = distillation.read_by_memory(options.layers)
        products = held_out.on_products(clip.visual, options.products, states)
        found |= {f"memory_{name}": value for name, value in products.items()}
    return found


def parser():
    p = option_parser("minilora.pretrain", __doc__)
    p.add_argument("--check", metavar="LOG",
                   help="train the first 50 steps of a log again and compare")
    output = p.add_argument_group("output").add_argument
    output("--out", default="mini-clip.pt", help="file for the weights; the log goes beside it")
    output("--every", type=int, default=20, help="steps between two progress lines")
    output("--save-every", type=int, default=200, help="steps between two points to go on from")
    output("--measure-every", type=int, default=500, help="steps between two held-out measures")
    output("--products", metavar="FOLDER",
           help="products in MVTec AD's layout: their plain-memory AUROC goes into the log")
    photographs = p.add_argument_group("photographs").add_argument
    photographs("--photos", metavar="FOLDER",
                help="folders of photographs, named by what they show")
    photographs("--teacher", metavar="FILE", help=".npz file of a MobileNetV2")
    photographs("--views", metavar="FOLDER", default="data/photo-views",
                help="for crops and the teacher's results, can be deleted; '': ask it every step")
    photographs("--crops", type=int, default=3, help="crops of each photograph")
    photographs("--live", action="store_true",
                help="cut crops anew at every step and ask the teacher then: for a GPU")
    photographs("--grids", action="store_true",
                help="with --live: pictures of many aspects and sizes, a step each")
    photographs("--photo-share", type=float, default=0.67, help="photographs' share of a batch")
    training = p.add_argument_group("training").add_argument
    training("--start", metavar="WEIGHTS", help="go on from these instead of random numbers")
    training("--layers", type=int, default=MINI.vision_layers, help="blocks of the image tower")
    training("--width", type=int, default=MINI.vision_width, help="width of the image tower")
    training("--steps", type=int, default=7000,
             help="length of the schedule; may be changed when a training goes on")
    training("--full", type=float, default=0.03, help="share of last steps on whole pictures")
    training("--minutes", type=float, default=0.0,
             help="make the schedule as long as fits into these, with --full 0 or 1")
    training("--stop", type=int, default=0,
             help="stop after this step all the same; 0: run to the end")
    training("--batch", type=int, default=128, help="pictures a step")
    training("--fresh", type=int, default=16,
             help="newly drawn scenes a step; 0: draw the whole buffer before the first")
    training("--buffer", type=int, default=16384, help="scenes kept for reuse (150 kB each)")
    training("--rate", type=float, default=6e-4, help="peak learning rate")
    training("--seed", type=int, default=1, help="weights, captions, crops, order")
    for name, weight in zip(LOSSES, (1.0, 2.0, 10.0, 1.0, 5.0)):
        training(f"--{name}", type=float, default=weight, help="weight of this loss; 0: without it")
    machine = p.add_argument_group("machine").add_argument
    machine("--device", default="cpu", help="cpu or cuda")
    machine("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="autocast")
    machine("--workers", type=int, default=2, help="processes that draw scenes")
    machine("--ahead", type=int, default=0,
            help="processes that read steps ahead, with --fresh 0: for a GPU")
    machine("--threads", type=int, default=2,
            help="of the training process; part of what a run repeats")
    return p


def repeated(path, given):
    """Options of a log's own command, with the files that `given` options name.

    Raises ValueError that says in one line what is missing to repeat it.
    """
    head, _ = read_log(path)
    options = parser().parse_args(shlex.split(head[0].split("minilora.pretrain", 1)[1]))
    missing = [name for name in SOURCES if getattr(options, name) and not getattr(given, name)]
    if missing:
        raise ValueError(f"{path} was trained from more than drawn scenes; to repeat it, name "
                         + " and ".join(f"--{name}, then {getattr(options, name)}"
                                        for name in missing))
    for name in SOURCES:
        setattr(options, name, getattr(given, name) if getattr(options, name) else None)
    if options.start and (found := sha256_of(options.start)) not in head[1]:
        raise ValueError(f"{options.start} (sha256 {found[:12]}…) is not what {path} began with: "
                         f"{head[1]}")
    options.views, options.products = given.views if Path(given.views).is_dir() else "", None
    options.minutes, options.device, options.ahead = 0.0, given.device, min(options.ahead, 1)
    if not options.fresh:
        options.workers = 0             # scenes are drawn when they are asked for
    return options


def check(path, count, given, report=print):
    """Trains the first steps of a committed log again.  Returns the largest difference of a loss.

    The command in the log's head is repeated, so the same seed and settings are used; given:
    options that name the photographs, the teacher and the weights to start from, as far as the
    log used them.  Losses agree to the last digit on the same machine; another processor rounds
    differently.  A log of another device is compared in those losses that depend neither on its
    random numbers nor on the signs that its eigenvectors came with.
    """
    head, rows = read_log(path)
    options = repeated(path, given)
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


def main():
    options = parser().parse_args()
    if options.check:
        sys.exit(check(options.check, 50, options) > 0.02)
    torch.set_num_threads(options.threads)
    out = Path(options.out)
    with whole_folder(out.parent, f"pretrain-{out.stem}") as staging:
        resume = ResumePoint(staging / RESUME, digest_of(
            {k: v for k, v in vars(options).items() if k not in FREE}, torch.__version__))
        clip, log = pretrain(options, lambda line: print(line, flush=True), resume)
        save_official(clip.cpu(), staging / out.name)
        scenes = held_out.on_scenes(clip, default_tokenizer(), "cpu", 1024, options.workers)
        head = head_of(options, log[-1]["seconds"], drawn_first(options) + options.fresh * len(log))
        write_log(staging / f"{out.stem}.log.csv", log, head + [
            f"held-out scenes (1,024): zero-shot accuracy over {len(CLASS_NAMES)} nouns "
            f"{scenes['accuracy']:.4f}, damaged against flawless AUROC {scenes['auroc']:.4f}"])
