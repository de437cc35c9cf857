"""Charts: one description, and both formats show the same shapes at the same places."""
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor

from minilora.charts import colours, plots, writers
from minilora.charts.drawing import (STYLES, Dot, Drawing, Polyline, Raster, Rectangle, Label,
                                     side_by_side)

CURVES = {"ours": [(1, 90, 2), (4, 95, 1)], "text alone & more": [(1, 80), (4, 80)]}
DRAWINGS = {
    "line": plots.line_plot("AUROC <1>", "shots", "per cent", CURVES, markers=True),
    "bar": plots.bar_plot("AUROC", "per cent", {"ours": {"nut": (98, 1), "bolt": 90},
                                                "theirs": {"nut": 80}}),
    "histogram": plots.histogram_plot("scores", "score", {"good": [0.1, 0.3], "bad": [0.8]},
                                      ("good", "bad"), mark=0.5),
    "heat": plots.heat_plot("attention", np.eye(3), picture=Image.new("RGB", (30, 20))),
}


def elements(text, tag):
    """Elements of an SVG file with this tag."""
    return [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith(f"}}{tag}")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_an_svg_file_stands_alone_on_white_with_a_visible_title(name):
    drawing = DRAWINGS[name]
    text = writers.standalone_svg(drawing)
    root = ElementTree.fromstring(text)
    assert elements(text, "rect")[0].get("fill") == "#fff" and "var(" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert root.get("aria-label").startswith(drawing.title)
    assert drawing.title in [element.text for element in elements(text, "text")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_png_has_twice_the_pixels_and_is_not_empty(name):
    drawing = DRAWINGS[name]
    picture = writers.png_image(drawing)
    assert picture.size == (round(2 * drawing.width), round(2 * drawing.height))
    assert len(picture.getcolors(10**6)) > 20


def test_svg_and_png_show_each_shape_at_the_same_place():
    drawing = Drawing("t", "d", 60, 40, [
        Rectangle(10, 10, 20, 20, "good"), Dot(45, 10, "bad"), Polyline([(0, 35), (60, 35)]),
        Raster(35, 18, 10, 10, Image.new("RGB", (1, 1), (250, 0, 250)))])
    picture = writers.png_image(drawing)
    at = lambda x, y: picture.getpixel((2 * x, 2 * y))
    assert at(20, 20) == ImageColor.getrgb(STYLES["good"].light) == at(11, 28)
    assert at(45, 10) == ImageColor.getrgb(STYLES["bad"].light)
    assert at(40, 22) == (250, 0, 250) and at(2, 2) == at(55, 25) == (255, 255, 255)
    assert at(30, 35) == ImageColor.getrgb(STYLES["line-0"].light), "the line, two pixels wide"
    text = writers.standalone_svg(drawing)
    rectangle = elements(text, "rect")[1]
    assert [float(rectangle.get(key)) for key in ("x", "y", "width", "height")] == [10, 10, 20, 20]
    assert elements(text, "circle")[0].get("cx") == "45.0"


def test_an_error_bar_goes_from_mean_minus_to_mean_plus_deviation():
    stem, low, high = plots.error_bar(100, 90, 5, (80, 100), "line-0")
    place = lambda value: plots.to_drawing(0, value, (0, 1), (80, 100))[1]
    assert stem.points == [(100, place(85)), (100, place(95))]
    assert low.points[0][1] == place(85) and high.points[0][1] == place(95)
    drawn = DRAWINGS["line"].shapes
    assert sum(isinstance(s, Polyline) and not s.dashed for s in drawn) == 2 * 3, "two points"


def test_bars_are_as_high_as_their_values_and_a_missing_one_leaves_a_gap():
    drawing = plots.bar_plot("t", "y", {"a": {"x": 10, "y": 5}, "b": {"x": 20}}, (0, 20))
    bars = [s for s in drawing.shapes if isinstance(s, Rectangle) and s.y < plots.CHART_HEIGHT]
    whole = plots.PLOT_BOTTOM - plots.TOP_MARGIN
    assert [bar.height / whole for bar in bars] == pytest.approx([0.5, 1, 0.25])


@pytest.mark.parametrize("name", ["line", "bar", "histogram"])
def test_two_series_get_a_legend_below_the_chart(name):
    drawing = DRAWINGS[name]
    words = [s for s in drawing.shapes if isinstance(s, Label) and s.y > plots.CHART_HEIGHT]
    assert len(words) == 2 and all(s.y < drawing.height for s in words)


def test_dashes_cover_the_line_in_turns():
    parts = writers.dashes_of([(0, 0), (6, 0), (6, 8)], (4, 3))
    drawn = sum(math.dist(a, b) for part in parts for a, b in zip(part, part[1:]))
    assert drawn == pytest.approx(4 + 4) and parts[1][0] == (6, 1)
    assert writers.dashes_of([(0, 0), (1, 0)], ()) == [[(0, 0), (1, 0)]]


def test_charts_side_by_side_do_not_overlap():
    both = side_by_side("two", [DRAWINGS["line"], DRAWINGS["bar"]])
    assert both.width == 2 * plots.CHART_WIDTH and both.height == DRAWINGS["line"].height
    moved = both.shapes[len(DRAWINGS["line"].shapes):]
    assert min(s.points[0][0] if isinstance(s, Polyline) else s.x for s in moved) \
        >= plots.CHART_WIDTH


@pytest.mark.parametrize("ending", [".svg", ".png", ".SVG"])
def test_the_ending_decides_the_format_of_a_file(ending, tmp_path):
    path = tmp_path / f"chart{ending}"
    writers.write_drawing(path, DRAWINGS["line"])
    assert path.read_bytes()[:4] == (b"\x89PNG" if ending == ".png" else b"<svg")


def test_another_ending_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"chart.pdf: .*\.svg or \.png, found the ending '.pdf'"):
        writers.write_drawing(tmp_path / "chart.pdf", DRAWINGS["line"])
    assert not list(tmp_path.iterdir())


def test_heat_colours_grow_brighter_from_the_lowest_to_the_highest_value():
    found = colours.heat_colours(np.linspace(-0.1, 1.1, 50)[None])[0]
    brightness = found @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) >= 0).all() and tuple(found[0]) == colours.HEAT_STOPS[0]
    assert tuple(found[-1]) == colours.HEAT_STOPS[-1]


def test_letters_that_the_font_lacks_are_written_plainly():
    assert writers.plain_letters("café – ‖x‖ ± 1 …") == "cafe - |x| ± 1 ..."
