"""Charts inside a page: curves and a histogram as SVG text that needs no script.

Claim: colours are left to the style sheet of the page (report/style.py), so one drawing serves
light and dark settings.  For a file of its own: `charts.writers.write_drawing`.

Symbols: TP, FP: defective and good pictures that score a threshold or more.
Left out: how a chart is drawn (charts/plots.py).
"""
from collections.abc import Mapping, Sequence

from minilora.charts.plots import Range, histogram_plot, line_plot
from minilora.charts.writers import inline_svg


def line_chart(title: str, x_label: str, y_label: str,
               series: Mapping[str, Sequence[tuple[float, ...]]], x_range: Range | None = None,
               y_range: Range | None = None, markers: bool = False) -> str:
    """A line chart as <svg>; arguments as in `charts.plots.line_plot`."""
    return inline_svg(line_plot(title, x_label, y_label, series, x_range, y_range, markers))


def histogram(title: str, x_label: str, series: Mapping[str, Sequence[float]],
              styles: Sequence[str], mark: float | None = None, bins: int = 20) -> str:
    """A histogram as <svg>; arguments as in `charts.plots.histogram_plot`."""
    return inline_svg(histogram_plot(title, x_label, series, styles, mark, bins))


def roc_points(scores: Sequence[float], labels: Sequence[int]) -> list[tuple[float, float]]:
    """[(false-positive rate, true-positive rate)], one point for every distinct score.

    labels: 0 good, 1 defective.
    """
    return [(fp / max(1, good), tp / max(1, bad))
            for tp, fp, bad, good in _threshold_counts(scores, labels)]


def precision_recall_points(scores: Sequence[float],
                            labels: Sequence[int]) -> list[tuple[float, float]]:
    """[(recall, precision)], one point for every distinct score.  labels: 0 or 1."""
    return [(tp / max(1, bad), tp / (tp + fp) if tp + fp else 1.0)
            for tp, fp, bad, good in _threshold_counts(scores, labels)]


def _threshold_counts(scores, labels):
    """Yields (TP, FP, defective, good) for every threshold, from above all scores to the lowest."""
    pairs = sorted(zip(scores, labels), reverse=True)
    bad = sum(label for _, label in pairs)
    tp = fp = 0
    yield 0, 0, bad, len(pairs) - bad
    for k, (score, label) in enumerate(pairs):
        tp, fp = tp + label, fp + 1 - label
        if k + 1 == len(pairs) or pairs[k + 1][0] != score:
            yield tp, fp, bad, len(pairs) - bad


def demo() -> None:
    """Points of two curves, and both kinds of charts."""
    scores, labels = [0.9, 0.8, 0.7, 0.7, 0.3, 0.1], [1, 1, 0, 1, 0, 0]
    print("ROC:", " ".join(f"({x:.2f}, {y:.2f})" for x, y in roc_points(scores, labels)))
    print("PR: ", " ".join(f"({x:.2f}, {y:.2f})"
                           for x, y in precision_recall_points(scores, labels)))
    drawing = line_chart("ROC", "false-positive rate", "true-positive rate",
                         {"adapted": roc_points(scores, labels)}, (0, 1), (0, 1))
    print(f"as SVG: {len(drawing):,} characters")
    bars = histogram("scores", "score", {"good": [0.1, 0.3, 0.7], "defective": [0.7, 0.8, 0.9]},
                     ("good", "bad"), mark=0.75)
    print(f"a histogram: {bars.count('<rect') - 2} bars and a threshold")


if __name__ == "__main__":
    demo()
