"""Check values that come from a file against a description: type, range, length, shape, dtype.

Claim: a file from a stranger can hold any value at any place.  One description for each format and
one function that compares (`check`) replace many single tests, of which one is always missing.  All
errors have one form: `adapter.alpha: expected a number from 0 to 100, found 'much'`.

    check({"rank": 4.5}, Record({"rank": Whole(1, 64)}), "adapter")     # raises SchemaError

Booleans are not numbers here, and NaN and inf are no numbers either.
Left out: relations between values (a shape that another value fixes): the reader checks them.
"""
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minilora.io.text import shown


class SchemaError(ValueError):
    """A value that does not fit its description; the message says where, and what was expected."""


@dataclass(frozen=True)
class Whole:
    """An int from low to high."""
    low: int
    high: int

    def accept(self, value: Any, where: str) -> int:
        """The value, if it fits.  Raises SchemaError."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise mismatch(where, f"a whole number from {self.low:,} to {self.high:,}", value)
        return value


@dataclass(frozen=True)
class Number:
    """A finite float or int from low to high; returned as a float."""
    low: float = -1e300
    high: float = 1e300

    def accept(self, value: Any, where: str) -> float:
        """The value as a float, if it fits.  Raises SchemaError."""
        if type(value) not in (int, float) or not self.low <= value <= self.high:   # NaN: refused
            raise mismatch(where, f"a number from {self.low:,g} to {self.high:,g}", value)
        return float(value)


@dataclass(frozen=True)
class Text:
    """A str of at most `most` characters; one of `choices` if they are given."""
    most: int = 1000
    choices: tuple[str, ...] | None = None

    def accept(self, value: Any, where: str) -> str:
        """The value, if it fits.  Raises SchemaError."""
        if type(value) is not str or len(value) > self.most:
            raise mismatch(where, f"a text of at most {self.most:,} characters", value)
        if self.choices is not None and value not in self.choices:
            raise mismatch(where, f"one of {', '.join(self.choices)}", value)
        return value


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def accept(self, value: Any, where: str) -> bool:
        """The value, if it fits.  Raises SchemaError."""
        if type(value) is not bool:
            raise mismatch(where, "true or false", value)
        return value


@dataclass(frozen=True)
class Nothing:
    """None (null in JSON)."""

    def accept(self, value: Any, where: str) -> None:
        """None, if the value is.  Raises SchemaError."""
        if value is not None:
            raise mismatch(where, "nothing (null)", value)


@dataclass(frozen=True, init=False)
class OneOf:
    """A value that fits one of several schemas."""
    schemas: tuple

    def __init__(self, *schemas: Any) -> None:
        object.__setattr__(self, "schemas", schemas)

    def accept(self, value: Any, where: str) -> Any:
        """The value as the first schema that fits returns it.  Raises SchemaError."""
        errors = []
        for schema in self.schemas:
            try:
                return schema.accept(value, where)
            except SchemaError as error:
                errors.append(str(error).partition(": expected ")[2].partition(", found ")[0])
        raise mismatch(where, " or ".join(errors), value)


@dataclass(frozen=True)
class ListOf:
    """A list (or tuple) of `least` to `most` items that all fit one schema; returned as a list."""
    item: Any
    least: int = 0
    most: int = 10**7

    def accept(self, value: Any, where: str) -> list:
        """A list of the accepted items.  Raises SchemaError."""
        if type(value) not in (list, tuple) or not self.least <= len(value) <= self.most:
            raise mismatch(where, f"a list of {self.least:,} to {self.most:,} values", value)
        return [self.item.accept(v, f"{where}[{k}]") for k, v in enumerate(value)]


@dataclass(frozen=True)
class MapOf:
    """A dict with at most `most` str keys, whose values all fit one schema."""
    item: Any
    most: int = 10**6

    def accept(self, value: Any, where: str) -> dict:
        """A dict of the accepted values.  Raises SchemaError."""
        if type(value) is not dict or len(value) > self.most \
                or any(type(key) is not str for key in value):
            raise mismatch(where, f"at most {self.most:,} named values", value)
        return {key: self.item.accept(v, place(where, key)) for key, v in value.items()}


@dataclass(frozen=True)
class Record:
    """A dict with these keys.  optional: keys that may be absent;  others: further keys are kept.
    """
    keys: dict
    optional: dict = field(default_factory=dict)
    others: bool = False

    def accept(self, value: Any, where: str) -> dict:
        """A dict of the accepted values.  Raises SchemaError."""
        if type(value) is not dict:
            raise mismatch(where, "named values", value)
        missing = [key for key in self.keys if key not in value]
        extra = [key for key in value if key not in self.keys and key not in self.optional]
        if missing:
            raise SchemaError(f"{where}: expected the key {missing[0]}, found "
                              f"{shown(', '.join(map(str, value)) or 'none')}")
        if extra and not self.others:
            raise SchemaError(f"{where}: expected no key {shown(str(extra[0]))}, found it")
        known = self.keys | self.optional
        return {key: known[key].accept(v, place(where, key)) if key in known else v
                for key, v in value.items()}


@dataclass(frozen=True)
class TensorOf:
    """A tensor.  shape: for each axis an int, None (any size), or (low, high);  dtype: one or a
    tuple of them;  finite: NaN and inf are refused.  The largest absolute value may be limited."""
    shape: tuple
    dtype: Any = torch.float32
    finite: bool = True
    largest: float = math.inf

    def accept(self, value: Any, where: str) -> Tensor:
        """The value, if it fits.  Raises SchemaError."""
        dtypes = self.dtype if isinstance(self.dtype, tuple) else (self.dtype,)
        kinds = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        if not isinstance(value, Tensor) or value.dtype not in dtypes \
                or len(value.shape) != len(self.shape) \
                or not all(fits(size, n) for size, n in zip(self.shape, value.shape)):
            sizes = ", ".join(size_text(size) for size in self.shape)
            raise mismatch(where, f"a tensor ({sizes}) of {kinds}", value)
        if self.finite and value.is_floating_point() and value.numel() \
                and not torch.stack(value.aminmax()).isfinite().all():
            raise SchemaError(f"{where}: expected finite numbers, found NaN or inf")
        if self.largest < math.inf and value.numel() and value.abs().max() > self.largest:
            raise SchemaError(f"{where}: expected numbers up to {self.largest:g}, found "
                              f"{value.abs().max():g}")
        return value


def check(value: Any, schema: Any, where: str) -> Any:
    """The value with numbers as their schema returns them.  where: a name for it in the message.

    Raises SchemaError at the first place that does not fit.
    """
    return schema.accept(value, where)


def fits(size: Any, n: int) -> bool:
    """Whether an axis of n entries fits: an int, None for any size, or (low, high)."""
    return size is None or (size[0] <= n <= size[1] if isinstance(size, tuple) else n == size)


def size_text(size: Any) -> str:
    """The size of an axis in words."""
    return "any" if size is None else f"{size[0]} to {size[1]}" if isinstance(size, tuple) \
        else str(size)


def place(where: str, key: str) -> str:
    """The name of a value in a dict: "adapter.alpha"."""
    return f"{where}.{shown(key, 60)}"


def mismatch(where: str, expected: str, value: Any) -> SchemaError:
    """The error for a value that is not what was expected."""
    if isinstance(value, Tensor):
        found = f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    elif isinstance(value, (str, int, float, bool, type(None))):
        found = shown(repr(value) if isinstance(value, str) and len(value) <= 1000
                      else value, 80)
    else:
        length = f" of {len(value):,}" if hasattr(value, "__len__") else ""
        found = f"a {type(value).__name__}{length}"
    return SchemaError(f"{where}: expected {expected}, found {found}")


def demo() -> None:
    """A fitting value, and the messages of five others."""
    schema = Record({"rank": Whole(1, 64), "alpha": Number(0, 100),
                     "A": TensorOf((None, (1, 8)), torch.float32)}, {"note": Text(20)})
    good = {"rank": 4, "alpha": 8, "A": torch.zeros(3, 2)}
    print("accepted:", list(check(good, schema, "adapter")))
    for change in ({"rank": 4.5}, {"rank": True}, {"alpha": float("nan")}, {"note": "x" * 99},
                   {"A": torch.zeros(3, 9)}, {"A": torch.full((1, 1), torch.inf)}):
        try:
            check(good | change, schema, "adapter")
        except SchemaError as error:
            print("refused:", error)


if __name__ == "__main__":
    demo()
