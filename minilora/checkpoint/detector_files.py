"""Save a fitted detector to two files and load it again, without the base weights.

    adapter.pt      LoRA, context vectors, text features, threshold, config, SHA-256 of the weights
    memory.pt       the memory bank of row "adapted": patch features of good pictures, in float16

`files.load_tensors` reads both and runs no code from them.  Their content is checked here: a file
that does not describe a complete detector raises an error.
Left out: the rest of a run folder (runs/run_class.py).
"""
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minilora.checkpoint.adapter import adapter_state, load_adapter_state
from minilora.checkpoint.published import Weights
from minilora.clip import CLIP
from minilora.config import DetectorConfig
from minilora.io.files import load_tensors, save_tensors
from minilora.memory_bank import MemoryBank

ADAPTER_VERSION = 7                     # format of both files; stored in adapter.pt


def save_detector(detector: Any, folder: str | Path, weights: Weights) -> None:
    """Write adapter.pt and memory.pt of a Detector into a folder.  weights: of its base model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: list(value) if isinstance(value, tuple) else value
              for key, value in asdict(detector.config).items()}
    if detector.banks:
        save_tensors(folder / "memory.pt", detector.banks["adapted"].state())
    text_features = detector.text_features
    if text_features is None:                       # fitted without shots: zero-shot only
        text_features = detector.prompt_ensemble_features
    save_tensors(folder / "adapter.pt", {
        "version": ADAPTER_VERSION, "class_name": detector.class_name, "config": config,
        "weights": {"name": weights.name, "sha256": weights.sha256, "path": str(weights.path)},
        "lora": adapter_state(detector.clip.visual), "context": detector.prompts.context.detach(),
        "text_features": text_features, "memory_scale": detector.memory_scale,
        "text_weight": detector.text_weight, "threshold": detector.threshold})


def load_detector(make: Callable[[CLIP, str, DetectorConfig], Any], folder: str | Path, clip: CLIP,
                  weights: Weights) -> Any:
    """The Detector that `save_detector` wrote.  make(clip, class_name, config) returns a new one.

    Raises ValueError if the files belong to other base weights or another version, or are damaged.
    """
    path = Path(folder) / "adapter.pt"
    saved = load_tensors(path)
    if saved.get("version") != ADAPTER_VERSION:
        raise ValueError(f"{path}: expected format {ADAPTER_VERSION}, found "
                         f"{saved.get('version')}; fit again")
    try:
        return detector_from_content(make, saved, path, clip, weights)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path} or memory.pt next to it is not as minilora writes it "
                         f"({type(error).__name__}: {error}); fit again") from error
    except ValueError as error:
        known = str(path.parent) in str(error)
        raise error if known else ValueError(f"{path}: {error}") from error


def detector_from_content(make: Callable[[CLIP, str, DetectorConfig], Any], saved: dict, path: Path,
                          clip: CLIP, weights: Weights) -> Any:
    """The Detector made from the content of adapter.pt; invalid content raises various errors."""
    if saved["weights"]["sha256"] != weights.sha256:
        raise ValueError(f"{path} was fitted on {saved['weights']['name']} "
                         f"(sha256 {saved['weights']['sha256'][:12]}…), found {weights.name} "
                         f"({weights.sha256[:12]}…); load it onto the weights it was fitted on")
    config = DetectorConfig(**{key: tuple(value) if isinstance(value, list) else value
                               for key, value in saved["config"].items()})
    detector = make(clip, saved["class_name"], config)
    load_adapter_state(clip.visual, saved["lora"])
    detector.prompts.context.data.copy_(saved["context"])
    text_features, threshold = saved["text_features"].to(detector.device), saved["threshold"]
    scale, weight = saved["memory_scale"], saved["text_weight"]
    if text_features.shape != (2, clip.config.embed):
        raise ValueError(f"text_features have shape {tuple(text_features.shape)}, expected "
                         f"(2, {clip.config.embed})")
    if not (type(scale) is type(weight) is float and scale > 0 and weight >= 0):
        raise ValueError(f"memory_scale {scale!r} and text_weight {weight!r}, expected a number "
                         "above 0 and a number of at least 0")
    numbers = (detector.prompts.context, text_features,
               torch.tensor([threshold or 0.0, scale, weight]))
    if not all(x.isfinite().all() for x in numbers):
        raise ValueError("context, text_features, memory_scale, text_weight or threshold holds NaN "
                         "or inf; fit again")
    detector.text_features, detector.threshold = text_features, threshold
    detector.memory_scale, detector.text_weight = scale, weight
    memory = path.with_name("memory.pt")
    if memory.exists():
        frozen = len(detector.memory_states) * clip.config.vision_width
        bank = MemoryBank.from_state(load_tensors(memory), frozen + clip.config.embed,
                                     detector.device)
        detector.banks = {"adapted": bank, "memory": bank.truncated(frozen)}
    return detector


def demo() -> None:
    """Save a small detector and load it again; another base model is refused."""
    import tempfile
    from types import SimpleNamespace

    from minilora.clip import CLIPConfig
    from minilora.lora import add_lora

    def make(clip, class_name, config):
        """The stored parts of a `Detector`, untrained."""
        add_lora(clip.visual, config.targets, (2,), config.rank, config.alpha)
        return SimpleNamespace(
            clip=clip, class_name=class_name, config=config,
            device=torch.device("cpu"), memory_states=(1,),
            prompts=SimpleNamespace(context=torch.nn.Parameter(torch.zeros(2, 4, 64))),
            text_features=torch.eye(2, 32), threshold=1.5, memory_scale=0.25, text_weight=0.5,
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
        print(f"loaded: {again.class_name}, threshold {again.threshold}, memory of "
              f"{len(again.banks['adapted'].tokens)} patches")
        try:
            load_detector(make, folder, clips[1], Weights("other", None, "1" * 64))
        except ValueError as error:
            print("refused:", str(error).split(" was ", 1)[1])


if __name__ == "__main__":
    demo()
