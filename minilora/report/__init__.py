"""Results of a run in a form that people read: tables, anomaly maps, curves, pages.

Start with `results.py` (numbers and panels); `run_page.py` writes the page of a run with the HTML
parts of `html.py` and the charts of `svg.py`; `overlays.py` outlines the suspicious region in a
picture; `contours.py` turns masks into boxes and polygons.
Not here: the measures themselves (auroc.py, metrics/).
"""
