"""Stacked horizontal bars: the predicted parts of the memory, and a tick at the measured total.

Left out: other charts (shots.py draws curves).
"""
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from minilora.charts.plots import ticks

COLOURS = {"weights": "#9aa5b1", "pool": "#7a4fb5", "gradients": "#b3450b", "optimiser": "#e0a030",
           "activations": "#0b62c4"}
ROW, LEFT, RIGHT, TOP, BOTTOM, WIDTH = 40, 400, 130, 150, 80, 1400
MARK, MB = "#111111", 1e6


def bars(rows: list[tuple], title: str) -> Image.Image:
    """The chart.  rows: [(label, {part: bytes}, measured total in bytes or None)]."""
    height = TOP + ROW * len(rows) + BOTTOM
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(22), ImageFont.load_default(18)
    most = max(max(sum(parts.values()), measured or 0) for _, parts, measured in rows) / MB
    x_of = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * value / most
    for value in ticks(0, most):
        x = x_of(value)
        draw.line((x, TOP - 8, x, height - BOTTOM), "#d5dbe1")
        draw.text((x, height - BOTTOM + 10), f"{value:,.0f}", "black", small, anchor="ma")
    for number, (label, parts, measured) in enumerate(rows):
        y = TOP + ROW * number
        draw.text((LEFT - 14, y + ROW / 2 - 3), label, "black", font, anchor="rm")
        end = stacked(draw, parts, x_of, y)
        if measured is not None:
            x = x_of(measured / MB)
            draw.line((x, y - 2, x, y + ROW - 6), MARK, 4)
            draw.text((max(end, x) + 12, y + ROW / 2 - 3), f"{measured / MB:,.0f}", MARK, small,
                      anchor="lm")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, height - 14), "MB", "black", font, anchor="ms")
    draw.text((20, 20), title, "black", font)
    legend(draw, font)
    return image


def stacked(draw: ImageDraw.ImageDraw, parts: dict[str, int], x_of: Callable[[float], float],
            y: float) -> float:
    """Draws one bar from left to right.  Returns the x coordinate of its right end."""
    value = 0
    for part, size in parts.items():
        start, value = value, value + size / MB
        if x_of(value) - x_of(start) >= 1:              # a part thinner than a pixel is not drawn
            draw.rectangle((x_of(start), y + 4, x_of(value), y + ROW - 12), COLOURS[part])
    return x_of(value)


def legend(draw: ImageDraw.ImageDraw, font) -> None:
    """A square for each part, and the tick."""
    x, y = 20, 84
    for part, colour in COLOURS.items():
        draw.rectangle((x, y, x + 22, y + 22), colour)
        draw.text((x + 32, y + 11), part, "black", font, anchor="lm")
        x += 60 + draw.textlength(part, font)
    draw.line((x + 4, y - 2, x + 4, y + 24), MARK, 4)
    draw.text((x + 18, y + 11), "measured total (number at the right)", "black", font, anchor="lm")
