"""Random changes of values, for fuzz.py: types, ranges, nesting, dtypes, shapes, odd texts.

Bytes that are flipped at random rarely pass the first check of a format.  Here the value is changed
and the file written again as a valid one, so that the checks behind the first are reached.
"""
import copy
import math

import torch

ODD_TEXTS = ("", "x", "\x1b[2J\x1b]0;owned\x07", "a\nOK  score 0.1", "\ud800", "\u202e\u2066txt",
             "../../etc/passwd", "x" * 5000, "é" * 300, "nan", "1", "<|endoftext|>", "\0", "%s{0}",
             "__class__", "q", "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight")
ODD_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 9, 255, 10**5, 2**31, 2**63, -2**63, 10**30, 0.0, -0.0, 0.5,
               1.5, 64.5, 1e-320, 1e-9, 1e30, 1e308, -1e308, math.nan, math.inf, -math.inf)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8,
          torch.uint8, torch.bool)


def odd_value(draw, tensors=True, depth=0):
    """A value of any type.  tensors: whether it may be a tensor."""
    kind = draw.randrange(9 if tensors else 8)
    if kind < 3:
        return draw.choice(ODD_NUMBERS)
    if kind < 5:
        return draw.choice(ODD_TEXTS)
    if kind == 5:
        return draw.choice((None, True, False))
    if kind == 8:
        return odd_tensor(draw)
    if depth > 2:
        return []
    items = [odd_value(draw, tensors, depth + 1) for _ in range(draw.choice((0, 1, 2, 3, 30)))]
    return items if kind == 6 else {draw.choice(ODD_TEXTS) + str(k): v for k, v in enumerate(items)}


def odd_tensor(draw):
    """A small tensor of any dtype and shape."""
    shape = [draw.choice((0, 1, 2, 3, 4, 64)) for _ in range(draw.randrange(4))]
    return torch.full(shape, draw.choice((0.0, 1.0, -1.0, 1e4, 60_000.0))).to(draw.choice(DTYPES))


def changed_tensor(tensor, draw):
    """A tensor with another dtype, shape or values."""
    kind = draw.randrange(9)
    if kind == 0:
        return tensor.to(draw.choice(DTYPES))
    if kind == 1 and tensor.ndim and tensor.shape[-1]:
        return tensor[..., :-1].clone()
    if kind == 2 and tensor.ndim and len(tensor):
        return tensor[:draw.randrange(len(tensor))].clone()
    if kind == 3:
        return tensor.mT.contiguous() if tensor.ndim > 1 else tensor[None].clone()
    if kind == 4:
        return tensor.flatten().clone()
    if kind == 5:
        return torch.cat([tensor.flatten()] * 2).reshape(2, *tensor.shape)
    if not tensor.numel():
        return odd_tensor(draw)
    changed = tensor.clone().flatten()
    if kind == 6 and changed.is_floating_point():
        changed[draw.randrange(len(changed))] = draw.choice((math.nan, math.inf, -math.inf, 6e4))
    elif kind == 7:
        changed = changed * 0
    elif changed.is_floating_point():
        changed = changed * draw.choice((-1, 1e-8, 10, 1e4, 1e30))
    return changed.reshape(tensor.shape).to(tensor.dtype)


def changed_value(value, draw, tensors=True):
    """A value in the place of this one: near it, or of another type."""
    if draw.random() < 0.4:
        return odd_value(draw, tensors)
    if isinstance(value, torch.Tensor):
        return changed_tensor(value, draw)
    if type(value) in (int, float):
        return draw.choice((value + 1, value - 1, -value, value * 1000, float(value), str(value),
                            [value], value * 0.999, int(value) if math.isfinite(value) else 0))
    if type(value) is str:
        return draw.choice((value.upper(), value[1:], value * 2, value + draw.choice(ODD_TEXTS),
                            [value], value.encode("utf-8", "replace").hex()))
    if type(value) is bool or value is None:
        return draw.choice((not value, 0, 1, "true", "false"))
    if type(value) is list:
        return draw.choice((value[::-1], value * 2, value[1:], {"0": value}, [value],
                            value[0] if value else 0))
    return draw.choice(({}, [value], list(value.items())[:2] and [list(value)], list(value)))


def places(value, depth=0):
    """(container, key) of everything inside a value."""
    pairs = list(value.items()) if type(value) is dict else (
        list(enumerate(value)) if type(value) is list and depth < 6 else [])
    for key, inside in pairs:
        yield value, key
        yield from places(inside, depth + 1)


def mutated(content, draw, tensors=True, times=None):
    """A copy of nested dicts and lists with one to three random changes.

    Half of the changes are at one of the first places, which are few but matter most.
    """
    try:
        return with_changes(copy.deepcopy(content), draw, tensors, times)
    except (ValueError, OSError) as error:              # not to be taken for a reader's refusal
        raise RuntimeError(f"the change itself failed: {error}") from error


def with_changes(content, draw, tensors, times):
    for _ in range(times or draw.choice((1, 1, 1, 2, 3))):
        found = list(places(content))
        if not found or draw.random() < 0.02:
            return odd_value(draw, tensors)
        container, key = draw.choice(found if draw.random() < 0.5 else found[:60])
        kind = draw.randrange(10)
        if kind == 0:
            del container[key]
        elif kind == 1 and type(container) is dict:
            container[draw.choice(ODD_TEXTS) or "more"] = odd_value(draw, tensors)
        elif kind == 2 and type(container) is dict:
            container[f"{key}{draw.choice(ODD_TEXTS)}"] = container.pop(key)
        elif kind == 3:
            other, name = draw.choice(found)
            if name in other if type(other) is dict else name < len(other):
                container[key] = copy.deepcopy(other[name])
        else:
            container[key] = changed_value(container[key], draw, tensors)
    return content
