"""A fitted detector as files: what was learned, and what is remembered; never the base weights.

    adapter.pt      LoRA, context vectors, texts, threshold, settings, which weights they belong to
    memory.pt       patches of good pictures, in half precision, of the row "adapted"

Both are read by `files.load_tensors`, which runs nothing that is in them, and are checked here: a
file from a stranger is refused in words, or it is a detector.
Leaves out: the rest of a run folder (runs/run_class.py).
"""
from dataclasses import asdict
from pathlib import Path

import torch

from minilora.checkpoint.adapter import adapter_state, load_adapter_state
from minilora.config import DetectorConfig
from minilora.io.files import load_tensors, save_tensors
from minilora.memory_bank import MemoryBank

ADAPTER_VERSION = 7                     # in adapter.pt, of what `save` writes together


def save_detector(detector, folder, weights):
    """Writes adapter.pt and memory.pt into a folder.  weights: see `Detector.save`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(detector.config).items()}
    if detector.banks:
        save_tensors(folder / "memory.pt", detector.banks["adapted"].state())
    learned = detector.hand_written if detector.learned is None else detector.learned
    save_tensors(folder / "adapter.pt", {
        "version": ADAPTER_VERSION, "class_name": detector.class_name, "config": config,
        "weights": {"name": weights.name, "sha256": weights.sha256, "path": str(weights.path)},
        "lora": adapter_state(detector.clip.visual), "context": detector.prompts.context.detach(),
        "text": learned, "level": detector.level, "weight": detector.weight,
        "threshold": detector.threshold})


def load_detector(make, folder, clip, weights):
    """The detector that `save` wrote.  make(clip, noun, settings) gives a new one.

    Raises ValueError if the adapter belongs to other base weights or another version.
    """
    path = Path(folder) / "adapter.pt"
    saved = load_tensors(path)
    if saved.get("version") != ADAPTER_VERSION:
        raise ValueError(f"{path}: expected format {ADAPTER_VERSION}, found {saved.get('version')}; "
                         "fit again")
    try:
        return detector_from_content(make, saved, path, clip, weights)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path} or memory.pt beside it is not what minilora writes "
                         f"({type(error).__name__}: {error}); fit again") from error
    except ValueError as error:
        known = str(path.parent) in str(error)
        raise error if known else ValueError(f"{path}: {error}") from error


def detector_from_content(make, saved, path, clip, weights):
    """The detector in the content of adapter.pt; whatever is wrong with it raises something."""
    if saved["weights"]["sha256"] != weights.sha256:
        raise ValueError(f"{path} was fitted on {saved['weights']['name']} "
                         f"(sha256 {saved['weights']['sha256'][:12]}…), found {weights.name} "
                         f"({weights.sha256[:12]}…); load it onto the weights it was fitted on")
    config = DetectorConfig(**{key: tuple(value) if isinstance(value, list) else value
                           for key, value in saved["config"].items()})
    detector = make(clip, saved["class_name"], config)
    load_adapter_state(clip.visual, saved["lora"])
    detector.prompts.context.data.copy_(saved["context"])
    text, threshold = saved["text"].to(detector.device), saved["threshold"]
    level, weight = saved["level"], saved["weight"]
    if text.shape != (2, clip.config.embed):
        raise ValueError(f"text {tuple(text.shape)}, expected (2, {clip.config.embed})")
    if not (type(level) is type(weight) is float and level > 0 and weight >= 0):
        raise ValueError(f"level {level!r} and weight {weight!r}, expected a number above 0 and one "
                         "of 0 or more")
    numbers = (detector.prompts.context, text, torch.tensor([threshold or 0.0, level, weight]))
    if not all(x.isfinite().all() for x in numbers):
        raise ValueError("context, text, level, weight or threshold hold NaN or inf; fit again")
    detector.learned, detector.threshold = text, threshold
    detector.level, detector.weight = level, weight
    memory = path.with_name("memory.pt")
    if memory.exists():
        frozen = len(detector.memory_states) * clip.config.vision_width
        bank = MemoryBank.from_state(load_tensors(memory), frozen + clip.config.embed,
                                     detector.device)
        detector.banks = {"adapted": bank, "memory": bank.truncated(frozen)}
    return detector


def demo():
    """What a detector consists of, stored and read again; another base model is refused."""
    import tempfile
    from types import SimpleNamespace

    from minilora.checkpoint.weights import Weights
    from minilora.clip import CLIP, CLIPConfig
    from minilora.lora import add_lora

    def make(clip, class_name, config):
        """The parts of a `Detector` that are stored, untrained."""
        add_lora(clip.visual, config.targets, (2,), config.rank, config.alpha)
        return SimpleNamespace(
            clip=clip, class_name=class_name, config=config, device=torch.device("cpu"), memory_states=(1,),
            prompts=SimpleNamespace(context=torch.nn.Parameter(torch.zeros(2, 4, 64))),
            learned=torch.eye(2, 32), threshold=1.5, level=0.25, weight=0.5,
            banks={"adapted": MemoryBank(torch.eye(5, 96))})
    clips = [CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                             text_width=64, text_layers=1)).initialise(
                                 torch.Generator().manual_seed(0)) for _ in range(2)]
    weights = Weights("toy", None, "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        save_detector(make(clips[0], "plate", DetectorConfig()), folder, weights)
        for name in ("adapter.pt", "memory.pt"):
            print(f"{name}  {(Path(folder) / name).stat().st_size:,} bytes")
        again = load_detector(make, folder, clips[1], weights)
        print(f"read again: {again.class_name}, threshold {again.threshold}, memory of "
              f"{len(again.banks['adapted'].tokens)} patches")
        try:
            load_detector(make, folder, clips[1], Weights("other", None, "1" * 64))
        except ValueError as error:
            print("refused:", str(error).split(" was ")[1])


if __name__ == "__main__":
    demo()
