"""The page of a comparison: sortable tables, and the curves over the number of shots.

Claim: one page that needs no network can be sent with a thesis.
Left out: text tables (tables.py).
"""
from pathlib import Path
from typing import Any

from minilora.charts.drawing import Drawing
from minilora.charts.plots import fitted_range, line_plot
from minilora.charts.writers import inline_svg
from minilora.compare.run_results import SHOWN_METRICS, RunResult
from minilora.compare.seed_statistics import Comparison
from minilora.compare.tables import table_caption, table_lines
from minilora.io.text import shown
from minilora.report import html
from minilora.report.html import Markup
from minilora.report.run_page import date_of, made_facts

CURVE_METRIC = "image_auroc"
MAX_SERIES = 6                                  # lines of one chart


def curves(comparison: Comparison) -> dict[str, Drawing]:
    """{class: image AUROC over the number of shots}, for classes with two numbers of shots."""
    drawn = {}
    for name in comparison.classes:
        series = shot_series(comparison, name)
        if series:
            ends = [mean + sign * deviation for points in series.values()
                    for _, mean, deviation in points for sign in (-1, 1)]
            low, high = fitted_range(ends)
            measured = sorted({point[0] for points in series.values() for point in points})
            drawn[name] = line_plot(f"{shown(name, 60)}: {SHOWN_METRICS[CURVE_METRIC]}",
                                    "good pictures (shots)", "per cent", series,
                                    fitted_range(measured), (max(0, low), min(100, high)),
                                    markers=True, x_ticks=measured)
    return drawn


def shot_series(comparison: Comparison, name: str) -> dict[str, list[tuple[float, float, float]]]:
    """{row and settings: [(shots, mean, deviation) in per cent]} of a class, at most MAX_SERIES."""
    series = {}
    for (class_name, row, column), values in comparison.cells.get(CURVE_METRIC, {}).items():
        if class_name == name:
            _, _, settings = column.partition(", ")
            point = comparison.shots[column], 100 * values.mean, 100 * (values.deviation or 0)
            series.setdefault((row, settings), []).append(point)
    order = sorted((key for key, points in series.items() if len(points) > 1),
                   key=lambda key: comparison.rows.index(key[0]))
    return {", ".join(filter(None, key)): sorted(series[key])
            for key in order[-MAX_SERIES:]}     # the last rows are the more complete methods


def comparison_page(comparison: Comparison, results: list[RunResult], equal: str,
                    made: dict[str, Any]) -> str:
    """The whole page.  equal: what is the same in all runs;  made: of `provenance`."""
    body = [f"<h1>Comparison of {len(results)} runs</h1><p>{html.html_text(equal)}</p>"]
    for metric in comparison.cells:
        lines = table_lines(comparison, metric, lambda text, best: (
            Markup(f"<b>{html.html_text(text)}</b>") if best else text))
        title = SHOWN_METRICS[metric]
        body.append(f"<h2>{html.html_text(title[:1].upper() + title[1:])}</h2>")
        body.append(f'<p class="soft">{html.html_text(table_caption(comparison, metric, ""))}</p>')
        body.append(html.sortable_table(["class", "row", *comparison.columns], lines, words=[1]))
    charts = "".join(f"<figure>{inline_svg(drawing)}</figure>"
                     for drawing in curves(comparison).values())
    if charts:
        body.append("<h2>More good pictures</h2><p class=\"soft\">Vertical lines show one standard "
                    f"deviation over the seeds. A chart has at most {MAX_SERIES} lines, those of "
                    f'the last rows; --rows chooses others.</p><div class="charts">{charts}</div>')
    rows = [[str(r.folder), r.class_name, str(r.shots), str(r.seed), r.test_pictures]
            for r in results]
    body += ["<h2>The runs</h2>", html.sortable_table(
        ["folder", "class", "shots", "seed", "test pictures"], rows, words=[1, 4])]
    body.append("<h2>How it was made</h2>" + html.facts_list(
        {"date": date_of({"made": made}), "command": made["command"], **made_facts(made)}))
    return html.document(f"Comparison of {len(results)} runs", "".join(body))


def demo() -> None:
    """The curve of one row over two numbers of shots."""
    from minilora.compare.seed_statistics import Values
    columns = ["4 shots", "8 shots"]
    cells = {("bottle", "memory", column): Values({1: 0.96 + k / 50, 2: 0.97 + k / 50})
             for k, column in enumerate(columns)}
    comparison = Comparison(["bottle"], ["memory"], columns, dict(zip(columns, (4, 8))),
                            {"image_auroc": cells})
    for name, drawing in curves(comparison).items():
        print(f"{name}: {drawing.description}")
    result = RunResult(Path("runs/a"), "bottle", 4, 1, {}, "20 good, 40 defective", "", {})
    made = {"command": "minilora compare runs/*", "date": "2026-01-31", "minilora": "0.2.0"}
    page = comparison_page(comparison, [result], "", made)
    print(f"page: {len(page):,} characters, {page.count('<table')} tables, "
          f"{page.count('<svg')} chart")


if __name__ == "__main__":
    demo()
