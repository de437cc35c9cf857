"""Search in pictures and videos: find the moments that match a text or an example picture.

Start with `query.py` (from a query to events), then `index.py` (features on disk) and `events.py`
(from a similarity curve to events).  `indexing.py` fills the index, `results.py` presents what was
found, `run.py` is the command.
Not here: reading videos (data/frames.py), synthetic videos to try it on (scenes/belts.py).
"""
