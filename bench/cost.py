"""What one training step costs: functions that each run in a fresh process, or in turn on a GPU.

    memory    peak of two steps above the weights; AdamW's moments exist from the second step on.
              A smaller tower of the same shape is trained first, so that memory which libraries
              load and keep for themselves does not count.  Also counts the blocks of the image
              tower whose output has a gradient
    duration  seconds of single steps, after one unmeasured step
    rivals    seconds of several methods, measured in turn, for ratios
    fits      whether two steps succeed on a GPU of a given size
    over_time allocated bytes during two steps on a GPU

Arguments and results fit into JSON; `conditions` holds the arguments of `steps.Training` except the
method.  Left out: the command that calls these functions (memory.py).
"""
import gc
import hashlib
import tempfile
from pathlib import Path

import torch

from bench import measure, snapshot
from bench.steps import CLASS_NAME, METHODS, Training
from minilora.bpe import default_tokenizer
from minilora.clip import CLIPConfig
from minilora.config import DetectorConfig
from minilora.coop import STATE_WORDS
from minilora.io.files import save_tensors
from minilora.vit import VisionTransformer

PARTS = ("anomaly_map", "attention", "baselines/finetuned", "checkpoint/adapter", "clip", "config",
         "coop", "data/images", "detector", "io/files", "lora", "losses", "text", "train",
         "training_steps", "vit")
STEP_PARTS = ("bitfit", "cost", "dora", "ladder", "lora_fa", "measure", "peers", "snapshot",
              "steps")
FEW = {"vision_layers": 4, "text_layers": 1}    # one block of each kind: frozen, adapted, last


def code_version() -> str:
    """Fingerprint of the code that a step runs, in bench and in minilora."""
    files = [measure.REPO / "minilora" / f"{part}.py" for part in PARTS]
    files += [measure.REPO / "bench" / f"{part}.py" for part in STEP_PARTS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def prompt_length() -> int:
    """Number of tokens of a prompt, including the start and end tokens."""
    sentence = f"{DetectorConfig().context} {STATE_WORDS[0]} {CLASS_NAME}."
    return len(default_tokenizer().encode(sentence)) + 2


def training(name: str, shape: dict, conditions: dict, steps: int) -> Training:
    return Training(METHODS[name], CLIPConfig(**shape), **conditions, steps=steps)


def memory(name: str, shape: dict, conditions: dict, threads: int) -> dict[str, int]:
    """{"allocated", on a GPU "reserved", "file": bytes, "trainable", "total": parameters,
    "blocks": with a gradient}."""
    made = warmed_up(name, shape, conditions, threads)
    seen = blocks_with_gradient(made.clip.visual)
    found = measure.peak(lambda: list(made.steps()), conditions["device"])
    counts = {"trainable": sum(p.numel() for p in made.trained if p.requires_grad),
              "total": sum(p.numel() for p in made.clip.parameters()), "blocks": len(seen)}
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "adapter.safetensors", made.adapter())
        return found | counts | {"file": (Path(folder) / "adapter.safetensors").stat().st_size}


def warmed_up(name: str, shape: dict, conditions: dict, threads: int) -> Training:
    """Two steps, ready to be made, after two steps of a smaller tower."""
    torch.set_num_threads(threads)
    list(training(name, shape | FEW, conditions | {"pool": 0}, 2).steps())
    gc.collect()
    return training(name, shape, conditions, 2)


def blocks_with_gradient(visual: VisionTransformer) -> set[int]:
    """A set that receives the number of each block whose output has a gradient, in later steps.

    A block can run in three ways: for all tokens, for CLS only, with value-value attention.
    """
    seen = set()
    for number, block in enumerate(visual.blocks):
        for part, way in ((block, "forward"), (block, "cls_only"), (block.attn, "value_value")):
            def watched(*tokens, run=getattr(part, way), number=number, **options):
                output = run(*tokens, **options)
                if output.requires_grad:
                    seen.add(number)
                return output
            setattr(part, way, watched)
    return seen


def over_time(name: str, shape: dict, conditions: dict, threads: int) -> list:
    """[(milliseconds, bytes above the weights)] during two steps on a GPU, see snapshot.py."""
    made, device = warmed_up(name, shape, conditions, threads), torch.device(conditions["device"])
    record = snapshot.recorded(lambda: list(made.steps()), conditions["device"])
    return snapshot.thinned(snapshot.allocated_over_time(record, device.index or 0))


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
    device = conditions["device"]
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)  # driver, CUDA, other programs
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, (card - others) / total)), device)
    try:
        return len(list(training(name, shape, conditions, 2).steps())) == 2
    except RuntimeError as error:                       # torch.OutOfMemoryError is one
        if not measure.is_out_of_memory(error):
            raise
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
