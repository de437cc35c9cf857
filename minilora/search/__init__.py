"""Search in pictures and videos: find the moments that match a text or an example picture.

Start with `query.py` (from a query to events), then `index.py` (features on disk) and `events.py`
(from a similarity curve to events).  `indexing.py` fills the index, `results.py` presents the
events, `run.py` is the command.  Optional: `faiss_index.py` (faster search), `ocr.py` (text in
pictures), `speech.py` (spoken results).
Not here: reading videos (data/frames.py), synthetic videos to try it on (scenes/belts.py).
"""
