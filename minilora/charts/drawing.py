"""A drawing as data: lines, rectangles, dots, texts and small pictures, each with a named style.

Claim: SVG is made for pages and PNG for slides and word processors, and neither format turns into
the other without a large library.  A list of five kinds of shapes is written as either in a few
lines (writers.py), so a chart is described once.

Lengths are in pixels, x to the right and y downwards from the upper left corner.
Left out: what is drawn (plots.py), transparency, curves.
"""
from typing import Any, NamedTuple

Point2 = tuple[float, float]                # (x, y)


class ShapeStyle(NamedTuple):
    """Colour on white, colour on dark pages, dashes (drawn, left out, ...), width of a line."""
    light: str
    dark: str
    dashes: tuple[float, ...] = ()
    width: float = 1


STYLES = {
    "text": ShapeStyle("#1c2024", "#e6e9ec"),
    "grid": ShapeStyle("#d5dbe1", "#3a424a"),
    "mark": ShapeStyle("#1c2024", "#e6e9ec", (4, 3)),            # a threshold
    "good": ShapeStyle("#2e7d32", "#6fcf75"),
    "bad": ShapeStyle("#c62828", "#ff8178"),
    "line-0": ShapeStyle("#0b62c4", "#6db3ff", (), 2),           # the series of a chart
    "line-1": ShapeStyle("#b3450b", "#ffa36b", (6, 3), 2),
    "line-2": ShapeStyle("#6d7681", "#98a2ad", (2, 3), 2),
    "line-3": ShapeStyle("#7b3fa0", "#c99be6", (9, 3, 2, 3), 2),
    "line-4": ShapeStyle("#0f7b6c", "#5fd0bf", (4, 2), 2),
    "line-5": ShapeStyle("#a3286a", "#f08dbd", (1, 2), 2),
}
SERIES_STYLES = [name for name in STYLES if name.startswith("line-")]


class Polyline(NamedTuple):
    """A line through points."""
    points: list[Point2]
    style: str = "line-0"
    dashed: bool = True                     # with the dashes of its style, if it has some


class Rectangle(NamedTuple):
    """A filled rectangle.  x, y: of its upper left corner."""
    x: float
    y: float
    width: float
    height: float
    style: str = "line-0"


class Dot(NamedTuple):
    """A filled circle."""
    x: float
    y: float
    style: str = "line-0"
    radius: float = 3


class Label(NamedTuple):
    """One line of text.  y: of its base line;  anchor: where x is, start, middle or end."""
    x: float
    y: float
    text: str
    anchor: str = "start"
    size: float = 11
    bold: bool = False
    rotated: bool = False                    # read from bottom to top


class Raster(NamedTuple):
    """A picture, enlarged to width x height.  pixels: PIL image;  smooth: blend its pixels."""
    x: float
    y: float
    width: float
    height: float
    pixels: Any
    smooth: bool = False


AnyShape = Polyline | Rectangle | Dot | Label | Raster


class Drawing(NamedTuple):
    """Shapes on an area of width x height pixels.  description: in words, for screen readers."""
    title: str
    description: str
    width: float
    height: float
    shapes: list[AnyShape]


def series_style(number: int) -> str:
    """The style of series `number` of a chart, from 0; after six series they repeat."""
    return SERIES_STYLES[number % len(SERIES_STYLES)]


def style_sheet(dark: bool = True) -> str:
    """CSS that gives each style its colour.  dark: also the colours of dark pages."""
    def rules(column):
        return " ".join(f"svg .{name} {{ color: {style[column]}; }}"
                        for name, style in STYLES.items())
    return rules(0) + (f"\n@media (prefers-color-scheme: dark) {{ {rules(1)} }}" if dark else "")


def moved(shape: AnyShape, dx: float, dy: float = 0) -> AnyShape:
    """The shape, dx pixels further right and dy further down."""
    if isinstance(shape, Polyline):
        return shape._replace(points=[(x + dx, y + dy) for x, y in shape.points])
    return shape._replace(x=shape.x + dx, y=shape.y + dy)


def side_by_side(title: str, drawings: list[Drawing]) -> Drawing:
    """Several drawings as one, in a row."""
    shapes, left = [], 0
    for drawing in drawings:
        shapes += [moved(shape, left) for shape in drawing.shapes]
        left += drawing.width
    return Drawing(title, "; ".join(drawing.description for drawing in drawings), left,
                   max(drawing.height for drawing in drawings), shapes)


def demo() -> None:
    """A drawing of three shapes, and the rule of one style."""
    drawing = Drawing("score", "one bar below a threshold", 90, 60, [
        Rectangle(10, 30, 20, 30, "good"), Polyline([(0, 20), (90, 20)], "mark"),
        Label(45, 15, "threshold", "middle")])
    for shape in drawing.shapes:
        print(shape)
    print(style_sheet().split("}")[0] + "}")


if __name__ == "__main__":
    demo()
