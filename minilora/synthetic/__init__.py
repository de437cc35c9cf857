"""Synthetic defects: pasted into good pictures, with a mask of every changed pixel.

Start with `defects.py` (the kinds); `shapes.py` says where a defect is, `textures.py` what it is
made of, `sampling.py` draws random numbers from a generator.
Not here: whole drawn pictures (scenes/), what is learned from the defects (train.py).
"""
