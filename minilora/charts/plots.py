"""The charts: lines with markers and error bars, bars, histogram, heat map.

Claim: a chart is a frame with round ticks, a visible title and labels, and a few shapes inside.
Each function returns a `Drawing`; `writers.write_drawing(path, drawing)` makes an SVG or PNG file
of it, `writers.inline_svg(drawing)` the text for a page.

    drawing = line_plot("AUROC", "shots", "per cent", {"ours": [(1, 90, 2), (4, 95, 1)]})
    write_drawing("auroc.svg", drawing)

`drawing.side_by_side` puts several charts into one drawing.
Left out: logarithmic axes.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from minilora.charts.colours import heat_colours
from minilora.charts.drawing import (AnyShape, Dot, Drawing, Polyline, Raster, Rectangle, Label,
                                     series_style)

CHART_WIDTH, CHART_HEIGHT = 360, 260                        # pixels; a legend makes it higher
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 46, 12, 30, 38
PLOT_RIGHT, PLOT_BOTTOM = CHART_WIDTH - RIGHT_MARGIN, CHART_HEIGHT - BOTTOM_MARGIN
LETTER, LEGEND_ROW = 6.2, 16                                # about the width of a letter; a row

Range = tuple[float, float]
BarValue = float | tuple[float, float]                        # a value, or (mean, deviation)


# ---- the frame ----------------------------------------------------------------------------------

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


def fitted_range(values: Iterable[float], margin: float = 0.05) -> Range:
    """(low, high) around the values, with a margin as a share of their spread."""
    values = list(values)
    low, high = min(values), max(values)
    room = margin * (high - low) or 0.5
    return low - room, high + room


def title_words(title: str) -> Label:
    """The title at the top of a chart, in smaller letters if it is long."""
    size = max(8, min(13, 13 * (CHART_WIDTH - 16) / (1.2 * LETTER * max(1, len(title)))))
    return Label(8, 17, title, "start", size, bold=True)


def y_axis(label: str, y_range: Range, whole: bool = False) -> list[AnyShape]:
    """Grid lines with numbers, and the label.  whole: whole numbers only, for counts."""
    shapes = [Label(13, (TOP_MARGIN + PLOT_BOTTOM) / 2, label, "middle", rotated=True)]
    for y in (y for y in ticks(*y_range) if not whole or abs(y - round(y)) < 1e-9):
        _, py = to_drawing(0, y, (0, 1), y_range)
        shapes += [Polyline([(LEFT_MARGIN, py), (PLOT_RIGHT, py)], "grid"),
                   Label(LEFT_MARGIN - 5, py + 4, f"{y:.4g}", "end")]
    return shapes


def x_axis(label: str, x_range: Range, at: Iterable[float] = ()) -> list[AnyShape]:
    """Numbers below the plot, and the label.  at: places of the numbers, () for round ones."""
    shapes, end = [Label((LEFT_MARGIN + PLOT_RIGHT) / 2, CHART_HEIGHT - 6, label, "middle")], 0.0
    for x in at or ticks(*x_range):
        (px, _), text = to_drawing(x, 0, x_range, (0, 1)), f"{x:.4g}"
        half = LETTER * len(text) / 2
        if px - half > end:                                 # no number over another one
            shapes.append(Label(px, PLOT_BOTTOM + 15, text, "middle"))
            end = px + half + 2
    return shapes


def legend(names: Sequence[str], styles: Sequence[str],
           lines: bool) -> tuple[list[AnyShape], float]:
    """(shapes below the chart, their height): a line or a square and a name for each series."""
    shapes, x, y = [], LEFT_MARGIN, CHART_HEIGHT + 10
    for name, style in zip(names, styles):
        width = 30 + LETTER * len(name)
        if x > LEFT_MARGIN and x + width > CHART_WIDTH:
            x, y = LEFT_MARGIN, y + LEGEND_ROW
        shapes += [Polyline([(x, y - 4), (x + 20, y - 4)], style) if lines
                   else Rectangle(x + 8, y - 9, 10, 10, style), Label(x + 24, y, name)]
        x += width + 8
    return shapes, y + 6 - CHART_HEIGHT


def chart(title: str, description: str, shapes: list[AnyShape], names: Sequence[str] = (),
          styles: Sequence[str] = (), lines: bool = True) -> Drawing:
    """A drawing with its title and, for two or more series, a legend."""
    below, height = legend(names, styles, lines) if len(names) > 1 else ([], 0)
    return Drawing(title, f"{title}: {description}", CHART_WIDTH, CHART_HEIGHT + height,
                   [title_words(title), *shapes, *below])


# ---- the charts ---------------------------------------------------------------------------------

def line_plot(title: str, x_label: str, y_label: str,
              series: Mapping[str, Sequence[tuple[float, ...]]], x_range: Range | None = None,
              y_range: Range | None = None, markers: bool = False,
              x_ticks: Iterable[float] = ()) -> Drawing:
    """A line chart.  series: {name: [(x, y), ...]}, or (x, y, deviation) for error bars y ± it.

    Without ranges the x axis fits the data, and the y axis goes from 0 to the largest value;
    `fitted_range(values)` gives a closer one.  markers: a dot at each point;  x_ticks: the numbers
    below the x axis, in ascending order, () for round ones.
    """
    points = [p for values in series.values() for p in values]
    x_range = x_range or (min(p[0] for p in points), max(p[0] for p in points))
    y_range = y_range or (0, max(p[1] + sum(p[2:3]) for p in points))
    shapes = [*x_axis(x_label, x_range, x_ticks), *y_axis(y_label, y_range)]
    for k, values in enumerate(series.values()):
        style = series_style(k)
        places = [to_drawing(p[0], p[1], x_range, y_range) for p in values]
        shapes.append(Polyline(places, style))
        for (x, y, *spread), (px, py) in zip(values, places):
            if spread:
                shapes += error_bar(px, y, spread[0], y_range, style)
            if markers:
                shapes.append(Dot(px, py, style))
    names = list(series)
    words = f"{y_label} over {x_label}" + (f", for {', '.join(names)}" if len(names) > 1 else "")
    return chart(title, words, shapes, names, [series_style(k) for k in range(len(names))])


def error_bar(px: float, mean: float, spread: float, y_range: Range,
              style: str) -> list[AnyShape]:
    """The interval mean ± spread at px, cut at the ends of the axis."""
    low, high = (to_drawing(0, min(max(value, y_range[0]), y_range[1]), (0, 1), y_range)[1]
                 for value in (mean - spread, mean + spread))
    return [Polyline([(px, low), (px, high)], style, False),
            *(Polyline([(px - 4, y), (px + 4, y)], style, False) for y in (low, high))]


def bar_plot(title: str, y_label: str, series: Mapping[str, Mapping[str, BarValue]],
             y_range: Range | None = None) -> Drawing:
    """Groups of bars.  series: {name: {group: value, or (mean, deviation)}}.

    The groups stand side by side in the order of the first series; a value may be missing.
    """
    groups = list(dict.fromkeys(group for values in series.values() for group in values))
    pairs = {(name, group): value if isinstance(value, tuple) else (value, 0.0)
             for name, values in series.items() for group, value in values.items()}
    y_range = y_range or (0, max(mean + spread for mean, spread in pairs.values()))
    step = (PLOT_RIGHT - LEFT_MARGIN) / len(groups)
    width = min(40, 0.8 * step / len(series))
    letters = max(1, int(step / LETTER))
    shapes = y_axis(y_label, y_range)
    for g, group in enumerate(groups):
        middle = LEFT_MARGIN + (g + 0.5) * step
        words = group if len(group) <= letters else f"{group[:letters - 1]}…"
        shapes.append(Label(middle, PLOT_BOTTOM + 15, words, "middle"))
        for k, name in enumerate(series):
            if (name, group) in pairs:
                mean, spread = pairs[name, group]
                x = middle + (k - len(series) / 2) * width
                _, top = to_drawing(0, min(mean, y_range[1]), (0, 1), y_range)
                shapes.append(Rectangle(x + 1, top, width - 2, max(0, PLOT_BOTTOM - top),
                                        series_style(k)))
                if spread:
                    shapes += error_bar(x + width / 2, mean, spread, y_range, "text")
    return chart(title, f"{y_label} of {', '.join(groups)}", shapes, list(series),
                 [series_style(k) for k in range(len(series))], lines=False)


def histogram_plot(title: str, x_label: str, series: Mapping[str, Sequence[float]],
                   styles: Sequence[str], mark: float | None = None, bins: int = 20) -> Drawing:
    """A histogram.  series: {name: values};  styles: of each, for example "good" and "bad";
    mark: a vertical line at the threshold."""
    every = [*(v for values in series.values() for v in values), *([] if mark is None else [mark])]
    low, high = min(every), max(every)
    high = high if high > low else low + 1
    counts = [[0] * bins for _ in series]
    for column, values in zip(counts, series.values()):
        for value in values:
            column[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    x_range, y_range = (low, high), (0, max(max(map(max, counts)), 1))
    shapes = [*x_axis(x_label, x_range), *y_axis("pictures", y_range, whole=True)]
    step = (high - low) / bins
    width = (PLOT_RIGHT - LEFT_MARGIN) / bins / len(counts)
    for number, (column, style) in enumerate(zip(counts, styles)):
        for k, count in enumerate(column):
            if count:
                x, y = to_drawing(low + k * step, count, x_range, y_range)
                shapes.append(Rectangle(x + number * width, y, width, PLOT_BOTTOM - y, style))
    if mark is not None:
        x, y = to_drawing(mark, y_range[1], x_range, y_range)
        anchor, offset = ("end", -4) if x > CHART_WIDTH / 2 else ("start", 4)
        shapes += [Polyline([(x, y), (x, PLOT_BOTTOM)], "mark"),
                   Label(x + offset, TOP_MARGIN + 10, f"threshold {mark:.3f}", anchor)]
    words = "; ".join(f"{name}: {len(values)} pictures" for name, values in series.items())
    return chart(title, words, shapes, list(series), styles, lines=False)


def heat_plot(title: str, values: Any, scale: Range | None = None, scale_label: str = "",
              picture: Image.Image | None = None) -> Drawing:
    """A heat map with a colour scale.  values: (rows, columns), for example a NumPy array.

    scale: values of the darkest and the lightest colour, without it the lowest and the highest;
    picture: shown beside the map.
    """
    values = np.asarray(values, float)
    low, high = scale or (float(values.min()), float(values.max()))
    colours = heat_colours((values - low) / ((high - low) or 1))
    sides = [values.shape[1] / values.shape[0],
             *([picture.width / picture.height] if picture else [])]
    height = min(220, (CHART_WIDTH - 84) / sum(sides))      # of the map and of the picture
    shapes, x = [], 12.0
    if picture:
        shapes.append(Raster(x, TOP_MARGIN, height * sides[1], height, picture, smooth=True))
        x += height * sides[1] + 8
    shapes.append(Raster(x, TOP_MARGIN, height * sides[0], height, Image.fromarray(colours)))
    x += height * sides[0] + 10
    column = Image.fromarray(heat_colours(np.linspace(1, 0, 64)[:, None]))
    shapes += [Raster(x, TOP_MARGIN, 10, height, column, smooth=True),
               Label(x, TOP_MARGIN + height + 16, scale_label, "end")]
    shapes += [Label(x + 14, TOP_MARGIN + height * (1 - share) + (10 if share else 0),
                     f"{low + share * (high - low):.3g}") for share in (0, 1)]
    words = f"{values.shape[0]} x {values.shape[1]} values from {values.min():.3g} to " \
            f"{values.max():.3g}"
    return Drawing(title, f"{title}: {words}", CHART_WIDTH, TOP_MARGIN + height + 24,
                   [title_words(title), *shapes])


def demo() -> None:
    """The size of each chart, and its description."""
    values = {"ours": [(1, 90, 2), (2, 93, 1.5), (4, 95, 1)], "text alone": [(1, 80), (4, 80)]}
    for drawing in (line_plot("AUROC over shots", "shots", "per cent", values, markers=True),
                    bar_plot("AUROC", "per cent", {"ours": {"bottle": (98, 1), "cookie": 90}}),
                    histogram_plot("scores", "score", {"good": [0.1, 0.3], "defective": [0.8]},
                                   ("good", "bad"), mark=0.5),
                    heat_plot("attention", [[0.1, 0.2], [0.3, 0.4]])):
        print(f"{drawing.width} x {drawing.height:.0f}, {len(drawing.shapes)} shapes;",
              drawing.description)


if __name__ == "__main__":
    demo()
