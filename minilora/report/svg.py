"""Small charts as SVG text: curves and a histogram that need no script.

Claim: a line chart needs only a few lines of text. Colours are left to the style sheet of the page
(classes line-0, line-1, ... and bar-good, bar-bad), so one drawing serves light and dark settings.

Symbols: TP, FP: defective and good pictures that score a threshold or more.
Left out: all other kinds of charts.
"""
import math
from collections.abc import Mapping, Sequence
from html import escape

CHART_WIDTH, CHART_HEIGHT, LEFT_MARGIN, BOTTOM_MARGIN, TOP_MARGIN = 360, 240, 44, 36, 10   # pixels
PLOT_RIGHT, PLOT_BOTTOM = CHART_WIDTH - 10, CHART_HEIGHT - BOTTOM_MARGIN

Range = tuple[float, float]


def to_drawing(x: float, y: float, x_range: Range, y_range: Range) -> tuple[float, float]:
    """The place of a data point in the drawing, in pixels from the upper left corner."""
    (a, b), (c, d) = x_range, y_range
    return (LEFT_MARGIN + (x - a) / ((b - a) or 1) * (PLOT_RIGHT - LEFT_MARGIN),
            PLOT_BOTTOM - (y - c) / ((d - c) or 1) * (PLOT_BOTTOM - TOP_MARGIN))


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high], in steps of 1, 2 or 5 times 10^k."""
    rough = ((high - low) or 1) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [k * step for k in range(first, last + 1)]


def chart_frame(title: str, x_label: str, y_label: str, x_range: Range, y_range: Range,
                content: Sequence[str]) -> str:
    """A whole drawing: axes with round ticks, labels, and a description for screen readers."""
    parts = [f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" '
             f'aria-label="{escape(title)}"><title>{escape(title)}</title>']
    for x in ticks(*x_range):
        px, _ = to_drawing(x, y_range[0], x_range, y_range)
        parts.append(f'<text x="{px:.1f}" y="{PLOT_BOTTOM + 14}" text-anchor="middle">{x:.3g}'
                     "</text>")
    for y in ticks(*y_range):
        _, py = to_drawing(x_range[0], y, x_range, y_range)
        parts.append(f'<line class="grid" x1="{LEFT_MARGIN}" y1="{py:.1f}" x2="{PLOT_RIGHT}" '
                     f'y2="{py:.1f}"/>')
        parts.append(f'<text x="{LEFT_MARGIN - 5}" y="{py + 4:.1f}" text-anchor="end">{y:.3g}'
                     "</text>")
    parts.append(f'<text x="{(LEFT_MARGIN + CHART_WIDTH) / 2}" y="{CHART_HEIGHT - 5}" '
                 f'text-anchor="middle">{escape(x_label)}</text>'
                 f'<text transform="translate(11 {PLOT_BOTTOM / 2}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_label)}</text>')
    return "".join([*parts, *content, "</svg>"])


def line_chart(title: str, x_label: str, y_label: str,
               series: Mapping[str, Sequence[tuple[float, float]]], x_range: Range | None = None,
               y_range: Range | None = None) -> str:
    """A line chart.  series: {name: [(x, y), ...]}; two or more get a legend.

    Without ranges the x axis fits the data, and the y axis goes from 0 to the largest value.
    """
    points = [p for values in series.values() for p in values]
    x_range = x_range or (min(p[0] for p in points), max(p[0] for p in points))
    y_range = y_range or (0, max(p[1] for p in points))
    content = []
    for k, (name, values) in enumerate(series.items()):
        path = " ".join("{:.1f},{:.1f}".format(*to_drawing(x, y, x_range, y_range))
                        for x, y in values)
        content.append(f'<polyline class="line-{k}" points="{path}"/>')
        if len(series) > 1:                                 # its entry in the legend
            y = PLOT_BOTTOM - 12 - 15 * (len(series) - 1 - k)
            content.append(f'<line class="line-{k}" x1="{CHART_WIDTH - 118}" y1="{y - 4}" '
                           f'x2="{CHART_WIDTH - 100}" y2="{y - 4}"/>'
                           f'<text x="{CHART_WIDTH - 95}" y="{y}">{escape(name)}</text>')
    return chart_frame(title, x_label, y_label, x_range, y_range, content)


def histogram(title: str, x_label: str, good: Sequence[float], bad: Sequence[float],
              mark: float | None = None, bins: int = 20) -> str:
    """A histogram of good and of defective scores, with a vertical line at the threshold `mark`."""
    every = [*good, *bad, *([] if mark is None else [mark])]
    low, high = min(every), max(every)
    high = high if high > low else low + 1
    counts = [[0] * bins, [0] * bins]
    for column, values in zip(counts, (good, bad)):
        for value in values:
            column[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    x_range, y_range = (low, high), (0, max(map(max, counts)))
    content, step = [], (high - low) / bins
    width = (PLOT_RIGHT - LEFT_MARGIN) / bins / 2
    for name, column, shift in (("good", counts[0], 0), ("bad", counts[1], 0.5)):
        for k, count in enumerate(column):
            if count:
                x, y = to_drawing(low + (k + shift) * step, count, x_range, y_range)
                content.append(f'<rect class="bar-{name}" x="{x:.1f}" y="{y:.1f}" '
                               f'width="{width:.1f}" height="{PLOT_BOTTOM - y:.1f}"/>')
    if mark is not None:
        x, y = to_drawing(mark, y_range[1], x_range, y_range)
        anchor, offset = ("end", -4) if x > CHART_WIDTH / 2 else ("start", 4)
        content.append(f'<line class="mark" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" '
                       f'y2="{PLOT_BOTTOM}"/><text x="{x + offset:.1f}" y="{TOP_MARGIN + 10}" '
                       f'text-anchor="{anchor}">threshold</text>')
    return chart_frame(title, x_label, "pictures", x_range, y_range, content)


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
    print(f"as SVG: {len(drawing):,} characters, for example {drawing[-91:]}")
    bars = histogram("scores", "score", [0.1, 0.3, 0.7], [0.7, 0.8, 0.9], mark=0.75)
    print(f"a histogram: {bars.count('<rect')} bars and a threshold")


if __name__ == "__main__":
    demo()
