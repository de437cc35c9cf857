"""Write a drawing: as SVG inside a page, as an SVG file, or as PNG.

    inline_svg        text for a page; the page's style sheet gives the colours, light or dark
    standalone_svg    text of a file with its own style and a white background
    png_image         a PIL picture, for word processors and slides
    write_drawing     a file; its name's ending decides: .svg or .png

Claim: a shape is one SVG element, and one or two calls of Pillow.  Pillow's lines have no dashes
and rough edges: so dashes are cut here, and the picture is drawn larger and then reduced.

Left out: PDF; letters that Pillow's own font lacks (in PNG: no accents, no Greek).
"""
import base64
import io
import math
import unicodedata
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from minilora.charts.drawing import (STYLES, AnyShape, Dot, Drawing, Point2, Polyline, Raster,
                                     Rectangle, Label, style_sheet)
from minilora.io.files import atomic_write
from minilora.io.text import shown, utf8_text

OVERSAMPLING = 2                            # PNG: times larger, then reduced
DRAWING_ENDINGS = (".svg", ".png")


# ---- SVG ----------------------------------------------------------------------------------------

def inline_svg(drawing: Drawing) -> str:
    """An <svg> element for a page that has `style_sheet` of drawing.py."""
    words = escape(drawing.description)
    return (f'<svg viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img" '
            f'aria-label="{words}">' + "".join(map(svg_element, drawing.shapes)) + "</svg>")


def standalone_svg(drawing: Drawing) -> str:
    """The text of an SVG file: it has its own style and a white background."""
    size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
    inside = (f"<title>{escape(drawing.title)}</title><desc>{escape(drawing.description)}</desc>"
              f"<style>{style_sheet(dark=False)}\n"
              "text { font-family: system-ui, sans-serif; }</style>"
              f'<rect {size} fill="#fff"/>')
    start, rest = inline_svg(drawing).split(">", 1)
    return utf8_text(f"{start.replace('<svg ', head, 1)}>{inside}{rest}\n")


def svg_element(shape: AnyShape) -> str:
    """One shape as an SVG element; `currentColor` is the colour of its style."""
    if isinstance(shape, Polyline):
        style = STYLES[shape.style]
        dashes = " ".join(f"{length:g}" for length in style.dashes) if shape.dashed else ""
        dashes = f' stroke-dasharray="{dashes}"' if dashes else ""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        return (f'<polyline class="{shape.style}" fill="none" stroke="currentColor" '
                f'stroke-width="{style.width:g}"{dashes} points="{points}"/>')
    if isinstance(shape, Rectangle):
        return (f'<rect class="{shape.style}" fill="currentColor" x="{shape.x:.1f}" '
                f'y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"/>')
    if isinstance(shape, Dot):
        return (f'<circle class="{shape.style}" fill="currentColor" cx="{shape.x:.1f}" '
                f'cy="{shape.y:.1f}" r="{shape.radius:g}"/>')
    if isinstance(shape, Raster):
        data = io.BytesIO()
        shape.pixels.save(data, "PNG")
        code = base64.b64encode(data.getvalue()).decode()
        blend = "" if shape.smooth else ' style="image-rendering: pixelated"'
        return (f'<image x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
                f'height="{shape.height:.1f}" preserveAspectRatio="none"{blend} '
                f'href="data:image/png;base64,{code}"/>')
    place = (f'transform="translate({shape.x:.1f} {shape.y:.1f}) rotate(-90)"' if shape.rotated
             else f'x="{shape.x:.1f}" y="{shape.y:.1f}"')
    weight = ' font-weight="600"' if shape.bold else ""
    return (f'<text class="text" fill="currentColor" font-size="{shape.size:g}"{weight} '
            f'text-anchor="{shape.anchor}" {place}>{escape(shape.text)}</text>')


# ---- PNG ----------------------------------------------------------------------------------------

def png_image(drawing: Drawing, scale: float = 2) -> Image.Image:
    """The drawing as a picture with `scale` pixels for each of its own, on white."""
    factor = scale * OVERSAMPLING
    large = Image.new("RGB", [round(side * factor) for side in (drawing.width, drawing.height)],
                      "white")
    for shape in drawing.shapes:
        draw_shape(large, shape, factor)
    return large.resize([round(side * scale) for side in (drawing.width, drawing.height)],
                        Image.Resampling.BOX)


def draw_shape(image: Image.Image, shape: AnyShape, factor: float) -> None:
    """Draws one shape.  factor: pixels of the image for one of the drawing."""
    draw = ImageDraw.Draw(image)
    if isinstance(shape, Label):
        draw_words(image, shape, factor)
    elif isinstance(shape, Raster):
        size = [max(1, round(side * factor)) for side in (shape.width, shape.height)]
        kind = Image.Resampling.BICUBIC if shape.smooth else Image.Resampling.NEAREST
        image.paste(shape.pixels.convert("RGB").resize(size, kind),
                    (round(shape.x * factor), round(shape.y * factor)))
    elif isinstance(shape, Polyline):
        style = STYLES[shape.style]
        for part in dashes_of(shape.points, style.dashes if shape.dashed else ()):
            draw.line([(x * factor, y * factor) for x, y in part], style.light,
                      round(style.width * factor), "curve")
    else:
        left, top, right, bottom = (
            (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            if isinstance(shape, Rectangle) else
            (shape.x - shape.radius, shape.y - shape.radius, shape.x + shape.radius,
             shape.y + shape.radius))
        box = [side * factor for side in (left, top, max(left, right - 1 / factor),
                                          max(top, bottom - 1 / factor))]
        fill = draw.rectangle if isinstance(shape, Rectangle) else draw.ellipse
        fill(box, STYLES[shape.style].light)


def draw_words(image: Image.Image, words: Label, factor: float) -> None:
    """Draws a text; a rotated one is drawn on a picture of its own."""
    font = ImageFont.load_default(words.size * factor)
    text, ink = plain_letters(words.text), STYLES["text"].light
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
    bold = round(words.size * factor / 45) if words.bold else 0
    if not words.rotated:
        ImageDraw.Draw(image).text((words.x * factor, words.y * factor), text, ink, font, anchor,
                                   stroke_width=bold)
        return
    length, height = math.ceil(font.getlength(text)) + 2, math.ceil(1.5 * words.size * factor)
    strip = Image.new("L", (length, height))
    ImageDraw.Draw(strip).text((1, 0.75 * height), text, 255, font, "ls")
    strip = strip.rotate(90, expand=True)
    shift = {"start": length, "middle": length / 2, "end": 0}[words.anchor]
    image.paste(ink, (round(words.x * factor - 0.75 * height), round(words.y * factor - shift)),
                strip)


def plain_letters(text: str) -> str:
    """The text with the letters that Pillow's own font has: ASCII, without accents."""
    text = text.translate({ord("–"): "-", ord("−"): "-", ord("‖"): "|", ord("…"): "..."})
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() or c == "±" else "?" for c in plain)


def dashes_of(points: list[Point2], dashes: tuple[float, ...]) -> list[list[Point2]]:
    """The parts of a line that are drawn.  dashes: drawn, left out, ... in pixels; () for all."""
    if not dashes:
        return [points]
    parts, drawn, number, left = [], True, 0, dashes[0]
    current = [points[0]]
    for start, end in zip(points, points[1:]):
        length, done = math.dist(start, end), 0.0
        while length - done > left:                         # a dash or a gap ends in this piece
            done += left
            share = done / length
            place = tuple(a + share * (b - a) for a, b in zip(start, end))
            if drawn:
                parts.append([*current, place])
            drawn, number, current = not drawn, number + 1, [place]
            left = dashes[number % len(dashes)]
        left -= length - done
        current.append(end)
    return parts + [current] * (drawn and len(current) > 1)


# ---- files --------------------------------------------------------------------------------------

def drawing_bytes(path: str | Path, drawing: Drawing) -> bytes:
    """The content of an SVG or PNG file with this name.  Raises ValueError for another ending."""
    check_drawing_path(path)
    if Path(path).suffix.lower() == ".svg":
        return standalone_svg(drawing).encode()
    file = io.BytesIO()
    png_image(drawing).save(file, "PNG")
    return file.getvalue()


def check_drawing_path(path: str | Path) -> None:
    """Raises ValueError unless the name of a file ends in .svg or .png."""
    if Path(path).suffix.lower() not in DRAWING_ENDINGS:
        raise ValueError(f"{shown(path)}: expected the name of a file that ends in "
                         f"{' or '.join(DRAWING_ENDINGS)}, found the ending '"
                         f"{shown(Path(path).suffix)}'")


def write_drawing(path: str | Path, drawing: Drawing) -> None:
    """Writes an SVG or PNG file.  Raises ValueError for another ending."""
    content = drawing_bytes(path, drawing)
    with atomic_write(path) as file:
        file.write(content)


def demo() -> None:
    """One drawing in both formats."""
    drawing = Drawing("a bar", "a bar below a dashed line", 120, 80, [
        Rectangle(20, 40, 30, 40, "good"), Polyline([(0, 30), (120, 30)], "mark"),
        Label(60, 20, "threshold ± 0.1", "middle")])
    print(svg_element(drawing.shapes[0]))
    print(f"as a file: {len(standalone_svg(drawing)):,} characters")
    picture = png_image(drawing)
    print(f"as PNG: {picture.width} x {picture.height} pixels, "
          f"the bar has the colour {picture.getpixel((60, 120))}")
    print("dashes of 4 and gaps of 3 in a line of 10:", dashes_of([(0, 0), (10, 0)], (4, 3)))


if __name__ == "__main__":
    demo()
