"""report.html: one self-contained page about a run, for a browser or an e-mail.

Claim: whoever must trust a detector wants to see its mistakes first. So the page shows what was
run, the table with the rows that were not adapted, the curves, then false alarms and misses, then
an example of each kind of defect.

No script and no network: pictures are inline JPEGs, charts inline SVG (report/svg.py), and the style
follows the reader's light or dark setting.
Leaves out: several runs on one page, sorting and filtering.
"""
import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from minilora.io.files import whole_file
from minilora.report.svg import histogram, lines, precision_recall_points, roc_points

MISTAKES = 6                    # of each sort that are shown
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
REPORT_COLUMNS = {"image_auroc": "image AUROC", "image_ap": "AP", "image_f1_max": "best F1",
           "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}


def document(title, body):
    """A whole page of HTML around its body."""
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
            f"<body>{body}</body></html>\n")


def inline(path, alt):
    """An <img> that carries the picture file within itself."""
    with Image.open(path) as image:
        return inline_image(image, alt)


def inline_image(image, alt, width=900):
    """The same for a PIL image, as JPEG."""
    image, data = image.convert("RGB"), io.BytesIO()
    image.thumbnail((width, width))
    image.save(data, "JPEG", quality=82)
    code = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{escape(alt, quote=True)}" src="data:image/jpeg;base64,{code}">'


def html_percent(value):
    return "–" if value is None else f"{100 * value:.1f}"


def facts(metrics, command):
    """What was run, as a list of terms."""
    model, data = metrics["model"], metrics["data"]
    memory = metrics["peak_memory_bytes"]
    rows = {"command": command, "weights": f"{model['name']}, sha256 {model['sha256'][:16]}…",
            "data": f"{data['name']}: {data['root']}",
            "good pictures": f"{metrics['shots']}, drawn with seed {metrics['seed']}",
            "device": f"{metrics['device']}, resolution {metrics['resolution']}",
            "trained": f"{metrics['trainable_parameters']:,} of {metrics['total_parameters']:,} "
                       "parameters",
            "took": f"{metrics['seconds']:.0f} s"
                    + (f", peak memory {memory / 2**20:,.0f} MB" if memory else "")}
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>"
                            for k, v in rows.items()) + "</dl>"


def numbers_and_words(head, lines):
    """A table of numbers whose last column explains them.

    lines: [(first cell, already HTML, texts of the others, whether in bold)].
    """
    body = ""
    for first, (*numbers, words), bold in lines:
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        best = ' class="best"' if bold else ""
        body += f'<tr{best}><td>{first}</td>{cells}<td class="words">{escape(words)}</td></tr>'
    head = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table class="rows"><tr>{head}</tr>{body}</table></div>'


def rows_table(rows, explain):
    """All rows, the last one, by which pictures are judged, in bold."""
    lines = [(escape(name), [*(html_percent(row.get(key)) for key in REPORT_COLUMNS), explain[name]],
              name == list(rows)[-1]) for name, row in rows.items()]
    return numbers_and_words(("row, per cent", *REPORT_COLUMNS.values(), ""), lines)


def charts(metrics, scores, labels):
    """ROC and precision-recall of up to three rows, histogram of the last, loss.

    scores: {row: [float]};  labels: [0, 1 or None].
    """
    best = list(scores)[-1]
    shown = {name: scores[name] for name in (best, "memory", "zero-shot") if name in scores}
    drawn = []
    if {0, 1} == set(labels):
        drawn = [lines("ROC curve", "false-positive rate", "true-positive rate",
                       {k: roc_points(v, labels) for k, v in shown.items()}, (0, 1), (0, 1)),
                 lines("precision over recall", "recall", "precision",
                       {k: precision_recall_points(v, labels) for k, v in shown.items()}, (0, 1),
                       (0, 1))]
    bad = [s for s, label in zip(scores[best], labels) if label]
    rest = [s for s, label in zip(scores[best], labels) if not label]
    known = "score (green good, red defective)"
    drawn.append(histogram("scores of the test pictures", "score" if None in labels else known,
                           rest, bad, metrics["threshold"]))
    if metrics["losses"]:
        drawn.append(lines("training loss", "step", "loss",
                           {"loss": list(enumerate(metrics["losses"]))}))
    return '<div class="charts">' + "".join(f"<figure>{d}</figure>" for d in drawn) + "</div>"


def figures(title, chosen, words):
    """A heading and one panel a picture.  chosen: [(panel file, score, sample)]."""
    if not chosen:
        return ""
    shown = "".join(
        f"<figure>{inline(path, f'{words}: input, mask, map and overlay of {sample.path.name}')}"
        f"<figcaption>{escape(sample.kind)}/{escape(sample.path.name)}, score {score:.3f}"
        "</figcaption></figure>" for path, score, sample in chosen)
    return f"<h2>{escape(title)}</h2>{shown}"


def mistakes(judged, threshold):
    """False alarms, highest first, and misses, lowest first."""
    if threshold is None:
        return ""
    ranked = sorted(judged, key=lambda item: item[1])
    alarms = [j for j in reversed(ranked) if j[2].label == 0 and j[1] > threshold]
    misses = [j for j in ranked if j[2].label and j[1] <= threshold]
    called = [j for j in reversed(ranked) if j[2].label is None and j[1] > threshold]
    if called or None in (j[2].label for j in ranked):
        return figures(f"{len(called)} pictures called NG, the most suspicious first",
                       called[:MISTAKES], "called NG")
    if not alarms and not misses:
        return "<h2>Mistakes</h2><p>None: every test picture was judged rightly.</p>"
    return (figures(f"False alarms: {len(alarms)} good pictures called NG, the worst first",
                    alarms[:MISTAKES], "false alarm")
            + figures(f"Misses: {len(misses)} defective pictures called OK, the worst first",
                      misses[:MISTAKES], "missed defect"))


def kinds(metrics, judged):
    """For each kind of defect its AUROC and the picture in the middle of its scores."""
    out = "<h2>Kinds of defect</h2>" if metrics["kinds"] else ""
    for kind, value in metrics["kinds"].items():
        mine = sorted((j for j in judged if j[2].kind == kind), key=lambda item: item[1])
        path, score, sample = mine[len(mine) // 2]
        picture = inline(path, f"{kind}: input, mask, map and overlay")
        out += (f"<figure>{picture}<figcaption>{escape(kind)}: {len(mine)} pictures, image AUROC "
                f"against the good ones {html_percent(value)}; shown is the middle one, score "
                f"{score:.3f}</figcaption></figure>")
    return out


def decision_sentence(metrics):
    """One sentence that says how good the decisions are."""
    counts = metrics["decisions"]
    if counts is None:
        return "No threshold, since there were no good pictures to set it by: scores only."
    if counts["unlabelled"]:
        return (f"{counts['called']} of {counts['unlabelled']} pictures were called NG, at "
                f"threshold {metrics['threshold']:.3f}, set by good pictures alone.")
    return (f"{counts['found']} of {counts['defective']} defective pictures were called NG, and "
            f"{counts['false_alarms']} of {counts['good']} good ones, at threshold "
            f"{metrics['threshold']:.3f}, set by good pictures alone.")


def write_page(path, metrics, explain, scores, samples, panels, command):
    """Writes report.html.

    metrics: content of metrics.json;  explain: {row: words};  scores: {row: [float]} of samples;
    panels: their picture files, as report.write_maps made them;  command: what was typed.
    """
    best = list(scores)[-1]
    judged = list(zip(panels, scores[best], samples))
    title = f"{metrics['class']}: {metrics['shots']} shots, seed {metrics['seed']}"
    body = [f"<h1>{escape(title)}</h1><p>{escape(decision_sentence(metrics))}</p>",
            '<p class="soft">Panels show, from left to right, the picture, its mask, the map of '
            "anomaly scores and both together.</p>",
            rows_table(metrics["rows"], explain) if {0, 1} <= {s.label for s in samples} else "",
            charts(metrics, scores, [s.label for s in samples]),
            mistakes(judged, metrics["threshold"]), kinds(metrics, judged),
            "<h2>What was run</h2>", facts(metrics, command)]
    with whole_file(Path(path), "w") as file:
        file.write(document(title, "".join(body)))


def demo():
    row = {"image_auroc": 0.97, "image_ap": None}
    print(rows_table({"memory": row}, {"memory": "frozen features"})[:150], "…")
    metrics = {"threshold": 1.0, "losses": [0.9, 0.5, 0.3],
               "decisions": {"found": 9, "defective": 10, "false_alarms": 1, "good": 20,
                             "unlabelled": 0}}
    print(decision_sentence(metrics))
    drawn = charts(metrics, {"memory": [0.2, 0.4, 1.4]}, [0, 0, 1])
    print(f"{drawn.count('<svg')} charts, {len(drawn):,} characters, "
          f"scripts: {drawn.count('<script')}, addresses: {drawn.count('http')}")


if __name__ == "__main__":
    demo()
