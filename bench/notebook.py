"""The notebook bench/thesis.ipynb: made from bench/thesis_cells.py, executed, with its outputs.

    python -m bench.notebook        two to three minutes; needs the extra "test" (nbclient)

The cells are written in the percent format ("# %%"), which editors show as cells and which a diff
can show.  The outputs are stored, so the notebook can be read on a web page.
Left out: progress lines and warnings, which would only be noise on that page.
"""
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from minilora.io.files import atomic_write

CELLS = Path(__file__).with_name("thesis_cells.py")
NOTEBOOK = Path(__file__).with_name("thesis.ipynb")
TIMEOUT = 600                               # seconds for one cell


def cells_of(text: str) -> list[tuple[str, str]]:
    """(kind, content) of each cell of a percent file; kind: "markdown" or "code"."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, content = part.partition("\n")
        if "[markdown]" in head:
            content = re.sub(r"^# ?", "", content, flags=re.MULTILINE)
        found.append(("markdown" if "[markdown]" in head else "code", content.strip("\n")))
    return found


def notebook_of(text: str) -> Any:
    """The notebook without outputs."""
    import nbformat.v4 as v4
    made = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    cells = [made[kind](content, id=f"cell-{k:02d}") for k, (kind, content) in
             enumerate(cells_of(text))]
    return v4.new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}})


def executed(notebook: Any, folder: str | Path) -> Any:
    """The notebook with outputs.  folder: working folder.  Raises CellExecutionError."""
    from nbclient import NotebookClient
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3",
                   resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)    # times of day change in every run
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def main() -> None:
    import nbformat
    notebook = notebook_of(CELLS.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        # the notebook looks for the checkout in its working folder, as in a clone
        for name in ("setup.py", "bench"):
            (Path(folder) / name).symlink_to(NOTEBOOK.parent.parent / name)
        executed(notebook, folder)
    with atomic_write(NOTEBOOK, "w") as file:
        file.write(nbformat.writes(notebook) + "\n")
    print(f"written  {NOTEBOOK}, {NOTEBOOK.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
