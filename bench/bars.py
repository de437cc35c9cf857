"""Stacked horizontal bars: the predicted parts of the memory, and a tick at the measured total.

A row without a prediction has its weights, and one grey bar for all the rest.
Left out: other charts (minilora/charts/plots.py).
"""
from collections.abc import Sequence
from typing import NamedTuple

from minilora.charts.drawing import AnyShape, Drawing, Label, Polyline, Rectangle
from minilora.charts.plots import LETTER, ticks

UNKNOWN = "measured, parts not known"
STYLES = {"weights": "line-2", "pool": "line-4", "gradients": "line-1", "optimiser": "line-5",
          "activations": "line-0", UNKNOWN: "grid"}
WIDTH, LEFT, RIGHT, TOP, BOTTOM, ROW = 900, 290, 64, 66, 44, 34         # pixels
NAME_SIZE, SMALL_SIZE, MB = 12.5, 11, 1e6


class Bar(NamedTuple):
    """One row.  parts: {part: bytes}, None if they are not known;  weights, total: bytes; total
    is measured, with the weights."""
    name: str
    note: str
    parts: dict[str, float] | None
    weights: float
    total: float


def known_parts(bar: Bar) -> dict[str, float]:
    """{part: bytes}, from left to right."""
    if bar.parts:
        return {part: bar.parts[part] for part in STYLES if part in bar.parts}
    return {"weights": bar.weights, UNKNOWN: bar.total - bar.weights}


def bars(rows: Sequence[Bar], title: str, axis: str) -> Drawing:
    """The chart, with the smallest total first.  axis: words below the numbers."""
    rows = sorted(rows, key=lambda bar: bar.total)
    most = max(max(sum(known_parts(bar).values()), bar.total) for bar in rows) / MB
    bottom = TOP + ROW * len(rows)
    shapes: list[AnyShape] = [Label(12, 24, title, size=15, bold=True), *legend(rows)]
    for value in ticks(0, most):
        x = x_of(value, most)
        shapes += [Polyline([(x, TOP - 4), (x, bottom)], "grid"),
                   Label(x, bottom + 15, f"{value:,.0f}", "middle")]
    shapes.append(Label((LEFT + WIDTH - RIGHT) / 2, bottom + 34, axis, "middle", NAME_SIZE))
    for number, bar in enumerate(rows):
        shapes += row_shapes(bar, TOP + ROW * number, most)
    words = "; ".join(f"{bar.name}: {bar.note}, {bar.total / MB:,.0f} MB" for bar in rows)
    return Drawing(title, f"{title}. {axis}. {words}", WIDTH, bottom + BOTTOM, shapes)


def x_of(value: float, most: float) -> float:
    """The x coordinate of a number of MB."""
    return LEFT + (WIDTH - LEFT - RIGHT) * value / most


def row_shapes(bar: Bar, y: float, most: float) -> list[AnyShape]:
    """Name, note, parts, tick and number of one row; y: its upper end."""
    shapes = [Label(LEFT - 10, y + 14, bar.name, "end", NAME_SIZE, bold=True),
              Label(LEFT - 10, y + 28, bar.note, "end", SMALL_SIZE)]
    value = 0.0
    for part, size in known_parts(bar).items():
        start, value = x_of(value, most), value + size / MB
        width = x_of(value, most) - start
        if width >= 0.5:                            # a thinner part cannot be seen
            shapes.append(Rectangle(start, y + 6, width, ROW - 12, STYLES[part]))
    x = x_of(bar.total / MB, most)
    for side in (x - 0.5, x + 0.5):                 # two lines beside each other: a thicker tick
        shapes.append(Polyline([(side, y + 2), (side, y + ROW - 2)], "mark", dashed=False))
    return [*shapes, Label(max(x, x_of(value, most)) + 7, y + ROW / 2 + 4,
                           f"{bar.total / MB:,.0f}", size=SMALL_SIZE)]


def legend(rows: Sequence[Bar]) -> list[AnyShape]:
    """A square for each part that occurs, and the tick."""
    shapes, x, y = [], 12.0, 48
    for part in (p for p in STYLES if any(p in known_parts(bar) for bar in rows)):
        shapes += [Rectangle(x, y - 10, 12, 12, STYLES[part]), Label(x + 17, y, part, size=12)]
        x += 34 + LETTER * len(part)
    return [*shapes, Polyline([(x + 5, y - 12), (x + 5, y + 4)], "mark", dashed=False),
            Label(x + 12, y, "and number: measured total", size=12)]
