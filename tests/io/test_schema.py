"""One description for what comes from a file; every other value is refused in one line."""
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilora.io.schema import (Flag, ListOf, MapOf, Nothing, Number, OneOf, Record, SchemaError,
                                TensorOf, Text, Whole, check)

SCHEMA = Record({"rank": Whole(1, 64), "alpha": Number(0, 100), "on": Flag(),
                 "threshold": OneOf(Number(), Nothing()), "targets": ListOf(Text(5, ("q", "v")), 1),
                 "layers": MapOf(TensorOf((2, (1, 3))), 2)}, {"note": Text(9)})
GOOD = {"rank": 4, "alpha": 8, "on": True, "threshold": None, "targets": ["q"],
        "layers": {"a": torch.zeros(2, 3)}}


def test_a_fitting_value_comes_back_with_numbers_as_floats():
    value = check(GOOD, SCHEMA, "adapter")
    assert value["alpha"] == 8.0 and type(value["alpha"]) is float and value["threshold"] is None
    assert check(GOOD | {"note": "x"}, SCHEMA, "adapter")["note"] == "x"


@pytest.mark.parametrize("change, message", [
    ({"rank": 4.0}, r"adapter.rank: expected a whole number from 1 to 64, found 4.0"),
    ({"rank": True}, "found True"), ({"rank": 65}, "found 65"), ({"rank": "4"}, "found '4'"),
    ({"rank": torch.tensor(4)}, r"found a tensor \(\) of int64"), ({"rank": 10**5000}, "found <int"),
    ({"alpha": math.nan}, "adapter.alpha: .*found nan"), ({"alpha": math.inf}, "found inf"),
    ({"alpha": None}, "found None"), ({"alpha": []}, "found a list of 0"),
    ({"on": 1}, "expected true or false, found 1"),
    ({"threshold": "0.5"}, "expected a number from .* or nothing"),
    ({"targets": "q"}, "expected a list of 1 to"), ({"targets": []}, "found a list of 0"),
    ({"targets": ["q", "x"]}, r"adapter.targets\[1\]: expected one of q, v, found 'x'"),
    ({"layers": [1]}, "named values, found a list"), ({"layers": {1: 2}}, "named values"),
    ({"layers": {"a": torch.zeros(2, 4)}}, r"layers.a: expected a tensor \(2, 1 to 3\) of float32"),
    ({"layers": {"a": torch.zeros(2, 3).half()}}, "found a tensor .* of float16"),
    ({"layers": {"a": torch.full((2, 3), torch.nan)}}, "found NaN or inf"),
    ({"note": "x" * 10}, "at most 9 characters"), ({"other": 1}, "expected no key other"),
    ({"other\x1b[2J\n": 1}, r"expected no key other\\x1b\[2J\\n")])
def test_another_value_is_refused_with_its_place(change, message):
    with pytest.raises(SchemaError, match=message) as refusal:
        check(GOOD | change, SCHEMA, "adapter")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 400


def test_a_missing_key_is_named():
    with pytest.raises(SchemaError, match="adapter: expected the key rank, found on"):
        check({"on": True}, SCHEMA, "adapter")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20)


@given(JSON, st.sampled_from(list(GOOD)))
def test_any_value_is_accepted_or_refused_by_its_own_error(value, key):
    for whole in (value, GOOD | {key: value}):
        try:
            check(whole, SCHEMA, "adapter")
        except SchemaError as refusal:
            assert str(refusal).isprintable()
