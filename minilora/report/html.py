"""Parts of a self-contained HTML page: the document, pictures inside it, tables of numbers.

Claim: a page without scripts and network access can be read in any browser and sent by e-mail.
Pictures are inline JPEGs, charts are inline SVG (report/svg.py), and the style follows the reader's
light or dark setting.

Left out: what the page of a run shows (report/run_page.py), sorting and filtering.
"""
import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from minilora.io.text import shown, utf8_text

MAX_TEXT = 2000                     # characters of one text from outside
STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6570; --back: #fff; --card: #f4f6f8;
  --line: #d5dbe1; --a: #0b62c4; --b: #b3450b; --c: #6d7681; --good: #2e7d32; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a3adb8; --back: #15181b;
  --card: #1f2428; --line: #3a424a; --a: #6db3ff; --b: #ffa36b; --c: #98a2ad; --good: #6fcf75;
  --bad: #ff8178; } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.soft, figcaption, dt { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; min-width: 36rem; width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, td.words { text-align: left; }
tr.best { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1rem; margin-top: 1.2rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14rem, 100%), 1fr));
  gap: 1rem; }
td.words { min-width: 15rem; }
figure { margin: 0 0 1rem; background: var(--card); padding: .6rem; border-radius: .4rem; }
figure img, svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--text); font-size: 11px; } .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; }
.line-0 { stroke: var(--a); } .line-1 { stroke: var(--b); } .line-2 { stroke: var(--c); }
polyline.line-1, line.line-1 { stroke-dasharray: 6 3; }
polyline.line-2, line.line-2 { stroke-dasharray: 2 3; }
.bar-good { fill: var(--good); } .bar-bad { fill: var(--bad); }
.mark { stroke: var(--text); stroke-dasharray: 4 3; }
.good { color: var(--good); } .bad { color: var(--bad); }
@media (max-width: 40rem) {                    /* a phone: the words go below their numbers */
  table.rows { min-width: 0; font-size: .75rem; }
  table.rows tr { display: grid; grid-template-columns: 4.4rem repeat(6, minmax(0, 1fr));
    border-bottom: 1px solid var(--line); }
  table.rows th, table.rows td { padding: .25rem .15rem; border: 0; }
  table.rows th { font-size: .6rem; } table.rows th:last-child { display: none; }
  table.rows td.words { grid-column: 1 / -1; min-width: 0; color: var(--soft); } }
"""


def document(title: str, body: str) -> str:
    """A whole HTML page, which can be written as UTF-8.  title: plain text;  body: HTML."""
    return utf8_text('<!doctype html><html lang="en"><head><meta charset="utf-8">'
                     '<meta name="viewport" content="width=device-width, initial-scale=1">'
                     f"<title>{html_text(title)}</title><style>{STYLE}</style></head>"
                     f"<body>{body}</body></html>\n")


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
    image, data = image.convert("RGB"), io.BytesIO()
    image.thumbnail((side, side))
    image.save(data, "JPEG", quality=82)
    code = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html_text(alt)}" src="data:image/jpeg;base64,{code}">'


def html_percent(value: float | None) -> str:
    """A fraction in per cent with one decimal; a dash if it is undefined."""
    return "–" if value is None else f"{100 * value:.1f}"


def explained_table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str], bool]]) -> str:
    """A table of numbers whose last column explains each row.

    head: column names;  rows: (first cell as HTML, other cells as plain text, whether in bold).
    """
    body = ""
    for first, (*numbers, words), bold in rows:
        cells = "".join(f"<td>{html_text(number)}</td>" for number in numbers)
        best = ' class="best"' if bold else ""
        body += f'<tr{best}><td>{first}</td>{cells}<td class="words">{html_text(words)}</td></tr>'
    head = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table class="rows"><tr>{head}</tr>{body}</table></div>'


def demo() -> None:
    """A page with a table and a picture; it refers to nothing outside itself."""
    rows = [("memory", [html_percent(0.97), "frozen features"], True)]
    table = explained_table(("row", "AUROC", ""), rows)
    print(table)
    picture = inline_image(Image.new("RGB", (64, 48)), "a black picture")
    page = document("nut & bolt", f"<h1>nut &amp; bolt</h1>{table}{picture}")
    print(f"{len(page):,} characters, scripts: {page.count('<script')}, "
          f"addresses: {page.count('http')}")


if __name__ == "__main__":
    demo()
