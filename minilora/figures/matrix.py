"""A table of numbers with a colour for each: rows and columns with names.

Left out: heat maps without names (charts/plots.py).
"""
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from minilora.charts.colours import heat_colours
from minilora.charts.drawing import Drawing, Raster, Label
from minilora.charts.plots import LETTER, title_words

CELL_WIDTH, CELL_HEIGHT, MATRIX_TOP = 46, 24, 42        # pixels; below MATRIX_TOP the names begin


def matrix_plot(title: str, description: str, rows: Sequence[str], columns: Sequence[str],
                values: Tensor, form: str = ".2f",
                pictures: Sequence[Image.Image] = ()) -> Drawing:
    """values: (rows, columns);  form: of the numbers;  pictures: one before each row."""
    numbers = values.numpy().astype(float)
    low, high = numbers.min(), numbers.max()
    # From the bright half of the colours, on which dark numbers can be read
    colours = heat_colours(0.5 + 0.5 * (numbers - low) / ((high - low) or 1))
    height = 3 * CELL_HEIGHT if pictures else CELL_HEIGHT
    left = 24 + LETTER * max(map(len, rows)) + (height if pictures else 0)
    top = MATRIX_TOP + LETTER * max(map(len, columns))
    shapes = [title_words(title),
              Raster(left, top, CELL_WIDTH * len(columns), height * len(rows),
                     Image.fromarray(colours))]
    shapes += [Label(left + (k + 0.5) * CELL_WIDTH + 4, top - 6, name, rotated=True)
               for k, name in enumerate(columns)]
    for n, name in enumerate(rows):
        middle = top + (n + 0.5) * height
        shapes.append(Label(left - 8, middle + 4, name, "end"))
        if pictures:
            shapes.append(Raster(8, middle - 0.46 * height, 0.92 * height, 0.92 * height,
                                 pictures[n], smooth=True))
        shapes += [Label(left + (k + 0.5) * CELL_WIDTH, middle + 4, format(value, form), "middle",
                         size=10) for k, value in enumerate(numbers[n])]
    return Drawing(title, f"{title}: {description}",
                   max(360, left + CELL_WIDTH * len(columns) + 12), top + height * len(rows) + 12,
                   shapes)


def demo() -> None:
    """A table of two words."""
    values = Tensor([[1.0, 0.2], [0.2, 1.0]])
    drawing = matrix_plot("two words", "their cosines", ["low", "lower"], ["low", "lower"], values)
    print(f"{drawing.width:.0f} x {drawing.height:.0f}, {len(drawing.shapes)} shapes;",
          drawing.description)
    print("the colours:", np.asarray(drawing.shapes[1].pixels).tolist())


if __name__ == "__main__":
    demo()
