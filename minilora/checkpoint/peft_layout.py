"""LoRA in the two files of Hugging Face's PEFT, which other programs load, and from them.

    adapter_model.safetensors    base_model.model.encoder.layers.3.self_attn.q_proj.lora_A.weight, …
    adapter_config.json          {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules":
                                 ["q_proj", ..], "layers_to_transform": [3, ..], ..}

Claim: what is learned here is no format of its own: `PeftModel.from_pretrained(vision_model,
run_folder)` adds it to transformers' CLIPVisionModel (version 5; version 4 puts `vision_model.`
before `encoder`), and a LoRA of these projections that PEFT has trained is read here.

    https://github.com/huggingface/peft, checkpoint format ("docs/source/developer_guides/
    checkpoint.md"); scale: alpha / r, or alpha / sqrt(r) with "use_rslora" (Kalajdzievski 2023).

The keys in the file say which layers have LoRA; the configuration must not contradict them, and
must ask for nothing that changes the result in another way.
Symbols: r rank.  Left out: LoRA on the text tower and in the feed-forward layers, which
minilora.lora does not have; several adapters in one folder.
"""
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minilora import lora
from minilora.checkpoint.adapter import (FLOATS, LARGEST, adapter_fingerprint, adapter_state,
                                         load_adapter_state)
from minilora.checkpoint.model_folder import MAX_CONFIG_BYTES
from minilora.clip import CLIP
from minilora.io.files import read_json, write_json, write_safetensors
from minilora.io.safetensors import read_safetensors
from minilora.io.schema import (Flag, ListOf, Nothing, Number, OneOf, Record, TensorOf, Text, Whole,
                                check)
from minilora.io.text import shown
from minilora.lora import TARGETS

ADAPTER_MODEL, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_MODULES = {target: f"{target}_proj" for target in TARGETS}     # q -> q_proj
PEFT_PARTS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight",
              "magnitude": "lora_magnitude_vector"}                 # DoRA's, of a subclass
KEY = re.compile(r"([\w.]{0,200}\.)?encoder\.layers\.(\d{1,4})\.self_attn\.([a-z]{1,3})_proj"
                 r"\.([\w.]{1,100})", re.ASCII)
FINGERPRINT_KEY = "minilora.base"       # in the metadata: adapter_fingerprint of the base model
# Settings of PEFT that change what LoRA computes, or the base model, in ways not known here
REFUSED = ("alpha_pattern", "rank_pattern", "modules_to_save", "layer_replication", "lora_bias",
           "fan_in_fan_out", "target_parameters", "trainable_token_indices", "use_qalora",
           "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
           "monteclora_config", "velora_config")
NUMBERS = OneOf(Nothing(), Whole(0, 9999), ListOf(Whole(0, 9999), 0, 10_000))
PEFT_SCHEMA = Record(
    {"peft_type": Text(choices=("LORA",)), "r": Whole(1, 4096), "lora_alpha": Number(1e-6, 1e6)},
    optional={"use_rslora": Flag(), "use_dora": Flag(), "bias": Text(choices=("none",)),
              "target_modules": OneOf(Nothing(), Text(10_000), ListOf(Text(), 0, 10_000)),
              "layers_to_transform": NUMBERS,
              # Other starts ("pissa", "olora", ..) subtract something from the base weights.
              "init_lora_weights": OneOf(Flag(), Text(choices=("gaussian", "eva", "orthogonal")))},
    others=True)


def peft_key(name: str, part: str) -> str:
    """PEFT's key of a trained tensor: ("blocks.3.attn.q", "lora_A") -> "base_model.model. .."."""
    _, block, _, target = name.split(".")
    return (f"base_model.model.encoder.layers.{block}.self_attn.{PEFT_MODULES[target]}."
            f"{PEFT_PARTS.get(part, part)}")


def own_place(key: str) -> tuple[str, str]:
    """The inverse of `peft_key`, for every prefix that versions of transformers and peft write.

    Raises ValueError for what is not LoRA of an attention projection of the image tower.
    """
    match = KEY.fullmatch(key)
    prefix, block, target, part = match.groups() if match else ("", "", "", "")
    if target not in TARGETS or "text_model" in (prefix or ""):
        raise ValueError(f"{shown(key)} is no LoRA of {', '.join(PEFT_MODULES.values())} of CLIP's "
                         "image tower; train LoRA on these modules of CLIPVisionModel only")
    part = part.removesuffix(".weight")
    known = {value.removesuffix(".weight"): name for name, value in PEFT_PARTS.items()}
    return f"blocks.{int(block)}.attn.{target}", known.get(part, part)


def write_peft(folder: str | Path, state: dict, base: str) -> None:
    """Write an `adapter_state` as PEFT's two files.  base: name of the base model, for readers."""
    layers = state["layers"]
    first = next(iter(layers.values()))
    rank, alpha = len(first["lora_A"]), first["alpha"]
    if any((len(layer["lora_A"]), layer["alpha"]) != (rank, alpha) for layer in layers.values()):
        raise ValueError("adapter: its layers differ in rank or alpha; write one file for each "
                         "pair of them")
    config = peft_config(list(layers), rank, alpha, base)
    config["use_dora"] = "magnitude" in first
    tensors = {peft_key(name, part): value for name, layer in layers.items()
               for part, value in layer.items() if part != "alpha"}
    marks = {"format": "pt"}            # transformers asks for it
    if state["fingerprint"]:
        marks[FINGERPRINT_KEY] = state["fingerprint"]
    write_safetensors(Path(folder) / ADAPTER_MODEL, tensors, marks)
    write_json(Path(folder) / ADAPTER_CONFIG, config)


def peft_config(names: list[str], rank: int, alpha: float, base: str) -> dict[str, Any]:
    """The content of adapter_config.json.  names: of the layers, such as blocks.3.attn.q."""
    places = {(int(name.split(".")[1]), PEFT_MODULES[name.split(".")[3]]) for name in names}
    blocks, modules = (sorted({place[k] for place in places}) for k in (0, 1))
    every = len(places) == len(blocks) * len(modules)   # else each module is named in full
    return {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": base,
            "r": rank, "lora_alpha": alpha,
            "target_modules": modules if every else [
                f"layers.{n}.self_attn.{module}" for n, module in sorted(places)],
            "layers_to_transform": blocks if every else None,
            "layers_pattern": "layers" if every else None,
            "bias": "none", "lora_dropout": 0.0, "fan_in_fan_out": False, "use_rslora": False,
            "use_dora": False, "init_lora_weights": True, "modules_to_save": None,
            "inference_mode": True}


def read_peft(folder: str | Path) -> dict:
    """The `adapter_state` in PEFT's two files of a folder; see `read_peft_files`."""
    return read_peft_files(Path(folder) / ADAPTER_CONFIG, Path(folder) / ADAPTER_MODEL)


def read_peft_files(config_path: Path, path: Path) -> dict:
    """The `adapter_state` in PEFT's two files; its fingerprint is None if PEFT wrote them.

    Raises ValueError (CheckpointError for a damaged file) in one line, OSError for a missing one.
    """
    for needed in (config_path, path):
        if not needed.is_file():
            raise FileNotFoundError(f"{shown(needed)} not found; expected {ADAPTER_MODEL} and "
                                    f"{ADAPTER_CONFIG}, as PEFT and minilora.fit write them")
    config = read_json(config_path, MAX_CONFIG_BYTES)
    tensors, metadata = read_safetensors(path)
    try:
        return state_from_peft(check(config, PEFT_SCHEMA, ADAPTER_CONFIG), tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{shown(path.parent)}: {error}") from error


def state_from_peft(config: dict, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict:
    """The `adapter_state` of a checked configuration and the tensors of the other file."""
    wrong = [name for name in REFUSED if config.get(name)]
    if wrong:
        raise ValueError(f"{ADAPTER_CONFIG} sets {wrong[0]}, which minilora.lora does not have; "
                         "train LoRA without it")
    if config.get("use_dora") and "magnitude" not in lora.LoRALinear.TRAINED:
        raise ValueError(f"{ADAPTER_CONFIG} sets use_dora, but minilora.lora has plain LoRA; train "
                         "LoRA without it")
    rank, layers = config["r"], {}
    root = math.sqrt(rank) if config.get("use_rslora") else 1.0     # alpha root / r = alpha / root
    for key, value in tensors.items():
        name, part = own_place(key)
        check_named(config, name)
        layer = layers.setdefault(name, {"alpha": config["lora_alpha"] * root})
        if part in layer:
            raise ValueError(f"{ADAPTER_MODEL} holds {part} of {name} twice, the second time as "
                             f"{shown(key)}; keep one of them")
        layer[part] = value
    if not layers:
        raise ValueError(f"{ADAPTER_MODEL} holds no tensors; train LoRA and save it again")
    entry = Record({"alpha": Number(), "lora_A": TensorOf((rank, None), FLOATS, largest=LARGEST),
                    "lora_B": TensorOf((None, rank), FLOATS, largest=LARGEST)}, others=True)
    for name, layer in layers.items():
        check(layer, entry, name)
        if ("magnitude" in layer) != bool(config.get("use_dora")):
            raise ValueError(f"{ADAPTER_CONFIG} says use_dora {bool(config.get('use_dora'))}, but "
                             f"{name} holds {shown(', '.join(layer))}; save it again")
    mark = metadata.get(FINGERPRINT_KEY)
    return {"fingerprint": check(mark, OneOf(Text(64), Nothing()), FINGERPRINT_KEY),
            "layers": layers}


def check_named(config: dict, name: str) -> None:
    """Raise ValueError if the configuration does not name the layer of that name, which would then
    have no LoRA in PEFT.  A pattern for target_modules is not followed: the keys decide."""
    _, block, _, target = name.split(".")
    modules, blocks = config.get("target_modules"), config.get("layers_to_transform")
    blocks = [blocks] if type(blocks) is int else blocks
    full = f"layers.{block}.self_attn.{PEFT_MODULES[target]}"
    named = type(modules) is not list or any(f".{full}".endswith(f".{m}") or m.endswith(full)
                                             for m in modules)
    if not named or blocks and int(block) not in blocks:
        raise ValueError(f"{ADAPTER_MODEL} holds {full}, which target_modules or "
                         f"layers_to_transform of {ADAPTER_CONFIG} does not name; the two files do "
                         "not belong together")


def add_adapter(tower: nn.Module, state: dict) -> list[str]:
    """Add LoRA layers to a tower as an `adapter_state` describes them.  Returns their names.

    Raises ValueError if a layer does not fit; the tower may then hold new layers without effect.
    """
    for name, layer in state["layers"].items():
        _, block, _, target = name.split(".")
        lora.add_lora(tower, (target,), (int(block),), len(layer["lora_A"]), layer["alpha"])
    load_adapter_state(tower, state)
    return list(state["layers"])


def load_peft(folder: str | Path, clip: CLIP) -> list[str]:
    """Add the LoRA in PEFT's two files to the image tower of a CLIP.  Returns the layers' names.

    Raises ValueError if it does not fit, OSError if a file is missing.
    """
    return add_adapter(clip.visual, read_peft(folder))


def demo() -> None:
    """Write the LoRA of a small tower, show the files, and read them into another tower."""
    import tempfile

    from minilora.clip import CLIPConfig
    towers = [CLIP(CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=64, patch=16,
                              text_width=64, text_layers=1)).initialise(
                                  torch.Generator().manual_seed(0)) for _ in range(2)]
    lora.add_lora(towers[0].visual, ("q", "v"), (1, 2), rank=2, alpha=4)
    with tempfile.TemporaryDirectory() as folder:
        write_peft(folder, adapter_state(towers[0].visual), "toy")
        tensors, marks = read_safetensors(Path(folder) / ADAPTER_MODEL)
        for key in list(tensors)[:2]:
            print(key, tuple(tensors[key].shape))
        print(f"... {len(tensors)} tensors, {marks}")
        config = read_json(Path(folder) / ADAPTER_CONFIG)
        print({key: config[key] for key in ("r", "target_modules", "layers_to_transform")})
        names = load_peft(folder, towers[1])
        print(f"read into another tower: {', '.join(names[:2])}, ... {names[-1]}")
        pixels = torch.rand(1, 3, 64, 64)
        same = torch.equal(*(clip.encode_image(pixels) for clip in towers))
        print(f"equal features: {same}, base {adapter_fingerprint(towers[1].visual)}")


if __name__ == "__main__":
    demo()
