"""Take LoRA's trained matrices out of a model, and put them into another one of the same base.

Claim: only A and B need to be stored, some thousands of numbers.  But added to other frozen weights
they mean nothing, and the shapes do not reveal the mistake.  So the state that is taken out holds a
fingerprint of the frozen weights, and putting it in compares it.

Left out: files (`checkpoint/peft_layout.py`), context vectors (`checkpoint/detector_files.py`).
Symbols: k = in_features, d = out_features, r = rank.
"""
import hashlib

import torch
from torch import nn

from minilora.io.schema import MapOf, Nothing, Number, OneOf, Record, TensorOf, Text, check
from minilora.io.text import shown
from minilora.lora import LoRALinear, lora_layers

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = 1e4                           # of a trained number; larger ones end in inf after scaling
ADAPTER_SCHEMA = Record({"fingerprint": OneOf(Text(64), Nothing()),
                         "layers": MapOf(Record({"alpha": Number(1e-9, 1e9)}, others=True))})


def adapter_fingerprint(module: nn.Module) -> str:
    """16 hex digits over names, shapes and values of the frozen weights of all LoRA layers."""
    digest = hashlib.sha256()
    for name, layer in lora_layers(module).items():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                values = tensor.detach().cpu().contiguous()
                digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def adapter_state(module: nn.Module) -> dict:
    """The adapter without the frozen weights, on the CPU:

    {"fingerprint": str, "layers": {name: {"lora_A": (r, k), "lora_B": (d, r), "alpha": number}}}.
    """
    layers = {name: {key: getattr(layer, key).detach().cpu().clone() for key in layer.TRAINED}
              | {"alpha": layer.alpha} for name, layer in lora_layers(module).items()}
    return {"fingerprint": adapter_fingerprint(module), "layers": layers}


def load_adapter_state(module: nn.Module, state: dict) -> None:
    """Copy an adapter_state into a module; add_lora must have prepared it in the same way.

    A state without a fingerprint (None: another program wrote it) is accepted for any base model.
    Raises ValueError, and changes nothing, if layers are missing, unexpected or mis-shaped, if
    alpha or the base model differs, or if a value is not finite.
    """
    state = check(state, ADAPTER_SCHEMA, "adapter")
    layers, saved = lora_layers(module), state["layers"]
    missing, extra = sorted(layers.keys() - saved.keys()), sorted(saved.keys() - layers.keys())
    if missing or extra:
        raise ValueError(f"adapter: layers differ, missing [{shown(', '.join(missing))}], extra "
                         f"[{shown(', '.join(extra))}]; call add_lora with the targets and blocks "
                         "that the adapter was made with")
    for name, layer in layers.items():
        check_layer_state(name, layer, saved[name])
    found = adapter_fingerprint(module) if state["fingerprint"] else None
    if found != state["fingerprint"]:
        raise ValueError(f"adapter: made on base weights {shown(state['fingerprint'])}, found "
                         f"{found}; load it onto the model that it was fitted on")
    with torch.no_grad():
        for name, layer in layers.items():
            for key in layer.TRAINED:
                getattr(layer, key).copy_(saved[name][key])


def check_layer_state(name: str, layer: LoRALinear, saved: dict) -> None:
    """Raise ValueError unless the saved values of one layer fit the layer of that name."""
    check(saved, Record({"alpha": Number()} | {
        key: TensorOf(tuple(getattr(layer, key).shape), FLOATS, largest=LARGEST)
        for key in layer.TRAINED}), f"adapter.{name}")
    if saved["alpha"] != layer.alpha:
        raise ValueError(f"adapter: {name} was made with alpha {saved['alpha']:g}, found "
                         f"{layer.alpha:g} in the model; pass the same alpha to add_lora")


def demo() -> None:
    """Save the adapter of one layer, load it onto the same base and onto another one."""
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(96, 64)
    layer = LoRALinear.from_linear(base, rank=2, alpha=4, generator=generator)
    layer.lora_B.data.normal_(generator=generator)
    state = adapter_state(layer)
    stored = sum(x.numel() for x in list(state["layers"][""].values())[:2])
    print(f"stored: {stored} of {stored + layer.weight.numel() + 64} numbers, "
          f"base weights {state['fingerprint']}")
    again = LoRALinear.from_linear(base, rank=2, alpha=4, generator=generator)
    load_adapter_state(again, state)
    x = torch.randn(3, 96, generator=generator)
    print(f"loaded onto the same base: equal outputs {torch.equal(again(x), layer(x))}")
    other = LoRALinear.from_linear(nn.Linear(96, 64), rank=2, alpha=4, generator=generator)
    try:
        load_adapter_state(other, state)
    except ValueError as error:
        print(f"loaded onto another base: {error}")


if __name__ == "__main__":
    demo()
