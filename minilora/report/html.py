"""Parts of a self-contained HTML page: the document, pictures inside it, tables of numbers.

Claim: a page that loads nothing can be read in any browser and sent by e-mail.  Pictures are inline
JPEGs, charts are inline SVG (charts/writers.py), and the style follows the reader's light or dark
setting.  A script is in a page only if it has a table that can be sorted, and then it is
`style.SORT_SCRIPT`.

Left out: what the page of a run shows (report/run_page.py), the style itself (report/style.py).
"""
import base64
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from minilora.io.text import shown, utf8_text
from minilora.report.style import SORT_SCRIPT, STYLE

MAX_TEXT = 2000                     # characters of one text from outside


class Markup(str):
    """A text that is HTML already; all other text is escaped before it is shown."""


def document(title: str, body: str) -> str:
    """A whole HTML page, which can be written as UTF-8.  title: plain text;  body: HTML."""
    script = SORT_SCRIPT if '<table class="sortable' in body else ""
    return utf8_text('<!doctype html><html lang="en"><head><meta charset="utf-8">'
                     '<meta name="viewport" content="width=device-width, initial-scale=1">'
                     f"<title>{html_text(title)}</title><style>{STYLE}</style></head>"
                     f"<body>{body}{script}</body></html>\n")


def html_text(value: Any) -> str:
    """A text from outside, such as a file's name, as HTML: one line, printable, cut if long."""
    return escape(shown(value, MAX_TEXT))


def local_link(folder: str | Path, name: str, file: str, text: str) -> str:
    """`text` as HTML, as a link to <name>/<file> if this file exists in the folder of the page.

    name: of a folder beside the page.  The address begins with "./", so a name such as
    "javascript:…" is no program, and "//…" no other computer.
    """
    if name in ("", "..") or Path(name).name != name or not (Path(folder) / name / file).is_file():
        return html_text(text)
    return f'<a href="./{quote(os.fsencode(name))}/{quote(file)}">{html_text(text)}</a>'


def inline_file(path: str | Path, alt: str) -> str:
    """An <img> element that contains the picture file.  alt: a description in words."""
    with Image.open(path) as image:
        return inline_image(image, alt)


def inline_image(image: Image.Image, alt: str, side: int = 900) -> str:
    """An <img> element that contains a PIL image as JPEG, at most `side` pixels wide and high."""
    return f'<img alt="{html_text(alt)}" src="{data_address(image.convert("RGB"), side)}">'


def data_address(image: Image.Image, side: int = 900) -> str:
    """An address that contains a PIL image: as JPEG, or as PNG if it has transparent pixels."""
    image, data = image.convert("RGBA" if image.mode == "RGBA" else "RGB"), io.BytesIO()
    kind = "PNG" if image.mode == "RGBA" else "JPEG"
    image.thumbnail((side, side))
    image.save(data, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def html_percent(value: float | None) -> str:
    """A fraction in per cent with one decimal; a dash if it is undefined."""
    return "–" if value is None else f"{100 * value:.1f}"


# ---- tables -------------------------------------------------------------------------------------

def cell(value: Any) -> str:
    """What a cell of a table contains: Markup as it is, other text escaped."""
    return value if isinstance(value, Markup) else html_text(value)


def sortable_table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "",
                   words: Iterable[int] = (), kind: str = "wide") -> Markup:
    """A table that is sorted by a click on a heading, or by its key.  See `plain_table`."""
    caption = f"<caption>{html_text(caption)}</caption>" if caption else ""
    table = plain_table(head, rows, words, kind)
    return Markup(table.replace("<table>", f'<table class="sortable">{caption}', 1))


def plain_table(head: Sequence[str], rows: Iterable[Sequence[Any]], words: Iterable[int] = (),
                kind: str = "wide") -> Markup:
    """A table in a fixed order.

    rows: cells as plain text, or as Markup;  words: numbers of the columns that hold words and not
    numbers, besides the first one;  kind: "wide" or, for a long table, "scroll".
    """
    def line(tag, row):
        return "<tr>" + "".join(
            f'<{tag} class="words">{cell(c)}</{tag}>' if k in words else f"<{tag}>{cell(c)}</{tag}>"
            for k, c in enumerate(row)) + "</tr>"
    words = set(words)
    body = "".join(line("td", row) for row in rows)
    return Markup(f'<div class="{kind}" tabindex="0"><table><thead>{line("th", head)}</thead>'
                  f"<tbody>{body}</tbody></table></div>")


def explained_table(head: Sequence[str], rows: Sequence[tuple[Any, Sequence[Any]]],
                    fixed: int = 0) -> Markup:
    """A sortable table of numbers whose last column explains each row.

    head: column names;  rows: (first cell, other cells), each plain text or Markup;  fixed: how
    many of the last rows stay below the others, whatever the order.
    """
    def line(first, cells):
        *numbers, words = cells
        inside = "".join(f"<td>{cell(number)}</td>" for number in numbers)
        return f'<tr><td>{cell(first)}</td>{inside}<td class="words">{cell(words)}</td></tr>'
    lines = [line(*row) for row in rows]
    split = len(lines) - fixed
    foot = f"<tfoot>{''.join(lines[split:])}</tfoot>" if fixed else ""
    top = "".join(f"<th>{html_text(name)}</th>" for name in head[:-1])
    top += f'<th class="words">{html_text(head[-1])}</th>'
    return Markup(f'<div class="wide"><table class="sortable explained" style="--numbers: '
                  f'{len(head) - 2}"><thead><tr>{top}</tr></thead><tbody>{"".join(lines[:split])}'
                  f"</tbody>{foot}</table></div>")


def bold_best(texts: Sequence[str]) -> list[str]:
    """The texts, the highest number among them in bold; numbers that look equal are all bold.

    Nothing is bold if there is only one number: it is not better than anything.
    """
    numbers = [number_or_none(text) for text in texts]
    known = [number for number in numbers if number is not None]
    return [Markup(f"<b>{html_text(text)}</b>") if len(known) > 1 and number == max(known) else text
            for text, number in zip(texts, numbers)]


def number_or_none(text: str) -> float | None:
    """The finite number that a text shows, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def facts_list(facts: Mapping[str, Any]) -> Markup:
    """How something was made, as a list of terms: {term: value}."""
    return Markup("<dl>" + "".join(f"<dt>{html_text(k)}</dt><dd>{html_text(v)}</dd>"
                                   for k, v in facts.items()) + "</dl>")


# ---- heat maps ----------------------------------------------------------------------------------

def colour_scale(low: float, high: float, words: str) -> Markup:
    """The colours of heat maps with the values at both ends.  words: what the values are."""
    return Markup(f'<div class="scale" role="img" aria-label="colour scale from {low:.3g}, dark '
                  f'blue, to {high:.3g}, light yellow"><span>{low:.3g}</span><i></i>'
                  f"<span>{high:.3g}</span><b>{html_text(words)}</b></div>")


def pair_figure(pair: tuple[Image.Image, Image.Image], words: str) -> Markup:
    """The worst patch beside the nearest good patch, with a sentence.  pair: of `patch_pair`."""
    bad, good = (inline_image(crop, alt) for crop, alt in zip(pair, (
        "the worst patch, framed, and its surroundings",
        "the good patch that is nearest to it, framed, and its surroundings")))
    return Markup(f'<div class="pair">{bad}{good}<p>{html_text(words)}</p></div>')


def demo() -> None:
    """A page with a table and a picture; it refers to nothing outside itself."""
    numbers = bold_best([html_percent(0.97), html_percent(0.91)])
    table = explained_table(("row", "AUROC", ""), [("memory", [numbers[0], "frozen features"]),
                                                   ("text", [numbers[1], "prompts"])])
    print(table[:150], "…")
    picture = inline_image(Image.new("RGB", (64, 48)), "a black picture")
    page = document("nut & bolt", f"<h1>nut &amp; bolt</h1>{table}{picture}")
    print(f"{len(page):,} characters, addresses: {page.count('http')}")


if __name__ == "__main__":
    demo()
