"""Finding moments in pictures and videos by words, or by a picture that is like them.

Start with `query.py` (the command), then `index.py` (features on disk) and `events.py` (from a
curve to events); `indexing.py` fills the index, `results.py` shows what was found.
Not here: reading videos (data/frames.py), the drawn videos to try it on (scenes/belts.py).
"""
