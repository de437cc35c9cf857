"""What a run leaves for people to read: tables, maps, curves, pages.

Start with `results.py` (numbers and panels); `html.py` writes the page, `svg.py` its charts,
`contours.py` turns masks into boxes and polygons.
Not here: the measures themselves (auroc.py, metrics/).
"""
