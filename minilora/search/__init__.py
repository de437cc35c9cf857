"""Search in pictures and videos: find the moments that match a text or an example picture.

Start with `query.py` (from a query to events), then `index.py` (features on disk), `events.py`
(from a similarity curve to events) and `floor.py` (when the answer is "nothing found").
The others:

    index       indexing.py (add files), index_changes.py (several processes at once),
                index_file.py (index.json and its checks)
    command     run.py (python -m minilora.search), times.py (its times), outputs.py (its files),
                results.py (what they look like)
    floor       unrelated_texts.py (the texts that calibrate it)
    metrics     moment_metrics.py, events.py
    optional    faiss_index.py (faster search), ocr.py (text in pictures), speech.py (reads aloud)

Not here: reading videos (data/frames.py), synthetic videos to try it on (scenes/belts.py).
"""
