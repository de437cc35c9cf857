"""Small charts as SVG text: curves and a histogram that need no script and follow light and dark.

Claim: a line chart is a dozen lines of text. Colours are left to the page's style sheet (classes
line-0, line-1, … and bar-good, bar-bad), so one drawing serves both.

Symbols: W, H width and height in pixels of the drawing.  Leaves out: everything else charts can do.
"""
import math
from html import escape

CHART_WIDTH, CHART_HEIGHT, LEFT_MARGIN, BOTTOM_MARGIN, TOP_MARGIN = 360, 240, 44, 36, 10


def place(x, y, x_range, y_range):
    """Data to pixels of the drawing."""
    (a, b), (c, d) = x_range, y_range
    return (LEFT_MARGIN + (x - a) / ((b - a) or 1) * (CHART_WIDTH - LEFT_MARGIN - 10),
            CHART_HEIGHT - BOTTOM_MARGIN - (y - c) / ((d - c) or 1) * (CHART_HEIGHT - BOTTOM_MARGIN - TOP_MARGIN))


def ticks(low, high):
    """About five round numbers within [low, high], steps of 1, 2 or 5 times 10^k."""
    rough = ((high - low) or 1) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [k * step for k in range(first, last + 1)]


def frame(title, x_label, y_label, x_range, y_range, content):
    """A whole drawing: axes with round ticks, labels, and a description for screen readers."""
    parts = [f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}">'
             f"<title>{escape(title)}</title>"]
    for x in ticks(*x_range):
        px, _ = place(x, y_range[0], x_range, y_range)
        parts.append(f'<text x="{px:.1f}" y="{CHART_HEIGHT - BOTTOM_MARGIN + 14}" text-anchor="middle">{x:.3g}'
                     "</text>")
    for y in ticks(*y_range):
        _, py = place(x_range[0], y, x_range, y_range)
        parts.append(f'<line class="grid" x1="{LEFT_MARGIN}" y1="{py:.1f}" x2="{CHART_WIDTH - 10}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{LEFT_MARGIN - 5}" y="{py + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    parts.append(f'<text x="{(LEFT_MARGIN + CHART_WIDTH) / 2}" y="{CHART_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}'
                 f'</text><text transform="translate(11 {(CHART_HEIGHT - BOTTOM_MARGIN) / 2}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_label)}</text>')
    return "".join([*parts, *content, "</svg>"])


def lines(title, x_label, y_label, series, x_range=None, y_range=None):
    """A line chart.  series: {name: [(x, y), ...]}; the legend is for two or more."""
    points = [p for values in series.values() for p in values]
    x_range = x_range or (min(p[0] for p in points), max(p[0] for p in points))
    y_range = y_range or (0, max(p[1] for p in points))
    content = []
    for k, (name, values) in enumerate(series.items()):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y, x_range, y_range)) for x, y in values)
        content.append(f'<polyline class="line-{k}" points="{path}"/>')
        if len(series) > 1:
            y = CHART_HEIGHT - BOTTOM_MARGIN - 12 - 15 * (len(series) - 1 - k)
            content.append(f'<line class="line-{k}" x1="{CHART_WIDTH - 118}" y1="{y - 4}" x2="{CHART_WIDTH - 100}" '
                           f'y2="{y - 4}"/><text x="{CHART_WIDTH - 95}" y="{y}">{escape(name)}</text>')
    return frame(title, x_label, y_label, x_range, y_range, content)


def histogram(title, x_label, good, bad, mark=None, bins=20):
    """Good and defective scores in one histogram, a line at `mark`."""
    every = [*good, *bad, *([] if mark is None else [mark])]
    low, high = min(every), max(every)
    high = high if high > low else low + 1
    counts = [[0] * bins, [0] * bins]
    for column, values in zip(counts, (good, bad)):
        for value in values:
            column[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    x_range, y_range = (low, high), (0, max(map(max, counts)))
    content, step = [], (high - low) / bins
    for name, column, shift in (("good", counts[0], 0), ("bad", counts[1], 0.5)):
        for k, count in enumerate(column):
            if count:
                x, y = place(low + (k + shift) * step, count, x_range, y_range)
                width = (CHART_WIDTH - LEFT_MARGIN - 10) / bins / 2
                content.append(f'<rect class="bar-{name}" x="{x:.1f}" y="{y:.1f}" '
                               f'width="{width:.1f}" height="{CHART_HEIGHT - BOTTOM_MARGIN - y:.1f}"/>')
    if mark is not None:
        x, y = place(mark, y_range[1], x_range, y_range)
        side = ("end", -4) if x > CHART_WIDTH / 2 else ("start", 4)
        content.append(f'<line class="mark" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" '
                       f'y2="{CHART_HEIGHT - BOTTOM_MARGIN}"/><text x="{x + side[1]:.1f}" y="{TOP_MARGIN + 10}" '
                       f'text-anchor="{side[0]}">threshold</text>')
    return frame(title, x_label, "pictures", x_range, y_range, content)


def roc_points(scores, labels):
    """[(false-positive rate, true-positive rate)], one for every distinct score."""
    return [(fp / max(1, good), tp / max(1, bad)) for tp, fp, bad, good in _steps(scores, labels)]


def precision_recall_points(scores, labels):
    """[(recall, precision)], one for every distinct score."""
    return [(tp / max(1, bad), tp / (tp + fp) if tp + fp else 1.0)
            for tp, fp, bad, good in _steps(scores, labels)]


def _steps(scores, labels):
    """(TP, FP, defective, good) above every distinct score, from none to all."""
    pairs = sorted(zip(scores, labels), reverse=True)
    bad = sum(label for _, label in pairs)
    tp = fp = 0
    yield 0, 0, bad, len(pairs) - bad
    for k, (score, label) in enumerate(pairs):
        tp, fp = tp + label, fp + 1 - label
        if k + 1 == len(pairs) or pairs[k + 1][0] != score:
            yield tp, fp, bad, len(pairs) - bad


def demo():
    scores, labels = [0.9, 0.8, 0.7, 0.7, 0.3, 0.1], [1, 1, 0, 1, 0, 0]
    print("ROC:", " ".join(f"({x:.2f}, {y:.2f})" for x, y in roc_points(scores, labels)))
    print("PR: ", " ".join(f"({x:.2f}, {y:.2f})"
                           for x, y in precision_recall_points(scores, labels)))
    drawing = lines("ROC", "false-positive rate", "true-positive rate",
                    {"adapted": roc_points(scores, labels)}, (0, 1), (0, 1))
    print(f"as SVG: {len(drawing):,} characters, for example {drawing[-91:]}")
    bars = histogram("scores", "score", [0.1, 0.3, 0.7], [0.7, 0.8, 0.9], mark=0.75)
    print(f"a histogram: {bars.count('<rect')} bars and a threshold")


if __name__ == "__main__":
    demo()
