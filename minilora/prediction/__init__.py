"""Scoring new pictures with a fitted detector: what `predict` and `serve` share.

Start with `picture.py` (one picture: score, decision, overlay, line, CSV row); `inputs.py` opens a
detector that has a threshold and reads pictures ahead; `thresholds.py` says what another threshold
would do; `page.py` writes predictions.html, `good_page.py` the page of a fit without test pictures.
`watch.py` scores new pictures in a folder: `new_files.py` tells which are new and complete,
`watch_log.py` keeps one row for each.
Not here: the command (predict.py), the method (detector.py), the parts of a page (report/).
"""
