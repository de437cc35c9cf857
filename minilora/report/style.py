"""Style sheet of all pages, and the few lines of script that sort a table.

Claim: a page that works in a browser of a factory's old tablet, on a phone and in print needs one
style sheet and no library.  Nothing is loaded from anywhere, so the page can be sent by e-mail.
Without scripts a page shows all that it shows with them; only the order of a table stays.

    light or dark     colours are variables, and the reader's setting chooses their values
    a phone           at most 40rem (640 pixels): tables become narrower, nothing leaves the screen
    keyboard          the headings of a sortable table become buttons; `aria-sort` tells the order

Left out: what stands on a page (html.py, run_page.py).
"""
from minilora.charts.colours import HEAT_STOPS
from minilora.charts.drawing import style_sheet

PLAIN_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6570; --back: #fff; --card: #f4f6f8;
  --line: #d5dbe1; --a: #0b62c4; --good: #2e7d32; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a3adb8; --back: #15181b;
  --card: #1f2428; --line: #3a424a; --a: #6db3ff; --good: #6fcf75; --bad: #ff8178; } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--a); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.soft, figcaption, dt { color: var(--soft); }
code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }

.wide, .scroll { overflow-x: auto; margin-bottom: 1rem; }
.scroll { max-height: 30rem; overflow-y: auto; }
table { border-collapse: collapse; min-width: 36rem; width: 100%; }
.scroll table { min-width: 0; } .scroll td:first-child { min-width: 5rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
.wide td.words, .scroll td:first-child { overflow-wrap: anywhere; }
.explained td.words { min-width: 15rem; }
.scroll thead th { position: sticky; top: 0; background: var(--back); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--a); }
th button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
.tag { border: 1px solid var(--a); border-radius: .3rem; padding: 0 .3rem; font-size: .75em;
  color: var(--a); white-space: nowrap; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr));
  gap: 1rem; margin-top: 1.2rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14rem, 100%), 1fr));
  gap: 1rem; }
figure { margin: 0 0 1rem; background: var(--card); padding: .6rem; border-radius: .4rem; }
figure img, svg { width: 100%; height: auto; display: block; }
.pair { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: flex-start;
  margin-top: .6rem; }
.pair img { width: 8rem; } .pair p { flex: 1 1 14rem; margin: 0; color: var(--soft); }
.gallery .pair { gap: .4rem; } .gallery .pair img { width: calc(50% - .2rem); }
.charts table { min-width: 0; }
.scale { display: flex; flex-wrap: wrap; gap: .1rem .6rem; align-items: center; margin: .6rem 0;
  font-size: .9rem; }
.scale i { flex: 1 1 3rem; max-width: 14rem; height: .8rem; border-radius: .2rem;
  background: linear-gradient(to right, HEAT); }
.scale b { flex: 1 0 100%; font-weight: inherit; color: var(--soft); }

@media (max-width: 40rem) {
  table { min-width: 0; } th, td { padding: .25rem .3rem; }
  .wide table, .scroll table { font-size: .85rem; } 
  .wide td, .wide th { overflow-wrap: break-word; }
  .wide td.words { min-width: 3.8rem; }            /* short words stay whole */
  .gallery { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  .panel { overflow-x: auto; } .panel img { min-width: 34rem; }
  table.explained { font-size: .75rem; }           /* the words go below their numbers */
  table.explained tr { display: grid; border-bottom: 1px solid var(--line);
    grid-template-columns: 5.2rem repeat(var(--numbers), minmax(0, 1fr)); }
  table.explained th, table.explained td { padding: .25rem .15rem; border: 0; }
  table.explained th { font-size: .6rem; } table.explained th:last-child { display: none; }
  table.explained td.words { grid-column: 1 / -1; min-width: 0; color: var(--soft); } }
"""
STYLE = PLAIN_STYLE.replace("HEAT", ", ".join(f"rgb{stop}" for stop in HEAT_STOPS)) + style_sheet()

# Cells that are no numbers, such as a dash, come last in both directions among numbers.
SORT_SCRIPT = """<script>
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = row => row.cells[column].textContent.trim();
      const rows = [...body.rows], numeric = rows.some(row => text(row) && !isNaN(text(row)));
      rows.sort((a, b) => {
        const [x, y] = numeric ? [text(a) || NaN, text(b) || NaN].map(Number) : [text(a), text(b)];
        if (numeric && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y);
        const order = numeric ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
</script>"""


def demo() -> None:
    """How long both are, and the colours of heat maps as CSS."""
    print(f"style sheet: {len(STYLE):,} characters, script: {len(SORT_SCRIPT):,}")
    print(STYLE[STYLE.index("linear-gradient"):].split(";")[0])


if __name__ == "__main__":
    demo()
