"""Strangers' text is one printable, short line."""
import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from minilora.io.text import csv_cell, shown


def test_a_name_cannot_forge_a_line_or_a_colour():
    assert shown("a.png\nOK  b.png") == "a.png\\nOK  b.png"
    assert shown("\x1b[2J\u202egnp.exe") == "\\x1b[2J\\u202egnp.exe"
    assert shown("caf\udce9.png") == "caf\\xe9.png"             # a byte that is not UTF-8
    assert shown("Küche 厨房.png") == "Küche 厨房.png"


def test_other_values_are_short_too():
    assert shown(10**5000) == "<int>" and shown([1] * 10**6) == "<list>" and shown(0.5) == "0.5"
    assert len(shown("x" * 10**6)) == 200 and shown("x" * 200) == "x" * 200


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=500), st.integers(10, 300))
def test_every_text_is_printable_and_within_its_limit(text, limit):
    line = shown(text, limit)
    assert line.isprintable() and len(line) <= limit
    line.encode("utf-8")                                        # no half of a surrogate pair


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_no_csv_cell_starts_a_formula(text):
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text)])
    out.getvalue().encode("utf-8")
    row = next(csv.reader(io.StringIO(out.getvalue(), newline="")), [""])
    assert not row or not row[0].startswith(("=", "+", "-", "@"))
