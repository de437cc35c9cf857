"""Tables as text, Markdown and CSV, each file written whole.

Leaves out: what is in them.
"""
import csv
import io

from minilora.io.files import whole_file
from minilora.report import results


def as_text(made, head):
    """made: [(title, header, rows)], all of text;  head: lines above."""
    lines = list(head)
    for title, header, rows in made:
        lines += ["", title]
        widths = [max(len(line[k]) if k < len(line) else 0 for line in [header, *rows])
                  for k in range(len(header))]
        lines += ["  ".join(value.ljust(width) for value, width in zip(line, widths)).rstrip()
                  for line in [header, *rows]]
    return "\n".join(lines) + "\n"


def as_markdown(made, head):
    lines = [*head]
    for title, header, rows in made:
        lines += ["", f"**{title}**", "", results.markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def as_csv(header, rows):
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def write(folder, name, made, head, numbers, more=()):
    """Writes NAME.txt, .md and .csv into a folder and prints the first.

    numbers: (header, rows) of the CSV, unrounded;  more: wide tables, for Markdown alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in (("txt", as_text(made, head)), ("md", as_markdown([*made, *more], head)),
                         ("csv", as_csv(*numbers))):
        with whole_file(folder / f"{name}.{ending}", "w") as file:
            file.write(text)
    print(as_text(made, head))


def write_parts(options, parts, head):
    """Runs the parts that options.part names and writes their tables together.

    parts: {name: function of options that returns (tables, lines for the head)};  options: with
    part, out, name.
    """
    made, lines = [], []
    for part in options.part:
        tables, said = parts[part](options)
        made, lines = made + tables, lines + said
    numbers = [(title, *row) for title, _, rows in made for row in rows]
    write(options.out, options.name, made, [*head, *lines], (("table", "row"), numbers))
