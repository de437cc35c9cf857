"""What one training step costs: functions that each run in a fresh process.

    memory    peak of two steps above the weights; AdamW's moments exist from the second step on.
              A smaller tower of the same shape is trained first, so that memory which libraries
              load and keep for themselves does not count
    duration  seconds of single steps, after one unmeasured step
    rivals    seconds of several methods, measured in turn, for ratios
    fits      whether two steps succeed on a GPU of a given size

Arguments and results fit into JSON; `conditions` holds the arguments of `steps.Training` except the
method.  Left out: the command that calls these functions (memory.py).
"""
import gc
import hashlib
import itertools
import tempfile
from pathlib import Path

import torch

from bench import measure
from bench.steps import CLASS_NAME, METHODS, Training
from minilora.bpe import default_tokenizer
from minilora.clip import CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import STATE_WORDS
from minilora.io.files import save_tensors

PARTS = ("anomaly_map", "attention", "baselines/finetuned", "checkpoint/adapter", "clip", "config",
         "coop", "data/images", "detector", "io/files", "lora", "losses", "text", "train",
         "training_steps", "vit")
FEW = {"vision_layers": 4, "text_layers": 1}    # one block of each kind: frozen, adapted, last


def code_version() -> str:
    """Fingerprint of the code that a step runs, in bench and in minilora."""
    files = [measure.REPO / "minilora" / f"{part}.py" for part in PARTS]
    files += [measure.REPO / "bench" / f"{part}.py" for part in ("cost", "measure", "steps")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def prompt_length() -> int:
    """Number of tokens of a prompt, including the start and end tokens."""
    sentence = f"{DetectorConfig().context} {STATE_WORDS[0]} {CLASS_NAME}."
    return len(default_tokenizer().encode(sentence)) + 2


def training(name: str, shape: dict, conditions: dict, steps: int) -> Training:
    return Training(METHODS[name], CLIPConfig(**shape), **conditions, steps=steps)


def memory(name: str, shape: dict, conditions: dict, threads: int) -> dict[str, int]:
    """{"allocated", on a GPU "reserved", "file": bytes, "trainable", "total": parameters}."""
    torch.set_num_threads(threads)
    list(training(name, shape | FEW, conditions | {"pool": 0}, 2).steps())
    gc.collect()
    made = training(name, shape, conditions, 2)
    found = measure.peak(lambda: list(made.steps()), conditions["device"])
    counts = {"trainable": sum(p.numel() for p in made.trained if p.requires_grad),
              "total": sum(p.numel() for p in made.clip.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "adapter.safetensors", made.adapter())
        return found | counts | {"file": (Path(folder) / "adapter.safetensors").stat().st_size}


def duration(name: str, shape: dict, conditions: dict, threads: int, rounds: int) -> list[float]:
    """Seconds of each of `rounds` steps."""
    return rivals([name], shape, conditions, threads, rounds)[name]


def rivals(names: list[str], shape: dict, conditions: dict, threads: int,
           rounds: int) -> dict[str, list[float]]:
    """{name: seconds of each round}; in each round all methods take their turn."""
    torch.set_num_threads(threads)
    runs = {name: training(name, shape, conditions, rounds + 1).steps() for name in names}
    works = {name: (lambda run=run: next(run)) for name, run in runs.items()}
    return measure.side_by_side(works, rounds, conditions["device"])


def fits(name: str, shape: dict, conditions: dict, card: int) -> bool:
    """True if two steps succeed on a GPU of `card` bytes, minus the bytes already in use."""
    free, total = torch.cuda.mem_get_info(conditions["device"])
    share = (card - (total - free)) / total             # other programs use a part of the card
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)))
    try:
        return len(list(itertools.islice(training(name, shape, conditions, 2).steps(), 2))) == 2
    except torch.OutOfMemoryError:
        return False
