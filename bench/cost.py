"""What one training step costs: functions that run in a process of their own.

    memory    the highest that two steps go above the weights: the second has AdamW's moments; a
              tower of few blocks of the same shape has been trained before, so that what libraries
              load and keep for themselves does not count
    duration  seconds of single steps, one unmeasured before them
    rivals    the same for several methods in turn, for ratios
    fits      whether two steps succeed when the process may take so many bytes of a GPU

All take and return what fits into JSON; `conditions` holds the arguments of `steps.Training` beside
the method.  Leaves out: what calls them (memory.py).
"""
import gc
import hashlib
import itertools
import tempfile
from pathlib import Path

import torch

from bench import measure
from bench.steps import METHODS, NOUN, Training
from minilora.bpe import default_tokenizer
from minilora.clip import CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import STATE_WORDS
from minilora.io.files import save_tensors

PARTS = ("anomaly_map", "attention", "baselines/finetuned", "checkpoint/adapter", "clip", "config",
         "coop", "data/images", "detector", "io/files", "lora", "losses", "text", "train",
         "training_steps", "vit")
FEW = {"vision_layers": 4, "text_layers": 1}    # a block of each kind: frozen, adapted, the last


def code_version():
    """Fingerprint of the code that a step runs through, here and in minilora."""
    files = [measure.REPO / "minilora" / f"{part}.py" for part in PARTS]
    files += [measure.REPO / "bench" / f"{part}.py" for part in ("cost", "measure", "steps")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def prompt_length():
    """Tokens of a prompt, from the start of the text to its end."""
    sentence = f"{DetectorConfig().context} {STATE_WORDS[0]} {NOUN}."
    return len(default_tokenizer().encode(sentence)) + 2


def training(name, shape, conditions, steps):
    return Training(METHODS[name], CLIPConfig(**shape), **conditions, steps=steps)


def memory(name, shape, conditions, threads):
    """{"allocated", on a GPU "reserved", "trainable", "total", "file"}: bytes and counts."""
    torch.set_num_threads(threads)
    list(training(name, shape | FEW, conditions | {"pool": 0}, 2).steps())
    gc.collect()
    made = training(name, shape, conditions, 2)
    found = measure.peak(lambda: list(made.steps()), conditions["device"])
    counts = {"trainable": sum(p.numel() for p in made.trained if p.requires_grad),
              "total": sum(p.numel() for p in made.clip.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "adapter.pt", made.adapter())
        return found | counts | {"file": (Path(folder) / "adapter.pt").stat().st_size}


def duration(name, shape, conditions, threads, rounds):
    """Seconds of each of so many steps."""
    return rivals([name], shape, conditions, threads, rounds)[name]


def rivals(names, shape, conditions, threads, rounds):
    """{name: seconds of each round}, all methods in turn in every round."""
    torch.set_num_threads(threads)
    runs = {name: training(name, shape, conditions, rounds + 1).steps() for name in names}
    works = {name: (lambda run=run: next(run)) for name, run in runs.items()}
    return measure.side_by_side(works, rounds, conditions["device"])


def fits(name, shape, conditions, card):
    """True if two steps succeed on a GPU of `card` bytes, less what is in use before them."""
    free, total = torch.cuda.mem_get_info(conditions["device"])
    share = (card - (total - free)) / total             # what others use of the card is not ours
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)))
    try:
        return len(list(itertools.islice(training(name, shape, conditions, 2).steps(), 2))) == 2
    except torch.OutOfMemoryError:
        return False
