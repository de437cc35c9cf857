"""The notebook of bench/: made from its cells, complete, and without an error."""
import re

import nbformat
import pytest

from bench import notebook

TEXT = notebook.CELLS.read_text("utf-8")
STORED = nbformat.read(notebook.NOTEBOOK, 4)


def test_the_percent_format_becomes_cells():
    text = "# %% [markdown]\n# # Title\n#\n# words\n\n# %%\nx = 1\n\n\n# %%\nprint(x)\n"
    assert notebook.cells_of(text) == [("markdown", "# Title\n\nwords"), ("code", "x = 1"),
                                       ("code", "print(x)")]


def test_the_stored_notebook_has_the_cells_of_its_source():
    """`python -m bench.notebook` executes the cells and stores them with their outputs."""
    made = notebook.notebook_of(TEXT)
    assert [(c.cell_type, c.source) for c in STORED.cells] == [
        (c.cell_type, c.source) for c in made.cells]
    nbformat.validate(STORED)


def test_the_stored_outputs_are_complete_and_show_no_error_and_no_path_of_a_machine():
    outputs = [o for cell in STORED.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    text = nbformat.writes(STORED)
    assert text.count("image/jpeg") >= 6 and text.count("image/svg+xml") >= 2
    assert text.count("text/markdown") >= 3 and "tabular" in text
    assert not re.search(r"/(tmp|work|home|root)/", text)


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_to_the_last_cell(tmp_path):
    for name in ("setup.py", "bench"):
        (tmp_path / name).symlink_to(notebook.NOTEBOOK.parent.parent / name)
    done = notebook.executed(notebook.notebook_of(TEXT), tmp_path)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")
    last = done.cells[-1].outputs[0].text
    assert last.count(r"\textbf{") >= 3 and "adapted" in last, "a table for a thesis"
