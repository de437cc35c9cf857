"""report.html: one self-contained page about a run, for a browser or an e-mail.

Claim: to trust a detector, a reader needs to see its mistakes first. So the page shows in this
order: the table with all rows, the curves, the false alarms and misses, an example of each kind of
defect, and how the run was made.

Symbols: `scored` is a list of (panel file, score, sample) of the test pictures.
Left out: several runs on one page.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minilora.data.mvtec import Sample
from minilora.io.files import atomic_write
from minilora.report.html import (document, explained_table, html_percent, html_text,
                                   inline_file)
from minilora.report.svg import histogram, line_chart, precision_recall_points, roc_points

Scored = list[tuple[Path, float, Sample]]

MAX_MISTAKES_SHOWN = 6          # of false alarms, and of misses
REPORT_COLUMNS = {"image_auroc": "image AUROC", "image_ap": "AP", "image_f1_max": "best F1",
                  "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}


def run_facts(metrics: dict[str, Any], command: str) -> str:
    """How the run was made: command, weights, data, device, duration, as an HTML list of terms."""
    model, data = metrics["model"], metrics["data"]
    memory = metrics["peak_memory_bytes"]
    rows = {"command": command, "weights": f"{model['name']}, sha256 {model['sha256'][:16]}…",
            "data": f"{data['name']}: {data['root']}",
            "good pictures": f"{metrics['shots']}, drawn with seed {metrics['seed']}",
            "device": f"{metrics['device']}, resolution {metrics['resolution']}",
            "trained": f"{metrics['trainable_parameters']:,} of {metrics['total_parameters']:,} "
                       "parameters",
            "duration": f"{metrics['seconds']:.0f} s"
                        + (f", peak memory {memory / 2**20:,.0f} MB" if memory else "")}
    return "<dl>" + "".join(f"<dt>{html_text(k)}</dt><dd>{html_text(v)}</dd>"
                            for k, v in rows.items()) + "</dl>"


def rows_table(rows: dict[str, dict[str, float | None]], explain: dict[str, str]) -> str:
    """Table of the metrics of all rows; the last row, which makes the decision, is in bold."""
    last = list(rows)[-1]
    cells = [(html_text(name),
              [*(html_percent(row.get(key)) for key in REPORT_COLUMNS), explain[name]],
              name == last) for name, row in rows.items()]
    return explained_table(("row, per cent", *REPORT_COLUMNS.values(), ""), cells)


def charts(metrics: dict[str, Any], scores: dict[str, list[float]],
           labels: Sequence[int | None]) -> str:
    """ROC and precision-recall curves of up to three rows, histogram of the last row, loss.

    scores: {row: score of each test picture};  labels: 0, 1 or None of each.
    """
    last = list(scores)[-1]
    shown = {name: scores[name] for name in (last, "memory", "zero-shot") if name in scores}
    drawn = []
    if {0, 1} == set(labels):
        drawn = [line_chart("ROC curve", "false-positive rate", "true-positive rate",
                            {k: roc_points(v, labels) for k, v in shown.items()}, (0, 1), (0, 1)),
                 line_chart("precision over recall", "recall", "precision",
                            {k: precision_recall_points(v, labels) for k, v in shown.items()},
                            (0, 1), (0, 1))]
    bad = [s for s, label in zip(scores[last], labels) if label]
    rest = [s for s, label in zip(scores[last], labels) if not label]
    x_label = "score" if None in labels else "score (green good, red defective)"
    drawn.append(histogram("scores of the test pictures", x_label, rest, bad,
                           metrics["threshold"]))
    if metrics["losses"]:
        drawn.append(line_chart("training loss", "step", "loss",
                                {"loss": list(enumerate(metrics["losses"]))}))
    return '<div class="charts">' + "".join(f"<figure>{d}</figure>" for d in drawn) + "</div>"


def panel_figures(title: str, chosen: Scored, words: str) -> str:
    """A heading and one panel for each chosen picture.  words: start of the alternative text."""
    if not chosen:
        return ""
    shown = ""
    for path, score, sample in chosen:
        panel = inline_file(path, f"{words}: input, mask, map and overlay of {sample.path.name}")
        name = html_text(f"{sample.kind}/{sample.path.name}")
        shown += f"<figure>{panel}<figcaption>{name}, score {score:.3f}</figcaption></figure>"
    return f"<h2>{html_text(title)}</h2>{shown}"


def mistakes(scored: Scored, threshold: float | None) -> str:
    """False alarms, highest score first, and misses, lowest score first.

    With unlabelled pictures: all pictures called NG, highest score first.
    """
    if threshold is None:
        return ""
    ranked = sorted(scored, key=lambda item: item[1])
    alarms = [s for s in reversed(ranked) if s[2].label == 0 and s[1] > threshold]
    misses = [s for s in ranked if s[2].label and s[1] <= threshold]
    called = [s for s in reversed(ranked) if s[2].label is None and s[1] > threshold]
    if called or None in (s[2].label for s in ranked):
        return panel_figures(f"{len(called)} pictures called NG, the highest score first",
                             called[:MAX_MISTAKES_SHOWN], "called NG")
    if not alarms and not misses:
        return "<h2>Mistakes</h2><p>None: every test picture was classified correctly.</p>"
    return (panel_figures(f"False alarms: {len(alarms)} good pictures called NG, the worst first",
                          alarms[:MAX_MISTAKES_SHOWN], "false alarm")
            + panel_figures(f"Misses: {len(misses)} defective pictures called OK, the worst first",
                            misses[:MAX_MISTAKES_SHOWN], "missed defect"))


def kind_examples(metrics: dict[str, Any], scored: Scored) -> str:
    """For each kind of defect its AUROC and the picture with the median score."""
    out = "<h2>Kinds of defect</h2>" if metrics["kinds"] else ""
    for kind, value in metrics["kinds"].items():
        ranked = sorted((s for s in scored if s[2].kind == kind), key=lambda item: item[1])
        path, score, sample = ranked[len(ranked) // 2]
        picture = inline_file(path, f"{kind}: input, mask, map and overlay")
        out += (f"<figure>{picture}<figcaption>{html_text(kind)}: {len(ranked)} pictures, image "
                f"AUROC against the good ones {html_percent(value)}; shown is the one with the "
                f"median score, {score:.3f}</figcaption></figure>")
    return out


def decision_sentence(metrics: dict[str, Any]) -> str:
    """One sentence that says how many decisions were right."""
    counts = metrics["decisions"]
    if counts is None:
        return "There is no threshold, since it needs good pictures: scores only."
    if counts["unlabelled"]:
        return (f"{counts['called']} of {counts['unlabelled']} pictures were called NG, at "
                f"threshold {metrics['threshold']:.3f}, which was set with good pictures only.")
    return (f"{counts['found']} of {counts['defective']} defective pictures were called NG, and "
            f"{counts['false_alarms']} of {counts['good']} good ones, at threshold "
            f"{metrics['threshold']:.3f}, which was set with good pictures only.")


def write_page(path: str | Path, metrics: dict[str, Any], explain: dict[str, str],
               scores: dict[str, list[float]], samples: Sequence[Sample], panels: Sequence[Path],
               command: str) -> None:
    """Writes report.html.

    metrics: content of metrics.json;  explain: {row: words};  scores: {row: score of each sample};
    panels: their picture files, as written by results.write_maps;  command: as it was typed.
    """
    last = list(scores)[-1]
    scored = list(zip(panels, scores[last], samples))
    title = f"{metrics['class']}: {metrics['shots']} shots, seed {metrics['seed']}"
    body = [f"<h1>{html_text(title)}</h1><p>{html_text(decision_sentence(metrics))}</p>",
            '<p class="soft">Panels show, from left to right: the picture, its mask, the anomaly '
            "map, and the map on top of the picture.</p>",
            rows_table(metrics["rows"], explain) if {0, 1} <= {s.label for s in samples} else "",
            charts(metrics, scores, [s.label for s in samples]),
            mistakes(scored, metrics["threshold"]), kind_examples(metrics, scored),
            "<h2>How the run was made</h2>", run_facts(metrics, command)]
    with atomic_write(Path(path), "w") as file:
        file.write(document(title, "".join(body)))


def demo() -> None:
    """Table, sentence and charts of a small made-up run."""
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
