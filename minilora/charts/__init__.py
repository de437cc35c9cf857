"""Charts without a plotting library: one description, written as SVG or as PNG.

Start with `plots.py` (line chart, bars, histogram, heat map); each of its functions returns a
drawing, which is a list of lines, rectangles, dots, texts and pictures (`drawing.py`).
`writers.py` writes a drawing to a file or gives the SVG text for a page; `colours.py` has the
colours of heat maps.
Not here: which numbers a page shows (report/).
"""
