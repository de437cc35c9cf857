"""What LoRA learned, as a small state of its own that fits one base model only.

Claim: A and B are all there is to keep, some thousands of numbers; but added to other frozen
weights they mean nothing, and no shape would tell. So the state carries a fingerprint of the
weights beneath it, and loading compares.

Leaves out: files (`files.save_tensors` writes a state), context vectors (`detector.py`).
Symbols: k = in_features, d = out_features, r = rank.
"""
import hashlib

import torch

from minilora.lora import lora_layers


def adapter_fingerprint(module):
    """16 hex digits over names, shapes and values of the frozen weights beneath the adapter."""
    digest = hashlib.sha256()
    for name, layer in lora_layers(module).items():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                values = tensor.detach().cpu().contiguous()
                digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def adapter_state(module):
    """The adapter alone, on the CPU, in the form that files.save_tensors takes:

    {"fingerprint": str, "layers": {name: {"lora_A": (r, k), "lora_B": (d, r), "alpha": number}}}.
    The frozen weights are named by their fingerprint, not stored.
    """
    layers = {name: {"lora_A": layer.lora_A.detach().cpu().clone(),
                     "lora_B": layer.lora_B.detach().cpu().clone(), "alpha": layer.alpha}
              for name, layer in lora_layers(module).items()}
    return {"fingerprint": adapter_fingerprint(module), "layers": layers}


def load_adapter_state(module, state):
    """Copy an adapter_state into a module that add_lora has prepared in the same way.

    Raises ValueError, with nothing changed, for missing, extra or misshaped entries, another
    alpha, values that are not finite, or another base model.
    """
    if state.keys() != {"fingerprint", "layers"}:
        raise ValueError(f"adapter: expected a state with fingerprint and layers, found "
                         f"{sorted(state)}; pass what adapter_state returned")
    layers, saved = lora_layers(module), state["layers"]
    missing, extra = sorted(layers.keys() - saved.keys()), sorted(saved.keys() - layers.keys())
    if missing or extra:
        raise ValueError(f"adapter: layers differ, missing {missing}, extra {extra}; call add_lora "
                         f"with the targets and blocks that the adapter was made with")
    for name, layer in layers.items():
        check_entry(name, layer, saved[name])
    found = adapter_fingerprint(module)
    if found != state["fingerprint"]:
        raise ValueError(f"adapter: made on base weights {state['fingerprint']}, found {found}; "
                         f"load it onto the model that it was fitted on")
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A.copy_(saved[name]["lora_A"])
            layer.lora_B.copy_(saved[name]["lora_B"])


def check_entry(name, layer, entry):
    """Raise ValueError unless a saved entry fits the layer of that name."""
    if entry.keys() != {"lora_A", "lora_B", "alpha"}:
        raise ValueError(f"adapter: {name} must hold lora_A, lora_B and alpha, found "
                         f"{sorted(entry)}; the file is damaged or of another version")
    if entry["alpha"] != layer.alpha:
        raise ValueError(f"adapter: {name} was made with alpha {entry['alpha']}, found "
                         f"{layer.alpha} in the model; pass the same alpha to add_lora")
    for key in ("lora_A", "lora_B"):
        expected, found = tuple(getattr(layer, key).shape), tuple(entry[key].shape)
        if expected != found:
            raise ValueError(f"adapter: {name}.{key} must be {expected}, found {found}; the rank "
                             f"or the base model differs")
        if not entry[key].isfinite().all():
            raise ValueError(f"adapter: {name}.{key} holds NaN or inf; fit it again, with a "
                             f"smaller learning rate")


def demo():
    from torch import nn

    from minilora.lora import LoRALinear
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(96, 64)
    layer = LoRALinear.from_linear(base, rank=2, alpha=4, generator=generator)
    layer.lora_B.data.normal_(generator=generator)
    state = adapter_state(layer)
    kept = sum(x.numel() for x in list(state["layers"][""].values())[:2])
    print(f"kept: {kept} numbers of {kept + layer.weight.numel() + 64}, "
          f"base weights {state['fingerprint']}")
    again = LoRALinear.from_linear(base, rank=2, alpha=4, generator=generator)
    load_adapter_state(again, state)
    x = torch.randn(3, 96, generator=generator)
    print(f"loaded onto the same base: equal outputs {torch.equal(again(x), layer(x))}")
    other = LoRALinear.from_linear(nn.Linear(96, 64), rank=2, alpha=4, generator=generator)
    try:
        load_adapter_state(other, state)
    except ValueError as error:
        print(f"onto another: {error}")


if __name__ == "__main__":
    demo()
