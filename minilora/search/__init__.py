"""Search in pictures and videos: find the moments that match a text or an example picture.

Start with `query.py` (from a query to events), then `index.py` (features on disk) and `events.py`
(from a similarity curve to events).  The others:

    index       indexing.py (add files), index_changes.py (several processes at once),
                index_file.py (index.json and its checks)
    command     run.py (python -m minilora.search), results.py (presents the events)
    optional    faiss_index.py (faster search), ocr.py (text in pictures), speech.py (reads aloud)

Not here: reading videos (data/frames.py), synthetic videos to try it on (scenes/belts.py).
"""
