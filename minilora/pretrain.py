"""Trains the embedded model: contrastive image-text learning on drawn scenes and their captions.

Claim: a tower that must tell "a flawless green nut" from "a green nut with a scratch" learns
features that see defects, also on products that were never drawn (Radford et al. 2021, CLIP).
The batches come from stream.py, the captions and both losses from captions.py.

    python -m minilora.pretrain --out weights/mini-clip.pt      resumes if it was interrupted
    python -m minilora.pretrain --check weights/mini-clip.log.csv      repeats the first 50 steps

Leaves out: photographs, several machines.  Symbols: B scenes of a batch, P patches, E embedding.
"""

import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from minilora.auroc import auroc
from minilora.bpe import default_tokenizer
from minilora.captions import NORMAL, NOUNS, also_true, caption, contrast, locate
from minilora.checkpoint import save_official
from minilora.clip import CLIP
from minilora.files import digest_of, save_tensors, whole_file
from minilora.images import normalise
from minilora.journal import RESUME, whole_folder
from minilora.stream import MINI, Buffer, SceneStream, embed_view, view, visible_facts
from minilora.terminal import command, option_parser
from minilora.unfinished import Unfinished

FREE = ("out", "every", "save_every", "stop", "workers", "check")     # change nothing but the look


def training_loss(clip, tokenizer, batch, full, generator, device, dtype):
    """One step's loss and its two parts.  full: encode the pictures whole and in full detail."""
    pictures, coverage, facts = batch
    if full:
        places = torch.arange(coverage[0].numel()).view(coverage[0].shape).expand(coverage.shape)
    else:
        pictures, coverage, places = view(pictures, coverage, generator, clip.visual.grid // 2)
    facts = visible_facts(facts, coverage, places, full)
    pairs = [caption(f, generator, tokenizer) for f in facts.tolist()]
    mentioned = torch.tensor([p[2][0] for p in pairs] + [p[2][1] for p in pairs])  # (2B, 4)
    ids = tokenizer.tokenize([p[0] for p in pairs] + [p[1] for p in pairs]).to(device)
    gain = 1 + 0.3 * (torch.rand(len(pictures), 1, 1, 1, generator=generator) - 0.5)
    pixels = normalise(pictures.float() * gain / 255).to(device)
    coverage = coverage.flatten(1).to(device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        hidden = clip.visual.hidden_states(embed_view(clip.visual, pixels, places.to(device)))
        image = F.normalize(clip.visual.pool(hidden[-1]).float(), dim=-1)
        local = F.normalize(clip.visual.value_value(hidden).float(), dim=-1)
        own, other = F.normalize(clip.encode_text(ids).float(), dim=-1).chunk(2)
    scale = clip.logit_scale.exp()
    normal = (facts[:, 3] == NORMAL).to(device)[:, None]
    one = contrast(image, own, other, scale, also_true(facts, mentioned).to(device))
    flawless, damaged = torch.where(normal, own, other), torch.where(normal, other, own)
    two = locate(local, flawless, damaged, scale, coverage)
    return one + 2 * two, one, two


def learning_rate(step, steps, peak, warmup=100):
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def in_full(step, steps):
    """Windows and half-size pictures first; what is seen at test time in the last 3 % of steps."""
    return step >= 0.97 * steps


@torch.no_grad()
def held_out(clip, tokenizer, device, count=256, first=10_000_000):
    """Zero-shot on scenes that no step draws: (accuracy over nouns, AUROC of damaged or not)."""
    scenes = [SceneStream(first, first + count)[i] for i in range(count)]
    pixels = normalise(torch.stack([s[0] for s in scenes]).float() / 255).to(device)
    facts = torch.stack([s[2] for s in scenes])
    image = torch.cat([clip.encode_image(p) for p in pixels.split(64)])
    sentences = [f"a photo of a {noun}." for noun in NOUNS]
    nouns = clip.similarity(image, clip.encode_text(tokenizer.tokenize(sentences).to(device)))
    accuracy = (nouns.argmax(1).cpu() == facts[:, 0]).float().mean().item()
    sentences = ["a photo of a flawless object.", "a photo of a damaged object."]
    states = clip.similarity(image, clip.encode_text(tokenizer.tokenize(sentences).to(device)))
    damaged = states.softmax(-1)[:, 1].cpu()
    return accuracy, auroc(damaged, facts[:, 3] != NORMAL)


def optimiser_for(clip, rate):
    """AdamW; matrices decay, biases, norms and the temperature do not."""
    groups = [[p for p in clip.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": p, "weight_decay": decay} for p, decay in zip(groups, (0.1, 0.0))]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def train(options, report=print, unfinished=None):
    """Runs a training, or goes on with it.  Returns (clip, log), the log a list of a dict a step.

    unfinished: an `Unfinished`, from which a training that was stopped goes on.
    """
    device, dtype = options.device, getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(options.seed)
    tokenizer = default_tokenizer()
    clip = CLIP(MINI).initialise(generator).to(device)
    optimiser, log = optimiser_for(clip, options.rate), []
    if unfinished and (saved := unfinished.saved()):
        clip.load_state_dict(saved["clip"])
        optimiser.load_state_dict({**optimiser.state_dict(), "state": saved["optimiser"]})
        generator.set_state(saved["generator"])
        log = saved["log"]
        report(f"goes on at step {len(log)}, where it was stopped; drawing its scenes again")
    first, stop = len(log), min(options.steps, options.stop or options.steps)
    buffer = Buffer(options.buffer, options.fresh, 4 * options.batch, first, stop, options.workers)
    begun, spent = time.time(), log[-1]["seconds"] if log else 0.0
    for step in range(first, stop):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        batch, full = buffer.batch(options.batch, generator), in_full(step, options.steps)
        loss, one, two = training_loss(clip, tokenizer, batch, full, generator, device, dtype)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        clip.logit_scale.data.clamp_(0, math.log(100))  # CLIP, section 2.5
        log.append({"step": step, "loss": loss.item(), "contrast": one.item(),
                    "locate": two.item(), "scale": clip.logit_scale.exp().item(),
                    "seconds": spent + time.time() - begun})
        if step % options.every == 0 or step == stop - 1:
            rate = (step - first + 1) / (time.time() - begun)
            report(f"step {step:5d}/{options.steps}  loss {log[-1]['loss']:.3f} = "
                   f"{log[-1]['contrast']:.3f} + {log[-1]['locate']:.3f}  "
                   f"{rate * options.batch:.0f} scenes/s  "
                   f"{(options.steps - step - 1) / rate / 60:.0f} min left")
        if (step + 1) % options.save_every == 0 and step + 1 < stop:
            log[-1]["accuracy"], log[-1]["auroc"] = held_out(clip, tokenizer, device)
            report(f"held-out scenes: nouns {log[-1]['accuracy']:.3f}, "
                   f"damaged AUROC {log[-1]['auroc']:.3f}")
            if unfinished:
                save_tensors(unfinished.path, {
                    "mark": unfinished.mark, "clip": dict(clip.state_dict()), "log": log,
                    "optimiser": dict(optimiser.state_dict()["state"]),
                    "generator": generator.get_state()})
    return clip, log


def write_log(path, log, head):
    """The training log as CSV below comment lines that say how it was made."""
    columns = "step", "loss", "contrast", "locate", "scale", "seconds", "accuracy", "auroc"
    with whole_file(path, "w") as file:
        file.write("".join(f"# {line}\n" for line in head))
        file.write(",".join(columns) + "\n")
        for row in log:
            file.write(",".join(f"{row[k]:.6g}" if k in row else "" for k in columns) + "\n")


def parser():
    p = option_parser("minilora.pretrain", __doc__)
    p.add_argument("--check", metavar="LOG",
                   help="train the first 50 steps of a log again and compare")
    output = p.add_argument_group("output").add_argument
    output("--out", default="mini-clip.pt", help="file for the weights; the log goes beside it")
    output("--every", type=int, default=20, help="steps between two progress lines")
    output("--save-every", type=int, default=250, help="steps between two points to go on from")
    training = p.add_argument_group("training").add_argument
    training("--steps", type=int, default=7000, help="length of the schedule")
    training("--stop", type=int, default=0,
             help="stop after this step all the same; 0: run to the end")
    training("--batch", type=int, default=128, help="scenes a step")
    training("--fresh", type=int, default=16, help="newly drawn scenes a step")
    training("--buffer", type=int, default=16384, help="scenes kept for reuse (150 kB each)")
    training("--rate", type=float, default=6e-4, help="peak learning rate")
    training("--seed", type=int, default=1, help="weights, captions, dropping, order")
    machine = p.add_argument_group("machine").add_argument
    machine("--device", default="cpu", help="cpu or cuda")
    machine("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="autocast")
    machine("--workers", type=int, default=2, help="processes that draw scenes")
    machine("--threads", type=int, default=2,
            help="of the training process; part of what a run repeats")
    return p


def check(path, count, report=print):
    """Trains the first steps of a committed log again.  Returns the largest difference of a loss.

    The command in the log's head is repeated, so the same seed and settings are used.  Losses agree
    to the last digit on the same machine; bfloat16 on another processor rounds differently.
    """
    lines = Path(path).read_text().splitlines()
    options = parser().parse_args(lines[0].split("minilora.pretrain", 1)[1].split())
    options.stop = count
    torch.set_num_threads(options.threads)
    rows = [line.split(",") for line in lines if line[0].isdigit()][:count]
    _, log = train(options, report)
    worst = max(abs(float(row[1]) - again["loss"]) for row, again in zip(rows, log))
    report(f"first {len(rows)} losses of {path}: largest difference {worst:.2g}")
    return worst


def head_of(options, clip, log):
    """Lines above a log: the command, the machine, what the model can do."""
    accuracy, damaged = held_out(clip, default_tokenizer(), options.device, count=1024)
    settings = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(options).items()
                        if k not in ("out", "check"))
    return [
        f"python -m minilora.pretrain {settings}",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}; "
        f"{log[-1]['seconds'] / 60:.0f} minutes; "
        f"scenes drawn: {4 * options.batch + options.fresh * len(log)}",
        f"held-out scenes (1,024): zero-shot accuracy over {len(NOUNS)} nouns {accuracy:.4f}, "
        f"damaged against flawless AUROC {damaged:.4f}"]


def main():
    options = parser().parse_args()
    if options.check:
        sys.exit(check(options.check, 50) > 0.02)
    torch.set_num_threads(options.threads)
    out = Path(options.out)
    with whole_folder(out.parent, f"pretrain-{out.stem}") as staging:
        unfinished = Unfinished(staging / RESUME, digest_of(
            {k: v for k, v in vars(options).items() if k not in FREE}, torch.__version__))
        clip, log = train(options, lambda line: print(line, flush=True), unfinished)
        save_official(clip, staging / out.name)
        write_log(staging / f"{out.stem}.log.csv", log, head_of(options, clip, log))


if __name__ == "__main__":
    command("minilora.pretrain", main)
