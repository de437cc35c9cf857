"""Tables as text, Markdown and CSV; each file is written atomically.

Left out: the contents of the tables.
"""
import csv
import io
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.defaults import defaults_line
from minilora.io.files import atomic_write
from minilora.report import results


def as_text(made: Sequence[tuple], head: Sequence[str]) -> str:
    """Aligned columns.  made: tables [(title, header, rows)], all text;  head: lines above."""
    lines = list(head)
    for title, header, rows in made:
        lines += ["", title]
        widths = [max(len(line[k]) if k < len(line) else 0 for line in [header, *rows])
                  for k in range(len(header))]
        lines += ["  ".join(value.ljust(width) for value, width in zip(line, widths)).rstrip()
                  for line in [header, *rows]]
    return "\n".join(lines) + "\n"


def as_markdown(made: Sequence[tuple], head: Sequence[str]) -> str:
    """The same tables in Markdown."""
    lines = [*head]
    for title, header, rows in made:
        lines += ["", f"**{title}**", "", results.markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def as_csv(header: Sequence, rows: Iterable[Sequence]) -> str:
    """One table as CSV."""
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def write(folder: Path, name: str, made: Sequence[tuple], head: Sequence[str], numbers: tuple,
          more: Sequence[tuple] = ()) -> None:
    """Writes NAME.txt, .md and .csv into a folder and prints the first.  The text and the Markdown
    also state the commit and the defaults (defaults.py).

    made, head: as in `as_text`;  numbers: (header, rows) of the CSV file, unrounded;  more: wide
    tables, only for Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = [*head, defaults_line()]
    for ending, text in (("txt", as_text(made, head)), ("md", as_markdown([*made, *more], head)),
                         ("csv", as_csv(*numbers))):
        with atomic_write(folder / f"{name}.{ending}", "w") as file:
            file.write(text)
    print(as_text(made, head))


def write_parts(options: Namespace, parts: dict[str, Callable], head: Sequence[str]) -> None:
    """Runs the parts named in options.part and writes their tables together.

    parts: {name: function of options that returns (tables, lines for the head)};  options: needs
    part, out and name.
    """
    made, lines = [], []
    for part in options.part:
        tables, more = parts[part](options)
        made, lines = made + tables, lines + more
    numbers = [(title, *row) for title, _, rows in made for row in rows]
    write(options.out, options.name, made, [*head, *lines], (("table", "row"), numbers))
