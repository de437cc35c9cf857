"""Save a fitted detector to a run folder and load it again, without the base weights.

    adapter_model.safetensors   LoRA, as PEFT writes it (checkpoint/peft_layout.py),
    adapter_config.json         with its settings
    memory.safetensors          the memory bank of row "adapted": patch features, in float16; the
                                good pictures themselves, as PNG files
    detector.safetensors        all else: context vectors, text features, threshold, settings; name,
                                path and SHA-256 of the base weights; SHA-256 of the files above

Claim: a run folder may come from a stranger or be damaged.  Nothing in it is run, every value is
compared with a description of its type and range (`DETECTOR_SCHEMA`), and files of different runs
are never mixed, because detector.safetensors names the others by their SHA-256.

Left out: the rest of a run folder (runs/run_class.py).
"""
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minilora.checkpoint.adapter import adapter_state
from minilora.checkpoint.base_model import BASE_SCHEMA, BaseModel, base_of, check_base, open_base
from minilora.checkpoint.kept_pictures import (MAX_SHOT_BYTES, MAX_SHOTS, kept_pictures,
                                               opened_pictures)
from minilora.checkpoint.model_folder import MAX_CONFIG_BYTES
from minilora.checkpoint.peft_layout import (ADAPTER_CONFIG, ADAPTER_MODEL, add_adapter, read_peft,
                                             read_peft_files, write_peft)
from minilora.checkpoint.published import Weights, name_on_the_hub
from minilora.clip import CLIP, CLIPConfig
from minilora.config import SETTING_SCHEMAS, DetectorConfig
from minilora.io.consistent_read import read_result
from minilora.io.files import check_file_size, load_tensors, save_tensors, sha256_of
from minilora.io.schema import (ListOf, MapOf, Nothing, Number, OneOf, Record, TensorOf, Text,
                                Whole, check)
from minilora.io.text import shown
from minilora.io.transaction import result_path
from minilora.memory_bank import MemoryBank

DETECTOR_VERSION = 9                    # format of a run folder; stored in detector.safetensors
DETECTOR_FILE, MEMORY_FILE = "detector.safetensors", "memory.safetensors"
EARLIER_FILE = "adapter.pt"             # of versions up to 7
# Upper limits: LoRA of full rank fits into the first; a full memory bank has 10 MB.
RUN_FILE_BYTES = {ADAPTER_MODEL: 1 << 30, ADAPTER_CONFIG: MAX_CONFIG_BYTES, MEMORY_FILE: 1 << 26,
                  DETECTOR_FILE: 1 << 26}
DIGEST = Text(64)
DETECTOR_SCHEMA = Record({
    "version": Whole(DETECTOR_VERSION, DETECTOR_VERSION), "class_name": Text(),
    "config": Record(SETTING_SCHEMAS),
    "context": TensorOf((2, (1, 1000), None), torch.float32, largest=1e6),
    "text_features": TensorOf((2, None), torch.float32, largest=1e3),
    "memory_scale": Number(1e-9, 1e9), "text_weight": Number(0, 1000),
    "threshold": OneOf(Nothing(), Number(-1e12, 1e12)),
    "shot_measures": MapOf(ListOf(Number(0, 1e9), most=MAX_SHOTS), most=20),
    **dict.fromkeys(("shot_scores", "rotated_scores"), ListOf(Number(-1e12, 1e12),
                                                              most=4 * MAX_SHOTS)),
    "base": BASE_SCHEMA,
    "files": Record({ADAPTER_MODEL: DIGEST, ADAPTER_CONFIG: DIGEST,
                     MEMORY_FILE: OneOf(Nothing(), DIGEST)})})

MEMORY_SCHEMA = Record({"bank": MapOf(TensorOf((None, None), (torch.float16, torch.int32))),
                        "shots": ListOf(TensorOf(((1, MAX_SHOT_BYTES),), torch.uint8),
                                        most=MAX_SHOTS)})

MakeDetector = Callable[[CLIP, str, DetectorConfig, dict], Any]     # dict: an adapter_state


class RunContent(NamedTuple):
    """What is in the files of a run folder, each value of the right type and range."""
    detector: dict                      # DETECTOR_SCHEMA
    adapter: dict                       # an adapter_state
    memory: dict | None                 # MEMORY_SCHEMA; the state of the bank is unchecked


# ---- write --------------------------------------------------------------------------------------

def save_detector(detector: Any, folder: str | Path, weights: Weights) -> None:
    """Write a `Detector` into a folder.  weights: of its base model.

    Raises ValueError if a learned value is not finite; a lower learning rate may help.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_peft(folder, adapter_state(detector.clip.visual), name_on_the_hub(weights.name))
    if detector.banks:
        save_tensors(folder / MEMORY_FILE, {"bank": detector.banks["adapted"].state(),
                                            "shots": kept_pictures(detector.shot_pictures)})
    text_features = detector.text_features
    if text_features is None:                       # fitted without shots: zero-shot only
        text_features = detector.prompt_ensemble_features
    files = {name: sha256_of(folder / name) for name in (ADAPTER_MODEL, ADAPTER_CONFIG)}
    files[MEMORY_FILE] = sha256_of(folder / MEMORY_FILE) if detector.banks else None
    content = check({
        "version": DETECTOR_VERSION, "class_name": detector.class_name,
        "config": asdict(detector.config), "context": detector.prompts.context.detach().cpu(),
        "text_features": text_features.cpu(), "memory_scale": detector.memory_scale,
        "text_weight": detector.text_weight, "threshold": detector.threshold,
        "shot_measures": detector.shot_measures, "shot_scores": detector.shot_scores,
        "rotated_scores": detector.rotated_scores,
        "base": asdict(base_of(weights, detector.clip.config)), "files": files},
        DETECTOR_SCHEMA, "detector")
    save_tensors(folder / DETECTOR_FILE, content)


# ---- read ---------------------------------------------------------------------------------------

def read_detector(folder: str | Path) -> dict:
    """The content of detector.safetensors of a run folder, checked; the folder is not changed.

    Raises ValueError (SchemaError, TensorFileError) or FileNotFoundError, in one line.
    """
    return read_result(folder, RUN_FILE_BYTES, lambda: detector_content(folder))


def detector_content(folder: str | Path) -> dict:
    """What `read_detector` returns, if no process writes there."""
    path = result_path(folder, DETECTOR_FILE)
    if not path.is_file() and (Path(folder) / EARLIER_FILE).is_file():
        raise ValueError(f"{shown(folder)} was made by an earlier version of minilora "
                         f"({EARLIER_FILE}); fit again")
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} not found; give the folder that minilora.fit wrote")
    check_file_size(path, RUN_FILE_BYTES[DETECTOR_FILE])
    content = load_tensors(path)
    version = content.get("version")
    if type(version) is not int or version != DETECTOR_VERSION:
        raise ValueError(f"{shown(path)}: expected format {DETECTOR_VERSION}, found "
                         f"{shown(version, 40)}; fit again")
    return check(content, DETECTOR_SCHEMA, shown(path))


def read_run(folder: str | Path, adapter: str | Path | None = None) -> RunContent:
    """All files of a run folder.  adapter: a folder with another LoRA (`read_peft`), to be used in
    place of its own.  A fit that replaces them meanwhile is waited for.  Raises ValueError or
    OSError, in one line."""
    return read_result(folder, RUN_FILE_BYTES, lambda: run_content(folder, adapter))


def run_content(folder: str | Path, adapter: str | Path | None = None) -> RunContent:
    """What `read_run` returns, if no process writes there."""
    detector = detector_content(folder)
    paths = {name: result_path(folder, name) for name in detector["files"]}
    for name, digest in detector["files"].items():
        path = paths[name]
        own = digest is not None and not (adapter and name in (ADAPTER_MODEL, ADAPTER_CONFIG))
        if own and not path.is_file():
            raise FileNotFoundError(f"{shown(path)} not found, which belongs to {DETECTOR_FILE}; "
                                    "copy the whole run folder")
        if own:
            check_file_size(path, RUN_FILE_BYTES[name])
        if own and sha256_of(path) != digest:
            raise ValueError(f"{shown(path)} is not the file that {DETECTOR_FILE} was made with "
                             "(its sha256 differs): it is damaged or of another program; fit "
                             "again, or give a folder with another LoRA by --adapter")
    memory = detector["files"][MEMORY_FILE]
    lora = read_peft(adapter) if adapter else read_peft_files(paths[ADAPTER_CONFIG],
                                                              paths[ADAPTER_MODEL])
    kept = memory and check(load_tensors(paths[MEMORY_FILE]), MEMORY_SCHEMA,
                            shown(paths[MEMORY_FILE]))
    return RunContent(detector, lora, kept)


def load_detector(make: MakeDetector, folder: str | Path, clip: CLIP, weights: Weights,
                  adapter: str | Path | None = None) -> Any:
    """The Detector that `save_detector` wrote.  make(clip, class_name, config, adapter_state)
    returns a new one;  adapter: as in `read_run`.

    Raises ValueError if the files belong to other base weights or another version, or are damaged.
    """
    content = read_run(folder, adapter)
    check_base(folder, BaseModel(**content.detector["base"]), weights, clip.config)
    try:
        return make_detector(make, content, clip)
    except ValueError as error:
        remedy = f"give another folder than {shown(adapter)}" if adapter else "fit again"
        raise ValueError(f"{shown(folder)}: {str(error).partition('; ')[0]}; {remedy}") from error


def make_detector(make: MakeDetector, content: RunContent, clip: CLIP) -> Any:
    """The Detector of the content of a run folder; ValueError where its parts do not fit together.
    """
    saved = content.detector
    config = DetectorConfig(**saved["config"])
    detector = make(clip, saved["class_name"], config, content.adapter)
    sizes = {"text_features": (2, clip.config.embed),
             "context": tuple(detector.prompts.context.shape)}
    for name, shape in sizes.items():
        check(saved[name], TensorOf(shape), name)
    detector.prompts.context.data.copy_(saved["context"])
    detector.text_features = saved["text_features"].to(detector.device)
    for name in ("threshold", "memory_scale", "text_weight", "shot_measures", "shot_scores",
                 "rotated_scores"):
        setattr(detector, name, saved[name])
    if content.memory is not None:
        frozen = len(detector.memory_states) * clip.config.vision_width
        bank = MemoryBank.from_state(content.memory["bank"], frozen + clip.config.embed,
                                     detector.device)
        detector.shot_pictures = opened_pictures(content.memory["shots"], config.resolution
                                                 or clip.config.resolution, clip.config.patch)
        detector.banks = {"adapted": bank, "memory": bank.truncated(frozen)}
    return detector


def open_detector(make: MakeDetector, run: str | Path, model: str | Path | None = None,
                  device: str = "cpu", adapter: str | Path | None = None) -> Any:
    """The Detector of a run folder (or of a file in it) with its base weights.

    model: the base weights; None: where fit found them, else by their name; nothing is downloaded.
    make, adapter: as in `load_detector`.  Raises ValueError or OSError with one line for the user.
    """
    folder = Path(run).parent if Path(run).is_file() else Path(run)
    base = BaseModel(**read_detector(folder)["base"])
    clip, weights = open_base(folder, base, model, device)
    return load_detector(make, folder, clip, weights, adapter)


def demo() -> None:
    """Save a small detector and load it again; another base model is refused."""
    import tempfile
    from types import SimpleNamespace

    from minilora.lora import add_lora

    def make(clip, class_name, config, adapter=None):
        """The stored parts of a `Detector`, untrained."""
        add_adapter(clip.visual, adapter) if adapter else add_lora(
            clip.visual, config.targets, (2,), config.rank, config.alpha)
        return SimpleNamespace(
            clip=clip, class_name=class_name, config=config,
            device=torch.device("cpu"), memory_states=(1,),
            prompts=SimpleNamespace(context=torch.nn.Parameter(torch.zeros(2, 4, 64))),
            text_features=torch.eye(2, 32), threshold=1.5, memory_scale=0.25, text_weight=0.5,
            shot_measures={}, shot_pictures=[], shot_scores=[], rotated_scores=[],
            banks={"adapted": MemoryBank(torch.eye(5, 96), torch.zeros(5, 2).int())})
    clips = [CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                             text_width=64, text_layers=1)).initialise(
                                 torch.Generator().manual_seed(0)) for _ in range(2)]
    weights = Weights("toy", None, "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        save_detector(make(clips[0], "plate", DetectorConfig()), folder, weights)
        for path in sorted(Path(folder).iterdir()):
            print(f"{path.name:26} {path.stat().st_size:6,} bytes")
        again = load_detector(make, folder, clips[1], weights)
        print(f"loaded: {again.class_name}, threshold {again.threshold}, memory of "
              f"{len(again.banks['adapted'].tokens)} patches")
        try:
            load_detector(make, folder, clips[1], Weights("other", None, "1" * 64))
        except ValueError as error:
            print("refused:", str(error).split(" was ", 1)[1])


if __name__ == "__main__":
    demo()
