"""The page of `minilora serve`: one HTML document with its style and its script inside.

Claim: everything works with the keyboard, on a phone and in the dark; the decision is a word and
not a colour alone, and is read out by a screen reader.  Texts from a file's name enter the page as
text (textContent), never as HTML.

Left out: frameworks, other languages, results of earlier pictures after the next one was shown.
"""
from typing import NamedTuple

from minilora.io.text import utf8_text
from minilora.report.html import html_text
from minilora.report.style import STYLE
from minilora.serve.history import MAX_ENTRIES

PAGE_STYLE = """
#drop { border: 2px dashed var(--line); border-radius: .6rem; padding: 1rem; text-align: center; }
#drop p { margin: .4rem 0 0; }
#drop.over { border-color: var(--a); background: var(--card); }
.button { display: inline-block; position: relative; margin: .2rem; padding: .6rem 1.2rem;
  border-radius: .4rem; background: var(--a); color: var(--back); font-weight: 600;
  cursor: pointer; }
.button input { position: absolute; inset: 0; width: 100%; opacity: 0; cursor: pointer; }
.button:focus-within, a:focus-visible, input:focus-visible { outline: 3px solid var(--text);
  outline-offset: 2px; }
.photo { display: none; }                           /* a touch screen: photograph, no dropping */
@media (pointer: coarse) { .photo { display: inline-block; } .mouse { display: none; } }
#progress { min-height: 1.5em; margin: .5rem 0; }
#decision { font-size: 2.4rem; font-weight: 700; margin: .5rem 0 0; line-height: 1.2; }
#words { margin: 0 0 1rem; overflow-wrap: anywhere; }
#remarks li { overflow-wrap: anywhere; }
#evidence { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1rem; align-items: start; }
#evidence[hidden], #crops[hidden] { display: none; }
.layers { position: relative; }
.layers #map { position: absolute; inset: 0; width: 100%; height: 100%; }
.layers #map[hidden] { display: none; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; align-items: start; }
#evidence figcaption { margin-top: .4rem; } #evidence label { color: var(--text); }
.ok { color: var(--good); } .ng { color: var(--bad); }
.warning { border-left: 4px solid var(--bad); padding-left: .6rem; }
#history { min-width: 0; }
#history td { vertical-align: top; }
#history :nth-child(2) { text-align: left; overflow-wrap: anywhere; }
#history td:nth-child(3) { font-weight: 600; }
#history img { max-width: 4rem; max-height: 4rem; display: block; }
#history small { display: block; color: var(--soft); }
@media (max-width: 40rem) { #history th, #history td { padding: .3rem .2rem; font-size: .85rem; }
  #history img { max-width: 2.5rem; } }
"""

BODY = """
<div id="drop">
<label class="button">Choose pictures<input type="file" id="files" accept="image/*"
 multiple></label>
<label class="button photo">Take a photograph<input type="file" id="camera" accept="image/*"
 capture="environment"></label>
<p class="soft"><span class="mouse">or drop them anywhere on this page;</span> MEGABYTES MB each at
most</p>
</div>
<p id="progress" role="status"></p>
<noscript><p>This page needs JavaScript.</p></noscript>
<section aria-label="Result">
<div aria-live="polite" aria-atomic="true"><p id="decision"></p><p id="words"></p>
<ul id="remarks"></ul></div>
<div id="evidence" hidden>
<figure><div class="layers"><img id="picture" alt=""><img id="map" alt=""></div>
<figcaption><label><input type="checkbox" id="toggle" checked> Show the anomaly map</label><br>
from blue (half of the value that is suspicious) to yellow (twice this value)</figcaption></figure>
<figure id="crops"><div class="two"><img id="worst" alt="the worst patch, in a frame">
<img id="good" alt="the nearest good patch, in a frame"></div>
<figcaption id="sentence"></figcaption></figure></div>
</section>
<h2>History</h2>
<p class="soft">The last ENTRIES pictures, until minilora serve is stopped.
<a id="csv" download="minilora-history.csv">Download as CSV</a></p>
<table id="history"><thead><tr><th>Picture</th><th>Name</th><th>Decision</th><th>Score</th>
<th>Time</th></tr></thead><tbody></tbody></table>
""".replace("ENTRIES", str(MAX_ENTRIES))

SCRIPT = r"""
"use strict";
const find = id => document.getElementById(id);
const address = path => path + location.search;             // with the token
const queue = [];
let total = 0;

function add(files) {
  const idle = queue.length === 0;
  queue.push(...files);
  total += files.length;
  if (idle && queue.length) work();
}

async function work() {                                     // one picture after the other
  for (let number = 1; queue.length; number++) {
    find("progress").textContent = `scoring picture ${number} of ${total} …`;
    const answer = await score(queue[0]);
    queue.shift();
    show(answer);
  }
  total = 0;
  find("progress").textContent = "";
}

async function score(file) {
  try {
    const reply = await fetch(address("score"), {method: "POST", body: file,
      headers: {"X-File-Name": encodeURIComponent(file.name)}});
    if (reply.headers.get("Content-Type").startsWith("application/json"))
      return await reply.json();
    throw new Error(await reply.text());
  } catch (error) {
    const reason = error instanceof TypeError ? "no answer; is minilora serve still running, and "
      + "can the file be read?" : error.message;
    return {entry: {file: file.name, error: reason, time: ""}, remarks: []};
  }
}

function show({entry, remarks, ...pictures}) {
  const word = entry.decision || "Not scored";
  find("decision").textContent = word;
  find("decision").className = word.toLowerCase();
  find("words").textContent = entry.error ? `${entry.file}: ${entry.error}` :
    `${entry.file}: score ${entry.score.toFixed(3)}, ` + (word === "NG" ? "above" : "not above")
    + ` the threshold ${entry.threshold.toFixed(3)}`;
  find("remarks").replaceChildren(...remarks.map(text => element("li", text)));
  find("evidence").hidden = !pictures.picture;
  find("crops").hidden = !pictures.worst;
  for (const id of ["picture", "map", "worst", "good"])
    if (pictures[id]) find(id).src = pictures[id];
  find("picture").alt = `the picture ${entry.file}`;
  find("map").alt = `anomaly map, highest at x ${entry.x}, y ${entry.y} pixels`;
  find("decision").scrollIntoView({block: "nearest"});
  find("sentence").textContent = word === "NG"
    ? "This here (left) does not look like that there (right): the worst patch of the picture, and "
      + "the good patch that is nearest to it."
    : "The worst patch of the picture (left), and the good patch that is nearest to it (right).";
  list(entry);
}

function list(entry) {                                      // the newest on top
  const row = element("tr"), picture = element("td"), name = element("td", entry.file);
  if (entry.thumbnail) {
    const image = element("img");
    image.src = entry.thumbnail;
    image.alt = "";
    picture.append(image);
  }
  if (entry.error) name.append(element("small", entry.error));
  const decision = element("td", entry.decision || "not scored");
  decision.className = (entry.decision || "").toLowerCase();
  row.append(picture, name, decision, element("td", entry.error ? "–" : entry.score.toFixed(3)),
    element("td", entry.time.slice(11, 19)));
  const body = find("history").tBodies[0];
  body.prepend(row);
  if (body.rows.length > ENTRIES) body.lastChild.remove();
}

function element(kind, text = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

for (const id of ["files", "camera"])
  find(id).addEventListener("change", event => {
    add([...event.target.files]);
    event.target.value = "";                                // the same file can be chosen again
  });
find("toggle").addEventListener("change", event => { find("map").hidden = !event.target.checked; });
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();                                 // else the browser opens the file
    find("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add([...event.dataTransfer.files]);
  });
find("csv").href = address("history.csv");
fetch(address("history")).then(reply => reply.json()).then(entries => entries.forEach(list));
""".replace("ENTRIES", str(MAX_ENTRIES))


class PageFacts(NamedTuple):
    """What the page says about the run."""
    class_name: str
    run: str                        # the folder as given
    shots: int                      # number of good pictures; 0: not known
    threshold: float
    megabytes: float                # largest upload
    warning: str                    # about the base model; "" for none


def serve_page(facts: PageFacts, nonce: str) -> str:
    """The whole page.  nonce: the random word that lets its style and its script run."""
    name = html_text(facts.class_name)
    shots = f", fitted to {facts.shots} good pictures" if facts.shots else ""
    warning = f'<p class="warning">{html_text(facts.warning)}</p>' if facts.warning else ""
    return utf8_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{name}: OK or NG</title>'
        f'<style nonce="{nonce}">{STYLE}{PAGE_STYLE}</style></head><body><main>'
        f"<h1>{name}: OK or NG (not good)?</h1>"
        f'<p class="soft">The detector is {html_text(facts.run)}{shots}. A picture is NG if its '
        f"score is above the threshold {facts.threshold:.3f}. Pictures go to the computer that "
        f"runs minilora serve and to nobody else; its disk keeps none.</p>{warning}"
        + BODY.replace("MEGABYTES", f"{facts.megabytes:g}")
        + f'</main><script nonce="{nonce}">{SCRIPT}</script></body></html>\n')


def demo() -> None:
    """The size of the page, and what it loads."""
    page = serve_page(PageFacts("nut & bolt", "runs/nut", 8, 1.25, 20, ""), "once")
    print(f"{len(page):,} characters, of which {len(SCRIPT):,} are the script")
    print(page[page.index("<h1>"):page.index("</h1>")])
    print("addresses of others:", page.count("http"))


if __name__ == "__main__":
    demo()
