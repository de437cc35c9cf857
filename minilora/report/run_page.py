"""report.html: one self-contained page about a run, for a browser or an e-mail.

Claim: to trust a detector, a reader needs to see its mistakes first.  So the page shows in this
order: the table with all rows, the curves, the false alarms and misses, an example of each kind of
defect, all test pictures in a table, and how the run was made.

Left out: several runs on one page; the parts with pictures (report/run_pictures.py).
"""
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora.charts.plots import histogram_plot, line_plot
from minilora.charts.writers import inline_svg
from minilora.data.mvtec import Sample
from minilora.io.files import atomic_write
from minilora.metrics.curves import precision_recall_points, roc_points
from minilora.report.html import (Markup, bold_best, colour_scale, document, explained_table,
                                  facts_list, html_percent, html_text)
from minilora.report.run_pictures import Scored, kind_examples, mistakes, picture_table

REPORT_COLUMNS = {"image_auroc": "image AUROC", "image_ap": "AP", "image_f1_max": "best F1",
                  "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}
VERSIONS_SHOWN = ("minilora", "python", "torch", "numpy", "pillow")
MEASURES = ("Image: the score tells defective from good pictures; pixel: the map tells defective "
            "from good pixels. AUROC and AUPRO, areas under curves: 100 is perfect, and 50 is "
            "chance for AUROC. AP: average precision. Best F1: with the best threshold, which only "
            "the labels tell. The best value of each column is bold. The score of the row marked "
            "“decides” is compared with the threshold.")
DECIDES = Markup(' <span class="tag">decides</span>')


def made_facts(made: dict[str, Any]) -> dict[str, str]:
    """Commit, versions and computer, as far as they are known: {term: words}.

    made: what metrics.json says under "made".
    """
    versions = ", ".join(f"{name} {made[name]}" for name in VERSIONS_SHOWN if made.get(name))
    computer = ", ".join(str(made[key]) for key in ("processor", "platform") if made.get(key))
    facts = {"commit": made.get("commit"), "versions": versions, "computer": computer}
    return {term: str(words) for term, words in facts.items() if words}


def date_of(metrics: dict[str, Any]) -> str:
    """When the run was made, to the minute; without this in metrics.json: now."""
    date = metrics.get("made", {}).get("date") or time.strftime("%Y-%m-%dT%H:%M")
    day, _, hour = str(date).partition("T")
    return f"{day} {hour[:5]}{' UTC' if hour.endswith('+00:00') else ''}"


def disk_text(metrics: dict[str, Any]) -> str:
    """Size of the adapter and of the whole run: memory, good pictures and settings too."""
    return (f"adapter {metrics['adapter_bytes'] / 1e6:,.2f} MB, whole run "
            f"{metrics['run_bytes'] / 1e6:,.2f} MB: all that predict reads beside the weights")


def run_facts(metrics: dict[str, Any], command: str) -> str:
    """How the run was made: command, weights, data, device, duration, as an HTML list of terms."""
    model, data = metrics["model"], metrics["data"]
    memory = metrics["peak_memory_bytes"]
    rows = {"date": date_of(metrics), "command": command,
            "weights": f"{model['name']}, sha256 {model['sha256'][:16]}…",
            "data": f"{data['name']}: {data['root']}",
            "good pictures": f"{metrics['shots']}, drawn with seed {metrics['seed']}",
            "device": f"{metrics['device']}, resolution {metrics['resolution']}",
            "trained": f"{metrics['trainable_parameters']:,} of {metrics['total_parameters']:,} "
                       "parameters",
            "duration": f"{metrics['seconds']:.0f} s"
                        + (f", peak memory {memory / 2**20:,.0f} MB" if memory else "")}
    if "run_bytes" in metrics:                          # not in runs of earlier versions
        rows["on disk"] = disk_text(metrics)
    rows |= made_facts(metrics.get("made", {}))
    return facts_list(rows)


def rows_table(rows: dict[str, dict[str, float | None]], explain: dict[str, str]) -> str:
    """Table of the metrics of all rows: the best of each column is bold; the last row decides."""
    columns = [bold_best([html_percent(row.get(key)) for row in rows.values()])
               for key in REPORT_COLUMNS]
    last = list(rows)[-1]
    cells = [(Markup(html_text(name) + (DECIDES if name == last else "")),
              [*numbers, explain[name]]) for name, *numbers in zip(rows, *columns)]
    return (explained_table(("row, per cent", *REPORT_COLUMNS.values(), ""), cells)
            + f'<p class="soft">{html_text(MEASURES)}</p>')


def charts(metrics: dict[str, Any], scores: dict[str, list[float]],
           labels: Sequence[int | None]) -> str:
    """ROC and precision-recall curves of up to three rows, histogram of the last row, loss.

    scores: {row: score of each test picture};  labels: 0, 1 or None of each.
    """
    last = list(scores)[-1]
    shown = {name: scores[name] for name in (last, "memory", "zero-shot") if name in scores}
    drawn = []
    if {0, 1} == set(labels):
        drawn = [line_plot("ROC curve", "false-positive rate", "true-positive rate",
                           {k: roc_points(v, labels) for k, v in shown.items()}, (0, 1), (0, 1)),
                 line_plot("Precision over recall", "recall", "precision",
                           {k: precision_recall_points(v, labels) for k, v in shown.items()},
                           (0, 1), (0, 1))]
    groups = {name: ([s for s, own in zip(scores[last], labels) if own == label], style)
              for name, label, style in (("good", 0, "good"), ("defective", 1, "bad"),
                                         ("not labelled", None, "line-0")) if label in labels}
    drawn.append(histogram_plot("Scores of the test pictures", f"score of row {last}",
                                {name: values for name, (values, _) in groups.items()},
                                [style for _, style in groups.values()], metrics["threshold"]))
    if metrics["losses"]:
        drawn.append(line_plot("Training loss", "step", "loss",
                               {"loss": list(enumerate(metrics["losses"]))}))
    return ('<div class="charts">' + "".join(f"<figure>{inline_svg(d)}</figure>" for d in drawn)
            + "</div>")


def decision_sentence(metrics: dict[str, Any]) -> str:
    """One sentence that says how many decisions were right."""
    counts = metrics["decisions"]
    if counts is None:
        return "There is no threshold, since it needs good pictures: scores only."
    if counts["unlabelled"]:
        return (f"{counts['called']} of {counts['unlabelled']} pictures were called NG (not good), "
                f"at threshold {metrics['threshold']:.3f}, which was set with good pictures only.")
    return (f"{counts['found']} of {counts['defective']} defective pictures were called NG (not "
            f"good), and {counts['false_alarms']} of {counts['good']} good ones, at threshold "
            f"{metrics['threshold']:.3f}, which was set with good pictures only.")


def panels_explained(metrics: dict[str, Any]) -> str:
    """What a panel shows, and the colour scale of the maps."""
    counts = metrics["decisions"]
    mask = ("" if counts and counts["unlabelled"] else
            "the mask, white where a person marked the defect, if there is one; ")
    words = (f"Panels show, from left to right: the picture; {mask}the anomaly map; the map on top "
             "of the picture.")
    if counts:
        words += (" The bar above is green for OK and red for NG." if counts["unlabelled"] else
                  " The bar above is green if the decision is right, and red if it is wrong.")
    if metrics.get("shots"):
        words += (" Below, two small pictures: the worst patch, and of all patches of the good "
                  "pictures the one that is most like it, both framed.")
    scale = metrics.get("map_scale")
    return f'<p class="soft">{words}</p>' + (colour_scale(
        *scale, "anomaly map: dark blue is like the good pictures, light yellow is unlike them; "
        "the colours mean the same in all panels") if scale else "")


def write_page(path: str | Path, metrics: dict[str, Any], explain: dict[str, str],
               scores: dict[str, list[float]], samples: Sequence[Sample], panels: Sequence[Path],
               command: str, detector: Any = None) -> None:
    """Writes report.html.

    metrics: content of metrics.json;  explain: {row: words};  scores: {row: score of each sample};
    panels: their picture files, as written by `panels.write_maps`;  command: as it was typed;
    detector: if given, the pictures that are shown come with their nearest good patch.
    """
    last = list(scores)[-1]
    scored = [Scored(*one) for one in zip(panels, scores[last], samples)]
    threshold, drawn = metrics["threshold"], metrics.get("drawn", [])
    title = f"{metrics['class']}: {metrics['shots']} shots, seed {metrics['seed']}"
    body = [f"<h1>{html_text(title)}</h1>",
            f'<p class="soft">{html_text(date_of(metrics))}, weights '
            f"{html_text(metrics['model']['name'])}</p>",
            f"<p>{html_text(decision_sentence(metrics))}</p>",
            rows_table(metrics["rows"], explain) if {0, 1} <= {s.label for s in samples} else "",
            charts(metrics, scores, [s.label for s in samples]), panels_explained(metrics),
            mistakes(scored, threshold, detector, drawn),
            kind_examples(metrics, scored, detector, drawn),
            picture_table(scored, threshold, Path(path).parent),
            "<h2>How the run was made</h2>", run_facts(metrics, command)]
    with atomic_write(Path(path), "w") as file:
        file.write(document(title, "".join(body)))


def demo() -> None:
    """Table, sentence and charts of a small made-up run."""
    rows = {"memory": {"image_auroc": 0.97, "image_ap": None}, "adapted": {"image_auroc": 0.95}}
    print(rows_table(rows, {"memory": "frozen features", "adapted": "all"})[-320:-280], "…")
    metrics = {"threshold": 1.0, "losses": [0.9, 0.5, 0.3],
               "decisions": {"found": 9, "defective": 10, "false_alarms": 1, "good": 20,
                             "unlabelled": 0}}
    print(decision_sentence(metrics))
    drawn = charts(metrics, {"memory": [0.2, 0.4, 1.4]}, [0, 0, 1])
    print(f"{drawn.count('<svg')} charts, {len(drawn):,} characters, "
          f"scripts: {drawn.count('<script')}, addresses: {drawn.count('http')}")


if __name__ == "__main__":
    demo()
