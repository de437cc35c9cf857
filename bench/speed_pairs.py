"""Pairs for bench.speed: two ways to the same result, with the same weights and inputs.

    image    encode_image against transformers' CLIPModel ("sdpa")
    text     encode_text against the same: short prompts padded to the context length (transformers
             with its attention mask), and texts that fill it; ours removes the padding
    lora     a training step from pixels against the same tower with peft's LoRA layers: the same
             loss, AdamW and batch; the text features are computed beforehand
    load     an archive in the official format: to a CLIP in float32, with the file hashed, against
             torch.jit.load (a scripted module, float16), alone and with its state dict in float32
    memory   scoring a picture with a memory of 32 pictures, against the text map only
    import   minilora's main names against the five packages that it imports; `import minilora` and
             `minilora --help` against the start of Python alone; all in fresh processes

Random weights of ViT-B/16's shape: time does not depend on their values.
Left out: the clock and the table (speed.py).
"""
import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure, peers
from minilora.bpe import END, START, default_tokenizer
from minilora.checkpoint.openai_layout import official_state_dict
from minilora.checkpoint.weights import load_clip
from minilora.clip import CLIP, VIT_B_16, CLIPConfig
from minilora.config import DetectorConfig
from minilora.detector import Detector
from minilora.lora import add_lora
from minilora.memory_bank import CORESET_SHARE, MAX_BYTES, MemoryBank
from minilora.prompts import prompt_ensemble
from minilora.train import adaptation_loss
from minilora.vit import default_value_value_blocks

SHAPE = VIT_B_16
MEMORY_PICTURES = 8 * 4         # shots times rotated copies of each
TOLERANCE = 1e-4                # of the largest value: float32 sums in a different order
START_SECONDS = 0.3             # goal: until `minilora --help` has answered


@dataclass
class Pair:
    """Two ways to the same result.  same(ours(), theirs()): their difference.  clock(ours, device):
    seconds of one call."""
    label: str
    ours: Any
    theirs: Any
    same: Callable | None
    tolerance: float = TOLERANCE
    clock: Callable = measure.seconds
    goal: tuple[float, str] | None = None       # (limit, "times" the other, or "s")


def apart(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest difference of two lists of tensors, relative to the largest value of each tensor."""
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
               for a, b in zip(ours, theirs, strict=True))


def seeded_clip(device: str, shape: CLIPConfig | None = None) -> CLIP:
    clip = CLIP(shape or SHAPE).initialise(torch.Generator().manual_seed(0))
    return clip.to(device).requires_grad_(False)


def random_pixels(count: int, device: str, side: int = 0) -> Tensor:
    side = side or SHAPE.resolution
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)


def tensor_of(output) -> Tensor:
    """The features: transformers 5 wraps them, transformers 4 does not."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def image_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    clip = seeded_clip(o.device)
    peer = peers.transformers_twin(clip)
    for batch in o.batch:
        pixels = random_pixels(batch, o.device)
        yield Pair(f"encode_image, batch {batch}: transformers",
                   lambda: [clip.encode_image(pixels)],
                   lambda: [tensor_of(peer.get_image_features(pixel_values=pixels))], apart)


def ids_of(count: int, full: bool) -> Tensor:
    """Token ids (N, 77): padded sentences, or texts of random tokens that fill the context."""
    if full:
        ids = torch.randint(1, START, (count, SHAPE.context),
                            generator=torch.Generator().manual_seed(2))
        ids[:, 0], ids[:, -1] = START, END
        return ids
    sentences = itertools.cycle(itertools.chain(*prompt_ensemble("bottle")))
    return default_tokenizer().tokenize(list(itertools.islice(sentences, count)), SHAPE.context)


def text_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    clip = seeded_clip(o.device)
    peer = peers.transformers_twin(clip)
    for batch, full in itertools.product(o.batch, (False, True)):
        ids = ids_of(batch, full).to(o.device)
        mask = ids != 0
        padded = dict(input_ids=ids.where(mask, END),           # as from transformers' tokenizer
                      attention_mask=mask.long())
        what = "texts that fill the context" if full else "padded prompts"
        yield Pair(f"encode_text, batch {batch}, {what}: transformers",
                   lambda: [clip.encode_text(ids)],
                   lambda: [tensor_of(peer.get_text_features(**padded))], apart)


def training_step(clip, pixels, coverage, text, config):
    """A function that makes one step from pixels and returns the loss and the gradients."""
    parameters = peers.trained(clip.visual)
    optimiser = torch.optim.AdamW(parameters, lr=config.rate, weight_decay=0.01)

    @torch.enable_grad()
    def step():
        loss = adaptation_loss(clip, lambda: text, clip.visual.embed(pixels), coverage, 0,
                               config.loss_weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return [loss.detach(), *(p.grad for p in parameters)]
    return step


def lora_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    config, layers = DetectorConfig(), SHAPE.vision_layers
    ours, theirs = seeded_clip(o.device), seeded_clip(o.device)
    adapted = range(layers - default_value_value_blocks(layers), layers)
    add_lora(ours.visual, config.targets, adapted, config.rank, config.alpha,
             torch.Generator().manual_seed(3))
    peers.add_peft_lora(theirs.visual, config.targets, adapted, config.rank, config.alpha)
    for p in peers.trained(ours.visual):
        p.data.normal_(0, 0.02)                                 # with B = 0, A has no gradient
    peers.copy_lora(ours.visual, theirs.visual)
    pixels = random_pixels(config.batch, o.device)
    coverage = (torch.rand(config.batch, (SHAPE.resolution // SHAPE.patch) ** 2,
                           generator=torch.Generator().manual_seed(4)) < 0.1).float().to(o.device)
    text = F.normalize(ours.encode_text(ids_of(2, False).to(o.device)), dim=-1)
    yield Pair(f"LoRA training step, batch {config.batch}: peft",
               *(training_step(clip, pixels, coverage, text, config) for clip in (ours, theirs)),
               apart, 1e-3)                     # gradients accumulate more rounding errors


def load_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        path = o.archive or Path(folder) / "official.pt"
        if not path.exists():
            sys.path.append(str(measure.REPO / "tests"))
            from official_archive import write_archive
            write_archive(official_state_dict(seeded_clip("cpu")), path)

        def scripted():
            return torch.jit.load(str(path), map_location="cpu").eval()

        def float_state():
            return {key: value.float() for key, value in scripted().state_dict().items()}

        def same(ours, theirs):
            state = official_state_dict(ours[0])
            found = theirs if isinstance(theirs, dict) else theirs.state_dict()
            return apart(state.values(), [found[key].float() for key in state])

        yield Pair("load an official archive: torch.jit.load", lambda: load_clip(path), scripted,
                   same, 0)
        yield Pair("load an official archive: torch.jit.load, float32 state dict",
                   lambda: load_clip(path), float_state, same, 0)


def detector_with_memory(clip: CLIP, resolution: int = 0) -> Detector:
    """A Detector with a memory bank of random tokens, as large as that of MEMORY_PICTURES."""
    detector = Detector(clip, "bottle", DetectorConfig(resolution=resolution))
    width = clip.visual.proj.shape[0] * len(detector.memory_states) + clip.visual.proj.shape[1]
    patches = MEMORY_PICTURES * (detector.resolution // clip.visual.patch) ** 2
    count = min(MAX_BYTES // (2 * width), round(CORESET_SHARE * patches))       # as in `build`
    tokens = torch.randn(count, width, generator=torch.Generator().manual_seed(5))
    detector.banks = {"adapted": MemoryBank(F.normalize(tokens, dim=-1).to(detector.device))}
    detector.text_features = detector.prompts()
    return detector


def memory_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    pixels, detector = random_pixels(1, o.device), detector_with_memory(seeded_clip(o.device))

    def without():
        return detector.map_and_score(detector.encode(pixels), "text")

    def same(both, text):
        seen, weight = detector.encode(pixels), detector.text_weight
        detector.text_weight = 0.0
        memory = detector.map_and_score(seen, "adapted")[0]
        detector.text_weight = weight
        return apart([both[0]], [memory + weight * text[0]])

    yield Pair(f"score a picture, memory of {MEMORY_PICTURES}: without",
               lambda: detector.score(pixels), without, same)


def process_seconds(arguments: list[str], device: str = "cpu") -> float:
    """Seconds of `python ARGUMENTS` in a fresh process, with the start of Python."""
    return measure.seconds(lambda: subprocess.run([sys.executable, *arguments], cwd=measure.REPO,
                                                  check=True, stdout=subprocess.DEVNULL))


def import_pairs(o: argparse.Namespace) -> Iterator[Pair]:
    yield Pair("import of the main names: its five packages",
               "from minilora import Detector, load_clip, load_pictures",
               "import torch, numpy, PIL.Image, regex, ftfy", None, clock=measure.import_seconds)
    for what, arguments in (("import minilora", ["-c", "import minilora"]),
                            ("minilora --help", ["-m", "minilora", "--help"])):
        yield Pair(f"{what}, with the start of Python: the start alone", arguments, ["-c", "pass"],
                   None, clock=process_seconds, goal=(START_SECONDS, "s"))


PAIRS = {"image": image_pairs, "text": text_pairs, "lora": lora_pairs, "load": load_pairs,
         "memory": memory_pairs, "import": import_pairs}
