"""Synthetic defects: pasted into good pictures, with a mask of every pixel that visibly changed.

Start with `pasting.py` (a picture in, a picture and its mask out) and `defects.py` (the nine
kinds); `shapes.py` says where a defect is, `textures.py` what it is made of, `sampling.py` draws
random numbers from a generator.
Not here: whole drawn pictures (scenes/), training on the defects (train.py).
"""
