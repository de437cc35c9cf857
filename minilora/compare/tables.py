"""A comparison as Markdown, LaTeX and CSV.

The Markdown and LaTeX tables show per cent with one decimal, "mean ± standard deviation" over the
seeds, the best mean of each class and column in bold.  The LaTeX table needs no package.  The CSV
has a line for each number, as fractions, with the values of the single seeds.

Claim: a table that is typed by hand into a thesis contains mistakes; one that is written by a
program contains those of the program only.
Left out: the page (page.py).
"""
import csv
import io
from collections.abc import Callable
from itertools import groupby

from minilora.compare.run_results import SHOWN_METRICS
from minilora.compare.seed_statistics import ALL_CLASSES, Comparison, Values, seeds_text
from minilora.io.text import csv_cell, shown
from minilora.report.results import markdown_table

LATEX_LINES = 40                                # of one LaTeX table, so that it fits on a page
CAPTION_LETTERS = 2000                          # more of one text are cut off
LATEX_LETTERS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                 "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
                 "±": r"$\pm$", "–": "--", **{c: f"\\{c}" for c in "&%$#_{}"}}
Format = Callable[[str, bool], str]             # (text of a number, whether it is the best)


def number_text(values: Values | None) -> str:
    """ "97.5 ± 0.8", without deviation for one seed; a dash without a value."""
    if values is None:
        return "–"
    deviation = values.deviation
    return f"{100 * values.mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def table_lines(comparison: Comparison, metric: str, bold: Format) -> list[list[str]]:
    """One line for each class and row: class, row, a number for each column.

    The best mean of a class and column is bold, if there are two; equal ones, as shown, both.
    """
    cells, lines = comparison.cells[metric], []
    for name in comparison.classes:
        texts = {(row, column): number_text(cells.get((name, row, column)))
                 for row in comparison.rows for column in comparison.columns}
        best = {}
        for (row, column), text in texts.items():
            if text != "–":
                best.setdefault(column, []).append(float(text.split()[0]))
        for row in comparison.rows:
            line = [bold(text, text != "–" and len(best[column]) > 1
                         and float(text.split()[0]) == max(best[column]))
                    for column in comparison.columns for text in [texts[row, column]]]
            if {texts[row, column] for column in comparison.columns} != {"–"}:
                lines.append([name, row, *line])
    return lines


def table_caption(comparison: Comparison, metric: str, equal: str) -> str:
    """What a table shows, in one sentence.  equal: what is the same in all runs."""
    seeds = seeds_text(comparison)
    over = f"mean ± standard deviation over {seeds}" if seeds.startswith("seeds") else seeds
    return (f"{SHOWN_METRICS[metric][:1].upper()}{SHOWN_METRICS[metric][1:]} in per cent, {over}; "
            f"the best of each class in bold. {equal}")


def markdown_escaped(text: str) -> str:
    """A text for a cell of a Markdown table, which a page shows without reading HTML in it."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def markdown_text(comparison: Comparison, equal: str) -> str:
    """All tables in Markdown."""
    parts = []
    for metric in comparison.cells:
        lines = table_lines(comparison, metric, lambda text, best: f"**{text}**" if best else text)
        cells = [[markdown_escaped(cell) for cell in line] for line in lines]
        head = ["class", "row", *map(markdown_escaped, comparison.columns)]
        words = table_caption(comparison, metric, equal).replace("<", "&lt;")
        parts.append(f"{words}\n\n{markdown_table(head, cells)}\n")
    return "\n".join(parts)


def latex_escaped(text: str) -> str:
    """A text for LaTeX: its special letters escaped, letters that pdflatex lacks as "?"."""
    letters = (LATEX_LETTERS.get(c, c if c.isascii() or c.isalpha() and ord(c) < 256 else "?")
               for c in shown(text, CAPTION_LETTERS))
    return "".join(letters)


def latex_heading(column: str) -> str:
    """The heading of a column; "8 shots, rank 2" becomes two lines, so that it stays narrow."""
    lines = r" \\ ".join(latex_escaped(part) for part in column.split(", "))
    return rf"\shortstack[r]{{{lines}}}" if ", " in column else lines


def latex_table(caption: str, label: str, head: list[str], groups: list[list[list[str]]],
                words: int = 1, wide: bool = False) -> str:
    r"""One table in LaTeX, without a package.

    head: cells;  groups: lines of cells, all in LaTeX's spelling, ruled off from each other;
    words: how many of the first columns hold words;  wide: on a page that has two columns of text
    it takes the width of both.
    """
    kind = "table*" if wide else "table"
    body = [line for group in groups for line in (
        r"\hline", *(" & ".join(cells) + r" \\" for cells in group))]
    return "\n".join([
        rf"\begin{{{kind}}}", r"\centering", rf"\caption{{{latex_escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(head) - words)}}}", r"\hline",
        " & ".join(head) + r" \\", *body, r"\hline", r"\end{tabular}",
        rf"\end{{{kind}}}", ""])


def latex_text(comparison: Comparison, equal: str) -> str:
    r"""All tables in LaTeX; `\input` it, or paste it.  Many classes become several tables."""
    head, parts = ["class", "row", *map(latex_heading, comparison.columns)], []
    for metric in comparison.cells:
        lines = table_lines(comparison, metric, lambda text, best: (
            rf"\textbf{{{latex_escaped(text)}}}" if best else latex_escaped(text)))
        pages = [[]]
        for name, group in groupby(lines, lambda line: line[0]):
            cells = [["", latex_escaped(row), *numbers] for _, row, *numbers in group]
            cells[0][0] = latex_escaped(name)
            if sum(map(len, pages[-1])) + len(cells) > LATEX_LINES and pages[-1]:
                pages.append([])
            pages[-1].append(cells)
        for k, groups in enumerate(pages, 1):
            more = (f"({k} of {len(pages)})", f"-{k}") if len(pages) > 1 else ("", "")
            parts.append(latex_table(table_caption(comparison, metric, equal) + more[0],
                                     metric.replace("_", "-") + more[1], head, groups, words=2,
                                     wide=len(comparison.columns) > 2))
    return "\n".join(parts)


def csv_text(comparison: Comparison) -> str:
    """One line for each class, row, column and metric; numbers as fractions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["class", "row", "column", "shots", "metric", "mean", "standard_deviation",
                     "seeds", "values"])
    for metric, cells in comparison.cells.items():
        for (name, row, column), values in cells.items():
            deviation = values.deviation
            writer.writerow([
                csv_cell(name if name != ALL_CLASSES else f"({name})"), row, csv_cell(column),
                comparison.shots[column], metric, f"{values.mean:.6f}",
                "" if deviation is None else f"{deviation:.6f}",
                " ".join(map(str, values.by_seed)),
                " ".join(f"{value:.6f}" for value in values.by_seed.values())])
    return out.getvalue()


def demo() -> None:
    """Two rows of one class in Markdown and in LaTeX."""
    cells = {("bottle", "memory", "8 shots"): Values({1: 0.99, 2: 0.98}),
             ("bottle", "text", "8 shots"): Values({1: 0.97, 2: 0.95})}
    comparison = Comparison(["bottle"], ["memory", "text"], ["8 shots"], {"8 shots": 8},
                            {"image_auroc": cells})
    print(markdown_text(comparison, "Weights: mini-clip."))
    print(latex_text(comparison, "").splitlines()[8])
    print(latex_escaped("50 % of my_class & more"))


if __name__ == "__main__":
    demo()
