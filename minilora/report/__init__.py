"""Results of a run in a form that people read: tables, anomaly maps, curves, pages.

Start with `results.py` (numbers) and `panels.py` (a picture, its mask and its map); `run_page.py`
writes the page of a run, `run_pictures.py` its parts with pictures, out of the HTML parts of
`html.py` and the style of `style.py`.  `nearest_patch.py` finds the good
patch nearest to the worst one; `overlays.py` outlines the suspicious region in a picture;
`contours.py` turns masks into boxes and polygons; `explain_parts.py` and `score_parts.py` are the
stages of the method for one picture.
Not here: the measures themselves (auroc.py, metrics/), how charts are drawn (charts/).
"""
