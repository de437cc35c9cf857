"""Nested values with tensors in them, as JSON and a flat table of tensors.

Claim: a safetensors file holds named tensors and texts, nothing nested.  But an adapter or a resume
point is a dict of dicts and lists.  So the nesting becomes JSON, in which {"$tensor": name} stands
for a tensor of the file; a dict whose keys are not all texts becomes {"$items": [[key, value]]}.

Left out: the file itself (`io/files.py` writes and reads it), checking the values (`io/schema.py`).
"""
from typing import Any

import torch
from torch import Tensor

from minilora.io.checkpoint_error import MAX_NUMBER_KEY
from minilora.io.safetensors import DTYPE_NAMES
from minilora.io.text import shown

PLAIN_TYPES = (str, int, float, bool, type(None))   # besides tensors, lists and dicts
MAX_DEPTH = 16                                      # of lists and dicts in one another


class TensorFileError(ValueError):
    """A tensor file that cannot be written or read; the message says which, why and what to do."""


def to_json(value: Any, position: str, tensors: dict[str, Tensor], depth: int) -> Any:
    """`value` as JSON; each tensor is put into `tensors` and replaced by its name.

    position: named in errors, and the name of a tensor.
    """
    if isinstance(value, Tensor):
        if value.dtype not in DTYPE_NAMES or value.layout != torch.strided:
            raise TensorFileError(f"tensor at {position}: {value.dtype} {value.layout} cannot be "
                                  "stored; convert it")
        name = position if position not in tensors else f"{position}#{len(tensors)}"
        tensors[name] = value
        return {"$tensor": name}
    if depth > MAX_DEPTH:
        raise TensorFileError(f"value at {position[:100]}: nested over {MAX_DEPTH} deep")
    if type(value) is dict:
        for key in value:
            if not is_key(key):
                raise TensorFileError(f"key {shown(key)} in {position or 'the dict'}: "
                                      "expected a str, or an int of 32 bits, found "
                                      f"{type(key).__name__}")
        inside = {key: to_json(item, f"{position}.{key}".removeprefix("."), tensors, depth + 1)
                  for key, item in value.items()}
        plain = all(type(key) is str and not key.startswith("$") for key in inside)
        return inside if plain else {"$items": [[key, item] for key, item in inside.items()]}
    if type(value) is list:
        return [to_json(item, f"{position}.{k}".removeprefix("."), tensors, depth + 1)
                for k, item in enumerate(value)]
    if type(value) in PLAIN_TYPES:                  # not isinstance: numpy.float64 is a float
        return value
    raise TensorFileError(f"value at {position}: expected a tensor, dict, list, str, int, float, "
                          f"bool or None, found {type(value).__name__}; convert it before saving")


def is_key(key: Any) -> bool:
    """Whether a value can be the key of a dict here."""
    return type(key) is str or type(key) is int and abs(key) <= MAX_NUMBER_KEY


def from_json(value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    """The inverse of `to_json`.  Each tensor is taken out of `tensors`: it can be used once only,
    so a small file cannot become a large object.  Raises TensorFileError."""
    if depth > MAX_DEPTH:
        raise TensorFileError(f"values are nested over {MAX_DEPTH} deep")
    if type(value) is list:
        return [from_json(item, tensors, depth + 1) for item in value]
    if type(value) is not dict:
        return value
    if value.keys() == {"$tensor"}:
        name = value["$tensor"]
        if type(name) is not str or name not in tensors:
            raise TensorFileError(f"there is no tensor {shown(name)}, or it is used twice")
        return tensors.pop(name).clone()            # independent of the mapped file
    if value.keys() == {"$items"}:
        pairs = value["$items"]
        if type(pairs) is not list or not all(type(pair) is list and len(pair) == 2
                                              and is_key(pair[0]) for pair in pairs):
            raise TensorFileError("$items must be pairs of a key and a value")
        return {key: from_json(item, tensors, depth + 1) for key, item in pairs}
    return {key: from_json(item, tensors, depth + 1) for key, item in value.items()}


def demo() -> None:
    """A nested dict, taken apart and put together again; a value that has no JSON."""
    tensors, content = {}, {"loss": [0.5, 0.25], "moments": {0: torch.zeros(2)}, "rank": 4}
    structure = to_json(content, "", tensors, 0)
    print("JSON:", structure)
    print("tensors:", tensors)
    print("again:", from_json(structure, tensors, 0))
    for wrong in ({"f": print}, {"f": {(1, 2): 3}}):
        try:
            to_json(wrong, "", {}, 0)
        except TensorFileError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
